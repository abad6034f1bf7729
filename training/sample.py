"""Sampling: several responses of one policy to each of many prompts, for labelers to rank.

Reads   a snapshot's prompts, of both splits, a policy's checkpoint, and reward models where they are given
Writes  batches/<run>.parquet: for each prompt K different responses, each with the checkpoint and the sampling settings
        that made it, and how unsure the reward models are of their order: labelers get the least sure first
Learns  nothing

    python -m training sample --snapshot var/snapshots/3f9a12c0be77 --policy sft-0001 --prompts 60 --responses 4
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data import batches, datasets, snapshots
from data.batches import Batch, BatchRow
from data.errors import InvalidInput
from data.records import NewResponse, Prompt
from data.runs import RunFolder
from data.workspace import Workspace
from training import checkpoints, engine, model, parallel, tokenizer
from training.metrics import Cancelled, Progress
from training.rewards import functions_of, load_judge, names_of
from training.rollouts import scores

ATTEMPTS = 4  # rounds of drawing again where responses were equal or empty
MICROBATCH = 32  # responses judged at once
GROUP = 16  # prompts sampled between two looks at the clock and at the wish to stop, more where a batch takes more


@dataclass(frozen=True)
class Config:
    snapshot: Path  # whose prompts to respond to
    policy: str  # checkpoint id or folder of the model that responds
    reward: str = ""  # reward models, by commas, that say how unsure they are of each prompt's responses
    prompts: int = 60  # how many; those ranked least often so far come first
    responses: int = 4  # to each prompt (K), all different
    max_new_tokens: int = 64  # a response that is longer is cut off there
    temperature: tuple[float, ...] = (1.0,)  # several: the k-th response is drawn at the k-th, in turn
    batch_size: int = 64  # responses sampled at once
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.responses <= 9:
            raise ValueError(f"responses is {self.responses}; a ranking has 2 to 9.")
        if not self.temperature or min(self.temperature) <= 0:
            raise ValueError(f"temperature is {self.temperature}; each must be above 0.")
        if self.prompts < 1:
            raise ValueError(f"prompts is {self.prompts}; it must be at least 1.")


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt and its token ids."""

    prompt: Prompt
    ids: list[int]


def main(config: Config, run: RunFolder, workspace: Workspace) -> None:
    """Write the batch of responses. Raises InvalidInput when not one prompt got two different ones."""
    began = time.monotonic()
    snapshot = snapshots.load(config.snapshot)
    path = checkpoints.resolve(config.policy, workspace)
    words = tokenizer.load(path)
    policy = model.load_policy(path, words)
    policy.to(parallel.device()).eval()
    asked = choose(config, snapshot, words, policy, run.id)
    sampler = Sampler(config, policy, words, checkpoints.name_of(path, config.policy))
    if functions := functions_of(config.reward):
        raise InvalidInput(
            f"{', '.join(functions)}: a function is never unsure. Name reward models. Nothing was written."
        )
    judges = [load_judge(name, workspace, words).to(parallel.device()) for name in names_of(config.reward)]
    rows, ended = [], Counter[bool]()
    progress = Progress(run, "sample", len(asked))
    group = max(GROUP, config.batch_size // config.responses)
    for start in range(0, len(asked), group):
        if parallel.agreed(progress.stop_requested):
            raise Cancelled
        responded = sampler.respond(asked[start : start + group], ended)
        rows += with_uncertainty(responded, asked[start : start + group], judges, words) if judges else responded
        progress.log(min(start + group, len(asked)), prompts=len(rows), ended=ended[True] / max(1, ended.total()))
    if not rows:
        raise InvalidInput(f"{config.policy} gave no prompt two different responses. Nothing was written.")
    if skipped := len(asked) - len(rows):
        print(f"sample: {skipped} prompts left out, their responses were all equal or empty", flush=True)
    if parallel.is_main():
        batches.write(Batch(run.id, sampler.source, tuple(rows)), workspace.batches / f"{run.id}.parquet")
    metrics = {
        "prompts": len(rows),
        "responses": sum(len(row.responses) for row in rows),
        "skipped": skipped,
        "ended": ended[True] / ended.total(),
        "seconds": round(time.monotonic() - began, 1),
    }
    run.update(state="done", checkpoint=None, batch=run.id, progress=1.0, metrics=metrics)
    print(f"sample: {metrics}", flush=True)


def with_uncertainty(
    rows: Sequence[BatchRow], asked: Sequence[Asked], judges: Sequence[PreTrainedModel], words: PreTrainedTokenizerBase
) -> list[BatchRow]:
    """The rows with how unsure the judges are of each."""
    ids = {a.prompt.id: a.ids for a in asked}
    prompts = [ids[row.prompt_id] for row in rows for _ in row.responses]
    texts = [response.text for row in rows for response in row.responses]
    found = torch.stack([scores(judge, words, prompts, texts, microbatch=MICROBATCH) for judge in judges])
    groups = found.split([len(row.responses) for row in rows], dim=1)
    return [replace(row, uncertainty=uncertainty(group)) for row, group in zip(rows, groups, strict=True)]


def uncertainty(scores: Tensor) -> float:
    """How unsure reward models are of the order of K responses: 0 when they are certain, 1 when they know nothing.

    scores: (models, K). The entropy in bits of which of two responses is better, the mean over all pairs; the
    probability is the mean over the models of sigmoid(r_i - r_j), so that models that contradict each other are unsure
    together (the query-by-committee of Seung et al. 1992 with the loss's own Bradley-Terry probabilities).
    """
    first, second = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1)
    better = torch.sigmoid(scores[:, first] - scores[:, second]).double().mean(0)
    entropy = torch.special.entr(better) + torch.special.entr(1 - better)
    return min(1.0, float(entropy.mean()) / math.log(2))


def choose(
    config: Config,
    snapshot: snapshots.Snapshot,
    words: PreTrainedTokenizerBase,
    policy: PreTrainedModel,
    run_id: str,
) -> list[Asked]:
    """The prompts of this batch: those with the fewest rankings first, otherwise in an order of seed and run.

    Prompts with no room for a response in the model's context are left out, and said so. Raises InvalidInput when
    max_new_tokens leaves room for none.
    """
    ranked = Counter(r.prompt_id for split in ("train", "heldout") for r in datasets.rankings(snapshot, split))
    prompts = [prompt for split in ("train", "heldout") for prompt in datasets.prompts(snapshot, split)]
    random.Random(f"{config.seed}/{run_id}").shuffle(prompts)
    prompts.sort(key=lambda prompt: ranked[prompt.id])  # stable: the shuffled order stays among equals
    room = model.room_for_prompts(policy, config.max_new_tokens)
    asked: list[Asked] = []
    too_long = 0
    for prompt in prompts:
        if len(asked) == config.prompts:
            break
        ids = tokenizer.prompt_ids(words, prompt.messages)
        if len(ids) <= room:
            asked.append(Asked(prompt, ids))
        else:
            too_long += 1
    if too_long:
        print(f"sample: {too_long} prompts left out, longer than {room} tokens", flush=True)
    return asked


class Sampler:
    """Draws responses until each prompt has K different ones, or the attempts are used up."""

    def __init__(self, config: Config, policy: PreTrainedModel, words: PreTrainedTokenizerBase, source: str) -> None:
        self.config, self.policy, self.words, self.source = config, policy, words, source
        self._generator = torch.Generator().manual_seed(config.seed)

    def respond(self, asked: Sequence[Asked], ended: Counter[bool]) -> list[BatchRow]:
        """A row for each prompt that got at least two different responses; `ended` counts those that came to an end."""
        found: list[dict[str, NewResponse]] = [{} for _ in asked]
        for attempt in range(ATTEMPTS):
            wanted = [i for i, texts in enumerate(found) for _ in range(self.config.responses - len(texts))]
            if not wanted:
                break
            for temperature, rows in self._by_temperature(wanted, found).items():
                self._draw(temperature, rows, asked, found, attempt)
        for texts in found:
            ended.update(bool(response.sampling["ended"]) for response in texts.values())
        return [
            BatchRow(a.prompt.id, tuple(texts.values()))
            for a, texts in zip(asked, found, strict=True)
            if len(texts) > 1
        ]

    def _by_temperature(self, wanted: Sequence[int], found: Sequence[dict[str, NewResponse]]) -> dict[float, list[int]]:
        """Which prompts get a response at which temperature: the k-th response the k-th, in turn."""
        groups: dict[float, list[int]] = {}
        taken = Counter({i: len(found[i]) for i in set(wanted)})
        for i in wanted:
            temperature = self.config.temperature[taken[i] % len(self.config.temperature)]
            groups.setdefault(temperature, []).append(i)
            taken[i] += 1
        return groups

    def _draw(
        self,
        temperature: float,
        rows: Sequence[int],
        asked: Sequence[Asked],
        found: Sequence[dict[str, NewResponse]],
        attempt: int,
    ) -> None:
        with model.precision(self.policy.device):
            samples = engine.sample(
                self.policy,
                [asked[i].ids for i in rows],  # a prompt as often as it wants a response; the engine reads it once
                max_new_tokens=self.config.max_new_tokens,
                temperature=temperature,
                eos_id=self.words.eos_token_id,
                pad_id=self.words.pad_token_id,
                generator=self._generator,
                batch_size=self.config.batch_size,
            )
        for i, ids, whole in zip(rows, samples.response_ids, samples.ended, strict=True):
            if text := tokenizer.response_text(self.words, ids):
                settings = {
                    "temperature": temperature,
                    "max_new_tokens": self.config.max_new_tokens,
                    "seed": self.config.seed,
                    "attempt": attempt,
                    "ended": whole,
                    "tokens": len(ids),
                }
                found[i].setdefault(text, NewResponse(text, self.source, settings))
