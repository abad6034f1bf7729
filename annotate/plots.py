"""The numbers of data/insight.py as blocks that annotate/panels draws: few plots, each beside its numbers in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

Json = dict[str, Any]
Blocks = list[Json]

DAYS = 30  # the latest, in the plot of labels per day
SERIES = 5  # labelers with a colour of their own; the others share one
ROWS = 50  # labelers in a table or plot: an import may bring thousands
WIDE = ["Demonstrations", "Seconds", "Fast", "Shown first", "Gold"]  # columns that a phone has no room for
STATES = ("done", "open", "resting", "retired")  # of tasks
COUNTED = ("rankings", "demonstrations", "rewrites", "reviews", "revisions")
KIND_WORDS = {"rankings": "ranking", "demonstrations": "demonstration"}


def tiles_of(progress: Json) -> Json:
    """The project in six numbers."""
    agreement, alpha = progress["agreement"], progress["agreement"]["alpha"]
    seconds = progress["seconds"]["rankings"]
    tasks = progress["tasks"]["ranking"]
    double, labeled = progress["double_labeled_tasks"], progress["labeled_tasks"]
    share = f"{double / labeled:.0%} of the tasks that have labels" if labeled else "no task has labels yet"
    items = [
        ("Labels", sum(sum(day["labelers"].values()) for day in progress["days"]), "given here, imports left out"),
        ("Waiting to be ranked", tasks["open"], f"{tasks['done']} done"),
        ("Ranked by several", double, share),
        ("Agreement", percent(agreement["pairwise"]), interval(agreement["interval"], agreement["pairs"])),
        ("Krippendorff's alpha", "-" if alpha is None else f"{alpha:.2f}", agreement["alpha_reason"] or "1 is perfect"),
        ("Speed outliers", seconds["fast"], f"of {seconds['judged']} rankings with an expected time"),
    ]
    return {"kind": "tiles", "items": [{"label": a, "value": str(b), "note": c} for a, b, c in items]}


def days_of(progress: Json, names: Mapping[str, str], today: date | None = None) -> Json:
    """Labels per day, stacked by labeler; every day of the last month since the first label."""
    last = today or datetime.now(UTC).date()
    found = {date.fromisoformat(day["day"]): day["labelers"] for day in progress["days"]}
    first = max(min(found, default=last), last - timedelta(DAYS - 1))
    shown = [first + timedelta(n) for n in range((last - first).days + 1)]
    totals = Counter[str]()
    for day in shown:
        totals.update(found.get(day, {}))
    own = [labeler for labeler, _ in totals.most_common(SERIES)]
    others = len(totals) > len(own)
    columns = []
    for day in shown:
        labels = found.get(day, {})
        values = [labels.get(labeler, 0) for labeler in own]
        columns.append({"label": f"{day:%d %b}", "values": values + [sum(labels.values()) - sum(values)] * others})
    return {
        "kind": "columns",
        "title": "Labels per day (UTC)",
        "series": [names.get(labeler, labeler) for labeler in own] + ["others"] * others,
        "columns": columns,
        "empty": f"Nobody labeled anything here in the last {DAYS} days." if found else "No label was given here yet.",
    }


def seconds_of(found: Json | None, bins: list[int], title: str) -> Json:
    """How long labels took, as columns between the edges."""
    edges = [f"<{bins[0]}", *(str(edge) for edge in bins)]
    counts = found["distribution"] if found else []
    return {
        "kind": "columns",
        "title": title,
        "series": ["labels"],
        "columns": [{"label": edge, "values": [count]} for edge, count in zip(edges, counts, strict=False)],
        "empty": "Nothing was timed yet.",
    }


def queue_of(progress: Json) -> Json:
    """Tasks of each kind, done, open and retired."""
    rows = [
        {"label": f"{kind.capitalize()} tasks", "values": [tasks[state] for state in STATES]}
        for kind, tasks in progress["tasks"].items()
    ]
    return {"kind": "bars", "title": "Queue", "series": list(STATES), "rows": rows, "whole": True}


def sources_of(progress: Json) -> Json:
    """Responses by the checkpoint that wrote them: those that somebody ranked, and those that wait."""
    found = progress["sources"]
    rows = [
        {"label": each["source"] or "unknown", "values": [each["labeled"], each["responses"] - each["labeled"]]}
        for each in found[:12]
    ]
    title = "Responses by checkpoint" + (f", the first 12 of {len(found)}" if len(found) > 12 else "")
    empty = "There are no responses yet."
    return {"kind": "bars", "title": title, "series": ["ranked", "not yet"], "rows": rows, "empty": empty}


def skips_of(skips: Mapping[str, int]) -> Json:
    """Skips by reason, the most frequent first."""
    rows = [{"label": reason, "values": [count]} for reason, count in list(skips.items())[:8]]
    return {
        "kind": "bars",
        "title": "Skips by reason",
        "series": ["skips"],
        "rows": rows,
        "empty": "No task was skipped.",
    }


def sways_of(progress: Json) -> Json:
    """What sways choices, over everyone."""
    rows = [
        row_of("The response shown first wins", progress["position"], "the order it was shown in sways somebody"),
        row_of("The longer response wins", progress["length"], "more than chance"),
    ]
    return {"kind": "intervals", "title": "What goes with a win", "reference": 0.5, "rows": rows}


def agreement_of(labelers: list[Json], names: Mapping[str, str]) -> Json:
    """Agreement with the others, by labeler."""
    met = [each for each in labelers if each["agreement"]["value"] is not None]
    met.sort(key=lambda each: -each["agreement"]["pairs"])
    title = "Agreement with the others" + (f", the {ROWS} with the most pairs" if len(met) > ROWS else "")
    rows = [row_of(names.get(each["labeler"], each["labeler"]), each["agreement"]) for each in met[:ROWS]]
    empty = (
        "No task was ranked by two people yet. Ask for an overlap of 2 on one task in five to see how far they agree."
    )
    return {"kind": "intervals", "title": title, "reference": 0.5, "rows": rows, "empty": empty}


def table_of(labelers: list[Json], names: Mapping[str, str]) -> Json:
    """A row for each labeler, the busiest first; one is picked for details."""
    shown = labelers[:ROWS]
    columns = ["Labeler", "Rankings", "Demonstrations", "Seconds", "Fast", "Agreement", "Shown first", "Gold"]
    if names:
        columns.insert(1, "Name")
    rows = []
    for each in shown:
        seconds = each["seconds"]["rankings"]
        row = [
            each["labeler"],
            str(each["rankings"]),
            str(each["demonstrations"]),
            f"{seconds['median']:.0f}" if seconds else "imported" if each["imported"] else "-",
            str(seconds["fast"]) if seconds else "-",
            percent(each["agreement"]["value"]),
            percent(each["position"]["value"]) + (" !" if each["position"]["warning"] else ""),
            percent(each["gold"]["value"]),
        ]
        if names:
            row.insert(1, names.get(each["labeler"], "-"))
        rows.append(row)
    return {
        "kind": "table",
        "columns": columns,
        "rows": rows,
        "ids": [each["labeler"] for each in shown],
        "wide": WIDE,
        "empty": "Nobody has labeled anything yet.",
    }


def shown_of(labelers: list[Json]) -> str:
    """What to do with the table, and who is not in it."""
    more = f"These are the first {ROWS} of {len(labelers)}; /api/v1/labelers has all." if len(labelers) > ROWS else ""
    return f"Pick a labeler to see more. {more}".rstrip()


def details_of(found: Json, labeler: str, names: Mapping[str, str]) -> Blocks:
    """Everything that is known of one labeler."""
    each = next((each for each in found["labelers"] if each["labeler"] == labeler), None)
    if each is None:
        return [
            {"kind": "text", "tone": "warn", "text": f"There is no labeler {labeler} with any label. Refresh the page."}
        ]
    facts = [
        ["Labels", ", ".join(f"{kind} {each[kind]}" for kind in COUNTED if each[kind]) or "none"],
        ["Skips", "; ".join(f"{reason}: {count}" for reason, count in each["skips"].items()) or "none"],
    ]
    facts += [_timing(word, each["seconds"][kind]) for kind, word in KIND_WORDS.items() if each["seconds"][kind]]
    name = f"{labeler} ({names[labeler]})" if labeler in names else labeler
    rows = [
        row_of("Agrees with others", each["agreement"]),
        row_of("Agrees with gold", each["gold"]),
        row_of("Agrees with reviewers", each["reviews_agree"]),
        row_of("Agrees with own repeats", each["self_agreement"]),
        row_of("The response shown first wins", each["position"], "the order it was shown in sways this labeler"),
        row_of("The longer response wins", each["length"], "more than chance"),
    ]
    return [
        {"kind": "heading", "text": name},
        {"kind": "facts", "rows": facts},
        {"kind": "intervals", "title": "Shares with 95 % intervals", "reference": 0.5, "rows": rows},
        seconds_of(each["seconds"]["rankings"], found["bins"], "Seconds per ranking"),
    ]


def definitions_of(definitions: Mapping[str, str], alpha: str) -> Blocks:
    """What each number means."""
    names = {
        "agreement": "Agreement",
        "gold": "Agrees with gold",
        "reviews_agree": "Agrees with reviewers",
        "self_agreement": "Agrees with own repeats",
        "position": "Shown first",
        "length": "Longer",
        "seconds": "Seconds",
        "pace": "Pace",
        "fast": "Fast",
    }
    rows = [[name, definitions[key]] for key, name in names.items()]
    return [{"kind": "facts", "rows": [*rows, ["Krippendorff's alpha", alpha]]}]


def percent(share: float | None) -> str:
    """73%, or a dash for nothing."""
    return "-" if share is None else f"{share:.0%}"


def interval(bounds: list[float] | None, pairs: int) -> str:
    """An interval in words."""
    return (
        "needs tasks that two people ranked" if bounds is None else f"{bounds[0]:.0%} to {bounds[1]:.0%}, {pairs} pairs"
    )


def row_of(label: str, share: Json, warning: str = "") -> Json:
    """A row of a plot of intervals."""
    return {
        "label": label,
        "value": share["value"],
        "interval": share["interval"],
        "note": f"{share['pairs']} pairs" if share["pairs"] else "nothing to tell from yet",
        "warning": warning if warning and share.get("warning") else "",
    }


def _timing(word: str, seconds: Json) -> list[str]:
    low, high = seconds["quartiles"]
    told = (
        f"median {seconds['median']:.0f}, half of them between {low:.0f} and {high:.0f}, of {seconds['labels']} timed"
    )
    if seconds["judged"]:
        told += (
            f"; pace {seconds['pace']:.2f}; {seconds['fast']} of {seconds['judged']} took under a third of the expected"
        )
    return [f"Seconds per {word}", told]
