"""The server that lets policies be talked to: in this process over a microscopic model, and as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
import torch

from training import engine, tokenizer
from training.chat import Growing, Served
from training.serve import Server

ROOT = Path(__file__).parent.parent.parent
SAID = [{"role": "user", "content": "What do cats eat?"}]


@pytest.fixture
def server(policy, words):
    """A client of a server with that policy under two names; the first leaves 12 tokens for a reply."""
    with Server("127.0.0.1", 0, "the-token") as server:
        server.add(Served("ppo-0002", policy, words, 12))
        server.add(Served("ppo-0001", policy, words, 5))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        headers = {"Authorization": "Bearer the-token"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False) as client:
            yield client
        server.shutdown()
        thread.join()


def ask(client, **body):
    return client.post("/chat/completions", json={"model": "ppo-0002", "messages": SAID, **body})


def events(client, **body) -> list[dict]:
    lines = ask(client, stream=True, **body).text.splitlines()
    told = [line.removeprefix("data: ") for line in lines if line]
    assert told[-1] == "[DONE]"
    return [json.loads(line) for line in told[:-1]]


def test_the_models_are_listed(server):
    assert [model["id"] for model in server.get("/models").json()["data"]] == ["ppo-0002", "ppo-0001"]


def test_a_greedy_reply_is_what_the_engine_writes(server, policy, words):
    prompt = tokenizer.prompt_ids(words, [tokenizer.Message("user", "What do cats eat?")])
    samples = engine.sample(
        policy,
        [prompt],
        max_new_tokens=12,
        temperature=0,
        eos_id=words.eos_token_id,
        pad_id=words.pad_token_id,
        generator=torch.Generator(),
        batch_size=1,
    )

    answer = ask(server, temperature=0).json()

    [ids], [ended] = samples.response_ids, samples.ended
    assert answer["choices"][0]["message"]["content"] == tokenizer.response_text(words, ids)
    assert answer["choices"][0]["finish_reason"] == ("stop" if ended else "length")
    assert answer["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(ids),
        "total_tokens": len(prompt) + len(ids),
    }


def test_the_pieces_of_a_streamed_reply_join_to_the_whole_one(server):
    asked = {"seed": 7, "n": 2, "temperature": 1.3, "max_tokens": 40}
    whole = [choice["message"]["content"] for choice in ask(server, **asked).json()["choices"]]

    told = [choice for event in events(server, **asked) for choice in event["choices"]]

    joined = ["".join(c["delta"].get("content", "") for c in told if c["index"] == i) for i in range(2)]
    assert joined == whole
    assert len([c for c in told if c["delta"].get("content")]) > 4  # it came in pieces
    assert [c["finish_reason"] for c in told if c["finish_reason"]] == ["length", "length"]


def test_two_who_ask_at_once_get_what_each_would_get_alone(server):
    alone = [ask(server, seed=seed, max_tokens=30).json()["choices"] for seed in (1, 2)]
    together: dict[int, list] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: together.update({seed: ask(server, seed=seed, max_tokens=30).json()}))
        for seed in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [together[seed]["choices"] for seed in (1, 2)] == alone


def test_a_reply_grows_by_whole_characters_and_never_takes_back_a_blank(words):
    text = "  naïve 🐈 cat  "
    ids = tokenizer.response_ids(words, text)[:-1]
    growing = Growing(words)

    pieces = [growing.more(ids[:count]) for count in range(1, len(ids) + 1)]
    pieces.append(growing.last(ids))

    assert "".join(pieces) == "naïve 🐈 cat"
    assert not any("\ufffd" in piece for piece in pieces)
    assert sum(bool(piece) for piece in pieces) > 4


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"messages": []}, "messages must be a list"),
        ({"messages": [{"role": "pirate", "content": "x"}]}, "messages[0] must have a role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0]"),
        ({"n": 0}, "n must be a whole number from 1 to 9"),
        ({"temperature": -1}, "temperature must be"),
        ({"temperature": True}, "temperature must be"),
        ({"max_tokens": "many"}, "max_tokens must be"),
        ({"top_p": 0.5}, "top_p is not supported"),
        ({"messages": [{"role": "user", "content": "cat " * 200}]}, "Begin a new conversation"),
    ],
)
def test_a_body_at_fault_is_refused_in_words(server, body, complaint):
    answer = ask(server, **body)

    assert answer.status_code == 400
    assert complaint in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_or_address_a_wrong_token_and_no_json_are_refused(server):
    assert ask(server, model="ppo-0009").status_code == 404
    assert ask(server, model="ppo-0009").json()["error"]["code"] == "model_not_found"
    assert server.get("/secrets").status_code == 404
    assert server.post("/chat/completions", content=b"{").status_code == 400
    for headers in ({"Authorization": "Bearer wrong"}, {"Authorization": ""}):
        answer = server.get("/models", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.slow
def test_the_process_says_where_it_is_answers_and_ends_when_its_standard_input_closes(workspace, saved_policy):
    command = [sys.executable, "-m", "training", "serve", "--checkpoint", "pretrain-0001", "--workspace"]
    process = subprocess.Popen(
        [*command, str(workspace.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PAWL_SERVE_TOKEN": "the-token"},
    )
    with process:
        said = json.loads(process.stdout.readline())
        headers = {"Authorization": "Bearer the-token"}
        listed = httpx.get(said["url"] + "/models", headers=headers, trust_env=False)
        process.stdin.close()
        code = process.wait(20)

    assert said["models"] == ["pretrain-0001"] and "token" not in said
    assert listed.json()["data"][0]["id"] == "pretrain-0001"
    assert code == 0
