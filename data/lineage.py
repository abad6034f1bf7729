"""Decisions about what training hands in: checkpoints with their standing, and runs. Pure, like data/people.py."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from data.live import Live
from data.records import CHECKPOINT_STATES, Checkpoint
from data.rows import AuditRow, CheckpointRow, CheckpointStateRow, Row, RunRow
from data.validate import check_json, check_text, refuse, shown, text_problems, time_problems


def checked_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """Raises InvalidInput naming every field at fault."""
    problems = text_problems(checkpoint.id, "id", required=True, limit=200)
    problems += text_problems(checkpoint.stage, "stage", required=True, limit=200)
    for place, parent in enumerate(checkpoint.parents):
        problems += text_problems(parent, f"parents[{place}]", required=True, limit=1_000)
    if checkpoint.snapshot is not None:
        problems += text_problems(checkpoint.snapshot, "snapshot", limit=1_000)
    if checkpoint.state not in CHECKPOINT_STATES:
        problems.append(f"state is {shown(checkpoint.state)} and must be one of {', '.join(CHECKPOINT_STATES)}")
    problems += text_problems(checkpoint.reason, "reason")
    problems += time_problems(checkpoint.created_at or "missing", "created_at")
    refuse(problems)
    check_json(checkpoint.metrics, "metrics")
    return checkpoint


def add_checkpoint(live: Live, now: datetime, *, checkpoint: Checkpoint) -> tuple[list[Row], None]:
    """The checkpoint if it is new or changed, its standing if that is, and who is retired by it."""
    new, known = checkpoint, live.checkpoints.get(checkpoint.id)
    rows: list[Row] = []
    row = _row(new)
    if known is None or _row(known) != row:
        rows.append(row)
    if known is None or (known.state, known.reason) != (new.state, new.reason):
        if new.state == "promoted" and live.promoted not in (None, new.id):
            rows.append(CheckpointStateRow(str(live.promoted), "retired", f"{new.id} was promoted in its place", now))
        rows.append(CheckpointStateRow(new.id, new.state, new.reason, now))
        rows.append(AuditRow(f"checkpoint {new.state}", new.id, new.reason, now))
    return rows, None


def checked_run(run_id: str, state: dict[str, Any]) -> str:
    """The run's state as JSON, with its id in it. Raises InvalidInput."""
    check_text(run_id, "run id", required=True, limit=200)
    if not isinstance(state, dict):
        refuse([f"the state of run {run_id} is {shown(state)} and must be an object"])
    return check_json({**state, "id": run_id}, f"the state of run {run_id}")


def put_run(live: Live, now: datetime, *, run_id: str, state: str) -> tuple[list[Row], None]:
    """The state, if it is another than the last."""
    return ([] if live.runs.get(run_id) == state else [RunRow(run_id, state, now)]), None


def _row(checkpoint: Checkpoint) -> CheckpointRow:
    return CheckpointRow(
        checkpoint.id,
        checkpoint.stage,
        list(checkpoint.parents),
        checkpoint.snapshot,
        check_json(checkpoint.metrics, "metrics"),
        checkpoint.created_at,
    )
