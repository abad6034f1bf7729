"""A store in memory with a clock that stands still, and the few moves that most tests make."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from data import owner
from data.archive import Archive
from data.database import open_database
from data.records import Assignment, Message, NewPrompt, NewResponse, RankingAnswer
from data.store import Store
from data.workspace import Workspace


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 9, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    with Store(None, now=clock) as store:
        for name in ("ana", "ben", "cem"):
            store.add_user(name, "labeler")
        yield store


@pytest.fixture
def add_ranking_tasks() -> Callable[..., list[str]]:
    """add_ranking_tasks(store, 3, overlap=2): three tasks of three responses each; their ids, oldest first."""

    def add(store: Store, count: int, *, overlap: int = 1, responses: int = 3) -> list[str]:
        first = len(store.prompts())
        prompts = [NewPrompt((Message("user", f"Question {first + n}?"),), split="train") for n in range(count)]
        texts = [NewResponse(f"Response {n}.", "sft-0001", {"temperature": 0.7}) for n in range(responses)]
        return [store.add_ranking_task(id, texts, overlap) for id in store.add_prompts(prompts)]

    return add


@pytest.fixture
def in_order() -> Callable[..., RankingAnswer]:
    """in_order(assignment): the answer that ranks the responses 1, 2, 3 ... in the task's own order."""

    def answer(assignment: Assignment, **more: object) -> RankingAnswer:
        ranks = {id: rank for rank, id in enumerate(assignment.task.response_ids, 1)}
        return RankingAnswer(ranks, **more)

    return answer


@pytest.fixture
def label(in_order) -> Callable[..., tuple[str, str]]:
    """label(store, "ana"): claim the next ranking task and rank it in order; (task id, label id)."""

    def submit(store: Store, labeler: str, **more: object) -> tuple[str, str]:
        assignment = store.next_task(labeler, "ranking")
        assert assignment is not None
        answer = in_order(assignment, **more)
        receipt = store.submit_ranking(labeler, assignment.task.id, assignment.lease, answer, guideline="g1")
        return assignment.task.id, receipt.label_id

    return submit


HAND_MADE = """
INSERT INTO sources VALUES ('pilot', 'CC-BY-4.0', $now), ('web|2', 'made by us, all rights kept', $now);
INSERT INTO prompts VALUES
    (0, 'p-1', '[{"role":"user","content":"Nenne eine Farbe ☃."}]', ['lang:de'], 'train', 'pilot', $now),
    (1, 'p-2', '[{"role":"user","content":"A fish?"}]', [], 'heldout', 'labeler', $now);
INSERT INTO tasks (number, id, kind, prompt_id, response_ids, overlap, priority, created_at) VALUES
    (0, 't-1', 'ranking', 'p-1', ['r-1', 'r-2', 'r-3'], 0, 0, $now),
    (1, 't-2', 'ranking', 'p-2', ['r-4', 'r-5'], 1, 0, $now);
INSERT INTO responses VALUES
    (0, 0, 'r-1', 'p-1', 'Blau.', 'sft-0001', '{}', $now), (0, 1, 'r-2', 'p-1', 'Grün.', 'sft-0001', '{}', $now),
    (0, 2, 'r-3', 'p-1', 'Fisch.', 'sft-0001', '{}', $now),
    (1, 0, 'r-4', 'p-2', 'Carp.', 'ppo-0001', '{}', $now), (1, 1, 'r-5', 'p-2', '', 'ppo-0001', '{}', $now);
INSERT INTO rankings (label_id, revision, task_id, task_number, prompt_id, labeler, display_order, ranks, ratings,
        flags, rewrite, comment, seconds, guideline, source, client_at, created_at) VALUES
    ('l-1', 1, 't-1', 0, 'p-1', 'labeler-a', [], [1, 2, 2], '{}', '{}', NULL, '', NULL, '', 'pilot', $said, $now),
    ('l-2', 2, 't-2', 1, 'p-2', 'labeler-b', ['r-5', 'r-4'], [1, NULL], '{"r-4":{"helpful":7}}', '{"r-5":["refusal"]}',
        '{"response_id":"r-4","text":"A carp."}', 'short', 4.25, 'g-1', 'labeler', NULL, $now);
INSERT INTO label_details VALUES ('l-1', '{"strength":3}', $now);
INSERT INTO demonstrations (label_id, revision, task_id, prompt_id, labeler, response, seconds, guideline, source,
        client_at, created_at, started_from) VALUES
    ('d-1', 1, NULL, 'p-1', 'labeler-a', 'Blau, würde ich sagen.', -0.0, '', 'web|2', NULL, $now, NULL),
    ('l-2-rewrite', 1, 't-2', 'p-2', 'labeler-b', 'A carp.', NULL, 'g-1', 'rewrite:l-2', NULL, $now, 'r-4');
INSERT INTO checkpoints VALUES ('sft-0001', 'sft', [], NULL, '{"loss":1.5}', $now);
INSERT INTO checkpoint_states VALUES ('sft-0001', 'candidate', '', $now), ('sft-0001', 'promoted', 'the first', $now);
"""


@pytest.fixture(scope="session")
def hand_made(tmp_path_factory) -> Path:
    """A workspace whose every word was written by hand: its snapshot has the same name wherever it is frozen."""
    workspace = Workspace.at(tmp_path_factory.mktemp("hand-made"))
    database = open_database(workspace.database)
    times = {"$now": "TIMESTAMPTZ '2026-03-01 09:00:00+00'", "$said": "TIMESTAMPTZ '2026-02-28 23:59:59.5-01:00'"}
    sql = HAND_MADE
    for name, time in times.items():
        sql = sql.replace(name, time)
    database.connection.execute(sql)
    database.close()
    with Archive(workspace.database) as archive:
        owner.freeze(archive, workspace)
    return workspace.root
