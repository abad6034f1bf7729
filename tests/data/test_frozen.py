"""Freezing and exporting in columns: the hash is of the rows alone, a snapshot of one moment, a format like another."""

import hashlib
import io
import json
import shutil
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import owner, pairs, snapshots
from data.choices import Choices
from data.columns import batch_of, rows_of
from data.database import cursor_of, open_database
from data.errors import DamagedSnapshot, InvalidInput
from data.exports import Moment
from data.fingerprint import Fingerprint
from data.interchange import stream
from data.records import Message, NewPrompt, NewResponse, RankingAnswer
from data.store import Store
from data.workspace import Workspace

ASKED = [{"role": "user", "content": "Name a colour."}]
WHEN = "2026-01-02T03:04:05+00:00"


def ranking(number, ranks):
    responses = [
        {"id": f"r{number}-{n}", "text": f"text {number}-{n}", "source": "sft-0001"} for n in range(len(ranks))
    ]
    return {
        "label_id": f"l-{number}",
        "revision": 1,
        "task_id": f"t-{number}",
        "prompt_id": "p-1",
        "prompt": ASKED,
        "responses": responses,
        "ranks": ranks,
        "labeler": "labeler-a",
        "created_at": WHEN,
        "seconds": 1.5,
        "display_order": [response["id"] for response in responses],
        "split": "train",
        "unrankable": [],
        "ratings": {},
        "flags": {},
        "rewrite": None,
        "comment": "",
        "guideline": "",
        "source": "pilot.jsonl",
        "licence": "CC-BY-4.0",
        "client_at": "",
        "details": {"strength": 3},
    }


RANKINGS = batch_of([ranking(1, [1, 2, 2, None]), ranking(2, [3, 1, 2]), ranking(3, [1, 1])], "rankings")


def hash_of(values, size):
    schema = pa.schema([("x", values.type)])
    print = Fingerprint(schema)
    for start in range(0, len(values), size):
        print.update(pa.RecordBatch.from_arrays([values.slice(start, size)], schema=schema))
    return print.hexdigest()


def test_a_hash_tells_contents_apart_and_not_how_they_are_cut():
    texts, lists = pa.string(), pa.list_(pa.struct([("text", pa.string())]))
    different = [
        pa.array(["a", "bc", None, ""], texts),
        pa.array(["ab", "c", None, ""], texts),
        pa.array(["a", "bc", "", None], texts),
        pa.array([1, 0, None, 0], pa.int32()),
        pa.array([1, None, 0, 0], pa.int32()),
        pa.array([[{"text": "a"}, {"text": None}], [], None, [{"text": "b"}]], lists),
        pa.array([[{"text": "a"}], [{"text": None}], None, [{"text": "b"}]], lists),
        pa.array([[{"text": "a"}, {"text": None}], None, [], [{"text": "b"}]], lists),
        pa.array([[{"text": "a"}, None], [], None, [{"text": "b"}]], lists),
    ]

    hashes = [{hash_of(values, size) for size in (1, 3, 4)} for values in different]

    assert [len(found) for found in hashes] == [1] * len(different)
    assert len(set.union(*hashes)) == len(different)
    assert hash_of(pa.array([0.0]), 1) == hash_of(pa.array([-0.0]), 1)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Four prompts, each with a task that three labelers ranked; a demonstration; a rewrite, ratings and a comment."""
    workspace = Workspace.at(tmp_path_factory.mktemp("frozen"))
    with Store(workspace.database) as store:
        names = ["ana", "ben", "cem"]
        for name in names:
            store.add_user(name, "labeler")
        prompts = store.add_prompts([NewPrompt((Message("user", f"Question {n}?"),)) for n in range(4)])
        store.add_demonstrations([(prompts[0], "An answer.")], labeler="ana", source="file")
        for prompt in prompts:
            store.add_ranking_task(prompt, [NewResponse(f"Response {n}.", "sft-0001") for n in range(3)], 3)
        for name in names * len(prompts):
            task = store.next_task(name, "ranking")
            one, two, three = task.task.response_ids
            answer = RankingAnswer({one: 1, two: 2}, unrankable=(three,), ratings={two: {"helpful": 3}}, comment="so")
            store.submit_ranking(name, task.task.id, task.lease, answer, guideline="g")
        workspace.snapshots.mkdir(exist_ok=True)
        owner.freeze(store, workspace)
    return workspace


def test_rows_put_in_in_another_order_are_the_same_snapshot(workspace, tmp_path):
    [path] = snapshots.folders(workspace.snapshots)
    other = open_database(tmp_path / "feedback.duckdb")
    other.connection.execute(f"ATTACH '{workspace.database}' AS first (READ_ONLY)")
    for table in ("prompts", "tasks", "responses", "rankings", "demonstrations"):
        other.connection.execute(f"INSERT INTO {table} SELECT * FROM first.{table} ORDER BY rowid DESC")

    with cursor_of(other) as cursor:
        moment = Moment(cursor)
        rows = {kind: moment.batches(kind) for kind in ("rankings", "demonstrations", "prompts")}
        again = snapshots.freeze(tmp_path / "snapshots", **rows)
    other.close()

    assert again.hash == path.name
    assert (again.counts["prompts"], again.counts["rankings"], len(again.label_ids)) == (4, 12, 13)


def test_the_manifest_answers_for_its_counts_and_for_all_it_says(workspace):
    [path] = snapshots.folders(workspace.snapshots)
    whole = json.loads((path / "manifest.json").read_text())
    assert whole["about"] == {} and "label_ids" not in whole
    edits = {
        ("counts", "counts"): {**whole["counts"], "rankings": 13},
        ("labelers", "labelers"): [],
        ("about", "hash"): {"weights": {"ana": 0.5}},
        ("about", "it was edited"): {"left_out": {}},
        ("agreement", "it was edited"): {"pairwise": 1.0},
    }
    for (name, wrong), value in edits.items():
        (path / "manifest.json").write_text(json.dumps({**whole, name: value}))
        with pytest.raises(DamagedSnapshot, match=rf"manifest\.json: {wrong}"):
            snapshots.verify(path)
    (path / "manifest.json").write_text(json.dumps(whole))
    snapshots.verify(path)

    file = path / "rankings" / "train.parquet"
    kept = file.read_bytes()
    pq.write_table(pq.read_table(file).slice(1), file)
    rows = whole["files"]["rankings/train.parquet"]["rows"]
    with pytest.raises(DamagedSnapshot, match=rf"train\.parquet: its rows were changed: {rows - 1} rows where {rows}"):
        snapshots.verify(path)
    file.write_bytes(kept)


def test_only_the_labels_asked_for_are_frozen(workspace):
    with Store(workspace.database) as store:
        ana = store.user("ana").pseudonym
        found = owner.freeze(store, workspace, Choices(labeler=(ana,)))
        rows = [*store.ranking_rows(), *store.demonstration_rows()]
        with store.moment() as moment:
            none = list(moment.batches("rankings", labels=[]))

    theirs, others = ({row["label_id"] for row in rows if (row["labeler"] == ana) is own} for own in (True, False))
    assert (found.label_ids, found.counts["prompts"], len(theirs), none) == (theirs, 4, 5, [])
    assert found.holds_any(list(theirs)[:1]) and not found.holds_any(others)


def test_a_snapshot_of_the_first_format_is_read_and_verified(workspace, tmp_path):
    [path, *_] = [
        path for path in snapshots.folders(workspace.snapshots) if snapshots.load(path).counts["rankings"] == 12
    ]
    new = snapshots.load(path)
    hashes = {}
    for name in new.manifest["files"]:
        kind, split = name.removesuffix(".parquet").split("/")
        lines = (
            json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":")) for row in new.rows(kind, split)
        )
        hashes[name] = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    text = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    manifest = {
        "hash": hashlib.sha256(text.encode()).hexdigest()[:16],
        "format": 1,
        "created_at": WHEN,
        "label_ids": sorted(new.label_ids),
        "files": {name: {"sha256": digest} for name, digest in hashes.items()},
    }
    old = tmp_path / manifest["hash"]
    shutil.copytree(path, old)
    (old / "manifest.json").write_text(json.dumps(manifest))

    assert snapshots.load(old).label_ids == new.label_ids
    (old / "manifest.json").write_text(json.dumps(manifest | {"label_ids": ["l-1"]}))
    with pytest.raises(DamagedSnapshot, match="label_ids does not fit"):
        snapshots.verify(old)
    (old / "rankings" / "train.parquet").unlink()
    assert snapshots.tainted_snapshots(tmp_path, ["l-1"]) == [old.name]  # nobody can say that it is not


@pytest.mark.slow
def test_a_freeze_among_twenty_labelers_is_of_one_moment(tmp_path):
    workspace = Workspace.at(tmp_path)
    workspace.snapshots.mkdir(exist_ok=True)
    acknowledged = {f"labeler-{n}": [] for n in range(20)}
    with Store(workspace.database) as store:
        for name in acknowledged:
            store.add_user(name, "labeler")
        prompts = store.add_prompts([NewPrompt((Message("user", f"Question {n}?"),)) for n in range(8)])
        for prompt in prompts:
            store.add_ranking_task(prompt, [NewResponse("One.", "a"), NewResponse("Two.", "b")], len(acknowledged))

        def label(name):
            while task := store.next_task(name, "ranking"):
                one, two = task.task.response_ids
                answer = RankingAnswer({one: 1, two: 2})
                receipt = store.submit_ranking(name, task.task.id, task.lease, answer, guideline="g")
                acknowledged[name].append(receipt.label_id)

        threads = [threading.Thread(target=label, args=(name,)) for name in acknowledged]
        for thread in threads:
            thread.start()
        found = []
        while any(thread.is_alive() for thread in threads):
            before = {name: len(ids) for name, ids in acknowledged.items()}
            found.append((before, owner.freeze(store, workspace)))
        for thread in threads:
            thread.join()
        last = owner.freeze(store, workspace)

    for before, snapshot in found:
        inside = snapshots.load(snapshot.path).label_ids
        for name, ids in acknowledged.items():
            held = [id in inside for id in ids]
            assert held == sorted(held, reverse=True), "a label without one of the same labeler's before it"
            assert sum(held) >= before[name], "an acknowledged label is missing"
        assert len(inside) == snapshot.counts["rankings"]
    assert len(last.label_ids) == 160


def test_verdicts_are_the_responses_above_or_below_most_of_the_others():
    found = [(row["completion"], row["label"], row["rank"]) for row in rows_of(pairs.unpaired(RANKINGS))]

    # 1, 2, 2, none: the first is above two, each of the others below one; in 3, 1, 2 the middle one says nothing
    assert found == [
        ("text 1-0", True, 1),
        ("text 1-1", False, 2),
        ("text 1-2", False, 2),
        ("text 2-0", False, 3),
        ("text 2-1", True, 1),
    ]
    chosen = [(row["chosen_id"], row["rejected_id"], row["margin"]) for row in rows_of(pairs.comparisons(RANKINGS))]
    assert chosen == [
        ("r1-0", "r1-1", 1),
        ("r1-0", "r1-2", 1),
        ("r2-1", "r2-0", 2),
        ("r2-1", "r2-2", 1),
        ("r2-2", "r2-0", 1),
    ]


@pytest.mark.parametrize("kind", ["comparisons", "unpaired", "rankings"])
def test_every_format_holds_the_same_rows_whatever_the_batches(kind):
    make = pairs.OF_RANKINGS.get(kind, lambda batch: batch)
    whole, parts = [make(RANKINGS)], [make(RANKINGS.slice(start, 1)) for start in range(3)]
    as_bytes = {
        format: b"".join(stream(parts, kind, format)) for format in ("jsonl", "trl", "parquet", "trl-parquet", "arrow")
    }

    rows = [json.loads(line) for line in as_bytes["jsonl"].splitlines()]
    assert as_bytes["jsonl"] == b"".join(stream(whole, kind, "jsonl"))
    assert rows == rows_of(whole[0])
    assert pq.read_table(io.BytesIO(as_bytes["parquet"])).to_pylist() == whole[0].to_pylist()
    assert pa.ipc.open_file(as_bytes["arrow"]).read_all().to_pylist() == whole[0].to_pylist()
    shaped = [json.loads(line) for line in as_bytes["trl"].splitlines()]
    assert {row["details"] for row in shaped} == {'{"strength":3}'}  # of the same type in every row
    shaped = [row | {"details": json.loads(row["details"])} for row in shaped]
    if kind == "rankings":  # a whole second is written so that nobody takes the column for one of times
        assert {row["created_at"] for row in shaped} == {"2026-01-02T03:04:05.000000+00:00"}
        shaped = [row | {"created_at": WHEN} for row in shaped]
    in_parquet = rows_of(pq.read_table(io.BytesIO(as_bytes["trl-parquet"])).combine_chunks().to_batches()[0])
    assert in_parquet == shaped
    if kind == "unpaired":
        assert shaped[0]["completion"] == [{"role": "assistant", "content": "text 1-0"}]
        assert (shaped[0]["prompt"], shaped[0]["label"]) == (ASKED, True)


def test_a_dataset_folder_has_a_card_that_names_its_files(tmp_path):
    from data.dataset_folder import write_folder

    agreement = {"pairwise": 0.726, "pairs": 40, "interval": [0.6, 0.8]}
    held_out = batch_of([{**ranking(4, [2, 1]), "split": "heldout"}], "rankings")
    batches = [pairs.comparisons(RANKINGS), pairs.comparisons(held_out)]

    rows = write_folder(batches, "comparisons", tmp_path / "d", agreement=agreement, licence="cc-by-4.0")

    assert rows == {"train": 5, "heldout": 1}
    assert pq.read_table(tmp_path / "d" / "data" / "train-00000.parquet").column("margin").to_pylist() == [
        1,
        1,
        2,
        1,
        1,
    ]
    card = (tmp_path / "d" / "README.md").read_text()
    for words in (
        "license: cc-by-4.0",
        "path: data/heldout-*.parquet",
        "| train | 5 |",
        "72.6%",
        "60.0% to 80.0%",
        "`margin`",
    ):
        assert words in card
    with pytest.raises(InvalidInput, match="is there already"):
        write_folder(batches, "comparisons", tmp_path / "d", agreement=None)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
