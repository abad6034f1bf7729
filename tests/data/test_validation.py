"""Bad input of every kind: refused with the field's name, and not one row in any table is different."""

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from data.batches import Batch, BatchRow
from data.errors import InvalidInput, NotFound
from data.records import (
    MAX_TEXT,
    Checkpoint,
    DemonstrationAnswer,
    Message,
    NewPrompt,
    NewRanking,
    NewResponse,
    RankingAnswer,
)
from data.rows import TABLES

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has

HELLO = NewPrompt((Message("user", "Hello?"),))
TEXTS = (NewResponse("One.", "sft-0001"), NewResponse("Two.", "sft-0001"), NewResponse("Three.", "sft-0001"))
MEGABYTE = "x" * 1_000_000
LONE = "half a \ud83d smile"


@pytest.fixture
def unchanged(store):
    """After the test, every table has as many rows as when it called this: rows are only ever appended."""
    counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in TABLES.values())
    held = []
    yield lambda: held.extend(store._read(f"SELECT {counts}"))
    assert held and store._read(f"SELECT {counts}") == held


BAD_RANKINGS = {  # a change of the good answer {a: 1, b: 2, c: 3}, and what the message names
    "an unknown response id": (lambda a, b, c: {"ranks": {a: 1, b: 2, c: 3, "r-?": 1}}, "ranks names 'r-\\?'"),
    "a missing rank": (lambda a, b, c: {"ranks": {a: 1, b: 2}}, "response r-.* has no rank"),
    "rank 0": (lambda a, b, c: {"ranks": {a: 0, b: 2, c: 3}}, "ranks.* is 0 .* from 1 to 3"),
    "rank K + 1": (lambda a, b, c: {"ranks": {a: 4, b: 2, c: 3}}, "ranks.* is 4 .* from 1 to 3"),
    "a negative rank": (lambda a, b, c: {"ranks": {a: -1, b: 2, c: 3}}, "ranks.* is -1"),
    "a rank that is true": (lambda a, b, c: {"ranks": {a: True, b: 2, c: 3}}, "ranks.* is True"),
    "a rank of 1.0": (lambda a, b, c: {"ranks": {a: 1.0, b: 2, c: 3}}, "ranks.* is 1.0"),
    "a rank of '1'": (lambda a, b, c: {"ranks": {a: "1", b: 2, c: 3}}, "ranks.* is '1'"),
    "a rank of none": (lambda a, b, c: {"ranks": {a: None, b: 2, c: 3}}, "ranks.* is None"),
    "ranks in a list": (lambda a, b, c: {"ranks": [1, 2, 3]}, "ranks is \\[1, 2, 3\\]"),
    "no ranks": (lambda a, b, c: {"ranks": {}}, "has no rank"),
    "a rank for an unrankable": (lambda a, b, c: {"unrankable": (a,)}, "has a rank and is in unrankable"),
    "an unknown unrankable": (lambda a, b, c: {"unrankable": ("r-?",)}, "unrankable names 'r-\\?'"),
    "an unrankable twice": (lambda a, b, c: {"ranks": {b: 1, c: 1}, "unrankable": (a, a)}, "unrankable names .* twice"),
    "an unrankable dict": (lambda a, b, c: {"unrankable": ({},)}, "unrankable names {}"),
    "unrankable as text": (lambda a, b, c: {"unrankable": a}, "unrankable is"),
    "a rating of 0": (lambda a, b, c: {"ratings": {a: {"helpful": 0}}}, "ratings.*'helpful'.* is 0 .* 1 to 7"),
    "a rating of 8": (lambda a, b, c: {"ratings": {a: {"honest": 8}}}, "ratings.*'honest'.* is 8"),
    "a rating that is true": (lambda a, b, c: {"ratings": {a: {"honest": True}}}, "ratings.*'honest'.* is True"),
    "a rating by another name": (lambda a, b, c: {"ratings": {a: {"funny": 3}}}, "'funny'.* is no rating"),
    "a rating of an unknown": (lambda a, b, c: {"ratings": {"r-?": {"honest": 3}}}, "ratings names 'r-\\?'"),
    "ratings in a list": (lambda a, b, c: {"ratings": {a: [1]}}, "ratings.* is \\[1\\]"),
    "an unknown flag": (lambda a, b, c: {"flags": {a: ("rude",)}}, "flags.* holds 'rude'"),
    "a flag on an unknown": (lambda a, b, c: {"flags": {"r-?": ("pii",)}}, "flags names 'r-\\?'"),
    "flags as text": (lambda a, b, c: {"flags": {a: "pii"}}, "flags.* is 'pii'"),
    "a rewrite of an unknown": (
        lambda a, b, c: {"rewrite": {"response_id": "r-?", "text": "x"}},
        "rewrite.response_id",
    ),
    "an empty rewrite": (lambda a, b, c: {"rewrite": {"response_id": a, "text": " \n"}}, "rewrite.text is empty"),
    "a rewrite without text": (lambda a, b, c: {"rewrite": {"response_id": a}}, "rewrite must have"),
    "a rewrite with NUL": (lambda a, b, c: {"rewrite": {"response_id": a, "text": "a\0"}}, "rewrite.text has a NUL"),
    "a comment with NUL": (lambda a, b, c: {"comment": "a\0b"}, "comment has a NUL character at 1"),
    "half a character": (lambda a, b, c: {"comment": LONE}, "comment has half a character .* at 7"),
    "a comment of 1 MB": (
        lambda a, b, c: {"comment": MEGABYTE},
        "comment has 1,000,000 characters and may have 100,000",
    ),
    "a comment of bytes": (lambda a, b, c: {"comment": b"\xff"}, "comment is .* must be text"),
    "seconds below 0": (lambda a, b, c: {"seconds": -1}, "seconds is -1"),
    "seconds without end": (lambda a, b, c: {"seconds": math.inf}, "seconds is inf"),
    "seconds of no number": (lambda a, b, c: {"seconds": math.nan}, "seconds is nan"),
    "seconds as text": (lambda a, b, c: {"seconds": "9"}, "seconds is '9'"),
    "an id of 1 MB": (lambda a, b, c: {"ranks": {MEGABYTE: 1}}, "ranks names 'xxx"),
}


@pytest.mark.parametrize("change, named", BAD_RANKINGS.values(), ids=BAD_RANKINGS.keys())
def test_a_bad_ranking_is_refused_by_name(store, add_ranking_tasks, unchanged, change, named):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")
    ids = mine.task.response_ids
    good = RankingAnswer(dict(zip(ids, (1, 2, 3), strict=True)))
    unchanged()

    with pytest.raises(InvalidInput, match=f"Nothing was stored: .*{named}") as refused:
        store.submit_ranking("ana", mine.task.id, mine.lease, replace(good, **change(*ids)), guideline="g1")

    assert len(str(refused.value)) < 2_000  # a megabyte is not sent back
    str(refused.value).encode()


def test_all_that_is_wrong_is_named_at_once(store, add_ranking_tasks, unchanged):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")
    answer = RankingAnswer({"r-?": 9}, comment="\0", seconds=-1, flags={"r-!": ("pii",)})
    unchanged()

    with pytest.raises(InvalidInput) as refused:
        store.submit_ranking("ana", mine.task.id, mine.lease, answer, guideline="g1")

    for named in ("r-?", "has no rank", "comment", "seconds", "r-!"):
        assert named in str(refused.value)


def test_a_ranking_with_everything_unrankable_is_an_answer(store, add_ranking_tasks):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")
    answer = RankingAnswer({}, unrankable=mine.task.response_ids)

    store.submit_ranking("ana", mine.task.id, mine.lease, answer, guideline="g1")

    assert store.rankings()[0].answer.unrankable == mine.task.response_ids
    assert list(store.comparison_rows()) == []


@pytest.mark.parametrize(
    "text", ["x" * MAX_TEXT, "𝒳 😀 \u202e \x07 \ufeff \r\n", "'; DROP TABLE rankings; --", "\\u0000"]
)
def test_any_other_text_comes_back_as_it_was_sent(store, text):
    id = store.add_prompts([NewPrompt((Message("user", text),))])[0]
    store.add_demonstration_tasks([id])
    mine = store.next_task("ana", "demonstration")
    store.submit_demonstration("ana", mine.task.id, mine.lease, DemonstrationAnswer(text), guideline="g1")

    assert mine.prompt.messages[0].content == text
    assert store.demonstrations()[0].answer.response == text
    assert next(store.demonstration_rows())["prompt"] == [{"role": "user", "content": text}]


BAD_TEXTS = {
    "nothing": ("", "is empty"),
    "blanks": (" \n\t", "is empty"),
    "NUL": ("a\0", "has a NUL"),
    "half a character": (LONE, "has half a character"),
    "1 MB": (MEGABYTE, "has 1,000,000 characters"),
    "no text": (7, "is 7 and must be text"),
    "None": (None, "is None and must be text"),
}


@pytest.mark.parametrize("text, why", BAD_TEXTS.values(), ids=BAD_TEXTS.keys())
def test_a_bad_text_is_refused_wherever_it_is_sent(store, unchanged, text, why):
    id = store.add_prompts([HELLO])[0]
    store.add_demonstration_tasks([id])
    mine = store.next_task("ana", "demonstration")
    unchanged()

    for field, attempt in {
        "response": lambda: store.submit_demonstration(
            "ana", mine.task.id, mine.lease, DemonstrationAnswer(text), guideline="g1"
        ),
        "\\[0\\].messages\\[0\\].content": lambda: store.add_prompts([NewPrompt((Message("user", text),))]),
        "\\[1\\].response": lambda: store.add_demonstrations([(id, "Hi!"), (id, text)], labeler="a", source="b"),
        "source": lambda: store.add_demonstrations([(id, "Hi!")], labeler="a", source=text),
        "responses\\[1\\].source": lambda: store.add_ranking_task(id, [TEXTS[0], NewResponse("x", text)], 1),
    }.items():
        with pytest.raises(InvalidInput, match=f"{field} {why}"):
            attempt()


BAD_PROMPTS = {
    "no messages": (NewPrompt(()), "messages must be a list of one message or more"),
    "an unknown role": (NewPrompt((Message("robot", "x"),)), "messages\\[0\\].role is 'robot'"),
    "a late system turn": (NewPrompt((*HELLO.messages, Message("system", "x"))), "messages\\[1\\].role is system"),
    "the assistant last": (NewPrompt((*HELLO.messages, Message("assistant", "x"))), "ends with a turn of assistant"),
    "no message at all": (NewPrompt(({"role": "user"},)), "messages\\[0\\].role is None"),
    "an unknown split": (replace(HELLO, split="test"), "split is 'test'"),
    "tags as text": (replace(HELLO, tags="code"), "tags is 'code'"),
    "an empty tag": (replace(HELLO, tags=("code", "")), "tags\\[1\\] is empty"),
}


@pytest.mark.parametrize("prompt, why", BAD_PROMPTS.values(), ids=BAD_PROMPTS.keys())
def test_one_bad_prompt_among_good_ones_stores_none(store, unchanged, prompt, why):
    unchanged()

    with pytest.raises(InvalidInput, match=f"\\[1\\].*{why}"):
        store.add_prompts([HELLO, prompt])


@pytest.mark.parametrize(
    "change, named",
    [
        ({"responses": TEXTS[:1]}, "responses must be a list of 2 to 9"),
        ({"responses": TEXTS * 4}, "responses must be a list of 2 to 9"),
        ({"responses": ("One.", "Two.")}, "responses\\[0\\] is 'One.'"),
        ({"responses": (replace(TEXTS[0], sampling={"t": math.nan}), TEXTS[1])}, "responses\\[0\\].sampling"),
        ({"overlap": 0}, "overlap is 0"),
        ({"overlap": True}, "overlap is True"),
        ({"overlap": 101}, "overlap is 101"),
    ],
)
def test_a_bad_ranking_task_is_refused(store, unchanged, change, named):
    id = store.add_prompts([HELLO])[0]
    unchanged()

    with pytest.raises(InvalidInput, match=named):
        store.add_ranking_task(**({"prompt_id": id, "responses": TEXTS, "overlap": 1} | change))


def test_a_batch_with_one_bad_row_adds_no_task(store, unchanged):
    id = store.add_prompts([HELLO])[0]
    unchanged()

    with pytest.raises(InvalidInput, match="rows\\[1\\].prompt_id is 'p-unknown'"):
        store.add_batch(Batch("b-1", "sft-0001", (BatchRow(id, TEXTS), BatchRow("p-unknown", TEXTS))))
    with pytest.raises(InvalidInput, match="rows\\[1\\].responses\\[0\\].text has a NUL"):
        bad = (NewResponse("\0", "sft-0001"), TEXTS[0])
        store.add_batch(Batch("b-1", "sft-0001", (BatchRow(id, TEXTS), BatchRow(id, bad))))


@pytest.mark.parametrize(
    "change, named",
    [
        ({"prompt_id": "p-unknown"}, "\\[1\\].prompt_id is 'p-unknown'"),
        ({"ranks": (1, 2)}, "\\[1\\].ranks has 2 ranks for 3"),
        ({"ranks": (1, 2, 4)}, "\\[1\\].ranks\\[2\\] is 4"),
        ({"ratings": ({"helpful": 9}, {}, {})}, "\\[1\\].ratings\\[0\\]"),
        ({"flags": (("rude",), (), ())}, "\\[1\\].flags\\[0\\] holds 'rude'"),
        ({"flags": (("pii",),)}, "\\[1\\].flags has 1 entries for 3"),
        ({"labeler": ""}, "\\[1\\].labeler is empty"),
        ({"seconds": -1}, "\\[1\\].seconds is -1"),
    ],
)
def test_a_bad_imported_ranking_stores_none_of_its_file(store, unchanged, change, named):
    good = NewRanking(store.add_prompts([HELLO])[0], TEXTS, (1, 2, None), "maria")
    unchanged()

    with pytest.raises(InvalidInput, match=named):
        store.add_rankings([good, replace(good, **change)])


CHECKPOINT = Checkpoint("ppo-0001", "ppo", (), None, {}, "candidate", "", datetime.now().astimezone())


@pytest.mark.parametrize(
    "change, named",
    [
        ({"id": ""}, "id is empty"),
        ({"state": "best"}, "state is 'best'"),
        ({"metrics": {"loss": math.nan}}, "metrics cannot be written as JSON"),
        ({"parents": (7,)}, "parents\\[0\\] is 7"),
        ({"created_at": datetime(2026, 3, 1)}, "created_at is .* time with its zone"),
        ({"created_at": None}, "created_at"),
    ],
)
def test_a_bad_checkpoint_is_refused(store, unchanged, change, named):
    unchanged()

    with pytest.raises(InvalidInput, match=named):
        store.add_checkpoint(replace(CHECKPOINT, **change))


def test_other_bad_input_is_refused_by_name(store, add_ranking_tasks, in_order, unchanged):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")
    where = ("ana", mine.task.id, mine.lease)
    unchanged()

    for named, attempt in {
        "name is 'a b'": lambda: store.add_user("a b", "labeler"),
        "role is 'king'": lambda: store.add_user("dan", "king"),
        "kind is 'comparison'": lambda: store.next_task("ana", "comparison"),
        "kind is 'cookie'": lambda: store.add_token("ana", "hash", "cookie", None),
        "reason is None": lambda: store.skip(*where, None),
        "guideline is None": lambda: store.submit_ranking(*where, in_order(mine), guideline=None),
        "client_at is": lambda: store.submit_ranking(
            *where, in_order(mine), guideline="g1", client_at=datetime(2026, 3, 1)
        ),
        "client_at is datetime.datetime\\(1, 1": lambda: store.submit_ranking(
            *where, in_order(mine), guideline="g1", client_at=datetime.min.replace(tzinfo=UTC)
        ),
        "asks for a ranking": lambda: store.submit_demonstration(*where, DemonstrationAnswer("x"), guideline="g1"),
        "one of the two": lambda: store.withdraw(),
        "state of run": lambda: store.put_run("ppo-0001", {"loss": math.inf}),
    }.items():
        with pytest.raises(InvalidInput, match=named):
            attempt()


def test_what_is_not_there_is_named(store, unchanged):
    unchanged()

    for named, attempt in {
        "no task 't-1'": lambda: store.submit_ranking("ana", "t-1", "lease", RankingAnswer({}), guideline="g1"),
        "no user 'dan'": lambda: store.next_task("dan", "ranking"),
        "no prompt 'p-1'": lambda: store.add_demonstration_tasks(["p-1"]),
        "no label 'l-1'": lambda: store.withdraw(label_id="l-1"),
        "no batch 'b-1'": lambda: store.retire_tasks("b-1"),
        "no checkpoint 'ppo-1'": lambda: store.checkpoint("ppo-1"),
    }.items():
        with pytest.raises(NotFound, match=named):
            attempt()
