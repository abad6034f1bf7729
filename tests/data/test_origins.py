"""A snapshot's name is the same wherever it is frozen, and it says where each of its parts comes from."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from data import snapshots
from data.archive import Archive
from data.columns import SINCE_3, rows_of
from data.contents import Contents, sealed
from data.dataset_folder import write_folder
from data.errors import DamagedSnapshot, InvalidInput
from data.importing import import_file
from data.interchange import stream, write
from data.origins import header_lines
from data.store import Store


@pytest.fixture
def frozen(hand_made):
    [path] = snapshots.folders(hand_made / "snapshots")
    return snapshots.load(path)


def test_the_same_labels_have_this_name_on_every_machine(frozen):
    assert frozen.hash == "7c5eed3b62416247"


def test_the_manifest_counts_each_source_with_its_licence(frozen):
    def source(name, licence, *counts):
        return {"name": name, "licence": licence} | dict(
            zip(("prompts", "demonstrations", "rankings"), counts, strict=True)
        )

    assert frozen.manifest["sources"] == [
        source("labeler", None, 1, 0, 1),
        source("pilot", "CC-BY-4.0", 1, 0, 1),
        source("rewrite", None, 0, 1, 0),
        source("web|2", "made by us, all rights kept", 0, 1, 0),
    ]


def test_the_card_has_a_table_of_sources_and_a_licence_only_when_there_is_one(frozen, hand_made, tmp_path):
    lines = (frozen.path / "README.md").read_text().splitlines()
    assert lines[1] == "license: other"
    assert "| pilot | CC-BY-4.0 | 1 | 0 | 1 |" in lines
    assert "| web&#124;2 | made by us, all rights kept | 0 | 1 | 0 |" in lines
    assert "The parts are under different licences: CC-BY-4.0, made by us, all rights kept." in "\n".join(lines)

    with Archive(hand_made / "feedback.duckdb") as archive:
        [batch] = archive.batches("comparisons")
    write_folder([batch], "comparisons", tmp_path / "d", agreement=None)  # those of l-1 alone: the pairs 1-2 and 1-3
    card = (tmp_path / "d" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n") and "| pilot | CC-BY-4.0 | 2 |" in card

    def header(*licences):
        return header_lines([{"name": "s", "licence": licence} for licence in licences], None)

    assert header("MIT", "MIT") == ["license: mit"] and header("CC BY-NC 4.0") == ["license: cc-by-nc-4.0"]
    assert header("MIT", None) == header("MIT", "ISC") == ["license: other"]
    assert header("Ours\nevil: 1") == ["license: other", "license_name: ours-evil-1"]
    assert header(None) == header() == ["license: unknown"]


def test_a_manifest_whose_licences_were_edited_is_refused(frozen, tmp_path):
    path = tmp_path / frozen.hash
    shutil.copytree(frozen.path, path)
    sources = [source | {"licence": "MIT"} for source in frozen.manifest["sources"]]
    (path / "manifest.json").write_text(json.dumps(sealed(frozen.manifest | {"sources": sources})))

    with pytest.raises(DamagedSnapshot, match="sources does not fit the rows"):
        snapshots.verify(path)


def test_a_snapshot_of_the_second_format_is_read_and_verified(frozen, tmp_path):
    contents = Contents(2)
    shutil.copytree(frozen.path, tmp_path / "new")
    for kind, newer in SINCE_3.items():
        for split in ("train", "heldout"):
            file = tmp_path / "new" / kind / f"{split}.parquet"
            table = pq.read_table(file).drop_columns(list(newer))
            pq.write_table(table, file)
            for batch in table.to_batches():
                contents.add(kind, split, batch)
    said = contents.manifest({}) | {"created_at": "2026-03-01", "promoted": None, "agreement": None, "about": {}}
    old = (tmp_path / "new").rename(tmp_path / said["hash"])
    (old / "manifest.json").write_text(json.dumps(sealed(said)))

    assert snapshots.load(old).counts == frozen.counts and "sources" not in said
    assert [row["labeler"] for row in snapshots.load(old).rows("rankings", "train")] == ["labeler-a"]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["jsonl", "trl-parquet", "csv"])
def test_an_import_of_an_export_keeps_its_sources_licences_details_and_times(hand_made, tmp_path, format):
    with Archive(hand_made / "feedback.duckdb") as archive, Store(None) as store:
        for kind in ("rankings", "demonstrations", "comparisons"):
            path = tmp_path / f"{kind}.{format.removeprefix('trl-')}"
            write(stream(archive.batches(kind), kind, format), path)
            assert import_file(store, kind, path).skipped == []
        rows = [
            row for kind in ("rankings", "demonstrations") for batch in store.batches(kind) for row in rows_of(batch)
        ]
        licences = store.sources()
        other = import_file(store, "rankings", tmp_path / path.name.replace("comparisons", "rankings"), licence="MIT")

    name = f"rankings.{path.suffix[1:]}"
    told = {(row["source"], row["licence"], row["client_at"], json.dumps(row["details"])) for row in rows}
    assert licences == {"pilot": "CC-BY-4.0", "web|2": "made by us, all rights kept"}
    assert told == {
        ("pilot", "CC-BY-4.0", "2026-03-01T00:59:59.500000+00:00", '{"strength": 3}'),
        # what was labeled there comes from the file here, and was labeled when it was stored
        (name, "", "2026-03-01T09:00:00+00:00", "{}"),
        (name.replace("rankings", "demonstrations"), "", "2026-03-01T09:00:00+00:00", "{}"),
        ("web|2", "made by us, all rights kept", "", "{}"),
    }
    assert (other.taken, other.new) == (2, 0)  # its own licences go before the one given for what has none


def test_a_row_whose_source_is_here_under_another_licence_is_skipped_and_named(hand_made, tmp_path):
    path = tmp_path / "f.jsonl"
    with Archive(hand_made / "feedback.duckdb") as archive, Store(None) as store:
        write(stream(archive.batches("rankings"), "rankings", "jsonl"), path)
        store.add_source("pilot", "MIT")
        report = import_file(store, "rankings", path)

    assert (report.taken, report.skips) == (1, 1)
    assert "'pilot' is here under the licence 'MIT', not 'CC-BY-4.0'" in report.skipped[0].why


def test_a_project_states_the_licence_of_what_its_own_labelers_say(store, add_ranking_tasks, in_order):
    add_ranking_tasks(store, 1)
    task = store.next_task("ana", "ranking")
    answer = in_order(task, rewrite={"response_id": task.task.response_ids[0], "text": "A better one."})
    store.submit_ranking("ana", task.task.id, task.lease, answer, guideline="g1")
    for name in ("labeler", "rewrite"):
        store.add_source(name, "CC-BY-4.0")

    assert [row["licence"] for kind in ("rankings", "demonstrations") for row in store.rows(kind)] == ["CC-BY-4.0"] * 2
    with pytest.raises(InvalidInput, match="names what people label here"):
        store.add_rankings([], source="rewrite")
