"""A labeler's day as it goes wrong, and on a phone: the network cut for minutes, the app started again, touch alone.

A cut is a minute of the page's own clock, not of the test's.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

ANSWERS = ["It stops a ratchet.", "A part of a clock that holds.", "I do not know."]
CUT = "No connection. Your work is kept here"


def begin(page: Page, task: str) -> None:
    expect(page.locator(f".pawl-desk[data-task='{task}']")).to_be_visible()


def press(page: Page, keys: dict[str, str]) -> None:
    """Press, on each response that `keys` names by its text, the key that it gives."""
    for response in page.locator(".pawl-response").all():
        key = keys.get(response.locator("> .pawl-text").inner_text())
        if key:
            response.focus()
            page.keyboard.press(key)


def draft(page: Page) -> dict[str, str]:
    """What is on the screen: the rank of each response, by its text, and the comment."""
    responses = page.locator(".pawl-response").all()
    ranks = {each.locator("> .pawl-text").inner_text(): each.get_attribute("data-rank") or "" for each in responses}
    return ranks | {"comment": page.get_by_label("Comment on this task").input_value()}


def mine(app_server, person) -> list[tuple[str, int]]:
    """The answers that the app holds of this person: task and revision."""
    return [
        (label["task_id"], label["revision"]) for label in app_server.call("GET", "/labels/mine", None, person.token)
    ]


def test_two_minutes_without_a_network_lose_nothing_and_an_answer_without_a_receipt_lands_once(
    app_server, page_as, screenshot
):
    person = page_as("labeler", alone=True)  # a clock stays in its browser
    first, second = app_server.ranking_task(ANSWERS), app_server.ranking_task(ANSWERS)
    person.page.clock.install()
    page = person.visit("/")
    begin(page, first)
    saved, status = page.locator(".pawl-saved"), page.locator(".pawl-status")
    press(page, {ANSWERS[0]: "2"})
    expect(saved).to_have_text("Draft saved")

    page.context.set_offline(True)
    press(page, {ANSWERS[1]: "1"})
    page.get_by_label("Comment on this task").fill("half a thought")
    for _ in range(12):
        page.clock.run_for(10_000)
        page.wait_for_timeout(20)  # requests fail in the browser's time, not the page's
    kept = {ANSWERS[0]: "2", ANSWERS[1]: "1", ANSWERS[2]: "", "comment": "half a thought"}
    expect(status).to_contain_text(CUT)
    expect(saved).to_have_text("Draft kept here, saving…")
    screenshot(page, "cut")
    assert draft(page) == kept

    page.context.set_offline(False)
    page.clock.run_for(3_000)
    expect(saved).to_have_text("Draft saved")
    expect(status).not_to_contain_text(CUT)  # said no longer than it is so
    assert draft(page) == kept

    tries = []

    def lose_the_receipt(route) -> None:
        if not tries:
            route.fetch()  # it arrives, and nobody hears of it
        tries.append(route.request.post_data)
        route.abort()

    page.route("**/label", lose_the_receipt)
    press(page, {ANSWERS[2]: "u"})
    page.keyboard.press("Enter")
    expect(status).to_contain_text(CUT)
    for _ in range(12):
        page.clock.run_for(10_000)
        page.wait_for_timeout(20)
    page.keyboard.press("Enter")  # impatience changes nothing
    assert len(tries) > 3
    assert len(set(tries)) == 1
    page.unroute("**/label")
    page.clock.run_for(15_000)

    begin(page, second)
    assert mine(app_server, person) == [(first, 1)]
    assert app_server.ranks_by_text(first) == dict(zip(ANSWERS, (2, 1, None), strict=True))
    assert app_server.rankings()[first]["comment"] == "half a thought"

    page.keyboard.press("s")
    page.keyboard.press("1")
    expect(page.locator(".pawl-idle")).to_be_visible()
    for offline, told in ((True, CUT), (False, "The connection is back.")):  # while there is nothing to do, too
        page.context.set_offline(offline)
        page.clock.run_for(10_000)
        expect(status).to_contain_text(told)


def test_an_app_that_stops_and_starts_again_gives_the_draft_back_and_takes_the_answer_once(
    app_server, page_as, screenshot
):
    person = page_as("labeler")
    first, second = app_server.ranking_task(ANSWERS), app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page, first)
    press(page, {ANSWERS[0]: "1"})
    expect(page.locator(".pawl-saved")).to_have_text("Draft saved")

    app_server.process.stop()
    press(page, {ANSWERS[1]: "1"})
    page.get_by_label("Comment on this task").fill("while it was away")
    expect(page.locator(".pawl-status")).to_contain_text(CUT)
    screenshot(page, "app-away")
    app_server.process.start_again()
    expect(page.locator(".pawl-saved")).to_have_text("Draft saved")
    kept = {ANSWERS[0]: "1", ANSWERS[1]: "1", ANSWERS[2]: "", "comment": "while it was away"}
    assert draft(page) == kept

    page.evaluate("localStorage.clear()")  # what comes back comes from the app
    page.reload()
    begin(page, first)
    assert draft(page) == kept
    press(page, {ANSWERS[2]: "3"})
    screenshot(page, "app-again")
    page.keyboard.press("Enter")

    begin(page, second)
    assert mine(app_server, person) == [(first, 1)]
    assert app_server.ranks_by_text(first) == dict(zip(ANSWERS, (1, 1, 3), strict=True))


OUT_OF_REACH = """() => [...document.querySelectorAll("a, button, input, textarea, select, summary")].filter((node) => {
  const box = (node.closest("label") ?? node).getBoundingClientRect();
  if (!node.checkVisibility({ visibilityProperty: true, opacityProperty: true })) return false;
  return box.left < 0 || box.right > innerWidth || box.height < 24;
}).map((node) => node.outerHTML.slice(0, 160))"""


def fits(page: Page) -> None:
    """Nothing is wider than the screen, and whatever can be pressed is on it and large enough for a finger."""
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    assert page.evaluate(OUT_OF_REACH) == []


def drag(page: Page, letter, place) -> None:
    """A finger takes the letter to the place."""
    letter.evaluate("node => node.scrollIntoView({ block: 'center' })")
    boxes = [letter.bounding_box(), place.bounding_box()]
    start, end = ({"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2} for box in boxes)
    hand = page.context.new_cdp_session(page)
    for kind, points in (("touchStart", [start]), ("touchMove", [end]), ("touchMove", [end]), ("touchEnd", [])):
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_a_day_on_a_phone_by_touch_alone(app_server, page_as, screenshot):
    person = page_as("labeler", phone=True)
    first, second = app_server.ranking_task(ANSWERS), app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page, first)
    responses = page.locator(".pawl-response")
    responses.nth(0).get_by_role("button", name="2 of 3").tap()
    responses.nth(1).get_by_role("button", name="2 of 3").tap()  # a tie
    drag(page, responses.nth(2).locator(".pawl-letter"), page.locator(".pawl-slot[data-slot='1']"))
    expect(page.locator(".pawl-slot[data-slot='2'] .pawl-chip")).to_have_count(2)
    expect(responses.nth(2)).to_have_attribute("data-rank", "1")
    responses.nth(2).get_by_text("Ratings, flags, rewrite").tap()
    expect(responses.nth(2).locator("details")).to_have_attribute("open", "")
    fits(page)
    screenshot(page, "phone-ranked")
    page.get_by_role("button", name="Submit").tap()
    begin(page, second)

    page.get_by_role("button", name="Undo").tap()
    begin(page, first)
    expect(responses.nth(2)).to_have_attribute("data-rank", "1")
    responses.nth(2).get_by_role("button", name="Unrankable").tap()
    page.get_by_role("button", name="Submit").tap()
    begin(page, second)
    page.get_by_role("button", name="Skip").tap()
    fits(page)
    page.get_by_role("button", name="The prompt makes no sense").tap()
    expect(page.get_by_role("button", name="Take it back")).to_be_visible()
    fits(page)

    page.get_by_role("link", name="Demonstrate", exact=True).tap()
    text = page.get_by_label("Write the ideal response")
    text.tap()
    page.keyboard.insert_text("A lever that lets a wheel turn one way only.")
    page.get_by_role("button", name="Preview").tap()
    expect(page.locator(".pawl-preview")).to_contain_text("one way only")
    fits(page)
    screenshot(page, "phone-demonstrated")
    written = page.locator(".pawl-desk").get_attribute("data-task")
    page.get_by_role("button", name="Submit").tap()
    expect(page.locator(".pawl-status")).to_contain_text("Saved")
    expect(page.get_by_text("Guidelines").first).to_be_visible()

    page.get_by_role("link", name="History").tap()
    expect(page.locator(".pawl-entry")).to_have_count(2)
    fits(page)
    screenshot(page, "phone-history")
    page.locator(f".pawl-entry[data-task='{first}']").get_by_role("link", name="Change").tap()
    begin(page, first)
    responses.nth(1).get_by_role("button", name="1 of 3").tap()
    fits(page)
    page.get_by_role("button", name="Submit").tap()
    expect(page.locator(f".pawl-entry[data-task='{first}']")).to_contain_text("Ranks 1 · 2")

    assert sorted(task for task, _ in mine(app_server, person)) == sorted([first, written])
