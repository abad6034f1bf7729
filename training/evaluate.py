"""Evaluation: is the new policy better than the one before it, and what did it cost?

Reads   a snapshot's held-out prompts, which no stage trains on; the new policy, its parent, a reward model, perhaps
        a second one as the judge
Writes  the run's state: "metrics", "verdict" (promoted or rejected) and "reason" in words; no checkpoint

Both policies answer every held-out prompt several times. The win rate is the share of pairs (one response of each, same
prompt) in which the reward model scores the new policy's higher, ties counting half; its 95 % interval is a bootstrap
over prompts, since responses to one prompt are not independent. Beside it: the win rate among pairs of like length, KL
to the parent in nats per response, length, share of responses that came to an end, distinct bigrams, and bits per byte
of held-out text before and after (the alignment tax). Promoted if the interval lies above one half and nothing that was
paid is over its limit; a number that is none, as after weights that overflowed, is over every limit.

A reward model that judges the policy trained on it also rewards its own mistakes (Gao et al. 2022). With `judge`,
another reward checkpoint (trained with another seed, better on other labels) decides every win rate, the reward model's
own is reported as `proxy_win_rate`, and a gain that only the reward model sees is warned of.

Best-of-n is what the reward model achieves without training: of n responses of the parent it picks the one it scores
highest, which is at most log n - (n - 1)/n nats from the parent (Beirami et al. 2024). Judged by that same reward
model it wins n/(n + 1) against one response whatever the model is worth; how the policy fares against it, and what a
second judge says of both, are the numbers that tell.

    python -m training evaluate --snapshot var/snapshots/3f9a12c0be77d2a1 --policy ppo-0001 --parent sft-0001 \
        --reward reward-0001 --judge reward-0002 --best-of 16
"""

from __future__ import annotations

import itertools
import math
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
from training import checkpoints, corpus, parallel, sharding, tokenizer
from training.engine import generator_at
from training.metrics import Cancelled, Progress, finite
from training.model import load_policy, load_scalar, precision, room_for_prompts
from training.rollouts import Sampled, Sampling, logprobs, sample, scores

RESAMPLES = 2000  # of the bootstrap
LIKE = 0.1  # lengths are alike when they differ by no more than this share of the longer one


@dataclass(frozen=True)
class Config:
    snapshot: Path  # whose held-out prompts are answered
    policy: str  # the new checkpoint
    parent: str  # the checkpoint it must beat
    reward: str  # reward checkpoint that the policy was trained on; it judges when no other does
    judge: str | None = None  # another reward checkpoint, to decide all win rates
    best_of: int = 0  # compare with the best of so many of the parent's responses; 0: not
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
    min_variety: float = 0.5  # distinct bigrams of its responses, at least so many times those of its parent's
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens", "batch_size", "microbatch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0, or there were no KL.")
        if self.best_of < 0 or self.best_of == 1:
            raise ValueError(f"best_of is {self.best_of}; it must be 2 or more, or 0 for none.")


@dataclass(frozen=True)
class Judges:
    """Who scores responses: the reward model, and who decides. They are the same without a second judge."""

    reward: PreTrainedModel
    judge: PreTrainedModel
    tokens: PreTrainedTokenizerBase

    @property
    def independent(self) -> bool:
        return self.judge is not self.reward


@dataclass(frozen=True)
class Answers:
    """P prompts answered n times each by one policy."""

    sampled: Sampled  # P * n rows, a prompt's n one after the other
    texts: list[str]
    scores: Tensor  # (P, n) of the reward model
    judged: Tensor  # (P, n) of the judge; the same without a second one

    @property
    def lengths(self) -> Tensor:
        """(P, n) tokens of each response."""
        return self.sampled.is_response.sum(1).view(self.scores.shape).float()


def main(config: Config, run: RunFolder, workspace: Workspace) -> None:
    """Measure and judge."""
    progress = Progress(run, "evaluate", 5 if config.best_of else 4)
    with precision(parallel.device()):
        metrics = measure(config, workspace, progress)
    policy, parent = (
        checkpoints.name_of(checkpoints.resolve(name, workspace), name) for name in (config.policy, config.parent)
    )
    objections = objections_to(metrics, config)
    verdict = "rejected" if objections else "promoted"
    reason = reason_of(policy, parent, metrics, objections)
    metrics = {name: value if isinstance(value, str) else finite(value) for name, value in metrics.items()}
    run.append_metrics({"step": progress.steps, **metrics})
    run.update(state="done", progress=1.0, metrics=metrics, verdict=verdict, reason=reason)
    print(f"evaluate: {verdict}. {reason}", flush=True)


def measure(config: Config, workspace: Workspace, progress: Progress) -> dict[str, float | str | None]:
    """Every number of the verdict.

    Raises:
        InvalidInput: there is no held-out prompt, or the reward model or judge has another vocabulary.
        Cancelled: SIGTERM came; a resumed run starts over.
    """
    device = parallel.device()
    given = {"policy": config.policy, "parent": config.parent, "reward": config.reward, "judge": config.judge}
    paths = {name: checkpoints.resolve(called, workspace) for name, called in given.items() if called is not None}
    tokens = tokenizer.load(paths["policy"])
    for name, what in (("parent", "parent"), ("reward", "reward model"), ("judge", "judge")):
        if name in paths:
            tokenizer.require_shared(tokens, paths[name], what)
    reward_model = sharding.place(load_scalar(paths["reward"]).eval(), device)
    judge = sharding.place(load_scalar(paths["judge"]).eval(), device) if "judge" in paths else reward_model
    judges = Judges(reward_model, judge, tokens)
    policy = sharding.place(load_policy(paths["policy"], tokens).eval(), device)
    parent = sharding.place(load_policy(paths["parent"], tokens).eval(), device)
    room = min(room_for_prompts(model, config.max_new_tokens) for model in (policy, parent))
    prompts = heldout_prompts(config, tokens, min(room, config.max_prompt_tokens))
    new = answer(policy, judges, prompts, config, "policy")
    step_done(progress, 1)
    old = answer(parent, judges, prompts, config, "parent")
    step_done(progress, 2)
    ratio = new.sampled.old_logprobs - logprobs(
        parent, new.sampled, temperature=config.temperature, microbatch=config.microbatch
    )
    step_done(progress, 3)
    base_path = paths["parent"] if config.base is None else checkpoints.resolve(config.base, workspace)
    base = parent if config.base is None else sharding.place(load_policy(base_path).eval(), device)
    metrics = compare(new, old, config) | {"kl": ratio.sum(1).mean().item()}
    metrics |= tax(policy, base, tokens, tokenizer.load(base_path), paths["policy"], workspace)
    step_done(progress, 4)
    if judges.independent:
        metrics |= proxy_metrics(new, old, metrics, config) | {"judge_accuracy": accuracy_of(paths["judge"])}
    if config.best_of:
        candidates = answer(parent, judges, prompts, config, "best-of", samples=config.best_of)
        metrics |= compare_best_of(candidates, new, old, config)
        step_done(progress, 5)
    return metrics | {"reward_accuracy": accuracy_of(paths["reward"])}


def accuracy_of(reward: Path) -> float | None:
    """How often the judge ordered a pair of held-out prompts as the labelers did; None where nobody measured it."""
    if not (reward / checkpoints.MANIFEST).is_file():
        return None
    return checkpoints.read_manifest(reward)["metrics"].get("heldout_accuracy")


def step_done(progress: Progress, step: int) -> None:
    """Say so, and stop here when SIGTERM came."""
    progress.at(step)
    if parallel.agreed(progress.stop_requested):
        raise Cancelled(f"Stopped after step {step} of {progress.steps}; a resumed run starts over.")


def heldout_prompts(config: Config, tokens: PreTrainedTokenizerBase, most: int) -> list[list[int]]:
    """The held-out prompts of no more than so many tokens, as token ids."""
    snapshot = snapshots.load(config.snapshot)
    encoded = [tokenizer.prompt_ids(tokens, prompt.messages) for prompt in datasets.prompts(snapshot, "heldout")]
    prompts = [ids for ids in encoded if len(ids) <= most]
    if not prompts:
        raise InvalidInput(
            f"Snapshot {snapshot.hash} has no held-out prompt of {most} tokens or less, and a policy is not measured "
            "on prompts it was trained on. Add prompts with the split heldout, freeze again."
        )
    return prompts


def answer(
    policy: PreTrainedModel,
    judges: Judges,
    prompts: list[list[int]],
    config: Config,
    name: str,
    *,
    samples: int | None = None,
) -> Answers:
    """Answer every prompt `samples` times (`config.samples` by default) and score the responses."""
    count = samples or config.samples
    repeated = [ids for ids in prompts for _ in range(count)]
    sampling = Sampling(config.max_new_tokens, config.temperature, config.batch_size)
    sampled = sample(policy, judges.tokens, repeated, sampling, generator_at(config.seed, "evaluate", name))
    texts = sampled.texts(judges.tokens)

    def scored(model: PreTrainedModel) -> Tensor:
        return scores(model, judges.tokens, repeated, texts, microbatch=config.microbatch).view(len(prompts), count)

    by_reward = scored(judges.reward)
    return Answers(sampled, texts, by_reward, scored(judges.judge) if judges.independent else by_reward)


def compare(new: Answers, old: Answers, config: Config) -> dict[str, float | None]:
    """What two sets of answers to the same prompts say of each other."""
    lengths = [answers.lengths.mean().item() for answers in (new, old)]
    return {
        **with_interval("win_rate", win_rates(new.judged, old.judged), config),
        **like_length(new, old),
        "prompts": len(new.scores),
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


def with_interval(name: str, per_prompt: Tensor, config: Config) -> dict[str, float]:
    """The mean of (P,) win rates by this name, and its 95 % interval as <name>_low and <name>_high."""
    low, high = bootstrap_interval(per_prompt, generator_at(config.seed, "bootstrap"))
    return {name: per_prompt.mean().item(), f"{name}_low": low, f"{name}_high": high}


def like_length(new: Answers, old: Answers) -> dict[str, float | None]:
    """The win rate among pairs of responses of like length, which no preference for length can win, and their share.

    The mean over the prompts that have such a pair; None where no prompt has.
    """
    one, other = new.lengths[:, :, None], old.lengths[:, None, :]
    alike = (one - other).abs() <= LIKE * torch.maximum(one, other)
    pairs = alike.sum((1, 2))
    won = (wins(new.judged, old.judged) * alike).sum((1, 2))[pairs > 0] / pairs[pairs > 0]
    return {
        "win_rate_like_length": won.mean().item() if len(won) else None,
        "like_length": alike.float().mean().item(),
    }


def proxy_metrics(
    new: Answers, old: Answers, metrics: dict[str, float | None], config: Config
) -> dict[str, float | str | None]:
    """What the reward model itself says where another judge decides, and a warning where only it sees a gain.

    A gain of the reward model's that the judge's interval does not confirm is the first sign of over-optimisation
    (Gao et al. 2022): it comes before the judge prefers the parent.
    """
    proxy = with_interval("proxy_win_rate", win_rates(new.scores, old.scores), config)
    rose, confirmed = proxy["proxy_win_rate_low"] > 0.5, metrics["win_rate_low"] > 0.5
    warning = None
    if rose and not confirmed:
        warning = (
            f"Over-optimised: the policy wins {percent(proxy['proxy_win_rate'])} by the reward model it learned from "
            f"and {percent(metrics['win_rate'])} by the judge. Stop earlier, raise kl_coef, or collect labels on its "
            "responses and train the reward model anew"
        )
    return {
        **proxy,
        "judge_score": new.judged.mean().item(),
        "parent_judge_score": old.judged.mean().item(),
        "warning": warning,
    }


def compare_best_of(candidates: Answers, new: Answers, old: Answers, config: Config) -> dict[str, float]:
    """How the response that the reward model picks among a prompt's candidates, all of the parent, fares."""
    count = candidates.scores.shape[1]
    picked = candidates.scores.argmax(1, keepdim=True)
    best = candidates.judged.gather(1, picked)
    return {
        "best_of": count,
        "best_of_kl_bound": math.log(count) - (count - 1) / count,
        **with_interval("best_of_win_rate", win_rates(best, old.judged), config),
        **with_interval("win_rate_over_best_of", win_rates(new.judged, best), config),
        "best_of_length_ratio": (candidates.lengths.gather(1, picked).mean() / old.lengths.mean()).item(),
    }


def win_rates(new: Tensor, old: Tensor) -> Tensor:
    """(P,) for each prompt, the share of pairs in which the new score is higher; a tie is half a win.

    new (P, n) and old (P, m) are scores of independent responses: all n * m pairs of a prompt count.
    """
    return wins(new, old).mean((1, 2))


def wins(new: Tensor, old: Tensor) -> Tensor:
    """(P, n, m) for each pair of responses to a prompt: 1 where the new score is higher, 0.5 where they are equal."""
    margins = new[:, :, None] - old[:, None, :]
    return (margins > 0).float() + 0.5 * (margins == 0).float()


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
    with sharding.gathered(policy) as whole:
        after = corpus.heldout_bits_per_byte(whole, tokens, texts)
    with sharding.gathered(base) as whole:
        before = corpus.heldout_bits_per_byte(whole, base_tokens, texts)
    return {"bits_per_byte": after, "bits_per_byte_before": before, "tax": after / before - 1}


def objections_to(metrics: dict[str, float | None], config: Config) -> list[str]:
    """Why the policy may not be promoted, in words with numbers; empty when it may.

    Each rule says what must hold, so that a number that is none breaks it.
    """
    low, kl, rise = percent(metrics["win_rate_low"]), metrics["kl"], percent(metrics["tax"])
    ended, before = percent(metrics["ended"]), percent(metrics["parent_ended"])
    variety, own = percent(metrics["distinct_2"]), percent(metrics["parent_distinct_2"])
    rules = [
        (metrics["win_rate_low"] > 0.5, f"the interval of the win rate reaches down to {low}, not above 50 %"),
        (kl <= config.max_kl, f"it moved {kl:.1f} nats per response away, more than {config.max_kl:g}"),
        (
            metrics["tax"] <= config.max_tax,
            f"bits per byte of held-out text rose by {rise}, more than {percent(config.max_tax)}",
        ),
        (
            metrics["ended"] >= metrics["parent_ended"] - config.max_ended_drop,
            f"{ended} of its responses come to an end, of its parent's {before}",
        ),
        (
            metrics["distinct_2"] >= config.min_variety * metrics["parent_distinct_2"],
            f"it repeats itself: {variety} of its pairs of words are different ones, of its parent's {own}",
        ),
    ]
    return [words for holds, words in rules if not holds]


def reason_of(policy: str, parent: str, metrics: dict[str, float | str | None], objections: list[str]) -> str:
    """The verdict in words."""
    low, high = percent(metrics["win_rate_low"]), percent(metrics["win_rate_high"])
    second = "judge_accuracy" in metrics
    accuracy = metrics["judge_accuracy"] if second else metrics["reward_accuracy"]
    who = "a second reward model" if second else "its own reward model"
    how_good = (
        "never measured on held-out labels" if accuracy is None else f"right on {percent(accuracy)} of held-out pairs"
    )
    sentences = [
        f"{policy} wins {percent(metrics['win_rate'])} against {parent} on {metrics['prompts']:.0f} held-out prompts "
        f"(95 % interval {low} to {high}, judged by {who}, {how_good}), at {metrics['kl']:.1f} nats, "
        f"{metrics['length_ratio']:.2f} times the length and {metrics['tax'] * 100:+.1f} % bits per byte."
    ]
    if "best_of" in metrics:
        sentences.append(
            f"It wins {percent(metrics['win_rate_over_best_of'])} against the best of {metrics['best_of']} responses "
            f"of {parent}, which wins {percent(metrics['best_of_win_rate'])} at {metrics['best_of_kl_bound']:.1f} nats."
        )
    if metrics.get("warning"):
        sentences.append(f"{metrics['warning']}.")
    if objections:
        sentences.append(f"Not promoted: {'; '.join(objections)}.")
    return " ".join(sentences)


def percent(share: float) -> str:
    return f"{share * 100:.1f} %"
