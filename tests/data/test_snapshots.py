"""A snapshot is named by its rows, is there whole or not at all, and refuses to be read once it was edited."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import snapshots
from data.errors import DamagedSnapshot, InvalidInput, NotFound

WHEN = "2026-01-02T03:04:05+00:00"
ASKED = [{"role": "user", "content": "Name a colour."}]


def prompt(id, split="train"):
    return {
        "prompt_id": id,
        "messages": ASKED,
        "tags": ["colour"],
        "split": split,
        "source": "seed",
        "created_at": WHEN,
    }


def demonstration(label, prompt_id, split="train"):
    return {
        "label_id": label,
        "revision": 1,
        "task_id": None,
        "prompt_id": prompt_id,
        "prompt": ASKED,
        "response": "Blue.",
        "labeler": "labeler-a",
        "source": "seed",
        "created_at": WHEN,
        "seconds": None,
        "split": split,
        "guideline": "",
    }


def ranking(label, prompt_id, ranks, split="train", **more):
    ids = [f"r-{number}" for number in range(len(ranks))]
    return {
        "label_id": label,
        "revision": 2,
        "task_id": "t-1",
        "prompt_id": prompt_id,
        "prompt": ASKED,
        "responses": [{"id": id, "text": f"text of {id}", "source": "sft-0001"} for id in ids],
        "ranks": ranks,
        "labeler": "labeler-b",
        "created_at": WHEN,
        "seconds": 12,
        "display_order": list(reversed(ids)),
        "split": split,
        "unrankable": [id for id, rank in zip(ids, ranks, strict=True) if rank is None],
        "ratings": {"r-0": {"helpful": 5}},
        "flags": {"r-1": ["unsafe"]},
        "rewrite": None,
        "comment": "",
        "guideline": "g1",
        **more,
    }


ROWS = {
    "prompts": [prompt("p-1"), prompt("p-2"), prompt("p-3", "heldout")],
    "demonstrations": [demonstration("d-1", "p-1"), demonstration("d-2", "p-3", "heldout")],
    "rankings": [
        ranking("l-2", "p-1", [1, 2, None]),
        ranking("l-1", "p-1", [1, 1, 1]),  # all ties: nothing to train on
        ranking("l-3", "p-3", [2, 1], "heldout"),
    ],
}


@pytest.fixture
def frozen(tmp_path):
    return snapshots.freeze(tmp_path, **ROWS, agreement={"pairwise": 0.72}, promoted="sft-0001")


def test_the_manifest_says_what_is_inside(frozen):
    assert frozen.path.name == frozen.hash == frozen.manifest["hash"]
    assert frozen.counts == {
        "prompts": 3,
        "prompts_heldout": 1,
        "demonstrations": 2,
        "demonstrations_heldout": 1,
        "demonstrations_trainable": 1,
        "rankings": 3,
        "rankings_heldout": 1,
        "rankings_trainable": 1,
    }
    assert frozen.label_ids == {"l-1", "l-2", "l-3", "d-1", "d-2"}
    assert frozen.manifest["guidelines"] == ["g1"]
    assert frozen.manifest["labelers"] == ["labeler-a", "labeler-b"]
    assert frozen.manifest["agreement"] == {"pairwise": 0.72}
    assert frozen.promoted == "sft-0001"


def test_rows_come_back_by_prompt_and_label(frozen):
    rows = list(snapshots.load(frozen.path).rows("rankings", "train"))

    assert [row["label_id"] for row in rows] == ["l-1", "l-2"]
    assert rows[1]["ranks"] == [1, 2, None]
    assert rows[1]["responses"][2] == {"id": "r-2", "text": "text of r-2", "source": "sft-0001"}
    assert json.loads(rows[1]["flags"]) == {"r-1": ["unsafe"]}
    assert rows[1]["rewrite"] is None
    assert rows[1]["seconds"] == 12.0


def test_the_same_rows_in_another_order_at_another_time_are_the_same_snapshot(frozen):
    made_at = frozen.manifest["created_at"]
    shuffled = {kind: random.Random(3).sample(rows, len(rows)) for kind, rows in ROWS.items()}

    again = snapshots.freeze(frozen.path.parent, **shuffled, promoted="ppo-0002")

    assert again.path == frozen.path
    assert again.manifest["created_at"] == made_at
    assert again.promoted == "ppo-0002"  # who freezes wants to know what is promoted now
    assert snapshots.load(frozen.path).promoted == "sft-0001"  # the folder itself never changes
    assert [path.name for path in frozen.path.parent.iterdir()] == [frozen.hash]


def test_one_changed_rank_is_another_snapshot(frozen):
    changed = ROWS | {"rankings": [*ROWS["rankings"][:2], ranking("l-3", "p-3", [1, 2], "heldout")]}

    other = snapshots.freeze(frozen.path.parent, **changed)

    assert other.hash != frozen.hash
    assert [snapshot.hash for snapshot in snapshots.listing(frozen.path.parent)].count(other.hash) == 1
    assert len(snapshots.listing(frozen.path.parent)) == 2


def test_a_row_edited_in_place_is_refused_with_the_name_of_its_file(frozen):
    file = frozen.path / "rankings" / "train.parquet"
    table = pq.read_table(file)
    ranks = pa.array([[2, 1, None], [1, 1, 1]], type=table.schema.field("ranks").type)
    pq.write_table(table.set_column(table.schema.get_field_index("ranks"), "ranks", ranks), file)

    with pytest.raises(DamagedSnapshot, match=r"rankings/train\.parquet: its rows were changed"):
        snapshots.load(frozen.path)
    with pytest.raises(DamagedSnapshot, match="freeze again"):
        snapshots.freeze(frozen.path.parent, **ROWS)


def test_an_edit_that_also_mends_the_manifest_still_does_not_fit_the_name(frozen, tmp_path):
    other = snapshots.freeze(tmp_path / "other", **(ROWS | {"rankings": ROWS["rankings"][:1]}))
    for name in ("manifest.json", "rankings/train.parquet", "rankings/heldout.parquet"):
        (frozen.path / name).write_bytes((other.path / name).read_bytes())

    with pytest.raises(DamagedSnapshot, match="renamed, or its rows were replaced"):
        snapshots.load(frozen.path)


@pytest.mark.parametrize("kind", ["prompts", "demonstrations", "rankings"])
def test_a_cut_file_is_named(frozen, kind):
    file = frozen.path / kind / "train.parquet"
    file.write_bytes(file.read_bytes()[:-40])

    with pytest.raises(DamagedSnapshot, match=rf"{kind}/train\.parquet: it cannot be read"):
        snapshots.verify(frozen.path)


def test_a_missing_file_and_a_broken_manifest_are_damage_and_a_missing_folder_is_not_found(frozen):
    (frozen.path / "prompts" / "heldout.parquet").unlink()
    with pytest.raises(DamagedSnapshot, match=r"prompts/heldout\.parquet"):
        snapshots.load(frozen.path)

    (frozen.path / "manifest.json").write_text("{")
    with pytest.raises(DamagedSnapshot, match=r"manifest\.json: it is not JSON"):
        snapshots.load(frozen.path)
    assert snapshots.listing(frozen.path.parent) == []
    assert snapshots.folders(frozen.path.parent) == [frozen.path]

    with pytest.raises(NotFound, match="python -m data snapshots"):
        snapshots.load(frozen.path.parent / "0000000000000000")


def test_a_freeze_that_fails_leaves_nothing_behind(tmp_path):
    def rows():
        yield ranking("l-1", "p-1", [1, 2])
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        snapshots.freeze(tmp_path, prompts=ROWS["prompts"], demonstrations=[], rankings=rows())

    assert list(tmp_path.iterdir()) == []


def test_without_a_prompt_there_is_nothing_to_freeze(tmp_path):
    with pytest.raises(InvalidInput, match="nothing to freeze"):
        snapshots.freeze(tmp_path, prompts=[], demonstrations=[], rankings=[])

    assert list(tmp_path.iterdir()) == []


def test_withdrawn_labels_name_the_snapshots_and_the_checkpoints_down_to_the_children(frozen, tmp_path):
    other = snapshots.freeze(frozen.path.parent, **(ROWS | {"rankings": []}))
    folder = tmp_path / "checkpoints"
    made = [
        ("sft-0001", other.hash, []),
        ("reward-0001", frozen.hash, ["sft-0001"]),
        ("ppo-0001", other.hash, ["sft-0001", "reward-0001"]),  # trained against a tainted judge
        ("sft-0002", None, ["ppo-0001"]),
    ]
    for id, snapshot, parents in made:
        (folder / id).mkdir(parents=True)
        (folder / id / "pawl.json").write_text(json.dumps({"id": id, "snapshot": snapshot, "parents": parents}))

    assert snapshots.tainted_snapshots(frozen.path.parent, ["l-2"]) == [frozen.hash]
    assert set(snapshots.tainted_snapshots(frozen.path.parent, ["d-1"])) == {frozen.hash, other.hash}
    assert snapshots.tainted_snapshots(frozen.path.parent, ["l-9"]) == []
    assert snapshots.tainted_checkpoints(folder, [frozen.hash]) == ["ppo-0001", "reward-0001", "sft-0002"]
    assert snapshots.tainted_checkpoints(folder, []) == []


@pytest.fixture
def load_dataset(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    def load(*arguments):
        return datasets.load_dataset(*arguments, cache_dir=str(tmp_path / "cache"))

    return load


@pytest.mark.slow
def test_datasets_loads_every_configuration(frozen, load_dataset):
    rankings = load_dataset(str(frozen.path))
    demonstrations = load_dataset(str(frozen.path), "demonstrations")
    prompts = load_dataset(str(frozen.path), "prompts")

    assert rankings["train"]["label_id"] == ["l-1", "l-2"]
    assert rankings["train"][1]["ranks"] == [1, 2, None]
    assert rankings["heldout"][0]["responses"][0]["text"] == "text of r-0"
    assert demonstrations["train"][0]["prompt"] == ASKED
    assert prompts["heldout"]["prompt_id"] == ["p-3"]


@pytest.mark.slow
def test_datasets_loads_a_snapshot_whose_splits_are_partly_empty(tmp_path, load_dataset):
    frozen = snapshots.freeze(
        tmp_path, prompts=[prompt("p-1")], demonstrations=[], rankings=[ranking("l-1", "p-1", [2, 1])]
    )

    assert list(load_dataset(str(frozen.path))) == ["train"]
    assert list(load_dataset(str(frozen.path), "prompts")) == ["train"]
    assert list(frozen.rows("rankings", "heldout")) == []  # the file is there, though datasets could not load it


@pytest.mark.slow
def test_datasets_loads_a_snapshot_without_labels_as_its_prompts(tmp_path, load_dataset):
    frozen = snapshots.freeze(tmp_path, prompts=[prompt("p-1")], demonstrations=[], rankings=[])

    assert load_dataset(str(frozen.path))["train"]["prompt_id"] == ["p-1"]
