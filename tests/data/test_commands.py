"""`python -m data`, as it is typed: what it prints, writes and exits with."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from data import batches, snapshots
from data.__main__ import main
from data.batches import Batch, BatchRow
from data.records import NewResponse
from data.store import Store
from data.workspace import Workspace

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path):
    return Workspace.at(tmp_path / "var")


@pytest.fixture
def run(workspace, capsys):
    """run("stats") runs `python -m data stats` on the workspace; (exit code, stdout, stderr)."""

    def command(*arguments):
        code = main([*map(str, arguments), "--workspace", str(workspace.root)])
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture
def comparisons(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"Prompt {n}?", "chosen": f"{n}: good", "rejected": f"{n}: bad", "split": "train", "labeler": name}
        for n in range(8)
        for name in ("ana", "ben")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def last_json(out):
    return json.loads(out.splitlines()[-1])


def test_import_reports_what_was_taken_and_what_was_not(run, tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text('{"prompt": "One?"}\n{"prompt": ""}\nnot json\n')

    code, out, err = run("import", "prompts", path, "--json")

    assert (code, err) == (0, "")
    assert f"{path}: 1 rows taken, 1 new prompts, 2 skipped" in out
    assert "line 2: has an empty prompt" in out
    report = last_json(out)
    assert (report["taken"], report["new"]) == (1, 1)
    assert [row["place"] for row in report["skipped"]] == ["line 2", "line 3"]
    assert last_json(run("import", "prompts", path, "--json")[1])["new"] == 0


def test_an_import_of_which_nothing_can_be_used_fails(run, tmp_path):
    (tmp_path / "f.jsonl").write_text("{}\n")

    code, out, err = run("import", "prompts", tmp_path / "f.jsonl")

    assert code == 1
    assert "line 1: has no prompt" in err


@pytest.mark.slow
def test_exports_can_be_imported_elsewhere(run, tmp_path, comparisons, capsys):
    run("import", "comparisons", comparisons)
    plain = (("f.jsonl", "trl"), ("f.csv", "csv"), ("f.parquet", "parquet"), ("f.jsonl.gz", "jsonl"))
    for name, format in (*plain, ("trl.parquet", "trl"), ("folder", "hf")):
        code, out, _ = run("export", "comparisons", "--to", tmp_path / name, "--format", format)
        assert (code, "Wrote the comparisons" in out) == (0, True)

        elsewhere = tmp_path / f"elsewhere-{name}"
        assert main(["import", "comparisons", str(tmp_path / name), "--workspace", str(elsewhere)]) == 0
        assert "16 rows taken, 16 new comparisons, 0 skipped" in capsys.readouterr().out


def test_freeze_ends_with_the_line_that_training_reads(run, workspace, comparisons):
    run("import", "comparisons", comparisons)

    code, out, _ = run("freeze", "--json")

    line = last_json(out)
    assert code == 0
    assert list(line) == ["snapshot", "path", "counts", "promoted"]
    assert Path(line["path"]) == workspace.snapshots / line["snapshot"]
    assert (line["counts"]["rankings_trainable"], line["counts"]["demonstrations"]) == (16, 0)
    assert line["promoted"] is None
    assert last_json(run("freeze", "--json")[1]) == line
    assert run("snapshots")[1].startswith(line["snapshot"])
    assert [row["snapshot"] for row in last_json(run("snapshots", "--json")[1])] == [line["snapshot"]]


def test_an_empty_store_cannot_be_frozen(run):
    code, out, err = run("freeze")

    assert (code, out) == (1, "")
    assert "python -m data seed" in err


def test_verify_names_the_damaged_file(run, workspace, comparisons):
    run("import", "comparisons", comparisons)
    name = last_json(run("freeze", "--json")[1])["snapshot"]
    assert run("verify") == (0, f"{name}  whole\n", "")

    file = workspace.snapshots / name / "rankings" / "train.parquet"
    content = bytearray(file.read_bytes())
    content[100:200] = bytes(100)  # of the first column's values
    file.write_bytes(content)

    code, out, err = run("verify")
    assert (code, out) == (1, "")
    assert f"{name}  DAMAGED" in err and "rankings/train.parquet" in err
    assert run("verify", "0123456789abcdef")[0] == 1


def test_stats_are_readable_by_people_and_by_programs(run, comparisons):
    run("import", "comparisons", comparisons)

    code, out, _ = run("stats")
    found = last_json(run("stats", "--json")[1])

    assert code == 0
    assert "Rankings             16 (16 to train on)" in out
    assert "8 train, 0 held out" in out
    assert "Agreement            1.000" in out  # ana and ben said the same of every pair
    assert found["labels"]["rankings_trainable"] == 16
    assert sorted(counts["rankings"] for counts in found["labelers"].values()) == [8, 8]


@pytest.mark.slow
def test_a_withdrawal_names_the_snapshots_and_checkpoints_made_of_it(run, workspace, comparisons):
    run("import", "comparisons", comparisons)
    snapshot = last_json(run("freeze", "--json")[1])["snapshot"]
    folder = workspace.checkpoints / "reward-0001"
    folder.mkdir()
    (folder / "pawl.json").write_text(json.dumps({"id": "reward-0001", "snapshot": snapshot, "parents": []}))

    assert len(last_json(run("withdraw", "ana", "--json")[1])["label_ids"]) == 8
    second = last_json(run("freeze", "--json")[1])
    assert second["counts"]["rankings"] == 8
    with Store(workspace.database) as store:
        label_id, pseudonym = next((row.label_id, row.labeler) for row in store.rankings())  # one of ben's

    code, out, _ = run("withdraw", label_id, "--json")
    assert code == 0
    assert "1 label is withdrawn" in out
    found = last_json(out)
    assert (found["label_ids"], found["checkpoints"]) == ([label_id], ["reward-0001"])
    assert set(found["snapshots"]) == {snapshot, second["snapshot"]}
    assert last_json(run("withdraw", label_id, "--json")[1]) == found  # asked again, the same answer
    assert len(last_json(run("withdraw", pseudonym, "--json")[1])["label_ids"]) == 8

    code, _, err = run("withdraw", "nobody")
    assert code == 1
    assert "There is no label and no labeler 'nobody'" in err


def test_choices_of_a_freeze_a_difference_and_the_withdrawal_of_a_prompt(run, comparisons):
    run("import", "comparisons", comparisons)
    everything = last_json(run("freeze", "--json")[1])
    pseudonym, other = last_json(run("stats", "--json")[1])["labelers"]

    code, out, _ = run("freeze", "--labeler", f"!{pseudonym}", "--until", "2100-01-01", "--json")
    chosen = last_json(out)
    assert code == 0 and "Left out labels: 8 by labeler" in out
    assert chosen["choices"] == {"labeler": [f"!{pseudonym}"], "until": "2100-01-01T00:00:00+00:00"}
    assert chosen["counts"]["rankings"] == 8
    assert (
        f"Only in {everything['snapshot']}: 1 labeler: {pseudonym}"
        in run("diff", everything["snapshot"], chosen["snapshot"])[1]
    )
    assert len(last_json(run("diff", everything["snapshot"], chosen["snapshot"], "--json")[1])["labels"][0]) == 8

    prompt_id = next(iter(snapshots.load(Path(chosen["path"])).rows("prompts", "train")))["prompt_id"]
    code, out, _ = run("withdraw", "--prompt", prompt_id, "--refreeze", "--json")
    found = last_json(out)
    assert code == 0 and "1 prompt and 2 labels are withdrawn" in out
    assert found["replacements"].keys() == {everything["snapshot"], chosen["snapshot"]}
    assert f"Frozen again: {chosen['snapshot']} -> {found['replacements'][chosen['snapshot']]}" in out
    assert "Ceiling" in run("stats")[1]

    code, _, err = run("freeze", "--labeler", "nobody")
    assert code == 1 and "leave no label: labeler left out 14" in err
    assert run("withdraw", "--prompt", prompt_id, "--label", "l-1")[0] == 1


def test_seeding_twice_adds_nothing(run):
    code, out, _ = run("seed")
    assert code == 0
    assert "(0 new), with 0 new demonstration tasks" not in out
    assert "(0 new), with 0 new demonstration tasks" in run("seed")[1]


MANIFEST = {
    "id": "sft-0001",
    "stage": "sft",
    "parents": ["pretrain-0001"],
    "snapshot": "0123456789abcdef",
    "config": {"epochs": 3},
    "metrics": {"loss": 1.25},
    "seed": 0,
    "code_version": "0.1.0",
    "created_at": "2026-01-02T03:04:05+00:00",
}


def test_training_hands_in_a_checkpoint_and_its_promotion(run, workspace):
    (workspace.checkpoints / "sft-0001").mkdir()
    (workspace.checkpoints / "sft-0001" / "pawl.json").write_text(json.dumps(MANIFEST))

    assert run("add", "checkpoint", "sft-0001")[:2] == (0, "Checkpoint sft-0001 is candidate.\n")
    assert run("add", "checkpoint", "sft-0001", "--state", "promoted", "--reason", "the first")[0] == 0

    with Store(workspace.database) as store:
        promoted = store.promoted()
    assert asdict(promoted) | {"created_at": promoted.created_at.isoformat()} == {
        "id": "sft-0001",
        "stage": "sft",
        "parents": ("pretrain-0001",),
        "snapshot": "0123456789abcdef",
        "metrics": {"loss": 1.25},
        "state": "promoted",
        "reason": "the first",
        "created_at": "2026-01-02T03:04:05+00:00",
    }


def test_training_hands_in_a_batch_and_a_run(run, workspace, tmp_path):
    with Store(workspace.database) as store:
        from data.records import Message, NewPrompt

        (prompt_id,) = store.add_prompts([NewPrompt((Message("user", "Name a colour."),), split="train")])
        store.add_user("ana", "labeler")
    rows = (BatchRow(prompt_id, (NewResponse("Blue.", "sft-0001"), NewResponse("Fish.", "sft-0001"))),)
    batches.write(Batch("sample-0001", "sft-0001", rows), workspace.batches / "sample-0001.parquet")
    (workspace.runs / "cycle-0001").mkdir()
    (workspace.runs / "cycle-0001" / "state.json").write_text('{"id": "cycle-0001", "state": "running"}')

    assert run("add", "batch", "sample-0001")[:2] == (0, "Batch sample-0001 of sft-0001: 1 ranking tasks.\n")
    assert run("add", "batch", "sample-0001")[0] == 0
    assert run("add", "run", "cycle-0001")[:2] == (0, "Run cycle-0001 is running.\n")

    with Store(workspace.database) as store:
        assert store.next_task("ana", "ranking").prompt.id == prompt_id
        assert store.stats()["tasks"]["ranking"]["open"] == 1
        assert store.run("cycle-0001") == {"id": "cycle-0001", "state": "running"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("checkpoint", "../../etc"), "is not the id of a checkpoint"),
        (("checkpoint", "sft-0009"), "There is no"),
        (("batch", "sample-0009"), "There is no"),
        (("run", "cycle-0009"), "There is no"),
        (("run", "cycle-0009", "--state", "promoted"), "has no state to set"),
        (("checkpoint", "sft-0001"), "does not describe a checkpoint"),
        (("checkpoint", "sft-0002"), "is not JSON"),
    ],
)
def test_what_cannot_be_handed_in_is_named(run, workspace, arguments, words):
    for id, text in (("sft-0001", '{"id": "sft-0001"}'), ("sft-0002", "{")):
        (workspace.checkpoints / id).mkdir()
        (workspace.checkpoints / id / "pawl.json").write_text(text)

    code, _, err = run("add", *arguments)

    assert code == 1
    assert words in err


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["import", "tasks", "f"], ["export", "prompts"], ["add", "user", "x"]]
)
def test_what_is_not_a_command_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert "usage: python -m data" in capsys.readouterr().err


@pytest.mark.slow
def test_a_command_starts_fast_and_without_the_heavy_libraries(workspace):
    program = (
        "import sys; from data.__main__ import main; main(['stats']);"
        "heavy = {'torch', 'transformers', 'datasets', 'gradio', 'pandas'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    environment = os.environ | {"PAWL_WORKSPACE": str(workspace.root)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert after.ru_utime - before.ru_utime < 1  # processor time: the machine may have other things to do
