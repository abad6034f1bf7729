"""Evaluation: is the new policy better than the one before it, and what did it cost?

Reads   a snapshot's held-out prompts, which no stage trains on; the new policy, its parent, a reward model
Writes  the run's state: "metrics", "verdict" (promoted or rejected) and "reason" in words; no checkpoint

Both policies answer every held-out prompt several times. The win rate is the share of pairs (one response of each, same
prompt) in which the reward model scores the new policy's higher, ties counting half; its 95 % interval is a bootstrap
over prompts, since responses to one prompt are not independent. Beside it: KL to the parent in nats per response,
length, share of responses that came to an end, distinct bigrams, and bits per byte of held-out text before and after
(the alignment tax). Promoted if the interval lies above one half and nothing that was paid is over its limit.

    python -m training evaluate --snapshot var/snapshots/3f9a12c0be77d2a1 --policy ppo-0001 --parent sft-0001 \
        --reward reward-0001
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data import datasets, snapshots
from data.errors import InvalidInput
from data.runs import RunFolder
from data.workspace import Workspace
from training import checkpoints, corpus, tokenizer
from training.engine import generator_at
from training.metrics import Cancelled, Progress
from training.model import load_policy, load_scalar
from training.rollouts import Sampled, Sampling, logprobs, sample, scores

RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Config:
    snapshot: Path  # whose held-out prompts are answered
    policy: str  # the new checkpoint
    parent: str  # the checkpoint it must beat
    reward: str  # reward checkpoint that judges
    base: str | None = None  # what bits per byte are compared with; the parent by default
    samples: int = 8  # responses to each prompt, of each of the two
    max_new_tokens: int = 128  # a response without end by then is cut off
    max_prompt_tokens: int = 512  # longer prompts are left out
    temperature: float = 1.0  # of sampling
    batch_size: int = 128  # responses decoded at once
    microbatch: int = 32  # responses in one forward pass
    max_kl: float = 30.0  # nats per response between policy and parent
    max_tax: float = 0.1  # relative rise of bits per byte on held-out text
    max_ended_drop: float = 0.05  # how much smaller the share of ended responses may be
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}; it must be 1 or more.")


@dataclass(frozen=True)
class Answers:
    """P prompts answered n times each by one policy."""

    sampled: Sampled  # P * n rows, a prompt's n one after the other
    texts: list[str]
    scores: Tensor  # (P, n)


def main(config: Config, run: RunFolder, workspace: Workspace) -> None:
    """Measure and judge."""
    progress = Progress(run, "evaluate", 4)
    metrics = measure(config, workspace, progress)
    policy, parent = (
        checkpoints.name_of(checkpoints.resolve(name, workspace), name) for name in (config.policy, config.parent)
    )
    objections = objections_to(metrics, config)
    verdict = "rejected" if objections else "promoted"
    reason = reason_of(policy, parent, metrics, objections)
    run.append_metrics({"step": progress.steps, **metrics})
    run.update(state="done", progress=1.0, metrics=metrics, verdict=verdict, reason=reason)
    print(f"evaluate: {verdict}. {reason}", flush=True)


def measure(config: Config, workspace: Workspace, progress: Progress) -> dict[str, float | None]:
    """Every number of the verdict.

    Raises:
        InvalidInput: there is no held-out prompt, or the reward model has another vocabulary.
        Cancelled: SIGTERM came; a resumed run starts over.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    paths = {
        name: checkpoints.resolve(given, workspace)
        for name, given in (("policy", config.policy), ("parent", config.parent), ("reward", config.reward))
    }
    tokens = shared_tokenizer(paths)
    prompts = heldout_prompts(config, tokens)
    reward_model = load_scalar(paths["reward"]).to(device).eval()
    policy = load_policy(paths["policy"], tokens).to(device).eval()
    parent = load_policy(paths["parent"], tokens).to(device).eval()
    new = answer(policy, reward_model, tokens, prompts, config, "policy")
    step_done(progress, 1)
    old = answer(parent, reward_model, tokens, prompts, config, "parent")
    step_done(progress, 2)
    ratio = new.sampled.old_logprobs - logprobs(
        parent, new.sampled, temperature=config.temperature, microbatch=config.microbatch
    )
    step_done(progress, 3)
    base_path = paths["parent"] if config.base is None else checkpoints.resolve(config.base, workspace)
    base = parent if config.base is None else load_policy(base_path).to(device).eval()
    metrics = compare(new, old, config) | {"kl": ratio.sum(1).mean().item()}
    metrics |= tax(policy, base, tokens, tokenizer.load(base_path), paths["policy"], workspace)
    step_done(progress, 4)
    return metrics | {"reward_accuracy": accuracy_of(paths["reward"])}


def accuracy_of(reward: Path) -> float | None:
    """How often the judge ordered a pair of held-out prompts as the labelers did; None where nobody measured it."""
    if not (reward / checkpoints.MANIFEST).is_file():
        return None
    return checkpoints.read_manifest(reward)["metrics"].get("heldout_accuracy")


def step_done(progress: Progress, step: int) -> None:
    """Say so, and stop here when SIGTERM came."""
    progress.at(step)
    if progress.stop_requested:
        raise Cancelled(f"Stopped after step {step} of {progress.steps}; a resumed run starts over.")


def shared_tokenizer(paths: dict[str, Path]) -> PreTrainedTokenizerBase:
    """The policy's tokenizer, which parent and reward model must share."""
    tokens = tokenizer.load(paths["policy"])
    for name in ("parent", "reward"):
        if tokenizer.load(paths[name]).get_vocab() != tokens.get_vocab():
            raise InvalidInput(
                f"The {name} model {paths[name].name} has another vocabulary than the policy {paths['policy'].name}."
            )
    return tokens


def heldout_prompts(config: Config, tokens: PreTrainedTokenizerBase) -> list[list[int]]:
    """The held-out prompts as token ids."""
    snapshot = snapshots.load(config.snapshot)
    encoded = [tokenizer.prompt_ids(tokens, prompt.messages) for prompt in datasets.prompts(snapshot, "heldout")]
    prompts = [ids for ids in encoded if len(ids) <= config.max_prompt_tokens]
    if not prompts:
        raise InvalidInput(
            f"Snapshot {snapshot.hash} has no held-out prompt of {config.max_prompt_tokens} tokens or less, and a "
            "policy is not measured on prompts it was trained on. Add prompts with the split heldout, freeze again."
        )
    return prompts


def answer(
    policy: PreTrainedModel,
    reward_model: PreTrainedModel,
    tokens: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    config: Config,
    name: str,
) -> Answers:
    """Answer every prompt `config.samples` times and score the responses."""
    repeated = [ids for ids in prompts for _ in range(config.samples)]
    sampling = Sampling(config.max_new_tokens, config.temperature, config.batch_size)
    sampled = sample(policy, tokens, repeated, sampling, generator_at(config.seed, "evaluate", name))
    texts = sampled.texts(tokens)
    found = scores(reward_model, tokens, repeated, texts, microbatch=config.microbatch)
    return Answers(sampled, texts, found.view(len(prompts), config.samples))


def compare(new: Answers, old: Answers, config: Config) -> dict[str, float]:
    """What two sets of answers to the same prompts say of each other."""
    per_prompt = win_rates(new.scores, old.scores)
    low, high = bootstrap_interval(per_prompt, generator_at(config.seed, "bootstrap"))
    lengths = [answers.sampled.is_response.sum(1).float().mean().item() for answers in (new, old)]
    return {
        "win_rate": per_prompt.mean().item(),
        "win_rate_low": low,
        "win_rate_high": high,
        "prompts": len(per_prompt),
        "samples": config.samples,
        "score": new.scores.mean().item(),
        "parent_score": old.scores.mean().item(),
        "length": lengths[0],
        "length_ratio": lengths[0] / lengths[1],
        "ended": new.sampled.ended.float().mean().item(),
        "parent_ended": old.sampled.ended.float().mean().item(),
        "distinct_2": distinct_2(new.texts),
        "parent_distinct_2": distinct_2(old.texts),
    }


def win_rates(new: Tensor, old: Tensor) -> Tensor:
    """(P,) for each prompt, the share of pairs in which the new score is higher; a tie is half a win.

    new (P, n) and old (P, m) are scores of independent responses: all n * m pairs of a prompt count.
    """
    margins = new[:, :, None] - old[:, None, :]
    return ((margins > 0).float() + 0.5 * (margins == 0).float()).mean((1, 2))


def bootstrap_interval(per_prompt: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """The 95 % interval of the mean of (P,) numbers when prompts are drawn anew, with replacement (Efron 1979)."""
    values = per_prompt.double().cpu()
    drawn = torch.randint(len(values), (RESAMPLES, len(values)), generator=generator)
    low, high = torch.quantile(values[drawn].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def distinct_2(texts: Sequence[str]) -> float:
    """The share of different ones among all pairs of adjacent words; falls when a policy repeats itself (Li 2016)."""
    pairs = [pair for words in map(str.split, texts) for pair in itertools.pairwise(words)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def tax(
    policy: PreTrainedModel,
    base: PreTrainedModel,
    tokens: PreTrainedTokenizerBase,
    base_tokens: PreTrainedTokenizerBase,
    policy_path: Path,
    workspace: Workspace,
) -> dict[str, float]:
    """Bits per byte of held-out text before and after, and the relative rise."""
    texts = corpus.heldout_texts(policy_path, workspace.checkpoints)
    after = corpus.heldout_bits_per_byte(policy, tokens, texts)
    before = corpus.heldout_bits_per_byte(base, base_tokens, texts)
    return {"bits_per_byte": after, "bits_per_byte_before": before, "tax": after / before - 1}


def objections_to(metrics: dict[str, float | None], config: Config) -> list[str]:
    """Why the policy may not be promoted, in words with numbers; empty when it may."""
    low, kl, rise = percent(metrics["win_rate_low"]), metrics["kl"], percent(metrics["tax"])
    ended, before = percent(metrics["ended"]), percent(metrics["parent_ended"])
    rules = [
        (metrics["win_rate_low"] <= 0.5, f"the interval of the win rate reaches down to {low}, not above 50 %"),
        (kl > config.max_kl, f"it moved {kl:.1f} nats per response away, more than {config.max_kl:g}"),
        (
            metrics["tax"] > config.max_tax,
            f"bits per byte of held-out text rose by {rise}, more than {percent(config.max_tax)}",
        ),
        (
            metrics["ended"] < metrics["parent_ended"] - config.max_ended_drop,
            f"{ended} of its responses come to an end, of its parent's {before}",
        ),
    ]
    return [words for broken, words in rules if broken]


def reason_of(policy: str, parent: str, metrics: dict[str, float | None], objections: list[str]) -> str:
    """The verdict in words."""
    low, high = percent(metrics["win_rate_low"]), percent(metrics["win_rate_high"])
    accuracy = metrics["reward_accuracy"]
    judge = (
        "never measured on held-out labels" if accuracy is None else f"right on {percent(accuracy)} of held-out pairs"
    )
    measured = (
        f"{policy} wins {percent(metrics['win_rate'])} against {parent} on {metrics['prompts']:.0f} held-out prompts "
        f"(95 % interval {low} to {high}, judged by the reward model, {judge}), at {metrics['kl']:.1f} nats, "
        f"{metrics['length_ratio']:.2f} times the length and {metrics['tax'] * 100:+.1f} % bits per byte."
    )
    return measured if not objections else f"{measured} Not promoted: {'; '.join(objections)}."


def percent(share: float) -> str:
    return f"{share * 100:.1f} %"
