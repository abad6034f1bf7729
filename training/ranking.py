"""What a reward model minimises: pure functions of the scores and ranks of K responses to each prompt.

scores and ranks are (rankings, K). A rank of 1 is best, equal ranks are a tie, 0 is no response at all (padding of a
ranking with fewer than K, or a response that could not be ranked).

A pair of scores whose difference is d says with Bradley and Terry (1952) that the first wins with probability
sigmoid(d), which leaves no room for a tie. Three ways to deal with those there are:

ignore        tied pairs count for nothing
half          a tie is half a win of each: -(log sigmoid(d) + log sigmoid(-d)) / 2
rao-kupper    a win takes more than a hair's breadth (Rao and Kupper 1967): with theta >= 1 and eta = log theta,
              P(win) = sigmoid(d - eta), P(tie) = (theta^2 - 1) sigmoid(d - eta) sigmoid(-d - eta); they add up to 1
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Ties = Literal["rao-kupper", "half", "ignore"]


def by_response(rows: Sequence[Sequence[int]] | Sequence[Sequence[float]], fill: int | float) -> Tensor:
    """(rankings, K) for the largest K, `fill` where a ranking has fewer responses."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def decided_pairs(ranks: Tensor) -> Tensor:
    """Which response beat which: (rankings, K, K) bool, True at [r, i, j] where i was ranked better than j."""
    has_rank = ranks > 0
    return (ranks[:, :, None] < ranks[:, None, :]) & has_rank[:, :, None] & has_rank[:, None, :]


def tied_pairs(ranks: Tensor) -> Tensor:
    """Which two responses share a rank: (rankings, K, K) bool, True at [r, i, j] with i < j, so once for each pair."""
    same = (ranks[:, :, None] == ranks[:, None, :]) & (ranks > 0)[:, :, None]
    return same.triu(diagonal=1)


def rank_gaps(ranks: Tensor) -> Tensor:
    """How many ranks lie between the two of each decided pair: (rankings, K, K) at [r, better, worse], 0 elsewhere."""
    return (ranks[:, None, :] - ranks[:, :, None]) * decided_pairs(ranks)


def rating_gaps(ratings: Tensor) -> Tensor:
    """By how much each response is rated above each other: (rankings, K, K) at [r, higher, lower], 0 elsewhere.

    ratings is (rankings, K); NaN is a response that was not rated, which is above and below none.
    """
    return (ratings[:, :, None] - ratings[:, None, :]).nan_to_num(0.0).clamp(min=0)


def ranking_losses(
    scores: Tensor, ranks: Tensor, *, ties: Ties = "ignore", theta: float = 1.0, margins: Tensor | None = None
) -> Tensor:
    """(rankings,) the negative log-likelihood of each ranking, the mean over its pairs; 0 for one without a pair.

    A decided pair costs -log sigmoid(better - worse - margin), margins (rankings, K, K) at [r, better, worse]
    (Touvron et al. 2023, section 3.2.2, eq. 2), a tied one what `ties` says, with `theta` for rao-kupper. All
    K(K-1)/2 pairs of one ranking are one batch element: shuffled one by one into a data set, each response would be
    fitted K-1 times in an epoch (Ouyang et al. 2022, section 3.5).

    Raises:
        ValueError: `ties` is none of the three, or there is a tie and theta is not above 1, which makes a tie
            impossible.
    """
    if ties not in get_args(Ties):
        raise ValueError(f"ties is {ties!r}; it must be one of {', '.join(get_args(Ties))}.")
    decided, tied = decided_pairs(ranks), tied_pairs(ranks)
    difference = scores[:, :, None] - scores[:, None, :]
    eta = math.log(theta) if ties == "rao-kupper" else 0.0
    lead = difference - eta if margins is None else difference - eta - margins
    losses = torch.where(decided, -logsigmoid(lead), 0.0)
    if ties != "ignore" and tied.any():
        losses = losses + torch.where(tied, _tie_losses(difference, ties, theta), 0.0)
        decided = decided | tied
    return losses.sum((1, 2)) / decided.sum((1, 2)).clamp(min=1)


def _tie_losses(difference: Tensor, ties: Ties, theta: float) -> Tensor:
    """What a tie costs at each difference of scores, of its shape."""
    if ties == "half":
        return -(logsigmoid(difference) + logsigmoid(-difference)) / 2
    if theta <= 1:
        raise ValueError(f"theta is {theta}; with ties it must be above 1.")
    eta = math.log(theta)
    return -(math.log(theta**2 - 1) + logsigmoid(difference - eta) + logsigmoid(-difference - eta))


def theta_of(tie_share: float) -> float:
    """Rao and Kupper's theta under which responses of equal worth tie this often, in [0, 1).

    P(tie) is (theta - 1) / (theta + 1) at a difference of 0, so this is the most likely theta before anything is
    learned. Differences of worth make ties rarer, so a model that has learned would put it higher.
    """
    if not 0 <= tie_share < 1:
        raise ValueError(f"The share of ties is {tie_share}; it must be at least 0 and below 1.")
    return (1 + tie_share) / (1 - tie_share)


def pairs_right(scores: Tensor, ranks: Tensor) -> Tensor:
    """How many decided pairs of each ranking the scores order as the labeler did; equal scores are half right.

    scores and ranks (rankings, K); returns (rankings,) of floats, to be divided by the number of decided pairs.
    """
    difference = scores[:, :, None] - scores[:, None, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mul(decided_pairs(ranks)).sum((1, 2))
