"""Reward model: learn to score a response the way labelers rank.

Reads   a snapshot's rankings (train split to learn from, held-out prompts to measure on) and its demonstrations
Writes  a checkpoint: the SFT backbone with a scalar head; metrics.jsonl with one line per step; states to resume from
Learns  -log sigmoid(better - worse), the mean over a ranking's K(K-1)/2 pairs, then over rankings
        (Ouyang et al. 2022, section 3.5), ties by a stated model (ranking.py). K responses are scored once each, after
        a prompt that is encoded once (scoring.py)

Measured on held-out prompts (calibration.py): how often the scores order a pair as the labeler did, beside what "pick
the longer" reaches and beside the labelers' own agreement, which caps it; the same by how sure labeler and model were,
by who wrote the responses, and for labelers not trained on. Afterwards the scores are shifted so that the
demonstrations score 0 on average.

    python -m training reward --snapshot var/snapshots/3f9a12c0be77d2a1 --init sft-0001
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data import datasets, snapshots
from data.errors import TooFewLabels
from data.runs import RunFolder
from data.snapshots import Snapshot
from data.workspace import Workspace
from training import calibration, checkpoints, lora, parallel, scoring, sharding, tokenizer
from training.calibration import Judged
from training.engine import generator_at
from training.metrics import Cancelled, Progress
from training.model import layers_recomputed, scalar_from_policy
from training.preferences import Encoded, encode, labelers_left_out, weighted
from training.ranking import (
    Ties,
    by_response,
    decided_pairs,
    pairs_right,
    rank_gaps,
    ranking_losses,
    rating_gaps,
    theta_of,
)
from training.throughput import dimensions, limits, mfu, ranking_flops

MOST_JUDGED = 1000  # rankings learned from that the accuracy in training is measured on: an error of .01
FORWARD_ONLY = 4  # times as many in a pass that keeps nothing for a gradient


@dataclass(frozen=True)
class Config:
    snapshot: Path  # what the labelers said
    init: str  # SFT checkpoint that lends its backbone
    epochs: int = 1  # more than two overfit the rankings (Ouyang et al. 2022)
    batch_size: int = 64  # rankings in one optimizer step
    microbatch: int = 8  # rankings in one forward pass; changes the memory and not the result
    learning_rate: float = 9e-6  # at its height; falls to a tenth along a cosine
    warmup: float = 0.03  # share of the steps in which the learning rate rises first (Touvron et al. 2023)
    max_tokens: int = 1024  # of prompt and response; a longer prompt loses its beginning
    max_grad_norm: float = 1.0
    ties: Ties = "rao-kupper"  # what a tie says: a model of ties, half a win of each ("half"), or nothing ("ignore")
    theta: float | None = None  # Rao and Kupper's; by default the one that the share of ties in training makes likely
    margin: float = 0.0  # a pair must be this far apart for each rank (or rating) between the two; 0 asks for none
    margin_of: Literal["ranks", "ratings"] = "ranks"  # what the margin counts
    labeler_weights: Path | None = None  # JSON {labeler: weight}, others weigh 1; else the snapshot's, if any
    heldout_labelers: tuple[str, ...] = ()  # not trained on: their rankings of held-out prompts are measured apart
    heldout_labeler_share: float = 0.0  # so many more of the labelers, chosen by a hash of their names
    share_prompts: bool = True  # encode a ranking's prompt once, where that is faster; the scores are the same
    gradient_checkpointing: bool = False  # compute layers again in the backward pass: less memory, prompts not shared
    lora_rank: int = 0  # of a LoRA adapter that is trained in place of the weights; 0: all weights are trained
    lora_alpha: float = 32.0  # the adapter's product is multiplied by lora_alpha / lora_rank
    lora_targets: tuple[str, ...] = ("all-linear",)  # names of the layers that get an adapter, such as q_proj v_proj
    save_every: int = 50  # steps between states to resume from
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "microbatch", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if self.max_tokens < 2:
            raise ValueError(f"max_tokens is {self.max_tokens}; a prompt and a response need 2 or more.")
        for name in ("learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if self.ties not in get_args(Ties):
            raise ValueError(f"ties is {self.ties!r}; it must be one of {', '.join(get_args(Ties))}.")
        if self.theta is not None and not (self.ties == "rao-kupper" and 1 < self.theta < math.inf):
            raise ValueError(f"theta is {self.theta}; it must be above 1, and only ties rao-kupper has one.")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin is {self.margin}; it must be 0 or more.")
        if self.margin_of not in ("ranks", "ratings"):
            raise ValueError(f"margin_of is {self.margin_of!r}; it must be ranks or ratings.")
        for name in ("warmup", "heldout_labeler_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more, below 1.")


def main(config: Config, run: RunFolder, workspace: Workspace) -> None:
    """Train, measure, shift, save."""
    snapshot = snapshots.load(config.snapshot)
    init = checkpoints.resolve(config.init, workspace)
    tokens = tokenizer.load(init)
    train = training_rankings(snapshot, tokens, config)
    device = parallel.device()
    torch.manual_seed(config.seed)
    model = scalar_from_policy(init, tokens)
    lora.with_adapter(model, rank=config.lora_rank, alpha=config.lora_alpha, targets=config.lora_targets)
    sharding.place(model.eval(), device)  # eval: dropout stays off, also in training
    if shares_prompts(config):
        scoring.check_sharing(model, train[0].prompt, train[0].responses, tokens.pad_token_id)
    learn(model, train, config, run, tokens.pad_token_id)
    with sharding.gathered(model) as whole:
        whole.config.score_offset = score_offset(whole, snapshot, train, tokens, config)
        metrics = measure(whole, snapshot, train, tokens, config)
        print_report(metrics)
        checkpoints.save(
            workspace.checkpoints,
            run.id,
            stage="reward",
            parents=(checkpoints.name_of(init, config.init),),
            snapshot=snapshot.hash,
            model=whole,  # which carries the offset
            tokenizer=tokens,
            config=asdict(config),
            metrics=metrics,
            seed=config.seed,
        )
    checkpoints.finish(run, metrics)


def training_rankings(snapshot: Snapshot, tokens: PreTrainedTokenizerBase, config: Config) -> list[Encoded]:
    """The rankings to learn from, their weights 1 on average. Raises TooFewLabels when there is no decided pair."""
    rankings = weighted(datasets.rankings(snapshot, "train"), config.labeler_weights)
    labelers = {ranking.labeler for ranking in rankings}
    left_out = labelers_left_out(labelers, config.heldout_labelers, config.heldout_labeler_share)
    kept = [ranking for ranking in rankings if ranking.labeler not in left_out and ranking.weight > 0]
    train = encode(kept, tokens, config.max_tokens, ties_too=config.ties != "ignore")
    if all(len(set(ranking.ranks)) == 1 for ranking in train):
        without = f" without the {len(left_out)} labelers held out" if left_out else ""
        raise TooFewLabels(
            f"Snapshot {snapshot.hash} has no ranking with a decided pair on a training prompt{without}. "
            "Rank more responses, then freeze again."
        )
    mean = sum(ranking.weight for ranking in train) / len(train)
    return [replace(ranking, weight=ranking.weight / mean) for ranking in train]


def learn(model: PreTrainedModel, train: list[Encoded], config: Config, run: RunFolder, pad_id: int) -> None:
    """The training loop; goes on from the newest state of the run where there is one."""
    per_epoch = math.ceil(len(train) / config.batch_size)
    steps = config.epochs * per_epoch
    theta = tie_parameter(train, config)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=config.learning_rate, eps=1e-5, weight_decay=0.0)
    progress = Progress(run, "reward", steps)
    state = checkpoints.load_state(run.path, models={"reward": model}, optimizers={"reward": optimizer})
    start = state[0] if state else 0
    run.drop_metrics_after(start)
    for step in range(start, steps):
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(len(train), generator=generator_at(config.seed, "rankings", epoch)).tolist()
        batch = [train[i] for i in order[place * config.batch_size : (place + 1) * config.batch_size]]
        optimizer.param_groups[0]["lr"] = config.learning_rate * rate(step, steps, config.warmup)
        began = time.monotonic()
        stats = improve(model, optimizer, batch, config, pad_id, theta)
        rate_now = optimizer.param_groups[0]["lr"]
        progress.log(step + 1, **stats, learning_rate=rate_now, **pace(model, batch, time.monotonic() - began))
        stop = parallel.agreed(progress.stop_requested)
        if stop or (step + 1) % config.save_every == 0:
            parts = {"models": {"reward": model}, "optimizers": {"reward": optimizer}}
            only = config.lora_rank > 0
            checkpoints.save_state(run.path, step + 1, **parts, extra={}, only_trainable=only)
        if stop:
            progress.at(step + 1, always=True)
            raise Cancelled(f"Stopped after step {step + 1} of {steps}; go on with --resume {run.id}.")


def pace(model: PreTrainedModel, batch: Sequence[Encoded], seconds: float) -> dict[str, float]:
    """How fast a step on these rankings was: tokens a second, each prompt counted once, and the use of the device."""
    dims = dimensions(model)
    sizes = [(len(ranking.prompt), list(map(len, ranking.responses))) for ranking in batch]
    tokens = sum(prompt + sum(responses) for prompt, responses in sizes)
    needed = sum(ranking_flops(dims, prompt, responses) for prompt, responses in sizes) / parallel.count()
    used = mfu(needed, seconds, limits(parallel.device()))
    return {"seconds": seconds, "tokens_per_second": tokens / seconds, "mfu": used}


def tie_parameter(train: Sequence[Encoded], config: Config) -> float:
    """Rao and Kupper's theta: the one given, or the one under which equal responses tie as often as these do."""
    if config.ties != "rao-kupper":
        return 1.0
    weights = sum(ranking.weight for ranking in train)
    return config.theta or theta_of(sum(ranking.weight * ranking.tie_share for ranking in train) / weights)


def improve(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[Encoded],
    config: Config,
    pad_id: int,
    theta: float = 1.0,
) -> dict[str, float | None]:
    """One optimizer step on the rankings of `batch`: the mean of their losses times their weights.

    Every process computes its part of the microbatches, and all make the same step. Returns that loss, the share of
    decided pairs ordered right, the norm of the gradient before clipping, and the share of the tokens computed that
    were padding.
    """
    optimizer.zero_grad()
    loss_sum, right, decided, tokens, computed = 0.0, 0.0, 0, 0, 0
    for part, counts in parallel.in_step(microbatches(batch, config.microbatch)):
        with layers_recomputed(model) if config.gradient_checkpointing else nullcontext():
            values, ranks, scored = score_rankings(model, part, pad_id, share=shares_prompts(config))
        losses = ranking_losses(values, ranks, ties=config.ties, theta=theta, margins=margins_of(part, ranks, config))
        weights = losses.new_tensor([ranking.weight for ranking in part])
        loss = counts * (weights * losses).sum() / len(batch)
        loss.backward()
        if counts:
            loss_sum += loss.item()
            right += pairs_right(values.detach(), ranks).sum().item()
            decided += int(decided_pairs(ranks).sum())
            tokens, computed = tokens + scored.tokens, computed + scored.computed
    parallel.sum_gradients(model.parameters())
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    loss_sum, right, decided, tokens, computed = parallel.total(loss_sum, right, decided, tokens, computed)
    return {
        "loss": loss_sum,
        "accuracy": right / decided if decided else None,
        "grad_norm": sharding.whole(norm).item(),
        "padding": 1 - tokens / computed,
    }


def microbatches(rankings: Sequence[Encoded], most: int) -> list[list[Encoded]]:
    """The rankings in parts of at most `most` for one pass each, of like length, and a part for each process."""
    by_length = sorted(rankings, key=lambda ranking: ranking.longest)
    size = max(1, min(most, -(-len(rankings) // parallel.count())))
    return [by_length[start : start + size] for start in range(0, len(rankings), size)]


def shares_prompts(config: Config) -> bool:
    """Whether prompts may be encoded once.

    Layers that are computed again keep no keys and values to share, and a divided model makes one pass for each
    microbatch.
    """
    return config.share_prompts and not config.gradient_checkpointing and not sharding.is_asked()


def rate(step: int, steps: int, warmup: float) -> float:
    """The factor on the learning rate of a step, counted from 0: a cosine from 1 to a tenth, after a line up to it.

    Without the line the first steps, whose head is still random, take the backbone apart.
    """
    rise = min(1.0, (step + 1) / (warmup * steps)) if warmup else 1.0
    return rise * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def score_rankings(
    model: PreTrainedModel, rankings: Sequence[Encoded], pad_id: int, *, share: bool
) -> tuple[Tensor, Tensor, scoring.Scores]:
    """Scores and ranks, both (rankings, K) for the largest K, and what they took.

    A ranking with fewer responses has score 0 and rank 0 in the rest.
    """
    prompts, responses = [ranking.prompt for ranking in rankings], [ranking.responses for ranking in rankings]
    scored = scoring.score(model, prompts, responses, pad_id, share=share)
    ranks = by_response([ranking.ranks for ranking in rankings], 0).to(scored.values.device)
    return scored.values.new_zeros(ranks.shape).masked_scatter(ranks > 0, scored.values), ranks, scored


def margins_of(rankings: Sequence[Encoded], ranks: Tensor, config: Config) -> Tensor | None:
    """(rankings, K, K) how far apart each pair must be; None where nothing is asked."""
    if not config.margin:
        return None
    if config.margin_of == "ranks":
        return config.margin * rank_gaps(ranks)
    ratings = [[math.nan if rating is None else rating for rating in ranking.ratings] for ranking in rankings]
    return config.margin * rating_gaps(by_response(ratings, math.nan).to(ranks.device))


@torch.no_grad()
def score_offset(
    model: PreTrainedModel,
    snapshot: Snapshot,
    train: list[Encoded],
    tokens: PreTrainedTokenizerBase,
    config: Config,
) -> float:
    """The mean score of the training demonstrations, or of the ranked responses when there are no demonstrations."""
    shown = datasets.demonstrations(snapshot, "train")
    rows: list[Sequence[int]] = [
        [*tokenizer.prompt_ids(tokens, d.messages), *tokenizer.response_ids(tokens, d.response)][-config.max_tokens :]
        for d in shown
    ] or [[*ranking.prompt, *response] for ranking in train for response in ranking.responses]
    rows.sort(key=len)
    size = FORWARD_ONLY * config.microbatch
    parts = parallel.mine([rows[i : i + size] for i in range(0, len(rows), size)])
    found = sum(scoring.score_rows(model, part, tokens.pad_token_id).values.double().sum().item() for part in parts)
    return parallel.total(found)[0] / len(rows)


def measure(
    model: PreTrainedModel,
    snapshot: Snapshot,
    train: list[Encoded],
    tokens: PreTrainedTokenizerBase,
    config: Config,
) -> dict[str, Any]:
    """What the checkpoint's manifest says of the model; None where there is nothing to measure on."""
    heldout = encode(datasets.rankings(snapshot, "heldout"), tokens, config.max_tokens, ties_too=True)
    judged = judge(model, heldout, tokens.pad_token_id, config)
    drawn = random.Random(config.seed).sample(train, min(MOST_JUDGED, len(train)))
    learned = judge(model, drawn, tokens.pad_token_id, config)
    seen = {ranking.labeler for ranking in train}
    agreement = snapshot.manifest.get("agreement") or {}
    return {
        **calibration.of_heldout(judged, seen),
        **calibration.against_agreement(judged, agreement),
        "heldout_rankings": len(heldout),
        "train_accuracy": calibration.accuracy(calibration.decided(learned))[0],
        "train_rankings": len(train),
        "train_labelers": len(seen),
        "train_ties": calibration.tie_share(learned),
        "theta": tie_parameter(train, config) if config.ties == "rao-kupper" else None,
        "score_offset": model.config.score_offset,
    }


@torch.no_grad()
def judge(model: PreTrainedModel, rankings: Sequence[Encoded], pad_id: int, config: Config) -> list[Judged]:
    """The rankings with the scores of their responses; what several labelers ranked is scored once."""
    tasks = {(ranking.prompt, ranking.responses): ranking for ranking in rankings}
    parts = microbatches(list(tasks.values()), FORWARD_ONLY * config.microbatch)
    found = [
        score_rankings(model, part, pad_id, share=shares_prompts(config))[0].tolist() for part in parallel.mine(parts)
    ]
    scored = [ranking for part in parts for ranking in part]
    rows = [row for part in parallel.together(found) for row in part]
    scores = {(r.prompt, r.responses): tuple(row[: len(r.ranks)]) for r, row in zip(scored, rows, strict=True)}
    return [
        Judged(r.prompt_id, r.ranks, scores[r.prompt, r.responses], r.lengths, r.sources, r.labeler) for r in rankings
    ]


def print_report(metrics: Mapping[str, Any]) -> None:
    """The measurements in lines for people."""
    for name, value in metrics.items():
        if isinstance(value, dict):
            for key, cells in value.items():
                print(f"reward: {name} {key}  " + "  ".join(f"{n} {_short(v)}" for n, v in cells.items()), flush=True)
        elif value is not None:
            print(f"reward: {name} {_short(value)}", flush=True)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
