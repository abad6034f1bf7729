"""What labels say of those who gave them: agreement with others, with gold and with oneself, and what sways a choice.

Pure functions of ranks. A vector of ranks is one labeler's ranking of K responses: 1 is best, equal is a tie, None is
unrankable. Each definition below stands beside its numbers wherever they are shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

from data.agreement import Ranks, Share, Tally, compared

FAST = 1 / 3  # of the expected seconds: a label that took less is a speed outlier
PEERS = 10  # labels that an expectation rests on, at least
DEFINITIONS = {
    "agreement": (
        "Over each ranking of this labeler, each other labeler's ranking of the same task, and every two responses "
        "that both ranked: 1 for the same answer, 0.5 where just one of them is a tie, 0 for opposite answers. Wilson "
        "95 % interval, clustered by task."
    ),
    "gold": (
        "The same measure against the expected ranks of gold tasks, in place of another labeler's. Wilson 95 % "
        "interval, clustered by task."
    ),
    "reviews_agree": (
        "The same measure against the reviewer's ranking of the tasks that came to review. Those are tasks on which "
        "labelers disagreed, so expect less than elsewhere. Wilson 95 % interval, clustered by task."
    ),
    "self_agreement": (
        "The same measure between a labeler's first ranking of a task and their ranking of its repeat. Wilson 95 % "
        "interval, clustered by task."
    ),
    "position": (
        "Of every two responses that a ranking puts in order, how often the one shown earlier is the better. The order "
        "is random, so a fair labeler comes to 50 %. Imported rankings are left out: their order is not known. "
        "Wilson 95 % interval, clustered by ranking; a warning where it leaves 50 % out."
    ),
    "length": (
        "Of every two responses of different length that a ranking puts in order, how often the longer one (in "
        "characters) is the better. Longer ones may well be better: compare labelers with each other before calling it "
        "a bias. Wilson 95 % interval, clustered by ranking; a warning where it leaves 50 % out."
    ),
    "seconds": (
        "Active seconds, as the page counted them while it was in view and used: the median, and the quartiles around "
        "it. Imported labels and rewrites are left out."
    ),
    "pace": (
        "The median of seconds / expected seconds: 1 is everybody's pace, 0.5 twice as fast. Expected is the median of "
        "everybody's labels of as many responses and about as many characters (the same power of two; of a "
        f"demonstration, the characters written), where there are at least {PEERS}."
    ),
    "fast": "Labels that took less than a third of the expected seconds; `judged` is how many have an expectation.",
}


def agreement_by_labeler(tasks: Iterable[Mapping[str, Ranks]]) -> dict[str, Share]:
    """How far each labeler agrees with the others who ranked the same tasks; each task gives its rankings by labeler.

    A labeler who met nobody is left out.
    """
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for rankings in tasks:
        given = [(labeler, tuple(ranks)) for labeler, ranks in rankings.items()]
        agreed = dict.fromkeys(rankings, 0.0)
        pairs = dict.fromkeys(rankings, 0)
        for (one, first), (other, second) in combinations(given, 2):
            points, count, _, _ = compared(first, second)
            for labeler in (one, other):
                agreed[labeler] += points
                pairs[labeler] += count
        for labeler in rankings:
            tallies[labeler].add(agreed[labeler], pairs[labeler])
    return {labeler: tally.share() for labeler, tally in tallies.items() if tally.n}


def match(pairs: Iterable[tuple[Ranks, Ranks]]) -> Share:
    """How far rankings agree with the ones they are held against, as (given, expected); each two are a cluster.

    For gold accuracy the second is the expected ranking, for self-agreement the same labeler's earlier one.
    """
    tally = Tally()
    for given, expected in pairs:
        points, count, _, _ = compared(tuple(given), tuple(expected))
        tally.add(points, count)
    return tally.share()


def effect(rankings: Iterable[tuple[Ranks, Sequence[int], int]]) -> Share:
    """How often, of two responses that a ranking puts in order, the one with the smaller key is the better.

    Each ranking comes as (ranks, keys, times): the key of a response is its place on the screen, or how many others
    are longer; two of the same key are left out. `times` is how many rankings were the same. A cluster is a ranking.
    """
    tally = Tally()
    for ranks, keys, times in rankings:
        tally.add(*_wins(tuple(ranks), tuple(keys)), times)
    return tally.share()


def excludes_even(share: Share, margin: float = 0.0) -> bool:
    """Whether the interval leaves 0.5 out, and all that is within `margin` of it: more than chance."""
    return share.interval is not None and not (share.interval[0] <= 0.5 + margin and share.interval[1] >= 0.5 - margin)


def as_json(share: Share | None, *, even: bool = False, margin: float = 0.0) -> dict[str, Any]:
    """A share ready for JSON; with `even`, and a warning where 0.5 is what chance gives, and it is not near that."""
    share = share or Share(None, None, 0)
    found: dict[str, Any] = {
        "value": share.value,
        "interval": list(share.interval) if share.interval else None,
        "pairs": share.n,
    }
    return found | {"warning": excludes_even(share, margin)} if even else found


@lru_cache(maxsize=1 << 16)
def _wins(ranks: tuple[int | None, ...], keys: tuple[int, ...]) -> tuple[int, int]:
    """Of the pairs that are decided and differ in key: those that the smaller key wins, and all."""
    won = decided = 0
    for (a, x), (b, y) in combinations(zip(ranks, keys, strict=True), 2):
        if a is None or b is None or a == b or x == y:
            continue
        decided += 1
        won += (a < b) == (x < y)
    return won, decided
