"""Rankings as a reward model reads them: token ids, whose they are, and how much they count.

Reads   rankings of a snapshot (data.datasets), a JSON file with the weights of labelers
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from data.choices import place_of
from data.datasets import Ranked
from data.errors import InvalidInput, NotFound
from training import tokenizer


@dataclass(frozen=True)
class Encoded:
    """A ranking as token ids, without the responses that have no rank."""

    prompt_id: str
    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    ranks: tuple[int, ...]  # 1 is best, equal is a tie
    lengths: tuple[int, ...]  # of the responses, in characters
    sources: tuple[str, ...]  # the checkpoint or person that wrote each response
    ratings: tuple[float | None, ...]
    labeler: str
    weight: float = 1.0

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest response."""
        return len(self.prompt) + max(map(len, self.responses))

    @property
    def tie_share(self) -> float:
        """The share of its pairs that are ties."""
        pairs = list(combinations(self.ranks, 2))
        return sum(one == other for one, other in pairs) / len(pairs)


def weighted(rankings: Sequence[Ranked], path: Path | None) -> list[Ranked]:
    """The rankings with their labelers' weights from a JSON file; as they are without one.

    Raises NotFound or InvalidInput when there is no such file or it holds anything but weights of labelers.
    """
    if path is None:
        return list(rankings)
    try:
        weights = json.loads(path.read_text())
    except FileNotFoundError:
        raise NotFound(f"There is no file {path} with the weights of labelers. Nothing was trained.") from None
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}. Nothing was trained.") from error
    if not isinstance(weights, dict) or not all(_is_weight(value) for value in weights.values()):
        raise InvalidInput(f'{path} must hold labelers and numbers of 0 or more, as in {{"labeler-a": 0.5}}.')
    labelers = {ranking.labeler for ranking in rankings}
    if rankings and not labelers & weights.keys():
        raise InvalidInput(f"{path} weighs none of the labelers in this snapshot: {', '.join(sorted(labelers))}.")
    return [replace(ranking, weight=float(weights.get(ranking.labeler, 1.0))) for ranking in rankings]


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def labelers_left_out(labelers: set[str], named: Iterable[str], share: float) -> set[str]:
    """Those of the labelers who are not trained on: the ones named, and a share chosen by a hash of their names.

    Raises InvalidInput when one that is named is not among them.
    """
    if unknown := set(named) - labelers:
        raise InvalidInput(
            f"heldout_labelers names {', '.join(sorted(unknown))}, who ranked no training prompt of this snapshot; "
            f"those who did: {', '.join(sorted(labelers))}. Nothing was trained."
        )
    return set(named) | {name for name in labelers if place_of(name) < share}


def encode(
    rankings: Sequence[Ranked], tokens: PreTrainedTokenizerBase, max_tokens: int, *, ties_too: bool
) -> list[Encoded]:
    """Rankings as token ids; left out are those without a decided pair or, with `ties_too`, without any pair.

    A response that fills max_tokens alone would lose the end that the score is read at, or its prompt: it counts as
    unranked. A prompt too long for the longest response that stays loses its beginning, for all K alike.
    """
    encoded = []
    for ranking in rankings:
        prompt = tokenizer.prompt_ids(tokens, ranking.messages)
        responses = [tuple(tokenizer.response_ids(tokens, text)) for text in ranking.responses]
        kept = [i for i, rank in enumerate(ranking.ranks) if rank and len(responses[i]) < max_tokens]
        if len(kept) < 2 or (len({ranking.ranks[i] for i in kept}) < 2 and not ties_too):
            continue
        room = max_tokens - max(len(responses[i]) for i in kept)
        encoded.append(
            Encoded(
                prompt_id=ranking.prompt_id,
                prompt=tuple(prompt[-room:]),
                responses=tuple(responses[i] for i in kept),
                ranks=tuple(ranking.ranks[i] or 0 for i in kept),
                lengths=tuple(len(ranking.responses[i]) for i in kept),
                sources=tuple(ranking.sources[i] for i in kept),
                ratings=tuple(ranking.ratings[i] for i in kept),
                labeler=ranking.labeler,
                weight=ranking.weight,
            )
        )
    return encoded
