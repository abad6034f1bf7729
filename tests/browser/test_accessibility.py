"""Every page, light and dark, as axe-core sees it: no serious or critical violation of WCAG 2.2 A and AA. And it fits.

A page is one line in PAGES: its address, who looks at it, and what is on the screen once it is drawn.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
GRAVE = ("serious", "critical")
PAGES = {  # name: address, role, what is there when the page is drawn, width
    "rank": ("/", "labeler", ".pawl-response", 1280),
    "rank on a phone": ("/", "labeler", ".pawl-response", 360),
    "rank, nothing to do": ("/", "labeler", ".pawl-idle", 1280),
    "demonstrate": ("/demonstrate", "labeler", ".pawl-ideal", 1280),
    "converse": ("/converse", "labeler", ".pawl-desk textarea", 1280),
    "history": ("/history", "labeler", ".pawl-desk .pawl-note", 1280),
    "review": ("/review", "reviewer", ".pawl-idle", 1280),
    "people": ("/people", "admin", ".pawl-tiles", 1280),
    "project": ("/project", "researcher", "textarea", 1280),
    "datasets": ("/datasets", "researcher", ".pawl-leaves", 1280),
    "training": ("/training", "researcher", ".vega-embed", 1280),
    "checkpoints": ("/checkpoints", "researcher", ".pawl-table", 1280),
    "a page that is closed": ("/training", "labeler", ".pawl-note", 1280),
    "account": ("/sign-in/account", "labeler", "form", 1280),
    "sign in": ("/sign-in", None, "form", 1280),
}
LEVELS = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
COLOURS = {"type": "rule", "values": ["color-contrast"]}  # all that is another in the dark
# What is Gradio's and not ours to mend: rule, and how the element begins. Each with the reason.
GRADIOS: dict[tuple[str, str], str] = {}


def violations(page, rules: dict | None = None) -> list[str]:
    """What axe-core finds grave, as lines of rule, element and what is wrong."""
    options = {"runOnly": rules or LEVELS, "resultTypes": ["violations"]}
    page.evaluate(AXE)  # by the debugger: the forms' policy lets no script in
    found = page.evaluate("options => axe.run(document, options)", options)["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:160]} | {node['failureSummary'][:300]}"
        for rule in found
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
        if not any(rule["id"] == known and node["html"].startswith(start) for known, start in GRADIOS)
    ]


@pytest.fixture
def shown(request, app_server, page_as):
    """shown(name): a page of PAGES, drawn."""

    def show(name):
        address, role, ready, width = PAGES[name]
        person = page_as(role or "labeler", width=width, height=860)
        if role is None:
            person.page.context.clear_cookies()
        if ready == ".pawl-response":
            app_server.ranking_task([f"A pawl stops a ratchet, said {n}." for n in range(4)])
        if name == "training":
            request.getfixturevalue("finished_cycle")
        if address == "/checkpoints":
            body = {"stage": "sft", "parents": [], "snapshot": None, "metrics": {"loss": 2.25}, "reason": "The best."}
            made = {"id": "sft-0001", "state": "promoted", "created_at": "2026-01-02T03:04:05+00:00"}
            app_server.call("POST", "/checkpoints", {**body, **made})
        if address == "/datasets":
            [prompt] = app_server.call(
                "POST", "/prompts", [{"messages": [{"role": "user", "content": "Why? " * 200}]}]
            )["ids"]
            given = [{"text": text, "source": "pilot"} for text in ("one", "two", "three")]
            row = {"prompt_id": prompt, "responses": given, "ranks": [1, 1, 2], "flags": [["unsafe"], [], []]}
            app_server.call("POST", "/rankings", {"source": "pilot", "rows": [row]})
            app_server.call("POST", "/snapshots")
        page = person.visit(address)
        expect(page.locator(ready).first).to_be_visible()
        if role and ready != "form":
            expect(page.locator(".pawl-person")).to_be_visible()
        return page

    return show


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_screen_and_has_no_grave_violation_in_light_and_dark(shown, name, screenshot):
    page = shown(name)
    if "rank" in name and "nothing" not in name:  # what is folded away or pressed counts too
        page.keyboard.press("1")
        page.locator(".pawl-response").first.get_by_text("Ratings, flags, rewrite").click()
        page.locator(".pawl-response").first.get_by_role("button", name="Rewrite it better").click()
    found = {"light": violations(page)}
    page.emulate_media(color_scheme="dark")
    page.evaluate("document.body.classList.add('dark')")  # Gradio's pages look once, when they are loaded
    page.wait_for_timeout(400)  # colours change slowly
    found["dark"] = violations(page, COLOURS)

    assert found == {"light": [], "dark": []}
    for width in (1280, 390, 360):
        page.set_viewport_size({"width": width, "height": 1200})
        page.wait_for_timeout(300)  # plots are drawn anew
        screenshot(page, f"{name}-{width}-dark")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("keys", ["?", "s"])
def test_a_dialog_has_no_grave_violation(shown, keys):
    page = shown("rank")
    page.keyboard.press(keys)
    expect(page.get_by_role("dialog")).to_be_visible()

    assert violations(page) == []
