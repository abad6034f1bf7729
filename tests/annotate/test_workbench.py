"""A labeler's day through the HTTP API: drafts, undo, own labels, guidelines, checks among the work, skips, review."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has


def next_task(world, role="labeler", **body):
    answer = world.call("POST", "/tasks/next", role, json={"kind": "ranking"} | body)
    return answer.json() if answer.status_code == 200 else None


def submit(world, task, ranks, role="labeler", **more):
    """Rank the responses "response 0", "response 1", ... as given."""
    by_text = {response["text"]: response["id"] for response in task["responses"]}
    given = {by_text[text]: rank for text, rank in zip(sorted(by_text), ranks, strict=True)}
    body = {"lease": task["lease"], "ranks": given} | more
    answer = world.call("PUT", f"/tasks/{task['task_id']}/label", role, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_draft_comes_back_with_the_task(world):
    world.ranking_task()
    task = next_task(world)
    assert "draft" not in task

    body = {"lease": task["lease"], "work": {"comment": "half a tho"}, "seconds": 12.5}
    saved = world.call("PUT", f"/tasks/{task['task_id']}/draft", "labeler", json=body).json()

    draft = next_task(world)["draft"]
    assert draft == {"work": {"comment": "half a tho"}, "seconds": 12.5, "saved_at": saved["saved_at"]}
    other = world.call("PUT", f"/tasks/{task['task_id']}/draft", "reviewer", json=body)
    assert other.status_code == 409


def test_an_answer_can_be_taken_back_found_again_and_revised(world):
    world.ranking_task()
    task = next_task(world)
    submit(world, task, [1, 2, 3], comment="first")

    undone = world.call("POST", f"/tasks/{task['task_id']}/undo", "labeler", json={"lease": task["lease"]})

    assert set(undone.json()) == {"lease_expires_at"}
    assert world.call("GET", "/labels/mine", "labeler").json() == []
    assert world.call("GET", "/export/rankings", "researcher").text == ""
    assert submit(world, task, [3, 2, 1])["revision"] == 2
    [mine] = world.call("GET", "/labels/mine", "labeler").json()
    assert (mine["task_id"], mine["revision"], mine["excerpt"]) == (task["task_id"], 2, "What is a pawl?")
    again = world.call("GET", f"/tasks/{task['task_id']}/mine", "labeler").json()
    assert again["answer"] == mine["answer"]
    assert (again["lease"], again["responses"]) == (task["lease"], task["responses"])
    assert world.call("GET", f"/tasks/{task['task_id']}/mine", "reviewer").status_code == 404


def test_a_gold_task_looks_like_any_other_and_stays_out_of_the_export(world):
    [prompt] = world.call(
        "POST", "/prompts", "researcher", json=[{"messages": [{"role": "user", "content": "Q?"}]}]
    ).json()["ids"]
    responses = [{"text": f"response {n}", "source": "test"} for n in range(3)]
    body = {"prompt_id": prompt, "responses": responses, "gold": [1, 2, None]}
    gold = world.call("POST", "/tasks", "researcher", json=body).json()["task_id"]
    world.call("PUT", "/settings", "researcher", json={"gold_share": 0.5, "repeat_share": 0.0})
    work = [world.ranking_task(prompt=f"Question {n}?") for n in range(8)]

    seen = {}
    while (task := next_task(world)) is not None:
        submit(world, task, [1, 2, 3])
        seen[task["task_id"]] = set(task)

    assert set(seen) == {gold, *work}
    assert len({frozenset(keys) for keys in seen.values()}) == 1  # nothing tells them apart
    exported = world.call("GET", "/export/rankings", "researcher").text
    assert gold not in exported and all(task in exported for task in work)
    refused = world.call("POST", "/tasks", "researcher", json=body | {"gold": [1, 2]})
    assert refused.status_code == 422 and "a list of 3 ranks" in refused.json()["detail"]


def test_who_did_not_pass_the_qualification_is_told_so_and_can_be_let_in(world):
    prompts = [{"messages": [{"role": "user", "content": "Q?"}]}]
    [prompt] = world.call("POST", "/prompts", "researcher", json=prompts).json()["ids"]
    responses = [{"text": f"response {n}", "source": "test"} for n in range(3)]
    test = {"prompt_id": prompt, "responses": responses, "gold": [1, 2, 3], "purpose": "qualification"}
    world.call("POST", "/tasks", "researcher", json=test)
    work = world.ranking_task()

    submit(world, next_task(world), [3, 2, 1])

    assert next_task(world) is None
    assert world.call("GET", "/me", "labeler").json()["qualifying"] is True
    assert "qualifying" not in world.call("GET", "/me", "reviewer").json()
    world.call("POST", "/admissions", "researcher", json={"labeler": "labeler"})
    assert next_task(world)["task_id"] == work


def test_a_changed_guideline_is_new_to_who_worked_under_another_and_to_nobody_else(world):
    for n in range(2):
        world.ranking_task(prompt=f"Question {n}?", overlap=2)
    first = next_task(world)
    assert first["guideline"]["read"] is True  # it is before them from the start

    new = world.call("PUT", "/guideline", "researcher", json={"text": "Rank them well."}).json()

    assert next_task(world)["guideline"] == {"hash": new["hash"], "read": False}
    assert next_task(world, "reviewer")["guideline"] == {"hash": new["hash"], "read": True}
    submit(world, first, [1, 2, 3])
    assert world.call("POST", "/guideline/read", "labeler", json={"hash": new["hash"]}).status_code == 200
    submit(world, next_task(world), [1, 2, 3])
    hashes = [label.guideline for label in sorted(world.store.rankings(), key=lambda label: label.created_at)]
    assert hashes == [first["guideline"]["hash"], new["hash"]]
    assert world.call("GET", "/guideline", "labeler").json()["text"] == "Rank them well."
    assert [v["text"] for v in world.call("GET", "/guidelines", "researcher").json()] == [
        "Rank them.",
        "Rank them well.",
    ]


def test_a_project_asks_for_what_its_settings_say(world):
    world.ranking_task()
    changes = {"ask_ratings": False, "ask_flags": ["unsafe"], "ask_comment": False}

    world.call("PUT", "/settings", "researcher", json=changes)

    asks = {"ratings": False, "flags": ["unsafe"], "rewrite": True, "comment": False}
    assert next_task(world)["asks"] == asks
    refused = world.call("PUT", "/settings", "researcher", json={"overlap": 0})
    assert refused.status_code == 422
    assert world.call("GET", "/settings", "researcher").json()["overlap"] == 1


def test_a_task_that_three_skipped_waits_for_a_researcher(world):
    task_id = world.ranking_task(overlap=1)
    for role in ("labeler", "reviewer", "researcher"):
        task = next_task(world, role)
        world.call("POST", f"/tasks/{task_id}/skip", role, json={"lease": task["lease"], "reason": "unclear"})
    assert next_task(world, "admin") is None

    [resting] = world.call("GET", "/tasks/resting", "researcher").json()
    assert (resting["task_id"], resting["reasons"]) == (task_id, ["unclear"] * 3)
    assert world.call("POST", f"/tasks/{task_id}/return", "researcher").json()["state"] == "open"
    assert next_task(world, "admin")["task_id"] == task_id


def test_a_reviewer_sees_both_answers_and_adds_the_third(world):
    task_id = world.ranking_task(overlap=2)
    for role, ranks in (("labeler", [1, 2, 3]), ("admin", [3, 2, 1])):
        submit(world, next_task(world, role), ranks, role, comment=f"{role} says why")

    [found] = world.call("GET", "/reviews", "reviewer").json()
    assert (found["task_id"], found["agreement"], found["reviewed"]) == (task_id, 0.0, False)
    case = world.call("GET", f"/reviews/{task_id}", "reviewer").json()
    assert sorted(label["comment"] for label in case["labels"]) == ["admin says why", "labeler says why"]
    assert "ppo-0001" not in str(case)  # reviewers are as blind as labelers
    ids = [response["id"] for response in case["responses"]]
    answer = {"ranks": dict(zip(ids, [1, 1, 2], strict=True)), "comment": "Both of the first two are right."}
    receipt = world.call("PUT", f"/reviews/{task_id}", "reviewer", json=answer).json()

    assert receipt["revision"] == 1
    assert world.call("GET", "/reviews", "reviewer").json()[0]["reviewed"] is True
    exported = world.call("GET", "/export/rankings", "researcher").text.splitlines()
    assert len(exported) == 3
    gold = [world.call("POST", f"/reviews/{task_id}/gold", "researcher").json()["task_id"] for _ in range(2)]
    assert gold[0] == gold[1] != task_id


@pytest.mark.parametrize("path", ["/reviews/t-none", "/tasks/t-none/mine"])
def test_what_is_not_there_is_404(world, path):
    assert world.call("GET", path, "admin").status_code == 404
