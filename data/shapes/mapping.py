"""Columns of any names, told by `--map field=path`: dotted paths with list indexes, `*` for each of a list.

    --map prompt=request.text --map responses=candidates.*.output --map ranks=order --map labeler=by.0

Several paths with commas between them make a list; a field that is named twice is joined, with a line between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import InvalidInput
from data.shapes.fields import Row

FIELDS = (
    "prompt",
    "messages",
    "response",
    "chosen",
    "rejected",
    "responses",
    "ranks",
    "ratings",
    "preference",
    "best",
    "best_from_0",
    "display_order",
    "labeler",
    "seconds",
    "labeled_at",
    "comment",
    "tags",
    "split",
)
LISTS = ("responses", "ranks", "ratings", "display_order", "tags")


@dataclass(frozen=True, slots=True)
class Mapping:
    """Where in a row each field is: of each field its paths, of each path its steps."""

    paths: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]

    @classmethod
    def parse(cls, given: Sequence[str]) -> Mapping | None:
        """The mapping of these `field=path`; None of none. Raises InvalidInput, naming every one at fault."""
        found: dict[str, list[tuple[str, ...]]] = {}
        problems = []
        for each in given:
            field, _, paths = each.partition("=")
            if field not in FIELDS:
                problems.append(f"{each!r} names no field: those are {', '.join(FIELDS)}")
                continue
            steps = [tuple(path.strip().split(".")) for path in paths.split(",")]
            if not all(step for path in steps for step in path):
                problems.append(f"{each!r} has no path, as in {field}=answers.0.text")
            elif field not in LISTS and len(steps) > 1:
                problems.append(f"{each!r} has several paths, and {field} takes one; name it twice to join texts")
            found.setdefault(field, []).extend(steps)
        if problems:
            raise InvalidInput(f"--map {'; '.join(problems)}. Nothing was imported.")
        return cls(tuple((field, tuple(steps)) for field, steps in found.items())) if found else None

    def of(self, row: Row) -> Row:
        """The row with these fields alone; one of whose paths nothing lies at is not there."""
        mapped = {field: _value(row, field, paths) for field, paths in self.paths}
        return {field: value for field, value in mapped.items() if value is not None}


def _value(row: Row, field: str, paths: tuple[tuple[str, ...], ...]) -> Any:
    found = [_at(row, path) for path in paths]
    if len(found) == 1:
        return found[0]
    if field in LISTS:
        return found
    words = [str(each) for each in found if each is not None]
    return "\n".join(words) if words else None


def _at(value: Any, path: tuple[str, ...]) -> Any:
    """What lies at this path; None for nothing."""
    for place, step in enumerate(path):
        if step == "*" and isinstance(value, list):
            return [_at(each, path[place + 1 :]) for each in value]
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.lstrip("-").isdecimal() and -len(value) <= int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
