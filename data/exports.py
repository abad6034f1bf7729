"""Reading what stands at one consistent moment, as records and as export rows, streamed.

Texts are fetched beside the labels, a few hundred tasks at a time, by another cursor: rows are only ever appended, so
what a label of this moment refers to is the same at any later one. Tasks and prompts are numbered as they come in, so
each such look-up reads few row groups, and memory stays flat however much there is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import duckdb

from data.live import Live
from data.records import (
    Demonstration,
    DemonstrationAnswer,
    Message,
    Prompt,
    Ranking,
    RankingAnswer,
    Response,
)

PROMPT = "id, messages, tags, split, source, created_at"
RESPONSE = "id, prompt_id, text, source, sampling, created_at"
_RANKING = (
    "label_id, revision, task_id, prompt_id, labeler, display_order, ranks, ratings, flags, rewrite, comment, seconds, "
    "guideline, created_at"
)
_DEMONSTRATION = "label_id, revision, task_id, prompt_id, labeler, response, seconds, guideline, source, created_at"
CHUNK = 500  # rows at a time
Row = dict[str, Any]
T = TypeVar("T")


def prompt_of(row: tuple[Any, ...]) -> Prompt:
    """The record of a row of PROMPT columns."""
    id, messages, tags, split, source, created_at = row
    turns = tuple(Message(turn["role"], turn["content"]) for turn in json.loads(messages))
    return Prompt(id, turns, tuple(tags), split, source, created_at)


def response_of(row: tuple[Any, ...]) -> Response:
    """The record of a row of RESPONSE columns."""
    id, prompt_id, text, source, sampling, created_at = row
    return Response(id, prompt_id, text, source, json.loads(sampling), created_at)


def iso(time: datetime) -> str:
    """ISO 8601, in UTC."""
    return time.astimezone(UTC).isoformat()


class Moment:
    """One consistent moment of the store. Its iterators are read one after another, not two at once."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, texts: duckdb.DuckDBPyConnection, live: Live) -> None:
        self._cursor = cursor  # inside the transaction that is this moment
        self._texts = texts
        self._live = live
        self._reading = False

    def select(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of a query with a small answer."""
        self._refuse_a_second()
        return self._cursor.execute(sql, parameters or {}).fetchall()

    def rankings(self) -> Iterator[Ranking]:
        """The rankings that stand, by task."""
        for row in self._standing_rankings():
            answer = RankingAnswer(
                ranks=row["ranked"],
                unrankable=row["unrankable"],
                ratings=row["ratings"],
                flags={id: tuple(given) for id, given in row["flags"].items()},
                rewrite=row["rewrite"],
                comment=row["comment"],
                seconds=row["seconds"],
            )
            yield Ranking(
                label_id=row["label_id"],
                revision=row["revision"],
                task_id=row["task_id"],
                prompt_id=row["prompt_id"],
                answer=answer,
                labeler=row["labeler"],
                display_order=tuple(row["display_order"]),
                guideline=row["guideline"],
                created_at=row["created_at"],
            )

    def demonstrations(self) -> Iterator[Demonstration]:
        """The demonstrations that stand, oldest first."""
        for rows in self._stream(f"SELECT {_DEMONSTRATION} FROM standing_demonstrations ORDER BY created_at, label_id"):
            for (
                label_id,
                revision,
                task_id,
                prompt_id,
                labeler,
                response,
                seconds,
                guideline,
                source,
                created_at,
            ) in rows:
                yield Demonstration(
                    label_id=label_id,
                    revision=revision,
                    task_id=task_id,
                    prompt_id=prompt_id,
                    answer=DemonstrationAnswer(response, seconds),
                    labeler=labeler,
                    source=source,
                    guideline=guideline,
                    created_at=created_at,
                )

    def ranking_rows(self) -> Iterator[Row]:
        """One row per ranking, whole: the conversation, the responses in the task's order, what was said of them."""
        for chunk in _chunks(self._standing_rankings()):
            prompts = self._prompts({row["prompt_id"] for row in chunk})
            responses = self._responses({row["task_id"] for row in chunk})
            for row in chunk:
                prompt = prompts[row["prompt_id"]]
                yield {
                    "label_id": row["label_id"],
                    "revision": row["revision"],
                    "task_id": row["task_id"],
                    "prompt_id": row["prompt_id"],
                    "prompt": prompt["messages"],
                    "responses": responses[row["task_id"]],
                    "ranks": row["ranks"],
                    "labeler": row["labeler"],
                    "created_at": iso(row["created_at"]),
                    "seconds": row["seconds"],
                    "display_order": row["display_order"],
                    "split": prompt["split"],
                    "unrankable": list(row["unrankable"]),
                    "ratings": row["ratings"],
                    "flags": row["flags"],
                    "rewrite": row["rewrite"],
                    "comment": row["comment"],
                    "guideline": row["guideline"],
                }

    def comparison_rows(self) -> Iterator[Row]:
        """One row per decided pair of a ranking, ties left out; `chosen` and `rejected` are texts."""
        for row in self.ranking_rows():
            ranked = [(rank, response) for rank, response in zip(row["ranks"], row["responses"], strict=True) if rank]
            for better, chosen in ranked:
                for worse, rejected in ranked:
                    if better < worse:
                        yield {
                            "ranking_id": row["label_id"],
                            "labeler": row["labeler"],
                            "prompt_id": row["prompt_id"],
                            "prompt": row["prompt"],
                            "chosen": chosen["text"],
                            "rejected": rejected["text"],
                            "margin": worse - better,
                            "split": row["split"],
                            "chosen_id": chosen["id"],
                            "rejected_id": rejected["id"],
                        }

    def demonstration_rows(self) -> Iterator[Row]:
        """One row per demonstration, with its conversation."""
        for chunk in _chunks(self.demonstrations()):
            prompts = self._prompts({label.prompt_id for label in chunk})
            for label in chunk:
                prompt = prompts[label.prompt_id]
                yield {
                    "label_id": label.label_id,
                    "revision": label.revision,
                    "task_id": label.task_id,
                    "prompt_id": label.prompt_id,
                    "prompt": prompt["messages"],
                    "response": label.answer.response,
                    "labeler": label.labeler,
                    "source": label.source,
                    "created_at": iso(label.created_at),
                    "seconds": label.answer.seconds,
                    "split": prompt["split"],
                    "guideline": label.guideline,
                }

    def prompt_rows(self) -> Iterator[Row]:
        """One row per prompt, oldest first."""
        for rows in self._stream(f"SELECT {PROMPT} FROM standing_prompts ORDER BY number"):
            for id, messages, tags, split, source, created_at in rows:
                yield {
                    "prompt_id": id,
                    "messages": json.loads(messages),
                    "tags": tags,
                    "split": split,
                    "source": source,
                    "created_at": iso(created_at),
                }

    def ranks_by_task(self) -> Iterator[list[list[int | None]]]:
        """The rankings of each task by several labelers, one from each (their latest), as vectors of ranks."""
        for rankings in self.rankings_by_task():
            yield list(rankings.values())

    def rankings_by_task(self) -> Iterator[dict[str, list[int | None]]]:
        """The same, each vector by its labeler."""
        sql = """SELECT list(labeler ORDER BY labeler), list(ranks ORDER BY labeler) FROM (
                     SELECT task_number, labeler, arg_max(ranks, created_at) AS ranks
                     FROM standing_rankings WHERE source <> 'review' GROUP BY task_number, labeler)
                 GROUP BY task_number HAVING count(*) > 1"""
        for rows in self._stream(sql):
            for labelers, ranks in rows:
                yield dict(zip(labelers, ranks, strict=True))

    def _standing_rankings(self) -> Iterator[Row]:
        """The rankings that stand, by task: their columns, with ratings, flags and rewrite decoded, and two more.

        `ranked` gives each rankable response id its rank, `unrankable` the other ids.
        """
        columns = _RANKING.split(", ")
        for rows in self._stream(f"SELECT {_RANKING} FROM standing_rankings ORDER BY task_number, label_id"):
            for values in rows:
                row = dict(zip(columns, values, strict=True))
                ids = self._live.tasks[row["task_id"]].task.response_ids
                row["ranked"] = {id: rank for id, rank in zip(ids, row["ranks"], strict=True) if rank is not None}
                row["unrankable"] = tuple(id for id in ids if id not in row["ranked"])
                for name in ("ratings", "flags", "rewrite"):
                    row[name] = json.loads(row[name]) if row[name] is not None else None
                yield row

    def _prompts(self, ids: set[str]) -> dict[str, Row]:
        sql = f"SELECT {PROMPT} FROM prompts WHERE number IN (SELECT unnest(?::BIGINT[]))"
        found = self._texts.execute(sql, [[self._live.prompts[id] for id in ids]]).fetchall()
        return {id: {"messages": json.loads(messages), "split": split} for id, messages, _, split, _, _ in found}

    def _responses(self, task_ids: set[str]) -> dict[str, list[Row]]:
        """The responses of these tasks, each task's in its order."""
        tasks = {self._live.tasks[id].number: id for id in task_ids}
        sql = """SELECT task_number, id, text, source FROM responses
                 WHERE task_number BETWEEN ? AND ? AND task_number IN (SELECT unnest(?::BIGINT[]))
                 ORDER BY task_number, position"""
        found: dict[str, list[Row]] = {id: [] for id in task_ids}
        for number, id, text, source in self._texts.execute(sql, [min(tasks), max(tasks), list(tasks)]).fetchall():
            found[tasks[number]].append({"id": id, "text": text, "source": source})
        return found

    def _stream(self, sql: str) -> Iterator[list[tuple[Any, ...]]]:
        self._refuse_a_second()
        self._reading = True
        try:
            result = self._cursor.execute(sql)
            while rows := result.fetchmany(CHUNK):
                yield rows
        finally:
            self._reading = False

    def _refuse_a_second(self) -> None:
        if self._reading:  # DuckDB would end the first without a word
            raise RuntimeError("Another iterator of this moment is still being read: finish or close it first.")


def _chunks(items: Iterator[T]) -> Iterator[list[T]]:
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
