"""Tasks with a known answer: which there are, how labelers do on them, new ones from ranked tasks, and who waits.

Reads   gold, the rankings and the responses of the tasks concerned, and who is still to qualify
Writes  a gold or qualification task: a copy of a ranked one that asks for the answer it was given

What is expected of a ranked task is its adjudication; without one, the answer that all of its labelers gave. "The same
answer" is the same order with the same ties and the same responses unrankable, whatever the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from data import project
from data.agreement import accuracy
from data.assignment import must_qualify, qualification
from data.errors import Conflict
from data.exports import Moment, iso
from data.live import Live
from data.records import CHECKS, NewResponse, Prompt, Response

if TYPE_CHECKING:
    from data.writer import Decide

Ranks = Sequence[int | None]
ORIGINS = ("adjudication", "ranking")
Expected = tuple[str, Ranks, int]  # one of ORIGINS, the ranks, and how many labelers gave them
RECENT = 200  # of the tasks ranked last, those that are looked through for an answer to expect
_KNOWN = "SELECT task_id, note, author, created_at FROM gold ORDER BY rowid DESC"
_GIVEN = """
    SELECT task_id, ranks FROM current_rankings
    WHERE purpose IN ('gold', 'qualification') AND task_id IN (SELECT unnest($tasks::VARCHAR[]))"""
_ANSWERS = """
    SELECT task_id, list(ranks ORDER BY labeler) FILTER (source <> 'review'),
        arg_max(ranks, created_at) FILTER (source = 'review')
    FROM standing_rankings WHERE task_id IN (SELECT unnest($tasks::VARCHAR[])) GROUP BY task_id"""


class Checks:
    """See the module. Made by the store, with its ways to write, to see the live state and to read."""

    def __init__(
        self,
        write: Callable[[Decide[Any]], Any],
        live: Callable[[], Live],
        moment: Callable[[], AbstractContextManager[Moment]],
        texts: Callable[[str], tuple[Prompt, list[Response]]],
    ) -> None:
        self._write, self._live, self._moment, self._texts = write, live, moment, texts

    def known(self, limit: int | None = None) -> list[dict[str, Any]]:
        """The tasks with a known answer that are given to labelers, the newest first, ready for JSON.

        `labels`: who answered; `right`: who gave exactly the known answer; `agreement`: the mean share of pairs.
        """
        live = self._live()
        with self._moment() as moment:
            rows = [row for row in moment.select(_KNOWN) if _is_given(live, row[0])][:limit]
            given: dict[str, list[Ranks]] = {task_id: [] for task_id, *_ in rows}
            for task_id, ranks in moment.select(_GIVEN, {"tasks": list(given)}):
                given[task_id].append(ranks)
        return [
            {
                **self._shown(task_id, live.gold[task_id]),
                "purpose": live.task(task_id).task.purpose,
                **_score(given[task_id], live.gold[task_id]),
                "note": note,
                "author": author,
                "created_at": iso(created_at),
            }
            for task_id, note, author, created_at in rows
        ]

    def candidates(self, limit: int = 20) -> list[dict[str, Any]]:
        """Ranked tasks that could be asked of labelers as a check: those reviewed first, then the latest; for JSON.

        `origin` says whose answer is expected: "adjudication", or "ranking" by `labels` labelers who agree.
        """
        live = self._live()
        reviewed = list(live.reviews)[::-1]
        ids = list(dict.fromkeys([*reviewed, *_lately_ranked(live)]))[:RECENT]
        with self._moment() as moment:
            made = {note for task_id, note, *_ in moment.select(_KNOWN) if _is_given(live, task_id)}
            given = moment.select(_ANSWERS, {"tasks": ids})
        answers = {id: answer for id, *given_of in given if (answer := expected(*given_of)) is not None}
        fit = [id for id in ids if id in answers and not made & {_note(origin, id) for origin in ORIGINS}]
        return [
            {**self._shown(id, ranks), "origin": origin, "labels": labels}
            for id in fit[:limit]
            for origin, ranks, labels in [answers[id]]
        ]

    def make(self, task_id: str, purpose: Literal["gold", "qualification"], author: str) -> str:
        """A task with a known answer of a ranked one; the same one if asked again. Its id.

        Raises NotFound, InvalidInput, or Conflict when there is no one answer to expect.
        """
        live = self._live()
        if live.task(task_id).task.purpose in CHECKS:
            raise Conflict(f"Task {task_id} checks labelers already. Nothing was changed; take a task of their work.")
        with self._moment() as moment:
            answers = [expected(*answers) for _, *answers in moment.select(_ANSWERS, {"tasks": [task_id]})]
            notes = [(str(id), note) for id, note, *_ in moment.select(_KNOWN) if _is_given(live, id)]
        if not answers or answers[0] is None:
            raise Conflict(
                f"Nothing is expected of task {task_id}: nobody ranked two of its responses, or its labelers differ "
                "and nobody reviewed it. Nothing was changed; review it first."
            )
        origin, ranks, _ = answers[0]
        for id, note in notes:
            if note == _note(origin, task_id) and live.task(id).task.purpose == purpose:
                return id
        prompt, responses = self._texts(task_id)
        decide = partial(
            project.add_gold_task,
            prompt_id=prompt.id,
            responses=[NewResponse(response.text, response.source, response.sampling) for response in responses],
            ranks=ranks,
            purpose=purpose,
            note=_note(origin, task_id),
            author=author,
        )
        made: str = self._write(decide)
        return made

    def waiting(self) -> list[dict[str, Any]]:
        """Labelers who get no work yet, by pseudonym: those who answered every qualification task first; for JSON.

        `score` is their mean agreement with the known answers, None before the first; `needed` lets them in.
        """
        live = self._live()
        found = []
        for user in list(live.users.values()):
            if user.active and must_qualify(live, user):
                tasks, scores = qualification(live, user.pseudonym)
                entry = {"labeler": user.pseudonym, "answered": len(scores), "tasks": tasks}
                score = sum(scores) / len(scores) if scores else None
                found.append({**entry, "score": score, "needed": live.settings.qualify_at})
        return sorted(found, key=lambda one: (one["answered"] < one["tasks"], -(one["score"] or 0), one["labeler"]))

    def _shown(self, task_id: str, ranks: Ranks) -> dict[str, Any]:
        prompt, responses = self._texts(task_id)
        return {
            "task_id": task_id,
            "prompt": [{"role": turn.role, "content": turn.content} for turn in prompt.messages],
            "responses": [response.text for response in responses],
            "ranks": list(ranks),
        }


def expected(rankings: Sequence[Ranks] | None, adjudicated: Ranks | None) -> Expected | None:
    """The answer to expect of a task that was answered so; None where there is no one answer, or it says nothing."""
    given = list(rankings or [])
    ranks = adjudicated or (given[0] if given and len({dense(each) for each in given}) == 1 else None)
    if ranks is None or accuracy(ranks, ranks) is None:
        return None
    return ("adjudication", ranks, 1) if adjudicated else ("ranking", ranks, len(given))


def dense(ranks: Ranks) -> tuple[int | None, ...]:
    """The same answer in the smallest numbers: 2, 4, 4 is 1, 2, 2."""
    places = {rank: place for place, rank in enumerate(sorted({rank for rank in ranks if rank is not None}), 1)}
    return tuple(None if rank is None else places[rank] for rank in ranks)


def _score(given: list[Ranks], known: Ranks) -> dict[str, Any]:
    shares = [accuracy(ranks, known) or 0.0 for ranks in given]  # none: everything was called unrankable
    return {
        "labels": len(given),
        "right": sum(dense(ranks) == dense(known) for ranks in given),
        "agreement": sum(shares) / len(shares) if shares else None,
    }


def _lately_ranked(live: Live) -> Iterable[str]:
    """Tasks that labelers ranked, the latest first."""
    lately: list[tuple[datetime, str]] = []
    for done in list(live.ranked.values()):
        lately += [(when, task_id) for task_id, when in done[-RECENT:]]
    return [task_id for _, task_id in sorted(lately, reverse=True)]


def _is_given(live: Live, task_id: str) -> bool:
    return not live.queue_of(live.task(task_id).task).is_retired(task_id)


def _note(origin: str, task_id: str) -> str:
    """What a task that was made of another says of it; nobody else writes such notes."""
    return f"{origin} of {task_id}"
