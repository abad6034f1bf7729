"""What goes into a snapshot when not everything does: choices in, label ids and lines of its manifest out.

Reads   labels, prompts and the sources of responses of one moment; of texts only those of prompts, and only to tell
        their language
Writes  nothing

Prompts are chosen first, then each label by itself (JUDGED), then tasks by how far their labelers agree, then labelers
by how reliable they are; each step looks at what those before it left, and the manifest says how many labels each left
out. Agreement, reliability and weights come from the labels that are left, so that the same labels and choices always
give the same snapshot.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from data.agreement import pairwise, summary
from data.choices import Choices, place_of, wanted
from data.errors import InvalidInput
from data.exports import Moment, Row, iso
from data.languages import language_of
from data.quality import majority, mean_rank, reliability

_NAMED = "(len(${0}::VARCHAR[]) > 0 AND NOT coalesce({1}, false)) OR coalesce({2}, false)"
_IN_TASK = "task_number IN (SELECT task_number FROM responses WHERE list_contains(${0}::VARCHAR[], source))"


def _left_out(name: str, column: str) -> str:
    """The condition under which a label is left out by what its column says."""
    contains = "list_contains(${0}::VARCHAR[], " + column + ")"
    return _NAMED.format(name, contains.format(name), contains.format(f"not_{name}"))


_STEPS = f"""CASE
    WHEN NOT ($every_prompt::BOOLEAN OR prompt_id IN (SELECT unnest($prompts::VARCHAR[]))) THEN 'prompt'
    WHEN created_at < $since::TIMESTAMPTZ THEN 'since'
    WHEN created_at >= $until::TIMESTAMPTZ THEN 'until'
    WHEN {_left_out("source", "if(starts_with(source, 'rewrite:'), 'rewrite', source)")} THEN 'source'
    WHEN {_left_out("labeler", "labeler")} THEN 'labeler'"""
JUDGED = {
    "demonstrations": f"SELECT *, {_STEPS} END AS why FROM standing_demonstrations",
    "rankings": f"""SELECT *, {_STEPS}
        WHEN {_NAMED.format("checkpoint", _IN_TASK.format("checkpoint"), _IN_TASK.format("not_checkpoint"))}
        THEN 'checkpoint' END AS why FROM standing_rankings""",
}
_KEPT = "SELECT label_id, labeler FROM ({}) WHERE why IS NULL"
_WHY = "SELECT why, count(*) FROM ({}) WHERE why IS NOT NULL GROUP BY why"
_SEVERAL = f"""
    SELECT task_number, label_id, labeler, ranks, source, created_at, ratings FROM ({JUDGED["rankings"]})
    WHERE why IS NULL QUALIFY count(*) OVER (PARTITION BY task_number) > 1 ORDER BY task_number, label_id"""
_PROMPTS = "SELECT id, tags, if($texts, messages, NULL) FROM standing_prompts"


class _Ranking(NamedTuple):
    """A ranking of a task that has several."""

    label_id: str
    labeler: str
    ranks: list[int | None]
    source: str
    created_at: datetime
    ratings: str


Tasks = dict[int, list[_Ranking]]


@dataclass(slots=True)
class Selection:
    """What `select` found. `labels` and `prompts` are ids, `about` is for the manifest."""

    labels: set[str]
    prompts: set[str] | None  # None: all
    agreement: dict[str, Any]
    about: dict[str, Any]
    combined: dict[str, Row] = field(default_factory=dict)  # columns, by the label whose row they take the place of
    heldout_labelers: frozenset[str] = frozenset()

    @property
    def reshapes(self) -> bool:
        """Whether rows are to be changed, and not just left out: they must pass through `ranking_rows` then."""
        return bool(self.combined or self.heldout_labelers)

    def prompt_rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows of the prompts chosen."""
        return (row for row in rows if self.prompts is None or row["prompt_id"] in self.prompts)

    def ranking_rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows of the rankings chosen: several of a task as one, those of held-out labelers on the other side."""
        for row in rows:
            if row["label_id"] not in self.labels:
                continue
            if (columns := self.combined.get(row["label_id"])) is not None:
                ids = [response["id"] for response in row["responses"]]
                unrankable = [id for id, rank in zip(ids, columns["ranks"], strict=True) if rank is None]
                row = row | columns | {"unrankable": unrankable}
            if row["labeler"] in self.heldout_labelers:
                row = row | {"split": "heldout"}
            yield row


def select(moment: Moment, choices: Choices) -> Selection:
    """The labels and prompts that these choices leave. Raises InvalidInput when they leave no prompt or no label."""
    left_out: dict[str, dict[str, int]] = {"prompts": {}, "labels": {}}
    prompts = _prompts(moment, choices, left_out["prompts"])
    parameters = _parameters(choices, prompts)
    demonstrations = dict(_select(moment, _KEPT.format(JUDGED["demonstrations"]), parameters))
    rankings = dict(_select(moment, _KEPT.format(JUDGED["rankings"]), parameters))
    for sql in JUDGED.values():
        for why, count in _select(moment, _WHY.format(sql), parameters):
            left_out["labels"][why] = left_out["labels"].get(why, 0) + count
    tasks: Tasks = defaultdict(list)
    for number, *columns in _select(moment, _SEVERAL, parameters):
        tasks[number].append(_Ranking(*columns))
    _leave_out(rankings, tasks, "min_agreement", _disagreeing(tasks, choices.min_agreement), left_out["labels"])
    unreliable = _unreliable(tasks, rankings.values(), choices.min_reliability)
    dropped = [id for id, labeler in rankings.items() if labeler in unreliable]
    _leave_out(rankings, tasks, "min_reliability", dropped, left_out["labels"])
    weights = _weights(tasks, rankings.values()) if choices.weights == "reliability" else {}
    heldout = frozenset(name for name in rankings.values() if place_of(name) < choices.hold_out_labelers)
    agreement = summary(list(_by_labeler(given).values()) for given in tasks.values())
    selection = Selection({*demonstrations, *rankings}, prompts, agreement, {}, heldout_labelers=heldout)
    combined = _combine(selection, tasks, choices.aggregate, weights)
    _refuse_nothing(selection, left_out)
    about = {"choices": choices.as_json(), "weights": weights, "heldout_labelers": sorted(heldout)}
    selection.about = {name: value for name, value in about.items() if value} | {"left_out": left_out}
    if combined:
        selection.about["aggregated"] = combined
    return selection


def _prompts(moment: Moment, choices: Choices, left_out: dict[str, int]) -> set[str] | None:
    """The prompts that their tags and their language leave; None when neither was chosen by."""
    if not choices.tag and not choices.language:
        return None
    kept = set()
    left_out |= {name: 0 for name in ("tag", "language") if getattr(choices, name)}
    for id, tags, messages in moment.select(_PROMPTS, {"texts": bool(choices.language)}):
        if not _named(choices.tag, tags):
            left_out["tag"] += 1
        elif choices.language and not _named(choices.language, [language_of(json.loads(messages), tags)]):
            left_out["language"] += 1
        else:
            kept.add(id)
    if not kept:
        raise InvalidInput(f"The choices leave no prompt: {_counted(left_out)}. Nothing was frozen; choose less.")
    return kept


def _named(names: tuple[str, ...], found: list[str]) -> bool:
    keep, leave = wanted(names)
    return (not keep or not set(keep).isdisjoint(found)) and set(leave).isdisjoint(found)


def _parameters(choices: Choices, prompts: set[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "since": choices.since,
        "until": choices.until,
        "every_prompt": prompts is None,
        "prompts": sorted(prompts or ()),
    }
    for name in ("source", "labeler", "checkpoint"):
        found[name], found[f"not_{name}"] = wanted(getattr(choices, name))
    return found


def _select(moment: Moment, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The rows; of the parameters only those that the query has, since DuckDB takes no others."""
    return moment.select(sql, {name: value for name, value in parameters.items() if f"${name}::" in sql})


def _by_labeler(given: Iterable[_Ranking]) -> dict[str, list[int | None]]:
    """The labelers' latest rankings of a task; a reviewer's is none of theirs."""
    latest = sorted(given, key=lambda ranking: ranking.created_at)
    return {ranking.labeler: ranking.ranks for ranking in latest if ranking.source != "review"}


def _disagreeing(tasks: Tasks, least: float | None) -> list[str]:
    """The labels of tasks on which the labelers agree less than that."""
    found: list[str] = []
    for given in tasks.values() if least is not None else ():
        share = pairwise([list(_by_labeler(given).values())])[0].value
        if share is not None and least is not None and share < least:
            found += [ranking.label_id for ranking in given]
    return found


def _unreliable(tasks: Tasks, labelers: Iterable[str], least: float | None) -> set[str]:
    """The labelers who are right less often than that; of whom too little is known, the mean of the others counts."""
    if least is None:
        return set()
    found = reliability((_by_labeler(given) for given in tasks.values()), labelers)
    known = [each.right for each in found.values() if each.right is not None]
    mean = sum(known) / len(known) if known else 1.0
    return {name for name, each in found.items() if (mean if each.right is None else each.right) < least}


def _weights(tasks: Tasks, labelers: Iterable[str]) -> dict[str, float]:
    """How much each labeler counts, to four places."""
    found = reliability((_by_labeler(given) for given in tasks.values()), labelers)
    return {name: round(each.weight, 4) for name, each in found.items()}


def _leave_out(rankings: dict[str, str], tasks: Tasks, name: str, ids: Iterable[str], counts: dict[str, int]) -> None:
    gone = {id for id in ids if rankings.pop(id, None) is not None}
    if gone:
        counts[name] = len(gone)
        for number, given in list(tasks.items()):
            tasks[number] = [ranking for ranking in given if ranking.label_id not in gone]


def _combine(selection: Selection, tasks: Tasks, method: str, weights: dict[str, float]) -> dict[str, list[str]]:
    """Let one row stand for the rankings of each task; which labels each such row is made of.

    A reviewer's ranking settles its task: it stays as it is, and the others go. Held-out labelers are not counted.
    """
    made_of: dict[str, list[str]] = {}
    combine: Callable[..., list[int | None]] = majority if method == "majority" else mean_rank
    for given in tasks.values() if method != "none" else ():
        rows = [ranking for ranking in given if ranking.labeler not in selection.heldout_labelers]
        reviews = [ranking for ranking in rows if ranking.source == "review"]
        first = max(reviews, key=lambda ranking: ranking.created_at) if reviews else rows[0] if rows else None
        selection.labels -= {ranking.label_id for ranking in rows if ranking is not first}
        if first is None or reviews or len(rows) < 2:
            continue
        ids = [ranking.label_id for ranking in rows]
        id = "m-" + hashlib.sha256(json.dumps([method, ids]).encode()).hexdigest()[:16]
        made_of[id] = ids
        selection.labels.add(id)
        selection.combined[first.label_id] = {
            "label_id": id,
            "revision": 1,
            "labeler": method,
            "ranks": combine(
                [ranking.ranks for ranking in rows], [weights.get(ranking.labeler, 1.0) for ranking in rows]
            ),
            "created_at": iso(max(ranking.created_at for ranking in rows)),
            "ratings": _mean_ratings(rows),
            **_SAID_BY_ONE,
        }
    return made_of


_SAID_BY_ONE: Row = {"seconds": None, "display_order": [], "flags": {}, "rewrite": None, "comment": ""}


def _mean_ratings(rows: Iterable[_Ranking]) -> dict[str, dict[str, float]]:
    """What each response was rated on average, by what was rated."""
    given: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for ranking in rows:
        for id, ratings in json.loads(ranking.ratings or "{}").items():
            for name, value in ratings.items():
                given[id][name].append(value)
    return {id: {name: sum(v) / len(v) for name, v in by_name.items()} for id, by_name in given.items()}


def _refuse_nothing(selection: Selection, left_out: dict[str, dict[str, int]]) -> None:
    if not selection.labels and left_out["labels"]:
        raise InvalidInput(
            f"The choices leave no label: {_counted(left_out['labels'])}. Nothing was frozen; choose less."
        )


def _counted(left_out: dict[str, int]) -> str:
    return ", ".join(f"{name} left out {count}" for name, count in left_out.items())
