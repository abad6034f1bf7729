"""Sampling: responses of a transformers model to many prompts at once, with the log-probs of what was sampled.

One decode loop for every stage. Prompts are padded on the left, keys and values are kept in a cache, a row leaves the
batch as soon as its response has ended. There is no top-k and no top-p: a token is drawn from the whole softmax of
logits / temperature, and its log-prob under that same distribution comes back, so that it equals the one of a later
forward pass and the first ratio of PPO is 1.

Each prompt and position has a random number of its own, drawn before decoding starts: the responses depend on the
generator and the order of the prompts, not on the batch size or on when other rows end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from training.model import positions_of


@dataclass(frozen=True)
class Samples:
    """One response per prompt, in the order of the prompts."""

    response_ids: list[list[int]]  # the end-of-sequence token is the last one where the response ended
    logprobs: list[list[float]]  # of each response token, at the sampling temperature
    ended: list[bool]  # False: cut off at max_new_tokens


def generator_at(seed: int, *where: str | int) -> torch.Generator:
    """A generator for one place of a run, such as ("rollouts", step).

    Its numbers depend on the seed and the place alone, so a resumed run draws what an uninterrupted one would have
    drawn, and nothing about randomness needs to be saved.
    """
    digest = hashlib.sha256(":".join(map(str, (seed, *where))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    eos_id: int,
    pad_id: int,
    generator: torch.Generator,
    batch_size: int,
) -> Samples:
    """One response to each prompt (token ids, none empty). `generator` lives on the CPU.

    Raises:
        ValueError: the model is in training mode (dropout would make the log-probs wrong), pad is eos (a response
            could not be told from its padding), or the temperature is not above 0.
    """
    if model.training:
        raise ValueError("The model is in training mode: call model.eval() first, so that dropout is off.")
    if pad_id == eos_id:
        raise ValueError(f"pad_id and eos_id are both {pad_id}; give the tokenizer a padding token of its own.")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0.")
    uniforms = torch.rand(len(prompts), max_new_tokens, generator=generator, dtype=torch.float64)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding within a batch
    response_ids: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    for start in range(0, len(prompts), batch_size):
        rows = by_length[start : start + batch_size]
        decoded = _decode(model, [prompts[i] for i in rows], uniforms[rows], temperature, eos_id, pad_id)
        for i, length, tokens, values in zip(rows, *(part.tolist() for part in decoded), strict=True):
            response_ids[i], logprobs[i] = tokens[:length], values[:length]
    return Samples(response_ids, logprobs, [ids[-1] == eos_id for ids in response_ids])


def padded_left(sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (rows, longest), padded on the left, and is_token: True where there is no padding."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad_id)
    is_token = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(sequence)
        is_token[row, width - len(sequence) :] = True
    return ids.to(device), is_token.to(device)


@torch.inference_mode()
def _decode(
    model: PreTrainedModel,
    prompts: list[Sequence[int]],
    uniforms: Tensor,
    temperature: float,
    eos_id: int,
    pad_id: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths (n,), tokens (n, steps) and log-probs (n, steps) of one batch; uniforms is (n, steps)."""
    ids, is_token = padded_left(prompts, pad_id, model.device)
    uniforms = uniforms.to(model.device)
    tokens = torch.full(uniforms.shape, pad_id, device=model.device)
    logprobs = torch.zeros(uniforms.shape, device=model.device)
    lengths = torch.full((len(prompts),), uniforms.shape[1], device=model.device)
    rows = torch.arange(len(prompts), device=model.device)  # which prompt each row of the running batch answers
    cache, position_ids = DynamicCache(config=model.config), positions_of(is_token)
    for step in range(uniforms.shape[1]):
        output = model(
            input_ids=ids,
            attention_mask=is_token.long(),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        distribution = (output.logits[:, -1].float() / temperature).log_softmax(-1)
        chosen = _draw(distribution, uniforms[rows, step])
        tokens[rows, step] = chosen
        logprobs[rows, step] = distribution.gather(1, chosen[:, None]).squeeze(1)
        goes_on = chosen != eos_id
        lengths[rows[~goes_on]] = step + 1
        if not goes_on.any():
            break
        if not goes_on.all():
            staying = goes_on.nonzero().squeeze(1)
            cache.batch_select_indices(staying)
            rows, chosen = rows[staying], chosen[staying]
            is_token, position_ids = is_token[staying], position_ids[staying]
        ids, position_ids = chosen[:, None], position_ids[:, -1:] + 1
        is_token = torch.cat([is_token, is_token.new_ones(len(rows), 1)], 1)
    return lengths, tokens, logprobs


def _draw(logprobs: Tensor, uniforms: Tensor) -> Tensor:
    """One token per row by inverting the distribution function; logprobs (n, vocabulary), uniforms (n,) in [0, 1)."""
    cumulative = logprobs.double().exp().cumsum(-1)
    threshold = uniforms[:, None] * cumulative[:, -1:]  # times the sum, which rounding leaves a little off 1
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logprobs.shape[-1] - 1)
