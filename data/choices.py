"""What to put into a snapshot: the choices of `python -m data freeze` and of `POST /snapshots`, checked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from data.errors import InvalidInput
from data.quality import Aggregate

Weights = Literal["none", "reliability"]
NOT = "!"  # before a name: leave it out


@dataclass(frozen=True, slots=True)
class Choices:
    """Nothing chosen is everything. A name that begins with `!` is left out; without such a name, only those named."""

    since: datetime | None = None  # labels of this moment or later
    until: datetime | None = None  # labels before this moment
    source: tuple[str, ...] = ()  # of labels: labeler, review, rewrite, seed, or the file they were imported from
    checkpoint: tuple[str, ...] = ()  # rankings of a response that one of these sampled
    labeler: tuple[str, ...] = ()  # pseudonyms
    tag: tuple[str, ...] = ()  # of prompts
    language: tuple[str, ...] = ()  # of prompts
    min_agreement: float | None = None  # of the labelers of a task; tasks with one labeler stay
    min_reliability: float | None = None  # of a labeler of rankings
    aggregate: Aggregate = "none"  # the rankings of a task: one row for each labeler, or one of all
    weights: Weights = "none"  # of labelers, for the reward model
    hold_out_labelers: float = 0.0  # the share of labelers whose rankings only measure

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Choices:
        """Choices by name, as JSON gives them. Raises InvalidInput, naming every one at fault."""
        problems = [
            f"{name} is no choice of a snapshot" for name in given.keys() - {field.name for field in fields(cls)}
        ]
        values: dict[str, Any] = {}
        for name, value in given.items():
            try:
                values[name] = _CHECKS[name](value) if value is not None else getattr(cls(), name)
            except KeyError:
                continue
            except (TypeError, ValueError) as error:
                problems.append(f"{name} is {value!r} and must be {error}")
        if problems:
            raise InvalidInput(f"Nothing was frozen: {'; '.join(sorted(problems))}.")
        return cls(**values)

    def as_json(self) -> dict[str, Any]:
        """What was chosen, ready for JSON: empty when nothing was. `of` takes it back."""
        given = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        return {name: _plain(value) for name, value, default in given if value != default}


def wanted(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The names to keep (empty: all), and those to leave out."""
    return [name for name in names if not name.startswith(NOT)], [name[1:] for name in names if name.startswith(NOT)]


def place_of(name: str) -> float:
    """A number in [0, 1) that depends on the name alone: those below a share are that share of all names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48


def _time(value: Any) -> datetime:
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("a date or a time such as 2026-03-01 or 2026-03-01T12:00:00Z") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _names(value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name.strip(NOT) for name in names):
        raise ValueError("a list of names, each with ! before it to leave it out")
    return tuple(names)


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1 or math.isnan(value):
        raise ValueError("a number from 0 to 1")
    return float(value)


def _part(value: Any) -> float:
    if (share := _share(value)) == 1:
        raise ValueError("a number from 0 to below 1: somebody must be left to learn from")
    return share


def _one_of(names: tuple[str, ...]) -> Any:
    def check(value: Any) -> str:
        if value not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return str(value)

    return check


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return list(value) if isinstance(value, tuple) else value


_CHECKS: dict[str, Any] = {
    "since": _time,
    "until": _time,
    **dict.fromkeys(("source", "checkpoint", "labeler", "tag", "language"), _names),
    "min_agreement": _share,
    "min_reliability": _share,
    "aggregate": _one_of(get_args(Aggregate)),
    "weights": _one_of(get_args(Weights)),
    "hold_out_labelers": _part,
}
