"""Rollouts: what a policy answered to a batch of prompts, and what models say of it.

`sample` draws the responses; `logprobs`, `values` and `scores` are what a policy, a value model and a reward model say
of them, without gradients. `response_logprobs` and `response_values` are the same of one microbatch, with gradients.

A forward pass takes rows of like length, so that under 10 % of its tokens are padding, each prompt joined to its
response and padded on the right, and makes logits for response positions alone. Of several processes each computes a
part of the passes, and all have the whole.

The reward model reads the response as a labeler would: its text, tokenised as in training, without special tokens that
the policy may have sampled and that nobody sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training import engine, model, parallel, tokenizer
from training.engine import padded_right
from training.scoring import groups_of_like_length
from training.sharding import gathered

T = TypeVar("T")


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

    def groups(self, most: int, index: Tensor | None = None) -> list[Tensor]:
        """The rows `index`, or all, in groups of like length: at most so many in each, under 10 % of it padding."""
        if index is None:
            index = torch.arange(len(self.ended), device=self.ended.device)
        groups = groups_of_like_length(self.is_token[index].sum(1).tolist())
        return [part for group in groups for part in index[group].split(most)]

    def sequences(self) -> tuple[Tensor, Tensor]:
        """(B, longest) prompt and response joined and padded on the right, and True where a response token stands."""
        prompt_width = self.is_token.shape[1] - self.is_response.shape[1]
        first, lengths = self.is_token.int().argmax(1, keepdim=True), self.is_token.sum(1, keepdim=True)
        places = torch.arange(int(lengths.max()), device=self.input_ids.device)
        is_there = places < lengths
        ids = self.input_ids.gather(1, (first + places).clamp(max=self.input_ids.shape[1] - 1))
        return ids.masked_fill(~is_there, 0), is_there & (first + places >= prompt_width)

    def spread(self, numbers: Tensor) -> Tensor:
        """(B, R) of (N,) numbers of the response tokens, row after row: each at its token, 0 on padding."""
        zeros = torch.zeros(self.is_response.shape, dtype=numbers.dtype, device=numbers.device)
        return zeros.masked_scatter(self.is_response, numbers)

    def measured(
        self, groups: Sequence[Tensor], measure: Callable[[Self], tuple[Tensor, ...]], numbers: int = 1
    ) -> list[Tensor]:
        """(B, R) each, the numbers that `measure` gives for the rows of a group; the groups hold every row once."""
        found = [torch.zeros_like(self.old_logprobs) for _ in range(numbers)]
        for rows in parallel.mine(groups):
            for whole, measured in zip(found, measure(self.rows(rows)), strict=True):
                whole[rows, : measured.shape[1]] = measured
        return [parallel.summed(whole) for whole in found]


@dataclass(frozen=True)
class Rollouts(Sampled):
    """Sampled responses and what the judges say of them. `old_logprobs` are those of a forward pass of the trainer."""

    engine_logprobs: Tensor  # (B, R) of the sampler, which took one token at a time; 0 on padding
    entropy: Tensor  # (B, R) nats, of the distribution each response token was drawn from; 0 on padding
    ref_logprobs: Tensor  # (B, R) under the reference policy; 0 on padding
    scores: Tensor  # (B,) what the whole response is worth
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
    with gathered(policy) as whole:
        samples = engine.sample(
            whole,
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


@torch.no_grad()
def logprobs(policy: PreTrainedModel, sampled: Sampled, *, temperature: float, microbatch: int) -> Tensor:
    """(B, R) log-prob of each response token under a policy; 0 on padding."""
    return logprobs_in(sampled.groups(microbatch), policy, sampled, temperature=temperature)


@torch.no_grad()
def logprobs_in(groups: Sequence[Tensor], policy: PreTrainedModel, sampled: Sampled, *, temperature: float) -> Tensor:
    """`logprobs` with the microbatches given: what is computed in the same ones is equal to the last bit."""
    with gathered(policy) as whole:
        return sampled.measured(groups, lambda part: (response_logprobs(whole, part, temperature),))[0]


@torch.no_grad()
def logprobs_and_entropy_in(
    groups: Sequence[Tensor], policy: PreTrainedModel, sampled: Sampled, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """`logprobs_in`, and (B, R) the entropy in nats of the distribution each token was drawn from; 0 on padding."""

    def measure(part: Sampled) -> tuple[Tensor, ...]:
        ids, is_response = part.sequences()
        found = model.logprobs_and_entropy_at(whole, ids, None, is_response, temperature)
        return tuple(part.spread(numbers) for numbers in found)

    with gathered(policy) as whole:
        logprobs, entropy = sampled.measured(groups, measure, numbers=2)
    return logprobs, entropy


@torch.no_grad()
def values_in(groups: Sequence[Tensor], value_model: PreTrainedModel, sampled: Sampled) -> Tensor:
    """(B, R) what the value model expects before each response token is chosen; 0 on padding."""
    with gathered(value_model) as whole:
        return sampled.measured(groups, lambda part: (response_values(whole, part),))[0]


def response_logprobs(policy: PreTrainedModel, sampled: Sampled, temperature: float) -> Tensor:
    """(B, R) log-prob of each response token; 0 on padding. In one forward pass, with gradients."""
    ids, is_response = sampled.sequences()
    return sampled.spread(model.logprobs_at(policy, ids, None, is_response, temperature))


def response_values(value_model: PreTrainedModel, sampled: Sampled) -> Tensor:
    """(B, R) the value at the token before each response token: what was known when it was chosen; 0 on padding.

    In one forward pass, with gradients.
    """
    ids, is_response = sampled.sequences()
    return sampled.spread(model.token_values(value_model, ids, None)[:, :-1][is_response[:, 1:]])


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
    rows = [[*prompt, *tokenizer.response_ids(tokens, text)] for prompt, text in zip(prompts, texts, strict=True)]
    found = torch.zeros(len(rows), device=reward_model.device)
    groups = groups_of_like_length([len(row) for row in rows])
    with gathered(reward_model) as whole:
        for part in parallel.mine([part for group in groups for part in torch.tensor(group).split(microbatch)]):
            padded = padded_right([rows[i] for i in part], tokens.pad_token_id, whole.device)
            found[part] = reward_scores(whole, *padded)
    return parallel.summed(found)


def reward_scores(reward_model: PreTrainedModel, input_ids: Tensor, is_token: Tensor) -> Tensor:
    """(B,) scores of whole sequences padded on the right, shifted so that the demonstrations score 0 on average.

    Read at the last token, the end of the response. The shift is `score_offset` in the reward model's config: the
    scalar heads of transformers have no bias.
    """
    found = model.token_values(reward_model, input_ids, None).gather(1, is_token.sum(1, keepdim=True) - 1).squeeze(1)
    return found - getattr(reward_model.config, "score_offset", 0.0)


def prompts_of_step(prompts: Sequence[T], size: int, step: int, *, seed: int) -> list[T]:
    """So many prompts for one step: they pass by in a new order in each epoch, and none comes twice before all came."""
    chosen: list[T] = []
    for place in range(step * size, (step + 1) * size):
        epoch, index = divmod(place, len(prompts))
        if not chosen or index == 0:
            order = torch.randperm(len(prompts), generator=engine.generator_at(seed, "prompts", epoch)).tolist()
        chosen.append(prompts[order[index]])
    return chosen
