"""What a snapshot looks like, on six labels whose numbers were worked out by hand."""

from __future__ import annotations

import json

import pytest

from data import snapshots
from data.__main__ import main
from data.agreement import Share
from data.browsing import sample
from data.errors import DamagedSnapshot, InvalidInput, NotFound
from data.labelers import effect, excludes_even
from data.look import Labeled, Lengths, look

WHEN = "2026-01-02T03:04:05+00:00"
TURNS = {
    "p-1": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Name a colour."}],  # 8 + 14
    "p-2": [{"role": "user", "content": "Why?"}],
    "p-3": [{"role": "user", "content": "ü" * 30}],
}


def prompt(id: str, source: str, split: str = "train") -> dict:
    return {"prompt_id": id, "messages": TURNS[id], "tags": [], "split": split, "source": source, "created_at": WHEN}


def label(id: str, prompt_id: str, labeler: str, split: str) -> dict:
    return {
        "label_id": id,
        "revision": 1,
        "task_id": None,
        "prompt_id": prompt_id,
        "prompt": TURNS[prompt_id],
        "labeler": labeler,
        "created_at": WHEN,
        "seconds": 12.0,
        "split": split,
        "guideline": "g1",
    }


def demonstration(id: str, prompt_id: str, labeler: str, response: str, source: str) -> dict:
    return label(id, prompt_id, labeler, "train") | {"response": response, "source": source}


def ranking(id: str, task: str, labeler: str, responses: str, ranks: list, shown: str, split: str = "train") -> dict:
    """`responses` names them by a letter each, `shown` is the order on the screen."""
    given = [{"id": f"r-{name}", "text": TEXTS[name][0], "source": TEXTS[name][1]} for name in responses]
    return label(id, "p-2" if split == "heldout" else "p-1", labeler, split) | {
        "task_id": task,
        "responses": given,
        "ranks": ranks,
        "display_order": [f"r-{name}" for name in shown],
        "unrankable": [each["id"] for each, rank in zip(given, ranks, strict=True) if rank is None],
        "ratings": {"r-a": {"helpful": 5}} if task == "t-1" else {},
        "flags": {"r-c": ["unsafe"]} if task == "t-1" else {},
        "rewrite": None,
        "comment": "",
    }


TEXTS = {
    "a": ("a" * 10, "sft-0001"),
    "b": ("b" * 20, "sft-0001"),
    "c": ("c" * 30, "ppo-0001"),
    "d": ("d" * 5, "file.jsonl"),
    "e": ("e" * 5, "file.jsonl"),
    "f": ("f" * 40, "ppo-0001"),
    "g": ("g" * 7, "ppo-0001"),
    "h": ("h" * 60, "ppo-0001"),
}
ROWS = {
    "prompts": [prompt("p-1", "seed"), prompt("p-2", "file.jsonl", "heldout"), prompt("p-3", "seed")],
    "demonstrations": [
        demonstration("d-1", "p-1", "ana", "x" * 100, "labeler"),
        demonstration("d-2", "p-3", "ben", "x" * 7000, "rewrite:l-1"),
    ],
    "rankings": [
        ranking("l-1", "t-1", "ana", "abc", [1, 2, 3], "abc"),
        ranking("l-2", "t-1", "ben", "abc", [1, 1, 2], "cba"),
        ranking("l-3", "t-2", "ana", "de", [2, 1], "", "heldout"),  # an import that does not say what was shown first
        ranking("l-4", "t-3", "cem", "fgh", [2, 1, None], "ghf"),
    ],
}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    return snapshots.freeze(tmp_path_factory.mktemp("workspace") / "snapshots", **ROWS)


@pytest.fixture(scope="module")
def seen(frozen):
    return look(frozen)


def test_lengths_are_of_whole_prompts_and_of_each_decided_pairs_better_and_worse_response(seen):
    none = (0,) * 8

    assert seen.lengths["prompts"] == Lengths(3, (4, 22, 30), (2, 1, *none))  # 4, 22, 30
    # l-1: a over b, a over c, b over c; l-2: a over c, b over c; l-3: e over d; l-4: g over f
    assert seen.lengths["chosen"] == Lengths(7, (7, 10, 20), (7, 0, *none))  # 5 7 10 10 10 20 20
    assert seen.lengths["rejected"] == Lengths(7, (20, 30, 30), (2, 5, *none))  # 5 20 30 30 30 30 40
    assert seen.lengths["demonstrations"] == Lengths(2, (100, 100, 7000), (0, 0, 0, 1, 0, 0, 0, 0, 0, 1))


def test_ties_and_unranked_responses_are_counted(seen):
    assert (seen.decided, seen.tied, seen.unranked) == (7, 1, 1)
    assert seen.ties == (3, 1)  # three rankings without a tie, l-2 with one


def test_agreement_is_over_tasks_that_several_ranked_and_drawn_task_by_task(seen):
    assert (seen.tasks, seen.double_tasks) == (3, 1)
    assert seen.agreement["pairwise"] == pytest.approx(2.5 / 3)  # a and b: a decision beside a tie; c: alike twice
    assert seen.alike == (0, 0, 0, 0, 1, 0)  # 0.83 is from 0.8 to below 1


def test_the_agreement_of_rankings_made_of_several_is_that_of_the_labels_they_were_made_of(tmp_path):
    agreement = {"pairwise": 0.7, "interval": [0.6, 0.8], "pairs": 90}

    assert look(snapshots.freeze(tmp_path, **ROWS, agreement=agreement)).agreement["pairs"] == 3
    made = snapshots.freeze(tmp_path, **ROWS, agreement=agreement, about={"aggregated": {"l-1": ["l-8", "l-9"]}})
    assert look(made).agreement == agreement


def test_labelers_and_sources_are_counted_and_a_tasks_responses_once(seen):
    assert seen.labelers == (Labeled("ana", 2, 1), Labeled("ben", 1, 1), Labeled("cem", 1, 0))
    assert seen.sources["responses"] == {"ppo-0001": 4, "sft-0001": 2, "file.jsonl": 2}
    assert seen.sources["prompts"] == {"seed": 2, "file.jsonl": 1}
    assert seen.sources["demonstrations"] == {"labeler": 1, "rewrite": 1}


def test_what_sways_a_choice_is_that_of_the_page_people(seen):
    # shown first: l-1 wins 3 of 3, l-2 0 of 2, l-4 1 of 1 (g before f); of l-3 nobody knows the order
    position = effect([((1, 2, 3), (1, 2, 3), 1), ((1, 1, 2), (3, 2, 1), 1), ((2, 1, None), (3, 1, 2), 1)])

    assert seen.shown == 3
    assert seen.position == position and position.value == pytest.approx(4 / 6)
    # longer: none of 3, of 2, of 1; d and e are equally long. Three rankings that came out alike are worth three cases
    assert (seen.length.value, seen.length.n) == (0.0, 6)
    assert seen.length.interval == pytest.approx((0.0, 1.96**2 / (3 + 1.96**2)), abs=1e-3)


def test_a_warning_needs_the_whole_interval_beyond_the_margin():
    near, far = Share(0.54, (0.515, 0.565), 900), Share(0.46, (0.44, 0.475), 900)

    assert excludes_even(near) and not excludes_even(near, 0.02)
    assert excludes_even(far, 0.02)


def test_it_does_not_matter_how_the_rows_are_cut(frozen, seen, monkeypatch):
    monkeypatch.setattr(snapshots, "ROW_GROUP", 1)

    assert look(frozen) == seen


def test_the_numbers_are_printed_as_json(frozen, seen, capsys):
    asked = ["--workspace", str(frozen.path.parent.parent), "--snapshot"]

    assert main(["stats", *asked, frozen.hash, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(seen.json()))
    assert printed["position"]["warning"] is False and "position" in printed["definitions"]
    assert main(["stats", *asked, frozen.hash]) == 0
    assert "shown first wins             0.667" in capsys.readouterr().out
    assert main(["stats", *asked, "0000"]) == 1
    assert "python -m data snapshots" in capsys.readouterr().err


def test_a_sample_is_every_row_once_in_an_order_of_its_own_that_stays(frozen):
    pages = [sample(frozen, "rankings", start, 3) for start in (0, 3, 6)]
    ids = [row["label_id"] for rows, _ in pages for row in rows]

    assert sorted(ids) == ["l-1", "l-2", "l-3", "l-4"] and [total for _, total in pages] == [4, 4, 4]
    assert [row["label_id"] for row in sample(frozen, "rankings", 1, 2)[0]] == ids[1:3]
    (row,) = [row for rows, _ in pages for row in rows if row["label_id"] == "l-1"]
    assert row["flags"] == {"r-c": ["unsafe"]} and row["responses"][0]["text"] == "a" * 10
    with pytest.raises(InvalidInput, match="rankings"):
        sample(frozen, "prompts", 0, 3)


def test_a_file_that_cannot_be_read_is_named_damage_and_an_unknown_name_is_not_found(tmp_path):
    damaged = snapshots.freeze(tmp_path, **ROWS)
    (damaged.path / "rankings" / "train.parquet").write_bytes(b"PAR1")

    for read in (look, lambda snapshot: sample(snapshot, "rankings", 0, 1)):
        with pytest.raises(DamagedSnapshot, match="cannot be read"):
            read(damaged)
    for name in ("0000", "..", ""):
        with pytest.raises(NotFound):
            snapshots.named(tmp_path, name)
