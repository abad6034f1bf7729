"""From a snapshot to training examples, split by prompt.

Reads   a snapshot (data.snapshots)
Gives   demonstrations for SFT, rankings for the reward model, prompts for PPO and evaluation

Comparisons are never spread over a flat list here: the pairs of one ranking belong in one batch element, because the
same response in several examples is learned by heart within an epoch (Ouyang et al. 2022, section 3.5).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from data.errors import TooFewLabels
from data.records import Message, Prompt, Split
from data.snapshots import Snapshot

MIN_DEMONSTRATIONS = 1
MIN_RANKINGS = 8  # of train prompts, with at least one pair in them that is not a tie


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """A prompt and the response somebody wrote to it."""

    prompt_id: str
    messages: tuple[Message, ...]
    response: str
    source: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """A prompt, its K responses and one labeler's ranks: 1 is best, equal is a tie, None is unrankable."""

    prompt_id: str
    messages: tuple[Message, ...]
    responses: tuple[str, ...]
    sources: tuple[str, ...]
    ranks: tuple[int | None, ...]
    ratings: tuple[float | None, ...]  # the mean of what the labeler rated of each, 1 to 7; None is not rated
    labeler: str
    label_id: str
    weight: float = 1.0  # how much it counts, where the row or the snapshot's manifest says so


def demonstrations(snapshot: Snapshot, split: Split) -> list[Demonstrated]:
    """The demonstrations of one split, by prompt and label id."""
    return [
        Demonstrated(row["prompt_id"], _messages(row["prompt"]), row["response"], row["source"])
        for row in snapshot.rows("demonstrations", split)
    ]


def rankings(snapshot: Snapshot, split: Split) -> list[Ranked]:
    """The rankings of one split, by prompt and label id, those without a decided pair included."""
    weights = snapshot.about.get("weights", {})
    return [
        Ranked(
            prompt_id=row["prompt_id"],
            messages=_messages(row["prompt"]),
            responses=tuple(response["text"] for response in row["responses"]),
            sources=tuple(response["source"] for response in row["responses"]),
            ranks=tuple(row["ranks"]),
            ratings=_ratings(row),
            labeler=row["labeler"],
            label_id=row["label_id"],
            weight=_weight(row, weights),
        )
        for row in snapshot.rows("rankings", split)
    ]


def prompts(snapshot: Snapshot, split: Split) -> list[Prompt]:
    """The prompts of one split, by id, those without a label included."""
    return [
        Prompt(
            id=row["prompt_id"],
            messages=_messages(row["messages"]),
            tags=tuple(row["tags"]),
            split=split,
            source=row["source"],
            created_at=datetime.fromisoformat(row["created_at"]),
        )
        for row in snapshot.rows("prompts", split)
    ]


def require_enough(counts: Mapping[str, Any], stages: Sequence[str]) -> None:
    """Raise TooFewLabels, with the numbers, when these stages cannot be trained on so few labels.

    `counts` is a snapshot's `counts` or the `labels` of the store's `stats()`.
    """
    lacking = []
    if "sft" in stages and counts["demonstrations_trainable"] < MIN_DEMONSTRATIONS:
        lacking.append(f"sft needs {MIN_DEMONSTRATIONS} demonstration of a train prompt and there is none")
    ranked = counts["rankings_trainable"]
    judging = [stage for stage in ("reward", "ppo") if stage in stages]
    if judging and ranked < MIN_RANKINGS:
        lacking.append(
            f"{' and '.join(judging)} need{'s' if len(judging) == 1 else ''} {MIN_RANKINGS} rankings of train prompts "
            f"that are not all ties, and there {'is' if ranked == 1 else 'are'} {ranked}"
        )
    if lacking:
        raise TooFewLabels(
            f"Too few labels to train: {'; '.join(lacking)}. Nothing was started and every label is kept. "
            "Collect or import more, then start again."
        )


def _messages(rows: Iterable[Mapping[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(row["role"], row["content"]) for row in rows)


def _ratings(row: Mapping[str, Any]) -> tuple[float | None, ...]:
    given = json.loads(row["ratings"] or "{}")
    found = [list(given.get(response["id"], {}).values()) for response in row["responses"]]
    return tuple(sum(values) / len(values) if values else None for values in found)


def _weight(row: Mapping[str, Any], weights: Mapping[str, float]) -> float:
    weight = row.get("weight")
    return float(weights.get(row["labeler"], 1.0) if weight is None else weight)
