"""What became of a file's rows, in words and as JSON; data/importing.py fills it in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

KEPT = 10_000  # reasons that a report holds; the rest is counted
TOLD = 1_000  # of them in JSON
PLACES = 3  # that are named with a reason


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that was not taken, or of which a part was not."""

    place: str  # "line 12"
    why: str


@dataclass(slots=True)
class Report:
    """What became of a file's rows: each is taken or skipped. They say `labels`, of which `new` were not there before.

    The first KEPT reasons are in `skipped`, and in `parts` those of rows that were taken but for a part.
    """

    kind: str
    file: str
    rows: int = 0
    taken: int = 0
    labels: int = 0
    new: int = 0
    skips: int = 0
    partly: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    parts: list[Skipped] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)  # how many rows were skipped for each
    shapes: Counter[str] = field(default_factory=Counter)  # of the rows that were recognised

    def skip(self, place: str, why: str, rows: int = 1) -> None:
        """Rows that were not taken."""
        self.skips += rows
        if why in self.reasons or len(self.reasons) < KEPT:
            self.reasons[why] += rows
        if len(self.skipped) < KEPT:
            self.skipped.append(Skipped(place, why))

    def leave_out(self, place: str, why: str) -> None:
        """A part of a row that is taken."""
        self.partly += 1
        if len(self.parts) < KEPT:
            self.parts.append(Skipped(place, why))

    def lines(self, shown: int = 20) -> list[str]:
        """The report in words, naming the first skipped rows."""
        here = self.labels - self.new
        known = f" ({here} {'was' if here == 1 else 'were'} there already)" if here else ""
        lines = [f"{self.file}: {self.taken} rows taken, {self.new} new {self.kind}{known}, {self.skips} skipped"]
        if self.shapes:
            lines.append(f"  recognised: {self.recognised()}")
        lines += _by_reason(self.skipped, self.reasons, self.skips, shown)
        if self.partly:
            lines.append(f"  of rows that were taken, {self.partly} parts otherwise or not:")
        return lines + _by_reason(self.parts, Counter(row.why for row in self.parts), self.partly, shown)

    def recognised(self) -> str:
        """The shapes of the rows, the most frequent first."""
        return ", ".join(f"{name} ({count} rows)" for name, count in self.shapes.most_common())

    def json(self) -> dict[str, Any]:
        """The report for a program."""
        return {
            "rows": self.rows,
            "taken": self.taken,
            "labels": self.labels,
            "new": self.new,
            "skips": self.skips,
            "partly": self.partly,
            "reasons": dict(self.reasons.most_common(TOLD)),
            "skipped": [{"place": row.place, "why": row.why} for row in self.skipped],
            "parts": [{"place": row.place, "why": row.why} for row in self.parts],
            "shapes": dict(self.shapes),
        }


def _by_reason(rows: list[Skipped], reasons: Counter[str], count: int, shown: int) -> list[str]:
    """A line for each of the first `shown` reasons, with the places where it was met."""
    places: dict[str, list[str]] = {}
    for row in rows:
        places.setdefault(row.why, []).append(row.place)
    told = list(places)[:shown]
    lines = []
    for why in told:
        more = reasons[why] - min(len(places[why]), PLACES)
        first = ", ".join(places[why][:PLACES])
        lines.append(f"  {first}{f' and {more} more' if more > 0 else ''}: {why}")
    rest = count - sum(reasons[why] for why in told)
    return lines + ([f"  and {rest} more"] if rest > 0 else [])
