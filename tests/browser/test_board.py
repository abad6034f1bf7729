"""Long responses in a real browser: formatted, folded, side by side, word by word; and writing with a preview."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WHY = "it must not turn back, whatever pulls at it, and however long it takes to let go"
CODE = "\n".join(f"    step_{n} = pawl.hold(wheel, tooth={n}, because='{WHY}')" for n in range(9))
LONG = f"""## How a pawl works

A **pawl** falls into the teeth of a *ratchet wheel*. The wheel turns one way, and not the other:

1. The tooth lifts the pawl.
2. The pawl falls behind it.
   - A spring, or its weight, holds it there.

```python
def ratchet(wheel, pawl):
{CODE}
```

The torque is $\\tau = F \\cdot r$, and with $n$ teeth it moves by at most
$$\\Delta\\varphi = \\frac{{2\\pi}}{{n}}$$

| teeth | step |
|------:|-----:|
| 12 | 30° |
| 24 | 15° |

> It does not slip. See [the drawing](https://example.org/pawl.png) and ![a photo](https://example.org/x.png).
"""
SHORT = "A pawl is a small lever. It falls into the teeth of a wheel, so that the wheel turns one way only."
OTHER = "A pawl is a tiny lever that falls into the teeth of a wheel, so that it turns one way only."
RTL = "**السقاطة** رافعة صغيرة تمنع العجلة من الدوران إلى الخلف. `pawl.hold()`"


def begin(page: Page) -> None:
    expect(page.locator(".pawl-desk[data-state=task]")).to_be_visible()
    expect(page.locator(".pawl-response").first).to_be_focused()


def go_to(page: Page, text: str) -> None:
    """Move to the response whose text this is."""
    texts = page.locator(".pawl-response > .pawl-text").all_text_contents()
    page.locator(".pawl-response").nth(texts.index(text)).focus()


def current(page: Page):
    return page.locator(".pawl-response[data-current]")


def fits(page: Page) -> None:
    """Nothing but what scrolls by itself is wider than the window."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_responses_are_formatted_and_f_shows_them_as_they_were_written(app_server, page_as):
    page = page_as("labeler")
    app_server.ranking_task([LONG, SHORT])
    page = page.visit("/")
    begin(page)
    go_to(page, LONG)
    formatted = current(page).locator(".pawl-formatted")

    expect(formatted.get_by_role("heading", name="How a pawl works")).to_be_visible()
    expect(formatted.locator("math")).to_have_count(3)
    expect(formatted.locator("ol > li > ul > li")).to_have_text("A spring, or its weight, holds it there.")
    expect(formatted).to_contain_text(
        "the drawing (https://example.org/pawl.png) and a photo (https://example.org/x.png)"
    )
    assert formatted.locator("a, img").count() == 0
    assert formatted.locator("pre").evaluate("node => node.scrollWidth > node.clientWidth")
    fits(page)

    page.keyboard.press("f")
    expect(formatted).to_be_hidden()
    expect(current(page).locator("> .pawl-text")).to_contain_text("## How a pawl works")
    page.reload()
    begin(page)
    expect(page.locator(".pawl-formatted:visible")).to_have_count(0)
    page.keyboard.press("f")
    expect(page.locator(".pawl-formatted:visible")).to_have_count(1)


def test_a_failure_to_format_leaves_the_plain_text(app_server, page_as):
    page = page_as("labeler").page
    page.route("**/api/v1/render", lambda route: route.fulfill(status=422, json={"detail": "no"}))
    app_server.ranking_task([LONG, SHORT])
    page.goto("/")
    begin(page)

    expect(page.locator(".pawl-response > .pawl-text:visible")).to_have_count(2)
    page.unroute("**/api/v1/render")
    tree = [["p", {"onclick": "window.hacked=1", "dir": "auto"}, ["a"]], ["script", {}, ["window.hacked=2"]]]
    page.route("**/api/v1/render", lambda route: route.fulfill(json={"trees": [tree] * 9}))
    page.reload()
    begin(page)
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert page.locator(".pawl-formatted").count() == 0


def test_a_long_response_is_folded_and_e_shows_all_of_it(app_server, page_as, screenshot):
    person = page_as("labeler")
    app_server.ranking_task([LONG, SHORT])
    page = person.visit("/")
    begin(page)
    go_to(page, LONG)
    formatted = current(page).locator(".pawl-formatted")
    expect(formatted).to_be_visible()
    folded = formatted.bounding_box()["height"]
    expect(current(page)).to_contain_text(f"{len(LONG.split())} words")
    screenshot(page, "board-folded")

    page.keyboard.press("e")
    assert formatted.bounding_box()["height"] > folded
    screenshot(page, "board-long")
    current(page).get_by_role("button", name="Show less").click()
    assert formatted.bounding_box()["height"] == folded
    expect(page.locator(".pawl-response[data-folded]")).to_have_count(1)  # the short one has nothing to fold


def test_chosen_responses_stand_side_by_side_and_are_ranked_there(app_server, page_as, screenshot):
    person = page_as("labeler")
    task = app_server.ranking_task([LONG, SHORT, OTHER, RTL])
    page = person.visit("/")
    begin(page)

    for text in (SHORT, OTHER, LONG):
        go_to(page, text)
        page.keyboard.press("m")
    page.keyboard.press("v")
    expect(page.locator(".pawl-response:visible")).to_have_count(3)
    tops = page.locator(".pawl-response:visible").evaluate_all("nodes => nodes.map(n => n.getBoundingClientRect().top)")
    assert len(set(tops)) == 1
    for text, rank in ((SHORT, "1"), (OTHER, "2"), (LONG, "1")):
        go_to(page, text)
        page.keyboard.press(rank)
    page.locator(".pawl-response:visible").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".pawl-response:visible").nth(1)).to_be_focused()
    screenshot(page, "board-columns")

    page.keyboard.press("Enter")  # the fourth has no rank: it is shown again
    expect(page.locator(".pawl-response:visible")).to_have_count(4)
    expect(current(page).locator("> .pawl-text")).to_have_text(RTL)
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    if "order in which" in page.locator(".pawl-status").text_content():
        page.keyboard.press("Enter")
    expect(page.locator(".pawl-desk[data-state=idle]")).to_be_visible()
    assert app_server.ranks_by_text(task) == {SHORT: 1, OTHER: 2, LONG: 1, RTL: 3}


def test_the_differences_of_two_responses_are_marked(app_server, page_as, screenshot):
    person = page_as("labeler")
    app_server.ranking_task([SHORT, OTHER, LONG])
    page = person.visit("/")
    begin(page)
    page.keyboard.press("x")
    expect(page.locator(".pawl-status")).to_contain_text("Choose two responses first")

    go_to(page, SHORT)
    page.keyboard.press("m")
    go_to(page, OTHER)
    page.keyboard.press("x")
    dialog = page.locator("dialog[open]")
    assert {*dialog.locator(".pawl-difference del").all_text_contents()} & {"small", "tiny"}
    assert {*dialog.locator(".pawl-difference ins").all_text_contents()} & {"small", "tiny"}
    line = "node => getComputedStyle(node).textDecorationLine"
    assert dialog.locator(".pawl-difference del").first.evaluate(line) == "line-through"
    assert dialog.locator(".pawl-difference ins").first.evaluate(line) == "underline"
    screenshot(page, "board-difference")
    page.keyboard.press("x")
    expect(dialog).to_have_count(0)
    expect(current(page).locator("> .pawl-text")).to_have_text(OTHER)


def test_differences_are_the_fewest_and_give_both_texts_back(app_server, page_as):
    """Against the textbook's table of longest common subsequences, on random words."""
    page = page_as("labeler").page
    source = (ROOT / "annotate/ranking_board/words.js").read_text()
    random.seed(7)
    pairs = [[" ".join(random.choices("abcdef", k=random.randrange(12))) for _ in range(2)] for _ in range(200)]
    kept = page.evaluate(
        f"""(pairs) => {{ {source}
            return pairs.map((pair) => {{
              const [a, b] = pair.map((text) => Int32Array.from(text.split(" ").join(""), (c) => c.charCodeAt(0)));
              const [keptA, keptB] = [new Uint8Array(a.length), new Uint8Array(b.length)];
              align(a, 0, a.length, b, 0, b.length, keptA, keptB);
              return [[...keptA], [...keptB], differences(...pair)];
            }});
        }}""",
        pairs,
    )

    for (before, after), (kept_a, kept_b, runs) in zip(pairs, kept, strict=True):
        a, b = before.replace(" ", ""), after.replace(" ", "")
        common = ["".join(c for c, k in zip(text, keep, strict=True) if k) for text, keep in ((a, kept_a), (b, kept_b))]
        assert common[0] == common[1]
        assert len(common[0]) == longest_common(a, b)
        assert "".join(text for kind, text in runs if kind != "ins").split() == before.split()
        assert "".join(text for kind, text in runs if kind != "del").split() == after.split()
    assert page.evaluate(f"() => {{ {source} return differences('a '.repeat(4001), 'b'); }}") is None
    assert page.evaluate(f"() => {{ {source} return differences('自然言語', '自言語!'); }}") == [
        ["same", "自"],
        ["del", "然"],
        ["same", "言語"],
        ["ins", "!"],
    ]


def longest_common(a: str, b: str) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        above, row = row, [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
    return row[-1]


def with_fields(page: Page, **fields) -> list[dict]:
    """Let the answer of tasks/next carry these; the labels that are sent are kept in the list that comes back."""
    sent: list[dict] = []

    def task(route: Route) -> None:
        answer = route.fetch()
        if answer.status == 200:
            route.fulfill(json=answer.json() | fields)
        else:
            route.fulfill(response=answer)

    def label(route: Route) -> None:
        sent.append(json.loads(route.request.post_data))
        route.continue_()

    page.route("**/api/v1/tasks/next", task)
    page.route("**/api/v1/tasks/*/label", label)
    return sent


def test_what_a_project_does_not_ask_for_is_not_there(app_server, page_as, screenshot):
    page = page_as("labeler").page
    app_server.ranking_task([SHORT, OTHER])
    with_fields(page, asks={"ratings": False, "flags": ["pii", "denigrates"], "rewrite": False, "comment": False})
    page.goto("/")
    begin(page)
    page.keyboard.press("d")

    expect(current(page).locator("summary")).to_have_text("Flags")
    expect(current(page).get_by_role("checkbox")).to_have_count(2)
    expect(current(page).get_by_label("Denigrates a group")).to_be_visible()
    expect(page.get_by_label("Comment on this task")).to_have_count(0)
    expect(page.get_by_role("button", name="Rewrite it better")).to_have_count(0)
    screenshot(page, "board-asks")

    page.unroute("**/api/v1/tasks/next")
    with_fields(page, asks={"ratings": False, "flags": False, "rewrite": False, "comment": False})
    page.reload()
    begin(page)
    expect(page.locator(".pawl-more")).to_have_count(0)
    page.keyboard.press("d")
    expect(page.locator(".pawl-status")).to_contain_text("ranks alone")


def test_the_new_flags_are_stored(app_server, page_as, screenshot):
    person = page_as("labeler")
    task = app_server.ranking_task([SHORT, OTHER])
    page = person.visit("/")
    begin(page)
    page.keyboard.press("d")
    current(page).get_by_text("Encourages harm").click()
    current(page).get_by_text("Personal data").click()
    screenshot(page, "board-details")
    for rank in "21":
        page.locator(".pawl-response").nth("21".index(rank)).focus()
        page.keyboard.press(rank)
    page.keyboard.press("Enter")
    expect(page.locator(".pawl-desk[data-state=idle]")).to_be_visible()

    (flags,) = app_server.rankings()[task]["flags"].values()
    assert sorted(flags) == ["encourages_harm", "pii"]


def test_a_demonstration_has_a_preview_and_hints(app_server, page_as, screenshot):
    person = page_as("labeler", width=1400)
    page = person.visit("/demonstrate")
    text = page.get_by_label("Write the ideal response")
    expect(text).to_be_focused()
    page.keyboard.type("Two *words*")
    expect(page.locator(".pawl-hint")).to_contain_text("Very short")
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    expect(page.locator(".pawl-preview em")).to_have_text("words")
    page.keyboard.press("Enter")
    expect(text).to_be_focused()
    text.fill("Это ответ на вопрос, написанный другими буквами.")
    expect(page.locator(".pawl-hint")).to_contain_text("written in Latin letters and this in Cyrillic")
    text.fill(LONG)
    expect(page.locator(".pawl-preview math")).to_have_count(3)
    expect(page.locator(".pawl-hint")).to_be_empty()
    desk, guideline = (
        page.locator(".pawl-desk").bounding_box(),
        page.get_by_text("What makes a response good").bounding_box(),
    )
    assert guideline["x"] > desk["x"] + desk["width"]
    screenshot(page, "board-preview")
    page.reload()
    expect(page.locator(".pawl-preview math")).to_have_count(3)


def test_a_demonstration_starts_from_a_model_response_and_says_so(app_server, page_as, screenshot):
    page = page_as("labeler").page
    drafts = [{"id": "r-1", "text": SHORT}, {"id": "r-2", "text": OTHER}]
    sent = with_fields(page, drafts=drafts)
    page.goto("/demonstrate")
    text = page.get_by_label("Write the ideal response")
    expect(text).to_be_focused()

    page.get_by_role("button", name="Start from a model's response").click()
    screenshot(page, "board-start")
    page.keyboard.press("2")
    expect(text).to_have_value(OTHER)
    page.keyboard.press("Control+Enter")
    expect(page.locator(".pawl-status")).to_contain_text("the model's response as it was")
    page.keyboard.press("Control+End")
    page.keyboard.type(" It clicks.")
    page.get_by_role("button", name="What I changed").click()
    expect(page.locator("dialog .pawl-difference ins")).to_have_text("It clicks.")
    page.keyboard.press("Escape")
    expect(text).to_be_focused()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".pawl-status")).to_contain_text("Saved")

    assert sent[0]["response"] == f"{OTHER} It clicks."
    assert sent[0]["from"] == "r-2"
    page.keyboard.type("My own words for it all.")
    page.keyboard.press("Control+Enter")
    expect(text).to_be_empty()
    assert "from" not in sent[1]


@pytest.mark.parametrize(("width", "dark"), [(360, False), (1280, True), (1800, False)])
def test_long_formatted_responses_fit_every_screen(app_server, page_as, screenshot, width, dark):
    person = page_as("labeler", width=width, height=860, dark=dark)
    app_server.ranking_task([LONG, SHORT, RTL, "```\n" + "wide " * 80 + "\n```"])
    page = person.visit("/")
    begin(page)
    expect(page.locator(".pawl-formatted:visible")).to_have_count(3)
    go_to(page, LONG)
    page.keyboard.press("e")
    page.locator(".pawl-response").first.focus()
    fits(page)
    screenshot(page, f"board-{width}-{'dark' if dark else 'light'}")
    page.keyboard.press("v")
    fits(page)
    screenshot(page, f"board-columns-{width}-{'dark' if dark else 'light'}")
