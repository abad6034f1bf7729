"""Decisions about what labelers are asked: prompts, responses, tasks, batches. Pure, like data/people.py.

The `checked_` functions run in the caller's thread, before the writer is asked: it never waits for a check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from data.errors import NotFound
from data.live import Live
from data.records import NewPrompt, NewResponse, Split, prompt_id_of, split_of
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


@dataclass(frozen=True, slots=True)
class CheckedPrompt:
    """A prompt that can be stored, with what its messages decide."""

    id: str
    messages: str  # JSON
    tags: tuple[str, ...]
    split: Split
    source: str


def checked_prompts(prompts: Sequence[NewPrompt]) -> list[CheckedPrompt]:
    """Raises InvalidInput naming every field at fault."""
    refuse([problem for place, prompt in enumerate(prompts) for problem in prompt_problems(prompt, f"[{place}]")])
    checked = []
    for prompt in prompts:
        id = prompt_id_of(tuple(prompt.messages))
        split = prompt.split or split_of(id)
        checked.append(CheckedPrompt(id, messages_json(prompt.messages), tuple(prompt.tags), split, prompt.source))
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
    live.prompt_number(prompt_id)
    task = TaskRow(
        len(live.tasks), new_id("t"), "ranking", prompt_id, _ids(responses), overlap, len(live.batches), None, now
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
    refuse(problems)
    return batch


def add_batch(live: Live, now: datetime, *, batch: Batch, overlap: int) -> tuple[list[Row], list[str]]:
    """Its tasks, each with its responses; of a known batch, only the ids. Raises InvalidInput for unknown prompts."""
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
    for number, row in enumerate(batch.rows, len(live.tasks)):
        task = TaskRow(
            number, new_id("t"), "ranking", row.prompt_id, _ids(row.responses), overlap, priority, batch.id, now
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
