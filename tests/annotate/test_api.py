"""The rest of the HTTP API: health, tasks made elsewhere, exports, snapshots, what training hands in."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import snapshots
from data.records import Checkpoint, DemonstrationAnswer, RankingAnswer

ISO = datetime(2026, 11, 21, tzinfo=UTC).isoformat()


def rank_one(world, ranks=(1, 2, 2)) -> str:
    """One ranking of three responses by the labeler: response 0 is best, 1 and 2 tie. Its label id."""
    task_id = world.ranking_task(k=3)
    assignment = world.store.next_task("labeler", "ranking")
    by_text = sorted(assignment.responses, key=lambda response: response.text)
    answer = RankingAnswer({response.id: rank for response, rank in zip(by_text, ranks, strict=True)}, seconds=9.0)
    return world.store.submit_ranking("labeler", task_id, assignment.lease, answer, guideline="g").label_id


def checkpoint(**changes) -> dict:
    fields = {"id": "ppo-0001", "stage": "ppo", "parents": ["sft-0001", "reward-0001"], "snapshot": "a" * 16}
    return fields | {"metrics": {"kl": 2.5}, "state": "promoted", "reason": "better", "created_at": ISO} | changes


def test_health_is_open_and_names_the_promoted_model(world):
    before = world.call("GET", "/health")
    world.call("POST", "/checkpoints", "owner", json=checkpoint())
    after = world.call("GET", "/health")

    assert before.json() == {"status": "ok", "version": "0.1.0", "model": None}
    assert after.json()["model"] == "ppo-0001"


def test_an_unknown_route_and_an_unknown_method_are_problems(world):
    for method, path, status in (("GET", "/nothing", 404), ("DELETE", "/stats", 405), ("GET", "/tasks/next", 405)):
        answer = world.call(method, path, "admin")
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert answer.json()["status"] == status
    assert world.call("GET", "/tasks/next", "admin").headers["allow"] == "POST"


def test_identical_prompts_keep_their_id(world):
    body = [{"messages": [{"role": "user", "content": "Why?"}], "tags": ["short"], "split": "heldout"}]

    ids = [world.call("POST", "/prompts", "researcher", json=body).json()["ids"] for _ in range(2)]

    assert ids[0] == ids[1]
    [prompt] = world.store.prompts()
    assert (prompt.id, prompt.tags, prompt.split) == (ids[0][0], ("short",), "heldout")


@pytest.mark.parametrize(
    "prompt",
    [
        {"messages": []},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "user", "content": "a\u0000"}]},
        {"messages": [{"role": "user", "content": "x"}], "split": "test"},
        {"messages": [{"role": "user"}]},
        {"text": "x"},
    ],
)
def test_a_bad_prompt_is_refused_with_its_neighbours(world, prompt):
    good = {"messages": [{"role": "user", "content": "good"}]}

    answer = world.call("POST", "/prompts", "researcher", json=[good, prompt])

    assert answer.status_code == 422, answer.text
    assert world.store.prompts() == []


def test_responses_made_elsewhere_become_a_task(world):
    [prompt] = world.call(
        "POST", "/prompts", "researcher", json=[{"messages": [{"role": "user", "content": "Why?"}], "split": "train"}]
    ).json()["ids"]
    body = {
        "prompt_id": prompt,
        "responses": [{"text": "a", "source": "x"}, {"text": "b", "source": "y"}],
        "overlap": 2,
    }

    made = world.call("POST", "/tasks", "researcher", json=body).json()["task_id"]

    for role in ("labeler", "reviewer"):
        assert world.call("POST", "/tasks/next", role, json={"kind": "ranking"}).json()["task_id"] == made
    for wrong in ({"responses": body["responses"][:1]}, {"prompt_id": "p-none"}, {"overlap": 0}, {"overlap": True}):
        assert world.call("POST", "/tasks", "researcher", json=body | wrong).status_code in (404, 422)


def test_a_ranking_exports_in_every_format(world):
    label_id = rank_one(world)

    rows = {
        format: world.call("GET", "/export/rankings", "researcher", params={"format": format})
        for format in ("jsonl", "parquet", "csv", "trl", "trl-parquet", "arrow")
    }

    [row] = map(json.loads, rows["jsonl"].text.splitlines())
    wanted = "label_id revision task_id prompt_id prompt responses ranks labeler created_at seconds display_order split"
    assert set(wanted.split()) <= set(row)
    assert (row["label_id"], row["ranks"], row["seconds"], row["split"]) == (label_id, [1, 2, 2], 9.0, "train")
    assert row["labeler"] == world.store.user("labeler").pseudonym
    [parquet] = pq.read_table(io.BytesIO(rows["parquet"].content)).to_pylist()
    assert (parquet["label_id"], parquet["ranks"]) == (label_id, [1, 2, 2])
    assert label_id in rows["csv"].text
    [arrow] = pa.ipc.open_file(rows["arrow"].content).read_all().to_pylist()
    assert arrow == parquet
    verdicts = world.call("GET", "/export/unpaired", "researcher").text.splitlines()
    assert [json.loads(line)["label"] for line in verdicts] == [True, False, False]
    for format, answer in rows.items():
        ending = {"trl": "jsonl", "trl-parquet": "parquet"}.get(format, format)
        assert answer.headers["content-disposition"].startswith('attachment; filename="pawl-rankings')
        assert answer.headers["content-disposition"].endswith(f'.{ending}"')
    assert rows["csv"].headers["content-type"] == "text/csv; charset=utf-8"


def test_comparisons_are_the_decided_pairs_of_a_ranking(world):
    label_id = rank_one(world, ranks=(1, 2, 2))

    text = world.call("GET", "/export/comparisons", "researcher", params={"format": "trl"}).text

    pairs = [json.loads(line) for line in text.splitlines()]
    assert {pair["rejected"][0]["content"] for pair in pairs} == {"response 1", "response 2"}  # the tie is left out
    assert {pair["chosen"][0]["content"] for pair in pairs} == {"response 0"}
    assert {(pair["ranking_id"], pair["margin"]) for pair in pairs} == {(label_id, 1)}


def test_an_unknown_export_is_refused(world):
    assert world.call("GET", "/export/users", "researcher").status_code == 422
    assert world.call("GET", "/export/rankings", "researcher", params={"format": "xml"}).status_code == 422


def test_freezing_twice_gives_one_snapshot(world):
    rank_one(world)

    first, second = (world.call("POST", "/snapshots", "researcher").json() for _ in range(2))

    assert first["snapshot"] == second["snapshot"]
    assert first["counts"]["rankings_trainable"] == 1
    [listed] = world.call("GET", "/snapshots", "researcher").json()
    assert listed["snapshot"] == first["snapshot"]
    assert (world.workspace.snapshots / first["snapshot"] / "manifest.json").exists()


def test_there_is_nothing_to_freeze_in_an_empty_store(world):
    assert world.call("POST", "/snapshots", "researcher").status_code == 422


def test_a_batch_handed_in_twice_makes_its_tasks_once(world):
    [prompt] = world.call(
        "POST", "/prompts", "researcher", json=[{"messages": [{"role": "user", "content": "Why?"}], "split": "train"}]
    ).json()["ids"]
    responses = [{"text": text, "source": "sft-0001", "sampling": {"temperature": 1.0}} for text in "abcd"]
    batch = {"id": "sample-0001", "checkpoint": "sft-0001", "rows": [{"prompt_id": prompt, "responses": responses}]}

    first, second = (world.call("POST", "/batches", "owner", json=batch) for _ in range(2))

    assert first.json() == second.json() and len(first.json()["task_ids"]) == 1
    assert world.call("GET", "/stats", "researcher").json()["tasks"]["ranking"]["open"] == 1


def test_a_batch_over_a_mebibyte_is_the_owners_alone_to_hand_in(world):
    rows = [{"prompt_id": "p-none", "responses": [{"text": "x" * 90_000, "source": "s"}] * 4}] * 4
    batch = {"id": "sample-0001", "checkpoint": "sft-0001", "rows": rows}

    assert world.call("POST", "/batches", "admin", json=batch).status_code == 413
    assert world.call("POST", "/batches", "owner", json=batch).status_code in (404, 422)  # it was read: no such prompt


def test_checkpoints_are_listed_as_they_were_handed_in(world):
    world.call("POST", "/checkpoints", "owner", json=checkpoint())

    [listed] = world.call("GET", "/checkpoints", "researcher").json()

    assert {key: listed[key] for key in checkpoint()} == checkpoint()
    assert world.call("GET", "/checkpoints/ppo-0001", "researcher").json() == listed
    assert world.call("GET", "/checkpoints/ppo-0002", "researcher").status_code == 404
    assert world.store.promoted() == Checkpoint(
        "ppo-0001",
        "ppo",
        ("sft-0001", "reward-0001"),
        "a" * 16,
        {"kl": 2.5},
        "promoted",
        "better",
        datetime(2026, 11, 21, tzinfo=UTC),
    )


def test_a_run_is_kept_as_it_stands(world):
    world.call("PUT", "/runs/ppo-0001", "owner", json={"state": "running", "step": 3})

    assert world.store.run("ppo-0001")["step"] == 3


def test_a_withdrawn_label_leaves_the_export(world):
    label_id = rank_one(world)

    frozen = world.call("POST", "/snapshots", "researcher", json={"source": ["labeler"]}).json()
    assert frozen["choices"] == {"source": ["labeler"]} and frozen["counts"]["rankings"] == 1

    sent = {"label_id": label_id, "refreeze": True}
    answer = world.call("POST", "/withdrawals", "researcher", json=sent).json()
    replaced = answer.pop("replacements")
    named = {"label_ids": [label_id], "prompt_ids": [], "snapshots": [frozen["snapshot"]], "checkpoints": []}
    assert answer == named
    new = snapshots.load(world.workspace.snapshots / replaced[frozen["snapshot"]])
    assert new.label_ids == frozenset() and new.about["choices"] == {"source": ["labeler"]}
    assert world.call("POST", "/snapshots", "researcher", json={"since": "soon"}).status_code == 422
    assert world.call("GET", "/export/rankings", "researcher").text == ""
    assert world.call("POST", "/withdrawals", "researcher", json={}).status_code == 422
    assert world.call("POST", "/withdrawals", "researcher", json={"label_id": "l-none"}).status_code == 404


def test_imports_by_http_are_idempotent(world):
    [prompt] = world.call(
        "POST", "/prompts", "researcher", json=[{"messages": [{"role": "user", "content": "Why?"}], "split": "train"}]
    ).json()["ids"]
    demonstrations = {"labeler": "ana", "source": "file.jsonl", "rows": [{"prompt_id": prompt, "response": "Because."}]}
    responses = [{"text": "a", "source": "x"}, {"text": "b", "source": "y"}]
    rankings = {"rows": [{"prompt_id": prompt, "responses": responses, "ranks": [1, 2], "labeler": "ana"}]}

    for path, body in (("/demonstrations", demonstrations), ("/rankings", rankings)):
        counts = [len(world.call("POST", path, "researcher", json=body).json()["label_ids"]) for _ in range(2)]
        assert counts == [1, 0]
    [kept] = world.store.demonstrations()
    assert kept.answer == DemonstrationAnswer("Because.")


def test_stats_count_what_there_is(world):
    rank_one(world)

    stats = world.call("GET", "/stats", "researcher").json()

    assert stats["labels"]["rankings"] == stats["labels"]["rankings_trainable"] == 1
    assert stats["prompts"] == {"train": 1, "heldout": 0}
