"""What a labeler said, as they may see it again: their own labels, the latest first, each with what revises it.

Reads   the rankings and demonstrations in their latest revision; what was withdrawn or undone is left out
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from data.errors import NotFound
from data.exports import Moment, iso
from data.live import Live

EXCERPT = 200  # characters of a prompt
FAR = datetime(9999, 1, 1, tzinfo=UTC)
_COLUMNS = "label_id, revision, task_id, lease, seconds, created_at"
_RANKINGS = f"""
    SELECT {_COLUMNS}, ranks, ratings, flags, rewrite, comment FROM current_rankings
    WHERE labeler = $labeler AND lease IS NOT NULL AND created_at < $before AND task_id = coalesce($task, task_id)
    ORDER BY created_at DESC LIMIT $limit"""
_DEMONSTRATIONS = f"""
    SELECT {_COLUMNS}, response, started_from FROM standing_demonstrations
    WHERE labeler = $labeler AND lease IS NOT NULL AND created_at < $before AND task_id = coalesce($task, task_id)
    ORDER BY created_at DESC LIMIT $limit"""
Json = dict[str, Any]


def labels_of(moment: Moment, live: Live, labeler: str, before: datetime | None, limit: int) -> list[Json]:
    """The labeler's labels before that time, ready for JSON: `task_id, kind, lease, answer`, and when they were given.

    `lease` and `answer` are what `PUT /tasks/{task_id}/label` takes; `excerpt` is what the prompt ends with.
    """
    asked = {"labeler": labeler, "before": before or FAR, "task": None, "limit": limit}
    found = [_ranking(live, row) for row in moment.select(_RANKINGS, asked)]
    found += [_demonstration(row) for row in moment.select(_DEMONSTRATIONS, asked)]
    latest = sorted(found, key=lambda label: str(label["created_at"]), reverse=True)[:limit]
    return [
        {**label, "excerpt": excerpt} for label, excerpt in zip(latest, _excerpts(moment, live, latest), strict=True)
    ]


def label_of(moment: Moment, live: Live, labeler: str, task_id: str) -> Json:
    """The labeler's label of that task. Raises NotFound."""
    kind = live.task(task_id).task.kind
    sql = _RANKINGS if kind == "ranking" else _DEMONSTRATIONS
    rows = moment.select(sql, {"labeler": labeler, "before": FAR, "task": task_id, "limit": 1})
    if not rows:
        raise NotFound(f"You have no answer to task {task_id!r}. Your answers are listed under History.")
    return _ranking(live, rows[0]) if kind == "ranking" else _demonstration(rows[0])


def _excerpts(moment: Moment, live: Live, labels: list[Json]) -> list[str]:
    """What each label's prompt ends with."""
    numbers = [live.prompts[live.task(label["task_id"]).task.prompt_id] for label in labels]
    sql = "SELECT number, messages FROM prompts WHERE number IN (SELECT unnest($numbers::BIGINT[]))"
    messages = dict(moment.select(sql, {"numbers": numbers}))
    return [json.loads(messages[number])[-1]["content"][:EXCERPT] for number in numbers]


def _ranking(live: Live, row: tuple[Any, ...]) -> Json:
    ranks, ratings, flags, rewrite, comment = row[6:]
    ids = live.task(row[2]).task.response_ids
    answer = {
        "ranks": {id: rank for id, rank in zip(ids, ranks, strict=True) if rank is not None},
        "unrankable": [id for id, rank in zip(ids, ranks, strict=True) if rank is None],
        "ratings": json.loads(ratings),
        "flags": json.loads(flags),
        "rewrite": json.loads(rewrite) if rewrite else None,
        "comment": comment,
    }
    return _label("ranking", row, answer)


def _demonstration(row: tuple[Any, ...]) -> Json:
    return _label("demonstration", row, {"response": row[6], **({"from": row[7]} if row[7] else {})})


def _label(kind: str, row: tuple[Any, ...], answer: Json) -> Json:
    label_id, revision, task_id, lease, seconds, created_at = row[:6]
    return {
        "label_id": label_id,
        "revision": revision,
        "task_id": task_id,
        "kind": kind,
        "lease": lease,
        "seconds": seconds,
        "created_at": iso(created_at),
        "answer": answer,
    }
