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
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from data.agreement import pairwise, summary
from data.choices import Choices, place_of, wanted
from data.errors import InvalidInput
from data.exports import Moment, Row, iso
from data.languages import language_of
from data.quality import majority, mean_rank, reliability

if TYPE_CHECKING:
    import pyarrow as pa

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
    """What `select` found. `labels` and `prompts` are ids, None for all; `about` is for the manifest."""

    labels: set[str] | None
    prompts: set[str] | None
    agreement: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)
    combined: dict[str, Row] = field(default_factory=dict)  # columns, by the label whose row they take the place of
    heldout_labelers: frozenset[str] = frozenset()

    def reshaped(self, rankings: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The rankings chosen: several of a task as one, those of held-out labelers on the other side.

        Each batch has all rankings of its prompts, so that rows keep their order when each batch does.
        """
        for batch in rankings:
            if self.combined:
                batch = self._with_combined(batch)
            yield _held_out(batch, self.heldout_labelers) if self.heldout_labelers else batch

    def _with_combined(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        import pyarrow as pa
        import pyarrow.compute as pc

        from data.columns import batch_of, rows_of

        replaced = pc.is_in(batch.column("label_id"), pa.array(self.combined, pa.string()))
        rows = []
        for row in rows_of(batch.filter(replaced)):
            columns = self.combined[row["label_id"]]
            ids = [response["id"] for response in row["responses"]]
            unrankable = [id for id, rank in zip(ids, columns["ranks"], strict=True) if rank is None]
            rows.append(row | columns | {"unrankable": unrankable})
        table = pa.Table.from_batches([batch.filter(pc.invert(replaced)), batch_of(rows, "rankings")])
        table = table.sort_by([("prompt_id", "ascending"), ("label_id", "ascending")]).combine_chunks()
        return table.to_batches()[0] if len(table) else batch


def select(moment: Moment, choices: Choices) -> Selection:
    """The labels and prompts that these choices leave. Raises InvalidInput when they leave no prompt or no label."""
    if not choices.as_json():
        return Selection(None, None, summary(moment.ranks_by_task()))
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
    labels = {*demonstrations, *rankings}
    licences = dict(moment.select("SELECT name, licence FROM sources"))
    combined, aggregated = _combine(labels, tasks, heldout, choices.aggregate, weights, licences)
    _refuse_nothing(labels, left_out)
    found = {"choices": choices.as_json(), "weights": weights, "heldout_labelers": sorted(heldout)}
    about = {name: value for name, value in (found | {"aggregated": aggregated}).items() if value}
    return Selection(labels, prompts, agreement, about | {"left_out": left_out}, combined, heldout)


def _held_out(batch: pa.RecordBatch, labelers: Iterable[str]) -> pa.RecordBatch:
    """The same rows, those of these labelers on the side that measures."""
    import pyarrow as pa
    import pyarrow.compute as pc

    theirs = pc.is_in(batch.column("labeler"), pa.array(labelers, pa.string()))
    place = batch.schema.get_field_index("split")
    return batch.set_column(place, "split", pc.if_else(theirs, "heldout", batch.column("split")))


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


def _combine(
    labels: set[str],
    tasks: Tasks,
    heldout: Collection[str],
    method: str,
    weights: dict[str, float],
    licences: dict[str, str],
) -> tuple[dict[str, Row], dict[str, list[str]]]:
    """Let one row stand for the rankings of each task: `labels` keeps the label whose row it takes the place of.

    The columns of that row, by that label; and which labels the row is made of, by its own id. A reviewer's ranking
    settles its task: it stays as it is, and the others go. Held-out labelers are not counted.
    """
    combined: dict[str, Row] = {}
    made_of: dict[str, list[str]] = {}
    combine: Callable[..., list[int | None]] = majority if method == "majority" else mean_rank
    for given in tasks.values() if method != "none" else ():
        rows = [ranking for ranking in given if ranking.labeler not in heldout]
        reviews = [ranking for ranking in rows if ranking.source == "review"]
        first = max(reviews, key=lambda ranking: ranking.created_at) if reviews else rows[0] if rows else None
        labels -= {ranking.label_id for ranking in rows if ranking is not first}
        if first is None or reviews or len(rows) < 2:
            continue
        ids = [ranking.label_id for ranking in rows]
        id = "m-" + hashlib.sha256(json.dumps([method, ids]).encode()).hexdigest()[:16]
        made_of[id] = ids
        votes = [weights.get(ranking.labeler, 1.0) for ranking in rows]
        combined[first.label_id] = {
            "label_id": id,
            "revision": 1,
            "labeler": method,
            "ranks": combine([ranking.ranks for ranking in rows], votes),
            "created_at": iso(max(ranking.created_at for ranking in rows)),
            "ratings": _mean_ratings(rows),
            **_joint_origin(rows, licences),
            **_SAID_BY_ONE,
        }
    return combined, made_of


_SAID_BY_ONE: Row = {
    "seconds": None,
    "display_order": [],
    "flags": {},
    "rewrite": None,
    "comment": "",
    "client_at": "",
    "details": {},
}


def _joint_origin(rows: Iterable[_Ranking], licences: dict[str, str]) -> dict[str, str]:
    """The sources of these rankings and their licences; none when one of them is not known."""
    sources = sorted({ranking.source for ranking in rows})
    known = sorted({licences.get(source, "") for source in sources})
    return {"source": " and ".join(sources), "licence": " and ".join(known) if all(known) else ""}


def _mean_ratings(rows: Iterable[_Ranking]) -> dict[str, dict[str, float]]:
    """What each response was rated on average, by what was rated."""
    given: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for ranking in rows:
        for id, ratings in json.loads(ranking.ratings or "{}").items():
            for name, value in ratings.items():
                given[id][name].append(value)
    return {id: {name: sum(v) / len(v) for name, v in by_name.items()} for id, by_name in given.items()}


def _refuse_nothing(labels: Collection[str], left_out: dict[str, dict[str, int]]) -> None:
    if not labels and left_out["labels"]:
        raise InvalidInput(
            f"The choices leave no label: {_counted(left_out['labels'])}. Nothing was frozen; choose less."
        )


def _counted(left_out: dict[str, int]) -> str:
    return ", ".join(f"{name} left out {count}" for name, count in left_out.items())
