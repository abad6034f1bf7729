"""Feedback comes in from files of many shapes, bad rows are named and stop nothing, and what goes out comes back."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import formats, interchange, shapes
from data.errors import InvalidInput, NotFound
from data.interchange import import_file, stream, write
from data.records import Message, NewPrompt, NewResponse, RankingAnswer
from data.store import Store

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has

COLOUR = (Message("user", "Name a colour."),)
ASKED = [{"role": "user", "content": "Name a colour."}]


@pytest.fixture
def empty():
    with Store(None) as store:
        yield store


def lines_of(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [(place, row) for place, row in formats.rows_of(path)]


def skipped(report):
    return [(row.place, row.why) for row in report.skipped]


# ---------------------------------------------------------------- files


def test_a_line_that_cannot_be_read_is_named_and_the_others_come(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": \n[1]\n{"a": "\xff"}\r\n{"a": 2}')

    found = read(path)

    assert found[0] == ("line 1", {"a": 1})
    assert [place for place, row in found[1:4]] == ["line 3", "line 4", "line 5"]  # line 2 is blank
    assert found[1][1].why.startswith("is not JSON")
    assert found[2][1].why == "is a JSON list, not an object"
    assert found[3][1].why == "is not UTF-8: byte 8 is 0xff"
    assert found[4] == ("line 6", {"a": 2})


def test_a_line_too_long_for_memory_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_ROW", 20)
    path = tmp_path / "f.jsonl"
    path.write_text('{"a": "' + 30 * "x" + '"}\n{"a": 1}\n{"a": "' + 90 * "y" + '"}')

    found = read(path)

    assert [place for place, _ in found] == ["line 1", "line 2", "line 3"]
    assert found[1][1] == {"a": 1}
    assert found[0][1].why == found[2][1].why == "is longer than 20 bytes"


def test_json_is_an_array_or_an_object_around_one_or_lines(tmp_path):
    rows = [{"a": 1}, {"a": 2}]
    for text in (json.dumps(rows), json.dumps({"data": rows}, indent=1), '{"a": 1}\n{"a": 2}\n'):
        (tmp_path / "f.json").write_text(text)
        assert [row for _, row in read(tmp_path / "f.json")] == rows


def test_an_array_that_breaks_off_gives_what_came_before(tmp_path):
    (tmp_path / "f.json").write_text('[{"a": 1},\n 7,\n {"a": ')

    first, second, third = read(tmp_path / "f.json")

    assert first == ("row 1", {"a": 1})
    assert second[1].why == "is a int, not an object"
    assert third[0] == "row 3"
    assert third[1].why.startswith("(line 3) is not JSON")


def test_csv_cells_hold_text_or_json_and_lines_are_counted_through_line_breaks(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text('prompt,response,tags\n"two\nlines",[not json],"[""a""]"\nx,[1],\ntoo,few\n"\n')

    first, second, third, fourth = read(path)

    assert first == ("line 2", {"prompt": "two\nlines", "response": "[not json]", "tags": ["a"]})
    assert second == ("line 4", {"prompt": "x", "response": "[1]"})  # a response in brackets is only text
    assert (third[0], third[1].why) == ("line 5", "has 2 cells where the header has 3")
    assert fourth[0] == "line 6"
    assert fourth[1].why.startswith("is not CSV")


def test_a_gzip_file_that_breaks_off_gives_what_came_before(tmp_path):
    whole = gzip.compress("".join(json.dumps({"a": n, "b": f"{n * n * 7919:x}"}) + "\n" for n in range(5000)).encode())
    (tmp_path / "f.jsonl.gz").write_bytes(whole[: len(whole) // 2])

    found = read(tmp_path / "f.jsonl.gz")

    assert found[0] == ("line 1", {"a": 0, "b": "0"})
    assert found[-1][0] == "end"
    assert "breaks off" in found[-1][1].why


def test_parquet_is_read_plain_and_gzipped_and_damage_is_named(tmp_path):
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "f.parquet")
    (tmp_path / "f.parquet.gz").write_bytes(gzip.compress((tmp_path / "f.parquet").read_bytes()))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")

    assert read(tmp_path / "f.parquet") == [("row 1", {"a": 1}), ("row 2", {"a": 2})]
    assert read(tmp_path / "f.parquet.gz") == read(tmp_path / "f.parquet")
    ((place, row),) = read(tmp_path / "bad.parquet")
    assert (place, "damaged" in row.why) == ("row 1", True)


def test_a_parquet_row_that_is_not_utf8_is_named_and_the_others_come(tmp_path):
    text = pa.array([b"good", b"\xff\xfe", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"prompt": text}), tmp_path / "f.parquet")

    first, second, third = read(tmp_path / "f.parquet")

    assert (first, third) == (("row 1", {"prompt": "good"}), ("row 3", {"prompt": "fine"}))
    assert second[1].why.startswith("is not UTF-8")


def test_other_endings_and_missing_files_are_refused(tmp_path, empty):
    (tmp_path / "f.xlsx").write_text("x")

    with pytest.raises(InvalidInput, match=r"\.jsonl"):
        import_file(empty, "prompts", tmp_path / "f.xlsx")
    with pytest.raises(NotFound, match="There is no file"):
        import_file(empty, "prompts", tmp_path / "g.jsonl")


@pytest.mark.slow
def test_a_hugging_face_folder_is_read_and_its_splits_are_kept(tmp_path, empty):
    import datasets

    train = datasets.Dataset.from_list([{"prompt": "One?", "completion": "1"}, {"prompt": "Two?", "completion": "2"}])
    test = datasets.Dataset.from_list([{"prompt": "Three?", "completion": "3"}])
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "hub").mkdir()
    train.to_parquet(str(tmp_path / "hub" / "train.parquet"))
    test.to_parquet(str(tmp_path / "hub" / "test.parquet"))

    report = import_file(empty, "demonstrations", tmp_path / "saved")
    assert (report.taken, report.new, report.skipped) == (3, 3, [])
    splits = {prompt.messages[0].content: prompt.split for prompt in empty.prompts()}
    assert splits == {"One?": "train", "Two?": "train", "Three?": "heldout"}

    report = import_file(empty, "prompts", tmp_path / "hub", known={prompt.id for prompt in empty.prompts()})
    assert (report.taken, report.new, report.skipped) == (3, 0, [])


@pytest.mark.slow
def test_a_folder_that_is_no_dataset_is_refused(tmp_path, empty):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.md").write_text("x")

    with pytest.raises(InvalidInput, match="not a dataset folder"):
        import_file(empty, "prompts", tmp_path / "folder")


def test_a_folder_of_everything_is_refused_before_it_is_searched(tmp_path, empty, monkeypatch):
    monkeypatch.setattr(formats, "MAX_FILES", 3)
    for number in range(4):
        (tmp_path / f"{number}.jsonl").write_text("{}")

    with pytest.raises(InvalidInput, match="more than 3 files"):
        import_file(empty, "prompts", tmp_path)


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a colour.", "response": "Blue."},
        {"prompt": ASKED, "completion": [{"role": "assistant", "content": "Blue."}]},
        {"prompt": "Name a colour.", "completion": "Blue."},
        {"messages": [*ASKED, {"role": "assistant", "content": "Blue."}]},
        {"instruction": "Name a colour.", "input": "", "output": "Blue."},
        {"instruction": "Name a colour.", "output": "Blue."},
        {"instruction": "Name a colour.", "instances": [{"input": "", "output": "Blue."}]},
        {"question": "Name a colour.", "answer": "Blue."},
        {"prompt": "\n\nHuman: Name a colour.\n\nAssistant:", "response": "Blue."},
    ],
)
def test_a_demonstration_has_many_shapes(row):
    (said,) = shapes.read("demonstrations", row, "f.jsonl").said

    assert said.prompt == NewPrompt(COLOUR, (), None, "f.jsonl")
    assert (said.label.response, said.label.labeler) == ("Blue.", "import")


def test_alpacas_input_follows_its_instruction():
    row = {"instruction": "Sort these.", "input": "b, a", "output": "a, b"}

    (said,) = shapes.read("demonstrations", row, "f").said

    assert said.prompt.messages == (Message("user", "Sort these.\n\nb, a"),)


CHOSEN, REJECTED = ({"role": "assistant", "content": text} for text in ("Blue.", "Fish."))


def ranking_of(row, kind="comparisons"):
    (said,) = shapes.read(kind, row, "f").said
    return said.prompt, said.label


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Fish."},
        {"prompt": ASKED, "chosen": [CHOSEN], "rejected": [REJECTED]},
        {"prompt": "Name a colour.", "chosen": [*ASKED, CHOSEN], "rejected": [*ASKED, REJECTED]},
        {"chosen": [*ASKED, CHOSEN], "rejected": [*ASKED, REJECTED]},
        {"chosen": "Name a colour. Blue.", "rejected": "Name a colour. Fish."},
        {
            "chosen": "\n\nHuman: Name a colour.\n\nAssistant: Blue.",
            "rejected": "\n\nHuman: Name a colour.\n\nAssistant: Fish.",
        },
    ],
)
def test_a_comparison_has_many_shapes_and_becomes_a_ranking_of_two(row):
    prompt, ranking = ranking_of(row)

    assert prompt.messages == COLOUR
    assert [response.text for response in ranking.responses] == ["Blue.", "Fish."]
    assert (ranking.ranks, ranking.labeler) == ((1, 2), "import")


def test_the_order_of_a_comparisons_responses_does_not_tell_which_was_chosen():
    _, ranking = ranking_of({"prompt": "Name a colour.", "chosen": "Fish.", "rejected": "Blue."})

    assert [response.text for response in ranking.responses] == ["Blue.", "Fish."]
    assert ranking.ranks == (2, 1)
    assert ranking.display_order == ()  # nor is it known in which order the labeler saw them


def test_an_implicit_prompt_never_ends_in_half_a_word():
    row = {"chosen": "The capital of France is Paris.", "rejected": "The capital of France is Parma."}

    prompt, ranking = ranking_of(row)

    assert prompt.messages[0].content == "The capital of France is"
    assert [response.text for response in ranking.responses] == ["Paris.", "Parma."]


def test_the_turns_of_a_dialogue_are_the_implicit_prompt():
    def dialogue(last):
        return f"\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: A colour?\n\nAssistant: {last}"

    prompt, ranking = ranking_of({"chosen": dialogue("Blue."), "rejected": dialogue("Blueish.")})

    assert [(turn.role, turn.content) for turn in prompt.messages] == [
        ("user", "Hi."),
        ("assistant", "Hello."),
        ("user", "A colour?"),
    ]
    assert [response.text for response in ranking.responses] == ["Blue.", "Blueish."]


def test_a_ranking_keeps_ties_unrankable_responses_and_what_was_said_of_each():
    row = {
        "prompt": "Name a colour.",
        "responses": [
            {"id": "r1", "text": "Blue.", "source": "sft-0001"},
            {"id": "r2", "text": "Red.", "source": "sft-0001"},
            {"id": "r3", "text": "Fish.", "source": "sft-0001"},
        ],
        "ranks": [1, 1, None],
        "ratings": {"r2": {"helpful": 6}},
        "flags": '{"r3": ["off_topic"]}',  # as Parquet holds it
        "labeler": "ana",
        "comment": "A fish.",
        "seconds": 7,
    }

    _, ranking = ranking_of(row, "rankings")

    assert ranking.responses[2] == NewResponse("Fish.", "sft-0001")
    assert ranking.ranks == (1, 1, None)
    assert ranking.ratings == ({}, {"helpful": 6}, {})
    assert ranking.flags == ((), (), ("off_topic",))
    assert (ranking.labeler, ranking.comment, ranking.seconds) == ("ana", "A fish.", 7.0)


@pytest.mark.parametrize(
    ("kind", "row", "why"),
    [
        ("prompts", {}, "has no prompt"),
        ("prompts", {"prompt": 3}, "has a int as prompt"),
        ("prompts", {"prompt": " \n"}, "has an empty prompt"),
        ("prompts", {"prompt": "a\0b"}, "NUL character in prompt"),
        ("prompts", {"prompt": "\ud800"}, "half a surrogate pair in prompt"),
        ("prompts", {"prompt": 100_001 * "x"}, "100,001 characters in prompt"),
        ("prompts", {"prompt": "x", "split": "lost"}, "has the split 'lost'"),
        ("prompts", {"messages": [{"role": "robot", "content": "x"}]}, "turn 1 whose role is 'robot'"),
        ("prompts", {"messages": []}, "has no turn in messages"),
        ("prompts", {"prompt": [CHOSEN]}, "does not end with the user's turn"),
        ("demonstrations", {"prompt": "x"}, "has no response"),
        ("demonstrations", {"prompt": "x", "response": ""}, "has an empty response"),
        ("demonstrations", {"prompt": "x", "completion": [CHOSEN, CHOSEN]}, "has 2 turns in completion"),
        ("comparisons", {"prompt": "x", "chosen": "a"}, "has no chosen or no rejected"),
        ("comparisons", {"prompt": "x", "chosen": "a", "rejected": "a"}, "the same text as chosen and as rejected"),
        ("comparisons", {"chosen": "a", "rejected": "b"}, "do not begin alike"),
        ("comparisons", {"prompt": "x", "chosen": "a", "rejected": [CHOSEN]}, "of different kinds"),
        ("rankings", {"prompt": "x", "responses": ["a"], "ranks": [1]}, "a list of 2 to 9"),
        ("rankings", {"prompt": "x", "responses": list("abcdefghij"), "ranks": [1] * 10}, "a list of 2 to 9"),
        ("rankings", {"prompt": "x", "responses": ["a", "b"], "ranks": [1]}, "2 responses but not 2 ranks"),
        ("rankings", {"prompt": "x", "responses": ["a", "b"], "ranks": [1, -3]}, "has the rank '-3'"),
        ("rankings", {"prompt": "x", "responses": ["a", "b"], "ranks": [True, 2]}, "has the rank 'True'"),
        ("rankings", {"prompt": "x", "responses": ["a", "b"], "ranks": [1.5, 2]}, "has the rank '1.5'"),
        ("rankings", {"prompt": "x", "responses": ["a", "b"], "ranks": [float("inf"), 2]}, "has the rank 'inf'"),
        ("rankings", {"prompt": "x", "responses": ["a", "b"], "ranks": [1, 2], "seconds": -1}, "no length of time"),
        ("rankings", {"prompt": "x", "responses": ["a", "b"], "ranks": [1, 2], "flags": {"z": []}}, "does not list"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_in_words(kind, row, why):
    with pytest.raises(shapes.Misfit) as misfit:
        shapes.read(kind, row, "f.jsonl")

    assert why in str(misfit.value)


# ---------------------------------------------------------------- into the store


def test_bad_rows_do_not_stop_the_good_ones_and_a_second_time_adds_nothing(tmp_path, empty):
    path = tmp_path / "mixed.jsonl"
    good = [json.dumps({"prompt": f"Prompt {n}?", "response": f"Response {n}."}).encode() for n in range(3)]
    path.write_bytes(b"\n".join([good[0], b"{", good[1], b'{"prompt": "caf\xe9"}', good[2], good[0]]))

    report = import_file(empty, "demonstrations", path)

    assert (report.taken, report.new) == (4, 3)  # the last row says what the first did
    assert [place for place, _ in skipped(report)] == ["line 2", "line 4"]
    assert {d.answer.response for d in empty.demonstrations()} == {"Response 0.", "Response 1.", "Response 2."}
    assert {d.source for d in empty.demonstrations()} == {"mixed.jsonl"}
    assert report.lines()[0].endswith("4 rows taken, 3 new demonstrations (1 was there already), 2 skipped")

    again = import_file(empty, "demonstrations", path)

    assert (again.taken, again.new) == (4, 0)
    assert len(empty.demonstrations()) == 3


def test_a_row_that_only_the_store_refuses_is_found_among_its_batch(tmp_path, empty):
    system_last = [*ASKED, {"role": "system", "content": "Be brief."}, *ASKED]
    rows = [{"prompt": f"Prompt {n}?"} for n in range(7)]
    path = lines_of(tmp_path / "f.jsonl", *rows[:5], {"prompt": system_last}, *rows[5:])

    report = import_file(empty, "prompts", path)

    assert (report.taken, report.new) == (7, 7)
    ((place, why),) = skipped(report)
    assert place == "line 6"
    assert "system" in why


def test_comparisons_of_several_labelers_share_a_task(tmp_path, empty):
    row = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Fish."}
    other = {"prompt": "Name a colour.", "chosen": "Fish.", "rejected": "Blue.", "labeler": "ben"}

    report = import_file(empty, "comparisons", lines_of(tmp_path / "f.jsonl", row | {"labeler": "ana"}, other))

    first, second = empty.rankings()
    assert (report.taken, report.new) == (2, 2)
    assert first.task_id == second.task_id
    assert first.labeler != second.labeler
    assert {"ana", "ben"}.isdisjoint({first.labeler, second.labeler})  # pseudonyms


def test_prompts_can_be_imported_with_a_request_for_demonstrations(tmp_path, empty):
    empty.add_user("ana", "labeler")

    import_file(empty, "prompts", lines_of(tmp_path / "f.jsonl", {"prompt": "One?", "split": "train"}), ask=1)

    assert empty.next_task("ana", "demonstration").prompt.messages[0].content == "One?"


def test_the_seeds_go_in_once(empty):
    first = interchange.seed(empty)
    again = interchange.seed(empty)

    assert first["prompts"] >= 100
    assert first["new_demonstrations"] == first["demonstrations"] >= 60
    assert first["new_tasks"] > 0
    assert (again["new_demonstrations"], again["new_tasks"]) == (0, 0)
    assert {d.source for d in empty.demonstrations()} == {"seed"}
    assert empty.sources() == {"seed": "Apache-2.0"}
    shown = {d.prompt_id for d in empty.demonstrations()}
    splits = {prompt.id: prompt.split for prompt in empty.prompts()}
    assert first["new_tasks"] == len([id for id, split in splits.items() if split == "train" and id not in shown])


# ---------------------------------------------------------------- out of the store

TEXTS = ("=1+1", "+Blue", "-Red", "@Fish")  # what a spreadsheet would run


@pytest.fixture
def labeled():
    """One prompt with a demonstration and one ranking of four: ranks 1, 2, 2 and unrankable."""
    with Store(None) as store:
        store.add_user("ana", "labeler")
        (prompt_id,) = store.add_prompts([NewPrompt(COLOUR, ("a,b", "c"), "train", "=seed")])
        store.add_demonstrations([(prompt_id, '-Blue,\n"quoted"')], labeler="ana", source="file.csv")
        store.add_ranking_task(prompt_id, [NewResponse(text, "sft-0001") for text in TEXTS], 1)
        task = store.next_task("ana", "ranking")
        ids = task.task.response_ids
        answer = RankingAnswer(
            ranks={ids[0]: 1, ids[1]: 2, ids[2]: 2},
            unrankable=(ids[3],),
            ratings={ids[0]: {"helpful": 7}},
            flags={ids[3]: ("off_topic",)},
            comment="=SUM(A1)",
            seconds=4.5,
        )
        store.submit_ranking("ana", task.task.id, task.lease, answer, guideline="g1")
        yield store


def exported(store, kind, format):
    return b"".join(stream(store.batches(kind), kind, format))


def test_trl_takes_demonstrations_as_conversations(labeled):
    (row,) = map(json.loads, exported(labeled, "demonstrations", "trl").splitlines())

    assert row["prompt"] == ASKED
    assert row["completion"] == [{"role": "assistant", "content": '-Blue,\n"quoted"'}]
    assert "response" not in row
    assert row["split"] == "train"


def test_trl_takes_comparisons_as_conversations_without_ties(labeled):
    rows = [json.loads(line) for line in exported(labeled, "comparisons", "trl").splitlines()]

    # of ranks 1, 2, 2 and unrankable, the pairs 1-2 and 1-3 are decided
    assert [(row["chosen"], row["rejected"]) for row in rows] == [
        ([{"role": "assistant", "content": "=1+1"}], [{"role": "assistant", "content": "+Blue"}]),
        ([{"role": "assistant", "content": "=1+1"}], [{"role": "assistant", "content": "-Red"}]),
    ]
    assert {row["margin"] for row in rows} == {1}
    assert {row["prompt"][0]["content"] for row in rows} == {"Name a colour."}
    assert rows[0]["ranking_id"] == rows[1]["ranking_id"]


def test_trl_takes_prompts_and_rankings_as_conversations(labeled):
    (prompt,) = map(json.loads, exported(labeled, "prompts", "trl").splitlines())
    (ranking,) = map(json.loads, exported(labeled, "rankings", "trl").splitlines())

    assert prompt["prompt"] == ASKED
    assert ranking["completions"][1] == [{"role": "assistant", "content": "+Blue"}]


def test_ranking_rows_carry_everything(labeled):
    (row,) = map(json.loads, exported(labeled, "rankings", "jsonl").splitlines())

    named = "label_id revision task_id prompt_id prompt responses ranks labeler created_at seconds display_order split"
    assert set(named.split()) <= set(row)
    assert [response["text"] for response in row["responses"]] == list(TEXTS)
    assert row["ranks"] == [1, 2, 2, None]
    assert (row["labeler"] != "ana", row["seconds"], row["split"]) == (True, 4.5, "train")
    assert sorted(row["display_order"]) == sorted(response["id"] for response in row["responses"])


def test_no_cell_of_a_csv_file_is_a_formula_and_reading_it_gives_the_text_back(labeled, tmp_path):
    for kind in interchange.KINDS:
        path = tmp_path / f"{kind}.csv"
        path.write_bytes(exported(labeled, kind, "csv"))
        cells = [cell for line in csv.reader(io.StringIO(path.read_text(), newline="")) for cell in line]
        assert [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")] == []

    (_, row), *_ = read(tmp_path / "comparisons.csv")
    assert (row["chosen"], row["rejected"]) == ("=1+1", "+Blue")


@pytest.mark.parametrize("text", ["=1", "'=1", "''=1", "'tis", "'", "plain", "\t", "@you", "-", "'-"])
def test_guarding_a_cell_can_be_undone(text):
    assert formats.unguarded(formats.guarded(text)) == text
    assert formats.guarded(text)[:1] not in ("=", "+", "-", "@", "\t", "\r")


def test_parquet_is_typed(labeled):
    tables = {kind: pq.read_table(io.BytesIO(exported(labeled, kind, "parquet"))) for kind in interchange.KINDS}

    assert tables["rankings"].column("ranks").to_pylist() == [[1, 2, 2, None]]
    assert tables["comparisons"].column("margin").to_pylist() == [1, 1]
    assert tables["demonstrations"].column("response").to_pylist() == ['-Blue,\n"quoted"']
    assert tables["prompts"].column("tags").to_pylist() == [["a,b", "c"]]


@pytest.mark.parametrize("format", ["jsonl", "trl", "csv", "parquet"])
@pytest.mark.parametrize("kind", ["prompts", "demonstrations", "rankings", "comparisons"])
def test_what_goes_out_comes_back(labeled, empty, tmp_path, kind, format):
    path = tmp_path / f"f.{'jsonl' if format == 'trl' else format}"
    write(stream(labeled.batches(kind), kind, format), path)

    report = import_file(empty, kind, path)

    assert report.skipped == []
    assert report.new == report.taken == (2 if kind == "comparisons" else 1)
    (before,), (after,) = labeled.prompts(), empty.prompts()
    assert (after.id, after.messages, after.split) == (before.id, before.messages, before.split)
    if kind == "prompts":
        assert (after.tags, after.source) == (before.tags, before.source)
    if kind == "demonstrations":
        assert [d.answer.response for d in empty.demonstrations()] == ['-Blue,\n"quoted"']
    if kind == "rankings":
        (old,), (new,) = labeled.ranking_rows(), empty.ranking_rows()
        for field in ("ranks", "comment", "seconds", "split"):
            assert new[field] == old[field], field
        assert [(r["text"], r["source"]) for r in new["responses"]] == [(text, "sft-0001") for text in TEXTS]
        assert list(new["ratings"].values()) == list(old["ratings"].values()) == [{"helpful": 7}]
        assert list(new["flags"].values()) == list(old["flags"].values()) == [["off_topic"]]
    if kind == "comparisons":
        pairs = {(row["chosen"], row["rejected"]) for row in empty.comparison_rows()}
        assert pairs == {("=1+1", "+Blue"), ("=1+1", "-Red")}


@pytest.mark.parametrize("format", ["jsonl", "trl", "csv", "parquet"])
@pytest.mark.parametrize("kind", ["prompts", "demonstrations", "rankings", "comparisons"])
def test_an_empty_store_exports_a_file_that_can_be_read(tmp_path, kind, format):
    path = tmp_path / f"f.{'jsonl' if format == 'trl' else format}"
    write(stream([], kind, format), path)

    assert read(path) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    def chunks():
        yield b"half"
        raise OSError("the disk is gone")

    path = tmp_path / "f.jsonl"
    path.write_text("old")

    with pytest.raises(OSError, match="the disk is gone"):
        write(chunks(), path)

    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["f.jsonl"]


def test_a_file_can_be_written_gzipped(tmp_path):
    write([b'{"a": 1}\n'], tmp_path / "f.jsonl.gz")

    assert read(tmp_path / "f.jsonl.gz") == [("line 1", {"a": 1})]


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(InvalidInput, match="There is no folder"):
        write([b""], tmp_path / "nowhere" / "f.csv")
    with pytest.raises(InvalidInput, match="is a folder"):
        write([b""], tmp_path)
    with pytest.raises(InvalidInput, match="no export of 'tasks'"):
        stream([], "tasks", "csv")
    with pytest.raises(InvalidInput, match="as 'xlsx'"):
        stream([], "prompts", "xlsx")
