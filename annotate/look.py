"""The numbers of data/look.py and what a manifest says, as blocks that annotate/panels draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from annotate.plots import percent, row_of
from data.labelers import as_json, excludes_even
from data.look import ALIKE, BINS, DEFINITIONS, MARGIN, Lengths, Look
from data.snapshots import Snapshot

Json = dict[str, Any]
Blocks = list[Json]

SHOWN = 10  # labelers and sources with a bar of their own; the others share one
TIES = 6  # in one ranking; more share a column
VERIFY = [{"text": "Verify", "act": "verify"}]
VERIFIED = {None: "not yet: Verify reads every row again", "": "yes, every row was read again and is as it was frozen"}


def look_of(found: Look, changed: Json | None) -> Blocks:
    """The distributions, what sways choices, and what changed since the snapshot before."""
    lengths = found.lengths
    written = _lengths("Characters in a demonstration", lengths, ("demonstrations",))
    drawn = [
        _sways(found),
        _changes(found, changed),
        _lengths("Characters in a response, chosen and rejected", lengths, ("chosen", "rejected")),
        _lengths("Characters in a prompt", lengths, ("prompts",)),
        *([written] if lengths["demonstrations"].texts else []),
        _alike(found),
        _ties(found),
        _labelers(found),
        *(_sources(name, sources) for name, sources in found.sources.items() if sources),
    ]
    return [_tiles(found), *_warnings(found), {"kind": "grid", "blocks": drawn}, *_besides(changed)]


def manifest_of(snapshot: Snapshot, verified: str | None, guidelines: Mapping[str, str]) -> Blocks:
    """What the manifest says; `verified` as annotate.looking tells it, `guidelines` by hash when each was written."""
    manifest, about, counts = snapshot.manifest, snapshot.about, snapshot.counts
    kinds = ("prompts", "demonstrations", "rankings")
    split = ", ".join(f"{counts[kind]:,} {kind} ({counts[f'{kind}_heldout']:,} held out)" for kind in kinds)
    wordings = [f"{name} ({guidelines.get(name, 'not of this project')})" for name in manifest["guidelines"]]
    rows = [
        ["Frozen", f"{manifest['created_at'][:16].replace('T', ' ')} UTC, while {_promoted(snapshot)}"],
        ["Chosen", _said(about.get("choices", {})) or "everything there was"],
        *([["Left out", "; ".join(_left_out(about["left_out"]))]] if any(about.get("left_out", {}).values()) else []),
        *([["Weights", f"one for each of {len(about['weights'])} labelers"]] if about.get("weights") else []),
        *([["Labelers held out", ", ".join(about["heldout_labelers"])]] if about.get("heldout_labelers") else []),
        ["Split", split],
        ["Guidelines", ", ".join(wordings) or "none was shown"],
        ["Hash", snapshot.hash],
        ["Verified", VERIFIED.get(verified, verified or "")],
        ["Folder", str(snapshot.path)],
    ]
    return [
        {"kind": "heading", "text": "What its manifest says"},
        {"kind": "facts", "rows": rows},
        *([{"kind": "acts", "key": snapshot.hash, "actions": VERIFY}] if verified is None else []),
    ]


def definitions_of() -> Blocks:
    """What each number means."""
    names = {"alike": "How alike", "position": "Shown first", "length": "Longer"}
    return [{"kind": "facts", "rows": [[names.get(key, key.capitalize()), text] for key, text in DEFINITIONS.items()]}]


def _tiles(found: Look) -> Json:
    counts, agreement = found.counts, found.agreement
    low, high = agreement["interval"] or (0, 0)
    pairs = found.decided + found.tied
    items = [
        ("Rankings", f"{counts['rankings']:,}", f"of {found.tasks:,} tasks, {found.double_tasks:,} of them by several"),
        ("Demonstrations", f"{counts['demonstrations']:,}", f"{counts['demonstrations_heldout']:,} held out"),
        ("Prompts", f"{counts['prompts']:,}", f"{counts['prompts_heldout']:,} held out"),
        ("Labelers", f"{len(found.labelers):,}", "by pseudonym"),
        ("Ties", percent(found.tied / pairs) if pairs else "-", f"of {pairs:,} pairs of responses"),
        (
            "Agreement",
            percent(agreement["pairwise"]),
            f"{low:.0%} to {high:.0%}, on {agreement['pairs']:,} pairs"
            if agreement["pairs"]
            else "needs tasks that two people ranked",
        ),
    ]
    return {"kind": "tiles", "items": [{"label": a, "value": b, "note": c} for a, b, c in items]}


def _warnings(found: Look) -> Iterator[Json]:
    """What a researcher should know before training on it."""
    for share, what, swayed in (
        (found.position, "shown first", "the order in which responses were shown swayed the labelers"),
        (found.length, "that is longer", "a reward model will learn to judge by length"),
    ):
        if share.value is None or share.interval is None or not excludes_even(share, MARGIN):
            continue
        low, high = share.interval
        often = "often" if share.value > 0.5 else "seldom"
        told = (
            f"The response {what} wins too {often}: {share.value:.1%} of {share.n:,} pairs ({low:.1%} to {high:.1%}), "
            f"where an even hand gives 50%. If nothing else explains it, {swayed}."
        )
        yield {"kind": "text", "tone": "warn", "text": told}


def _sways(found: Look) -> Json:
    rows = [
        row_of(label, as_json(share, even=True, margin=MARGIN), f"more than {100 * MARGIN:.0f} points from 50%")
        for label, share in (
            ("The response shown first wins", found.position),
            ("The longer response wins", found.length),
        )
    ]
    if found.shown < found.counts["rankings"]:
        rows[0]["note"] += f" of {found.shown:,} rankings whose order is known"
    return {"kind": "intervals", "title": "What goes with a win", "reference": 0.5, "rows": rows}


def _alike(found: Look) -> Json:
    edges = [f"<{ALIKE[0]:.0%}", *(f"{edge:.0%}" for edge in ALIKE)]
    return {
        "kind": "columns",
        "title": "Tasks by how far their labelers agree",
        "series": ["tasks"],
        "columns": [{"label": edge, "values": [count]} for edge, count in zip(edges, found.alike, strict=True)],
        "empty": "No task in it has rankings of two people.",
    }


def _lengths(title: str, lengths: Mapping[str, Lengths], names: tuple[str, ...]) -> Json:
    edges = [f"<{BINS[0]}", *(str(edge) if edge < 1000 else f"{edge / 1000:.1f}k" for edge in BINS)]
    medians = [f"{found.quartiles[1]:,}" for name in names if (found := lengths[name]).quartiles is not None]
    columns = [
        {"label": edge, "values": [lengths[name].distribution[n] if lengths[name].texts else 0 for name in names]}
        for n, edge in enumerate(edges)
    ]
    return {
        "kind": "columns",
        "title": title + (f" (median {' and '.join(medians)})" if medians else ""),
        "series": list(names),
        "columns": columns,
        "beside": True,
        "empty": "There is none.",
    }


def _ties(found: Look) -> Json:
    counts = [*found.ties[:TIES], *([sum(found.ties[TIES:])] if len(found.ties) > TIES else [])]
    labels = [str(n) for n in range(TIES)] + [f"{TIES}+"]
    held = sum(found.ties[1:])
    share = f" ({held / sum(found.ties):.0%} hold one)" if found.ties else ""
    return {
        "kind": "columns",
        "title": f"Rankings by the ties in them{share}",
        "series": ["rankings"],
        "columns": [{"label": label, "values": [count]} for label, count in zip(labels, counts, strict=False)],
        "empty": "There is no ranking.",
    }


def _labelers(found: Look) -> Json:
    given = [(each.labeler, [each.rankings, each.demonstrations]) for each in found.labelers]
    title = "Labels by labeler"
    return _bars(title, ["rankings", "demonstrations"], given, "labelers", "Nobody labeled any of it.")


def _sources(name: str, sources: Mapping[str, int]) -> Json:
    given = [(source or "unknown", [count]) for source, count in sources.items()]
    return _bars(f"{name.capitalize()} by where they come from", [name], given, "sources", "")


def _bars(title: str, series: list[str], given: list[tuple[str, list[int]]], word: str, empty: str) -> Json:
    """A row for each of the first, with its share of all, and one for the others together."""
    whole = sum(sum(values) for _, values in given)
    shown, others = given[:SHOWN], given[SHOWN:]
    if others:
        shown = [
            *shown,
            (f"{len(others):,} other {word}", [sum(each) for each in zip(*(v for _, v in others), strict=True)]),
        ]
    rows = [{"label": f"{name} · {_share(sum(values), whole)}", "values": values} for name, values in shown]
    return {"kind": "bars", "title": title, "series": series, "rows": rows, "empty": empty}


def _share(count: int, whole: int) -> str:
    return "<1%" if 200 * count < whole else f"{count / whole:.0%}"


def _changes(found: Look, changed: Json | None) -> Json:
    """What this snapshot has and the one before it had not, and the other way round."""
    counts = found.counts
    now = {
        "labels": counts["rankings"] + counts["demonstrations"],
        "prompts": counts["prompts"],
        "labelers": len(found.labelers),
    }
    rows = []
    for name, count in now.items() if changed else ():
        gone, new = changed[name]
        rows.append({"label": name.capitalize(), "values": [count - new, new, gone]})
    title = f"Since {changed['snapshots'][0]}, the snapshot before" if changed else "Since the snapshot before"
    empty = "This is the first snapshot."
    return {
        "kind": "bars",
        "title": title,
        "series": ["kept", "new", "gone"],
        "rows": rows,
        "whole": True,
        "empty": empty,
    }


def _besides(changed: Json | None) -> Blocks:
    """What else changed, in words."""
    if changed is None:
        return []
    told = [f"{changed['revised']:,} labels revised"] if changed["revised"] else []
    told += [f"{changed['moved']:,} prompts on another side of the split"] if changed["moved"] else []
    told += [f"{name}: {_shown(old)} → {_shown(new)}" for name, (old, new) in changed["choices"].items()]
    return [{"kind": "text", "text": f"Since the snapshot before also: {'; '.join(told)}."}] if told else []


def _promoted(snapshot: Snapshot) -> str:
    return f"{snapshot.promoted} was promoted" if snapshot.promoted else "no model was promoted"


def _left_out(left_out: Mapping[str, Mapping[str, int]]) -> list[str]:
    """12 rankings by labeler, 3 by agreement."""
    return [
        f"{kind}: " + ", ".join(f"{count:,} by {why}" for why, count in counts.items())
        for kind, counts in left_out.items()
        if counts
    ]


def _said(choices: Mapping[str, Any]) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in choices.items())


def _shown(value: Any) -> str:
    return "-" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
