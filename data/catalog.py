"""Decisions about what labelers are asked: prompts, responses, tasks, batches. Pure, like data/people.py.

The `checked_` functions run in the caller's thread, before the writer is asked: it never waits for a check.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from data.errors import NotFound
from data.live import Live
from data.records import NewPrompt, NewResponse, Purpose, Split, prompt_id_of, split_of
from data.rows import (
    AuditRow,
    BatchRow,
    PromptRow,
    ResponseRow,
    RetiredBatchRow,
    Row,
    TaskRow,
    as_json,
    messages_json,
    new_id,
)
from data.validate import (
    check_text,
    overlap_problems,
    prompt_problems,
    refuse,
    responses_problems,
    shown,
    text_problems,
)

if TYPE_CHECKING:
    from data.batches import Batch
    from data.batches import BatchRow as BatchEntry


@dataclass(frozen=True, slots=True)
class CheckedPrompt:
    """A prompt that can be stored, with what its messages decide."""

    id: str
    messages: str  # JSON
    tags: tuple[str, ...]
    split: Split
    source: str
    settled: bool = False  # its split was given, so that no near-duplicate decides it


def checked_prompts(prompts: Sequence[NewPrompt]) -> list[CheckedPrompt]:
    """Raises InvalidInput naming every field at fault."""
    refuse([problem for place, prompt in enumerate(prompts) for problem in prompt_problems(prompt, f"[{place}]")])
    checked = []
    for prompt in prompts:
        id = prompt_id_of(tuple(prompt.messages))
        split, messages = prompt.split or split_of(id), messages_json(prompt.messages)
        checked.append(CheckedPrompt(id, messages, tuple(prompt.tags), split, prompt.source, prompt.split is not None))
    return checked


def add_prompts(live: Live, now: datetime, *, prompts: Sequence[CheckedPrompt]) -> tuple[list[Row], list[str]]:
    """The prompts that are new, and the ids of all in their order."""
    first = len(live.prompts)
    new: dict[str, Row] = {}
    for prompt in prompts:
        if prompt.id not in live.prompts and prompt.id not in new:
            number = first + len(new)
            new[prompt.id] = PromptRow(
                number, prompt.id, prompt.messages, list(prompt.tags), prompt.split, prompt.source, now
            )
    return list(new.values()), [prompt.id for prompt in prompts]


def add_demonstration_tasks(
    live: Live, now: datetime, *, prompt_ids: Sequence[str], overlap: int
) -> tuple[list[Row], list[str]]:
    """A task for each prompt without one, and the new tasks' ids. Raises NotFound."""
    refuse(overlap_problems(overlap))
    number = len(live.tasks)
    rows: list[Row] = []
    ids = []
    for prompt_id in dict.fromkeys(prompt_ids):
        live.prompt_number(prompt_id)
        if prompt_id not in live.demonstrated:
            ids.append(new_id("t"))
            rows.append(TaskRow(number, ids[-1], "demonstration", prompt_id, [], overlap, len(live.batches), None, now))
            number += 1
    return rows, ids


def checked_responses(responses: Sequence[NewResponse]) -> list[NewResponse]:
    """Raises InvalidInput naming every field at fault."""
    refuse(responses_problems(responses, "responses"))
    return list(responses)


def add_ranking_task(
    live: Live, now: datetime, *, prompt_id: str, responses: Sequence[NewResponse], overlap: int
) -> tuple[list[Row], str]:
    """The task with its responses, and its id. Raises NotFound."""
    refuse(overlap_problems(overlap))
    return ranking_rows(live, now, prompt_id, responses, overlap)


def ranking_rows(
    live: Live, now: datetime, prompt_id: str, responses: Sequence[NewResponse], overlap: int, purpose: Purpose = "work"
) -> tuple[list[Row], str]:
    """The rows of a ranking task with its responses, and its id. Raises NotFound."""
    live.prompt_number(prompt_id)
    task = TaskRow(
        number=len(live.tasks),
        id=new_id("t"),
        kind="ranking",
        prompt_id=prompt_id,
        response_ids=_ids(responses),
        overlap=overlap,
        priority=len(live.batches),
        batch_id=None,
        created_at=now,
        purpose=purpose,
    )
    return [*response_rows(task, responses), task], task.id


def response_rows(task: TaskRow, responses: Sequence[NewResponse]) -> list[Row]:
    """The rows of a task's responses, in its order."""
    return [
        ResponseRow(
            task.number, place, id, task.prompt_id, new.text, new.source, as_json(new.sampling), task.created_at
        )
        for place, (id, new) in enumerate(zip(task.response_ids, responses, strict=True))
    ]


def checked_batch(batch: Batch) -> Batch:
    """Raises InvalidInput naming every row and field at fault."""
    problems = text_problems(batch.id, "id", required=True, limit=200)
    problems += text_problems(batch.checkpoint, "checkpoint", required=True, limit=200)
    for place, row in enumerate(batch.rows):
        problems += responses_problems(row.responses, f"rows[{place}].responses")
        if row.uncertainty is not None and not 0 <= row.uncertainty <= 1:
            problems.append(f"rows[{place}].uncertainty is {shown(row.uncertainty)} and must be from 0 to 1")
    refuse(problems)
    return batch


def labeling_order(rows: Sequence[BatchEntry], uniform_share: float) -> list[BatchEntry]:
    """The rows as labelers are to get them: those the reward model is least sure of first, and a share by chance.

    The share drawn by chance stands evenly among the others, so that however far labelers come, it is what the batch
    looks like. A batch without uncertainties keeps its order.
    """
    if any(row.uncertainty is None for row in rows):
        return list(rows)
    by_chance = sorted(rows, key=lambda row: hashlib.sha256(row.prompt_id.encode()).digest())
    uniform = by_chance[: _so_far(len(rows), uniform_share)]
    unsure = sorted(by_chance[len(uniform) :], key=lambda row: -(row.uncertainty or 0.0))
    taken = [_so_far(place + 1, uniform_share) > _so_far(place, uniform_share) for place in range(len(rows))]
    one, other = iter(uniform), iter(unsure)
    return [next(one) if by_draw else next(other) for by_draw in taken]


def _so_far(count: int, share: float) -> int:
    """How many of the first `count` are of an evenly spread share of them."""
    return math.floor(count * share + 1e-9)


def add_batch(live: Live, now: datetime, *, batch: Batch, overlap: int | None) -> tuple[list[Row], list[str]]:
    """Its tasks, each with its responses, in the order of labeling; of a known batch, only the ids.

    Without an `overlap` the project's settings say how many labelers each task wants. Raises InvalidInput for unknown
    prompts.
    """
    if overlap is not None:
        refuse(overlap_problems(overlap))
    if batch.id in live.batches:
        return [], list(live.batches[batch.id])
    refuse(
        [
            f"rows[{place}].prompt_id is {shown(row.prompt_id)}, which is no prompt here"
            for place, row in enumerate(batch.rows)
            if row.prompt_id not in live.prompts
        ]
    )
    rows: list[Row] = [
        BatchRow(batch.id, batch.checkpoint, now),
        AuditRow("batch added", batch.id, f"{len(batch.rows)} tasks from {batch.checkpoint}", now),
    ]
    ids = []
    priority = len(live.batches) + 1  # the newest batch goes before all that was there
    settings = live.settings
    for place, row in enumerate(labeling_order(batch.rows, settings.uniform_share)):
        doubled = _so_far(place + 1, settings.double_share) > _so_far(place, settings.double_share)
        task = TaskRow(
            number=len(live.tasks) + place,
            id=new_id("t"),
            kind="ranking",
            prompt_id=row.prompt_id,
            response_ids=_ids(row.responses),
            overlap=overlap or max(settings.overlap, 2 if doubled else 1),
            priority=priority,
            batch_id=batch.id,
            created_at=now,
        )
        rows += [*response_rows(task, row.responses), task]
        ids.append(task.id)
    return rows, ids


def retire_batch(live: Live, now: datetime, *, batch_id: str) -> tuple[list[Row], int]:
    """How many of its tasks wanted labels still. Raises NotFound."""
    check_text(batch_id, "batch_id")
    if batch_id not in live.batches:
        raise NotFound(f"There is no batch {batch_id!r}. Nothing was changed.")
    if batch_id in live.retired_batches:
        return [], 0
    retired = sum(live.queues["ranking"].is_open(id) for id in live.batches[batch_id])
    return [RetiredBatchRow(batch_id, now), AuditRow("batch retired", batch_id, f"{retired} tasks", now)], retired


def _ids(responses: Sequence[NewResponse]) -> list[str]:
    return [new_id("r") for _ in responses]
