"""Where labelers disagree, and what a reviewer says of it: the verbs, and the decision behind them.

A task comes to review when at least two labelers ranked it and agree less than the project's settings ask for. The
reviewer's answer, an adjudication, is a label of its own beside theirs: it trains and is exported like any other, and
is left out where agreement is measured, because its author saw the others' answers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from data.agreement import pairwise
from data.exports import Moment, iso
from data.labeling import display_order
from data.live import Live, LiveTask
from data.records import RankingAnswer, Receipt
from data.rows import RankingRow, Row, as_json, new_id
from data.validate import CheckedRanking, check_ranking

if TYPE_CHECKING:
    from data.writer import Decide

_SEVERAL = """
    SELECT task_id, list(ranks ORDER BY labeler), max(created_at) FROM standing_rankings
    WHERE source = 'labeler' GROUP BY task_id HAVING count(*) > 1"""
_LABELS = """
    SELECT label_id, labeler, ranks, comment, flags, seconds, source, created_at FROM standing_rankings
    WHERE task_id = $task ORDER BY source, created_at"""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A task whose labelers do not agree."""

    task_id: str
    prompt_id: str
    agreement: float  # tie-aware share of pairs, over every two labelers
    labels: int
    reviewed: bool
    latest_at: datetime


class Reviews:
    """See the module. Made by the store, with its ways to write, to see the live state and to read."""

    def __init__(
        self,
        write: Callable[[Decide[Any]], Any],
        live: Callable[[], Live],
        moment: Callable[[], AbstractContextManager[Moment]],
    ) -> None:
        self._write, self._live, self._moment = write, live, moment

    def disagreements(self) -> list[Disagreement]:
        """What is there to review, the worst first; then what was reviewed already."""
        live = self._live()
        with self._moment() as moment:
            several = moment.select(_SEVERAL)
        found = []
        for task_id, ranks, latest_at in several:
            agreed = pairwise([ranks])[0].value
            if agreed is not None and agreed < live.settings.review_below:
                prompt_id = live.task(task_id).task.prompt_id
                reviewed = task_id in live.reviews
                found.append(Disagreement(task_id, prompt_id, agreed, len(ranks), reviewed, latest_at))
        return sorted(found, key=lambda one: (one.reviewed, one.agreement, one.task_id))

    def labels(self, task_id: str) -> list[dict[str, Any]]:
        """What each labeler said of the task, ready for JSON; an adjudication last. Raises NotFound."""
        self._live().task(task_id)
        with self._moment() as moment:
            rows = moment.select(_LABELS, {"task": task_id})
        names = ("label_id", "labeler", "ranks", "comment", "flags", "seconds", "source", "created_at")
        labels = [dict(zip(names, row, strict=True)) for row in rows]
        return [{**label, "created_at": iso(label["created_at"])} for label in labels]

    def adjudicate(self, reviewer: str, task_id: str, answer: RankingAnswer, *, guideline: str) -> Receipt:
        """Keep the reviewer's answer; the same one again earns the same receipt, another one the next revision.

        Raises NotFound or InvalidInput; nothing is stored then.
        """
        task = self._live().task(task_id)
        checked = check_ranking(answer, task.task)
        receipt: Receipt = self._write(
            partial(adjudicate, name=reviewer, task=task, answer=checked, guideline=guideline)
        )
        return receipt


def adjudicate(
    live: Live, now: datetime, *, name: str, task: LiveTask, answer: CheckedRanking, guideline: str
) -> tuple[list[Row], Receipt]:
    """The adjudication's next revision, and the receipt."""
    reviewer = live.labeler(name)
    earlier = live.reviews.get(task.task.id)
    if earlier is not None and earlier.digest == answer.digest:
        return [], Receipt(earlier.id, earlier.revision)
    receipt = Receipt(earlier.id, earlier.revision + 1) if earlier else Receipt(new_id("l"), 1)
    row = RankingRow(
        label_id=receipt.label_id,
        revision=receipt.revision,
        task_id=task.task.id,
        task_number=task.number,
        prompt_id=task.task.prompt_id,
        labeler=reviewer,
        lease=None,
        digest=answer.digest,
        display_order=list(display_order(task.task, reviewer)),
        ranks=list(answer.ranks),
        ratings=as_json(answer.ratings),
        flags=as_json(answer.flags),
        rewrite=None,
        comment=answer.comment,
        seconds=answer.seconds,
        guideline=guideline,
        source="review",
        client_at=None,
        created_at=now,
        purpose=task.task.purpose,
    )
    return [row], receipt
