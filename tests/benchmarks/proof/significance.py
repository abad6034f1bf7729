"""How sure a number is: over prompts, and over seeds. Pure functions of numpy arrays.

A win rate counts a tie as half a win. Its error over prompts says nothing about the luck of a seed; its spread over
seeds says nothing about prompts. Both are reported, and neither stands for the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class WinRate:
    """The share of prompts on which the new response is worth more than the old one."""

    rate: float
    error: float  # standard error over prompts
    low: float  # 95 % interval, bootstrap over prompts
    high: float
    p_value: float  # two-sided sign test on the decided prompts
    decided: int
    difference: float  # mean paired difference of worth
    difference_error: float


def win_rate(new: Sequence[float], old: Sequence[float]) -> WinRate:
    """New against old, one response each to the same prompts."""
    difference = np.asarray(new, float) - np.asarray(old, float)
    wins = won(difference)
    low, high = bootstrap(wins)
    above, below = int((difference > 0).sum()), int((difference < 0).sum())
    return WinRate(
        rate=float(wins.mean()),
        error=standard_error(wins),
        low=low,
        high=high,
        p_value=sign_test(above, below),
        decided=above + below,
        difference=float(difference.mean()),
        difference_error=standard_error(difference),
    )


def won(difference: np.ndarray) -> np.ndarray:
    """1 for a win, 0.5 for a tie, 0 for a loss."""
    return (np.sign(difference) + 1) / 2


def standard_error(values: np.ndarray) -> float:
    """Of the mean of independent values; 0 for fewer than two."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def clustered_error(values: np.ndarray, clusters: np.ndarray) -> float:
    """The standard error of the mean of values that are independent only between clusters (Miller 2024)."""
    residuals = values - values.mean()
    _, where = np.unique(clusters, return_inverse=True)
    sums = np.bincount(where, residuals)
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(values))


def bootstrap(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean when prompts are drawn anew with replacement (Efron 1979)."""
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return float(low), float(high)


def sign_test(above: int, below: int) -> float:
    """The two-sided probability of a split at least as uneven, were a fair coin to decide each case."""
    cases, least = above + below, min(above, below)
    tail = sum(math.comb(cases, k) for k in range(least + 1))
    return min(1.0, 2 * tail / 2**cases) if cases else 1.0


def bradley_terry(worths: np.ndarray, rounds: int = 200) -> np.ndarray:
    """(arms,) strengths of arms from worths (arms, prompts), mean 0, in nats; ties are half a win to each.

    Every two arms met once on every prompt. Zermelo's iteration with one half-win added to each side of each pair, so
    that an arm that always won stays finite.
    """
    wins = won(worths[:, None, :] - worths[None, :, :]).sum(2) + 0.5
    np.fill_diagonal(wins, 0)
    games = wins + wins.T
    strength = np.ones(len(worths))
    for _ in range(rounds):
        strength = wins.sum(1) / (games / (strength[:, None] + strength[None, :])).sum(1)
        strength /= np.exp(np.log(strength).mean())
    return np.log(strength)


def bradley_terry_interval(worths: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """(2, arms) the 95 % interval of each strength, bootstrap over prompts."""
    rng, prompts = np.random.default_rng(seed), worths.shape[1]
    found = [bradley_terry(worths[:, rng.integers(prompts, size=prompts)], 50) for _ in range(resamples)]
    return np.quantile(np.array(found), [0.025, 0.975], axis=0)
