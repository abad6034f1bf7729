"""What a researcher sees of labelers and of the project: counts, seconds, agreement, gold, and what sways a choice.

Reads   labels, skips, tasks and gold of one moment, grouped by DuckDB so that few rows come out however many labels
        there are; of texts only their lengths
Writes  nothing

Tasks that only check labelers (gold, repeats, qualification) enter gold accuracy and self-agreement alone. The
definitions are in data/labelers.py; labelers go by pseudonym.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from data.agreement import Share, summary
from data.counts import KINDS as TASKS
from data.counts import states
from data.exports import Moment, iso
from data.labelers import DEFINITIONS, FAST, PEERS, agreement_by_labeler, as_json, effect, match
from data.live import Live
from data.records import CHECKS

Json = dict[str, Any]
Opened = Callable[[], AbstractContextManager[Moment]]

COSTLY, PATIENCE = 1.0, 20
KINDS = ("rankings", "demonstrations", "rewrites", "reviews")
BINS = (5, 10, 20, 40, 80, 160, 320, 640, 1280)  # seconds between the bars of a distribution

# Revision 1 tells the day a label was given; the label counts while one of its revisions stands.
_DAYS = """
    SELECT CAST(created_at AS DATE)::VARCHAR, labeler, count(*) FROM (
        SELECT labeler, created_at FROM rankings SEMI JOIN standing_rankings USING (label_id)
        WHERE revision = 1 AND source = 'labeler'
        UNION ALL
        SELECT labeler, created_at FROM demonstrations SEMI JOIN standing_demonstrations USING (label_id)
        WHERE revision = 1 AND source = 'labeler')
    GROUP BY ALL ORDER BY ALL"""
_COUNTS = """
    SELECT labeler, kind, count(*), sum(revision - 1) FROM (
        SELECT labeler, if(source = 'review', 'reviews', 'rankings') AS kind, revision FROM standing_rankings
        UNION ALL
        SELECT labeler, if(starts_with(source, 'rewrite:'), 'rewrites', 'demonstrations'), revision
        FROM standing_demonstrations)
    GROUP BY labeler, kind"""
_SKIPS = f"""
    SELECT labeler, reason, count(*) FROM skips JOIN tasks ON id = task_id
    WHERE purpose NOT IN {tuple(CHECKS)} GROUP BY ALL"""
# An expectation goes by the kind, how many responses, and the power of two of the characters to read or written.
_SECONDS = f"""
    WITH sizes AS (SELECT task_number, sum(length(text)) AS characters FROM responses GROUP BY task_number),
    timed AS (
        SELECT labeler, 'rankings' AS kind, seconds, len(ranks) AS responses, characters
        FROM standing_rankings JOIN sizes USING (task_number) WHERE source = 'labeler' AND seconds IS NOT NULL
        UNION ALL
        SELECT labeler, 'demonstrations', seconds, 0, length(response)
        FROM standing_demonstrations WHERE source = 'labeler' AND seconds IS NOT NULL),
    sized AS (
        SELECT *, floor(log2(greatest(characters, 1))) AS size,
            len(list_filter({list(BINS)}, lambda edge: seconds >= edge)) AS bin
        FROM timed),
    peers AS (
        SELECT kind, responses, size, median(seconds) AS expected FROM sized
        GROUP BY ALL HAVING count(*) >= {PEERS} AND median(seconds) > 0)
    SELECT labeler, kind, count(*), quantile_cont(seconds, [0.25, 0.5, 0.75]), median(seconds / expected),
        count(expected), count(*) FILTER (seconds < expected * {FAST}), histogram(bin)
    FROM sized LEFT JOIN peers USING (kind, responses, size) GROUP BY labeler, kind"""
_POSITION = """
    SELECT labeler, list_transform(display_order, lambda id: ranks[list_position(response_ids, id)]) AS shown, count(*)
    FROM standing_rankings JOIN tasks ON number = task_number WHERE source = 'labeler' GROUP BY ALL"""
_LENGTH = """
    WITH sizes AS (SELECT task_number, list(length(text) ORDER BY position) AS lengths FROM responses GROUP BY ALL),
    keyed AS (SELECT task_number, longer, list_grade_up(longer) AS places FROM (
        SELECT task_number,
            list_transform(lengths, lambda one: len(list_filter(lengths, lambda other: other > one))) AS longer
        FROM sizes))
    SELECT labeler, list_select(ranks, places), list_select(longer, places), count(*)
    FROM standing_rankings JOIN keyed USING (task_number) WHERE source <> 'review' GROUP BY ALL"""
_GOLD = """
    SELECT labeler, given.ranks, expected.ranks FROM current_rankings AS given
    JOIN (SELECT task_id, arg_max(ranks, rowid) AS ranks FROM gold GROUP BY task_id) AS expected USING (task_id)
    WHERE purpose = 'gold' ORDER BY labeler"""
_REPEATS = """
    SELECT again.labeler, again.ranks, before.ranks FROM current_rankings AS again
    JOIN tasks ON tasks.id = again.task_id
    JOIN current_rankings AS before ON before.task_id = tasks.repeat_of AND before.labeler = again.labeler
    WHERE again.purpose = 'repeat' AND ($labeler IS NULL OR again.labeler = $labeler) ORDER BY again.labeler"""
_REVIEWED = """
    SELECT mine.labeler, mine.ranks, final.ranks FROM standing_rankings AS mine
    JOIN (SELECT task_number, arg_max(ranks, created_at) AS ranks FROM standing_rankings
          WHERE source = 'review' GROUP BY task_number) AS final USING (task_number)
    WHERE mine.source = 'labeler'"""
_SOURCES = f"""
    SELECT responses.source, count(*), count(labeled.task_number) FROM responses
    JOIN tasks ON number = responses.task_number
    LEFT JOIN (SELECT DISTINCT task_number FROM standing_rankings) AS labeled USING (task_number)
    WHERE purpose NOT IN {tuple(CHECKS)} GROUP BY ALL ORDER BY 2 DESC, 1"""
_SEVERAL = """
    SELECT count(*), count(*) FILTER (labelers > 1)
    FROM (SELECT count(DISTINCT labeler) AS labelers FROM standing_rankings
          WHERE source <> 'review' GROUP BY task_number)"""
# Checks are counted here: a labeler must not see from their counts which tasks were checks.
_OWN = """
    SELECT kind, count(*), median(seconds) FROM (
        SELECT if(source = 'review', 'reviews', 'rankings') AS kind, labeler, seconds FROM current_rankings
        UNION ALL
        SELECT if(starts_with(source, 'rewrite:'), 'rewrites', 'demonstrations'), labeler, seconds
        FROM standing_demonstrations)
    WHERE labeler = $labeler GROUP BY kind"""


class Insight:
    """Computes the numbers, for one caller at a time, and anew only when something was labeled or skipped since.

    Numbers that cost more than `COSTLY` seconds of a processor are kept `PATIENCE` times as long as they took, and who
    asks while they are computed gets the ones before, so that researchers who look often do not slow labelers down;
    `at` says of when they are.
    """

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._kept: Json = {}
        self._mark: object = None
        self._until = 0.0

    def of(self, opened: Opened, live: Live, now: datetime) -> Json:
        """Labelers, what holds for all of them together, and the definitions, ready for JSON."""
        if not self._one_at_a_time.acquire(blocking=not self._kept):
            return self._kept  # another caller is at it
        try:
            # read before the moment begins: what comes meanwhile makes this stale again
            mark = (live, live.changes, len(live.labels), len(live.skips), len(live.tasks))
            if mark != self._mark and time.monotonic() >= self._until:
                began, before = time.monotonic(), time.thread_time()
                with opened() as moment:
                    self._kept = {"at": iso(now), **_computed(moment, live)}
                costly = time.thread_time() - before > COSTLY
                self._mark, self._until = mark, began + (time.monotonic() - began) * (PATIENCE if costly else 0)
            return self._kept
        finally:
            self._one_at_a_time.release()


def own(moment: Moment, labeler: str) -> Json:
    """What a labeler is told of themself: counts, median seconds, self-agreement. Never gold."""
    parameters = {"labeler": labeler}
    found = {kind: (count, median) for kind, count, median in moment.select(_OWN, parameters)}
    skips = moment.select("SELECT count(*) FROM skips WHERE labeler = $labeler", parameters)[0][0]
    repeats = moment.select(_REPEATS, parameters)
    return {
        "labeler": labeler,
        **{kind: found.get(kind, (0, None))[0] for kind in KINDS},
        "skips": skips,
        "median_seconds": {kind: found.get(kind, (0, None))[1] for kind in KINDS[:2]},
        "self_agreement": as_json(match((again, before) for _, again, before in repeats)),
        "definitions": {name: DEFINITIONS[name] for name in ("self_agreement", "seconds")},
    }


def _computed(moment: Moment, live: Live) -> Json:
    outsiders = set(live.outsiders.values())
    counts = _counts(moment)
    skips = _skips(moment)
    seconds = _seconds(moment)
    several = list(moment.rankings_by_task())
    agreement = agreement_by_labeler(several)
    gold = _matches(moment.select(_GOLD))
    reviews = _matches(moment.select(_REVIEWED))
    again = _matches(moment.select(_REPEATS, {"labeler": None}))
    position, every_position = _effects(
        (labeler, shown, range(len(shown)), times) for labeler, shown, times in moment.select(_POSITION)
    )
    length, every_length = _effects(moment.select(_LENGTH))
    everyone = sorted(
        {*counts, *skips, *gold},
        key=lambda labeler: (labeler in outsiders, -sum(counts[labeler].values()), labeler),  # people of the app first
    )
    return {
        "labelers": [
            {
                "labeler": labeler,
                "imported": labeler in outsiders,
                **{kind: counts[labeler][kind] for kind in (*KINDS, "revisions")},
                "skips": dict(skips[labeler].most_common()),
                "seconds": {kind: seconds.get((labeler, kind)) for kind in KINDS[:2]},
                "agreement": as_json(agreement.get(labeler)),
                "reviews_agree": as_json(reviews.get(labeler)),
                "gold": as_json(gold.get(labeler)),
                "self_agreement": as_json(again.get(labeler)),
                "position": as_json(position.get(labeler), even=True),
                "length": as_json(length.get(labeler), even=True),
            }
            for labeler in everyone
        ],
        "project": _project(moment)
        | {
            "tasks": {kind: states(live, kind) for kind in TASKS},
            "agreement": summary(list(rankings.values()) for rankings in several),
            "skips": dict(sum(skips.values(), Counter()).most_common()),
            "seconds": {kind: _together(seconds, kind) for kind in KINDS[:2]},
            "position": every_position,
            "length": every_length,
        },
        "bins": list(BINS),
        "definitions": DEFINITIONS,
    }


def _project(moment: Moment) -> Json:
    days: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for day, labeler, count in moment.select(_DAYS):
        days[day][labeler] = count
    (tasks, several), *_ = moment.select(_SEVERAL)
    sources = moment.select(_SOURCES)
    return {
        "days": [{"day": day, "labelers": labelers} for day, labelers in days.items()],
        "labeled_tasks": tasks,
        "double_labeled_tasks": several,
        "sources": [{"source": source, "responses": count, "labeled": ranked} for source, count, ranked in sources],
    }


def _counts(moment: Moment) -> defaultdict[str, Counter[str]]:
    """Labels by labeler and kind, and how often they were revised."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for labeler, kind, count, revised in moment.select(_COUNTS):
        counts[labeler][kind] += count
        counts[labeler]["revisions"] += int(revised)
    return counts


def _skips(moment: Moment) -> defaultdict[str, Counter[str]]:
    """Skips by labeler and reason."""
    skips: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for labeler, reason, count in moment.select(_SKIPS):
        skips[labeler][reason or "no reason given"] += count
    return skips


def _seconds(moment: Moment) -> dict[tuple[str, str], Json]:
    """How long labels took, by labeler and kind."""
    found = {}
    for labeler, kind, count, quartiles, pace, judged, fast, bins in moment.select(_SECONDS):
        low, median, high = quartiles
        found[labeler, kind] = {
            "labels": count,
            "median": median,
            "quartiles": [low, high],
            "pace": pace,
            "judged": judged,
            "fast": fast,
            "distribution": [bins.get(place, 0) for place in range(len(BINS) + 1)],
        }
    return found


def _together(seconds: dict[tuple[str, str], Json], kind: str) -> Json:
    """The seconds of everyone's labels of this kind: how many fall between the edges, and how many were fast."""
    found = [each for (_, its_kind), each in seconds.items() if its_kind == kind]
    columns = zip(*(each["distribution"] for each in found), strict=True)
    return {
        "labels": sum(each["labels"] for each in found),
        "judged": sum(each["judged"] for each in found),
        "fast": sum(each["fast"] for each in found),
        "distribution": [sum(column) for column in columns] or [0] * (len(BINS) + 1),
    }


def _matches(rows: Iterable[tuple[Any, ...]]) -> dict[str, Share]:
    """By labeler, how far (given, expected) ranks match."""
    pairs: defaultdict[str, list[tuple[Any, Any]]] = defaultdict(list)
    for labeler, given, expected in rows:
        pairs[labeler].append((given, expected))
    return {labeler: match(each) for labeler, each in pairs.items()}


def _effects(rows: Iterable[tuple[Any, ...]]) -> tuple[dict[str, Share], Json]:
    """By labeler, how often the smaller key wins; and the same over all of them."""
    rankings: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for labeler, *ranking in rows:
        rankings[labeler].append(tuple(ranking))
    everyone = effect(each for given in rankings.values() for each in given)
    return {labeler: effect(given) for labeler, given in rankings.items()}, as_json(everyone, even=True)
