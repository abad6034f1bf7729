"""Pawl from Python: snapshots by name, workspaces to read from, typed records, and datasets that TRL takes."""

import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import data
from data import load_snapshot, open_workspace
from data.errors import DamagedSnapshot, InvalidInput, NotFound
from data.records import Message
from data.store import Store

ROOT = Path(__file__).parents[2]
FISH = (Message("user", "A fish?"),)


@pytest.fixture
def snapshot(hand_made):
    return load_snapshot("7c5e", hand_made)


def test_importing_data_loads_nothing_until_it_is_asked_for():
    program = (
        "import sys; before = {*sys.modules}; import data; print(sorted({*sys.modules} - before))\n"
        "data.load_snapshot; print(sorted({'pyarrow', 'duckdb', 'datasets', 'numpy', 'httpx'} & {*sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)

    assert run.stdout.splitlines() == ["['data']", "[]"]
    assert (ROOT / "data/py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'open_workspaces'"):
        data.open_workspaces  # noqa: B018


def test_a_snapshot_is_found_by_the_beginning_of_its_name_and_by_its_folder(snapshot, hand_made, monkeypatch, tmp_path):
    assert load_snapshot(snapshot.path).hash == load_snapshot(str(snapshot.path)).hash == snapshot.hash
    monkeypatch.setenv("PAWL_WORKSPACE", str(hand_made))
    assert load_snapshot(snapshot.hash).path == snapshot.path
    with pytest.raises(NotFound, match=f"no snapshot 0000 in .* It has {snapshot.hash}"):
        load_snapshot("0000")
    with pytest.raises(NotFound, match="There is no workspace at .*nowhere"):
        load_snapshot("7c5e", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()

    copy = tmp_path / "snapshots" / snapshot.hash
    shutil.copytree(snapshot.path, copy)
    shutil.copytree(snapshot.path, tmp_path / "snapshots" / "7c5e000000000000")
    with pytest.raises(InvalidInput, match=r"2 snapshots of .* begin with 7c5e: 7c5e000000000000, 7c5eed3b62416247\."):
        load_snapshot("7c5e", tmp_path)
    with pytest.raises(NotFound, match="There is no store in"):
        open_workspace(tmp_path).counts()
    (copy / "prompts" / "train.parquet").write_bytes(b"")
    with pytest.raises(DamagedSnapshot, match=r"prompts/train\.parquet"):
        load_snapshot(copy)
    assert load_snapshot(copy, verify=False).counts["rankings"] == 2


def test_records_say_all_that_is_known_of_a_label(snapshot):
    [imported] = snapshot.rankings.split("train")
    [ranking] = snapshot.rankings.split("heldout")
    _, rewrite = snapshot.demonstrations
    prompts = {prompt.prompt_id: prompt for prompt in snapshot.prompts}

    assert (imported.source, imported.licence, imported.details) == ("pilot", "CC-BY-4.0", {"strength": 3})
    assert imported.client_at == datetime(2026, 3, 1, 0, 59, 59, 500_000, UTC)
    assert [response.text for response in imported.responses] == ["Blau.", "Grün.", "Fisch."]
    assert (ranking.prompt, ranking.ranks, ranking.unrankable) == (FISH, (1, None), ("r-5",))
    assert (ranking.ratings, ranking.flags) == ({"r-4": {"helpful": 7}}, {"r-5": ("refusal",)})
    assert ranking.rewrite == {"response_id": "r-4", "text": "A carp."}
    assert (ranking.display_order, ranking.seconds, ranking.comment) == (("r-5", "r-4"), 4.25, "short")
    assert (ranking.licence, ranking.client_at, ranking.revision) == (None, None, 2)
    assert (rewrite.response, rewrite.source, rewrite.started_from) == ("A carp.", "rewrite:l-2", "r-4")
    assert (prompts["p-1"].tags, prompts["p-1"].licence, prompts["p-2"].licence) == (("lang:de",), "CC-BY-4.0", None)


def test_pairs_are_the_decided_ones_and_lengths_are_known_without_reading(snapshot):
    pairs = snapshot.comparisons()

    # l-1 ranks 1, 2, 2: the first before each of the others; l-2 has one rank alone
    assert [(pair.chosen, pair.rejected, pair.margin) for pair in pairs] == [
        ("Blau.", "Grün.", 1),
        ("Blau.", "Fisch.", 1),
    ]
    assert (len(pairs), len(snapshot.comparisons("heldout")), len(snapshot.rankings)) == (2, 0, 2)
    assert list(pairs)[0].details == {"strength": 3}
    assert snapshot.manifest["files"]["rankings/train.parquet"]["rows"] == len(snapshot.rankings.split("train"))
    with pytest.raises(InvalidInput, match="no split 'test'"):
        snapshot.comparisons("test")
    with pytest.raises(InvalidInput, match="no dataset of 'votes'"):
        snapshot.to_dataset("votes")


def test_a_store_is_read_as_a_snapshot_is_and_let_go_after_each_read(hand_made):
    workspace = open_workspace(hand_made)

    assert list(workspace.rankings) == list(load_snapshot("7c5e", hand_made).rankings)
    assert [len(workspace.demonstrations.split(split)) for split in ("train", "heldout")] == [1, 1]
    for prompt in workspace.prompts:  # another read inside shares the store
        assert [label.prompt_id for label in workspace.rankings if label.prompt_id == prompt.prompt_id] == [
            prompt.prompt_id
        ]
    assert workspace.counts() == {
        "prompts": 2,
        "prompts_heldout": 1,
        "demonstrations": 2,
        "demonstrations_trainable": 1,
        "rankings": 2,
        "rankings_trainable": 1,
        "labelers": 2,
    }
    [checkpoint] = workspace.checkpoints()
    assert (checkpoint.id, checkpoint.state, checkpoint.reason) == ("sft-0001", "promoted", "the first")
    assert (checkpoint.metrics, checkpoint.created_at) == ({"loss": 1.5}, datetime(2026, 3, 1, 9, tzinfo=UTC))
    assert [snapshot.hash for snapshot in workspace.snapshots()] == [workspace.snapshot("7c5e").hash]
    with Store(hand_made / "feedback.duckdb") as store:  # nobody holds it
        assert store.checkpoints() == [checkpoint]


@pytest.mark.slow
def test_the_examples_of_the_page_run_as_they_stand(hand_made, tmp_path, monkeypatch):
    (tmp_path / "var").symlink_to(hand_made)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/data.md").read_text().partition("## From Python")[2].partition("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    for example in examples:
        exec(example, names)  # each goes on with what those before it named

    dataset = names["dataset"]
    assert len(examples) >= 3
    assert dataset.num_rows == 2 and {"prompt", "chosen", "rejected", "margin"} <= {*dataset.column_names}
    assert dataset[0]["chosen"] == [{"role": "assistant", "content": "Blau."}]
