"""A store of a million rankings with texts that are all different, made in a minute or two.

Writes  feedback.duckdb of a workspace: prompts, two tasks of four responses for each, and two labelers' rankings of
        each task, by 200 labelers; every tenth prompt held out

One prompt, task, lease and ranking are made by the store's own verbs, and then multiplied inside the database: each
table's own row is the pattern, so a column that a later migration adds is filled as the store would fill it. Words are
drawn by Zipf's law: texts of 300 to 600 characters that compress about as prose does.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.batches import Batch, BatchRow
from data.database import open_database
from data.records import Message, NewPrompt, NewResponse, RankingAnswer
from data.store import Store
from data.workspace import Workspace

LABELERS = 200
RESPONSES = 4
OVERLAP = 2  # rankings of each task
TASKS = 2  # of each prompt
TIES = 0.06  # of neighbours in a ranking
SLICE = 20_000  # tasks at a time
VOCABULARY = 30_000
LETTERS = np.frombuffer(b"eeeettaaooinshrdlucmfwypvbgk", np.uint8)

_PATTERNS = """
CREATE TEMP TABLE a_prompt AS FROM prompts LIMIT 1;
CREATE TEMP TABLE a_task AS FROM tasks LIMIT 1;
CREATE TEMP TABLE a_response AS FROM responses LIMIT 1;
CREATE TEMP TABLE a_lease AS FROM leases LIMIT 1;
CREATE TEMP TABLE a_ranking AS FROM rankings LIMIT 1;
CREATE TEMP TABLE people AS SELECT row_number() OVER () - 1 AS k, pseudonym FROM users;
CREATE TEMP MACRO name(kind, i) AS kind || '-' || left(md5(kind || i), 16);
CREATE TEMP MACRO ids(i) AS [name('r', i || '/0'), name('r', i || '/1'), name('r', i || '/2'), name('r', i || '/3')];
"""
_PROMPTS = """INSERT INTO prompts
    SELECT p.* REPLACE (i AS number, name('p', i) AS id,
        '[{"content":"' || words || '","role":"user"}]' AS messages,
        CASE WHEN i % 10 = 3 THEN 'heldout' ELSE 'train' END AS split)
    FROM new_prompts, a_prompt p ORDER BY i"""
_TASKS = """INSERT INTO tasks
    SELECT t.* REPLACE (i AS number, name('t', i) AS id, name('p', i // $tasks) AS prompt_id, ids(i) AS response_ids)
    FROM (SELECT DISTINCT i FROM new_responses), a_task t ORDER BY i"""
_RESPONSES = """INSERT INTO responses
    SELECT o.* REPLACE (i AS task_number, j AS position, name('r', i || '/' || j) AS id,
        name('p', i // $tasks) AS prompt_id, words AS text)
    FROM new_responses, a_response o ORDER BY i, j"""
_LEASES = """INSERT INTO leases
    SELECT l.* REPLACE ('lease ' || i || ' ' || n AS token, name('t', i) AS task_id, pseudonym AS labeler)
    FROM new_rankings JOIN people ON k = (i * $overlap + n) % $labelers, a_lease l ORDER BY i, n"""
_RANKINGS = """INSERT INTO rankings
    SELECT a.* REPLACE (name('l', i || '/' || n) AS label_id, name('t', i) AS task_id, i AS task_number,
        name('p', i // $tasks) AS prompt_id, pseudonym AS labeler, 'lease ' || i || ' ' || n AS lease,
        list_reverse(ids(i)) AS display_order, new_rankings.ranks AS ranks,
        a.created_at + to_microseconds(i * 1000) AS created_at)
    FROM new_rankings JOIN people ON k = (i * $overlap + n) % $labelers, a_ranking a ORDER BY i, n"""


def make(folder: Path, rankings: int) -> None:
    """Fill the workspace in `folder`."""
    path = Workspace.at(folder).database
    with Store(path) as store:
        for n in range(LABELERS):
            store.add_user(f"labeler-{n}", "labeler")
        [prompt] = store.add_prompts([NewPrompt((Message("user", "What is a pawl?"),), split="train")])
        responses = tuple(NewResponse("A pawl.", "sft-0001", {"temperature": 1.0}) for _ in range(RESPONSES))
        store.add_batch(Batch("sample-0001", "sft-0001", (BatchRow(prompt, responses),)), OVERLAP)
        task = store.next_task("labeler-0", "ranking")
        assert task is not None
        ranks = {response.id: place for place, response in enumerate(task.responses, 1)}
        answer = RankingAnswer(ranks, ratings={task.responses[0].id: {"helpful": 5}}, comment="Clear.", seconds=41.5)
        store.submit_ranking("labeler-0", task.task.id, task.lease, answer, guideline="0")
    database = open_database(path)
    try:
        _multiply(database.connection, rankings // OVERLAP)
    finally:
        database.close()


def _multiply(connection: duckdb.DuckDBPyConnection, tasks: int) -> None:
    random = np.random.default_rng(0)
    connection.execute(_PATTERNS)
    for start in range(TASKS, tasks + TASKS, SLICE):  # the first prompt and its tasks are the store's own
        numbers = np.arange(start, min(start + SLICE, tasks + TASKS))
        prompts = np.unique(numbers // TASKS)
        new_prompts = pa.table({"i": prompts, "words": _texts(random, len(prompts), 8, 60)})
        responses = len(numbers) * RESPONSES
        columns = {"i": np.repeat(numbers, RESPONSES), "j": np.tile(np.arange(RESPONSES), len(numbers))}
        new_responses = pa.table(columns | {"words": _texts(random, responses, 45, 90)})
        given = len(numbers) * OVERLAP
        columns = {"i": np.repeat(numbers, OVERLAP), "n": np.tile(np.arange(OVERLAP), len(numbers))}
        ranks = pa.FixedSizeListArray.from_arrays(pa.array(_ranks(random, given).ravel()), RESPONSES)
        new_rankings = pa.table(columns | {"ranks": ranks})
        tables = {"new_prompts": new_prompts, "new_responses": new_responses, "new_rankings": new_rankings}
        for name, table in tables.items():
            connection.register(name, table)
        known = {"tasks": TASKS, "overlap": OVERLAP, "labelers": LABELERS}
        connection.execute("BEGIN")
        for statement in (_PROMPTS, _TASKS, _RESPONSES, _LEASES, _RANKINGS):
            connection.execute(statement, {name: value for name, value in known.items() if f"${name}" in statement})
        connection.execute("COMMIT")
    connection.execute("CHECKPOINT")


def _texts(random: np.random.Generator, count: int, fewest: int, most: int) -> pa.Array:
    """As many texts of that many words."""
    lengths = random.integers(fewest, most + 1, count)
    places = (VOCABULARY ** random.random(lengths.sum())).astype(np.int64)  # word n is drawn as 1/n
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pc.binary_join(pa.ListArray.from_arrays(offsets, _WORDS.take(pa.array(places))), " ")


def _words() -> pa.Array:
    random = np.random.default_rng(1)
    return pa.array(
        [bytes(random.choice(LETTERS, random.integers(2, 9))).decode() for _ in range(VOCABULARY)] + ["the"]
    )


_WORDS = _words()


def _ranks(random: np.random.Generator, count: int) -> np.ndarray:
    """Ranks of 1 to 4, of which a few are ties."""
    order = np.argsort(random.random((count, RESPONSES)), axis=1)
    ties = random.random((count, RESPONSES)) < TIES
    ties[:, 0] = False
    by_place = np.arange(1, RESPONSES + 1)[None, :] - np.cumsum(ties, axis=1)
    return np.take_along_axis(by_place, np.argsort(order, axis=1), axis=1).astype(np.int32)
