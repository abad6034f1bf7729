"""Rankings and demonstrations of a snapshot, a few at a time, as the block that annotate/panels/leaves.js draws.

The id that turns the page names snapshot, kind and place (`3f9a12c0be77d2a1 rankings 6`): nothing needs to be kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from annotate.known import in_words
from data.browsing import sample
from data.columns import Row
from data.contents import LABELS
from data.errors import InvalidInput
from data.snapshots import Snapshot

Json = dict[str, Any]

PAGE = 3  # labels on a page


def place_of(id: str) -> tuple[str, str, int]:
    """Snapshot, kind and place that an id names. Raises InvalidInput."""
    name, _, rest = id.partition(" ")
    kind, _, start = rest.partition(" ")
    if kind not in LABELS or not start.isascii() or not start.isdigit() or len(start) > 12:
        raise InvalidInput(f"{id[:80]!r} is no page of a snapshot. Nothing was turned; reload the page.")
    return name, kind, int(start)


def leaves_of(snapshot: Snapshot, kind: str = "rankings", start: int = 0) -> Json:
    """The page that begins at `start`. Raises DamagedSnapshot when a file cannot be read."""
    counts = snapshot.counts
    rows, total = sample(snapshot, kind, start, PAGE)
    last = start + len(rows)
    items = [(_ranking if kind == "rankings" else _demonstration)(row) for row in rows]
    where = f"{start + 1:,} to {last:,} of {total:,}, in random order" if rows else "none"
    return {
        "kind": "leaves",
        "label": f"A sample of {kind}; left and right turn the page",
        "tabs": [
            {
                "text": f"{each.capitalize()} ({counts[each]:,})",
                "id": f"{snapshot.hash} {each} 0",
                "picked": each == kind,
            }
            for each in ("rankings", "demonstrations")
        ],
        "where": where,
        "previous": f"{snapshot.hash} {kind} {max(0, start - PAGE)}" if start else None,
        "next": f"{snapshot.hash} {kind} {last}" if rows and last < total else None,
        "items": items,
        "empty": f"This snapshot holds no {kind}.",
    }


def _ranking(row: Row) -> Json:
    responses, ranks = row["responses"], row["ranks"]
    answers = [_answer(row, response) for response in responses]
    levels: list[Json] = []
    for each in in_words(ranks, [str(n) for n in range(len(ranks))]):
        if not levels or levels[-1]["place"] != each["place"]:
            levels.append({"place": each["place"], "tied": each["place"].endswith("tie"), "answers": []})
        levels[-1]["answers"].append(answers[int(each["text"])])
    notes = [{"who": "Comment", "text": row["comment"]}] if row["comment"] else []
    if rewrite := row["rewrite"]:
        notes.append({"who": "Rewritten by the labeler", "text": rewrite["text"]})
    return _item(row, levels, notes)


def _demonstration(row: Row) -> Json:
    answer = {"text": row["response"], "note": f"{len(row['response']):,} characters · {row['source']}", "marks": []}
    return _item(row, [{"place": "written", "tied": False, "answers": [answer]}], [])


def _item(row: Row, levels: list[Json], notes: list[Json]) -> Json:
    facts = [
        row["created_at"][:16].replace("T", " "),
        *([f"{row['seconds']:.0f} s"] if row["seconds"] else []),
        "held out" if row["split"] == "heldout" else "train",
        row["label_id"],
        *([f"guideline {row['guideline'][:8]}"] if row["guideline"] else []),
    ]
    turns = [{"who": message["role"], "text": message["content"]} for message in row["prompt"]]
    return {"title": row["labeler"], "facts": facts, "turns": turns, "levels": levels, "notes": notes}


def _answer(row: Row, response: Mapping[str, str]) -> Json:
    """A response: its text, what the labeler said of it, and where it comes from."""
    id, shown = response["id"], row["display_order"] or ()
    note = [f"{len(response['text']):,} characters", response["source"] or "unknown source"]
    note += [f"shown {_ordinal(shown.index(id) + 1)}"] if id in shown else []
    ratings = (row["ratings"] or {}).get(id, {})
    note += [", ".join(f"{name} {value}" for name, value in ratings.items())] if ratings else []
    marks: Sequence[str] = (row["flags"] or {}).get(id, ())
    return {"text": response["text"], "note": " · ".join(note), "marks": [mark.replace("_", " ") for mark in marks]}


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
