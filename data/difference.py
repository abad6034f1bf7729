"""What is in one snapshot and not in another: labels, prompts, labelers, revisions, counts, choices.

Reads   the manifests of two snapshots, and of their rows the ids and revisions alone
"""

from __future__ import annotations

from typing import Any

from data.contents import LABELS, SPLITS
from data.snapshots import Snapshot

Json = dict[str, Any]
SHOWN = 5  # ids of each list in words; all of them are in the JSON


def difference(one: Snapshot, other: Snapshot) -> Json:
    """The difference, ready for JSON. Of each pair of lists the first holds what only the first snapshot has."""
    labels, prompts = [_revisions(each) for each in (one, other)], [_sides(each) for each in (one, other)]
    both = labels[0].keys() & labels[1].keys()
    return {
        "snapshots": [one.hash, other.hash],
        "labels": _only(*labels),
        "prompts": _only(*prompts),
        "labelers": _only(*(dict.fromkeys(each.manifest["labelers"]) for each in (one, other))),
        "revised": {id: [labels[0][id], labels[1][id]] for id in sorted(both) if labels[0][id] != labels[1][id]},
        "moved": {
            id: [prompts[0][id], prompts[1][id]]
            for id in sorted(prompts[0].keys() & prompts[1].keys())
            if prompts[0][id] != prompts[1][id]
        },
        "counts": _changed(one.counts, other.counts),
        "choices": _changed(one.about.get("choices", {}), other.about.get("choices", {})),
        "weights": _changed(one.about.get("weights", {}), other.about.get("weights", {})),
        "heldout_labelers": _only(*(dict.fromkeys(each.about.get("heldout_labelers", ())) for each in (one, other))),
        "guidelines": _only(*(dict.fromkeys(each.manifest["guidelines"]) for each in (one, other))),
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


def _revisions(snapshot: Snapshot) -> dict[str, int]:
    """The revision of each label."""
    found: dict[str, int] = {}
    for kind in LABELS:
        for split in SPLITS:
            for batch in snapshot.batches(kind, split, ["label_id", "revision"]):
                found |= zip(batch.column("label_id").to_pylist(), batch.column("revision").to_pylist(), strict=True)
    return found


def _sides(snapshot: Snapshot) -> dict[str, str]:
    """The side of each prompt."""
    return {
        id: side for side in SPLITS for ids in snapshot.column("prompts", side, "prompt_id") for id in ids.to_pylist()
    }


def _only(one: dict[str, Any], other: dict[str, Any]) -> list[list[str]]:
    return [sorted(one.keys() - other.keys()), sorted(other.keys() - one.keys())]


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
