"""PPO's updates: what policy and value model learn from one batch of rollouts.

Learns  clipped policy and value losses (Schulman et al. 2017) by AdamW, several passes over the batch, each in a new
        order; beside them, where asked for, the text of ptx.py

An optimizer step is that of one minibatch. Its losses are means over the minibatch's response tokens, however it is cut
into microbatches and shared among processes, so both change memory and time and not the result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from training import parallel, ptx, sharding
from training.engine import generator_at
from training.losses import clipped_policy_loss, clipped_share, clipped_value_loss, update_kl
from training.model import layers_recomputed
from training.ppo_models import Models
from training.rollouts import Rollouts, Sampled, response_logprobs, response_values

MEASURED = {"value": ("value_loss",), "policy": ("policy_loss", "clip_fraction", "update_kl")}  # of each learner
ADAM_EPS = 1e-5  # as in the original implementations; 1e-8 learns measurably otherwise (Huang et al. 2024, detail 5)


class Config(Protocol):
    """The options of `ppo` that count for its updates."""

    steps: int
    batch_size: int
    minibatch_size: int
    microbatch: int
    epochs: int
    temperature: float
    learning_rate: float
    value_learning_rate: float
    lr_schedule: Literal["linear", "constant"]
    warmup: int
    value_warmup: int
    clip: float
    dual_clip: float | None
    value_clip: float
    value_coef: float
    max_grad_norm: float
    target_update_kl: float | None
    gradient_checkpointing: bool
    ema: float | None
    seed: int


def make_optimizer(models: Models, config: Config) -> torch.optim.Optimizer:
    """AdamW without decay over what is trained of policy and value model, a group each."""
    groups = [
        {"params": trained(models.policy), "lr": config.learning_rate},
        {"params": trained(models.value), "lr": config.value_learning_rate},
    ]
    return torch.optim.AdamW(groups, eps=ADAM_EPS, weight_decay=0.0)


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def set_learning_rates(optimizer: torch.optim.Optimizer, config: Config, step: int) -> None:
    """The learning rates of a step, counted from 0: a line up over `warmup` steps, and a line down to 0 at the end."""
    share = 1.0 if config.lr_schedule == "constant" else 1 - step / config.steps
    if config.warmup:
        share *= min(1.0, (step + 1) / config.warmup)
    for group, rate in zip(optimizer.param_groups, (config.learning_rate, config.value_learning_rate), strict=True):
        group["lr"] = rate * share


def first_microbatches(sampled: Sampled, config: Config, step: int) -> list[Tensor]:
    """The microbatches of the first pass over a step's batch: every row once."""
    return [
        rows
        for minibatch in minibatches(config, step, epoch=0, device=sampled.input_ids.device)
        for rows in microbatches(sampled, minibatch, config)
    ]


def microbatches(sampled: Sampled, minibatch: Tensor, config: Config) -> list[Tensor]:
    """A minibatch in parts for one forward pass each, small enough that each process gets one."""
    each = -(-len(minibatch) // parallel.count())
    return sampled.groups(min(config.microbatch, each), minibatch)


def minibatches(config: Config, step: int, epoch: int, device: torch.device) -> Sequence[Tensor]:
    """The rows of each minibatch of a pass: the whole batch in an order of its own."""
    order = torch.randperm(config.batch_size, generator=generator_at(config.seed, "minibatches", step, epoch))
    return order.to(device).split(config.minibatch_size)


def improve(
    models: Models,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    advantages: Tensor,
    returns: Tensor,
    config: Config,
    step: int,
    accelerator: Accelerator,
    *,
    mix: ptx.Mix | None = None,
    average: Sequence[Tensor] = (),
) -> dict[str, float]:
    """The updates of one step's batch; returns the means over them of what was measured on the way.

    The first `value_warmup` steps teach the value model alone. The passes end before an update whose minibatch finds
    the policy further than `target_update_kl` from the one that sampled. `mix` is text whose gradient is added to the
    policy's; `average` is a moving average of the policy's weights, changed in place.
    """
    learners: dict[str, PreTrainedModel] = {"value": models.value}
    if step >= config.value_warmup:
        learners["policy"] = models.policy
    totals: dict[str, float] = defaultdict(float)
    first, updates = {}, 0
    for minibatch in passes(config, step, advantages.device):
        measured = add_gradients(learners, rollouts, minibatch, advantages, returns, config, accelerator)
        gap = measured.pop("ratio_gap")
        if "policy" in learners:
            if updates == 0:
                check_first_ratio(gap, 1e-3 if accelerator.mixed_precision == "no" else 0.2)
                first = {"ratio_first": 1 + gap}
            if config.target_update_kl is not None and measured["update_kl"] > config.target_update_kl:
                optimizer.zero_grad()
                break
            if mix is not None:
                text = mix.of_update(step * updates_per_step(config) + updates)
                with recomputing(models.policy, config):
                    measured |= ptx.add_gradient(models.policy, text, mix.coef, config.microbatch, accelerator)
        for name, model in learners.items():
            norm = accelerator.clip_grad_norm_(trained(model), config.max_grad_norm)
            measured[f"{name}_grad_norm"] = sharding.whole(norm).item()
        optimizer.step()
        optimizer.zero_grad()
        if average and "policy" in learners:
            with torch.no_grad():
                torch._foreach_lerp_(list(average), trained(models.policy), 1 - config.ema)
        updates += 1
        for name, value in measured.items():
            totals[name] += value
    return {name: total / updates for name, total in totals.items()} | first | {"updates": updates}


def updates_per_step(config: Config) -> int:
    """Optimizer steps on one batch, unless they end early."""
    return config.epochs * config.batch_size // config.minibatch_size


def passes(config: Config, step: int, device: torch.device) -> Iterator[Tensor]:
    """The minibatches of all passes over a step's batch."""
    for epoch in range(config.epochs):
        yield from minibatches(config, step, epoch, device)


def add_gradients(
    learners: Mapping[str, PreTrainedModel],
    rollouts: Rollouts,
    minibatch: Tensor,
    advantages: Tensor,
    returns: Tensor,
    config: Config,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Give the learners the gradients of a minibatch's losses, and return what was measured: means over its tokens.

    Every process computes its part of the microbatches, and all get the whole. The two learners have nothing in common
    but what they read, so on a CPU each learns on its own cores.
    """
    response_tokens = rollouts.is_response[minibatch].sum()
    names = ["real", "computed", *(name for learner in learners for name in MEASURED[learner])]
    totals = {name: torch.zeros((), device=advantages.device) for name in names}
    gap = torch.zeros((), device=advantages.device)
    parts = []  # rollouts, which rows they are, and the share of their loss in the minibatch's
    for rows, counts in parallel.in_step(microbatches(rollouts, minibatch, config)):
        part = rollouts.rows(rows)
        parts.append((part, rows, counts * part.is_response.sum() / response_tokens))
        lengths = part.is_token.sum(1)
        totals["real"] += counts * lengths.sum()
        totals["computed"] += counts * lengths.max() * len(lengths)

    def learn(name: str) -> None:
        nonlocal gap
        if name not in learners:
            return
        for part, rows, share in parts:
            width = part.is_response.shape[1]
            with accelerator.autocast(), recomputing(learners[name], config):
                if name == "policy":
                    loss, measured = policy_loss(learners[name], part, advantages[rows, :width], config)
                    gap = torch.maximum(gap, measured.pop("ratio_gap"))
                else:
                    loss, measured = value_loss(learners[name], part, returns[rows, :width], config)
            accelerator.backward(loss * share)
            for key, value in measured.items():
                totals[key] += value * share

    parallel.side_by_side(lambda: learn("value"), lambda: learn("policy"))
    for model in learners.values():
        parallel.sum_gradients(trained(model))
    *sums, own_gap = torch.stack([*totals.values(), gap]).tolist()
    found = dict(zip(totals, parallel.total(*sums), strict=True))
    found["padding"] = 1 - found.pop("real") / found.pop("computed")
    return found | {"ratio_gap": parallel.largest(own_gap)[0]}


def recomputing(model: PreTrainedModel, config: Config) -> AbstractContextManager[None]:
    """Inside, the model's layers keep only their inputs, where the configuration asks for it."""
    return layers_recomputed(model) if config.gradient_checkpointing else nullcontext()


def value_loss(
    model: PreTrainedModel, part: Rollouts, returns: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """The value model's loss on a microbatch, a mean over its response tokens, and what to report of it."""
    values = response_values(model, part)
    loss = clipped_value_loss(values, part.values, returns, part.is_response, clip=config.value_clip)
    return config.value_coef * loss, {"value_loss": loss.detach()}


def policy_loss(
    model: PreTrainedModel, part: Rollouts, advantages: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """The policy's loss on a microbatch, a mean over its response tokens, and what to report of it."""
    logprobs, old, where = response_logprobs(model, part, config.temperature), part.old_logprobs, part.is_response
    loss = clipped_policy_loss(logprobs, old, advantages, where, clip=config.clip, dual_clip=config.dual_clip)
    found = logprobs.detach()
    return loss, {
        "policy_loss": loss.detach(),
        "clip_fraction": clipped_share(found, old, where, clip=config.clip),
        "update_kl": update_kl(found, old, where),
        "ratio_gap": ((found - old).masked_fill(~where, 0).exp() - 1).abs().max(),
    }


def check_first_ratio(gap: float, most: float = 1e-3) -> None:
    """Before any update the new policy is the old one, so each ratio is 1, but for rounding where kernels differ.

    Raises:
        ArithmeticError: it is not: the policy's log-probs changed between two looks at the same responses.
    """
    if not gap <= most:
        raise ArithmeticError(
            f"The first minibatch has a probability ratio {gap:.2g} off 1: two looks at the same responses disagree "
            "about the policy (dropout, precision, temperature, masks or positions), and PPO would learn from the "
            "difference. Nothing of this batch was learned."
        )
