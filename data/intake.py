"""Decisions about labels made elsewhere: imported demonstrations and rankings. Pure, like data/people.py.

An imported label's id is derived from what it says, so that importing a file twice, or going on after an interruption,
adds nothing twice. The people named in a file get pseudonyms, which the store remembers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from data.catalog import response_rows
from data.errors import InvalidInput
from data.labeling import display_order
from data.live import Live
from data.people import new_pseudonym
from data.records import NewRanking, Task
from data.rows import DemonstrationRow, OutsiderRow, RankingRow, Row, TaskRow, as_json, digest_of
from data.validate import (
    CheckedRanking,
    flag_problems,
    rank_problem,
    rating_problems,
    refuse,
    responses_problems,
    seconds_problems,
    shown,
    text_problems,
)


@dataclass(frozen=True, slots=True)
class CheckedImport:
    """A ranking that can be stored, with the ids that its content gives it."""

    task_id: str
    label_id: str
    response_ids: tuple[str, ...]
    answer: CheckedRanking
    ranking: NewRanking


def checked_demonstrations(
    rows: Sequence[tuple[str, str]], labeler: str, source: str, live: Live
) -> list[tuple[str, str]]:
    """Raises InvalidInput naming every row and field at fault."""
    problems = _origin_problems(labeler, source)
    for place, (prompt_id, response) in enumerate(rows):
        problems += _prompt_problems(prompt_id, f"[{place}].prompt_id", live)
        problems += text_problems(response, f"[{place}].response", required=True)
    refuse(problems)
    return list(rows)


def add_demonstrations(
    live: Live, now: datetime, *, rows: Sequence[tuple[str, str]], labeler: str, source: str
) -> tuple[list[Row], list[str]]:
    """Those that are not here yet, and their ids."""
    pseudonym, new_rows = _labeler(live, now, labeler)
    ids: dict[str, None] = {}
    for prompt_id, response in rows:
        label_id = _derived("l", prompt_id, response, source)
        if label_id in live.labels or label_id in ids:
            continue
        ids[label_id] = None
        new_rows.append(
            DemonstrationRow(
                label_id=label_id,
                revision=1,
                task_id=None,
                prompt_id=prompt_id,
                labeler=pseudonym,
                lease=None,
                digest=digest_of([response, None]),
                response=response,
                seconds=None,
                guideline="",
                source=source,
                client_at=None,
                created_at=now,
            )
        )
    return (new_rows if ids else []), list(ids)


def checked_rankings(rankings: Sequence[NewRanking], source: str, live: Live) -> list[CheckedImport]:
    """Raises InvalidInput naming every ranking and field at fault."""
    problems = _origin_problems("import", source)
    for place, ranking in enumerate(rankings):
        problems += _ranking_problems(ranking, f"[{place}]", live)
    refuse(problems)
    return [_checked(ranking, source) for ranking in rankings]


def add_rankings(
    live: Live, now: datetime, *, rankings: Sequence[CheckedImport], source: str
) -> tuple[list[Row], list[str]]:
    """Those that are not here yet with the tasks they need, and their ids."""
    rows: list[Row] = []
    ids: dict[str, None] = {}
    tasks: dict[str, int] = {}  # numbers of those new here
    pseudonyms: dict[str, str] = {}
    for ranking in rankings:
        if ranking.label_id in live.labels or ranking.label_id in ids:
            continue
        ids[ranking.label_id] = None
        name = ranking.ranking.labeler
        if name not in pseudonyms:
            pseudonyms[name], new_rows = _labeler(live, now, name)
            rows += new_rows
        if ranking.task_id not in live.tasks and ranking.task_id not in tasks:
            tasks[ranking.task_id] = len(live.tasks) + len(tasks)
            rows += _task_rows(ranking, tasks[ranking.task_id], now)
        known = live.tasks.get(ranking.task_id)
        number = known.number if known else tasks[ranking.task_id]
        rows.append(_ranking_row(ranking, number, pseudonyms[name], source, now))
    return rows, list(ids)


def _labeler(live: Live, now: datetime, name: str) -> tuple[str, list[Row]]:
    """The pseudonym of a user or of someone named in a file, and the row that remembers a new one."""
    if name in live.users:
        return live.users[name].pseudonym, []
    if name in live.outsiders:
        return live.outsiders[name], []
    if any(name == user.pseudonym for user in live.users.values()) or name in live.outsiders.values():
        return name, []  # this store's own export coming back
    pseudonym = new_pseudonym(live)
    return pseudonym, [OutsiderRow(name, pseudonym, now)]


def _task_rows(ranking: CheckedImport, number: int, now: datetime) -> list[Row]:
    """A task that holds imported rankings only: overlap 0, offered to nobody."""
    ids = list(ranking.response_ids)
    task = TaskRow(number, ranking.task_id, "ranking", ranking.ranking.prompt_id, ids, 0, 0, None, now)
    return [*response_rows(task, ranking.ranking.responses), task]


def _ranking_row(ranking: CheckedImport, number: int, labeler: str, source: str, now: datetime) -> RankingRow:
    answer, prompt_id = ranking.answer, ranking.ranking.prompt_id
    task = Task(ranking.task_id, "ranking", prompt_id, ranking.response_ids, 0, None)
    return RankingRow(
        label_id=ranking.label_id,
        revision=1,
        task_id=ranking.task_id,
        task_number=number,
        prompt_id=prompt_id,
        labeler=labeler,
        lease=None,
        digest=answer.digest,
        display_order=list(display_order(task, labeler)),
        ranks=list(answer.ranks),
        ratings=as_json(answer.ratings),
        flags=as_json(answer.flags),
        rewrite=None,
        comment=answer.comment,
        seconds=answer.seconds,
        guideline="",
        source=source,
        client_at=None,
        created_at=now,
    )


def _checked(ranking: NewRanking, source: str) -> CheckedImport:
    task_id = _derived("t", ranking.prompt_id, *([new.text, new.source] for new in ranking.responses))
    ids = tuple(_derived("r", task_id, place) for place in range(len(ranking.responses)))
    seconds = None if ranking.seconds is None else float(ranking.seconds)
    answer = CheckedRanking(
        ranks=tuple(ranking.ranks),
        ratings={id: dict(given) for id, given in zip(ids, ranking.ratings, strict=False) if given},
        flags={id: sorted(set(given)) for id, given in zip(ids, ranking.flags, strict=False) if given},
        rewrite=None,
        comment=ranking.comment,
        seconds=seconds,
    )
    return CheckedImport(task_id, _derived("l", task_id, ranking.labeler, answer.digest, source), ids, answer, ranking)


def _ranking_problems(ranking: NewRanking, field: str, live: Live) -> list[str]:
    problems = _prompt_problems(ranking.prompt_id, f"{field}.prompt_id", live)
    problems += responses_problems(ranking.responses, f"{field}.responses")
    problems += text_problems(ranking.labeler, f"{field}.labeler", required=True, limit=200)
    problems += text_problems(ranking.comment, f"{field}.comment")
    problems += [f"{field}.{problem}" for problem in seconds_problems(ranking.seconds)]
    if problems:
        return problems
    count = len(ranking.responses)
    if len(ranking.ranks) != count:
        return [f"{field}.ranks has {len(ranking.ranks)} ranks for {count} responses"]
    for name, given in (("ratings", ranking.ratings), ("flags", ranking.flags)):
        if given and len(given) != count:
            problems.append(f"{field}.{name} has {len(given)} entries for {count} responses")
    for place, rank in enumerate(ranking.ranks):
        problems += [] if rank is None else rank_problem(rank, count, f"{field}.ranks[{place}]")
    for place, ratings in enumerate(ranking.ratings):
        problems += rating_problems(ratings, f"{field}.ratings[{place}]")
    for place, flags in enumerate(ranking.flags):
        problems += flag_problems(flags, f"{field}.flags[{place}]")
    return problems


def _prompt_problems(prompt_id: object, field: str, live: Live) -> list[str]:
    if isinstance(prompt_id, str) and prompt_id in live.prompts:
        return []
    return [f"{field} is {shown(prompt_id)}, which is no prompt here"]


def _origin_problems(labeler: object, source: object) -> list[str]:
    problems = text_problems(labeler, "labeler", required=True, limit=200)
    problems += text_problems(source, "source", required=True, limit=1_000)
    if isinstance(source, str) and source.startswith("rewrite:"):
        raise InvalidInput("Nothing was stored: source may not begin with 'rewrite:', which names a ranking here.")
    return problems


def _derived(prefix: str, *parts: Any) -> str:
    return f"{prefix}-{hashlib.sha256(as_json(parts).encode()).hexdigest()[:16]}"
