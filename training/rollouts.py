"""Rollouts: what a policy answered to a batch of prompts, and what the judges say of it.

`sample` draws the responses, `judge` adds what PPO learns from: log-probs under the reference policy, scores of the
reward model, values of the value model. All without gradients, a microbatch at a time.

The reward model reads the response as a labeler would: its text, tokenised as in training, without special tokens that
the policy may have sampled and that nobody sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training import engine, model, tokenizer


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn."""

    max_new_tokens: int
    temperature: float  # every log-prob of a response, old, new or of the reference, is taken at this temperature
    batch_size: int  # responses decoded at once; changes the speed and not the responses


@dataclass(frozen=True)
class Sampled:
    """B responses to B prompts, P tokens the longest prompt, R the longest response."""

    input_ids: Tensor  # (B, P + R) int: the prompt padded on the left, then the response padded on the right
    is_token: Tensor  # (B, P + R) bool: not padding
    is_response: Tensor  # (B, R) bool: the policy chose this token, its end-of-sequence token included
    old_logprobs: Tensor  # (B, R) under the policy that sampled; 0 on padding
    ended: Tensor  # (B,) bool: the response came to its end-of-sequence token

    @property
    def response_ids(self) -> list[list[int]]:
        """The response tokens of each row, without padding."""
        width = self.is_response.shape[1]
        rows = zip(self.input_ids[:, -width:].tolist(), self.is_response.sum(1).tolist(), strict=True)
        return [ids[:length] for ids, length in rows]

    def texts(self, tokens: PreTrainedTokenizerBase) -> list[str]:
        """The responses as a labeler reads them."""
        return [tokenizer.response_text(tokens, ids) for ids in self.response_ids]

    def rows(self, index: Tensor) -> Self:
        """The same, of some rows only, without the columns that are padding in all of them."""
        width = int(self.is_response[index].sum(1).max())
        prompt_width = self.is_token.shape[1] - self.is_response.shape[1]
        first = int(self.is_token[index, :prompt_width].any(0).int().argmax())  # where the longest prompt starts

        def cut(name: str) -> Tensor:
            value = getattr(self, name)[index]
            if name in ("input_ids", "is_token"):
                return value[:, first : prompt_width + width]
            return value[:, :width] if value.ndim == 2 else value

        return replace(self, **{field.name: cut(field.name) for field in fields(self)})

    def batches(self, index: Tensor, size: int) -> list[Tensor]:
        """The rows `index`, so many at a time, those of like length together, so that little is padding."""
        lengths = self.is_token[index].sum(1)
        return list(index[lengths.argsort(stable=True)].split(size))

    def measured(self, size: int, measure: Callable[[Self], Tensor]) -> Tensor:
        """(B, R) what `measure` says of the response tokens, `size` rows at a time; 0 on padding."""
        result = torch.zeros_like(self.old_logprobs)
        for rows in self.batches(torch.arange(len(self.ended), device=self.ended.device), size):
            part = self.rows(rows)
            result[rows, : part.is_response.shape[1]] = measure(part)
        return result.masked_fill(~self.is_response, 0)


@dataclass(frozen=True)
class Rollouts(Sampled):
    """Sampled responses and what the judges say of them."""

    ref_logprobs: Tensor  # (B, R) under the reference policy; 0 on padding
    scores: Tensor  # (B,) of the whole response, as the reward model gives them
    values: Tensor  # (B, R) expected return before each response token is chosen; 0 on padding

    @property
    def kl(self) -> Tensor:
        """(B,) log-ratio of policy to reference summed over the response: its mean estimates the KL in nats."""
        return (self.old_logprobs - self.ref_logprobs).sum(1)


def sample(
    policy: PreTrainedModel,
    tokens: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    generator: torch.Generator,
) -> Sampled:
    """One response to each prompt (token ids up to where the response starts)."""
    samples = engine.sample(
        policy,
        prompts,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        eos_id=tokens.eos_token_id,
        pad_id=tokens.pad_token_id,
        generator=generator,
        batch_size=sampling.batch_size,
    )
    return assemble(prompts, samples, tokens.pad_token_id, policy.device)


def assemble(prompts: Sequence[Sequence[int]], samples: engine.Samples, pad_id: int, device: torch.device) -> Sampled:
    """Prompts and their responses as tensors."""
    prompt_ids, is_prompt = engine.padded_left(prompts, pad_id, device)
    response_ids, is_response = padded_right(samples.response_ids, pad_id, device)
    old_logprobs, _ = padded_right(samples.logprobs, 0.0, device)
    return Sampled(
        input_ids=torch.cat([prompt_ids, response_ids], 1),
        is_token=torch.cat([is_prompt, is_response], 1),
        is_response=is_response,
        old_logprobs=old_logprobs,
        ended=torch.tensor(samples.ended, device=device),
    )


def judge(
    sampled: Sampled,
    tokens: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    reference: PreTrainedModel,
    reward_model: PreTrainedModel,
    value_model: PreTrainedModel,
    temperature: float,
    microbatch: int,
) -> Rollouts:
    """Add what the frozen judges and the value model say of responses to these prompts."""
    return Rollouts(
        **{field.name: getattr(sampled, field.name) for field in fields(sampled)},
        ref_logprobs=logprobs(reference, sampled, temperature=temperature, microbatch=microbatch),
        scores=scores(reward_model, tokens, prompts, sampled.texts(tokens), microbatch=microbatch),
        values=values(value_model, sampled, microbatch=microbatch),
    )


@torch.no_grad()
def logprobs(policy: PreTrainedModel, sampled: Sampled, *, temperature: float, microbatch: int) -> Tensor:
    """(B, R) log-prob of each response token under another policy; 0 on padding."""

    def measure(part: Sampled) -> Tensor:
        found = model.logprobs_of(policy, part.input_ids, part.is_token, temperature)
        return found[:, -part.is_response.shape[1] :]

    return sampled.measured(microbatch, measure)


@torch.no_grad()
def values(value_model: PreTrainedModel, sampled: Sampled, *, microbatch: int) -> Tensor:
    """(B, R) what the value model expects before each response token is chosen; 0 on padding."""
    return sampled.measured(microbatch, lambda part: response_values(value_model, part))


def response_values(value_model: PreTrainedModel, sampled: Sampled) -> Tensor:
    """(B, R) the value at the token before each response token: what was known when it was chosen. With gradients."""
    width = sampled.is_response.shape[1]
    return model.token_values(value_model, sampled.input_ids, sampled.is_token)[:, -width - 1 : -1]


@torch.no_grad()
def scores(
    reward_model: PreTrainedModel,
    tokens: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[str],
    *,
    microbatch: int,
) -> Tensor:
    """(B,) the reward model's score of each response text to its prompt (token ids)."""
    sequences = [[*prompt, *tokenizer.response_ids(tokens, text)] for prompt, text in zip(prompts, texts, strict=True)]
    found = torch.zeros(len(sequences), device=reward_model.device)
    by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for start in range(0, len(sequences), microbatch):
        rows = by_length[start : start + microbatch]
        part = padded_right([sequences[i] for i in rows], tokens.pad_token_id, reward_model.device)
        found[rows] = reward_scores(reward_model, *part)
    return found


def reward_scores(reward_model: PreTrainedModel, input_ids: Tensor, is_token: Tensor) -> Tensor:
    """(B,) scores of whole sequences, shifted so that the demonstrations score 0 on average.

    The shift is `score_offset` in the reward model's config: the scalar heads of transformers have no bias.
    """
    return model.scores(reward_model, input_ids, is_token) - getattr(reward_model.config, "score_offset", 0.0)


def padded_right(
    sequences: Sequence[Sequence[int]] | Sequence[Sequence[float]], fill: int | float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(rows, longest) of the type of `fill`, padded on the right, and a mask: True where there is no padding."""
    width = max(len(sequence) for sequence in sequences)
    padded = torch.tensor([[*sequence, *[fill] * (width - len(sequence))] for sequence in sequences])
    is_there = torch.arange(width) < torch.tensor([len(sequence) for sequence in sequences])[:, None]
    return padded.to(device), is_there.to(device)
