"""How far labelers agree: by pairs of labels, and corrected for chance. Pure functions.

A vector of ranks is one labeler's ranking of a task's K responses: 1 is best, equal is a tie, None is unrankable.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal

Ranks = Sequence[int | None]
Metric = Literal["nominal", "ordinal"]
Z = 1.959963984540054  # the normal quantile of a two-sided 95 % interval
DEFINITION = (
    "over every two labels of a task and every two responses both ranked: 1 for the same answer, 0.5 where just one "
    "of them is a tie, 0 for opposite answers; Wilson 95 % interval, clustered by task"
)


@dataclass(frozen=True, slots=True)
class Share:
    """A share of `n` cases with its 95 % interval; both None when there are none."""

    value: float | None
    interval: tuple[float, float] | None
    n: int


@dataclass(slots=True)
class Tally:
    """Successes among cases that come in clusters, such as the pairs of responses of one task.

    Cases of one cluster are alike, so they tell less than as many independent ones. The interval is Wilson's for as
    many independent cases as would give the share the variance that it has over clusters: the cluster-robust one of a
    ratio, G / (G - 1) * sum((successes - share * n)^2) / (sum of n)^2 over G clusters. That is never more cases than
    there are; it is one for a single cluster, and one for each cluster where all cases came out alike.
    """

    clusters: int = 0
    successes: float = 0.0
    n: int = 0
    squares: tuple[float, float, float] = (0.0, 0.0, 0.0)  # sums of successes^2, successes * n, n^2 over clusters

    def add(self, successes: float, n: int, times: int = 1) -> None:
        """One more cluster, or `times` of the same; one without cases changes nothing."""
        if not n:
            return
        self.clusters += times
        self.successes += successes * times
        self.n += n * times
        both = (successes * successes, successes * n, float(n * n))
        first, second, third = (old + new * times for old, new in zip(self.squares, both, strict=True))
        self.squares = (first, second, third)

    def share(self) -> Share:
        """The share of successes, with its interval."""
        if not self.n:
            return Share(None, None, 0)
        share = self.successes / self.n
        alike = self._alike(share)
        return Share(share, wilson(share * alike, alike), self.n)

    def _alike(self, share: float) -> float:
        """How many independent cases these are worth."""
        if self.clusters == 1 or share in (0.0, 1.0):
            return self.clusters
        squared, crossed, sizes = self.squares
        residuals = squared - 2 * share * crossed + share * share * sizes
        variance = self.clusters / (self.clusters - 1) * residuals / (self.n * self.n)
        independent = share * (1 - share)
        return self.n if variance * self.n <= independent else independent / variance


@dataclass(frozen=True, slots=True)
class Alpha:
    """Krippendorff's alpha: 1 is perfect, 0 is what chance gives. `reason` says why there is no value."""

    value: float | None
    reason: str | None = None


def wilson(successes: float, n: float) -> tuple[float, float]:
    """The 95 % score interval of a share of `n` > 0 cases (Wilson 1927). Parts count as part of a success."""
    share = successes / n
    centre = share + Z * Z / (2 * n)
    margin = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


@lru_cache(maxsize=1 << 16)  # few orders of few responses are possible, and the same two meet again and again
def compared(one: tuple[int | None, ...], other: tuple[int | None, ...]) -> tuple[float, int, int, int]:
    """Two rankings of the same responses: agreement and the pairs both ranked; the same of those that both decided.

    Tie-aware: both say the same of a pair (first, second or tie) 1, just one says tie 0.5, opposite 0.
    """
    agreed, pairs, same, decided = 0.0, 0, 0, 0
    for first, second in combinations(range(len(one)), 2):
        a, b = choice(one, first, second), choice(other, first, second)
        if a is None or b is None:
            continue
        pairs += 1
        agreed += 1.0 if a == b else 0.5 if 0 in (a, b) else 0.0
        if a and b:
            decided += 1
            same += a == b
    return agreed, pairs, same, decided


def pairwise(tasks: Iterable[Sequence[Ranks]]) -> tuple[Share, Share]:
    """Agreement over all pairs of labels, tie-aware; and over those alone where both labelers decided.

    Each task is the rankings of its labelers, all of the same responses in the same order, and a cluster of the
    intervals. A Counter of them says how many tasks were ranked alike.
    """
    aware, decisive = Tally(), Tally()
    alike = tasks if isinstance(tasks, Counter) else Counter(tuple(map(tuple, rankings)) for rankings in tasks)
    for rankings, times in alike.items():
        found = [compared(one, other) for one, other in combinations(map(tuple, rankings), 2)]
        aware.add(sum(each[0] for each in found), sum(each[1] for each in found), times)
        decisive.add(sum(each[2] for each in found), sum(each[3] for each in found), times)
    return aware.share(), decisive.share()


def identical(tasks: Iterable[Sequence[Ranks]]) -> Share:
    """How often two labels of a task say the same of a pair, first, second or tie: a tie is an answer like the others.

    Less than `pairwise`, which counts half where just one of the two is a tie.
    """
    tally = Tally()
    for rankings in tasks:
        found = [compared(one, other) for one, other in combinations(map(tuple, rankings), 2)]
        # of the points, each two ties are 1 and each tie beside a decision 1/2; so both ties are twice the points
        # beyond the same decisions, less the pairs that were not decided twice
        both = sum(same + 2 * (points - same) - (pairs - decided) for points, pairs, same, decided in found)
        tally.add(both, sum(each[1] for each in found))
    return tally.share()


def choice(ranks: Ranks, first: int, second: int) -> int | None:
    """1 when the first is better, -1 when the second is, 0 for a tie, None when one is unrankable."""
    a, b = ranks[first], ranks[second]
    return None if a is None or b is None else (a < b) - (a > b)


def ceiling_of(agreement: float | None) -> float | None:
    """How often a perfect judge would agree with one label, when two labels agree with each other this often.

    If each label is right with probability q, two agree with probability a = q^2 + (1 - q)^2, since they are right
    together or wrong together; so q = (1 + sqrt(2 a - 1)) / 2. The labelers of InstructGPT agreed on 72.6 % of pairs:
    q = (1 + sqrt(.452)) / 2 = .836, and a reward model that is right of more than 83.6 % of held-out labels has seen
    them. Where q differs from pair to pair this is more than a perfect judge reaches, never less (by Jensen's
    inequality). At 1/2 and below labels are worth nothing: a perfect judge agrees with half of them.
    """
    return None if agreement is None else (1 + math.sqrt(max(0.0, 2 * agreement - 1))) / 2


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
    counted = units if isinstance(units, Counter) else Counter(map(tuple, units))  # few are possible, most come often
    for unit, alike in counted.items():
        values = Counter(value for value in unit if value is not None)
        count = values.total()
        if count < 2:
            continue
        for a, times in values.items():
            for b, others in values.items():
                together[a, b] += alike * times * (others - (a == b)) / (count - 1)
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
    counted = tasks if isinstance(tasks, Counter) else Counter(tuple(map(tuple, rankings)) for rankings in tasks)
    several = Counter({rankings: times for rankings, times in counted.items() if len(rankings) > 1})
    aware, decided = pairwise(several)
    units: Counter[tuple[int | None, ...]] = Counter()
    for rankings, times in several.items():
        for unit in zip(*rankings, strict=True):
            units[unit] += times
    corrected = alpha(units, "ordinal")
    return {
        "pairwise": aware.value,
        "interval": list(aware.interval) if aware.interval else None,
        "pairs": aware.n,
        "decided": decided.value,
        "decided_interval": list(decided.interval) if decided.interval else None,
        "decided_pairs": decided.n,
        "ceiling": ceiling_of(aware.value if decided.value is None else decided.value),
        "definition": DEFINITION,
        "alpha": corrected.value,
        "alpha_reason": corrected.reason,
    }


def _ordinal(totals: Mapping[float, float]) -> dict[tuple[float, float], float]:
    """Squared distances: the values from the one to the other, the two themselves counted half."""
    values = sorted(totals)
    distances = {}
    for low, high in combinations(range(len(values)), 2):
        between = sum(totals[value] for value in values[low : high + 1])
        distance = (between - (totals[values[low]] + totals[values[high]]) / 2) ** 2
        distances[values[low], values[high]] = distances[values[high], values[low]] = distance
    return distances
