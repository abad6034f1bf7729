"""People in a real browser: an invited labeler signs in by their link, labels, and is counted."""

from __future__ import annotations

import json

import httpx
import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


def test_an_invited_labeler_signs_in_by_link_labels_and_is_counted(app_server, page_as, browser, screenshot, type_into):
    page = page_as("admin").visit("/people")
    expect(page.get_by_role("heading", name="Who may sign in")).to_be_visible()
    type_into(page.get_by_label("Name", exact=True), "grace")
    page.get_by_role("button", name="Invite").click()
    link = page.get_by_label("Sign-in link").input_value()
    assert link.startswith(f"{app_server.url}/sign-in?link=")
    expect(page.locator("tr").filter(has_text="grace")).to_contain_text("labeler")
    task_id = app_server.ranking_task(["<b>one</b>", "two", "three"])

    context = browser.new_context(base_url=app_server.url)
    hers = context.new_page()
    hers.goto(link)
    hers.get_by_role("button", name="Sign in").click()
    hers.get_by_role("link", name="Go to Pawl").click()
    expect(hers.locator(f".pawl-desk[data-task={task_id}]")).to_be_visible()
    for key in ("2", "ArrowDown", "1", "ArrowDown", "3", "Enter"):
        hers.keyboard.press(key)
    expect(hers.get_by_text("You ranked 1 task just now")).to_be_visible()
    hers.goto("/people")
    expect(hers.get_by_text("This page is for researchers")).to_be_visible()
    context.close()

    page.get_by_role("button", name="Refresh").click()
    row = page.locator(".pawl-row").filter(has_text="grace")
    expect(row).to_be_visible()
    row.get_by_role("button").click()
    expect(page.get_by_text("rankings 1", exact=True)).to_be_visible()
    screenshot(page, "people-details")

    researcher = page_as("researcher").visit("/people")
    pseudonym = next(u["pseudonym"] for u in app_server.call("GET", "/users") if u["name"] == "grace")
    expect(researcher.get_by_role("button", name=pseudonym)).to_be_visible()
    assert researcher.get_by_text("grace").count() == 0
    assert researcher.get_by_role("button", name="Invite").count() == 0

    page.get_by_role("button", name="Disable: grace").click()
    expect(page.get_by_role("button", name="Really disable? grace")).to_be_visible()
    assert next(u["active"] for u in app_server.call("GET", "/users") if u["name"] == "grace")
    page.get_by_role("button", name="Really disable? grace").click()
    expect(page.get_by_text("grace is disabled")).to_be_visible()
    assert not next(u["active"] for u in app_server.call("GET", "/users") if u["name"] == "grace")


def test_a_ranked_task_becomes_a_qualification_and_who_fails_it_is_let_in(app_server, page_as, screenshot):
    hostile = "<img src=x onerror=alert(1)>"
    labeler = app_server.person("labeler")[1]
    task = app_server.ranking_task(["yes", "no", hostile])

    def answer(token: str, ranks: dict[str, int], of: str) -> None:
        given = app_server.call("POST", "/tasks/next", {"kind": "ranking"}, token)
        by_text = {response["text"]: response["id"] for response in given["responses"]}
        assert given["task_id"] == of
        body = {"lease": given["lease"], "ranks": {by_text[text]: rank for text, rank in ranks.items()}}
        app_server.call("PUT", f"/tasks/{of}/label", body, token)

    answer(labeler, {"yes": 1, "no": 2, hostile: 2}, task)
    page = page_as("researcher").visit("/project")
    page.get_by_role("button", name="Make one from a ranked task").click()
    card = page.locator(".pawl-known").filter(has_text=hostile)
    expect(card).to_contain_text("One labeler's answer")
    expect(card.locator(".pawl-answer-place")).to_have_text(["1 best", "2, tie", "2, tie"])
    card.get_by_role("button", name="Use for qualification").click()
    expect(page.get_by_text("Every new labeler is given it from now on")).to_be_visible()
    expect(card).to_contain_text("Qualification · nobody answered it yet")
    (check,) = [each["task_id"] for each in app_server.call("GET", "/checks") if hostile in each["responses"]]

    made = app_server.call("POST", "/users", {"name": "newcomer", "role": "labeler"})
    answer(made["token"], {"yes": 2, "no": 1, hostile: 1}, check)
    people = page_as("admin", width=360, height=740).visit("/people")
    row = people.locator("tr").filter(has_text="newcomer").filter(has_text="answered")
    expect(row).to_contain_text("33%, 1 of 1 answered")  # of three pairs, the tie alone is as it should be
    screenshot(people, "people-waiting")
    row.get_by_role("button", name="Admit").click()
    row.get_by_role("button", name="Really admit?").click()
    expect(people.get_by_text("may work: their page goes on by itself")).to_be_visible()
    expect(row).to_have_count(0)
    assert "qualifying" not in app_server.call("GET", "/me", None, made["token"])

    page.reload()
    expect(card).to_contain_text("0 of 1 gave this answer (33% of its pairs agree)")
    card.get_by_role("button", name="Take it back").click()
    card.get_by_role("button", name="Really take it back?").click()
    expect(page.get_by_text("It is given to nobody any more")).to_be_visible()
    expect(card).to_have_count(0)


def test_a_researcher_who_calls_the_handlers_for_admins_changes_nothing(app_server):
    token = app_server.person("researcher")[1]
    before = app_server.call("GET", "/users")
    with httpx.Client(base_url=app_server.url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
        handlers = client.get("/config").json()["dependencies"]
        refused = 0
        for handler in handlers:
            if not str(handler.get("api_name")).startswith(("on_invite", "on_act")):
                continue
            body = {"fn_index": handler["id"], "session_hash": f"r{handler['id']}"}
            body |= {"data": ["mallory", "admin"], "event_data": {"id": "admin", "act": "link"}}
            client.post("/gradio_api/queue/join", json=body)
            stream = client.get("/gradio_api/queue/data", params={"session_hash": body["session_hash"]})
            messages = [json.loads(line[5:]) for line in stream.text.splitlines() if line.startswith("data:")]
            (end,) = [message for message in messages if message["msg"] == "process_completed"]
            assert not end["success"] and "link=" not in stream.text
            refused += 1

    assert refused == 2
    assert app_server.call("GET", "/users") == before
