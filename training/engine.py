"""Sampling: responses of a transformers model to many prompts at once, with the log-probs of what was sampled.

One decode loop for every stage. There is no top-k and no top-p: a token is drawn from the whole softmax of
logits / temperature, and its log-prob under that same distribution comes back, so that it equals the one of a later
forward pass and the first ratio of PPO is 1. `largest_gap` measures how nearly.

Each distinct prompt goes through the model once, all but its last token, and its keys and values are copied to the
slots of its responses (training/slots.py). A response that has ended leaves its slot to one that waits; when none
waits, the batch shrinks.

Each response and position has a random number of its own, drawn before decoding starts: the responses depend on the
generator and the order of the prompts, not on the batch size, on shared prompts or on when other responses end. (But
for rounding, which batch shapes change: it tips one token in a million in fp32, some in a thousand in bf16.)
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from training import parallel
from training.slots import CPU, CUDA, Plan, Slots, Start


@dataclass(frozen=True)
class Samples:
    """The responses, in the order of the prompts, a prompt's own one after the other."""

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


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    samples: int = 1,
    max_new_tokens: int,
    temperature: float,
    eos_id: int,
    pad_id: int,
    generator: torch.Generator,
    batch_size: int,
    plan: Plan | None = None,
    watch: Callable[[list[tuple[int, list[int]]]], None] | None = None,
) -> Samples:
    """`samples` responses to each prompt (token ids, none empty), at most `batch_size` of them in the making at once.

    `generator` lives on the CPU. A temperature of 0 takes the likeliest token each time; its log-prob is then that at
    temperature 1. The model computes in its own dtype, or that of an autocast around the call; log-probs are fp32.
    `plan` is the device's own unless given. Each of several processes decodes a part of the prompts; all get the whole.
    `watch` is called while they grow, with the number of each response in the making and its tokens so far (of one
    process: its part); what it raises ends the sampling.

    Raises:
        ValueError: the model is in training mode (dropout would make the log-probs wrong), pad is eos (a response
            could not be told from its padding), the temperature is below 0, a prompt is empty or has no room for a
            response in the model's positions, or the model's layers keep more than keys and values.
    """
    _refuse(model, prompts, max_new_tokens, temperature, eos_id, pad_id)
    count = len(prompts) * samples
    uniforms = torch.zeros(count, max_new_tokens, dtype=torch.float64)
    if temperature > 0:
        uniforms = torch.rand(count, max_new_tokens, generator=generator, dtype=torch.float64)
    wanted: dict[tuple[int, ...], list[int]] = {}  # the responses to each distinct prompt
    for i, prompt in enumerate(prompts):
        wanted.setdefault(tuple(prompt), []).extend(range(i * samples, (i + 1) * samples))
    own = parallel.mine(list(wanted.items()))
    slots = Slots(
        model,
        uniforms,
        min(batch_size, max(1, sum(len(responses) for _, responses in own))),
        plan=plan or (CUDA if model.device.type == "cuda" else CPU),
        temperature=temperature,
        eos_id=eos_id,
        pad_id=pad_id,
    )
    _decode(slots, own, watch)
    tokens, logprobs = slots.results()
    decoded = parallel.together([[(i, tokens[i], logprobs[i]) for i in responses] for _, responses in own])
    rows = sorted(row for responses in decoded for row in responses)
    lengths = [ids.index(eos_id) + 1 if eos_id in ids else max_new_tokens for _, ids, _ in rows]
    return Samples(
        response_ids=[ids[:length] for (_, ids, _), length in zip(rows, lengths, strict=True)],
        logprobs=[numbers[:length] for (_, _, numbers), length in zip(rows, lengths, strict=True)],
        ended=[eos_id in ids for _, ids, _ in rows],
    )


def largest_gap(logprobs: Tensor, recomputed: Tensor, is_response: Tensor) -> float:
    """The largest |difference| over response tokens between the engine's log-probs and those of a trainer's forward.

    All (batch, tokens). Where it is above 1e-2 the engine computes something else than the trainer, and the recomputed
    log-probs are the ones to learn from. A log-prob that is not a number counts as infinitely far.
    """
    gaps = (logprobs.float() - recomputed.float()).abs()[is_response]
    return gaps.nan_to_num(nan=float("inf")).max().item() if len(gaps) else 0.0


def padded_left(sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (rows, longest), padded on the left, and is_token: True where there is no padding."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad_id)
    is_token = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(sequence)
        is_token[row, width - len(sequence) :] = True
    return ids.to(device), is_token.to(device)


def padded_right(
    sequences: Sequence[Sequence[int]] | Sequence[Sequence[float]], fill: int | float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(rows, longest) of the type of `fill`, padded on the right, and a mask: True where there is no padding."""
    width = max(len(sequence) for sequence in sequences)
    padded = torch.tensor([[*sequence, *[fill] * (width - len(sequence))] for sequence in sequences])
    is_there = torch.arange(width) < torch.tensor([len(sequence) for sequence in sequences])[:, None]
    return padded.to(device), is_there.to(device)


def _refuse(model, prompts, max_new_tokens: int, temperature: float, eos_id: int, pad_id: int) -> None:
    """Raise the ValueErrors of `sample`."""
    if model.training:
        raise ValueError("The model is in training mode: call model.eval() first, so that dropout is off.")
    if pad_id == eos_id:
        raise ValueError(f"pad_id and eos_id are both {pad_id}; give the tokenizer a padding token of its own.")
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}; it must be 0 (the likeliest token) or above.")
    config = model.config.get_text_config()
    if others := set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"{type(model).__name__} has layers of {sorted(others)}; only attention can be sampled from.")
    if config._attn_implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"The model's attention is {config._attn_implementation}, which takes no mask per row; load it with "
            'attn_implementation="sdpa".'
        )
    limit = getattr(config, "max_position_embeddings", None)
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"Prompt {i} is empty; a response starts from at least one token.")
        if limit and len(prompt) + max_new_tokens > limit:
            raise ValueError(
                f"Prompt {i} has {len(prompt)} tokens: with max_new_tokens {max_new_tokens} that is "
                f"{len(prompt) + max_new_tokens}, and the model has {limit} positions. Leave the prompt out, or lower "
                "max_new_tokens."
            )


def _decode(
    slots: Slots,
    wanted: Sequence[tuple[tuple[int, ...], list[int]]],
    watch: Callable[[list[tuple[int, list[int]]]], None] | None,
) -> None:
    """Make the responses to these prompts: fill the free slots, step, until none waits and none is in the making."""
    waiting = deque(sorted(wanted, key=lambda item: len(item[0])))  # little padding in a prefill
    ready: deque[Start] = deque()  # their prompts are in `prefilled`
    prefilled: Cache | None = None
    while True:
        free = slots.free()
        left = len(ready) + sum(len(responses) for _, responses in waiting)
        if len(free) >= min(left, max(1, slots.size * slots.plan.refill)):
            while free and (ready or waiting):
                if not ready:
                    prefilled, ready = _prefill(slots, waiting, len(free))
                starts = [ready.popleft() for _ in range(min(len(free), len(ready)))]
                slots.place(starts, free[: len(starts)], prefilled)
                free = free[len(starts) :]
        if len(free) == slots.size:
            return
        slots.advance(shrink=not ready and not waiting)
        if watch is not None:
            watch(slots.so_far())


def _prefill(
    slots: Slots, waiting: deque[tuple[tuple[int, ...], list[int]]], free: int
) -> tuple[Cache | None, deque[Start]]:
    """Keys and values of the next prompts, all but their last tokens, and the responses that they are for.

    As many prompts as fill the free slots, but no more than `plan.prefill_tokens` tokens and at least one prompt. None:
    all have but one token.
    """
    chunk: list[tuple[int, ...]] = []
    ready: deque[Start] = deque()
    most = slots.plan.prefill_tokens
    while waiting and len(ready) < free and (not chunk or (len(chunk) + 1) * len(waiting[0][0]) <= most):
        prompt, responses = waiting.popleft()
        ready.extend(Start(len(chunk), prompt, response) for response in responses)
        chunk.append(prompt)
    width = max(map(len, chunk)) - 1
    if width == 0:
        return None, ready
    # Padding stands on the right, behind every token that looks back, and is written over before it comes into view.
    ids = torch.tensor([[*prompt[:-1], *[slots.pad_id] * (width + 1 - len(prompt))] for prompt in chunk])
    cache = DynamicCache()
    slots.model(
        input_ids=ids.to(slots.device),
        attention_mask=torch.ones_like(ids).to(slots.device),
        position_ids=torch.arange(width, device=slots.device)[None],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return cache, ready
