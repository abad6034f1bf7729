"""What the routes about labelers tell, and to whom."""

from __future__ import annotations


def label(world, role: str, seconds: float) -> None:
    task = world.call("POST", "/tasks/next", role, json={"kind": "ranking"}).json()
    ranks = {response["id"]: place for place, response in enumerate(task["responses"], 1)}
    body = {"lease": task["lease"], "ranks": ranks, "seconds": seconds}
    assert world.call("PUT", f"/tasks/{task['task_id']}/label", role, json=body).status_code == 200


def test_a_researcher_sees_labelers_by_pseudonym_with_every_definition(world):
    world.ranking_task(overlap=2)
    label(world, "labeler", 12.0)
    label(world, "reviewer", 30.0)

    found = world.call("GET", "/labelers", "researcher").json()

    users = {user["pseudonym"]: user["name"] for user in world.call("GET", "/users", "admin").json()}
    seconds = {users[each["labeler"]]: each["seconds"]["rankings"]["median"] for each in found["labelers"]}
    assert seconds == {"labeler": 12.0, "reviewer": 30.0}
    assert found["labelers"][0]["agreement"]["pairs"] == 3
    assert {"agreement", "gold", "position", "length", "fast"} <= set(found["definitions"])
    assert not any(f'"{name}"' in str(found["labelers"]) for name in users.values())


def test_progress_tells_the_queue_the_days_and_the_agreement(world):
    world.ranking_task(overlap=2)
    label(world, "labeler", 12.0)

    found = world.call("GET", "/progress", "researcher").json()

    assert found["tasks"]["ranking"] == {"open": 1, "done": 0, "resting": 0, "retired": 0}
    assert [sum(day["labelers"].values()) for day in found["days"]] == [1]
    assert found["agreement"]["alpha"] is None and found["agreement"]["alpha_reason"]
    assert found["sources"] == [{"source": "ppo-0001", "responses": 3, "labeled": 3}]


def test_a_labeler_is_told_of_themself_and_of_nothing_that_checks_them(world):
    world.ranking_task()
    label(world, "labeler", 12.0)

    mine = world.call("GET", "/labelers/me", "labeler").json()

    assert (mine["rankings"], mine["skips"], mine["median_seconds"]["rankings"]) == (1, 0, 12.0)
    assert mine["self_agreement"] == {"value": None, "interval": None, "pairs": 0}
    assert "gold" not in str(mine) and "agreement" not in mine and "position" not in mine
    assert world.call("GET", "/labelers/me", "reviewer").json()["rankings"] == 0


def test_a_wrong_method_names_the_right_one(world):
    answer = world.call("POST", "/labelers", "researcher", json={})

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
