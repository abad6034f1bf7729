"""The main job, in a browser from end to end: rank, write, start a cycle, see it end, rank what the new model says."""

from __future__ import annotations

import json
import re
import shutil
import time

import pytest
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CYCLE_SECONDS = 600
SMALL = {"sft.epochs": 2, "reward.epochs": 1, "ppo.steps": 5, "ppo.batch_size": 32, "ppo.minibatch_size": 32}
SMALL |= {"evaluate.samples": 2, "sample.prompts": 20}  # this taste needs no more


@pytest.fixture(scope="module")
def app(first_model, tmp_path_factory, running_app):
    workspace = shutil.copytree(first_model, tmp_path_factory.mktemp("cycle") / "workspace")
    with running_app(workspace, pages=True) as app:
        yield app


@pytest.fixture
def page(app, browser) -> Page:
    """The admin's page, signed in by the one-time link that the first start printed."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    page.set_default_timeout(30_000)
    link = re.search(r"http://\S+/sign-in\?link=\S+", app.log.read_text())
    page.goto(link[0])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("New password").fill("a long enough password")
    page.get_by_role("button", name="Set the password").click()
    page.get_by_role("link", name="Go to Pawl").click()
    expect(page.locator(".pawl-response").first).to_be_visible()
    yield page
    context.close()


def rank_by_keys(page: Page) -> None:
    """Rank the task on the screen by keys alone: first and last tie for best, the others come after."""
    expect(page.locator(".pawl-response").first).to_be_focused()
    count = page.locator(".pawl-response").count()
    for position in range(count):
        page.keyboard.press(str(1 if position in (0, count - 1) else position + 1))
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")


def test_label_retrain_and_label_the_new_model(app, page, pawl, screenshot, type_into):
    page.goto(app.url + "/")
    for number in range(1, 6):
        rank_by_keys(page)
        wait_for(lambda number=number: app.owner.get("/stats").json()["labels"]["rankings"] == number)
    screenshot(page, "cycle-1-ranked")

    page.goto(app.url + "/demonstrate")
    page.locator("textarea").first.fill("A pawl lets a wheel turn one way only, so that nothing slips back.")
    page.keyboard.press("Control+Enter")
    wait_for(lambda: app.owner.get("/stats").json()["labels"]["demonstrations"] == 276)

    others = ["annotate", "simulate", "--workspace", app.workspace, "--labelers", 5, "--rankings", 120]
    pawl(*others, "--taste", "prefers-short", "--noise", 0.1)

    page.goto(app.url + "/training")
    type_into(page.get_by_label("Options of single stages"), json.dumps(SMALL))
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text("cycle-0002 is running")).to_be_visible(timeout=60_000)
    wait_for(lambda: page.locator("canvas, svg.marks, .vega-embed").count() > 0, seconds=240)
    screenshot(page, "cycle-2-running")
    cycle = wait_for(lambda: ended(app.owner.get("/cycles/cycle-0002").json()), seconds=CYCLE_SECONDS)
    assert cycle["state"] == "promoted", cycle["verdict"]
    expect(page.get_by_text(re.compile("cycle-0002 .*promoted")).first).to_be_visible()
    expect(page.get_by_text("cycle-0002 has started")).to_have_count(0)
    expect(page.get_by_text("No reward model was measured")).to_have_count(0)
    screenshot(page, "cycle-3-ended")

    page.goto(app.url + "/checkpoints")
    expect(page.get_by_text(cycle["checkpoint"]).first).to_be_visible()
    screenshot(page, "cycle-4-checkpoints")

    page.goto(app.url + "/")
    for number in (126, 127, 128):  # the task that was on the screen, the one fetched to follow it, the new model's
        rank_by_keys(page)
        wait_for(lambda number=number: app.owner.get("/stats").json()["labels"]["rankings"] == number)
    rows = [json.loads(line) for line in app.owner.get("/export/rankings?format=jsonl").text.splitlines()]
    newest = max(rows, key=lambda row: row["created_at"])
    assert {response["source"] for response in newest["responses"]} == {cycle["checkpoint"]}


def ended(cycle: dict) -> dict | None:
    return None if cycle["state"] in ("queued", "running") else cycle


def wait_for(condition, seconds: float = 60):
    """What `condition` returns once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError("It did not become true.")
