"""Decisions about which ranking task is due to a labeler: work, or a task that shows how well they judge. Pure.

Before any work, a labeler answers the qualification tasks, where there are any. From then on a fixed share of what
they are given are gold tasks, whose answer is known, and tasks they ranked before, in another order; nothing on the
screen tells these from work. Which turn brings a check is drawn from the labeler's pseudonym and how many tasks they
had, so that a reload changes nothing.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta

from data.agreement import accuracy
from data.live import Live
from data.records import Task, TaskKind, User
from data.rows import QualificationScoreRow, Row, TaskRow, new_id

UNLIMITED = 1_000_000_000  # the overlap of a task that everyone is to have
_TRIES = 50  # earlier tasks looked at for one that can be repeated


def due(live: Live, now: datetime, user: User, kind: TaskKind, *, ahead: bool) -> tuple[list[Row], str | None]:
    """The rows that make the task that is due, if it must be made first, and its id; None when nothing is left.

    `ahead`: the labeler has a task on the screen already, and this one comes after it.
    """
    labeler = user.pseudonym
    if kind == "demonstration":
        return [], live.queues[kind].pick(labeler, now)
    if must_qualify(live, user):
        return [], live.queues["qualification"].pick(labeler, now)
    work = live.queues["ranking"].pick(labeler, now)
    if work is None:
        return [], None
    turn = live.given[labeler] + ahead
    draw, settings = _draw(labeler, turn), live.settings
    if draw < settings.gold_share:
        return [], live.queues["gold"].pick(labeler, now) or work
    if draw < settings.gold_share + settings.repeat_share:
        return _repeat(live, now, labeler, turn) or ([], work)
    return [], work


def must_qualify(live: Live, user: User) -> bool:
    """Whether this labeler is still to show that they can judge: never somebody who works already, or was let in."""
    labeler = user.pseudonym
    if user.role != "labeler" or labeler in live.admitted or labeler in live.ranked:
        return False
    tasks, scores = qualification(live, labeler)
    return len(scores) < tasks or (tasks > 0 and sum(scores) / len(scores) < live.settings.qualify_at)


def qualification(live: Live, labeler: str) -> tuple[int, list[float]]:
    """How many qualification tasks there are, and this labeler's scores in those that they answered."""
    tasks = [id for id, state in live.queues["qualification"].states() if state != "retired"]
    scores = live.qualification.get(labeler, {})
    return len(tasks), [scores[id] for id in tasks if id in scores]


def score(live: Live, now: datetime, task: Task, labeler: str, ranks: Sequence[int | None]) -> list[Row]:
    """How far an answer to a qualification task agrees with the expected one: the tie-aware share of pairs."""
    if task.purpose != "qualification":
        return []
    agreed = accuracy(ranks, live.gold[task.id])
    return [QualificationScoreRow(task.id, labeler, agreed or 0.0, now)]  # none: everything was called unrankable


def _repeat(live: Live, now: datetime, labeler: str, turn: int) -> tuple[list[Row], str] | None:
    """A task they ranked long enough ago to have forgotten it, made anew for them; None when there is none."""
    lapsed = live.queues["repeat"].pick(labeler, now)
    if lapsed is not None:
        return [], lapsed
    done = live.ranked.get(labeler, [])
    until = now - timedelta(minutes=live.settings.repeat_after_minutes)
    old = bisect_right(done, until, key=lambda work: work[1])
    for n in range(min(old, _TRIES)):
        task_id, _ = done[(int(_draw(labeler, turn, "which") * old) + n) % old]
        answer = live.answers[task_id, labeler]
        if (task_id, labeler) in live.repeated or answer.id in live.undone or answer.id in live.withdrawn:
            continue
        again = live.tasks[task_id].task
        row = TaskRow(
            number=len(live.tasks),
            id=new_id("t"),
            kind="ranking",
            prompt_id=again.prompt_id,
            response_ids=list(again.response_ids),
            overlap=1,
            priority=0,
            batch_id=None,
            created_at=now,
            purpose="repeat",
            repeat_of=task_id,
            reserved_for=labeler,
        )
        return [row], row.id
    return None


def _draw(labeler: str, turn: int, salt: str = "") -> float:
    """A number of [0, 1), the same each time."""
    digest = hashlib.sha256(f"{labeler}\n{turn}\n{salt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
