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
