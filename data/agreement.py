"""How far labelers agree: by pairs of labels, and corrected for chance. Pure functions.

A vector of ranks is one labeler's ranking of a task's K responses: 1 is best, equal is a tie, None is unrankable.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

Ranks = Sequence[int | None]
Metric = Literal["nominal", "ordinal"]
Z = 1.959963984540054  # the normal quantile of a two-sided 95 % interval
DEFINITION = (
    "over every two labels of a task and every two responses both ranked: 1 for the same answer, 0.5 where just one "
    "of them is a tie, 0 for opposite answers; Wilson 95 % interval, pairs taken as independent"
)


@dataclass(frozen=True, slots=True)
class Share:
    """A share of `n` cases with its 95 % interval; both None when there are none."""

    value: float | None
    interval: tuple[float, float] | None
    n: int


@dataclass(frozen=True, slots=True)
class Alpha:
    """Krippendorff's alpha: 1 is perfect, 0 is what chance gives. `reason` says why there is no value."""

    value: float | None
    reason: str | None = None


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share of `n` > 0 cases (Wilson 1927). Halves count as half a success."""
    share = successes / n
    centre = share + Z * Z / (2 * n)
    margin = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def pairwise(tasks: Iterable[Sequence[Ranks]]) -> tuple[Share, Share]:
    """Agreement over all pairs of labels, tie-aware; and over those alone where both labelers decided.

    Each task is the rankings of its labelers, all of the same responses in the same order. Tie-aware: both say the
    same (first, second or tie) 1, just one says tie 0.5, opposite 0. The interval takes the pairs as independent, which
    the pairs of one task are not: read it as the narrowest that could be true.
    """
    agreed = pairs = 0.0
    same = decided = 0
    for rankings in tasks:
        for one, other in combinations(rankings, 2):
            for first, second in combinations(range(len(one)), 2):
                a, b = _choice(one, first, second), _choice(other, first, second)
                if a is None or b is None:
                    continue
                pairs += 1
                agreed += 1.0 if a == b else 0.5 if 0 in (a, b) else 0.0
                if a and b:
                    decided += 1
                    same += a == b
    return _share(agreed, int(pairs)), _share(same, decided)


def accuracy(ranks: Ranks, expected: Ranks) -> float | None:
    """How far one ranking agrees with the expected one: `pairwise` of the two. None when they share no ranked pair."""
    return pairwise([[ranks, expected]])[0].value


def alpha(units: Iterable[Sequence[float | None]], metric: Metric) -> Alpha:
    """Krippendorff's alpha of values that several people gave to the same units; None is a missing value.

    1 - observed / expected disagreement over all pairs of values in the same unit (Krippendorff 2011, "Computing
    Krippendorff's Alpha-Reliability"). nominal: values are equal or not; ordinal: two values are as far apart as
    there are values between them.
    """
    # coincidences: the pairs of values in a unit, each weighted 1 / (values in the unit - 1)
    together: defaultdict[tuple[float, float], float] = defaultdict(float)
    for unit in units:
        values = Counter(value for value in unit if value is not None)
        count = values.total()
        if count < 2:
            continue
        for a, times in values.items():
            for b, others in values.items():
                together[a, b] += times * (others - (a == b)) / (count - 1)
    totals: defaultdict[float, float] = defaultdict(float)
    for (a, _), weight in together.items():
        totals[a] += weight
    n = sum(totals.values())
    if not n:
        return Alpha(None, "no response was ranked by two labelers")
    distance = _ordinal(totals) if metric == "ordinal" else {}
    pairs = [(a, b) for a in totals for b in totals if a != b]
    expected = sum(totals[a] * totals[b] * distance.get((a, b), 1.0) for a, b in pairs) / (n - 1)
    if not expected:
        return Alpha(None, "every value is the same, so chance would agree as well")
    observed = sum(together[a, b] * distance.get((a, b), 1.0) for a, b in pairs)
    return Alpha(1 - observed / expected)


def summary(tasks: Iterable[Sequence[Ranks]]) -> dict[str, Any]:
    """Agreement as people are shown it, ready for JSON. Alpha takes each response as a unit, its ranks as values."""
    several = [rankings for rankings in tasks if len(rankings) > 1]
    aware, decided = pairwise(several)
    corrected = alpha((unit for rankings in several for unit in zip(*rankings, strict=True)), "ordinal")
    return {
        "pairwise": aware.value,
        "interval": list(aware.interval) if aware.interval else None,
        "pairs": aware.n,
        "decided": decided.value,
        "decided_interval": list(decided.interval) if decided.interval else None,
        "decided_pairs": decided.n,
        "definition": DEFINITION,
        "alpha": corrected.value,
        "alpha_reason": corrected.reason,
    }


def _choice(ranks: Ranks, first: int, second: int) -> int | None:
    """1 when the first is better, -1 when the second is, 0 for a tie, None when one is unrankable."""
    a, b = ranks[first], ranks[second]
    return None if a is None or b is None else (a < b) - (a > b)


def _share(successes: float, n: int) -> Share:
    return Share(successes / n, wilson(successes, n), n) if n else Share(None, None, 0)


def _ordinal(totals: Mapping[float, float]) -> dict[tuple[float, float], float]:
    """Squared distances: the values from the one to the other, the two themselves counted half."""
    values = sorted(totals)
    distances = {}
    for low, high in combinations(range(len(values)), 2):
        between = sum(totals[value] for value in values[low : high + 1])
        distance = (between - (totals[values[low]] + totals[values[high]]) / 2) ** 2
        distances[values[low], values[high]] = distances[values[high], values[low]] = distance
    return distances
