"""Ranking in a real browser: keys, drag, drafts, a lost connection, and texts that would like to be more than text."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

ANSWERS = ["It stops a ratchet.", "A part of a clock that holds.", "I do not know.", "Pawl pawl pawl pawl."]


def begin(page: Page) -> None:
    """Wait until a task is on the screen and its first response has the focus."""
    expect(page.locator(".pawl-desk[data-state=task]")).to_be_visible()
    expect(page.locator(".pawl-response").first).to_be_focused()


def rank_by_text(page: Page, wanted: dict[str, str]) -> None:
    """Press, on each response, the key that `wanted` gives to its text; then go down to the next."""
    for text in page.locator(".pawl-response > .pawl-text").all_inner_texts():
        page.keyboard.press(wanted[text])
        page.keyboard.press("ArrowDown")


def submit(page: Page) -> None:
    """Press Enter, once more when the order is the one shown, and wait for what comes next."""
    before = page.locator(".pawl-desk").get_attribute("data-task")
    page.keyboard.press("Enter")
    status = page.locator(".pawl-status")
    desk = page.locator(".pawl-desk")
    expect(desk.or_(status).first).to_be_visible()
    if "order in which they were shown" in (status.text_content() if status.count() else ""):
        page.keyboard.press("Enter")
    expect(page.locator(f".pawl-desk[data-task='{before}']")).to_have_count(0)


def test_five_tasks_are_ranked_by_keys_alone_ties_included(app_server, page_as, screenshot):
    person = page_as("labeler")
    nine = [f"answer number {n}" for n in range(1, 10)]
    wanted = [
        dict(zip(ANSWERS, "2143", strict=True)),
        dict(zip(ANSWERS, "1122", strict=True)),
        dict(zip(ANSWERS, "111u", strict=True)),
        {"yes": "1", "no": "2"},
        dict(zip(nine, "987654321", strict=True)),
    ]
    tasks = [app_server.ranking_task(list(answer)) for answer in wanted]

    page = person.visit("/")
    for answer in wanted:
        begin(page)
        rank_by_text(page, answer)
        if len(answer) == 9:
            screenshot(page, "rank-nine")
        submit(page)

    expect(page.locator(".pawl-desk[data-state=idle]")).to_be_visible()
    for task, answer in zip(tasks, wanted, strict=True):
        expected = {text: None if key == "u" else int(key) for text, key in answer.items()}
        assert app_server.ranks_by_text(task) == expected


def test_the_board_starts_unranked_and_a_missing_rank_is_named(app_server, page_as):
    person = page_as("labeler")
    task = app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page)

    expect(page.locator(".pawl-rank[aria-pressed=true]")).to_have_count(0)
    expect(page.locator(".pawl-chip")).to_have_count(0)
    page.keyboard.press("1")
    page.keyboard.press("Enter")

    expect(page.locator(".pawl-status")).to_contain_text("Response B has no rank yet")
    expect(page.locator(".pawl-response").nth(1)).to_be_focused()
    assert task not in app_server.rankings()


def test_the_order_shown_must_be_meant(app_server, page_as):
    person = page_as("labeler")
    task = app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page)

    for key in "1234":
        page.keyboard.press(key)
        page.keyboard.press("Tab")
    page.locator(".pawl-response").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".pawl-status")).to_contain_text("order in which they were shown")
    assert task not in app_server.rankings()

    page.keyboard.press("Enter")
    expect(page.locator(".pawl-desk[data-state=idle]")).to_be_visible()
    assert sorted(app_server.ranks_by_text(task).values()) == [1, 2, 3, 4]


def test_zero_takes_a_rank_away_and_a_place_that_is_not_there_is_refused(app_server, page_as):
    person = page_as("labeler")
    app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page)
    first = page.locator(".pawl-response").first

    page.keyboard.press("3")
    expect(first).to_have_attribute("data-rank", "3")
    page.keyboard.press("9")
    expect(page.locator(".pawl-status")).to_contain_text("There are 4 places")
    expect(first).to_have_attribute("data-rank", "3")
    page.keyboard.press("0")
    expect(first).to_have_attribute("data-rank", "")


def test_letters_are_dragged_to_places(app_server, page_as, screenshot):
    person = page_as("labeler")
    task = app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page)
    texts = page.locator(".pawl-response > .pawl-text").all_inner_texts()

    def drag(what, place: str) -> None:
        what.scroll_into_view_if_needed()
        source, target = what.bounding_box(), page.locator(f".pawl-slot[data-slot='{place}']").bounding_box()
        page.mouse.move(source["x"] + source["width"] / 2, source["y"] + source["height"] / 2)
        page.mouse.down()
        page.mouse.move(target["x"] + 20, target["y"] + 10, steps=8)
        if place == "4":
            screenshot(page, "rank-dragging")
        page.mouse.up()

    for index, place in enumerate(["4", "1", "out", "2"]):
        drag(page.locator(".pawl-letter").nth(index), place)
    drag(page.locator(".pawl-slot[data-slot='2'] .pawl-chip"), "1")  # a second thought: a tie with the best

    expect(page.locator(".pawl-slot[data-slot='1'] .pawl-chip")).to_have_count(2)
    page.keyboard.press("Enter")
    expect(page.locator(".pawl-desk[data-state=idle]")).to_be_visible()
    assert app_server.ranks_by_text(task) == {texts[0]: 4, texts[1]: 1, texts[2]: None, texts[3]: 1}


def test_ratings_flags_a_rewrite_and_a_comment_travel_with_the_ranking(app_server, page_as, screenshot):
    person = page_as("labeler")
    task = app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page)
    first = page.locator(".pawl-response").first
    text = first.locator("> .pawl-text").inner_text()

    for key in "2134":
        page.keyboard.press(key)
        page.keyboard.press("ArrowDown")
    for _ in range(4):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("d")
    page.keyboard.press("6")  # the focus is on "helpful" now
    first.get_by_text("False", exact=True).click()
    first.get_by_role("button", name="Rewrite it better").click()
    page.keyboard.press("End")
    page.keyboard.type(" 1s?u0")  # none of these may act as a key of the board
    page.get_by_label("Comment on this task").fill("0 s ? u: only words")
    expect(first).to_have_attribute("data-rank", "2")
    expect(page.locator("dialog[open]")).to_have_count(0)
    screenshot(page, "rank-details")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".pawl-desk[data-state=idle]")).to_be_visible()

    row = app_server.rankings()[task]
    response = next(response["id"] for response in row["responses"] if response["text"] == text)
    assert row["ratings"] == {response: {"helpful": 6}}
    assert row["flags"] == {response: ["false"]}
    assert row["rewrite"] == {"response_id": response, "text": text + " 1s?u0"}
    assert row["comment"] == "0 s ? u: only words"


def test_a_reload_keeps_the_draft(app_server, page_as):
    person = page_as("labeler")
    app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page)
    page.keyboard.press("3")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("u")
    page.get_by_label("Comment on this task").fill("half a thought")

    page.reload()
    begin(page)

    expect(page.locator(".pawl-response").nth(0)).to_have_attribute("data-rank", "3")
    expect(page.locator(".pawl-response").nth(1)).to_have_attribute("data-rank", "out")
    expect(page.get_by_label("Comment on this task")).to_have_value("half a thought")


def test_a_lost_connection_is_waited_out_and_the_label_lands_once(app_server, page_as, screenshot):
    person = page_as("labeler")
    task = app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page)
    for key in "4321":
        page.keyboard.press(key)
        page.keyboard.press("ArrowDown")

    page.context.set_offline(True)
    page.keyboard.press("Enter")
    expect(page.locator(".pawl-status")).to_contain_text("No connection")
    page.keyboard.press("Enter")  # impatience changes nothing
    screenshot(page, "rank-offline")
    page.context.set_offline(False)

    expect(page.locator(".pawl-desk[data-state=idle]")).to_be_visible()
    assert app_server.rankings()[task]["revision"] == 1


def test_a_skip_gives_its_reason_and_the_task_does_not_come_back(app_server, page_as, screenshot):
    person = page_as("labeler")
    task = app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page)

    page.keyboard.press("s")
    screenshot(page, "rank-skip")
    page.keyboard.press("Escape")
    begin(page)
    page.keyboard.press("s")
    page.keyboard.press("2")

    expect(page.locator(".pawl-desk[data-state=idle]")).to_be_visible()
    assert task not in app_server.rankings()
    assert app_server.call("POST", "/tasks/next", {"kind": "ranking"}, person.token) is None


def test_the_last_answer_can_be_changed(app_server, page_as):
    person = page_as("labeler")
    tasks = [app_server.ranking_task(["one", "two"]) for _ in range(2)]
    page = person.visit("/")
    begin(page)
    first = page.locator(".pawl-desk").get_attribute("data-task")
    assert first in tasks
    rank_by_text(page, {"one": "1", "two": "1"})
    submit(page)

    begin(page)
    page.keyboard.press("b")
    expect(page.locator(f".pawl-desk[data-task='{first}']")).to_be_visible()
    rank_by_text(page, {"one": "2", "two": "1"})
    submit(page)

    assert app_server.ranks_by_text(first) == {"one": 2, "two": 1}
    assert app_server.rankings()[first]["revision"] == 2
    begin(page)  # and the other task is on the screen again


def test_a_task_that_was_given_away_meanwhile_is_said_so_and_the_next_one_comes(app_server, page_as):
    person = page_as("labeler")
    tasks = [app_server.ranking_task(["one", "two"]) for _ in range(2)]
    page = person.visit("/")
    begin(page)
    first = page.locator(".pawl-desk").get_attribute("data-task")
    mine = app_server.call("POST", "/tasks/next", {"kind": "ranking"}, person.token)
    assert mine["task_id"] == first
    app_server.call("POST", f"/tasks/{first}/skip", {"lease": mine["lease"], "reason": "from elsewhere"}, person.token)

    rank_by_text(page, {"one": "1", "two": "1"})
    page.keyboard.press("Enter")

    expect(page.locator(f".pawl-desk[data-task='{(set(tasks) - {first}).pop()}']")).to_be_visible()
    expect(page.locator(".pawl-status")).not_to_contain_text("Saved")
    assert first not in app_server.rankings()


HOSTILE = [
    '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script>',
    "${(() => { window.hacked = 3 })()} {{constructor.constructor('window.hacked=4')()}} \\u0041 `",
    '<svg onload="window.hacked=5"></svg><iframe srcdoc="<script>parent.hacked=6</script>"></iframe>',
    "![x](http://tracker.invalid/p.png) <style>body{display:none}</style> [go](javascript:window.hacked=7)\n\n# no",
]


def test_hostile_texts_are_shown_as_text_and_nothing_else_happens(app_server, page_as, screenshot):
    person = page_as("labeler")
    asked = [
        {"role": "system", "content": '<b onclick="window.hacked=8">be bold</b>'},
        {"role": "user", "content": '"><img src="http://tracker.invalid/q.png" onerror="window.hacked=9">'},
        {"role": "assistant", "content": "</textarea><script>window.hacked=10</script>"},
        {"role": "user", "content": "   two  spaces\nand a new line"},
    ]
    task = app_server.ranking_task(HOSTILE, asked)
    page = person.visit("/")
    begin(page)

    shown = page.locator(".pawl-response > .pawl-text")
    assert sorted(shown.evaluate_all("nodes => nodes.map(node => node.textContent)")) == sorted(HOSTILE)
    turns = page.locator(".pawl-turn .pawl-text").evaluate_all("nodes => nodes.map(node => node.textContent)")
    assert turns == [message["content"] for message in asked]
    assert page.locator(".pawl-desk :is(img, script, svg, iframe, style, b, h1)").count() == 0
    page.keyboard.press("d")
    page.locator(".pawl-response").first.get_by_role("button", name="Rewrite it better").click()
    page.keyboard.type("<i>")
    page.keyboard.press("Escape")
    screenshot(page, "rank-hostile")
    for key in "2143":
        page.keyboard.press(key)
        page.keyboard.press("ArrowDown")
    submit(page)

    assert page.evaluate("window.hacked") is None
    assert task in app_server.rankings()
    assert person.foreign_requests() == []


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_the_board_fits_its_screen(app_server, page_as, screenshot, width, dark):
    person = page_as("labeler", width=width, height=860 if width > 400 else 844, dark=dark)
    long = "A pawl is a small lever that lets a wheel turn one way only. " * 4
    asked = [
        {"role": "user", "content": "What is a pawl?"},
        {"role": "assistant", "content": "A part of a ratchet."},
        {
            "role": "user",
            "content": "Explain it to a child, in two or three sentences, with an example from daily life.",
        },
    ]
    app_server.ranking_task([long, "def pawl(wheel):\n    wheel.hold()\n", "w" * 300, "It stops a ratchet."], asked)
    page = person.visit("/")
    begin(page)
    for key in "21u":
        page.keyboard.press(key)
        page.keyboard.press("ArrowDown")
    page.locator(".pawl-response").first.focus()
    page.evaluate("window.scrollTo(0, 0)")
    screenshot(page, f"rank-{width}-{'dark' if dark else 'light'}")

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".pawl-bar").bounding_box()["y"] < page.viewport_size["height"]


def test_the_keys_are_explained(app_server, page_as, screenshot):
    person = page_as("labeler")
    app_server.ranking_task(ANSWERS)
    page = person.visit("/")
    begin(page)

    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    screenshot(page, "rank-keys")
    page.keyboard.press("1")
    page.keyboard.press("Escape")

    expect(page.get_by_role("dialog", name="Keys")).to_have_count(0)
    expect(page.locator(".pawl-response").first).to_have_attribute("data-rank", "")


def test_an_empty_queue_says_why_and_fills_by_itself(app_server, page_as, screenshot):
    person = page_as("labeler")
    page = person.visit("/")
    why = re.compile("There is nothing to rank yet|Everything is ranked")  # as there is a model or none
    expect(page.get_by_role("heading", name=why)).to_be_visible()
    expect(page.get_by_role("link", name="Write demonstrations")).to_be_visible()
    screenshot(page, "rank-empty")

    app_server.ranking_task(ANSWERS)
    begin(page)


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_every_text_colour_stands_out_from_every_ground():
    from annotate.panels import COLOURS

    grounds = {
        "text": ("page", "surface", "sunken", "soft"),
        "muted": ("page", "surface", "sunken"),
        "on-accent": ("accent",),
    }
    grounds |= {"accent": ("page", "surface"), "warn": ("page", "surface"), "bad": ("page", "surface")}
    for block in re.findall(r"(?::root|\.dark) \{(.*?)\}", COLOURS, re.DOTALL)[:2]:
        colours = dict(re.findall(r"--pawl-([a-z-]+): (#[0-9a-f]{6})", block))
        for text, behind in grounds.items():
            for ground in behind:
                assert contrast(colours[text], colours[ground]) >= 4.5, f"{text} on {ground}"
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert all(one != other for one, other in pairwise(re.findall(r"--pawl-page: (#\w+)", COLOURS)))
