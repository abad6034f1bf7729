"""The numbers of `Store.stats`: counts by kind and state, who labeled how much, how far they agree, and the pace."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from data.agreement import summary
from data.exports import Moment
from data.live import Live
from data.quality import DEFINITION, reliability
from data.records import TaskKind

KINDS: tuple[TaskKind, ...] = ("ranking", "demonstration")
_LABELERS = """
    SELECT labeler, count(*) FILTER (kind = 'ranking'), count(*) FILTER (kind = 'demonstration') FROM (
        SELECT labeler, 'ranking' AS kind FROM standing_rankings
        UNION ALL SELECT labeler, 'demonstration' FROM standing_demonstrations)
    GROUP BY labeler ORDER BY labeler"""
_TRAINABLE = """
    SELECT count(*) FROM standing_rankings JOIN prompts ON prompts.id = standing_rankings.prompt_id
    WHERE split = 'train' AND list_unique(list_filter(ranks, lambda rank: rank IS NOT NULL)) > 1"""
_DEMONSTRATED = """
    SELECT count(*) FROM standing_demonstrations JOIN prompts ON prompts.id = standing_demonstrations.prompt_id
    WHERE split = 'train'"""
_LAST_HOUR = """
    SELECT (SELECT count(*) FROM rankings WHERE revision = 1 AND lease IS NOT NULL AND created_at > $since)
         + (SELECT count(*) FROM demonstrations WHERE revision = 1 AND lease IS NOT NULL AND created_at > $since)"""


class Counts:
    """Computes the numbers. Agreement reads every ranking, so it is computed anew only when one has changed."""

    def __init__(self) -> None:
        self._agreement: tuple[Live, int, dict[str, Any]] | None = None
        self._reliability: tuple[Live, int, dict[str, Any]] | None = None

    def of(self, moment: Moment, live: Live, now: datetime) -> dict[str, Any]:
        """All of them, ready for JSON; labelers by pseudonym."""
        return {
            **label_counts(moment),
            "tasks": {kind: states(live, kind) for kind in KINDS},
            "agreement": self._current_agreement(moment, live),
            "tasks_per_hour": moment.select(_LAST_HOUR, {"since": now - timedelta(hours=1)})[0][0],
        }

    def _current_agreement(self, moment: Moment, live: Live) -> dict[str, Any]:
        changes = live.changes  # read first: a ranking that comes meanwhile makes this stale again
        if self._agreement is None or self._agreement[0] is not live or self._agreement[1] != changes:
            self._agreement = (live, changes, summary(moment.ranks_by_task()))
        return self._agreement[2]

    def reliability(self, moment: Moment, live: Live) -> dict[str, Any]:
        """How reliable each labeler of rankings is, with the definition, ready for JSON; labelers by pseudonym."""
        changes = live.changes
        if self._reliability is None or self._reliability[0] is not live or self._reliability[1] != changes:
            labelers = [name for name, rankings, _ in moment.select(_LABELERS) if rankings]
            found = reliability(moment.rankings_by_task(), labelers)
            by_labeler = {name: asdict(each) for name, each in found.items()}
            self._reliability = (live, changes, {"definition": DEFINITION, "labelers": by_labeler})
        return self._reliability[2]


def label_counts(moment: Moment) -> dict[str, Any]:
    """What stands: `prompts` by split, `labels` by kind, `labelers` with what each gave."""
    splits = dict(moment.select("SELECT split, count(*) FROM standing_prompts GROUP BY split"))
    labelers = {
        name: {"rankings": rankings, "demonstrations": demonstrations}
        for name, rankings, demonstrations in moment.select(_LABELERS)
    }
    return {
        "prompts": {"train": splits.get("train", 0), "heldout": splits.get("heldout", 0)},
        "labels": {
            "rankings": sum(counts["rankings"] for counts in labelers.values()),
            "demonstrations": sum(counts["demonstrations"] for counts in labelers.values()),
            "skips": moment.select("SELECT count(*) FROM skips")[0][0],
            "rankings_trainable": moment.select(_TRAINABLE)[0][0],
            "demonstrations_trainable": moment.select(_DEMONSTRATED)[0][0],
        },
        "labelers": labelers,
    }


def states(live: Live, kind: TaskKind) -> dict[str, int]:
    """How many tasks of the kind are open, done, resting and retired; those that check labelers left out."""
    counts = Counter(state for _, state in live.queues[kind].states())
    return {state: counts[state] for state in ("open", "done", "resting", "retired")}
