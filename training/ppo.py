"""PPO: move the policy towards what the judges score high, without leaving the reference policy far behind.

Reads   a snapshot's training prompts; a policy to start from, the reference policy, reward models or functions of
        your own (rewards.py)
Writes  a checkpoint of the policy; metrics.jsonl with one line per step; samples.jsonl with some responses of each
        step; states to resume from, so that a run killed at any moment ends with the weights it would have had
Learns  clipped policy and value losses (update.py) on the score of a whole response minus kl_coef times the per-token
        log-ratio to the reference policy (Ziegler et al. 2019; Stiennon et al. 2020), and text of the pretraining
        corpus beside them (ptx.py; Ouyang et al. 2022)

Scores are in units: the reference's own responses to training prompts are sampled and scored once, and their mean and
standard deviation become 0 and 1. So one kl_coef serves whatever scale a reward model came out with.

    python -m training ppo --snapshot var/snapshots/3f9a12c0be77d2a1 --init sft-0001 --reference sft-0001 \
        --reward reward-0001 --steps 100
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import sub
from pathlib import Path
from typing import Any, Literal, Self

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data import datasets, snapshots
from data.errors import InvalidInput
from data.records import Prompt
from data.runs import RunFolder
from data.snapshots import Snapshot
from data.workspace import Workspace
from training import checkpoints, parallel, ppo_models, ptx, sharding, shown, tokenizer
from training.advantages import (
    KlEstimator,
    RunningScale,
    adapted,
    explained_variance,
    gae,
    outcomes,
    token_rewards,
    whiten,
)
from training.engine import generator_at, largest_gap
from training.lora import without_adapter
from training.losses import masked_mean
from training.metrics import Cancelled, Progress
from training.model import room_for_prompts
from training.ppo_models import Models, judge, speak_in_units, starts_as_reward_model
from training.rewards import UNIT_RESPONSES, Ensemble, Units, names_of
from training.rollouts import Rollouts, Sampling, prompts_of_step, sample
from training.throughput import ppo_use
from training.update import (
    first_microbatches,
    improve,
    make_optimizer,
    set_learning_rates,
    trained,
    updates_per_step,
)

LARGEST_GAP = 1e-2  # between the engine's log-probs and the trainer's, beyond which the engine's would not do
Encoded = tuple[Prompt, list[int]]  # a prompt and its token ids
Trained = tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, float]]  # with the last numbers


@dataclass(frozen=True)
class Config:
    snapshot: Path  # whose training prompts are answered
    init: str  # policy to start from
    reference: str  # SFT checkpoint that the KL is measured from
    reward: str = ""  # what judges, by commas: reward checkpoints, and functions of your own as module:function=weight
    algorithm: Literal["ppo", "rloo", "grpo", "dpo"] = "ppo"  # the last three by TRL's trainers, for comparison
    reward_weight: float = 1.0  # of the reward models' score beside the reward functions
    reward_function: tuple[str, ...] = ()  # more functions, module:function=weight
    ensemble: Ensemble = "mean"  # what several reward models are worth together
    ensemble_penalty: float = 0.1  # times the variance between them, for mean-minus-variance
    length_penalty: float = 0.0  # of a response twice the target long, in standard deviations of the score
    length_target: float | None = None  # tokens that cost nothing; the mean of the reference's own responses by default
    steps: int = 100  # batches of rollouts
    batch_size: int = 128  # responses sampled per step, one per prompt
    minibatch_size: int = 128  # responses per optimizer step; batch_size / minibatch_size * epochs steps per batch
    microbatch: int = 32  # most responses in one forward pass; changes the memory and not the result
    sampling_batch: int = 0  # most responses decoded at once; changes the memory and not the result; 0: the whole batch
    epochs: int = 4  # passes over each batch
    max_new_tokens: int = 128  # a response without end by then is cut off
    max_prompt_tokens: int = 512  # longer prompts are left out: cut, they would ask something else
    temperature: float = 1.0  # of sampling; all log-probs are taken at it
    learning_rate: float = 3e-6  # of the policy, at its height
    value_learning_rate: float = 1e-5  # of the value model, at its height
    lr_schedule: Literal["linear", "constant"] = "linear"  # linear falls to 0 at the end of the run
    warmup: int = 0  # steps over which the learning rates rise first
    value_warmup: int = 0  # steps at the start in which only the value model learns
    kl_coef: float = 0.05  # per-token penalty, where scores have standard deviation 1; the first value when adaptive
    kl_estimator: KlEstimator = "k1"  # of the penalty: the log-ratio, or one that is never negative (k3)
    kl_target: float | None = None  # nats per response that kl_coef is adapted to; none: kl_coef is fixed
    kl_horizon: int = 10_000  # responses over which the adaptation works (Ziegler et al. 2019)
    stop_kl: float | None = None  # end the run early when a batch's KL per response exceeds this
    target_update_kl: float | None = None  # end the passes over a batch when its own updates exceed this, per token
    clip: float = 0.2  # of the policy's probability ratio
    dual_clip: float | None = None  # most that a ratio counts where the advantage is negative, such as 3
    value_clip: float = 0.2  # of a value's move, in units of the reference's standard deviation
    value_coef: float = 0.5  # weight of the value loss
    gamma: float = 1.0  # discount
    lam: float = 0.95  # GAE's lambda
    missing_end_score: float = -1.0  # replaces the score of a response that was cut off, or the batch's least if lower
    running_scale: bool = False  # divide scores by the standard deviation of all of this run so far (PPO-max)
    reward_clip: float | None = None  # scores are cut to plus or minus this, such as 10
    whiten_rewards: bool = False  # give the per-token rewards of a batch variance 1, their mean unshifted
    advantage_clip: float | None = None  # whitened advantages are cut to plus or minus this
    # the value model starts as the reward model or as the SFT model with a head of zeros; none: reward, if there is one
    value_init: Literal["reward", "reference"] | None = None
    max_grad_norm: float = 1.0  # of the policy's and of the value model's gradient, each
    ptx_coef: float | None = 0.0  # pretraining text: its gradient's norm over PPO's own; none: on where it is known
    ptx_batch: int = 1024  # tokens of it in each optimizer step
    ptx_text: tuple[Path, ...] = ()  # files or folders of it, for a model that was not pretrained here
    ema: float | None = None  # the checkpoint is a moving average of the policy with this decay, such as 0.992
    lora_rank: int = 0  # train adapters of this rank beside frozen weights; 0 trains all weights
    lora_alpha: float = 32.0  # the adapters count alpha / rank times
    lora_targets: tuple[str, ...] = ("all-linear",)  # linear layers that get one
    bf16: bool | None = None  # forward passes in bf16, weights in fp32; none: on a GPU that has it
    gradient_checkpointing: bool = False  # less memory, a third more time: keep only the inputs of each layer
    group_size: int = 4  # responses to each prompt, for rloo and grpo
    dpo_beta: float = 0.1  # how strongly dpo is held to the reference
    save_every: int = 10  # steps between states to resume from
    seed: int = 0

    def __post_init__(self) -> None:
        counts = "steps batch_size minibatch_size microbatch epochs max_new_tokens kl_horizon ptx_batch save_every"
        for name in counts.split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        amounts = "learning_rate value_learning_rate warmup value_warmup kl_coef value_coef ptx_coef lora_rank"
        for name in f"sampling_batch {amounts}".split():
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        limits = "clip value_clip max_grad_norm kl_target reward_clip advantage_clip target_update_kl stop_kl"
        for name in f"temperature {limits}".split():
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0.")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1.")
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(f"dual_clip is {self.dual_clip}; it must be above 1, or every update would be clipped.")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must be 0 or more, below 1.")
        if self.value_warmup >= self.steps:
            raise ValueError(f"value_warmup is {self.value_warmup} of {self.steps} steps: the policy would not learn.")
        if self.batch_size % self.minibatch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of minibatch_size {self.minibatch_size}: "
                "the last minibatch of each pass would be smaller and weigh more per response."
            )


@dataclass
class Carried:
    """What a step hands to the next beside weights and optimizer."""

    units: Units  # of the judges' scores
    kl_coef: float
    scale: RunningScale = field(default_factory=RunningScale)
    numbers: dict[str, float] = field(default_factory=dict)  # what was measured in the step

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Self:
        """Back from a state's JSON."""
        scale = RunningScale(**saved["scale"])
        return cls(Units.of(saved["units"]), saved["kl_coef"], scale, saved["numbers"])


def main(config: Config, run: RunFolder, workspace: Workspace) -> None:
    """Train by the chosen algorithm and save."""
    snapshot = snapshots.load(config.snapshot)
    train = train_by_ppo if config.algorithm == "ppo" else train_by_peer
    policy, tokens, metrics = train(config, run, workspace, snapshot)
    names = [config.init, config.reference, *names_of(config.reward)]
    parents = [checkpoints.name_of(checkpoints.resolve(name, workspace), name) for name in names]
    checkpoints.save(
        workspace.checkpoints,
        run.id,
        stage="ppo",
        parents=tuple(dict.fromkeys(parents)),
        snapshot=snapshot.hash,
        model=policy,
        tokenizer=tokens,
        config=asdict(config),
        metrics=metrics,
        seed=config.seed,
    )
    checkpoints.finish(run, metrics)


def train_by_peer(config: Config, run: RunFolder, workspace: Workspace, snapshot: Snapshot) -> Trained:
    """Policy, tokenizer and last numbers of a TRL trainer; see `peers`."""
    from training import peers

    if parallel.count() > 1:
        raise InvalidInput(f"{config.algorithm} is here for comparison, in one process. Start it without torchrun.")
    return peers.train(config, judge_options(config), run, workspace, snapshot)


def train_by_ppo(config: Config, run: RunFolder, workspace: Workspace, snapshot: Snapshot) -> Trained:
    """Policy, tokenizer and last numbers; see `learn` for the algorithm."""
    device = parallel.device()
    accelerator = Accelerator(mixed_precision="bf16" if uses_bf16(config) else "no")
    models = ppo_models.load(config, judge_options(config), workspace, device)
    prompts = encoded_prompts(datasets.prompts(snapshot, "train"), models, config)
    if not prompts:
        raise InvalidInput(
            f"Snapshot {snapshot.hash} has no training prompt of {config.max_prompt_tokens} tokens or less that leaves "
            f"room for a response of {config.max_new_tokens}."
        )
    mix = ptx.load(config, workspace, models.tokens, updates=config.steps * updates_per_step(config))
    metrics = learn(models, prompts, config, run, accelerator, mix)
    return models.policy, models.tokens, metrics


def learn(
    models: Models,
    prompts: list[Encoded],
    config: Config,
    run: RunFolder,
    accelerator: Accelerator,
    mix: ptx.Mix | None = None,
) -> dict[str, float]:
    """The algorithm. Returns the numbers of the last step; `models.policy` is left as it is to be kept."""
    optimizer = make_optimizer(models, config)
    average = nn.ParameterList(w.detach().clone() for w in trained(models.policy)) if config.ema is not None else []
    learners = {"policy": models.policy, "value": models.value} | ({"average": average} if average else {})
    progress = Progress(run, "ppo", config.steps)
    state = checkpoints.load_state(run.path, models=learners, optimizers={"both": optimizer})
    with accelerator.autocast():
        start, carried = (state[0], Carried.of(state[1])) if state else (0, first_carried(models, prompts, config))
    models = replace(models, rewards=models.rewards.in_units(carried.units))
    shown.forget_after(run, start)
    run.drop_metrics_after(start)

    for step in range(start, config.steps):
        if config.stop_kl is not None and carried.numbers.get("kl", 0.0) > config.stop_kl:
            print(f"ppo: ended early, {carried.numbers['kl']:.1f} nats per response are over stop_kl {config.stop_kl}")
            break
        set_learning_rates(optimizer, config, step)
        chosen = prompts_of_step(prompts, config.batch_size, step, seed=config.seed)
        with accelerator.autocast():
            rollouts, found, times = roll_out(models, chosen, config, step)
        rewards, scale = rewards_of(rollouts, carried, config)
        advantages, returns = advantages_of(rewards, rollouts, config)
        stats = improve(
            models, optimizer, rollouts, advantages, returns, config, step, accelerator, mix=mix, average=average
        )
        times.append(time.monotonic())

        numbers = found | describe(rollouts, returns) | stats
        if numbers["recomputed"] and not carried.numbers.get("recomputed"):
            print(f"ppo: the sampler's log-probs are up to {numbers['logprob_gap']:.2g} off; the trainer's count")
        numbers |= {"kl_coef": carried.kl_coef, "learning_rate": optimizer.param_groups[0]["lr"]}
        progress.log(step + 1, **numbers, **pace(times, rollouts, models, stats, config))
        texts, scores, kls = rollouts.texts(models.tokens), rollouts.scores.tolist(), rollouts.kl.tolist()
        shown.append(run, step + 1, zip([prompt for prompt, _ in chosen], texts, scores, kls, strict=True))
        carried = Carried(carried.units, next_kl_coef(carried.kl_coef, numbers["kl"], config, step), scale, numbers)
        stop = parallel.agreed(progress.stop_requested)
        if stop or (step + 1) % config.save_every == 0:
            checkpoints.save_state(
                run.path,
                step + 1,
                models=learners,
                optimizers={"both": optimizer},
                extra=asdict(carried),
                only_trainable=config.lora_rank > 0,
            )
        if stop:
            progress.at(step + 1, always=True)
            raise Cancelled(f"Stopped after step {step + 1} of {config.steps}; go on with --resume {run.id}.")
    if average:
        replace_weights(models.policy, average)
    return carried.numbers


@torch.no_grad()
def replace_weights(policy: PreTrainedModel, average: nn.ParameterList) -> None:
    """Let the policy be its moving average."""
    for weight, mean in zip(trained(policy), average, strict=True):
        weight.copy_(mean)


def roll_out(
    models: Models, chosen: list[Encoded], config: Config, step: int
) -> tuple[Rollouts, dict[str, float], list[float]]:
    """Responses to a step's prompts, judged; what the judges found; and when sampling began and each of both ended."""
    times = [time.monotonic()]
    generator = generator_at(config.seed, "responses", step)
    sampled = sample(models.policy, models.tokens, [ids for _, ids in chosen], sampling_of(config), generator)
    times.append(time.monotonic())
    groups = first_microbatches(sampled, config, step)
    rollouts, found = judge(
        models, sampled, chosen, groups, temperature=config.temperature, microbatch=config.microbatch
    )
    return rollouts, found, [*times, time.monotonic()]


def uses_bf16(config: Config) -> bool:
    """Whether forward passes are in bf16."""
    return parallel.has_bf16() if config.bf16 is None else config.bf16


def judge_options(config: Config) -> dict[str, Any]:
    """The options of `rewards.load`."""
    names = "reward reward_weight reward_function ensemble ensemble_penalty length_penalty length_target"
    return {name: getattr(config, name) for name in names.split()}


def encoded_prompts(prompts: Sequence[Prompt], models: Models, config: Config) -> list[Encoded]:
    """The prompts with their token ids, without those that are too long, of which the number is said.

    Raises InvalidInput when max_new_tokens leaves no room for any.
    """
    most = min(config.max_prompt_tokens, room_for_prompts(models.policy, config.max_new_tokens))
    pairs = [(prompt, tokenizer.prompt_ids(models.tokens, prompt.messages)) for prompt in prompts]
    kept = [(prompt, ids) for prompt, ids in pairs if len(ids) <= most]
    if len(kept) < len(pairs):
        print(f"ppo: {len(pairs) - len(kept)} of {len(pairs)} prompts left out, longer than {most} tokens", flush=True)
    return kept


def sampling_of(config: Config) -> Sampling:
    return Sampling(config.max_new_tokens, config.temperature, config.sampling_batch or config.batch_size)


def first_carried(models: Models, prompts: list[Encoded], config: Config) -> Carried:
    """What a new run starts with: the units of scores, from the reference's own responses.

    They are as many as a batch, and UNIT_RESPONSES at least: one response would have no standard deviation. A value
    model that starts as a reward model is made to speak in them.
    """
    count = max(config.batch_size, UNIT_RESPONSES)
    chosen = [ids for _, ids in prompts_of_step(prompts, count, 0, seed=config.seed)]
    generator = generator_at(config.seed, "unit")
    with sharding.gathered(models.reference) as whole, without_adapter(whole) as reference:
        sampled = sample(reference, models.tokens, chosen, sampling_of(config), generator)
    rewards = models.rewards.measured(chosen, sampled.texts(models.tokens), microbatch=config.microbatch)
    if starts_as_reward_model(config, models.rewards):
        speak_in_units(models.value, rewards.units.models[0], config.reward_weight)
    return Carried(rewards.units, config.kl_coef)


def rewards_of(rollouts: Rollouts, carried: Carried, config: Config) -> tuple[Tensor, RunningScale]:
    """(B, R) what each token earned, and the running scale with this batch's scores taken in."""
    scale = carried.scale.after(rollouts.scores)
    scores = rollouts.scores / scale.std if config.running_scale else rollouts.scores
    if config.reward_clip is not None:
        scores = scores.clamp(-config.reward_clip, config.reward_clip)
    rewards = token_rewards(
        outcomes(scores, rollouts.ended, missing_end_score=config.missing_end_score),
        rollouts.old_logprobs,
        rollouts.ref_logprobs,
        rollouts.is_response,
        kl_coef=carried.kl_coef,
        estimator=config.kl_estimator,
    )
    return whiten(rewards, rollouts.is_response, shift_mean=False) if config.whiten_rewards else rewards, scale


def advantages_of(rewards: Tensor, rollouts: Rollouts, config: Config) -> tuple[Tensor, Tensor]:
    """(B, R) advantages, whitened over the batch's response tokens, and returns."""
    advantages, returns = gae(rewards, rollouts.values, rollouts.is_response, gamma=config.gamma, lam=config.lam)
    advantages = whiten(advantages, rollouts.is_response)
    if config.advantage_clip is not None:
        advantages = advantages.clamp(-config.advantage_clip, config.advantage_clip)
    return advantages, returns


def next_kl_coef(kl_coef: float, kl: float, config: Config, step: int) -> float:
    """The KL coefficient for the next step; while the policy does not learn, its KL says nothing about it."""
    if step < config.value_warmup:
        return kl_coef
    return adapted(kl_coef, kl, target=config.kl_target, batch_size=config.batch_size, horizon=config.kl_horizon)


def describe(rollouts: Rollouts, returns: Tensor) -> dict[str, float]:
    """What a batch of rollouts looked like before the policy learned from it.

    `logprob_gap` is how far the engine's log-probs are from the trainer's, which count; `recomputed` is 1 when it is so
    far that the engine's would not have done.
    """
    kl = rollouts.kl.mean().item()
    gap = largest_gap(rollouts.engine_logprobs, rollouts.old_logprobs, rollouts.is_response)
    return {
        "kl": kl,
        "sqrt_kl": math.sqrt(max(kl, 0.0)),
        "entropy": masked_mean(rollouts.entropy, rollouts.is_response).item(),
        "length": rollouts.is_response.sum(1).float().mean().item(),
        "ended": rollouts.ended.float().mean().item(),
        "explained_variance": explained_variance(rollouts.values, returns, rollouts.is_response).item(),
        "logprob_gap": gap,
        "recomputed": float(gap > LARGEST_GAP),
    }


def pace(
    times: Sequence[float], rollouts: Rollouts, models: Models, stats: dict[str, float], config: Config
) -> dict[str, float]:
    """Seconds of each phase, response tokens per second of the step, and how much of the device was used."""
    seconds = dict(zip(("sampling", "scoring", "update"), map(sub, times[1:], times), strict=True))
    responses = rollouts.is_response.sum(1)
    prompts = rollouts.is_token.sum(1) - responses
    passes = stats["updates"] * config.minibatch_size / config.batch_size
    return {
        **{f"{phase}_seconds": took for phase, took in seconds.items()},
        "tokens_per_second": int(responses.sum()) / sum(seconds.values()),
        **ppo_use(
            models.policy,
            models.value,
            models.rewards.models.values(),
            parallel.mine(prompts.tolist()),
            parallel.mine(responses.tolist()),
            policy_passes=passes if "policy_loss" in stats else 0,
            value_passes=passes,
            seconds=seconds,
            element=2 if uses_bf16(config) else 4,
        ),
    }
