"""The other pages in a real browser: demonstrations, datasets, training, checkpoints, and who may see them."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from data.runs import RunFolder

pytestmark = pytest.mark.slow


def test_a_demonstration_is_written_and_its_draft_survives_a_reload(app_server, page_as, screenshot):
    person = page_as("labeler")
    page = person.visit("/demonstrate")
    text = page.get_by_label("Write the ideal response")
    expect(text).to_be_focused()
    task = page.locator(".pawl-desk").get_attribute("data-task")

    page.keyboard.press("Control+Enter")
    expect(page.locator(".pawl-status")).to_contain_text("Write a response first")
    page.keyboard.type("A first line? 1 u s 0 <b>not bold</b>")
    page.keyboard.press("Enter")
    page.keyboard.type("and a second.")
    page.reload()
    expect(text).to_have_value("A first line? 1 u s 0 <b>not bold</b>\nand a second.")
    expect(page.locator(".pawl-count")).to_contain_text("51 characters, 12 words")
    screenshot(page, "demonstrate")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".pawl-status")).to_contain_text("Saved")
    expect(text).to_be_empty()

    assert page.locator(".pawl-desk").get_attribute("data-task") != task
    rows = app_server.exported("demonstrations")
    (row,) = [row for row in rows if row["task_id"] == task]
    assert row["response"] == "A first line? 1 u s 0 <b>not bold</b>\nand a second."
    assert row["seconds"] > 0


def test_a_demonstration_is_skipped_with_a_reason(app_server, page_as):
    person = page_as("labeler")
    page = person.visit("/demonstrate")
    expect(page.get_by_label("Write the ideal response")).to_be_focused()
    task = page.locator(".pawl-desk").get_attribute("data-task")

    page.get_by_role("button", name="Skip").click()
    page.get_by_role("dialog").get_by_label("Another reason").fill("it is about me")
    page.keyboard.press("Enter")

    expect(page.locator(".pawl-status")).to_contain_text("Skipped")
    assert page.locator(".pawl-desk").get_attribute("data-task") != task


def test_a_researcher_freezes_and_exports(app_server, page_as, screenshot):
    labeler = app_server.person("labeler")[1]
    task_id = app_server.ranking_task(["good", "bad"])
    task = app_server.call("POST", "/tasks/next", {"kind": "ranking"}, labeler)
    ranks = {response["id"]: 1 if response["text"] == "good" else 2 for response in task["responses"]}
    app_server.call("PUT", f"/tasks/{task_id}/label", {"lease": task["lease"], "ranks": ranks}, labeler)

    page = page_as("researcher").visit("/datasets")
    page.get_by_role("button", name="Freeze a snapshot").click()
    expect(page.locator(".pawl-note[data-tone=good]")).to_contain_text("Snapshot")
    newest = app_server.call("GET", "/snapshots")[-1]["snapshot"]
    expect(page.locator(".pawl-table").filter(has_text="Frozen")).to_contain_text(newest)
    screenshot(page, "datasets")
    page.get_by_role("button", name="Freeze a snapshot").click()
    expect(page.locator(".pawl-note[data-tone=good]")).to_contain_text("Nothing changed")

    with page.expect_download() as download:
        page.get_by_role("link", name="Rankings as JSONL").click()
    rows = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert task_id in {row["task_id"] for row in rows}


def test_a_researcher_looks_at_a_file_and_imports_it(app_server, page_as, screenshot, tmp_path):
    texts = ["<img src=x onerror=document.title='owned'>", "${document.title='owned'}"]
    row = {"request": {"text": "<b>Which</b>?"}, "out": texts, "best": "second", "by": "ana"}
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(row) + "\n{\n")
    page = page_as("researcher").visit("/datasets")
    before = app_server.call("GET", "/stats")["labels"]["rankings"]

    page.get_by_label("A file").set_input_files(file)
    page.get_by_label("It holds").select_option("rankings")
    page.get_by_role("button", name="Look at it first").click()
    expect(page.locator(".pawl-import-said")).to_contain_text("None of its rows is of a known shape")
    expect(page.get_by_role("button", name="Import", exact=True)).to_be_disabled()
    page.get_by_text("Its columns have other names").click()
    page.get_by_label("One field=path a line").fill("prompt=request.text\nresponses=out\npreference=best\nlabeler=by")
    page.get_by_role("button", name="Look at it first").press("Enter")
    example = page.locator(".pawl-import-said article")
    expect(example).to_contain_text(texts[0])
    expect(page.locator(".pawl-refusals")).to_contain_text("line 2 is not JSON")
    screenshot(page, "import")
    expect(page.get_by_role("button", name="Import", exact=True)).to_be_focused()
    page.keyboard.press("Enter")

    said = page.locator(".pawl-import-said .pawl-note[data-tone=good]")
    expect(said).to_contain_text("pairs.jsonl: 1 rows taken, 1 new rankings, 1 skipped")
    tile = page.locator(".pawl-tile").filter(has_text="Rankings").first  # the second is of the newest snapshot
    expect(tile.locator(".pawl-tile-value")).to_have_text(str(before + 1))
    assert page.title() != "owned"
    (stored,) = [row for row in app_server.exported("rankings") if row["responses"][0]["text"] == texts[0]]
    assert stored["ranks"] == [2, 1]


def test_training_says_what_is_missing_and_refuses_nonsense(app_server, page_as, screenshot, type_into):
    for labeler, done in app_server.call("GET", "/stats")["labelers"].items():
        if done["rankings"]:  # of other tests
            app_server.call("POST", "/withdrawals", {"labeler": labeler})
    before = app_server.call("GET", "/cycles")
    page = page_as("researcher").visit("/training")
    expect(page.get_by_text("Too few labels to train")).to_be_visible()
    screenshot(page, "training-start")

    options = page.get_by_label("Options of single stages")
    type_into(options, '{"ppo.steps": ')
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_text("The options are not JSON")).to_be_visible()
    type_into(options, "{}")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_text("Nothing was started and every label is kept")).to_have_count(2)
    assert app_server.call("GET", "/cycles") == before


def test_training_shows_curves_samples_and_why_a_cycle_failed(app_server, page_as, screenshot, finished_cycle):
    made = {"stage": "reward", "parents": [], "snapshot": None, "state": "candidate", "reason": ""}
    for n, accuracy in ((1, 0.6), (2, 0.75)):
        metrics = {"heldout_accuracy": accuracy, "heldout_accuracy_error": 0.02, "train_rankings": 100 * n}
        body = {"id": f"reward-900{n}", "metrics": metrics | {"agreement": 0.8, "ceiling": 0.9}}
        app_server.call("POST", "/checkpoints", made | body | {"created_at": f"2026-01-0{n}T03:04:05+00:00"})
    page = page_as("researcher", height=1500).visit("/training")

    expect(page.get_by_text(f"{finished_cycle.id} failed")).to_be_visible()
    expect(page.get_by_text("was killed by signal 9")).to_be_visible()
    expect(page.get_by_text("MemoryError: <script>alert(2)</script>")).to_be_visible()
    expect(page.get_by_text("<img src=x onerror=alert(1)> hello")).to_be_visible()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(page.locator(".pawl-spot")).to_have_count(2)
    expect(page.get_by_text("From 100 rankings to 200: 60% (56 to 64), then 75% (71 to 79)")).to_be_visible()
    expect(page.locator(".vega-embed")).to_have_count(4)
    screenshot(page, "training-failed")
    page.get_by_role("button", name="More about PPO").click()
    expect(page.locator(".vega-embed:visible")).to_have_count(8)
    screenshot(page, "training-more")

    ppo = RunFolder(finished_cycle.path.parent / finished_cycle.state()["stages"][-1]["run"])
    finished_cycle.update(progress=0.7)
    ppo.append_metrics({"step": 26, "reward": 9.0, "kl": 6.0, "length": 20})
    expect(page.get_by_text("70 %")).to_be_visible()  # without a reload


def test_checkpoints_show_their_lineage_and_verdict(app_server, page_as, screenshot):
    checkpoint = {"snapshot": None, "state": "candidate", "reason": "", "created_at": "2026-01-02T03:04:05+00:00"}
    made = [
        {**checkpoint, "id": "sft-0001", "stage": "sft", "parents": ["pretrain-0001"], "metrics": {"loss": 2.25}},
        {
            **checkpoint,
            "id": "ppo-0001",
            "stage": "ppo",
            "parents": ["sft-0001", "reward-0001"],
            "metrics": {
                "evaluate": {
                    "win_rate": 0.625,
                    "win_rate_interval": [0.55, 0.7],
                    "win_rate_over_best_of": 0.45,
                    "warning": "Over-optimised: the policy wins 62.5 % by the reward model and 41 % by the judge.",
                }
            },
            "state": "rejected",
            "reason": "It wins 62.5 % against its parent, and <i>nothing</i> else.",
            "created_at": "2026-01-02T04:04:05+00:00",
        },
    ]
    for body in made:
        app_server.call("POST", "/checkpoints", body)
    page = page_as("researcher").visit("/checkpoints")
    row = page.locator("tr").filter(has=page.get_by_role("button", name="ppo-0001"))
    expect(row).to_contain_text("rejected")
    expect(row).to_contain_text("sft-0001, reward-0001")
    expect(row).to_contain_text("wins 62% against its parent; 45% against best-of-n")

    page.get_by_role("button", name="ppo-0001").click()
    expect(page.get_by_role("heading", name="ppo-0001")).to_be_visible()
    expect(page.get_by_text("It wins 62.5 % against its parent, and <i>nothing</i> else.")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="Over-optimised")).to_be_visible()
    screenshot(page, "checkpoints")


def test_a_labeler_sees_no_researchers_page(page_as, screenshot):
    page = page_as("labeler").visit("/training")

    expect(page.get_by_text("This page is for researchers")).to_be_visible()
    expect(page.get_by_role("link", name="Rank")).to_be_visible()
    assert page.get_by_role("link", name="Datasets").count() == 0
    assert page.locator(".pawl-tiles, .pawl-table, .pawl-exports, .pawl-stages").count() == 0
    screenshot(page, "refused")


def test_nobody_reads_a_models_name_where_labels_are_given(page_as):
    person = page_as("researcher")  # who reads it on the other pages
    for path in ("/", "/demonstrate"):
        page = person.visit(path)
        expect(page.locator(".pawl-person")).to_have_text(person.name)

        assert page.locator(".pawl-model").count() == 0


def test_signing_out_ends_the_session(page_as):
    person = page_as("labeler")
    page = person.visit("/")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")

    person.visit("/")
    expect(page).to_have_url(f"{person.url}/sign-in")
