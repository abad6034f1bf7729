"""What is in one snapshot and not in another: labels, prompts, labelers, revisions, counts, choices.

Reads   the manifests of two snapshots, and of their rows the ids and revisions alone
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.contents import LABELS, SPLITS
from data.snapshots import Snapshot

Json = dict[str, Any]
SHOWN = 5  # ids of each list in words; all of them are in the JSON


def difference(one: Snapshot, other: Snapshot) -> Json:
    """The difference, ready for JSON. Of each pair of lists the first holds what only the first snapshot has."""
    labels, revised = _compared(*(_read(each, LABELS, ["label_id", "revision"]) for each in (one, other)))
    prompts, moved = _compared(*(_read(each, ["prompts"], ["prompt_id", "split"]) for each in (one, other)))
    return {
        "snapshots": [one.hash, other.hash],
        "labels": labels,
        "prompts": prompts,
        "labelers": _only(*(each.manifest["labelers"] for each in (one, other))),
        "revised": revised,
        "moved": moved,
        "counts": _changed(one.counts, other.counts),
        "choices": _changed(one.about.get("choices", {}), other.about.get("choices", {})),
        "weights": _changed(one.about.get("weights", {}), other.about.get("weights", {})),
        "heldout_labelers": _only(*(each.about.get("heldout_labelers", ()) for each in (one, other))),
        "guidelines": _only(*(each.manifest["guidelines"] for each in (one, other))),
    }


def lines(found: Json) -> list[str]:
    """The difference in lines for people."""
    one, other = found["snapshots"]
    if one == other:
        return [f"{one} is the same snapshot."]
    said = []
    for name in ("labels", "prompts", "labelers", "heldout_labelers", "guidelines"):
        for snapshot, ids in zip((one, other), found[name], strict=True):
            if ids:
                word = name.replace("_", " ").removesuffix("s")
                said.append(f"Only in {snapshot}: {len(ids)} {word}{'s' * (len(ids) > 1)}: {_some(ids)}")
    for name, what in (("revised", "In another revision"), ("moved", "On another side")):
        if found[name]:
            said.append(f"{what}: {_some(found[name])}")
    for name in ("counts", "choices", "weights"):
        said += [f"{name}: {key} {_shown(old)} -> {_shown(new)}" for key, (old, new) in found[name].items()]
    return [f"{one} -> {other}", *(said or ["The same labels and settings."])]


def _read(snapshot: Snapshot, kinds: Iterable[str], columns: list[str]) -> pa.Table:
    """Two columns of all files of these kinds: an id and what may differ."""
    batches = (each for kind in kinds for split in SPLITS for each in snapshot.batches(kind, split, columns))
    rows = [pa.RecordBatch.from_arrays([batch.column(name) for name in columns], columns) for batch in batches]
    return pa.Table.from_batches(rows) if rows else pa.table({name: pa.array([], pa.string()) for name in columns})


def _compared(one: pa.Table, other: pa.Table) -> tuple[list[list[str]], Json]:
    """The ids that only the first has, and only the other; and of those that both have, what differs."""
    at = pc.index_in(one.column(0), other.column(0))
    mine = one.column(0).filter(pc.is_null(at))
    theirs = other.column(0).filter(pc.invert(pc.is_in(other.column(0), one.column(0))))
    both, values = one.filter(pc.is_valid(at)), other.column(1).take(at.drop_null())
    unlike = pc.not_equal(both.column(1), values)
    pairs = (column.filter(unlike).to_pylist() for column in (both.column(0), both.column(1), values))
    changed = sorted(zip(*pairs, strict=True))
    return [sorted(mine.to_pylist()), sorted(theirs.to_pylist())], {id: [a, b] for id, a, b in changed}


def _only(one: Iterable[str], other: Iterable[str]) -> list[list[str]]:
    return [sorted({*one} - {*other}), sorted({*other} - {*one})]


def _changed(one: Json, other: Json) -> Json:
    return {
        name: [one.get(name), other.get(name)]
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    }


def _some(ids: list[str] | Json) -> str:
    shown = list(ids)[:SHOWN]
    return ", ".join(shown) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")


def _shown(value: Any) -> str:
    return "-" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
