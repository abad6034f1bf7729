"""Reward model: learn to score a response the way labelers rank.

Reads   a snapshot's rankings (train split to learn from, held-out prompts to measure on) and its demonstrations
Writes  a checkpoint: the SFT backbone with a scalar head; metrics.jsonl with one line per step; states to resume from
Learns  -log sigmoid(better - worse), the mean over a ranking's K(K-1)/2 decided pairs, then over rankings
        (Ouyang et al. 2022, section 3.5). K forward passes per ranking, not K(K-1)

Measured on held-out prompts: how often the scores order a pair as the labeler did, beside what "pick the longer"
reaches and beside the labelers' own agreement, which caps it. Afterwards the scores are shifted so that the
demonstrations score 0 on average.

    python -m training reward --snapshot var/snapshots/3f9a12c0be77d2a1 --init sft-0001
"""

from __future__ import annotations

import math
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data import datasets, snapshots
from data.datasets import Ranked
from data.errors import TooFewLabels
from data.runs import RunFolder
from data.snapshots import Snapshot
from data.workspace import Workspace
from training import checkpoints, tokenizer
from training.engine import generator_at
from training.losses import decided_pairs, pairs_right, pairwise_ranking_loss
from training.metrics import Cancelled, Progress
from training.model import scalar_from_policy, scores
from training.rollouts import padded_right, reward_scores


@dataclass(frozen=True)
class Config:
    snapshot: Path  # what the labelers said
    init: str  # SFT checkpoint that lends its backbone
    epochs: int = 1  # more than two overfit the rankings (Ouyang et al. 2022)
    batch_size: int = 64  # rankings in one optimizer step
    microbatch: int = 8  # rankings in one forward pass; changes the memory and not the result
    learning_rate: float = 9e-6  # at the start; falls to a tenth along a cosine
    max_tokens: int = 1024  # of prompt and response; a longer prompt loses its beginning
    max_grad_norm: float = 1.0
    save_every: int = 50  # steps between states to resume from
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "microbatch", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")


@dataclass(frozen=True)
class Encoded:
    """A ranking as token ids: K sequences of prompt and response, and their ranks (1 is best, 0 is none)."""

    prompt_id: str
    sequences: tuple[tuple[int, ...], ...]
    ranks: tuple[int, ...]
    lengths: tuple[int, ...]  # of the responses, in characters


def main(config: Config, run: RunFolder, workspace: Workspace) -> None:
    """Train, measure, shift, save."""
    snapshot = snapshots.load(config.snapshot)
    init = checkpoints.resolve(config.init, workspace)
    tokens = tokenizer.load(init)
    train = encode(datasets.rankings(snapshot, "train"), tokens, config.max_tokens)
    if not train:
        raise TooFewLabels(
            f"Snapshot {snapshot.hash} has no ranking with a decided pair on a training prompt. "
            "Rank more responses, then freeze again."
        )
    accelerator = Accelerator()
    torch.manual_seed(config.seed)
    model = scalar_from_policy(init, tokens).to(accelerator.device).eval()  # eval: dropout stays off, also in training
    learn(model, train, config, run, tokens.pad_token_id)
    model.config.score_offset = score_offset(model, snapshot, train, tokens, config)
    metrics = measure(model, snapshot, train, tokens, config)
    print_report(metrics)
    checkpoints.save(
        workspace.checkpoints,
        run.id,
        stage="reward",
        parents=(checkpoints.name_of(init, config.init),),
        snapshot=snapshot.hash,
        model=model,
        tokenizer=tokens,
        config=asdict(config),
        metrics=metrics,
        seed=config.seed,
    )
    shutil.rmtree(run.path / "states", ignore_errors=True)  # nothing is left to resume
    run.update(state="done", checkpoint=run.id, progress=1.0, metrics=metrics)


def encode(rankings: Sequence[Ranked], tokens: PreTrainedTokenizerBase, max_tokens: int) -> list[Encoded]:
    """Rankings as token ids, those without a decided pair left out.

    A response that alone exceeds max_tokens would lose the end that the score is read at: it counts as unranked.
    """
    encoded = []
    for ranking in rankings:
        prompt = tokenizer.prompt_ids(tokens, ranking.messages)
        responses = [tokenizer.response_ids(tokens, text) for text in ranking.responses]
        fits = [len(response) <= max_tokens for response in responses]
        ranks = tuple((rank or 0) if fit else 0 for rank, fit in zip(ranking.ranks, fits, strict=True))
        if len({rank for rank in ranks if rank}) < 2:
            continue
        sequences = tuple(tuple([*prompt, *response][-max_tokens:]) for response in responses)
        lengths = tuple(len(text) for text in ranking.responses)
        encoded.append(Encoded(ranking.prompt_id, sequences, ranks, lengths))
    return encoded


def learn(model: PreTrainedModel, train: list[Encoded], config: Config, run: RunFolder, pad_id: int) -> None:
    """The training loop; goes on from the newest state of the run where there is one."""
    per_epoch = math.ceil(len(train) / config.batch_size)
    steps = config.epochs * per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, eps=1e-5, weight_decay=0.0)
    progress = Progress(run, "reward", steps)
    state = checkpoints.load_state(run.path, models={"reward": model}, optimizers={"reward": optimizer})
    start = state[0] if state else 0
    run.drop_metrics_after(start)
    for step in range(start, steps):
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(len(train), generator=generator_at(config.seed, "rankings", epoch)).tolist()
        batch = [train[i] for i in order[place * config.batch_size : (place + 1) * config.batch_size]]
        optimizer.param_groups[0]["lr"] = config.learning_rate * cosine_to_a_tenth(step / steps)
        loss, accuracy = improve(model, optimizer, batch, config, pad_id)
        progress.log(step + 1, loss=loss, accuracy=accuracy, learning_rate=optimizer.param_groups[0]["lr"])
        if progress.stop_requested or (step + 1) % config.save_every == 0:
            checkpoints.save_state(
                run.path, step + 1, models={"reward": model}, optimizers={"reward": optimizer}, extra={}
            )
        if progress.stop_requested:
            raise Cancelled(f"Stopped after step {step + 1} of {steps}; go on with --resume {run.id}.")


def improve(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, batch: list[Encoded], config: Config, pad_id: int
) -> tuple[float, float]:
    """One optimizer step on the rankings of `batch`; returns their loss and the share of pairs ordered right."""
    optimizer.zero_grad()
    loss_sum, right, decided = 0.0, 0.0, 0
    for start in range(0, len(batch), config.microbatch):
        part = batch[start : start + config.microbatch]
        found, ranks = score_rankings(model, part, pad_id)
        loss = pairwise_ranking_loss(found, ranks) * len(part) / len(batch)
        loss.backward()
        loss_sum += loss.item()
        right += pairs_right(found.detach(), ranks).sum().item()
        decided += int(decided_pairs(ranks).sum())
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    return loss_sum, right / decided


def cosine_to_a_tenth(done: float) -> float:
    """The factor on the learning rate when the share `done` of the steps is behind: 1 at 0, a tenth at 1."""
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))


def score_rankings(model: PreTrainedModel, rankings: Sequence[Encoded], pad_id: int) -> tuple[Tensor, Tensor]:
    """Scores and ranks, both (rankings, K) for the largest K; a shorter ranking has score 0 and rank 0 in the rest."""
    sequences = [sequence for ranking in rankings for sequence in ranking.sequences]
    flat = scores(model, *padded_right(sequences, pad_id, model.device))
    width = max(len(ranking.ranks) for ranking in rankings)
    ranks = torch.zeros(len(rankings), width, dtype=torch.long, device=flat.device)
    is_there = torch.zeros(len(rankings), width, dtype=torch.bool, device=flat.device)
    for row, ranking in enumerate(rankings):
        ranks[row, : len(ranking.ranks)] = torch.tensor(ranking.ranks)
        is_there[row, : len(ranking.ranks)] = True
    return flat.new_zeros(ranks.shape).masked_scatter(is_there, flat), ranks


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
    sequences: list[list[int]] = [
        [*tokenizer.prompt_ids(tokens, d.messages), *tokenizer.response_ids(tokens, d.response)][-config.max_tokens :]
        for d in shown
    ] or [list(sequence) for ranking in train for sequence in ranking.sequences]
    size = 4 * config.microbatch
    parts = [sequences[i : i + size] for i in range(0, len(sequences), size)]
    model.config.score_offset = 0.0
    found = [reward_scores(model, *padded_right(part, tokens.pad_token_id, model.device)) for part in parts]
    return torch.cat(found).mean().item()


def measure(
    model: PreTrainedModel,
    snapshot: Snapshot,
    train: list[Encoded],
    tokens: PreTrainedTokenizerBase,
    config: Config,
) -> dict[str, object]:
    """What the checkpoint's manifest says of the model; None where there is nothing to measure on."""
    heldout = encode(datasets.rankings(snapshot, "heldout"), tokens, config.max_tokens)
    accuracy, error = accuracy_by_prompt(heldout, scores_of(model, heldout, tokens.pad_token_id, config))
    longer, _ = accuracy_by_prompt(heldout, [list(map(float, ranking.lengths)) for ranking in heldout])
    agreement = (snapshot.manifest.get("agreement") or {}).get("pairwise")
    return {
        "heldout_accuracy": accuracy,
        "heldout_accuracy_error": error,
        "heldout_rankings": len(heldout),
        "longer_wins": longer,
        "agreement": agreement,
        "ceiling": ceiling_of(agreement),
        "train_accuracy": accuracy_by_prompt(train, scores_of(model, train, tokens.pad_token_id, config))[0],
        "train_rankings": len(train),
        "score_offset": model.config.score_offset,
        "warning": leak_warning(accuracy, error, ceiling_of(agreement)),
    }


@torch.no_grad()
def scores_of(model: PreTrainedModel, rankings: Sequence[Encoded], pad_id: int, config: Config) -> list[list[float]]:
    """The scores of each ranking's responses."""
    found: list[list[float]] = []
    for start in range(0, len(rankings), config.microbatch):
        part = rankings[start : start + config.microbatch]
        rows = score_rankings(model, part, pad_id)[0].tolist()
        found += [row[: len(ranking.ranks)] for row, ranking in zip(rows, part, strict=True)]
    return found


def accuracy_by_prompt(
    rankings: Sequence[Encoded], found: Sequence[Sequence[float]]
) -> tuple[float | None, float | None]:
    """The share of decided pairs that the scores order as the labeler did, and its standard error.

    The error is clustered by prompt, since the pairs of one prompt are not independent (Miller 2024); None with fewer
    than two prompts. Both are None without a pair.
    """
    by_prompt: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for ranking, row in zip(rankings, found, strict=True):
        ranks = torch.tensor([ranking.ranks])
        by_prompt[ranking.prompt_id][0] += pairs_right(torch.tensor([row]), ranks).item()
        by_prompt[ranking.prompt_id][1] += decided_pairs(ranks).sum().item()
    total = sum(pairs for _, pairs in by_prompt.values())
    if not total:
        return None, None
    accuracy = sum(right for right, _ in by_prompt.values()) / total
    count = len(by_prompt)
    if count < 2:
        return accuracy, None
    squares = sum((right - accuracy * pairs) ** 2 for right, pairs in by_prompt.values())
    return accuracy, math.sqrt(squares * count / (count - 1)) / total


def ceiling_of(agreement: float | None) -> float | None:
    """How often a perfect judge would agree with one label, when two labels agree with each other this often.

    If each label is right with probability q, two agree with probability q^2 + (1 - q)^2.
    """
    return None if agreement is None else (1 + math.sqrt(max(0.0, 2 * agreement - 1))) / 2


def leak_warning(accuracy: float | None, error: float | None, ceiling: float | None) -> str | None:
    """Words for an accuracy that no honest judge can reach: held-out labels have probably leaked into training."""
    if accuracy is None or error is None or ceiling is None or accuracy <= ceiling + 3 * error:
        return None
    return (
        f"The held-out accuracy {accuracy:.3f} is more than 3 standard errors ({error:.3f}) above {ceiling:.3f}, the "
        "most that the labelers' own agreement allows: look for held-out prompts among the training prompts."
    )


def print_report(metrics: dict[str, object]) -> None:
    """The measurements in lines for people."""
    for name, value in metrics.items():
        if value is not None:
            print(f"reward: {name} {value:.4g}" if isinstance(value, float) else f"reward: {name} {value}", flush=True)
