"""What a policy says to the evaluation prompts, and what that is like: gold, proxy, KL, length, variety, perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.records import Message
from training import corpus, engine, model, rollouts, tokenizer

LONGEST = 34  # tokens of a response; more are cut off, and with few cut off a taste says little of length
BATCH = 128
SHORT_BIN = 3  # words: width of the bins of length in `within_length`


@dataclass(frozen=True, slots=True)
class Spoken:
    """Responses to prompts, those to one prompt one after the other."""

    texts: list[str]
    lengths: list[int]  # tokens, the end-of-sequence token included
    ended: list[bool]
    kl: float  # nats per response from the reference, estimated on these responses; 0 without one


def ids_of(words: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """The token ids of each prompt."""
    return [tokenizer.prompt_ids(words, (Message("user", prompt),)) for prompt in prompts]


def speak(
    policy: PreTrainedModel,
    words: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    place: str,
    samples: int = 1,
    reference: PreTrainedModel | None = None,
) -> Spoken:
    """Responses at temperature 1. `place` chooses the random numbers: the same for every arm, others for the rival."""
    ids = ids_of(words, prompts)
    found = engine.sample(
        policy,
        ids,
        samples=samples,
        max_new_tokens=LONGEST,
        temperature=1.0,
        eos_id=words.eos_token_id,
        pad_id=words.pad_token_id,
        generator=engine.generator_at(0, "prove", place),
        batch_size=BATCH,
    )
    kl = 0.0
    if reference is not None:
        sampled = rollouts.assemble(ids, found, words.pad_token_id, policy.device)
        under = rollouts.logprobs(reference, sampled, temperature=1.0, microbatch=64)
        kl = (sampled.old_logprobs - under).sum(1).mean().item()
    return Spoken(
        texts=[tokenizer.response_text(words, row) for row in found.response_ids],
        lengths=[len(row) for row in found.response_ids],
        ended=list(found.ended),
        kl=kl,
    )


@torch.no_grad()
def scores(folder: Path, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """What the reward model in `folder` makes of each text as a response to its prompt."""
    words, judge = tokenizer.load(folder), model.load_scalar(folder).eval()
    ids = ids_of(words, prompts)
    found: list[float] = []
    for start in range(0, len(texts), 1024):
        part = slice(start, start + 1024)
        found += rollouts.scores(judge, words, ids[part], list(texts[part]), microbatch=64).tolist()
    return found


def perplexity(policy: PreTrainedModel, words: PreTrainedTokenizerBase, texts: Sequence[str]) -> float:
    """Per token, of text held out from pretraining."""
    nats = corpus.heldout_bits_per_byte(policy, words, texts) * math.log(2) * sum(len(t.encode()) for t in texts)
    return math.exp(nats / sum(len(tokenizer.document_ids(words, text)) for text in texts))


def distinct_2(texts: Sequence[str]) -> float:
    """The share of different ones among all pairs of adjacent words (Li et al. 2016)."""
    pairs = [pair for words in map(str.split, texts) for pair in pairwise(words)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def within_length(
    new: Sequence[float], new_lengths: Sequence[int], old: Sequence[float], old_lengths: Sequence[int]
) -> float:
    """The share of the gain that stays when responses of like length are compared (Singhal et al. 2024).

    Responses are put in bins of SHORT_BIN words; the gain within a bin is weighed by the new responses in it, bins
    without an old response left out. 1: none of the gain comes from a change of length.
    """
    new_bin, old_bin = (np.asarray(lengths) // SHORT_BIN for lengths in (new_lengths, old_lengths))
    new_worth, old_worth = np.asarray(new, float), np.asarray(old, float)
    shared = [b for b in np.unique(new_bin) if (old_bin == b).any()]
    counts = np.array([(new_bin == b).sum() for b in shared])
    gains = np.array([new_worth[new_bin == b].mean() - old_worth[old_bin == b].mean() for b in shared])
    whole = new_worth.mean() - old_worth.mean()
    return float((gains * counts).sum() / counts.sum() / whole) if counts.size and whole else float("nan")
