"""What labels are worth: how reliable each labeler is, and one answer made of several. Pure functions of ranks.

Reliability is Dawid and Skene's (1979): every two responses of a task are an item, a labeler's decision of it is first,
second or tie, and expectation-maximisation finds together which answer of each item is probably true and how often
each labeler gives it. Only tasks that several labelers ranked can tell.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from data.agreement import Ranks, choice

Aggregate = Literal["none", "majority", "mean-rank"]
ENOUGH = 30  # decisions of items that others decided too: with fewer a labeler gets the mean
LEAST = 0.01  # weight: a labeler who is no better than chance counts for nearly nothing
DEFINITION = (
    "right: how often the labeler's decision of a pair of responses is the one that is probably true (Dawid and Skene "
    f"1979, ties a class of their own); weight: how far that is above chance, {LEAST} to 1; a labeler with fewer than "
    f"{ENOUGH} pairs that others decided too gets the mean of the others"
)


@dataclass(frozen=True, slots=True)
class Reliability:
    """What one labeler's decisions are worth. `measured` is False for the mean of the others; `right` is None then."""

    right: float | None
    weight: float
    pairs: int
    measured: bool


def reliability(
    tasks: Iterable[Mapping[str, Ranks]], labelers: Iterable[str] = (), *, enough: int = ENOUGH
) -> dict[str, Reliability]:
    """The reliability of everyone in `tasks`, each the rankings of one task by labeler, and of `labelers`.

    A weight is (right - chance) / (1 - chance) within [LEAST, 1], where chance is what answers drawn by lot would
    get: 1/2 where first and second are as common and nothing is tied. Of whom there is too little, the mean; 1 when
    there is too little of everyone.
    """
    decisions = [
        (item, labeler, made) for item, given in enumerate(_items(tasks)) for labeler, made in given if len(given) > 1
    ]
    counts = Counter(labeler for _, labeler, _ in decisions)
    measured: dict[str, float] = {}
    chance = 0.0
    if any(count >= enough for count in counts.values()):
        right, chance = _dawid_skene(decisions)
        measured = {labeler: share for labeler, share in right.items() if counts[labeler] >= enough}
    weights = {labeler: _weight(share, chance) for labeler, share in measured.items()}
    mean = sum(weights.values()) / len(weights) if weights else 1.0
    return {
        labeler: Reliability(
            measured.get(labeler), weights.get(labeler, mean), counts[labeler], measured=labeler in measured
        )
        for labeler in sorted({*counts, *labelers})
    }


def majority(rankings: Sequence[Ranks], weights: Sequence[float] | None = None) -> list[int | None]:
    """One ranking of several: of each pair what most say, and responses ordered by the pairs they win.

    A pair whose two sides have as many votes, or fewer than tie has, is a tie. A response gets 1 for each pair it wins
    and 1/2 for each tie (Copeland's rule); equal sums are a tie, so a circle is one too. A response that most could
    not rank has no rank. `weights` are the votes of each ranking.
    """
    votes = list(weights or [1.0] * len(rankings))
    ranked = _mostly_ranked(rankings, votes)
    wins = dict.fromkeys(ranked, 0.0)
    for first, second in combinations(ranked, 2):
        said = {1: 0.0, 0: 0.0, -1: 0.0}
        for ranks, vote in zip(rankings, votes, strict=True):
            made = choice(ranks, first, second)
            if made is not None:
                said[made] += vote
        lead = round(said[1] - said[-1], 9)
        decided = 0 if not lead or said[0] > max(said[1], said[-1]) else 1 if lead > 0 else -1
        wins[first] += (1 + decided) / 2
        wins[second] += (1 - decided) / 2
    return _order({place: -sum_ for place, sum_ in wins.items()}, len(rankings[0]))


def mean_rank(rankings: Sequence[Ranks], weights: Sequence[float] | None = None) -> list[int | None]:
    """One ranking of several: responses ordered by their mean rank; equal means are a tie.

    Tied responses share the mean of the places they take, so that 1, 1, 2 counts as 1.5, 1.5, 3. A response that most
    could not rank has no rank. `weights` are how much each ranking counts.
    """
    votes = list(weights or [1.0] * len(rankings))
    ranked = _mostly_ranked(rankings, votes)
    sums: defaultdict[int, float] = defaultdict(float)
    shares: defaultdict[int, float] = defaultdict(float)
    for ranks, vote in zip(rankings, votes, strict=True):
        present = {place: rank for place in ranked if (rank := ranks[place]) is not None}
        for place, rank in present.items():
            better = sum(other < rank for other in present.values())
            tied = sum(other == rank for other in present.values())
            # a ranking without some of the responses is stretched over all the places there are
            sums[place] += vote * (better + (tied + 1) / 2) * (len(ranked) + 1) / (len(present) + 1)
            shares[place] += vote
    return _order({place: round(sums[place] / shares[place], 9) for place in ranked}, len(rankings[0]))


def _items(tasks: Iterable[Mapping[str, Ranks]]) -> Iterable[list[tuple[str, int]]]:
    """The decisions of each pair of responses of each task, by labeler."""
    for rankings in tasks:
        responses = len(next(iter(rankings.values()), ()))
        for first, second in combinations(range(responses), 2):
            made = ((labeler, choice(ranks, first, second)) for labeler, ranks in rankings.items())
            yield [(labeler, each) for labeler, each in made if each is not None]


def _dawid_skene(decisions: Sequence[tuple[int, str, int]]) -> tuple[dict[str, float], float]:
    """How often each labeler is right, and how often chance would be."""
    import pandas
    from crowdkit.aggregation import DawidSkene  # which takes seconds: most who import this module do not need it

    frame = pandas.DataFrame(decisions, columns=["task", "worker", "label"])
    fitted = DawidSkene(n_iter=200).fit(frame)
    true, places = fitted.probas_, {label: place for place, label in enumerate(fitted.probas_.columns)}
    rows = true.index.get_indexer(frame["task"])
    frame["right"] = true.to_numpy()[rows, frame["label"].map(places).to_numpy()]
    right = frame.groupby("worker")["right"].mean()
    return {str(labeler): float(share) for labeler, share in right.items()}, float((true.mean() ** 2).sum())


def _weight(right: float, chance: float) -> float:
    return 1.0 if chance >= 1 else min(1.0, max(LEAST, (right - chance) / (1 - chance)))


def _mostly_ranked(rankings: Sequence[Ranks], votes: Sequence[float]) -> list[int]:
    """The places of the responses to which no less than half of the votes gave a rank."""
    given = [0.0] * len(rankings[0])
    for ranks, vote in zip(rankings, votes, strict=True):
        for place, rank in enumerate(ranks):
            given[place] += vote * (rank is not None)
    return [place for place, sum_ in enumerate(given) if sum_ and sum_ >= sum(votes) / 2]


def _order(keys: Mapping[int, float], responses: int) -> list[int | None]:
    """Ranks 1, 2, ... by rising key, equal keys tied; None where there is no key."""
    ranks = {key: rank for rank, key in enumerate(sorted(set(keys.values())), 1)}
    return [ranks[keys[place]] if place in keys else None for place in range(responses)]
