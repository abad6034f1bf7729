"""A store that many people have worked in for long, made in seconds.

Writes  feedback.duckdb of a workspace: one prompt for every four tasks, tasks of four responses wanted by two labelers
        each, and the labels that two of the labelers gave to each of the oldest tasks

One prompt, task, lease and ranking are made by the store's own verbs, and then multiplied inside the database: each
table's own row is the pattern, so a column that a later migration adds is filled as the store would fill it.
"""

from __future__ import annotations

from pathlib import Path

from annotate.auth import Auth
from data.batches import Batch, BatchRow
from data.database import open_database
from data.records import Message, NewPrompt, NewResponse, RankingAnswer
from data.store import Store
from data.workspace import Workspace

OVERLAP = 2  # labelers wanted for each task
RESPONSES = 4
TASKS_OF_A_PROMPT = 4
TEXT = "A pawl is a small lever that drops into the teeth of a ratchet and lets the wheel turn one way only. "

# What task i is called, what its prompt says, and which lease led to its n-th label.
_NAMES = """
CREATE TEMP MACRO task_id(i) AS 't-' || left(md5('task ' || i), 16);
CREATE TEMP MACRO question(i) AS 'Question ' || (i // {per}) || ': what is a pawl, and what is it good for?';
CREATE TEMP MACRO prompt_id(i) AS 'p-' || left(sha256('[["user", "' || question(i) || '"]]'), 16);
CREATE TEMP MACRO response_id(i, j) AS 'r-' || left(md5('response ' || i || ' ' || j), 16);
CREATE TEMP MACRO lease(i, n) AS 'lease ' || i || ' ' || n;
"""
_PATTERNS = """
CREATE TEMP TABLE a_prompt AS FROM prompts LIMIT 1;
CREATE TEMP TABLE a_task AS FROM tasks LIMIT 1;
CREATE TEMP TABLE a_response AS FROM responses LIMIT 1;
CREATE TEMP TABLE a_lease AS FROM leases LIMIT 1;
CREATE TEMP TABLE a_ranking AS FROM rankings LIMIT 1;
CREATE TEMP TABLE given AS SELECT i, n, pseudonym
    FROM (SELECT i, unnest(range({overlap})) AS n FROM range(1, {done}) r(i))
    JOIN (SELECT row_number() OVER () - 1 AS k, pseudonym FROM users) ON k = (i * {overlap} + n) % {people}
    ORDER BY i, n;
"""
_MULTIPLY = """
INSERT INTO prompts
    SELECT p.* REPLACE (i // {per} AS number, prompt_id(i) AS id,
        '[{{"content":"' || question(i) || '","role":"user"}}]' AS messages)
    FROM range({per}, {tasks}, {per}) r(i), a_prompt p;
INSERT INTO tasks
    SELECT t.* REPLACE (i AS number, task_id(i) AS id, CASE WHEN i < {per} THEN prompt_id ELSE prompt_id(i) END
        AS prompt_id, [response_id(i, 0), response_id(i, 1), response_id(i, 2), response_id(i, 3)] AS response_ids)
    FROM range(1, {tasks}) r(i), a_task t;
INSERT INTO responses
    SELECT o.* REPLACE (i AS task_number, j AS position, response_id(i, j) AS id,
        CASE WHEN i < {per} THEN prompt_id ELSE prompt_id(i) END AS prompt_id,
        'Response ' || j || ' to task ' || i || '. ' || text AS text)
    FROM (SELECT i, unnest(range(4)) AS j FROM range(1, {tasks}) r(i)), a_response o;
INSERT INTO leases
    SELECT l.* REPLACE (lease(i, n) AS token, task_id(i) AS task_id, pseudonym AS labeler) FROM given, a_lease l;
INSERT INTO rankings
    SELECT a.* REPLACE ('l-' || left(md5('label ' || i || ' ' || n), 16) AS label_id, task_id(i) AS task_id,
        i AS task_number, CASE WHEN i < {per} THEN prompt_id ELSE prompt_id(i) END AS prompt_id,
        pseudonym AS labeler, lease(i, n) AS lease,
        [response_id(i, 3), response_id(i, 1), response_id(i, 0), response_id(i, 2)] AS display_order)
    FROM given, a_ranking a;
CHECKPOINT;
"""


def make(folder: Path, tasks: int, labels: int, people: int) -> dict[str, str]:
    """Fill the workspace in `folder`; the API token of each labeler, by their name."""
    database_path = Workspace.at(folder).database
    names = [f"labeler-{n}" for n in range(people)]
    with Store(database_path) as store:
        auth = Auth(store)
        tokens = {name: auth.add_user(name, "labeler")[1] for name in names}
        [prompt] = store.add_prompts([NewPrompt((Message("user", "What is a pawl?"),), split="train")])
        responses = tuple(NewResponse(TEXT * 3, "sft-0001", {"temperature": 1.0}) for _ in range(RESPONSES))
        store.add_batch(Batch("sample-0001", "sft-0001", (BatchRow(prompt, responses),)), OVERLAP)
        for name in names[:OVERLAP]:
            task = store.next_task(name, "ranking")
            assert task is not None
            ranks = {response.id: place for place, response in enumerate(task.responses, 1)}
            store.submit_ranking(name, task.task.id, task.lease, RankingAnswer(ranks, seconds=12.0), guideline="0")
    _multiply(database_path, tasks, labels // OVERLAP, people)
    return tokens


def _multiply(path: Path, tasks: int, done: int, people: int) -> None:
    numbers = {"tasks": tasks, "done": done, "people": people, "overlap": OVERLAP, "per": TASKS_OF_A_PROMPT}
    database = open_database(path)
    try:
        for statements in (_NAMES, _PATTERNS, _MULTIPLY):
            database.connection.execute(statements.format(**numbers))
    finally:
        database.close()
