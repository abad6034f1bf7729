"""A file comes in row by row: nothing is lost or taken twice, who labeled stays apart, and it goes out the same."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import formats
from data.__main__ import main
from data.errors import Conflict, InvalidInput
from data.importing import import_file, preview
from data.interchange import stream, write
from data.progress import Bar
from data.store import Store

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has

ASKED = [{"role": "user", "content": "Name a colour."}]


def lines_of(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair(first, second, value, worker="w1"):
    row = {"debate": "Colours", "stance": "Which", "a1": first, "a2": second, "a1_id": first, "a2_id": second}
    return {**row, "labels": [{"worker": worker, "value": value, "hit_seconds": 3, "reason": "", "competence": 0.5}]}


def test_labels_of_the_same_responses_meet_on_one_task_and_names_are_of_their_source(tmp_path):
    rows = [pair("Blue.", "Fish.", "a1"), pair("Fish.", "Blue.", "a1", "w2"), pair("Blue.", "Fish.", "equal", "w2")]
    path = lines_of(tmp_path / "f.jsonl", *rows)

    with Store(None) as store:
        report = import_file(store, "rankings", path, source="one", licence="CC-BY-4.0")
        again = import_file(store, "rankings", path, source="one", licence="CC-BY-4.0")
        found = list(store.ranking_rows())
        shown = {(r["labeler"], tuple(r["ranks"]), r["display_order"][0] == r["responses"][0]["id"]) for r in found}
        people = {row["labeler"] for row in found}
        details = store.label_details([row["label_id"] for row in found])
        other = import_file(store, "rankings", path, source="two")

        assert (report.rows, report.taken, report.new, again.new, other.new) == (3, 3, 3, 0, 3)
        assert len({row["task_id"] for row in found}) == 1
        # in the task's order, Blue and Fish: w1 and w2 disagree though both chose what stood first; w2 once had a tie
        assert sorted((ranks, first) for _, ranks, first in shown) == [((1, 1), True), ((1, 2), True), ((2, 1), False)]
        assert list(details.values()) == [{"competence": 0.5}] * 3
        assert store.sources() == {"one": "CC-BY-4.0"}
        assert len(people) == 2
        assert len({row["labeler"] for row in store.ranking_rows()}) == 4  # w1 of two is not w1 of one
        with pytest.raises(Conflict, match="'one' is here under the licence 'CC-BY-4.0', not 'MIT'"):
            import_file(store, "rankings", path, source="one", licence="MIT")
        with pytest.raises(InvalidInput, match="'review', which names what people label here"):
            import_file(store, "rankings", path, source="review")


def test_a_row_of_several_labels_is_taken_without_the_one_that_cannot_be(tmp_path):
    row = pair("Blue.", "Fish.", "a1")
    row["labels"].append({"worker": "w2", "value": "neither"})

    with Store(None) as store:
        report = import_file(store, "rankings", lines_of(tmp_path / "f.jsonl", row, {"labels": 3}))

    assert (report.rows, report.taken, report.labels, report.skips) == (2, 1, 1, 1)
    assert [(part.place, part.why[:7]) for part in report.parts] == [("line 1", "label 2")]
    assert report.lines()[1] == "  recognised: UKPConvArg pairs with several labels (1 rows)"


def test_a_dry_run_shows_what_would_be_stored_and_makes_no_store(tmp_path, capsys):
    rows = [{"q": f"Colour {n}?", "out": ["Blue.", "Fish."], "order": [1, 2]} for n in range(5)]
    path = lines_of(tmp_path / "f.jsonl", {"q": "?"}, *rows)
    maps = ["--map", "prompt=q", "--map", "responses=out", "--map", "ranks=order"]

    code = main(["import", "rankings", str(path), "--dry-run", "--json", "--workspace", str(tmp_path / "w"), *maps])

    said = capsys.readouterr().out
    told = json.loads(said.splitlines()[-1])
    assert code == 0
    assert "Of the first 4 rows, 1 would be skipped" in said
    assert (told["taken"], told["shapes"]) == (3, {"columns named by --map": 4})
    assert told["stored"][0]["prompt"] == [{"role": "user", "content": "Colour 0?"}]
    assert [response["text"] for response in told["stored"][0]["responses"]] == ["Blue.", "Fish."]
    assert not (tmp_path / "w" / "feedback.duckdb").exists()
    assert preview("rankings", path)[0].skipped[1].why == "has no responses: a list of 2 to 9 is wanted"


def test_an_array_is_read_in_parts_wherever_they_are_cut(tmp_path, monkeypatch):
    rows = [{"prompt": f"Ünï {n} [{{,]"} for n in range(9)]
    monkeypatch.setattr(formats, "CHUNK", 5)
    for text in (
        json.dumps(rows),
        json.dumps(rows, indent=2),
        json.dumps({"data": rows}),
        json.dumps({"a": rows}, indent=1),
    ):
        (tmp_path / "f.json").write_text(text)
        assert [row for _, row in formats.rows_of(tmp_path / "f.json")] == rows
    (tmp_path / "f.json").write_text(json.dumps({"messages": ASKED}))  # a row, not an array of rows
    assert [row for _, row in formats.rows_of(tmp_path / "f.json")] == [{"messages": ASKED}]


def test_a_dataset_folder_reads_what_lies_in_it_and_nothing_that_it_names_elsewhere(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("---\nconfigs:\n- data_files: https://example.invalid/rows.jsonl\n---\n")
    lines_of(tmp_path / "data" / "train-00000-of-00001.jsonl", {"prompt": "One?"})
    lines_of(tmp_path / "data" / "test.jsonl", {"prompt": "Two?"})
    (tmp_path / "dataset_infos.json").write_text("{}")

    assert list(formats.rows_of(tmp_path)) == [
        ("data/test.jsonl line 1", {"split": "test", "prompt": "Two?"}),
        ("data/train-00000-of-00001.jsonl line 1", {"split": "train", "prompt": "One?"}),
    ]


def test_a_bar_is_drawn_for_a_terminal_and_for_nothing_else():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for to, drawn in ((Terminal(), True), (io.StringIO(), False)):
        with Bar(to) as bar:
            bar.show(0.5, "7 rows")
        assert ("[###############...............]  50%  7 rows" in to.getvalue()) is drawn


# ------------------------------------------------------- out and in again

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8).filter(
    str.strip
)
PROMPTS = st.fixed_dictionaries({"prompt": st.lists(TEXTS, min_size=1, max_size=3)}).map(
    lambda row: {
        "prompt": [
            {"role": ("user", "assistant")[(len(row["prompt"]) - 1 - n) % 2], "content": text}
            for n, text in enumerate(row["prompt"])
        ]
    }
)
LABELERS = st.fixed_dictionaries({"labeler": st.sampled_from(["ana", "ben"]), "seconds": st.none() | st.floats(0, 999)})
ORIGINS = st.sampled_from([{"source": "x", "licence": "MIT"}, {"source": "y|y", "licence": ""}])
OURS = st.just({}) | st.fixed_dictionaries(  # a row of our own exports, of a label that had been imported there
    {
        "client_at": st.sampled_from(["", "2026-01-02T03:04:05.000600+00:00"]),
        "details": st.sampled_from([{}, {"strength": 3, "ratings": [1, "B"]}]),
    }
).flatmap(lambda row: ORIGINS.map(lambda origin: row | origin | {name: "p-1" for name in OUR_IDS}))
OUR_IDS = ("prompt_id", "ranking_id")


@st.composite
def rankings(draw):
    k = draw(st.integers(2, 4))
    ids = [f"r{n}" for n in range(k)]
    ranks = draw(st.lists(st.none() | st.integers(1, k), min_size=k, max_size=k))
    flags = draw(st.dictionaries(st.sampled_from(ids), st.just(["pii", "unsafe"])))
    ratings = draw(st.dictionaries(st.sampled_from(ids), st.just({"helpful": 7})))
    more = {"display_order": draw(st.permutations(ids)), "comment": draw(st.just("") | TEXTS)}
    texts = [{"id": id, "text": draw(TEXTS), "source": draw(TEXTS)} for id in ids]
    more |= draw(PROMPTS) | draw(LABELERS) | draw(OURS)
    return {"responses": texts, "ranks": ranks, "ratings": ratings, "flags": flags, **more}


@st.composite
def comparisons(draw):
    chosen, rejected = draw(st.lists(TEXTS, min_size=2, max_size=2, unique=True))
    more = draw(PROMPTS) | draw(OURS) | draw(st.sampled_from([{}, {"score_chosen": 2.5}]))
    return {"chosen": chosen, "rejected": rejected, "labeler": draw(st.sampled_from("ab")), **more}


@st.composite
def demonstrations(draw):
    return {"response": draw(TEXTS), **draw(PROMPTS), **draw(LABELERS), **draw(OURS)}


@st.composite
def prompts(draw):
    row = draw(PROMPTS)
    tags, split = draw(st.lists(TEXTS, max_size=2)), draw(st.sampled_from(["train", "heldout"]))
    return {**row, "tags": tags, "split": split, **draw(OURS)}


ROWS = {"rankings": rankings, "comparisons": comparisons, "demonstrations": demonstrations, "prompts": prompts}
NAMES = "label_id revision task_id prompt_id ranking_id chosen_id rejected_id created_at labeler".split()


def told(store, kind):
    """What the store exports, without the names that each store gives: of each labeler, what they said."""
    said = {}
    for row in getattr(store, f"{kind[:-1]}_rows")():
        ids = [response["id"] for response in row.get("responses", [])]
        plain = {name: value for name, value in row.items() if name not in NAMES}
        for name in {"display_order", "unrankable"} & plain.keys():
            plain[name] = [ids.index(id) for id in plain[name]]
        for name in {"ratings", "flags"} & plain.keys():
            plain[name] = {ids.index(id): value for id, value in plain[name].items()}
        plain["responses"] = [(response["text"], response["source"]) for response in row.get("responses", [])]
        said.setdefault(row.get("labeler"), []).append(json.dumps(plain, sort_keys=True))
    return sorted(sorted(rows) for rows in said.values())


@pytest.mark.parametrize("kind", ROWS)
def test_what_comes_in_goes_out_and_comes_in_the_same(tmp_path, kind):
    with Store(None) as first, Store(None) as second:

        @settings(max_examples=8, deadline=None, database=None, derandomize=True)
        @given(rows=st.lists(ROWS[kind](), min_size=1, max_size=4), ending=st.sampled_from(["jsonl", "csv", "parquet"]))
        def check(rows, ending):
            report = import_file(first, kind, lines_of(tmp_path / "in.jsonl", *rows))
            assert report.taken == report.rows == len(rows), report.lines()
            out = tmp_path / f"out.{ending}"
            write(stream(first.batches(kind), kind, ending), out)
            back = import_file(second, kind, out)
            assert back.skipped == []

        check()
        assert told(second, kind) == told(first, kind)
        assert second.sources() == first.sources() == {"x": "MIT"}
