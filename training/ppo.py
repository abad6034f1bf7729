"""PPO: move the policy towards what the reward model scores high, without leaving the reference policy far behind.

Reads   a snapshot's training prompts; a policy to start from, the reference policy, a reward model
Writes  a checkpoint of the policy; metrics.jsonl with one line per step; samples.jsonl with some responses of each
        step; states to resume from, so that a run killed at any moment ends with the weights it would have had
Learns  clipped policy and value losses (Schulman et al. 2017) on the reward model's score of a whole response minus
        kl_coef times the per-token log-ratio to the reference policy (Ziegler et al. 2019; Stiennon et al. 2020)

Scores are put in units first: the reference's own responses to training prompts are sampled and scored once, and their
mean and standard deviation become 0 and 1. So one kl_coef serves whatever scale the reward model came out with.

    python -m training ppo --snapshot var/snapshots/3f9a12c0be77d2a1 --init sft-0001 --reference sft-0001 \
        --reward reward-0001 --steps 100
"""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data import datasets, snapshots
from data.errors import InvalidInput
from data.records import Prompt
from data.runs import RunFolder, write_whole
from data.workspace import Workspace
from training import checkpoints, tokenizer
from training.advantages import explained_variance, gae, token_rewards, whiten
from training.engine import generator_at
from training.losses import clipped_policy_loss, clipped_share, clipped_value_loss, masked_mean
from training.metrics import Cancelled, Progress
from training.model import load_policy, load_scalar, logprobs_and_entropy, scalar_from_policy
from training.rollouts import Rollouts, Sampled, Sampling, judge, response_values, sample, scores

SAMPLES_SHOWN = 4  # responses of each step that go into samples.jsonl


@dataclass(frozen=True)
class Config:
    snapshot: Path  # whose training prompts are answered
    init: str  # policy to start from
    reference: str  # SFT checkpoint that the KL is measured from
    reward: str  # reward checkpoint
    steps: int = 100  # batches of rollouts
    batch_size: int = 128  # responses sampled per step, one per prompt
    minibatch_size: int = 128  # responses per optimizer step; batch_size / minibatch_size * epochs steps per batch
    microbatch: int = 32  # responses in one forward pass; changes the memory and not the result
    epochs: int = 4  # passes over each batch
    max_new_tokens: int = 128  # a response without end by then is cut off
    max_prompt_tokens: int = 512  # longer prompts are left out
    temperature: float = 1.0  # of sampling; all log-probs are taken at it
    learning_rate: float = 3e-6  # of the policy; falls to 0 in a line
    value_learning_rate: float = 1e-5  # of the value model; falls to 0 in a line
    kl_coef: float = 0.05  # per-token penalty, where scores have standard deviation 1; the first value when adaptive
    kl_target: float | None = None  # nats per response that kl_coef is adapted to; none: kl_coef is fixed
    kl_horizon: int = 10_000  # responses over which the adaptation works (Ziegler et al. 2019)
    stop_kl: float | None = None  # end the run early when a batch's KL per response exceeds this
    clip: float = 0.2  # of the policy's probability ratio
    value_clip: float = 0.2  # of a value's move, in units of the reference's standard deviation
    value_coef: float = 0.5  # weight of the value loss
    gamma: float = 1.0  # discount
    lam: float = 0.95  # GAE's lambda
    missing_end_score: float = -1.0  # replaces the score of a response that was cut off, or the batch's least if lower
    value_init: Literal["reward", "reference"] = "reward"  # the reward model, or the SFT model with a head of zeros
    max_grad_norm: float = 1.0  # of the policy's and of the value model's gradient, each
    save_every: int = 10  # steps between states to resume from
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "minibatch_size", "microbatch", "epochs", "max_new_tokens", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if self.batch_size % self.minibatch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of minibatch_size {self.minibatch_size}: "
                "the last minibatch of each pass would be smaller and weigh more per response."
            )


@dataclass(frozen=True)
class Models:
    """The four models of PPO. All are in eval mode at all times: dropout is off in training as in sampling."""

    policy: PreTrainedModel
    reference: PreTrainedModel  # frozen
    reward: PreTrainedModel  # frozen
    value: PreTrainedModel
    tokens: PreTrainedTokenizerBase


@dataclass(frozen=True)
class ScoreUnit:
    """The mean and standard deviation of the scores of the reference's own responses."""

    mean: float
    std: float

    def convert(self, found: Tensor) -> Tensor:
        """Scores with the reference's mean at 0 and its standard deviation at 1."""
        return (found - self.mean) / self.std


def main(config: Config, run: RunFolder, workspace: Workspace) -> None:
    """Train and save; see `learn` for the algorithm."""
    accelerator = Accelerator()
    snapshot = snapshots.load(config.snapshot)
    models = load_models(config, workspace, accelerator.device)
    prompts = encoded_prompts(datasets.prompts(snapshot, "train"), models.tokens, config.max_prompt_tokens)
    if not prompts:
        raise InvalidInput(
            f"Snapshot {snapshot.hash} has no training prompt of {config.max_prompt_tokens} tokens or less."
        )
    metrics = learn(models, prompts, config, run, accelerator)
    names = [config.init, config.reference, config.reward]
    parents = [checkpoints.name_of(checkpoints.resolve(name, workspace), name) for name in names]
    checkpoints.save(
        workspace.checkpoints,
        run.id,
        stage="ppo",
        parents=tuple(dict.fromkeys(parents)),
        snapshot=snapshot.hash,
        model=models.policy,
        tokenizer=models.tokens,
        config=asdict(config),
        metrics=metrics,
        seed=config.seed,
    )
    shutil.rmtree(run.path / "states", ignore_errors=True)  # nothing is left to resume
    run.update(state="done", checkpoint=run.id, progress=1.0, metrics=metrics)


def learn(
    models: Models,
    prompts: list[tuple[Prompt, list[int]]],
    config: Config,
    run: RunFolder,
    accelerator: Accelerator,
) -> dict[str, float]:
    """The algorithm. Returns the numbers of the last step."""
    optimizer = make_optimizer(models, config)
    trained = {"policy": models.policy, "value": models.value}
    progress = Progress(run, "ppo", config.steps)
    state = checkpoints.load_state(run.path, models=trained, optimizers={"both": optimizer})
    start, extra = state or (0, first_state(models, prompts, config))
    unit, kl_coef, numbers = ScoreUnit(**extra["unit"]), extra["kl_coef"], extra["numbers"]
    forget_samples_after(run, start)
    run.drop_metrics_after(start)

    for step in range(start, config.steps):
        if config.stop_kl is not None and numbers.get("kl", 0.0) > config.stop_kl:
            print(f"ppo: ended early, {numbers['kl']:.1f} nats per response are over stop_kl {config.stop_kl}")
            break
        began = time.monotonic()
        set_learning_rates(optimizer, config, done=step / config.steps)
        chosen = prompts_of_step(prompts, config, step)
        rollouts = roll_out(models, [ids for _, ids in chosen], config, step)
        sampled_at = time.monotonic()
        outcomes = outcomes_of(rollouts, unit, config)
        rewards = token_rewards(
            outcomes, rollouts.old_logprobs, rollouts.ref_logprobs, rollouts.is_response, kl_coef=kl_coef
        )
        advantages, returns = gae(rewards, rollouts.values, rollouts.is_response, gamma=config.gamma, lam=config.lam)
        advantages = whiten(advantages, rollouts.is_response)
        stats = improve(models, optimizer, rollouts, advantages, returns, config, step, accelerator)

        numbers = describe(rollouts, unit, returns) | stats | {"kl_coef": kl_coef}
        times = {"rollout_seconds": sampled_at - began, "update_seconds": time.monotonic() - sampled_at}
        progress.log(step + 1, **numbers, **times)
        append_samples(run, step + 1, chosen, rollouts, unit, models.tokens)
        kl_coef = adapted(kl_coef, numbers["kl"], config)
        if progress.stop_requested or (step + 1) % config.save_every == 0:
            extra = {"unit": asdict(unit), "kl_coef": kl_coef, "numbers": numbers}
            checkpoints.save_state(run.path, step + 1, models=trained, optimizers={"both": optimizer}, extra=extra)
        if progress.stop_requested:
            raise Cancelled(f"Stopped after step {step + 1} of {config.steps}; go on with --resume {run.id}.")
    return numbers


def improve(
    models: Models,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    advantages: Tensor,
    returns: Tensor,
    config: Config,
    step: int,
    accelerator: Accelerator,
) -> dict[str, float]:
    """PPO's updates on one batch, reshuffled in each epoch; returns the means of what was measured on the way.

    A minibatch's losses are means over its response tokens, whatever its microbatches: each microbatch is weighed by
    its share of them.
    """
    totals: dict[str, float] = defaultdict(float)
    for epoch in range(config.epochs):
        order = torch.randperm(len(returns), generator=generator_at(config.seed, "minibatches", step, epoch))
        for number, minibatch in enumerate(order.to(returns.device).split(config.minibatch_size)):
            tokens = rollouts.is_response[minibatch].sum()
            for rows in rollouts.batches(minibatch, config.microbatch):
                part = rollouts.rows(rows)
                width = part.is_response.shape[1]
                loss, measured = losses(models, part, advantages[rows, :width], returns[rows, :width], config)
                share = (part.is_response.sum() / tokens).item()
                accelerator.backward(loss * share)
                if epoch == number == 0:
                    check_first_ratio(measured["ratio_gap"])
                    totals["ratio_first"] = max(totals["ratio_first"], measured["ratio_gap"])
                for name in ("policy_loss", "value_loss", "clip_fraction", "entropy", "update_kl"):
                    totals[name] += measured[name] * share
            for name, model in (("policy", models.policy), ("value", models.value)):
                norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
                totals[f"{name}_grad_norm"] += norm.item()
            optimizer.step()
            optimizer.zero_grad()
    updates = config.epochs * len(returns) // config.minibatch_size
    ratio_first = 1 + totals.pop("ratio_first")
    return {name: total / updates for name, total in totals.items()} | {"ratio_first": ratio_first}


def losses(
    models: Models, part: Rollouts, advantages: Tensor, returns: Tensor, config: Config
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a microbatch, a mean over its response tokens, and what to report of it."""
    width = part.is_response.shape[1]
    logprobs, entropy = logprobs_and_entropy(models.policy, part.input_ids, part.is_token, config.temperature)
    logprobs, entropy = logprobs[:, -width:], entropy[:, -width:]
    values = response_values(models.value, part)
    policy_loss = clipped_policy_loss(logprobs, part.old_logprobs, advantages, part.is_response, clip=config.clip)
    value_loss = clipped_value_loss(values, part.values, returns, part.is_response, clip=config.value_clip)
    with torch.no_grad():
        log_ratio = (logprobs - part.old_logprobs).masked_fill(~part.is_response, 0)
        measured = {
            "policy_loss": policy_loss.item(),
            "value_loss": value_loss.item(),
            "entropy": masked_mean(entropy, part.is_response).item(),
            "clip_fraction": clipped_share(logprobs, part.old_logprobs, part.is_response, clip=config.clip).item(),
            "update_kl": masked_mean(log_ratio.exp() - 1 - log_ratio, part.is_response).item(),
            "ratio_gap": (log_ratio.exp() - 1).abs().max().item(),
        }
    return policy_loss + config.value_coef * value_loss, measured


def check_first_ratio(gap: float) -> None:
    """Before any update the new policy is the old one, so each ratio is 1 but for rounding.

    Raises:
        ArithmeticError: it is not: sampling and training do not compute the same distribution.
    """
    if gap > 1e-3:
        raise ArithmeticError(
            f"The first minibatch has a probability ratio {gap:.2g} off 1. Sampling and training disagree about the "
            "policy (precision, temperature, masks or positions), and PPO would learn from the difference."
        )


def load_models(config: Config, workspace: Workspace, device: torch.device) -> Models:
    """The four models, frozen where they are judges.

    Raises:
        InvalidInput: they do not share one vocabulary, so that one's tokens would be nonsense to another.
    """
    init, reference, reward = (
        checkpoints.resolve(name, workspace) for name in (config.init, config.reference, config.reward)
    )
    tokens = tokenizer.load(init)
    for name, path in (("reference", reference), ("reward", reward)):
        if tokenizer.load(path).get_vocab() != tokens.get_vocab():
            raise InvalidInput(f"The {name} model {path.name} has another vocabulary than the policy {init.name}.")
    reward_model = load_scalar(reward)
    torch.manual_seed(config.seed)
    if config.value_init == "reward":
        value_model = load_scalar(reward)
    else:
        value_model = scalar_from_policy(reference, tokens, zero_head=True)
    models = Models(load_policy(init, tokens), load_policy(reference, tokens), reward_model, value_model, tokens)
    for model in (models.policy, models.reference, models.reward, models.value):
        model.to(device).eval()
    for model in (models.reference, models.reward):
        model.requires_grad_(False)
    return models


def make_optimizer(models: Models, config: Config) -> torch.optim.Optimizer:
    """AdamW without decay over policy and value model; eps 1e-5 as in the original implementations."""
    groups = [
        {"params": list(models.policy.parameters()), "lr": config.learning_rate},
        {"params": list(models.value.parameters()), "lr": config.value_learning_rate},
    ]
    return torch.optim.AdamW(groups, eps=1e-5, weight_decay=0.0)


def set_learning_rates(optimizer: torch.optim.Optimizer, config: Config, *, done: float) -> None:
    """The learning rates when the share `done` of the steps is behind: a line down to 0."""
    for group, rate in zip(optimizer.param_groups, (config.learning_rate, config.value_learning_rate), strict=True):
        group["lr"] = rate * (1 - done)


def encoded_prompts(
    prompts: Sequence[Prompt], tokens: PreTrainedTokenizerBase, max_prompt_tokens: int
) -> list[tuple[Prompt, list[int]]]:
    """The prompts with their token ids, without those that are too long."""
    pairs = [(prompt, tokenizer.prompt_ids(tokens, prompt.messages)) for prompt in prompts]
    return [(prompt, ids) for prompt, ids in pairs if len(ids) <= max_prompt_tokens]


def prompts_of_step(
    prompts: list[tuple[Prompt, list[int]]], config: Config, step: int
) -> list[tuple[Prompt, list[int]]]:
    """The batch of one step: the prompts pass by in a new order in each epoch, none twice before all came once."""
    chosen = []
    for place in range(step * config.batch_size, (step + 1) * config.batch_size):
        epoch, index = divmod(place, len(prompts))
        if not chosen or index == 0:
            order = torch.randperm(len(prompts), generator=generator_at(config.seed, "prompts", epoch)).tolist()
        chosen.append(prompts[order[index]])
    return chosen


def sampling_of(config: Config) -> Sampling:
    return Sampling(config.max_new_tokens, config.temperature, config.batch_size)


def roll_out(models: Models, prompts: list[list[int]], config: Config, step: int) -> Rollouts:
    """Sample one response to each prompt and have it judged."""
    generator = generator_at(config.seed, "responses", step)
    sampled = sample(models.policy, models.tokens, prompts, sampling_of(config), generator)
    return judge(
        sampled,
        models.tokens,
        prompts,
        reference=models.reference,
        reward_model=models.reward,
        value_model=models.value,
        temperature=config.temperature,
        microbatch=config.microbatch,
    )


def first_state(models: Models, prompts: list[tuple[Prompt, list[int]]], config: Config) -> dict[str, object]:
    """What a new run starts with: the unit of scores, from one batch of the reference's own responses."""
    chosen = [ids for _, ids in prompts_of_step(prompts, config, 0)]
    generator = generator_at(config.seed, "unit")
    sampled = sample(models.reference, models.tokens, chosen, sampling_of(config), generator)
    found = scores(models.reward, models.tokens, chosen, sampled.texts(models.tokens), microbatch=config.microbatch)
    unit = ScoreUnit(found.mean().item(), max(found.std(correction=0).item(), 1e-6))
    if config.value_init == "reward":  # its head speaks raw scores; values are in units
        models.value.score.weight.data /= unit.std
    return {"unit": asdict(unit), "kl_coef": config.kl_coef, "numbers": {}}


def outcomes_of(rollouts: Sampled, unit: ScoreUnit, config: Config) -> Tensor:
    """(batch,) what each response is worth: its score in units, or for one that was cut off a bad score in its place.

    A cut-off response gets `missing_end_score`, or the least score of the batch where that is lower
    (Huang et al. 2024, detail 20: the end-of-sequence trick).
    """
    found = unit.convert(rollouts.scores)
    cut_off = found.min().clamp(max=config.missing_end_score)
    return torch.where(rollouts.ended, found, cut_off)


def adapted(kl_coef: float, kl: float, config: Config) -> float:
    """The KL coefficient for the next step: raised when the KL is over its target (Ziegler et al. 2019, eq. 2)."""
    if config.kl_target is None:
        return kl_coef
    error = min(max(kl / config.kl_target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * config.batch_size / config.kl_horizon)


def describe(rollouts: Rollouts, unit: ScoreUnit, returns: Tensor) -> dict[str, float]:
    """What a batch of rollouts looked like before the policy learned from it."""
    return {
        "reward": unit.convert(rollouts.scores).mean().item(),
        "score": rollouts.scores.mean().item(),
        "kl": rollouts.kl.mean().item(),
        "length": rollouts.is_response.sum(1).float().mean().item(),
        "ended": rollouts.ended.float().mean().item(),
        "explained_variance": explained_variance(rollouts.values, returns, rollouts.is_response).item(),
    }


def append_samples(
    run: RunFolder,
    step: int,
    chosen: list[tuple[Prompt, list[int]]],
    rollouts: Rollouts,
    unit: ScoreUnit,
    tokens: PreTrainedTokenizerBase,
) -> None:
    """Some responses of this step, for people to read."""
    shown = zip(
        [prompt for prompt, _ in chosen[:SAMPLES_SHOWN]],
        rollouts.texts(tokens)[:SAMPLES_SHOWN],
        unit.convert(rollouts.scores).tolist(),
        rollouts.kl.tolist(),
        strict=False,
    )
    with (run.path / "samples.jsonl").open("a") as file:
        for prompt, text, score, kl in shown:
            line = {"step": step, "prompt": prompt.messages[-1].content, "response": text, "score": score, "kl": kl}
            file.write(json.dumps(line) + "\n")


def forget_samples_after(run: RunFolder, step: int) -> None:
    """Drop the samples of steps that a resumed run makes again, and a line that a kill cut short."""
    path = run.path / "samples.jsonl"
    if path.exists():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        write_whole(path, "".join(line for line in lines if json.loads(line)["step"] <= step))
