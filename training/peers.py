"""Peers of PPO for its last stage, by TRL's trainers: RLOO and GRPO on the same rollouts, DPO on the labels themselves.

Reads   what `ppo` reads: a snapshot, a policy to start from, the reference policy, the judges of training/rewards.py
Writes  what `ppo` writes: a checkpoint of stage "ppo" whose config names the algorithm; metrics.jsonl with one line per
        step; samples.jsonl; a state to resume from
Learns  rloo  the score less kl_coef times the log-ratio to the reference, against the mean of the other responses to
              the same prompt (Ahmadian et al. 2024)
        grpo  the score in standard deviations of its group, kl_coef times an estimate of the KL per token in the loss
              (Shao et al. 2024; the loss is divided by the tokens of the batch, as in Yu et al. 2025)
        dpo   -log sigmoid(dpo_beta * (log-ratio of chosen - log-ratio of rejected)) on the decided pairs of the train
              rankings, without a reward model and without sampling (Rafailov et al. 2023); --reward is optional, and
              scores the trained policy's responses

Shared with PPO, so that one flag compares: the prompts, their order and their token ids, the score of a response in
units of the reference's own, the bad score of one that was cut off, temperature, batch and minibatch, passes over a
batch, clipping, learning rate and its line to 0, Adam. A batch of rloo and grpo holds `group_size` responses to each
of its prompts. For dpo a step is `batch_size` pairs, one pass; log-probs are taken at temperature 1, the learning rate
is a fifth of PPO's (at PPO's own, the tiny model unlearned to stop), and weights of labelers do not count.

Two numbers are TRL's: grpo's `kl` is an estimate that is never negative, averaged over the updates of a step, where
rloo's is PPO's; `clip_fraction` counts responses in rloo and tokens in grpo. What the checkpoint's manifest says of
reward, kl, length and ended is measured by PPO's own means after training.

    python -m training ppo --algorithm rloo --snapshot var/snapshots/3f9a12c0be77d2a1 --init sft-0001 \
        --reference sft-0001 --reward reward-0001
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from packaging.specifiers import SpecifierSet
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments

from data import datasets
from data.errors import InvalidInput
from data.runs import RunFolder
from data.snapshots import Snapshot
from data.workspace import Workspace
from training import checkpoints, rewards, rollouts, shown, tokenizer
from training import trainer as adapter
from training.advantages import outcomes
from training.engine import generator_at
from training.metrics import Progress
from training.model import fit_to_tokenizer, load_policy, room_for_prompts
from training.peer_inputs import Encoded, Pair, answerable, check_padding, decided_pairs, in_order, turns_of
from training.rewards import Rewards

DPO_RATE = 0.2  # of learning_rate: its gradient is not whitened as PPO's is
TRL = ">=1.16,<1.17"  # the releases that this module was tested with; pyproject.toml asks for the same

OURS = "pawl/"  # before the names of what is measured here, so that TRL's own do not hide it
NAMES = {  # TRL's names of a step's numbers, and PPO's
    "loss": "policy_loss",
    "grad_norm": "policy_grad_norm",
    "learning_rate": "learning_rate",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "clip_ratio/region_mean": "clip_fraction",
    "frac_reward_zero_std": "equal_groups",  # groups whose responses are all worth the same: nothing to learn
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "logps/chosen": "chosen_logprob",
    "logps/rejected": "rejected_logprob",
}
OFF = {  # options that change what PPO learns and that TRL cannot follow, with the values at which they do nothing
    "value_warmup": 0,
    "value_init": None,
    "value_coef": 0.5,
    "value_clip": 0.2,
    "gamma": 1.0,
    "lam": 0.95,
    "kl_estimator": "k1",
    "kl_target": None,
    "stop_kl": None,
    "target_update_kl": None,
    "dual_clip": None,
    "running_scale": False,
    "reward_clip": None,
    "whiten_rewards": False,
    "advantage_clip": None,
    "ema": None,
    "lora_rank": 0,
    "sampling_batch": 0,
    "bf16": None,
    "gradient_checkpointing": False,
}


class Config(Protocol):
    """The options of `ppo` that its peers follow, beside those of the judges."""

    algorithm: str  # rloo, grpo or dpo
    snapshot: Path
    init: str
    reference: str
    steps: int
    batch_size: int
    minibatch_size: int
    microbatch: int
    epochs: int  # not dpo
    max_new_tokens: int
    max_prompt_tokens: int
    temperature: float
    learning_rate: float
    lr_schedule: str
    warmup: int
    ptx_coef: float | None  # none of them, and they say so
    kl_coef: float  # not dpo
    clip: float  # not dpo
    missing_end_score: float  # not dpo
    max_grad_norm: float
    group_size: int  # not dpo
    dpo_beta: float  # dpo alone
    save_every: int
    seed: int


@dataclass(frozen=True)
class Given:
    """What a peer trains with."""

    config: Config
    run: RunFolder
    policy: PreTrainedModel
    reference: Path
    tokens: PreTrainedTokenizerBase
    prompts: list[Encoded]
    pairs: list[Pair]  # of dpo; empty for the others
    rewards: Rewards | None  # None: dpo without a judge

    @property
    def updates(self) -> int:
        """Optimizer steps in one step."""
        passes = 1 if self.config.algorithm == "dpo" else self.config.epochs
        return passes * self.config.batch_size // self.config.minibatch_size


def train(
    config: Config, judges: dict[str, Any], run: RunFolder, workspace: Workspace, snapshot: Snapshot
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, float]]:
    """Train by TRL's trainer: the policy, its tokenizer, and the last numbers, measured as PPO measures its own.

    `judges` are the options of `rewards.load`.

    Raises:
        InvalidInput: TRL is another release than the tested ones, an option does not fit the algorithm, the models do
            not share one vocabulary, or the policy is wrong without positions.
        TooFewLabels: dpo, and there is no decided pair.
        Cancelled: SIGTERM came; what a resumed run needs is saved.
    """
    kind, arguments = trl_classes(config.algorithm)
    check(config)
    given = load(config, judges, run, workspace, snapshot)
    reporter = Reporter(Progress(run, "ppo", config.steps), given.updates)
    trainer = (dpo_trainer if config.algorithm == "dpo" else group_trainer)(given, kind, arguments, reporter)
    policy = adapter.fit(trainer, run).eval()
    return policy, given.tokens, {**last_numbers(run), **measured(given, policy)}


def trl_classes(algorithm: str) -> tuple[type[Trainer], type[Arguments]]:
    """TRL's trainer of an algorithm and its arguments. Raises InvalidInput when the installed TRL is not a tested one.

    The release is checked and not only the name: between two minor releases TRL changes what a trainer computes.
    """
    name = algorithm.upper()
    try:
        installed = version("trl")
        if not SpecifierSet(TRL).contains(installed):
            raise InvalidInput(
                f"TRL {installed} is installed, and {algorithm} was tested with {TRL} only. Nothing was trained. "
                f'Install one of these (pip install "trl{TRL}"), or take --algorithm ppo, which needs no TRL.'
            )
        module = importlib.import_module("trl")
        return getattr(module, f"{name}Trainer"), getattr(module, f"{name}Config")
    except (ImportError, AttributeError) as error:  # no TRL, or one without this trainer
        raise InvalidInput(
            f"--algorithm {algorithm} needs TRL's {name}Trainer, and it is not there: {error}. Nothing was trained. "
            f'Install it (pip install "trl{TRL}"), or take --algorithm ppo, which needs no TRL.'
        ) from error


def check(config: Config) -> None:
    """Raises InvalidInput for options that this algorithm cannot follow: none is left aside silently."""
    for name, nothing in OFF.items():
        if getattr(config, name) != nothing:
            raise InvalidInput(
                f"--{name.replace('_', '-')} {getattr(config, name)} is PPO's own, and {config.algorithm} cannot "
                "follow it. Leave it out, or take --algorithm ppo."
            )
    if config.ptx_coef:
        print(f"ppo: {config.algorithm} learns without text of the pretraining corpus: ptx_coef does not count")
    if config.algorithm == "dpo":
        return
    if config.group_size < 2:
        raise InvalidInput(
            f"group_size is {config.group_size}, and {config.algorithm} compares the responses of a prompt: 2 or more."
        )
    if config.batch_size % config.group_size:
        raise InvalidInput(
            f"batch_size {config.batch_size} is not a multiple of group_size {config.group_size}: "
            f"{config.algorithm} needs whole groups of responses to one prompt."
        )


def load(config: Config, judges: dict[str, Any], run: RunFolder, workspace: Workspace, snapshot: Snapshot) -> Given:
    """Models, judges in units of the reference's own responses, and what to train on."""
    init, reference = (checkpoints.resolve(name, workspace) for name in (config.init, config.reference))
    tokens = tokenizer.load(init)
    tokenizer.require_shared(tokens, reference, "reference")
    policy = load_policy(init, tokens)
    positions = policy.config.get_text_config().max_position_embeddings
    longest = min(config.max_prompt_tokens, room_for_prompts(policy, config.max_new_tokens))
    prompts = answerable(datasets.prompts(snapshot, "train"), tokens, longest)
    check_padding(policy, tokens, prompts[0][1])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    own = load_policy(reference)
    if own.get_input_embeddings().weight.shape[0] < len(tokens):
        raise InvalidInput(
            f"The reference {reference.name} has no embeddings for all tokens of its tokenizer, and TRL loads it from "
            "its folder as it is. Take an SFT checkpoint."
        )
    own = fit_to_tokenizer(own, tokens).to(device).eval()
    loaded, pairs = None, []
    if judges["reward"] or judges["reward_function"] or config.algorithm != "dpo":
        loaded = rewards.load(**judges, workspace=workspace, tokens=tokens, device=device)
        count = max(config.batch_size, rewards.UNIT_RESPONSES)
        chosen = rollouts.prompts_of_step(prompts, count, 0, seed=config.seed)
        sampled = sample(own, tokens, chosen, config, "unit")
        loaded = loaded.measured([ids for _, ids in chosen], sampled.texts(tokens), microbatch=config.microbatch)
    if config.algorithm == "dpo":
        pairs = decided_pairs(datasets.rankings(snapshot, "train"), tokens, longest, positions)
    return Given(config, run, policy, reference, tokens, prompts, pairs, loaded)


def sample(
    policy: PreTrainedModel, tokens: PreTrainedTokenizerBase, chosen: list[Encoded], config: Config, what: str
) -> rollouts.Sampled:
    """One response to each of these prompts, by the engine that PPO samples with."""
    sampling = rollouts.Sampling(config.max_new_tokens, config.temperature, config.batch_size)
    return rollouts.sample(policy, tokens, [ids for _, ids in chosen], sampling, generator_at(config.seed, what))


def shared_arguments(given: Given, kind: type[Arguments], **more: Any) -> Arguments:
    """The arguments that all three trainers share with PPO."""
    config = given.config
    return adapter.arguments(
        kind,
        given.run,
        steps=config.steps * given.updates,
        batch_size=config.minibatch_size,
        microbatch=config.microbatch,
        save_every=config.save_every * given.updates,  # a state within a batch of rollouts would lose the batch
        logging_steps=given.updates,
        learning_rate=config.learning_rate * (DPO_RATE if config.algorithm == "dpo" else 1.0),
        lr_scheduler_type="linear" if config.lr_schedule == "linear" else "constant_with_warmup",
        warmup_steps=config.warmup * given.updates,
        weight_decay=0.0,
        adam_epsilon=1e-5,
        max_grad_norm=config.max_grad_norm,
        disable_dropout=True,
        seed=config.seed,
        **more,
    )


def group_trainer(given: Given, trainer: type[Trainer], kind: type[Arguments], reporter: Reporter) -> Trainer:
    """RLOOTrainer or GRPOTrainer."""
    from datasets import Dataset

    config = given.config
    args = shared_arguments(
        given,
        kind,
        beta=config.kl_coef,
        epsilon=config.clip,
        num_generations=config.group_size,
        num_iterations=config.epochs,
        generation_batch_size=config.batch_size,
        max_completion_length=config.max_new_tokens,
        temperature=config.temperature,
        top_k=0,
        top_p=1.0,
        shuffle_dataset=False,
    )
    groups = config.batch_size // config.group_size
    order = in_order(len(given.prompts), groups, config.steps, seed=config.seed)
    rows = [{"prompt": turns_of(prompt), "number": number} for number, (prompt, _) in enumerate(given.prompts)]
    given.policy.config.name_or_path = str(given.reference)  # from here TRL loads the reference
    return trainer(
        given.policy,
        score_function(given),
        args,
        train_dataset=Dataset.from_list(rows).select(order),
        processing_class=given.tokens,
        callbacks=[reporter],
    )


def score_function(given: Given) -> Callable[..., list[float]]:
    """What TRL calls with a batch of responses: their worth as PPO sees it. Writes some of them into samples.jsonl.

    The texts that TRL hands over do not tell whether a response ended, so they are made from the token ids.
    """
    config, tokens = given.config, given.tokens

    def score(
        completion_ids: list[list[int]],
        number: list[int],
        trainer_state: TrainerState,
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float]:
        chosen = [given.prompts[i] for i in number]
        texts = [tokenizer.response_text(tokens, ids) for ids in completion_ids]
        parts = given.rewards.parts(
            [prompt for prompt, _ in chosen], [ids for _, ids in chosen], texts, microbatch=config.microbatch
        )
        ended = torch.tensor([ids[-1] == tokens.eos_token_id for ids in completion_ids], device=parts["reward"].device)
        for name, values in {**parts, "ended": ended.float()}.items():
            log_metric(OURS + name, values.mean().item())
        found = zip([prompt for prompt, _ in chosen], texts, parts["reward"].tolist(), strict=True)
        of_each_prompt = itertools.islice(found, 0, None, config.group_size)
        step = trainer_state.global_step // given.updates + 1
        shown.append(given.run, step, ((*row, None) for row in of_each_prompt))
        return outcomes(parts["reward"], ended, missing_end_score=config.missing_end_score).tolist()

    return score


def dpo_trainer(given: Given, trainer: type[Trainer], kind: type[Arguments], reporter: Reporter) -> Trainer:
    """DPOTrainer on pairs of token ids."""
    from datasets import Dataset

    args = shared_arguments(given, kind, beta=given.config.dpo_beta, max_length=None)
    made = trainer(
        given.policy,
        load_policy(given.reference, given.tokens).eval(),
        args,
        train_dataset=Dataset.from_list([{"prompt": "", "chosen": "a", "rejected": "b"}]),
        processing_class=given.tokens,
        callbacks=[reporter],
    )
    # TRL tokenises text itself, and a special token that somebody typed would become one. So it was given a stand-in.
    made.train_dataset = Dataset.from_list(given.pairs)
    return made


class Reporter(adapter.Reporter):
    """Counts steps as PPO does, `updates` optimizer steps to one, and stops only between them."""

    def __init__(self, progress: Progress, updates: int) -> None:
        super().__init__(progress)
        self.updates = updates

    def on_train_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Forget what was written after the state that the run goes on from."""
        self.progress.run.drop_metrics_after(state.global_step // self.updates)
        shown.forget_after(self.progress.run, state.global_step // self.updates)

    def on_log(self, args: Arguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:  # else it is Trainer's summary
            self.progress.log(state.global_step // self.updates, **numbers_of(logs, self.updates))

    def on_step_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, inside = divmod(state.global_step, self.updates)
        if not inside:
            self.progress.at(step)
            if self.clock.tick(self.progress.stop_requested):
                self.cancelled = control.should_save = control.should_training_stop = True


def numbers_of(logs: dict[str, Any], updates: int) -> dict[str, float]:
    """TRL's measurements of a step by PPO's names."""
    found = {ours: logs[theirs] for theirs, ours in NAMES.items() if theirs in logs}
    found |= {name.removeprefix(OURS): value for name, value in logs.items() if name.startswith(OURS)}
    if "kl" in logs:  # TRL's is a mean over tokens
        found["kl"] = logs["kl"] * logs["completions/mean_length"]
    if "step_time" in logs:  # of one optimizer step
        found["step_seconds"] = logs["step_time"] * updates
    return found


def last_numbers(run: RunFolder) -> dict[str, float]:
    """What the last step measured."""
    lines = run.metrics()
    return {name: value for name, value in (lines[-1] if lines else {}).items() if name not in ("step", "time")}


@torch.no_grad()
def measured(given: Given, policy: PreTrainedModel) -> dict[str, float]:
    """A batch of the trained policy's responses to training prompts, measured as PPO measures its rollouts.

    Some of them are the last step's samples.
    """
    config = given.config
    chosen = rollouts.prompts_of_step(given.prompts, config.batch_size, config.steps, seed=config.seed)
    sampled = sample(policy, given.tokens, chosen, config, "measured")
    reference = load_policy(given.reference, given.tokens).to(policy.device).eval()
    found = rollouts.logprobs(reference, sampled, temperature=config.temperature, microbatch=config.microbatch)
    kl = (sampled.old_logprobs - found).sum(1)
    texts = sampled.texts(given.tokens)
    asked, parts = [prompt for prompt, _ in chosen], {}
    if given.rewards:
        parts = given.rewards.parts(asked, [ids for _, ids in chosen], texts, microbatch=config.microbatch)
    worth = parts["reward"].tolist() if parts else [None] * len(texts)
    rows = zip(asked, texts, worth, kl.tolist(), strict=True)
    shown.forget_after(given.run, config.steps - 1)
    shown.append(given.run, config.steps, rows)
    return {name: values.mean().item() for name, values in parts.items()} | {
        "kl": kl.mean().item(),
        "length": sampled.is_response.sum(1).float().mean().item(),
        "ended": sampled.ended.float().mean().item(),
    }
