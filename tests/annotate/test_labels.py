"""Labels through the HTTP API: what comes back, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import hashlib
import json

import pytest


@pytest.fixture
def task(world) -> dict:
    """A ranking task of three responses, leased to the labeler, as the API gave it."""
    world.ranking_task(k=3)
    return world.call("POST", "/tasks/next", "labeler", json={"kind": "ranking"}).json()


@pytest.fixture
def shared_task(shared_world) -> dict:
    """As `task`, in the world that the tests of refusals share."""
    shared_world.ranking_task(k=3)
    return shared_world.call("POST", "/tasks/next", "labeler", json={"kind": "ranking"}).json()


def ranked(task: dict, **changes) -> dict:
    """A whole label: the responses as shown get the ranks 1, 2, 2."""
    ids = [response["id"] for response in task["responses"]]
    return {"lease": task["lease"], "ranks": dict(zip(ids, (1, 2, 2), strict=True))} | changes


def submit(world, task: dict, label: dict, role: str = "labeler"):
    return world.call("PUT", f"/tasks/{task['task_id']}/label", role, json=label)


def test_a_task_is_what_the_labeler_needs_and_no_word_of_the_model(world, task):
    contract = {"task_id", "kind", "lease", "lease_expires_at", "prompt", "responses"}
    assert set(task) == contract | {"guideline", "asks"}
    assert task["kind"] == "ranking"
    assert task["prompt"] == {"messages": [{"role": "user", "content": "What is a pawl?"}]}
    assert sorted(response["text"] for response in task["responses"]) == ["response 0", "response 1", "response 2"]
    assert all(set(response) == {"id", "text"} for response in task["responses"])
    assert "ppo-0001" not in json.dumps(task)


def test_my_open_task_comes_again_with_the_same_lease(world, task):
    again = world.call("POST", "/tasks/next", "labeler", json={"kind": "ranking"}).json()

    assert again["task_id"] == task["task_id"]
    assert again["lease"] == task["lease"]
    assert again["responses"] == task["responses"]


def test_nothing_left_is_204_without_a_body(world, task):
    answer = world.call("POST", "/tasks/next", "reviewer", json={"kind": "ranking"})

    assert (answer.status_code, answer.content) == (204, b"")


def test_the_same_label_again_gives_the_same_answer_and_another_is_a_new_revision(world, task):
    first = submit(world, task, ranked(task, seconds=12.5))
    again = submit(world, task, ranked(task, seconds=12.5))
    ids = [response["id"] for response in task["responses"]]
    other = submit(world, task, ranked(task, ranks=dict(zip(ids, (3, 2, 1), strict=True))))

    assert first.status_code == 200
    assert first.json()["revision"] == 1
    assert again.json() == first.json()
    assert other.json() == {"label_id": first.json()["label_id"], "revision": 2}
    [stored] = world.store.rankings()
    assert stored.answer.ranks == dict(zip(ids, (3, 2, 1), strict=True))
    assert stored.guideline == hashlib.sha256(b"Rank them.").hexdigest()[:16]


def test_a_label_with_everything_in_it_is_kept_whole(world, task):
    a, b, c = (response["id"] for response in task["responses"])
    label = {
        "lease": task["lease"],
        "ranks": {a: 1, b: 1},
        "unrankable": [c],
        "ratings": {a: {"helpful": 7, "harmless": 1, "honest": 4}},
        "flags": {c: ["unsafe", "pii"]},
        "rewrite": {"response_id": b, "text": "It stops a wheel from turning back. 爪 🐾"},
        "comment": "c is empty",
        "seconds": 31,
        "client_at": "2026-11-21T10:00:00+01:00",
    }

    assert submit(world, task, label).status_code == 200

    [stored] = world.store.rankings()
    assert (stored.answer.ranks, stored.answer.unrankable) == ({a: 1, b: 1}, (c,))
    assert stored.answer.ratings == {a: {"helpful": 7, "harmless": 1, "honest": 4}}
    assert {id: set(flags) for id, flags in stored.answer.flags.items()} == {c: {"unsafe", "pii"}}
    assert stored.answer.rewrite == {"response_id": b, "text": "It stops a wheel from turning back. 爪 🐾"}
    assert (stored.answer.comment, stored.answer.seconds) == ("c is empty", 31.0)
    assert list(stored.display_order) == [a, b, c]
    [rewritten] = world.store.demonstrations()
    assert rewritten.source == f"rewrite:{stored.label_id}"


def without(ranks: dict) -> dict:
    return dict(list(ranks.items())[1:])


def one_more(ranks: dict) -> dict:
    return ranks | {"r-unknown": 1}


def first_is(value):
    return lambda ranks: {**ranks, next(iter(ranks)): value}


MALFORMED = {  # what is wrong: how the label is made so, and a word that the answer must name it by
    "a rank is missing": (lambda label: label | {"ranks": without(label["ranks"])}, "rank"),
    "an unknown response": (lambda label: label | {"ranks": one_more(label["ranks"])}, "r-unknown"),
    "a rank of 0": (lambda label: label | {"ranks": first_is(0)(label["ranks"])}, "rank"),
    "a rank above K": (lambda label: label | {"ranks": first_is(4)(label["ranks"])}, "rank"),
    "a rank that is text": (lambda label: label | {"ranks": first_is("1")(label["ranks"])}, "rank"),
    "a rank that is true": (lambda label: label | {"ranks": first_is(True)(label["ranks"])}, "rank"),
    "a rank that is 1.5": (lambda label: label | {"ranks": first_is(1.5)(label["ranks"])}, "rank"),
    "a rank that is null": (lambda label: label | {"ranks": first_is(None)(label["ranks"])}, "rank"),
    "ranks as a list": (lambda label: label | {"ranks": [1, 2, 3]}, "ranks"),
    "no ranks": (lambda label: {"lease": label["lease"]}, "ranks"),
    "no lease": (lambda label: {"ranks": label["ranks"]}, "lease"),
    "ranked and unrankable": (lambda label: label | {"unrankable": list(label["ranks"])[:1]}, "unrankable"),
    "a rating of 8": (lambda label: label | {"ratings": {next(iter(label["ranks"])): {"helpful": 8}}}, "helpful"),
    "a rating nobody knows": (lambda label: label | {"ratings": {next(iter(label["ranks"])): {"funny": 3}}}, "funny"),
    "a flag nobody knows": (lambda label: label | {"flags": {next(iter(label["ranks"])): ["rude"]}}, "rude"),
    "a rewrite of nothing": (lambda label: label | {"rewrite": {"response_id": "r-none", "text": "x"}}, "rewrite"),
    "an empty rewrite": (
        lambda label: label | {"rewrite": {"response_id": next(iter(label["ranks"])), "text": " "}},
        "rewrite",
    ),
    "a NUL in the comment": (lambda label: label | {"comment": "a\u0000b"}, "comment"),
    "a text of 200,000 characters": (lambda label: label | {"comment": "x" * 200_000}, "comment"),
    "negative seconds": (lambda label: label | {"seconds": -1}, "seconds"),
    "a misspelt field": (lambda label: label | {"unrankables": []}, "unrankables"),
    "a naive client time": (lambda label: label | {"client_at": "2026-11-21T10:00:00"}, "client_at"),
    "a demonstration for a ranking": (lambda label: {"lease": label["lease"], "response": "Hm."}, "ranking"),
    "a list": (lambda label: [label], "the body"),
    "nothing": (lambda label: None, "the body"),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_label_is_refused_by_name_and_changes_nothing(shared_world, shared_task, fault):
    spoil, word = MALFORMED[fault]
    kept = shared_world.store.rankings(), shared_world.store.demonstrations()

    answer = submit(shared_world, shared_task, spoil(ranked(shared_task)))

    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail"} and problem["status"] == 422
    assert word in problem["detail"], problem["detail"]
    assert (shared_world.store.rankings(), shared_world.store.demonstrations()) == kept
    assert submit(shared_world, shared_task, ranked(shared_task)).status_code == 200  # the lease still holds


RAW = {  # bodies that are not even JSON objects in UTF-8
    "bytes that are not UTF-8": (b'{"lease": "\xff\xfe", "ranks": {}}', 400),
    "half a JSON object": (b'{"lease": "x", ', 422),
    "not JSON": (b"lease=x", 422),
    "NaN seconds": (b'{"lease": "x", "ranks": {}, "seconds": NaN}', 422),
    "a lone surrogate": (b'{"lease": "x", "ranks": {"r": 1}, "comment": "\\ud800"}', 422),
    "a number of 5,000 digits": (b'{"lease": "x", "ranks": {"r": ' + b"9" * 5000 + b"}}", 400),
    "100,000 open brackets": (b"[" * 100_000, 400),
    "a megabyte of text": (b'{"lease": "x", "response": "' + b"x" * 1_100_000 + b'"}', 413),
    "an empty body": (b"", 422),
}


@pytest.mark.parametrize("fault", RAW)
def test_a_body_that_cannot_be_read_is_answered_with_a_problem_document(shared_world, shared_task, fault):
    body, status = RAW[fault]
    path, kept = f"/tasks/{shared_task['task_id']}/label", shared_world.store.rankings()

    answer = shared_world.call("PUT", path, "labeler", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert shared_world.store.rankings() == kept


def test_a_body_that_grows_past_the_limit_without_saying_its_length_is_refused(world, task):
    def endless():
        for _ in range(300):
            yield b"x" * 10_000

    answer = world.call("PUT", f"/tasks/{task['task_id']}/label", "labeler", content=endless())

    assert answer.status_code == 413, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_foreign_lease_is_a_conflict_that_says_what_to_do(world, task):
    foreign = submit(world, task, ranked(task), role="reviewer")
    made_up = submit(world, task, ranked(task, lease="made-up"))

    for answer in (foreign, made_up):
        assert answer.status_code == 409
        assert "next task" in answer.json()["detail"]
    assert world.store.rankings() == []


def test_an_unknown_task_is_not_found(world, task):
    for name in ("t-none", "%00", "..%2f..", "x" * 5000):
        answer = world.call("PUT", f"/tasks/{name}/label", "labeler", json=ranked(task))

        assert answer.status_code == 404, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_skipped_task_goes_to_another_and_never_comes_back(world, task):
    answer = world.call(
        "POST", f"/tasks/{task['task_id']}/skip", "labeler", json={"lease": task["lease"], "reason": "not my language"}
    )

    assert answer.status_code == 200
    assert world.call("POST", "/tasks/next", "labeler", json={"kind": "ranking"}).status_code == 204
    other = world.call("POST", "/tasks/next", "reviewer", json={"kind": "ranking"}).json()
    assert other["task_id"] == task["task_id"]


def test_a_lease_is_renewed_by_its_holder_alone(world, task):
    path, lease = f"/tasks/{task['task_id']}/lease", {"lease": task["lease"]}

    renewed = world.call("POST", path, "labeler", json=lease)

    assert renewed.json()["lease_expires_at"] >= task["lease_expires_at"]
    assert world.call("POST", path, "reviewer", json=lease).status_code == 409


def test_a_demonstration_is_asked_for_and_kept(world):
    made = world.call(
        "POST",
        "/prompts",
        "researcher",
        json=[{"messages": [{"role": "user", "content": "Say hi."}], "split": "train"}],
    ).json()
    world.call("POST", "/tasks", "researcher", json={"kind": "demonstration", "prompt_ids": made["ids"]})

    task = world.call("POST", "/tasks/next", "labeler", json={"kind": "demonstration"}).json()
    answer = submit(world, task, {"lease": task["lease"], "response": "Hi!", "seconds": 3})

    assert "responses" not in task
    assert answer.json()["revision"] == 1
    [kept] = world.store.demonstrations()
    assert (kept.answer.response, kept.prompt_id) == ("Hi!", made["ids"][0])
