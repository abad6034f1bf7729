"""What the jobs found, by arm: which results belong to which column of a table and which point of a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence

from proof.arms import BEST_OF
from proof.jobs import Result

Found = dict[str, Result]
BEST_OF_KL = math.log(BEST_OF) - (BEST_OF - 1) / BEST_OF  # nats from SFT, at most (Beirami et al. 2024)


def arm_points(found: Found, taste: str, arm: str, seeds: int) -> list[Result]:
    """The last checkpoint of each seed of an arm; empty when the arm was not run."""
    names = [f"policy/{taste}/{arm}-{seed}" for seed in range(seeds)]
    return [found[name]["points"][-1] for name in names if name in found]


def best_of_points(found: Found, taste: str, seeds: int) -> list[Result]:
    return [found[f"best-of/{taste}/{seed}"] for seed in range(seeds) if f"best-of/{taste}/{seed}" in found]


def control_points(found: Found) -> list[Result]:
    """The last checkpoint of each policy trained on labels in random order."""
    return [one["points"][-1] for name, one in found.items() if name.startswith("policy/control-")]


def rewards(found: Found, labels: str, size: str = "12000") -> list[Result]:
    return [one for name, one in found.items() if name.startswith(f"reward/{labels}/{size}-")]


def random_rewards(found: Found) -> list[Result]:
    return [one for name, one in found.items() if name.startswith("reward/control-")]


def rates(points: Sequence[Result], taste: str) -> list[float]:
    """Their gold win rates against SFT."""
    return [round(point["gold"][taste]["rate"], 4) for point in points]
