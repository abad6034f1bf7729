"""Decisions about labeling: leases, drafts, submissions, undo, skips, withdrawals. Pure, like data/people.py.

A submission needs the live lease under which its labeler holds the task. Once it is in, the same lease lets the same
labeler send it again (a page that never heard the answer), revise it or take it back, at any time.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from data import assignment, project
from data.errors import Conflict, NotFound
from data.live import QUEUES, Live, LiveTask
from data.queue import Lease
from data.records import DemonstrationAnswer, Receipt, Task, TaskKind
from data.rows import (
    AuditRow,
    DemonstrationRow,
    DraftRow,
    LeaseRow,
    RankingRow,
    Row,
    SkipRow,
    UndoneRow,
    WithdrawalRow,
    WithdrawnPromptRow,
    as_json,
    digest_of,
    new_id,
)
from data.validate import CheckedRanking, check_text, refuse, shown


def display_order(task: Task, labeler: str) -> tuple[str, ...]:
    """The task's response ids as this labeler sees them: random, yet the same each time. `labeler` is a pseudonym."""

    def place(response_id: str) -> bytes:
        return hashlib.sha256("\n".join((task.id, labeler, response_id)).encode()).digest()

    return tuple(sorted(task.response_ids, key=place))


# ------------------------------------------------------------------- leases


def claim(
    live: Live, now: datetime, *, name: str, kind: TaskKind, period: timedelta, after: str | None = None
) -> tuple[list[Row], Lease | None]:
    """The lease this labeler holds, else one on the task that is due to them, else None.

    With `after`, a task they hold, the one that comes after it: a labeler holds two at most.
    """
    labeler = live.labeler(name)
    if kind not in QUEUES:
        refuse([f"kind is {shown(kind)} and must be ranking or demonstration"])
    queues = [live.queues[queue] for queue in QUEUES[kind]]
    if after is not None and not any(lease.task_id == after for queue in queues if (lease := queue.held(labeler, now))):
        after = None
    for queue in queues:
        if (held := queue.held(labeler, now, after)) is not None:
            return [], held
    rows, task_id = assignment.due(live, now, live.user(name), kind, ahead=after is not None)
    if task_id is None:
        return [], None
    lease = Lease(task_id, labeler, secrets.token_urlsafe(16), now + period)
    return [
        *rows,
        LeaseRow(lease.token, task_id, labeler, lease.expires_at, now),
        *project.shown(live, now, labeler),
    ], lease


def renew(
    live: Live, now: datetime, *, name: str, task_id: str, token: str, period: timedelta
) -> tuple[list[Row], datetime]:
    """The same lease with a later end. Raises Conflict."""
    task, labeler = live.task(task_id).task, live.labeler(name)
    _require_lease(live, now, task, labeler, token)
    return [LeaseRow(token, task_id, labeler, now + period, now)], now + period


def skip(live: Live, now: datetime, *, name: str, task_id: str, token: str, reason: str) -> tuple[list[Row], None]:
    """The slot given back, for good. Raises Conflict."""
    task, labeler = live.task(task_id).task, live.labeler(name)
    check_text(reason, "reason")
    if live.skips.get((task_id, labeler)) == token:
        return [], None  # sent again by a page that never heard the answer
    _require_lease(live, now, task, labeler, token)
    return [SkipRow(task_id, labeler, token, reason, now), *_without_draft(live, now, task_id, labeler)], None


def save_draft(
    live: Live, now: datetime, *, name: str, task_id: str, token: str, work: str, seconds: float | None
) -> tuple[list[Row], datetime]:
    """The draft in the place of the one before, and when that was. Raises Conflict."""
    task, labeler = live.task(task_id).task, live.labeler(name)
    _require_lease(live, now, task, labeler, token)
    return [DraftRow(task_id, labeler, work, seconds, now)], now


def _without_draft(live: Live, now: datetime, task_id: str, labeler: str) -> list[Row]:
    """The draft has served: its labeler is done with the task."""
    return [DraftRow(task_id, labeler, None, None, now)] if (task_id, labeler) in live.drafts else []


def _require_lease(live: Live, now: datetime, task: Task, labeler: str, token: str) -> None:
    """Raises Conflict unless the labeler holds the task under this lease now."""
    answer = live.answers.get((task.id, labeler))
    if answer is not None and answer.id not in live.undone:
        raise Conflict(f"You have answered task {task.id} already; that answer is kept. Ask for the next task.")
    lease = live.queue_of(task).lease_on(task.id, labeler)
    if lease is None or lease.token != token:
        raise Conflict(
            f"You do not hold task {task.id} under this lease: it has run out, or it is another's. Nothing was "
            "changed, and your draft is still on your page. Ask for the next task: it is this one while it is free."
        )
    if lease.expires_at <= now:
        raise Conflict(
            f"Your lease on task {task.id} ran out at {lease.expires_at:%H:%M} UTC. Nothing was changed, and your "
            "draft is still on your page. Ask for the next task: it is this one again while it is free."
        )


# -------------------------------------------------------------- submissions


@dataclass(frozen=True, slots=True)
class _Standing:
    """What a submission will be: a label's next revision, or one that is stored already."""

    receipt: Receipt
    stored: bool


def _standing(live: Live, now: datetime, task: Task, labeler: str, token: str, digest: str) -> _Standing:
    """Raises Conflict when the labeler may not submit this."""
    earlier = live.answers.get((task.id, labeler))
    if earlier is None or earlier.id in live.undone:
        _require_lease(live, now, task, labeler, token)
        receipt = Receipt(earlier.id, earlier.revision + 1) if earlier else Receipt(new_id("l"), 1)
        return _Standing(receipt, stored=False)
    if earlier.lease != token:
        raise Conflict(
            f"You answered task {task.id} under another lease. That answer is kept and nothing was changed; ask for "
            "the next task."
        )
    if earlier.digest == digest:
        return _Standing(Receipt(earlier.id, earlier.revision), stored=True)
    if earlier.id in live.withdrawn:
        raise Conflict(f"Your answer to task {task.id} was withdrawn and cannot be revised. Ask for the next task.")
    return _Standing(Receipt(earlier.id, earlier.revision + 1), stored=False)


def submit_ranking(
    live: Live,
    now: datetime,
    *,
    name: str,
    task: LiveTask,
    token: str,
    answer: CheckedRanking,
    guideline: str,
    client_at: datetime | None,
) -> tuple[list[Row], Receipt]:
    """The ranking's next revision with its rewrite, and the receipt. Raises Conflict."""
    labeler = live.labeler(name)
    standing = _standing(live, now, task.task, labeler, token, answer.digest)
    if standing.stored:
        return [], standing.receipt
    row = RankingRow(
        label_id=standing.receipt.label_id,
        revision=standing.receipt.revision,
        task_id=task.task.id,
        task_number=task.number,
        prompt_id=task.task.prompt_id,
        labeler=labeler,
        lease=token,
        digest=answer.digest,
        display_order=list(display_order(task.task, labeler)),
        ranks=list(answer.ranks),
        ratings=as_json(answer.ratings),
        flags=as_json(answer.flags),
        rewrite=as_json(answer.rewrite) if answer.rewrite else None,
        comment=answer.comment,
        seconds=answer.seconds,
        guideline=guideline,
        source="labeler",
        client_at=client_at,
        created_at=now,
        purpose=task.task.purpose,
    )
    rows = [
        row,
        *_rewrite_rows(live, row, answer.rewrite["text"] if answer.rewrite else None),
        *assignment.score(live, now, task.task, labeler, answer.ranks),
        *_without_draft(live, now, task.task.id, labeler),
    ]
    return rows, standing.receipt


def _rewrite_rows(live: Live, ranking: RankingRow, text: str | None) -> list[Row]:
    """A rewrite is a demonstration too: a new one, its next revision, or its withdrawal when it was taken out."""
    earlier = live.rewrites.get(ranking.label_id)
    if text is None:
        return [WithdrawalRow(earlier.id, ranking.created_at)] if earlier else []
    digest = digest_of(text)
    if earlier and earlier.digest == digest:
        return []
    row = DemonstrationRow(
        label_id=earlier.id if earlier else new_id("l"),
        revision=earlier.revision + 1 if earlier else 1,
        task_id=ranking.task_id,
        prompt_id=ranking.prompt_id,
        labeler=ranking.labeler,
        lease=None,
        digest=digest,
        response=text,
        seconds=None,
        guideline=ranking.guideline,
        source=f"rewrite:{ranking.label_id}",
        client_at=ranking.client_at,
        created_at=ranking.created_at,
    )
    return [row]


def submit_demonstration(
    live: Live,
    now: datetime,
    *,
    name: str,
    task: LiveTask,
    token: str,
    answer: DemonstrationAnswer,
    guideline: str,
    client_at: datetime | None,
) -> tuple[list[Row], Receipt]:
    """The demonstration's next revision, and the receipt. Raises Conflict."""
    labeler = live.labeler(name)
    digest = digest_of([answer.response, answer.seconds, *([answer.started_from] if answer.started_from else [])])
    standing = _standing(live, now, task.task, labeler, token, digest)
    if standing.stored:
        return [], standing.receipt
    row = DemonstrationRow(
        label_id=standing.receipt.label_id,
        revision=standing.receipt.revision,
        task_id=task.task.id,
        prompt_id=task.task.prompt_id,
        labeler=labeler,
        lease=token,
        digest=digest,
        response=answer.response,
        seconds=answer.seconds,
        guideline=guideline,
        source="labeler",
        client_at=client_at,
        created_at=now,
        started_from=answer.started_from,
    )
    return [row, *_without_draft(live, now, task.task.id, labeler)], standing.receipt


def undo(
    live: Live, now: datetime, *, name: str, task_id: str, token: str, period: timedelta
) -> tuple[list[Row], datetime]:
    """The labeler's answer is taken back, with the rewrite in it, and the task is theirs again until the time given.

    A second time changes nothing. Raises Conflict when there is no answer of theirs under this lease.
    """
    task, labeler = live.task(task_id).task, live.labeler(name)
    label = live.answers.get((task_id, labeler))
    if label is None or label.lease != token:
        raise Conflict(f"You have no answer to task {task.id} under this lease. Nothing was changed.")
    if label.id in live.withdrawn:
        raise Conflict(f"Your answer to task {task.id} was withdrawn, and cannot be taken back. Nothing was changed.")
    if label.id in live.undone:
        lease = live.queue_of(task).lease_on(task_id, labeler)
        return [], lease.expires_at if lease else now
    rewrite = live.rewrites.get(label.id)
    rows: list[Row] = [UndoneRow(label.id, label.revision, now + period, now)]
    return rows + ([WithdrawalRow(rewrite.id, now)] if rewrite else []), now + period


# -------------------------------------------------------------- withdrawals


def withdraw(live: Live, now: datetime, *, label_id: str | None, labeler: str | None) -> tuple[list[Row], list[str]]:
    """A row that hides each label that is not hidden yet, and the ids of all, so that asking twice answers the same.

    Raises NotFound.
    """
    if (label_id is None) == (labeler is None):
        refuse(["withdraw takes a label id or a labeler, one of the two"])
    if label_id is not None:
        if label_id not in live.labels:
            raise NotFound(f"There is no label {shown(label_id)}. Nothing was withdrawn.")
        ids = [label_id]
    else:
        pseudonym = _pseudonym(live, str(labeler))
        ids = [label.id for label in live.labels.values() if label.labeler == pseudonym]
    ids += [live.rewrites[id].id for id in ids if id in live.rewrites]
    ids = list(dict.fromkeys(ids))
    new = [id for id in ids if id not in live.withdrawn]
    subject = label_id or str(labeler)
    audit: list[Row] = [AuditRow("labels withdrawn", subject, f"{len(new)} labels", now)] if new else []
    return [*(WithdrawalRow(id, now) for id in new), *audit], ids


def withdraw_prompts(
    live: Live, now: datetime, *, prompt_ids: Sequence[str], label_ids: Sequence[str]
) -> tuple[list[Row], None]:
    """Rows that hide these prompts and these labels of theirs, as far as they are not hidden yet."""
    prompts = [id for id in prompt_ids if id not in live.withdrawn_prompts]
    labels = [id for id in label_ids if id not in live.withdrawn]
    rows: list[Row] = [WithdrawnPromptRow(id, now) for id in prompts]
    rows += [WithdrawalRow(id, now) for id in labels]
    if rows:
        said = f"{len(prompts)} prompts, {len(labels)} labels"
        rows.append(AuditRow("prompt withdrawn", prompt_ids[0], said, now))
    return rows, None


def _pseudonym(live: Live, labeler: str) -> str:
    """Of a user or an outsider, given by name, by SOURCE/NAME or by the pseudonym itself.

    Raises NotFound, or InvalidInput when several sources have someone of that name.
    """
    if labeler in live.users:
        return live.users[labeler].pseudonym
    if labeler in live.outsiders:
        return live.outsiders[labeler]
    if labeler in live.pseudonyms:
        return labeler
    named = [name for name in list(live.outsiders) if name.endswith(f"/{labeler}")]
    if not named:
        raise NotFound(f"There is no labeler {shown(labeler)}. Nothing was withdrawn.")
    if len(named) > 1:
        refuse([f"{shown(labeler)} may be {', '.join(named[:5])}: name the one that is meant"])
    return live.outsiders[named[0]]
