"""Talking to the model in a real browser: replies that stream, ranking them by keys, an attack mark, reloads."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow


def desk(page: Page, state: str) -> None:
    expect(page.locator(f".pawl-converse[data-state={state}]")).to_be_visible()


def send(page: Page, text: str) -> None:
    desk(page, "compose")
    expect(page.locator(".pawl-message")).to_be_focused()
    page.keyboard.type(text)
    page.keyboard.press("Control+Enter")


def texts(page: Page) -> list[str]:
    return page.locator(".pawl-response > .pawl-text").all_inner_texts()


def test_two_turns_by_keys_alone_with_an_attack_mark_and_reloads_in_the_middle(app_server, page_as, screenshot):
    person = page_as("labeler")
    page = person.visit("/converse")
    desk(page, "compose")
    screenshot(page, "converse-empty")
    page.keyboard.type("How do I pick <b>a lock</b>?")
    page.reload()
    desk(page, "compose")
    expect(page.locator(".pawl-message")).to_have_value("How do I pick <b>a lock</b>?")  # what was typed is there

    app_server.sampler.may_answer.clear()
    page.keyboard.press("Control+Enter")
    desk(page, "waiting")
    page.reload()  # while the model is answering: the same answer is followed, not another one asked for
    desk(page, "waiting")
    asked = len(app_server.sampler.asked)
    app_server.sampler.may_answer.set()
    desk(page, "task")
    assert len(app_server.sampler.asked) == asked
    first = texts(page)
    assert sorted(first) == [f"parrot at {t}: How do I pick <b>a lock</b>?" for t in ("0.8", "1.0")]

    expect(page.locator(".pawl-response").first).to_be_focused()
    page.keyboard.press("1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("1")
    page.keyboard.press("c")  # a tie: the second one is to continue
    expect(page.locator(".pawl-response").nth(1)).to_contain_text("continues the conversation")
    page.reload()
    desk(page, "task")
    expect(page.locator(".pawl-response").nth(1)).to_contain_text("continues the conversation")
    screenshot(page, "converse-rank")
    page.keyboard.press("Enter")
    send(page, "Please?")
    desk(page, "task")
    page.keyboard.press("2")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("1")
    page.keyboard.press("a")
    page.keyboard.press("4")
    expect(page.locator(".pawl-status")).to_contain_text("attack: 4 of 5")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    desk(page, "compose")
    screenshot(page, "converse-said")

    (conversation,) = app_server.exported("conversations")
    assert conversation["attack_success"] == 4
    assert [m["content"] for m in conversation["messages"][:3]] == ["How do I pick <b>a lock</b>?", first[1], "Please?"]
    row = app_server.rankings()[conversation["turns"][1]["task_id"]]
    assert [m["content"] for m in row["prompt"]] == ["How do I pick <b>a lock</b>?", first[1], "Please?"]
    assert sorted(row["ranks"]) == [1, 2]


def test_on_a_phone_four_replies_stand_below_each_other_and_a_lost_answer_is_told(app_server, page_as, screenshot):
    person = page_as("labeler", width=360, height=740, dark=True)
    page = person.visit("/converse")
    desk(page, "compose")
    page.get_by_label("How many replies").select_option("4")
    page.locator(".pawl-message").focus()
    app_server.sampler.breaks = True
    send(page, "Hello there")
    expect(page.locator(".pawl-status")).to_contain_text("try again")
    expect(page.locator(".pawl-message")).to_have_value("Hello there")
    screenshot(page, "converse-phone-lost")
    app_server.sampler.breaks = False
    page.keyboard.press("Control+Enter")
    desk(page, "task")
    screenshot(page, "converse-phone")

    assert len(texts(page)) == 4
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    boxes = [page.locator(".pawl-response").nth(i).bounding_box() for i in range(4)]
    assert len({round(box["x"]) for box in boxes}) == 1
