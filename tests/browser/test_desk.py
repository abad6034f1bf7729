"""A labeler's day in a real browser: drafts that follow, undo, history, guidelines, review, and the project's page."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

ANSWERS = ["It stops a ratchet.", "A part of a clock that holds.", "I do not know."]


def begin(page: Page) -> None:
    expect(page.locator(".pawl-desk[data-state=task]")).to_be_visible()
    expect(page.locator(".pawl-response").first).to_be_focused()


def rank(page: Page, keys: dict[str, str]) -> None:
    """Press, on each response, the key that `keys` gives to its text."""
    for text in page.locator(".pawl-response > .pawl-text").all_inner_texts():
        page.keyboard.press(keys[text])
        page.keyboard.press("ArrowDown")


def submit(page: Page) -> None:
    """Press Enter, once more when the order is the one shown, and wait until another task or none is there."""
    before = page.locator(".pawl-desk").get_attribute("data-task")
    page.keyboard.press("Enter")
    if "order in which they were shown" in (page.locator(".pawl-status").text_content() or ""):
        page.keyboard.press("Enter")
    expect(page.locator(f".pawl-desk[data-task='{before}']")).to_have_count(0)


def test_a_draft_follows_its_labeler_to_another_browser(app_server, page_as, browser):
    person = page_as("labeler")
    app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page)
    rank(page, dict(zip(ANSWERS, "21u", strict=True)))
    page.get_by_label("Comment on this task").fill("half a thou")
    expect(page.locator(".pawl-saved")).to_have_text("Draft saved")

    elsewhere = browser.new_context(base_url=app_server.url)
    other = elsewhere.new_page()
    other.goto("/sign-in")
    other.get_by_text("I have a token").click()
    other.get_by_label("Token").fill(person.token)
    other.get_by_role("button", name="Sign in with the token").click()
    begin(other)

    expect(other.locator(".pawl-status")).to_have_text("Your draft is back.")
    expect(other.get_by_label("Comment on this task")).to_have_value("half a thou")
    expect(other.locator(".pawl-rank[aria-pressed=true]")).to_have_count(3)
    elsewhere.close()


def test_one_key_takes_the_last_answer_back(app_server, page_as, screenshot):
    person = page_as("labeler")
    first, _ = app_server.ranking_task(ANSWERS), app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page)
    rank(page, dict(zip(ANSWERS, "123", strict=True)))
    submit(page)
    begin(page)
    assert first in app_server.rankings()

    page.keyboard.press("z")
    expect(page.locator(f".pawl-desk[data-task='{first}']")).to_be_visible()
    expect(page.locator(".pawl-status")).to_contain_text("taken back")
    assert first not in app_server.rankings()
    screenshot(page, "rank-undone")
    rank(page, dict(zip(ANSWERS, "321", strict=True)))
    submit(page)

    begin(page)
    assert app_server.ranks_by_text(first) == dict(zip(ANSWERS, (3, 2, 1), strict=True))


def test_the_next_task_is_there_before_it_is_asked_for(app_server, page_as):
    person = page_as("labeler")
    for _ in range(2):
        app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    with page.expect_response("**/api/v1/tasks/next"):  # the task after this one
        begin(page)
    page.wait_for_timeout(300)
    asked = []
    page.route("**/api/v1/tasks/next", lambda route: (asked.append(route.request.url), route.abort()))

    rank(page, dict(zip(ANSWERS, "123", strict=True)))
    submit(page)

    begin(page)  # with no answer from the server but the receipt
    page.unroute("**/api/v1/tasks/next")


def test_minutes_without_a_key_or_a_move_and_in_a_hidden_tab_do_not_count(app_server, page_as):
    person = page_as("labeler", alone=True)  # a clock stays in its browser
    task = app_server.ranking_task(ANSWERS)
    person.page.clock.install()
    page = person.visit("/")
    begin(page)
    page.clock.run_for(200_000)  # nobody is there: 120 of these 200 seconds count
    page.mouse.move(300, 300)
    page.evaluate("Object.defineProperty(document, 'visibilityState', { get: () => 'hidden', configurable: true })")
    page.clock.run_for(60_000)  # moved a moment ago, but in another tab
    page.evaluate("delete document.visibilityState")
    page.clock.resume()
    rank(page, dict(zip(ANSWERS, "321", strict=True)))
    submit(page)

    assert 115 <= app_server.rankings()[task]["seconds"] <= 140


def test_an_answer_of_long_ago_is_found_and_changed(app_server, page_as, screenshot):
    person = page_as("labeler")
    task = app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page)
    rank(page, dict(zip(ANSWERS, "123", strict=True)))
    submit(page)

    page = person.visit("/history")
    entry = page.locator(f".pawl-entry[data-task='{task}']")
    expect(entry).to_contain_text("Ranks 1 · 2 · 3")
    screenshot(page, "history")
    entry.get_by_role("link", name="Change").click()
    begin(page)
    expect(page.locator(".pawl-status")).to_contain_text("Your earlier answer")
    rank(page, dict(zip(ANSWERS, "311", strict=True)))
    page.keyboard.press("Enter")

    expect(page.locator(f".pawl-entry[data-task='{task}']")).to_contain_text("revision 2")
    assert app_server.ranks_by_text(task) == dict(zip(ANSWERS, (3, 1, 1), strict=True))


def test_a_changed_guideline_is_shown_once(app_server, page_as, screenshot):
    person = page_as("labeler")
    app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page)
    app_server.call("PUT", "/guideline", {"text": "Short answers are better.\n\n<img src=x onerror=alert(1)>"})

    page = person.visit("/")
    dialog = page.get_by_role("dialog", name="The guideline has changed")
    expect(dialog).to_contain_text("Short answers are better.")
    expect(dialog).to_contain_text("<img src=x")
    screenshot(page, "guideline-changed")
    with page.expect_response("**/guideline/read"):
        page.keyboard.press("Enter")

    page = person.visit("/")
    begin(page)
    page.wait_for_timeout(500)
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_reviewer_decides_by_keyboard_alone(app_server, page_as, screenshot):
    people = [app_server.person("labeler") for _ in range(2)]
    task = app_server.ranking_task(ANSWERS, overlap=2)
    for (name, token), ranks in zip(people, ((1, 2, 3), (3, 2, 1)), strict=True):
        given = app_server.call("POST", "/tasks/next", {"kind": "ranking"}, token)
        ids = {response["text"]: response["id"] for response in given["responses"]}
        label = {"lease": given["lease"], "ranks": {ids[text]: n for text, n in zip(ANSWERS, ranks, strict=True)}}
        app_server.call("PUT", f"/tasks/{task}/label", label | {"comment": f"{name} says so"}, token)
    page = page_as("reviewer").visit("/review")
    begin(page)

    expect(page.locator(".pawl-answers tbody tr")).to_have_count(3)
    for name, _ in people:
        expect(page.locator(".pawl-reasons")).to_contain_text(f"{name} says so")
    screenshot(page, "review")
    rank(page, dict(zip(ANSWERS, "112", strict=True)))
    page.keyboard.press("Enter")
    if "order in which they were shown" in (page.locator(".pawl-status").text_content() or ""):
        page.keyboard.press("Enter")

    expect(page.get_by_role("heading", name="Labelers agree")).to_be_visible()
    [answer] = [one for one in app_server.call("GET", f"/reviews/{task}")["labels"] if one["source"] == "review"]
    assert sorted(answer["ranks"]) == [1, 1, 2]


def test_a_researcher_writes_guidelines_and_says_what_is_asked(app_server, page_as, type_into, screenshot):
    page = page_as("researcher").visit("/project")
    box = page.get_by_label("What labelers are asked to do, in Markdown")
    expect(box).not_to_have_value("")
    type_into(box, "Be kind and short.")
    page.get_by_role("button", name="Publish this wording").click()
    expect(page.get_by_text("Published as version")).to_be_visible()
    page.get_by_label("A comment").uncheck()
    page.get_by_role("button", name="Save these settings").click()
    expect(page.get_by_text("Saved. Labelers see it")).to_be_visible()
    screenshot(page, "project")

    assert app_server.call("GET", "/guideline")["text"] == "Be kind and short."
    assert app_server.call("GET", "/settings")["ask_comment"] is False
    app_server.call("PUT", "/settings", {"ask_comment": True})  # as the other tests expect it
    expect(page_as("labeler").visit("/project").get_by_text("This page is for researchers")).to_be_visible()
