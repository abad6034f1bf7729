"""Every route, asked by everyone who may and by everyone who may not."""

from __future__ import annotations

import pytest

from data.records import ROLES

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has

LOWEST = {  # the least role that each route answers; None is anyone, "owner" the owner token alone
    ("GET", "/health"): None,
    ("GET", "/me"): "labeler",
    ("POST", "/render"): "labeler",
    ("POST", "/tasks/next"): "labeler",
    ("PUT", "/tasks/{task_id}/label"): "labeler",
    ("POST", "/tasks/{task_id}/skip"): "labeler",
    ("POST", "/tasks/{task_id}/lease"): "labeler",
    ("PUT", "/tasks/{task_id}/draft"): "labeler",
    ("POST", "/tasks/{task_id}/undo"): "labeler",
    ("GET", "/tasks/{task_id}/mine"): "labeler",
    ("GET", "/labels/mine"): "labeler",
    ("GET", "/guideline"): "labeler",
    ("POST", "/guideline/read"): "labeler",
    ("GET", "/guidelines"): "researcher",
    ("PUT", "/guideline"): "researcher",
    ("GET", "/settings"): "researcher",
    ("PUT", "/settings"): "researcher",
    ("GET", "/admissions"): "researcher",
    ("POST", "/admissions"): "researcher",
    ("GET", "/checks"): "researcher",
    ("POST", "/checks"): "researcher",
    ("GET", "/checks/candidates"): "researcher",
    ("GET", "/tasks/resting"): "researcher",
    ("POST", "/tasks/{task_id}/return"): "researcher",
    ("POST", "/tasks/{task_id}/retire"): "researcher",
    ("GET", "/reviews"): "reviewer",
    ("GET", "/reviews/{task_id}"): "reviewer",
    ("PUT", "/reviews/{task_id}"): "reviewer",
    ("POST", "/reviews/{task_id}/gold"): "researcher",
    ("POST", "/conversations"): "labeler",
    ("GET", "/conversations"): "labeler",
    ("GET", "/conversations/{conversation_id}"): "labeler",
    ("POST", "/conversations/{conversation_id}/turns"): "labeler",
    ("PUT", "/conversations/{conversation_id}/continuation"): "labeler",
    ("PUT", "/conversations/{conversation_id}/attack"): "labeler",
    ("POST", "/conversations/{conversation_id}/end"): "labeler",
    ("GET", "/export/conversations"): "researcher",
    ("POST", "/prompts"): "researcher",
    ("POST", "/tasks"): "researcher",
    ("POST", "/demonstrations"): "researcher",
    ("POST", "/rankings"): "researcher",
    ("POST", "/withdrawals"): "researcher",
    ("GET", "/stats"): "researcher",
    ("GET", "/reliability"): "researcher",
    ("GET", "/labelers"): "researcher",
    ("GET", "/labelers/me"): "labeler",
    ("GET", "/progress"): "researcher",
    ("GET", "/export/{kind}"): "researcher",
    ("POST", "/import/{kind}"): "researcher",
    ("GET", "/sources"): "researcher",
    ("POST", "/sources"): "researcher",
    ("POST", "/snapshots"): "researcher",
    ("GET", "/snapshots"): "researcher",
    ("GET", "/snapshots/{snapshot}/look"): "researcher",
    ("POST", "/cycles"): "researcher",
    ("GET", "/cycles"): "researcher",
    ("GET", "/cycles/{cycle_id}"): "researcher",
    ("POST", "/cycles/{cycle_id}/cancel"): "researcher",
    ("POST", "/cycles/{cycle_id}/resume"): "researcher",
    ("GET", "/checkpoints"): "researcher",
    ("GET", "/checkpoints/{checkpoint_id}"): "researcher",
    ("POST", "/checkpoints"): "owner",
    ("POST", "/batches"): "owner",
    ("PUT", "/runs/{run_id}"): "owner",
    ("GET", "/users"): "admin",
    ("POST", "/users"): "admin",
    ("POST", "/users/{name}/disable"): "admin",
    ("POST", "/users/{name}/link"): "admin",
}
PARAMETERS = {"{kind}": "prompts"}


def address(path: str) -> str:
    for name, value in PARAMETERS.items():
        path = path.replace(name, value)
    return path.replace("{", "no-such-").replace("}", "")


def documented(world) -> set[tuple[str, str]]:
    paths = world.call("GET", "/openapi.json").json()["paths"]
    return {(method.upper(), path.removeprefix("/api/v1")) for path, methods in paths.items() for method in methods}


def test_the_openapi_document_says_that_errors_are_problem_documents(world):
    paths = world.call("GET", "/openapi.json").json()["paths"]
    submit = paths["/api/v1/tasks/{task_id}/label"]["put"]["responses"]

    assert set(submit) == {"200", "401", "403", "404", "409", "413", "422"}
    assert list(submit["422"]["content"]) == ["application/problem+json"]


def test_the_openapi_document_lists_exactly_the_routes_whose_roles_are_known(world):
    assert documented(world) == set(LOWEST)


@pytest.mark.parametrize(("method", "path"), [route for route, role in LOWEST.items() if role])
def test_a_route_is_closed_without_a_token_and_with_a_wrong_one(shared_world, method, path):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}, {"Authorization": "Bearer é"}):
        raw = {name: value.encode() for name, value in headers.items()}
        answer = shared_world.call(method, address(path), headers=raw, json={})

        assert answer.status_code == 401, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["title"] == "Not signed in"


@pytest.mark.parametrize(("method", "path"), [route for route, role in LOWEST.items() if role])
def test_a_route_is_closed_to_every_role_below_its_own(shared_world, method, path):
    lowest = LOWEST[method, path]
    lower = ROLES if lowest == "owner" else ROLES[: ROLES.index(lowest)]

    answers = {role: shared_world.call(method, address(path), role, json={}) for role in lower}

    assert {role: answer.status_code for role, answer in answers.items()} == dict.fromkeys(lower, 403)
    assert all(answer.json()["title"] == "Not allowed" for answer in answers.values())


@pytest.mark.parametrize(("method", "path"), [route for route, role in LOWEST.items() if role])
def test_a_route_lets_its_own_role_through_to_what_was_sent(shared_world, method, path):
    role = LOWEST[method, path]

    answer = shared_world.call(method, address(path), role, json={})

    assert answer.status_code not in (401, 403, 500), answer.text


def test_the_owner_token_is_no_labeler(world):
    world.ranking_task()

    answer = world.call("POST", "/tasks/next", "owner", json={"kind": "ranking"})

    assert answer.status_code == 403
    assert world.call("GET", "/me", "owner").json() == {"name": "owner", "role": "admin", "pseudonym": "owner"}


def test_a_disabled_user_is_out_at_once(world):
    assert world.call("GET", "/me", "labeler").status_code == 200

    assert world.call("POST", "/users/labeler/disable", "admin").json() == {"name": "labeler", "active": False}

    assert world.call("GET", "/me", "labeler").status_code == 401


def test_a_new_user_gets_a_token_that_works_and_is_stored_nowhere_in_the_clear(world):
    made = world.call("POST", "/users", "admin", json={"name": "ana", "role": "researcher"}).json()

    world.tokens["ana"] = made["token"]
    assert world.call("GET", "/me", "ana").json()["role"] == "researcher"
    assert "token" not in world.call("GET", "/users", "admin").text
    assert world.call("POST", "/users", "admin", json={"name": "ana", "role": "labeler"}).status_code == 409


@pytest.mark.parametrize("name", ["", " ana", "a b", "<b>", "x" * 65, "owner", "ana\u0000", "../ana"])
def test_a_name_that_would_not_do_is_refused(world, name):
    answer = world.call("POST", "/users", "admin", json={"name": name, "role": "labeler"})

    assert answer.status_code in (409, 422), answer.text
    assert {user["name"] for user in world.call("GET", "/users", "admin").json()} == set(ROLES)
