"""How good a reward model's scores are: pure functions of rankings and the scores of their responses.

accuracy, by_distance, by_margin, by_policies   how often the scores order a pair as the labeler did, and where
kendall_tau                                     the same over whole rankings, ties included
calibration                                     whether sigmoid(score difference) is the share that it says it is
length_correlation, score_gap                   what the scores follow, and how wide they lie

A pair here is two responses that a labeler told apart; ties are counted by `tie_share` and in Kendall's tau.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from data.agreement import ceiling_of

BINS = 15  # of equal mass, in the expected calibration error
ENOUGH_PAIRS = 10 * BINS  # with fewer, an error of calibration is mostly noise


@dataclass(frozen=True)
class Judged:
    """One labeler's ranking of K responses (1 is best, equal is a tie, 0 is none) and a model's scores of them."""

    prompt_id: str
    ranks: tuple[int, ...]
    scores: tuple[float, ...]
    lengths: tuple[int, ...]  # in characters
    sources: tuple[str, ...]  # the checkpoint or person that wrote each
    labeler: str


@dataclass(frozen=True)
class Pair:
    """Two responses that a labeler told apart."""

    prompt_id: str
    margin: float  # score of the better one less that of the other: above 0 the model agrees
    distance: int  # of their ranks
    sources: tuple[str, str]  # in alphabetical order
    labeler: str


def of_heldout(judged: Sequence[Judged], trained_labelers: set[str]) -> dict[str, Any]:
    """How well the scores of held-out rankings fit what their labelers said."""
    pairs = decided(judged)
    right, error = accuracy(pairs)
    by_length = [replace(one, scores=tuple(map(float, one.lengths))) for one in judged]
    unseen = row([pair for pair in pairs if pair.labeler not in trained_labelers])
    return {
        "heldout_accuracy": right,
        "heldout_accuracy_error": error,
        "heldout_pairs": len(pairs),
        "heldout_ties": tie_share(judged),
        "longer_wins": accuracy(decided(by_length))[0],
        "kendall_tau": mean_kendall_tau(judged),
        **calibration(pairs),
        "score_gap": score_gap(judged),
        "length_correlation": length_correlation(judged),
        **{f"unseen_labelers_{name}": value for name, value in unseen.items()},
        "by_rank_distance": by_distance(pairs),
        "by_score_difference": by_margin(pairs),
        "by_policies": by_policies(pairs),
    }


def against_agreement(judged: Sequence[Judged], agreement: Mapping[str, Any]) -> dict[str, Any]:
    """How far the labelers agree, the accuracy that this allows, and words where the model's is above it.

    The agreement is the one over pairs that both labelers decided, since only such pairs count in the accuracy. The
    error is at least that of one pair of each prompt under the ceiling: a few prompts all right are no leak.
    """
    right, error = accuracy(decided(judged))
    agreed = agreement.get("decided")
    agreed = agreement.get("pairwise") if agreed is None else agreed
    ceiling = ceiling_of(agreed)
    if error is not None and ceiling is not None:
        error = max(error, math.sqrt(ceiling * (1 - ceiling) / len({one.prompt_id for one in judged})))
    return {"agreement": agreed, "ceiling": ceiling, "warning": leak_warning(right, error, ceiling)}


def leak_warning(right: float | None, error: float | None, ceiling: float | None) -> str | None:
    """Words for an accuracy that no honest judge can reach: held-out labels have probably leaked into training."""
    if right is None or error is None or ceiling is None or right <= ceiling + 3 * error:
        return None
    return (
        f"The held-out accuracy {right:.3f} is more than 3 standard errors ({error:.3f}) above {ceiling:.3f}, the "
        "most that the labelers' own agreement allows: look for held-out prompts among the training prompts."
    )


def decided(judged: Iterable[Judged]) -> list[Pair]:
    """The pairs that the labelers told apart."""
    return [
        Pair(
            prompt_id=one.prompt_id,
            margin=one.scores[better] - one.scores[worse],
            distance=one.ranks[worse] - one.ranks[better],
            sources=_sorted(one.sources[better], one.sources[worse]),
            labeler=one.labeler,
        )
        for one in judged
        for better, worse in _ordered(one.ranks)
        if one.ranks[better] != one.ranks[worse]
    ]


def tie_share(judged: Iterable[Judged]) -> float | None:
    """The share of ties among all pairs of ranked responses."""
    tied = [one.ranks[a] == one.ranks[b] for one in judged for a, b in _ordered(one.ranks)]
    return sum(tied) / len(tied) if tied else None


def accuracy(pairs: Iterable[Pair]) -> tuple[float | None, float | None]:
    """The share of pairs that the scores order as the labeler did, equal scores half right, and its standard error.

    The error is clustered by prompt, since the pairs of one prompt are not independent (Miller 2024); None with fewer
    than two prompts. Both are None without a pair.
    """
    by_prompt: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        by_prompt[pair.prompt_id].append(_right(pair.margin))
    total = sum(map(len, by_prompt.values()))
    if not total:
        return None, None
    share = sum(map(sum, by_prompt.values())) / total
    count = len(by_prompt)
    if count < 2:
        return share, None
    squares = sum((sum(right) - share * len(right)) ** 2 for right in by_prompt.values())
    return share, math.sqrt(squares * count / (count - 1)) / total


def row(pairs: Sequence[Pair]) -> dict[str, float | int | None]:
    """One line of the tables below: the accuracy of these pairs, its error, and how many there are."""
    share, error = accuracy(pairs)
    return {"accuracy": share, "error": error, "pairs": len(pairs)}


def by_distance(pairs: Iterable[Pair]) -> dict[str, dict[str, float | int | None]]:
    """Accuracy by how many ranks lie between the two: the further, the surer the labeler was."""
    groups: dict[int, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.distance].append(pair)
    return {str(distance): row(groups[distance]) for distance in sorted(groups)}


def by_margin(pairs: Iterable[Pair], bins: int = 4) -> dict[str, dict[str, float | int | None]]:
    """Accuracy by how sure the model is: bins of equally many pairs, from the smallest score difference to the largest.

    `expected` is the accuracy that the score differences promise, the mean of their sigmoid.
    """
    ordered = sorted(pairs, key=lambda pair: abs(pair.margin))
    return {
        str(number): {
            "from": abs(part[0].margin),
            "to": abs(part[-1].margin),
            "expected": sum(sigmoid(abs(pair.margin)) for pair in part) / len(part),
            **row(part),
        }
        for number, part in enumerate(_equal_parts(ordered, bins), 1)
    }


def by_policies(pairs: Iterable[Pair], most: int = 12) -> dict[str, dict[str, float | int | None]]:
    """Accuracy by who wrote the two responses; the rarest beyond `most` are counted together as "other"."""
    found = list(pairs)
    counts = Counter(pair.sources for pair in found)
    kept = {sources for sources, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]}
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in found:
        groups[" / ".join(pair.sources) if pair.sources in kept else "other"].append(pair)
    return {name: row(groups[name]) for name in sorted(groups, key=lambda name: (name == "other", name))}


def kendall_tau(ranks: Sequence[int], scores: Sequence[float]) -> float | None:
    """Kendall's tau-b between a ranking and scores: 1 for the same order, -1 for the opposite (Kendall 1945).

    (concordant - discordant) / sqrt(pairs not tied in rank * pairs not tied in score); None where that is 0.
    """
    concordance = ranked = scored = 0
    for a, b in _ordered(ranks):
        by_rank = (ranks[a] < ranks[b]) - (ranks[a] > ranks[b])
        by_score = (scores[a] > scores[b]) - (scores[a] < scores[b])
        concordance += by_rank * by_score
        ranked += by_rank != 0
        scored += by_score != 0
    return concordance / math.sqrt(ranked * scored) if ranked and scored else None


def mean_kendall_tau(judged: Iterable[Judged]) -> float | None:
    """The mean of Kendall's tau-b over the rankings that have one."""
    found = [tau for one in judged if (tau := kendall_tau(one.ranks, one.scores)) is not None]
    return sum(found) / len(found) if found else None


def calibration_error(margins: Sequence[float], bins: int = BINS) -> float | None:
    """Expected calibration error of sigmoid(score difference), over bins of equally many pairs (Guo et al. 2017).

    The model's confidence in the response it scores higher is sigmoid(|margin|); the error is the mean over pairs of
    |accuracy - mean confidence| of the pair's bin. None with fewer pairs than bins. With n pairs in a bin even a
    perfectly calibrated model is about 0.4 / sqrt(n) off.
    """
    if len(margins) < bins:
        return None
    parts = _equal_parts(sorted(margins, key=abs), bins)
    return sum(abs(sum(_right(m) - sigmoid(abs(m)) for m in part)) for part in parts) / len(margins)


def best_temperature(margins: Sequence[float]) -> float | None:
    """The T that minimises the mean of -log sigmoid(margin / T): above 1 the model is too sure (Guo et al. 2017).

    None where there is no such T: the scores are right no more often than chance, or always.
    """
    if sum(margins) <= 0 or all(margin >= 0 for margin in margins):
        return None

    def slope(scale: float) -> float:  # of the loss over 1 / T; it rises with the scale
        return -sum(margin * sigmoid(-scale * margin) for margin in margins)

    low, high = 0.0, 1.0
    while slope(high) < 0:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def calibration(pairs: Sequence[Pair]) -> dict[str, float | None]:
    """The expected calibration error; the best temperature on half of the prompts, the error on the other half.

    `calibration_error` is over all pairs, `..._before` and `..._after` are over the other half's pairs as they are and
    divided by the temperature. All None with fewer than ENOUGH_PAIRS pairs in what they are measured on.
    """
    prompts = sorted({pair.prompt_id for pair in pairs}, key=_digest)
    chosen = set(prompts[: len(prompts) // 2])
    fitted = [pair.margin for pair in pairs if pair.prompt_id in chosen]
    others = [pair.margin for pair in pairs if pair.prompt_id not in chosen]
    found: dict[str, float | None] = dict.fromkeys(
        ("calibration_error", "temperature", "calibration_error_before", "calibration_error_after")
    )
    if len(pairs) >= ENOUGH_PAIRS:
        found["calibration_error"] = calibration_error([pair.margin for pair in pairs])
    if min(len(fitted), len(others)) >= ENOUGH_PAIRS and (temperature := best_temperature(fitted)):
        found["temperature"] = temperature
        found["calibration_error_before"] = calibration_error(others)
        found["calibration_error_after"] = calibration_error([margin / temperature for margin in others])
    return found


def length_correlation(judged: Iterable[Judged]) -> float | None:
    """Pearson's correlation of score and length within rankings: of their distances from the ranking's own means.

    Between prompts it says nothing, since a reward model is never asked to compare responses to different prompts.
    None where either does not vary.
    """
    products = squares = others = 0.0
    for one in judged:
        scores, lengths = _centred(one.scores), _centred(one.lengths)
        products += sum(score * length for score, length in zip(scores, lengths, strict=True))
        squares += sum(score * score for score in scores)
        others += sum(length * length for length in lengths)
    return products / math.sqrt(squares * others) if squares and others else None


def score_gap(judged: Iterable[Judged]) -> float | None:
    """The mean score difference of decided pairs, in standard deviations of the scores of all responses."""
    found = list(judged)
    margins = [pair.margin for pair in decided(found)]
    scores = _centred([score for one in found for score in one.scores])
    deviation = math.sqrt(sum(score * score for score in scores) / len(scores)) if scores else 0.0
    return sum(margins) / len(margins) / deviation if margins and deviation else None


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _right(margin: float) -> float:
    return 0.5 if margin == 0 else float(margin > 0)


def _ordered(ranks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The pairs of places that both have a rank, the better one first."""
    for a, b in combinations([place for place, rank in enumerate(ranks) if rank], 2):
        yield (a, b) if ranks[a] <= ranks[b] else (b, a)


def _sorted(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one <= other else (other, one)


def _equal_parts(items: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """Cut into `parts` runs whose sizes differ by 1 at most, the empty ones left out."""
    cuts = [round(len(items) * part / parts) for part in range(parts + 1)]
    return [items[low:high] for low, high in zip(cuts, cuts[1:], strict=False) if high > low]


def _centred(values: Sequence[float] | Sequence[int]) -> list[float]:
    mean = sum(values) / len(values) if values else 0.0
    return [value - mean for value in values]


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
