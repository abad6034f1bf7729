"""Whether more labels still help: reward models' held-out accuracy by the rankings they learned from, as blocks.

Reads   the metrics that training.reward wrote into its checkpoints (docs/training.md says what each is)
Writes  nothing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any

from annotate.plots import percent
from data.agreement import Z
from data.records import Checkpoint

Json = dict[str, Any]
Blocks = list[Json]


@dataclass(frozen=True, slots=True)
class Measured:
    """A reward model's accuracy on held-out pairs, with its standard error, None where there were too few prompts."""

    checkpoint: str
    rankings: int
    accuracy: float
    error: float | None
    pairs: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, cut at 0 and 1."""
        if self.error is None:
            return None
        return max(0.0, self.accuracy - Z * self.error), min(1.0, self.accuracy + Z * self.error)

    def in_words(self) -> str:
        """71% (66 to 76)."""
        bounds = self.interval
        return percent(self.accuracy) + (f" ({100 * bounds[0]:.0f} to {100 * bounds[1]:.0f})" if bounds else "")


def gains_of(checkpoints: Sequence[Checkpoint]) -> Blocks:
    """One point for each reward model that was measured, the labelers' own agreement, and what it comes to."""
    models = [one for one in checkpoints if one.stage == "reward"]
    found = [each for one in models if (each := _measured(one)) is not None]
    newest = max(models, key=lambda one: one.created_at, default=None)
    levels = [
        {"label": label, "value": newest.metrics[name]}
        for name, label in (("agreement", "labelers with each other"), ("ceiling", "a perfect judge of their labels"))
        if newest is not None and newest.metrics.get(name) is not None
    ]
    points = [
        {"x": each.rankings, "value": each.accuracy, "interval": each.interval, "label": each.checkpoint}
        for each in sorted(found, key=lambda each: (each.rankings, each.checkpoint))
    ]
    empty = "No reward model was measured on held-out pairs yet: each that is adds a point."
    plot = {
        "kind": "points",
        "title": "Does labeling more still help?",
        "across": "rankings learned from",
        "up": "right on held-out pairs",
        "points": points,
        "levels": levels,
        "columns": ["Reward model", "Rankings", "Right on held-out pairs", "Pairs"],
        "rows": [[each.checkpoint, str(each.rankings), each.in_words(), str(each.pairs)] for each in found[::-1]],
        "empty": empty,
    }
    return [plot, *([{"kind": "text", "text": said_of(found)}] if found else [])]


def said_of(found: Sequence[Measured]) -> str:
    """In words: from half the rankings or fewer to the most, has the accuracy risen by more than chance?"""
    most = max(found, key=lambda each: each.rankings)
    fewer = [each for each in found if 2 * each.rankings <= most.rankings]
    if not fewer:
        return (
            f"{most.in_words()} of held-out pairs after {most.rankings} rankings. Whether more help shows once a "
            "reward model has learned from twice as many as another."
        )
    half = max(fewer, key=lambda each: each.rankings)
    moved = f"From {half.rankings} rankings to {most.rankings}: {half.in_words()}, then {most.in_words()}"
    if half.error is None or most.error is None:
        return f"{moved}. The held-out prompts are too few to tell chance from gain; label more of them."
    if most.accuracy - half.accuracy > Z * hypot(half.error, most.error):
        return f"{moved}. That is more than chance: labels still help."
    return f"{moved}. Chance alone may do that: a gain is not seen yet."


def _measured(checkpoint: Checkpoint) -> Measured | None:
    metrics = checkpoint.metrics
    accuracy, rankings = metrics.get("heldout_accuracy"), metrics.get("train_rankings")
    if accuracy is None or not rankings:
        return None
    return Measured(
        checkpoint.id, rankings, accuracy, metrics.get("heldout_accuracy_error"), metrics.get("heldout_pairs", 0)
    )
