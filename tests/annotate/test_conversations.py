"""The routes of conversations, answered by a real server that speaks OpenAI's protocol."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has

_keys = count()


@pytest.fixture
def parrot(openai_servers):
    with openai_servers() as server:
        yield server


@pytest.fixture
def world(parrot, world_where):
    with world_where(url=parrot.url) as world:
        yield world


def begin(world, role="labeler") -> str:
    return world.call("POST", "/conversations", role, json={"key": f"key-{next(_keys)}"}).json()["conversation_id"]


def say(world, id: str, text: str, key: str = "", replies: int = 2) -> list[tuple[str, dict]]:
    """The events of the answer."""
    body = {"key": key or f"key-{next(_keys)}", "text": text, "replies": replies}
    answer = world.call("POST", f"/conversations/{id}/turns", "labeler", json=body)
    assert answer.status_code == 200, answer.text
    blocks = [block.split("\n") for block in answer.text.split("\n\n") if block.startswith("event: ")]
    return [(event.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for event, data in blocks]


def rank(world, turn: dict, *ranks: int) -> None:
    """Rank the replies, in the order shown."""
    given = {reply["id"]: rank for reply, rank in zip(turn["responses"], ranks, strict=True)}
    body = {"lease": turn["lease"], "ranks": given}
    assert world.call("PUT", f"/tasks/{turn['task_id']}/label", "labeler", json=body).status_code == 200


def exported(world, kind: str) -> list[dict]:
    return [json.loads(line) for line in world.call("GET", f"/export/{kind}", "researcher").text.splitlines()]


def test_two_turns_are_had_ranked_marked_and_exported(world):
    id = begin(world)
    (*_, (event, first)) = say(world, id, "How do I pick a lock?")
    rank(world, first["open"], 2, 1)
    best = first["open"]["responses"][1]
    chosen = world.call("PUT", f"/conversations/{id}/continuation", "labeler", json={}).json()
    (*_, (_, second)) = say(world, id, "Thank you")
    rank(world, second["open"], 1, 1)
    world.call("PUT", f"/conversations/{id}/attack", "labeler", json={"success": 4})

    said = [("user", "How do I pick a lock?"), ("assistant", best["text"])]
    assert event == "turn"
    assert [(m["role"], m["content"]) for m in chosen["messages"]] == said
    row = {row["task_id"]: row for row in exported(world, "rankings")}[second["open"]["task_id"]]
    assert [(m["role"], m["content"]) for m in row["prompt"]] == [*said, ("user", "Thank you")]
    assert row["ranks"] == [1, 1]
    (conversation,) = exported(world, "conversations")
    assert (conversation["attack_success"], conversation["ended"]) == (4, False)
    assert [turn["chosen"] for turn in conversation["turns"]] == [best["id"], None]
    mine = world.call("GET", "/conversations", "labeler").json()
    assert mine["unavailable"] is None
    assert [(c["opening"], c["turns"], c["attack"]) for c in mine["conversations"]] == [("How do I pick a lock?", 2, 4)]


def test_replies_stream_to_where_they_will_stand_and_say_how_they_were_drawn(world, parrot):
    parrot.models = ["one", "two"]
    events = say(world, begin(world), "Hello there", replies=4)

    replies = events[-1][1]["open"]["responses"]
    joined = [
        "".join(data["text"] for event, data in events if event == "delta" and data["index"] == place)
        for place in range(4)
    ]
    assert joined == [reply["text"] for reply in replies]
    assert {*joined} == {f"{model} at {t}: Hello there" for model in ("one", "two") for t in (0.8, 1.0)}
    stored = world.store.responses([reply["id"] for reply in replies]).values()
    assert {(r.source, r.sampling["temperature"], r.sampling["ended"]) for r in stored} == {
        (model, t, True) for model in ("one", "two") for t in (0.8, 1.0)
    }
    assert all(asked["stream"] and asked["max_tokens"] == 512 for asked in parrot.asked)


def test_the_same_key_again_samples_nothing_while_it_is_answered_and_after(world, parrot):
    id = begin(world)
    parrot.may_answer.clear()
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(say, world, id, "Hello", "same") for _ in range(2)]
        while len(parrot.asked) < 2:
            pass
        assert world.call("GET", f"/conversations/{id}", "labeler").json()["speaking"]["text"] == "Hello"
        other = {"key": "other", "text": "Another thing"}
        assert world.call("POST", f"/conversations/{id}/turns", "labeler", json=other).status_code == 409
        parrot.may_answer.set()
        one, two = (future.result() for future in asked)

    assert one == two == [*one[:-1], ("turn", say(world, id, "Hello", "same")[-1][1])]
    assert len(parrot.asked) == 2  # one for each reply
    changed = {"key": "same", "text": "Something else"}
    assert world.call("POST", f"/conversations/{id}/turns", "labeler", json=changed).status_code == 409


def test_an_answer_that_breaks_off_is_told_and_leaves_nothing_behind(world, parrot):
    id = begin(world)
    parrot.breaks = True
    (event, problem) = say(world, id, "Hello", "key")[-1]
    parrot.breaks = False

    assert (event, problem["status"]) == ("problem", 502)
    assert "try again" in problem["detail"]
    assert world.call("GET", f"/conversations/{id}", "labeler").json()["turns"] == 0
    assert say(world, id, "Hello", "key")[-1][0] == "turn"


def test_a_turn_that_is_not_ranked_waits_and_belongs_to_nobody_else(world):
    id = begin(world)
    turn = say(world, id, "Hello")[-1][1]["open"]
    take = {"lease": turn["lease"], "ranks": {reply["id"]: 1 for reply in turn["responses"]}}

    assert world.call("POST", "/tasks/next", "labeler", json={"kind": "ranking"}).status_code == 204
    assert world.call("POST", "/tasks/next", "reviewer", json={"kind": "ranking"}).status_code == 204
    assert world.call("PUT", f"/tasks/{turn['task_id']}/label", "reviewer", json=take).status_code == 409
    assert world.call("GET", f"/conversations/{id}", "reviewer").status_code == 404
    early = world.call("POST", f"/conversations/{id}/turns", "labeler", json={"key": "k", "text": "More"})
    assert (early.status_code, early.json()["detail"][:15]) == (409, "The last replie")
    assert world.call("GET", f"/conversations/{id}", "labeler").json()["open"] == turn


def test_a_server_that_is_not_there_is_told_without_its_address(world_where):
    with world_where(url="http://127.0.0.1:9/v1") as world:
        (event, problem) = say(world, begin(world), "Hello")[-1]

    assert (event, problem["status"]) == ("problem", 502)
    assert "127.0.0.1" not in problem["detail"]


def test_without_a_promoted_model_the_page_and_the_speaker_are_told(world_where):
    with world_where() as world:
        id = begin(world)
        answer = world.call("POST", f"/conversations/{id}/turns", "labeler", json={"key": "k", "text": "Hello"})

        assert answer.status_code == 409
        assert "no model to talk to yet" in answer.json()["detail"]
        assert world.call("GET", "/conversations", "labeler").json()["unavailable"] == answer.json()["detail"]


def test_a_method_that_a_conversation_does_not_take_is_named(world):
    answer = world.call("DELETE", "/conversations", "labeler")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
