"""The models of PPO: a policy and a value model that learn, a reference and judges that do not.

Reads   checkpoints: a policy to start from, the reference policy, reward models
Writes  nothing; `ppo` stores the policy

All are in eval mode at all times: dropout is off in training as in sampling, since it would make the policy that learns
another than the one that sampled. With LoRA one backbone in memory serves as policy and, its adapter switched off, as
reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.errors import InvalidInput
from data.records import Prompt
from data.workspace import Workspace
from training import checkpoints, lora, parallel, rewards, sharding, tokenizer
from training.model import load_policy, load_scalar, scalar_from_policy
from training.rewards import Rewards, ScoreUnit
from training.rollouts import Rollouts, Sampled, logprobs_and_entropy_in, logprobs_in, values_in


class Config(Protocol):
    """The options of `ppo` that say which models there are."""

    init: str
    reference: str
    reward: str
    reward_weight: float
    value_init: Literal["reward", "reference"] | None
    lora_rank: int
    lora_alpha: float
    lora_targets: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Models:
    """The models of one run, and the tokenizer that all of them share."""

    policy: PreTrainedModel
    reference: PreTrainedModel  # frozen; with LoRA the policy itself, see `reference_logprobs`
    rewards: Rewards  # frozen
    value: PreTrainedModel
    tokens: PreTrainedTokenizerBase


def load(config: Config, judges: dict[str, Any], workspace: Workspace, device: torch.device) -> Models:
    """The models on the device, frozen where they judge. `judges` are the options of `rewards.load`.

    Raises:
        InvalidInput: they do not share one vocabulary, so that one's tokens would be nonsense to another; or the value
            model is to start from a reward model and there is none.
    """
    init, reference = checkpoints.resolve(config.init, workspace), checkpoints.resolve(config.reference, workspace)
    tokens = tokenizer.load(init)
    tokenizer.require_shared(tokens, reference, "reference")
    loaded_rewards = rewards.load(**judges, workspace=workspace, tokens=tokens, device=device)
    torch.manual_seed(config.seed)
    if not starts_as_reward_model(config, loaded_rewards):
        value = scalar_from_policy(reference, tokens, zero_head=True)
    elif loaded_rewards.models:
        value = load_scalar(checkpoints.resolve(next(iter(loaded_rewards.models)), workspace))
    else:
        raise InvalidInput("There is no reward model for the value model to start from: give --value-init reference.")
    policy = load_policy(init, tokens)
    if config.lora_rank:
        lora.require_same_start(init, reference)
        frozen = policy
    else:
        frozen = load_policy(reference, tokens).requires_grad_(False)
    value.score = with_bias(value.score)
    for model in (policy, value):
        lora.with_adapter(model, rank=config.lora_rank, alpha=config.lora_alpha, targets=config.lora_targets)
    for model in (policy, frozen, value):
        sharding.place(model.eval(), device)
    return Models(policy, frozen, loaded_rewards, value, tokens)


def starts_as_reward_model(config: Config, judges: Rewards) -> bool:
    """Whether the value model starts as the first reward model: as asked, and else where there is one."""
    return config.value_init == "reward" or (config.value_init is None and bool(judges.models))


def judge(
    models: Models,
    sampled: Sampled,
    prompts: Sequence[tuple[Prompt, Sequence[int]]],
    groups: Sequence[Tensor],
    *,
    temperature: float,
    microbatch: int,
) -> tuple[Rollouts, dict[str, float]]:
    """Add what the models say of responses to these prompts; and the means of what the judges found, by name.

    The policy's own log-probs are computed again, in the microbatches `groups` in which it will first learn: an update
    that changed nothing would find a probability ratio of exactly 1, whatever the precision of the sampler.
    """

    def by_policies() -> tuple[Tensor, Tensor, Tensor]:
        own = logprobs_and_entropy_in(groups, models.policy, sampled, temperature=temperature)
        return *own, reference_logprobs(models, groups, sampled, temperature=temperature)

    def by_judges() -> tuple[dict[str, Tensor], Tensor]:
        asked, ids = [prompt for prompt, _ in prompts], [ids for _, ids in prompts]
        found = models.rewards.parts(asked, ids, sampled.texts(models.tokens), microbatch=microbatch)
        return found, values_in(groups, models.value, sampled)

    (old_logprobs, entropy, ref_logprobs), (found, values) = parallel.side_by_side(by_policies, by_judges)
    kept = {field.name: getattr(sampled, field.name) for field in fields(sampled)}
    judged = Rollouts(
        **(kept | {"old_logprobs": old_logprobs}),
        engine_logprobs=sampled.old_logprobs,
        entropy=entropy,
        ref_logprobs=ref_logprobs,
        scores=found["reward"],
        values=values,
    )
    return judged, {name: numbers.mean().item() for name, numbers in found.items()}


def reference_logprobs(models: Models, groups: Sequence[Tensor], sampled: Sampled, *, temperature: float) -> Tensor:
    """(B, R) log-prob of each response token under the reference policy; 0 on padding."""
    with sharding.gathered(models.reference) as whole, lora.without_adapter(whole) as reference:
        return logprobs_in(groups, reference, sampled, temperature=temperature)


def with_bias(head: nn.Linear) -> nn.Linear:
    """A scalar head that computes the same and can learn a constant; those of transformers have none."""
    new = nn.Linear(head.in_features, 1)
    with torch.no_grad():
        new.weight.copy_(head.weight)
        new.bias.zero_()
    return new


@torch.no_grad()
def speak_in_units(value: PreTrainedModel, unit: ScoreUnit, reward_weight: float) -> None:
    """Make a value model that speaks a reward model's raw scores, and has a bias, predict what they are worth."""
    scale = reward_weight / unit.std
    value.score.weight *= scale
    value.score.bias.fill_(-scale * (unit.mean + getattr(value.config, "score_offset", 0.0)))
