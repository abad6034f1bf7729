"""Every place that shows a text, shown all the hostile ones: nothing runs or leaves, and the text is on the screen.

The app of this file has hostile guidelines too, so each labeling page is tested together with them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Error, expect

from data.runs import RunFolder

pytestmark = pytest.mark.slow

BLIND = "blindfold"  # part of each checkpoint's name here
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (e) => violations.push(`${e.violatedDirective} ${e.blockedURI}`));
"""


@pytest.fixture(scope="module")
def app_server(tmp_path_factory, start_app, hostile):
    with start_app(tmp_path_factory.mktemp("hostile")) as server:
        server.call("PUT", "/guideline", {"text": "\n\n".join(["Rank them.", *hostile.ATTACKS.values()])})
        yield server


@pytest.fixture
def watched(page_as):
    """watched(role): somebody signed in, in whose browser everything is noted that a text must not do."""

    def sign_in(role):
        person = page_as(role)
        person.page.add_init_script(WATCH)
        person.dialogs, person.responses = [], []
        person.page.on("dialog", lambda dialog: (person.dialogs.append(dialog.message), dialog.dismiss()))
        person.page.on("response", lambda response: person.responses.append(response))
        return person

    return sign_in


def assert_harmless(person):
    page = person.page
    page.wait_for_timeout(300)  # what loads or fails does so a little later
    assert page.evaluate("[window.pwned, ({}).pwned, window.cookie]") == [None, None, None]
    assert page.evaluate("window.violations") == []
    assert person.dialogs == [] and len(page.context.pages) == 1 and len(page.frames) == 1
    assert "pwned" not in page.title()
    assert person.foreign_requests() == []
    assert [url for url in person.requests if urlsplit(url).path.startswith("/pwned")] == []


def assert_blind(person):
    """No word of a checkpoint on the screen, in the document, or in anything that was sent to the browser."""
    assert BLIND not in person.page.content()
    read = set()
    for response in person.responses:
        if "/heartbeat/" not in response.url and response.status not in (204, 303, 304):
            try:
                text = response.text()
            except Error:  # of a page that has been left
                continue
            read.add(urlsplit(response.url).path.rstrip("/"))
            assert BLIND not in text, response.url
    assert {"/api/v1/me", "/api/v1/tasks/next", "/gradio_api/component_server"} <= read
    assert "/api/v1/health" not in read


def texts_of(locator):
    return locator.evaluate_all("nodes => nodes.map(node => node.textContent)")


def in_a_box(text):
    """As a textarea gives it back: line ends are \\n."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def see_guidelines(page, hostile, *, folded):
    if folded:
        page.get_by_role("button", name="Guidelines").click()
    expect(page.get_by_text("Rank them.")).to_be_visible()
    [shown] = texts_of(page.locator(".pawl-prose"))
    markup = [text for text in hostile.ATTACKS.values() if text.startswith("<") and text.isprintable()]
    assert len(markup) > 20 and [text for text in markup if text not in shown] == []


def promote(app_server, checkpoint_id, **fields):
    body = {"id": checkpoint_id, "stage": "ppo", "parents": [], "snapshot": None, "metrics": {}, "reason": ""}
    made = datetime.now(UTC).isoformat()
    app_server.call("POST", "/checkpoints", {**body, "state": "promoted", "created_at": made, **fields})


@pytest.fixture
def hostile_prompt(app_server, hostile):
    """A prompt with each attack in a turn of its own; its id. A checkpoint is promoted."""
    promote(app_server, f"ppo-{BLIND}")
    return app_server.call("POST", "/prompts", [{"messages": hostile.conversation(), "split": "train"}])["ids"][0]


def test_ranking_shows_every_attack_as_text_and_names_no_checkpoint(app_server, watched, hostile, hostile_prompt):
    person = watched("labeler")
    given = [{"text": text, "source": f"ppo-{BLIND}"} for text in hostile.chunks(9)]
    task = app_server.call("POST", "/tasks", {"prompt_id": hostile_prompt, "responses": given, "overlap": 1})["task_id"]
    page = person.visit("/")
    expect(page.locator(".pawl-response").first).to_be_focused()
    see_guidelines(page, hostile, folded=True)

    assert texts_of(page.locator(".pawl-turn .pawl-text")) == [turn["content"] for turn in hostile.conversation()]
    assert sorted(texts_of(page.locator(".pawl-response > .pawl-text"))) == sorted(hostile.chunks(9))
    assert page.locator(".pawl-desk :is(img, script, svg, iframe, style, form, a, template, object)").count() == 0
    assert page.locator(".pawl-desk [href], .pawl-desk [src], .pawl-desk math :is([style], [class], [id])").count() == 0

    everything = "\n".join(hostile.ATTACKS.values())
    page.get_by_label("Comment on this task").fill(everything)
    first = page.locator(".pawl-response").first
    first.get_by_text("Ratings, flags, rewrite").click()
    first.get_by_role("button", name="Rewrite it better").click()
    first.get_by_label("Response A, rewritten").fill(everything)
    page.reload()
    expect(page.get_by_label("Comment on this task")).to_have_value(in_a_box(everything))
    page.locator(".pawl-response").first.get_by_text("Ratings, flags, rewrite").click()
    expect(page.get_by_label("Response A, rewritten")).to_have_value(in_a_box(everything))
    page.keyboard.press("Escape")
    for _ in range(9):
        page.keyboard.press("1")
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".pawl-desk[data-state=idle]")).to_be_visible()

    assert_harmless(person)
    assert_blind(person)
    row = app_server.rankings()[task]
    assert row["comment"] == in_a_box(everything).strip() and row["rewrite"]["text"] == in_a_box(everything)
    assert sorted(response["text"] for response in row["responses"]) == sorted(hostile.chunks(9))


def test_demonstrating_shows_every_attack_as_text_and_takes_them_as_text(app_server, watched, hostile, hostile_prompt):
    person = watched("labeler")
    body = {"kind": "demonstration", "prompt_ids": [hostile_prompt], "overlap": 1}
    [mine] = app_server.call("POST", "/tasks", body)["task_ids"]
    while (task := app_server.call("POST", "/tasks/next", {"kind": "demonstration"}, person.token))["task_id"] != mine:
        left = {"lease": task["lease"], "reason": next(iter(hostile.ATTACKS.values()))}
        app_server.call("POST", f"/tasks/{task['task_id']}/skip", left, person.token)
    page = person.visit("/demonstrate")
    expect(page.get_by_label("Write the ideal response")).to_be_focused()
    see_guidelines(page, hostile, folded=False)

    assert texts_of(page.locator(".pawl-turn .pawl-text")) == [turn["content"] for turn in hostile.conversation()]
    everything = "\n".join(hostile.ATTACKS.values())
    page.get_by_label("Write the ideal response").fill(everything)
    page.reload()
    expect(page.get_by_label("Write the ideal response")).to_have_value(in_a_box(everything))
    page.get_by_role("button", name="Skip").click()
    page.get_by_role("dialog").get_by_label("Another reason").fill(hostile.chunks(9)[0][:500])
    page.keyboard.press("Enter")
    expect(page.locator(f".pawl-desk[data-task='{mine}']")).to_have_count(0)

    assert_harmless(person)
    assert_blind(person)


def test_history_review_and_project_show_every_attack_as_text(app_server, watched, hostile, hostile_prompt):
    labelers = [watched("labeler"), watched("labeler")]
    given = [{"text": text, "source": f"ppo-{BLIND}"} for text in hostile.chunks(2)]
    task = app_server.call("POST", "/tasks", {"prompt_id": hostile_prompt, "responses": given, "overlap": 2})["task_id"]
    everything = "\n".join(hostile.ATTACKS.values())
    for person, ranks in zip(labelers, ((1, 2), (2, 1)), strict=True):
        mine = app_server.call("POST", "/tasks/next", {"kind": "ranking"}, person.token)
        assert mine["task_id"] == task
        ids = sorted(response["id"] for response in mine["responses"])
        label = {"lease": mine["lease"], "ranks": dict(zip(ids, ranks, strict=True)), "comment": everything}
        app_server.call("PUT", f"/tasks/{task}/label", label, person.token)
    tokens = [app_server.person("labeler")[1] for _ in range(3)]
    skipped = app_server.ranking_task(["one", "two"])
    for token in tokens:
        mine = app_server.call("POST", "/tasks/next", {"kind": "ranking"}, token)
        app_server.call("POST", f"/tasks/{skipped}/skip", {"lease": mine["lease"], "reason": everything}, token)
    reviewer, researcher = watched("reviewer"), watched("researcher")

    history = labelers[0].visit("/history")
    expect(history.locator(".pawl-entry")).to_have_count(1)
    assert everything in history.locator(".pawl-entry-said").text_content()
    assert_harmless(labelers[0])
    review = reviewer.visit("/review")
    expect(review.locator(".pawl-reasons tr")).to_have_count(2)
    assert texts_of(review.locator(".pawl-reasons td[dir=auto]")) == [everything] * 2
    assert texts_of(review.locator(".pawl-turn .pawl-text")) == [turn["content"] for turn in hostile.conversation()]
    assert BLIND not in review.content()
    assert_harmless(reviewer)
    project = researcher.visit("/project")
    expect(project.get_by_label("What labelers are asked to do, in Markdown")).not_to_have_value("")
    row = project.locator("tr", has_text=skipped)
    expect(row).to_be_visible()
    assert everything in row.text_content()
    assert_harmless(researcher)


def test_datasets_shows_nothing_hostile_of_labelers_and_models(app_server, watched, hostile):
    [prompt] = app_server.call("POST", "/prompts", [{"messages": [{"role": "user", "content": "Why?"}]}])["ids"]
    for name, text in hostile.ATTACKS.items():  # who is named in an import is nobody who signed up
        rows = [{"prompt_id": prompt, "response": text}]
        body = {"labeler": text.strip()[:60], "source": name, "rows": rows}
        app_server.call("POST", "/demonstrations", body)
    promote(app_server, f"{hostile.ATTACKS['image that fails']} {hostile.ATTACKS['template string']}")
    person = watched("researcher")
    page = person.visit("/datasets")
    page.get_by_role("button", name="Freeze a snapshot").click()
    expect(page.locator(".pawl-note[data-tone=good]")).to_contain_text("Snapshot")

    names = texts_of(page.locator("td[data-column=Labeler]"))
    assert len(names) == 12 and all(name == "seed" or name.startswith("labeler-") for name in names)
    expect(page.locator("td[data-column='Model then']").first).to_contain_text(hostile.ATTACKS["image that fails"])
    expect(page.locator(".pawl-model")).to_contain_text(hostile.ATTACKS["template string"])
    assert_harmless(person)


def test_a_snapshots_sample_is_turned_by_keyboard_and_shows_every_attack_as_text(
    app_server, watched, hostile, hostile_prompt
):
    parts, everything = hostile.chunks(9), "\n".join(hostile.ATTACKS.values())
    row = {
        "prompt_id": hostile_prompt,
        "responses": [{"text": text, "source": text[:90]} for text in parts],
        "ranks": [1, 1, 2, 3, 4, 5, 6, 7, None],
        "flags": [["unsafe"], *[[]] * 8],
        "comment": everything,
    }
    rows = [row | {"labeler": name} for name in "abcd"]
    app_server.call("POST", "/rankings", {"source": "sampled", "rows": rows})
    app_server.call("POST", "/snapshots", {"source": ["sampled"]})
    person = watched("researcher")
    page = person.visit("/datasets")
    where, leaves = page.locator(".pawl-leaf-bar [role=status]"), page.locator(".pawl-leaves")
    expect(where).to_have_text("1 to 3 of 4, in random order")

    leaves.focus()
    page.keyboard.press("ArrowRight")
    expect(where).to_have_text("4 to 4 of 4, in random order")
    expect(leaves).to_be_focused()
    answers = texts_of(page.locator(".pawl-leaf-answer .pawl-text"))
    assert sorted(answers) == sorted(parts)
    shown = texts_of(page.locator(".pawl-leaf .pawl-sample-prompt"))
    assert shown == [*(turn["content"] for turn in hostile.conversation()), everything]
    assert texts_of(page.locator(".pawl-levels > li[data-tied] .pawl-answer-place")) == ["1 best, tie"]
    unfold = page.get_by_role("button", name="Show all").first
    unfold.press("Enter")
    expect(page.get_by_role("button", name="Show less")).to_have_count(1)
    assert (
        page.locator(":is(.pawl-leaves, .pawl-grid) :is(img, script, svg, iframe, style, form, a, object)").count() == 0
    )
    page.get_by_role("button", name="Previous").press("Enter")
    expect(where).to_have_text("1 to 3 of 4, in random order")
    expect(leaves).to_be_focused()  # there is no page before this one, so the button cannot have it
    page.get_by_role("button", name="Demonstrations (").press("Enter")
    expect(page.locator(".pawl-leaves > .pawl-note, .pawl-leaf .pawl-answer-place").first).to_be_visible()
    assert_harmless(person)


def test_training_shows_samples_logs_and_errors_as_text(app_server, watched, hostile, type_into):
    runs = app_server.workspace / "runs"
    cycle = RunFolder.create(runs, "cycle", {"preset": "tiny", "stages": "sft,ppo"})
    run = RunFolder.create(runs, "ppo", {})
    parts = hostile.chunks(6)
    samples = [{"step": step, "prompt": text, "response": text} for step, text in enumerate(parts)]
    (run.path / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    everything = "\n".join(text for text in hostile.ATTACKS.values() if "\n" not in text and "\r" not in text)
    (cycle.path / "log.txt").write_text(everything, encoding="utf-8")
    checkpoint = hostile.ATTACKS["svg onload"]
    stages = [{"stage": "ppo", "run": run.id, "state": "done", "progress": 1.0, "checkpoint": checkpoint}]
    told = {"error": f"{parts[0]}\n{everything}", "verdict": parts[1]}
    cycle.update(id=cycle.id, state="failed", stage="ppo", progress=0.5, stages=stages, **told)

    person = watched("researcher")
    page = person.visit("/training")
    expect(page.get_by_text(f"{cycle.id} failed")).to_be_visible()
    page.get_by_role("button", name="Log").click()
    expect(page.locator(".pawl-code")).to_have_count(2)
    assert sorted(texts_of(page.locator(".pawl-sample-prompt"))) == sorted(parts)
    assert texts_of(page.locator(".pawl-sample .pawl-text:not(.pawl-sample-prompt)")) == parts[::-1]
    assert everything.split()[-1] in texts_of(page.locator(".pawl-code"))[-1]
    assert parts[1] in texts_of(page.locator(".pawl-note"))
    assert checkpoint in texts_of(page.locator(".pawl-stage-note"))
    type_into(page.get_by_label("Options of single stages"), json.dumps({hostile.ATTACKS["image that fails"]: 1}))
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_text("overrides must be named stage.option")).to_contain_text("onerror")
    assert_harmless(person)


def test_checkpoints_shows_ids_reasons_metrics_and_options_as_text(app_server, watched, hostile):
    attacks = hostile.ATTACKS
    everything = "\n".join(attacks.values())
    name = f"{attacks['details']}{attacks['braces']}"[:200].replace("/", "")
    metrics = {f"m {key}": {text: text, "warning": text} for key, text in attacks.items()}
    fields = {"stage": attacks["svg script"], "parents": [attacks["style"]], "snapshot": attacks["script"]}
    promote(app_server, name, metrics=metrics, reason=everything, **fields)
    folder = app_server.workspace / "checkpoints" / name
    folder.mkdir(parents=True)
    manifest = {"seed": attacks["form"], "code_version": attacks["base"], "config": {everything: everything}}
    (folder / "pawl.json").write_text(json.dumps(manifest))

    person = watched("researcher")
    page = person.visit("/checkpoints")
    page.locator(".pawl-row").filter(has=page.get_by_role("button", name=name, exact=True)).click()
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
    shown = texts_of(page.locator(".pawl-facts dd"))
    assert {f"Promoted. {everything}", attacks["svg script"], attacks["style"], attacks["form"]} <= set(shown)
    assert set(attacks.values()) <= set(shown)
    assert set(attacks.values()) <= set(texts_of(page.locator(".pawl-note[data-tone=warn]")))
    assert json.loads(texts_of(page.locator(".pawl-code"))[0]) == manifest["config"]
    assert_harmless(person)


def test_forms_and_problem_documents_quote_every_attack_as_text(app_server, watched, hostile):
    person = watched("admin")
    page = person.page
    for text in hostile.chunks(3):
        page.goto(f"{person.url}/sign-in?link={quote(text)}")
        assert page.locator("input[name=link]").get_attribute("value") == in_a_box(text)  # as HTML reads line ends
        assert_harmless(person)
    for path in ("/api/v1/", "/api/v1/checkpoints/", "/api/v1/export/", "/", "/assets/", "/gradio_api/file="):
        for text in hostile.chunks(3):
            page.goto(f"{person.url}{path}{quote(text[:1_500], safe='')}")
            assert page.locator("img[src*=pwned], svg, iframe, form").count() == 0
            assert_harmless(person)
    page.context.clear_cookies()
    page.goto(f"{person.url}/sign-in?next={quote('/' + hostile.ATTACKS['image that fails'])}")
    page.get_by_label("Name").fill(hostile.ATTACKS["script"])
    page.get_by_label("Password").fill(hostile.ATTACKS["template string"])
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("No active user has this name")
    assert_harmless(person)


def test_what_no_field_takes_is_refused_in_words(app_server, hostile):
    is_json = {"Content-Type": "application/json"}
    for text in hostile.UNSTORABLE.values():
        for path, body in (
            ("prompts", [{"messages": [{"role": "user", "content": text}]}]),
            ("demonstrations", {"labeler": text, "source": "file", "rows": []}),
        ):
            sent = json.dumps(body)  # ASCII: half a character travels as an escape
            answer = app_server.process.owner.post(path, content=sent, headers=is_json)
            assert answer.status_code == 422 and "Nothing was stored" in answer.json()["detail"], answer.text
