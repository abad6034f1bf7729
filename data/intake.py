"""Decisions about labels made elsewhere: imported demonstrations and rankings. Pure, like data/people.py.

An imported label's id is derived from what it says, so that importing a file twice, or going on after an interruption,
adds nothing twice. The people named in a file get pseudonyms, which the store remembers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from data.catalog import response_rows
from data.errors import Conflict, InvalidInput
from data.live import Live
from data.people import new_pseudonym
from data.records import NOBODY, NewDemonstration, NewRanking
from data.rows import (
    AuditRow,
    DemonstrationRow,
    LabelDetailsRow,
    OutsiderRow,
    RankingRow,
    Row,
    SourceRow,
    TaskRow,
    as_json,
    digest_of,
)
from data.validate import (
    LABELED_HERE,
    CheckedRanking,
    check_json,
    check_text,
    flag_problems,
    rank_problem,
    rating_problems,
    refuse,
    responses_problems,
    seconds_problems,
    shown,
    source_problems,
    text_problems,
    time_problems,
)


@dataclass(frozen=True, slots=True)
class CheckedImport:
    """A ranking that can be stored, with the ids that its content gives it."""

    task_id: str
    label_id: str
    response_ids: tuple[str, ...]  # as the ranking lists them
    ranking: NewRanking

    def answer(self, ids: Sequence[str]) -> CheckedRanking:
        """What it says, for the responses in this order."""
        new, places = self.ranking, [self.response_ids.index(id) for id in ids]
        return CheckedRanking(
            ranks=tuple(new.ranks[place] for place in places),
            ratings={
                id: dict(new.ratings[place]) for id, place in zip(ids, places, strict=True) if _said(new.ratings, place)
            },
            flags={
                id: sorted(set(new.flags[place]))
                for id, place in zip(ids, places, strict=True)
                if _said(new.flags, place)
            },
            rewrite=None,
            comment=new.comment,
            seconds=None if new.seconds is None else float(new.seconds),
        )


def _said(given: Sequence[Any], place: int) -> bool:
    return bool(given and given[place])


def add_source(live: Live, now: datetime, *, name: str, licence: str) -> tuple[list[Row], None]:
    """Where labels come from, an import or the labelers here (LABELED_HERE), and under which licence they are.

    Raises InvalidInput, or Conflict for another licence.
    """
    refuse([] if name in LABELED_HERE else source_problems(name))
    check_text(licence, "licence", required=True, limit=200)
    known = live.sources.get(name)
    if known == licence:
        return [], None
    if known is not None:
        raise Conflict(
            f"What came from {name!r} is here under the licence {known!r}, not {licence!r}. That is kept, and "
            "nothing is taken in under the other; give what is under that a --source of its own."
        )
    return [SourceRow(name, licence, now), AuditRow("source added", name, licence, now)], None


def checked_demonstrations(
    rows: Sequence[NewDemonstration], labeler: str, source: str, live: Live
) -> list[NewDemonstration]:
    """Raises InvalidInput naming every row and field at fault."""
    problems = _origin_problems(labeler, source)
    for place, row in enumerate(rows):
        problems += _prompt_problems(row.prompt_id, f"[{place}].prompt_id", live)
        problems += text_problems(row.response, f"[{place}].response", required=True)
        if row.labeler is not None:
            problems += text_problems(row.labeler, f"[{place}].labeler", required=True, limit=200)
        problems += _more_problems(row, f"[{place}]")
    refuse(problems)
    return list(rows)


def add_demonstrations(
    live: Live, now: datetime, *, rows: Sequence[NewDemonstration], labeler: str, source: str
) -> tuple[list[Row], list[str]]:
    """Those that are not here yet, and their ids."""
    people = _People(live, now, source)
    new_rows: list[Row] = []
    ids: dict[str, None] = {}
    for row in rows:
        named = [] if row.labeler in (None, NOBODY) else [row.labeler]
        label_id = _derived("l", row.prompt_id, row.response, source, *named)
        if label_id in live.labels or label_id in ids:
            continue
        ids[label_id] = None
        new_rows.append(
            DemonstrationRow(
                label_id=label_id,
                revision=1,
                task_id=None,
                prompt_id=row.prompt_id,
                labeler=people.user(labeler) if row.labeler is None else people.outsider(row.labeler),
                lease=None,
                digest=digest_of([row.response, None]),
                response=row.response,
                seconds=None if row.seconds is None else float(row.seconds),
                guideline="",
                source=source,
                client_at=row.labeled_at,
                created_at=now,
            )
        )
        new_rows += _details(label_id, row.details, now)
    return [*people.rows, *new_rows], list(ids)


def checked_rankings(rankings: Sequence[NewRanking], source: str, live: Live) -> list[CheckedImport]:
    """Raises InvalidInput naming every ranking and field at fault."""
    problems = _origin_problems(NOBODY, source)
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
    people = _People(live, now, source)
    tasks: dict[str, TaskRow] = {}  # those new here
    for ranking in rankings:
        if ranking.label_id in live.labels or ranking.label_id in ids:
            continue
        ids[ranking.label_id] = None
        known = live.tasks.get(ranking.task_id)
        if known is None and ranking.task_id not in tasks:
            task = _task(ranking, len(live.tasks) + len(tasks), now)
            tasks[task.id] = task
            rows += [*response_rows(task, ranking.ranking.responses), task]
        number = known.number if known else tasks[ranking.task_id].number
        order = known.task.response_ids if known else tasks[ranking.task_id].response_ids
        rows.append(_ranking_row(ranking, number, order, people.outsider(ranking.ranking.labeler), source, now))
        rows += _details(ranking.label_id, ranking.ranking.details, now)
    return [*people.rows, *rows], list(ids)


class _People:
    """Pseudonyms of the labelers of one source, and the rows that remember new ones."""

    def __init__(self, live: Live, now: datetime, source: str) -> None:
        self.rows: list[Row] = []
        self._live, self._now, self._source = live, now, source
        self._new: dict[str, str] = {}

    def user(self, name: str) -> str:
        """Of a user, or of anyone whom the importer names for the whole import."""
        users = self._live.users
        return users[name].pseudonym if name in users else self._of(name, name)

    def outsider(self, name: str) -> str:
        """Of someone named in the file: a name is one person in one source, and another in the next."""
        return self._of(name, f"{self._source}/{name}")

    def _of(self, name: str, key: str) -> str:
        if name in self._live.pseudonyms:
            return name  # this store's own export coming back
        if key in self._live.outsiders:
            return self._live.outsiders[key]
        if key not in self._new:
            self._new[key] = new_pseudonym(self._live)
            self.rows.append(OutsiderRow(key, self._new[key], self._now))
        return self._new[key]


def _task(ranking: CheckedImport, number: int, now: datetime) -> TaskRow:
    """A task that holds imported rankings only: overlap 0, offered to nobody."""
    ids = list(ranking.response_ids)
    return TaskRow(number, ranking.task_id, "ranking", ranking.ranking.prompt_id, ids, 0, 0, None, now)


def _ranking_row(
    ranking: CheckedImport, number: int, order: Sequence[str], labeler: str, source: str, now: datetime
) -> RankingRow:
    answer = ranking.answer(order)
    return RankingRow(
        label_id=ranking.label_id,
        revision=1,
        task_id=ranking.task_id,
        task_number=number,
        prompt_id=ranking.ranking.prompt_id,
        labeler=labeler,
        lease=None,
        digest=answer.digest,
        display_order=[ranking.response_ids[place] for place in ranking.ranking.display_order],
        ranks=list(answer.ranks),
        ratings=as_json(answer.ratings),
        flags=as_json(answer.flags),
        rewrite=None,
        comment=answer.comment,
        seconds=answer.seconds,
        guideline="",
        source=source,
        client_at=ranking.ranking.labeled_at,
        created_at=now,
    )


def _details(label_id: str, details: dict[str, Any], now: datetime) -> list[Row]:
    return [LabelDetailsRow(label_id, as_json(details), now)] if details else []


def _checked(ranking: NewRanking, source: str) -> CheckedImport:
    """With its ids: the same prompt with the same responses is one task, whatever order a row lists them in."""
    task_id, ids = _ids(ranking.prompt_id, tuple((new.text, new.source) for new in ranking.responses))
    checked = CheckedImport(task_id, "", ids, ranking)
    digest = checked.answer(sorted(ids)).digest  # the same whatever the order
    more: list[Any] = [ranking.labeled_at.isoformat()] if ranking.labeled_at else []
    more += [ranking.details] if ranking.details else []
    return replace(checked, label_id=_derived("l", task_id, ranking.labeler, digest, source, *more))


@lru_cache(64)  # a row may hold several labels of the same responses
def _ids(prompt_id: str, texts: tuple[tuple[str, str], ...]) -> tuple[str, tuple[str, ...]]:
    """The ids of the task of these responses, which are texts with their sources, and of each response."""
    task_id = _derived("t", prompt_id, *sorted(texts))
    return task_id, tuple(_derived("r", task_id, *each, texts[:place].count(each)) for place, each in enumerate(texts))


def _ranking_problems(ranking: NewRanking, field: str, live: Live) -> list[str]:
    problems = _prompt_problems(ranking.prompt_id, f"{field}.prompt_id", live)
    problems += responses_problems(ranking.responses, f"{field}.responses")
    problems += text_problems(ranking.labeler, f"{field}.labeler", required=True, limit=200)
    problems += text_problems(ranking.comment, f"{field}.comment")
    problems += _more_problems(ranking, field)
    if problems:
        return problems
    count = len(ranking.responses)
    if ranking.display_order and sorted(ranking.display_order) != list(range(count)):
        problems.append(f"{field}.display_order is {shown(ranking.display_order)} and must name each response once")
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


def _more_problems(label: NewRanking | NewDemonstration, field: str) -> list[str]:
    """What both kinds of label carry."""
    problems = [f"{field}.{problem}" for problem in seconds_problems(label.seconds)]
    problems += time_problems(label.labeled_at, f"{field}.labeled_at")
    try:
        check_json(label.details, f"{field}.details")
    except InvalidInput as error:
        problems.append(str(error).removeprefix("Nothing was stored: ").rstrip("."))
    return problems


def _prompt_problems(prompt_id: object, field: str, live: Live) -> list[str]:
    if isinstance(prompt_id, str) and prompt_id in live.prompts:
        return []
    return [f"{field} is {shown(prompt_id)}, which is no prompt here"]


def _origin_problems(labeler: object, source: object) -> list[str]:
    return text_problems(labeler, "labeler", required=True, limit=200) + source_problems(source)


def _derived(prefix: str, *parts: Any) -> str:
    return f"{prefix}-{hashlib.sha256(as_json(parts).encode()).hexdigest()[:16]}"
