"""Supervised fine-tuning: a language model learns to respond as the demonstrations do.

Reads   a snapshot's demonstrations, and a model to start from: a pretrained checkpoint, a folder or a hub id
Writes  a checkpoint; runs/<id>/samples.jsonl with what it responds to a few held-out prompts
Learns  -log p(token) of the response and its end-of-sequence token, the mean over those tokens; the prompt is only read
        (Ouyang et al. 2022, section 3.5)

    python -m training sft --snapshot var/snapshots/3f9a12c0be77 --init pretrain-0001
    python -m training sft --preset small --snapshot var/snapshots/3f9a12c0be77 --init path/to/any/causal-lm
"""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data import datasets, snapshots
from data.datasets import Demonstrated
from data.errors import InvalidInput
from data.runs import RunFolder
from data.workspace import Workspace
from training import checkpoints, engine, lora, model, parallel, tokenizer
from training.metrics import Progress
from training.scoring import groups_of_like_length

if TYPE_CHECKING:  # slow to import, and `training.cycle` reads the options of this stage only
    from transformers import Trainer

IGNORED = -100  # a target that does not count, as transformers wants it
SHOWN = 16  # held-out prompts whose responses are looked at in the end


@dataclass(frozen=True)
class Config:
    snapshot: Path  # what labelers wrote
    init: str  # checkpoint id, folder or hub id of the model to start from
    epochs: int = 4  # passes over the demonstrations
    batch_size: int = 8  # demonstrations in one step, of all processes together
    microbatch: int | None = None  # most demonstrations in one forward pass; changes the memory, not the result
    learning_rate: float = 2e-3  # at its height; for a model of billions of parameters about 1e-5
    warmup: float = 0.1  # share of the steps over which the learning rate rises
    weight_decay: float = 0.0
    max_length: int = 512  # tokens of prompt and response; longer demonstrations are left out and counted
    max_new_tokens: int = 64  # of the samples shown in the end
    log_every: int = 5  # steps
    lora_rank: int = 0  # of a LoRA adapter that is trained in place of the weights; 0: all weights are trained
    lora_alpha: float = 32.0  # the adapter's product is multiplied by lora_alpha / lora_rank
    lora_targets: tuple[str, ...] = ("all-linear",)  # names of the layers that get an adapter, such as q_proj v_proj
    lora_dropout: float = 0.0  # of what goes into the adapter
    gradient_checkpointing: bool = False  # compute layers again in the backward pass: less memory, the same result
    save_every: int = 200  # steps; from there a run resumes
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.microbatch is not None and self.microbatch < 1:
            raise ValueError(f"microbatch is {self.microbatch}; it must be at least 1.")


@dataclass(frozen=True, slots=True)
class Row:
    """One example as token ids: `labels` are the ids of the response and IGNORED before it."""

    input_ids: list[int]
    labels: list[int]


def main(config: Config, run: RunFolder, workspace: Workspace) -> None:
    """Make the checkpoint of a model that responds."""
    began = time.monotonic()
    parallel.per_process(config.batch_size)  # refuse before the work, not after it
    torch.manual_seed(config.seed)
    snapshot = snapshots.load(config.snapshot)
    datasets.require_enough(snapshot.counts, ["sft"])
    init = checkpoints.resolve(config.init, workspace)
    words = tokenizer.load(init)
    policy = model.load_policy(init, words)
    limit = min(config.max_length, policy.config.get_text_config().max_position_embeddings)
    rows, too_long = tokenised(words, datasets.demonstrations(snapshot, "train"), limit)
    heldout, _ = tokenised(words, datasets.demonstrations(snapshot, "heldout"), limit)
    print(f"sft: {len(rows)} demonstrations, {too_long} left out as longer than {limit} tokens", flush=True)
    view = lora.with_adapter(
        policy,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        targets=config.lora_targets,
        dropout=config.lora_dropout,
        new_tokens=lora.added_tokens(init, words) if config.lora_rank else (),
    )
    trained, measured = train(config, view, words, rows, heldout, run)
    policy = policy if config.lora_rank else trained  # the adapter is inside of it
    metrics = {
        **measured,
        "demonstrations": len(rows),
        "too_long": too_long,
        "ended": show(config, policy, words, snapshot, run),
        "seconds": round(time.monotonic() - began, 1),
    }
    checkpoints.save(
        workspace.checkpoints,
        run.id,
        stage="sft",
        parents=[checkpoints.name_of(init, config.init)],
        snapshot=snapshot.hash,
        model=policy,
        tokenizer=words,
        config=dataclasses.asdict(config),
        metrics=metrics,
        seed=config.seed,
    )
    print(f"{run.id}: {metrics}", flush=True)
    checkpoints.finish(run, metrics)


def tokenised(words: PreTrainedTokenizerBase, examples: Sequence[Demonstrated], limit: int) -> tuple[list[Row], int]:
    """The rows of at most `limit` tokens, and how many were longer.

    Nothing is truncated: a response that lost its end-of-sequence token would teach the model not to stop.
    Raises InvalidInput when examples were given and none is short enough.
    """
    rows = []
    for example in examples:
        prompt = tokenizer.prompt_ids(words, example.messages)
        response = tokenizer.response_ids(words, example.response)
        if len(prompt) + len(response) <= limit:
            rows.append(Row(prompt + response, [IGNORED] * len(prompt) + response))
    if examples and not rows:
        raise InvalidInput(
            f"All {len(examples)} demonstrations are longer than {limit} tokens, so there is nothing to learn from. "
            "Raise --max-length, or start from a model with a longer context."
        )
    return rows, len(examples) - len(rows)


def batches(lengths: Sequence[int], config: Config) -> list[int]:
    """Which row is learned from when, as numbers from 0: `batch_size` of them after one another are a step.

    Each epoch has an order of its own. The last batch of an epoch is filled up with one row more than there are, which
    has no target, so that every process has equally many rows in every step. Within a step the rows are dealt out by
    length, so that all processes have as much to do.
    """
    rows, order = len(lengths), []
    for epoch in range(config.epochs):
        drawn = torch.randperm(rows, generator=engine.generator_at(config.seed, "demonstrations", epoch)).tolist()
        for start in range(0, rows, config.batch_size):
            step = sorted(drawn[start : start + config.batch_size], key=lambda row: lengths[row])
            step = [rows] * (config.batch_size - len(step)) + step
            order += [row for process in range(parallel.count()) for row in step[process :: parallel.count()]]
    return order


class Passes:
    """Cuts the rows of a batch into forward passes of like length, and counts how much of them is padding."""

    def __init__(self, most: int) -> None:
        """`most` rows in one pass."""
        self.most = most
        self._real = self._computed = 0

    def __call__(self, batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """The rows that have targets, in few parts that are padded little; as many parts on all processes.

        All of the batch are (rows, tokens), padded on the right. A process whose rows make fewer parts than another's
        computes a row without targets in their place.
        """
        lengths = batch["attention_mask"].sum(1).tolist()
        learned = (batch["labels"] != IGNORED).any(1).nonzero().flatten().tolist()
        rows = learned or [0]
        groups = groups_of_like_length([lengths[row] for row in rows], most_rows=self.most)
        parts = [[rows[place] for place in group] for group in groups]
        cut = [{name: values[part, : lengths[part[-1]]] for name, values in batch.items()} for part in parts]
        idle = {name: values[:1] for name, values in cut[0].items()}
        idle["labels"] = torch.full_like(idle["labels"], IGNORED)
        cut += [idle] * (int(parallel.largest(len(cut))[0]) - len(cut))
        self._real += sum(lengths[row] for row in learned)
        self._computed += sum(part["input_ids"].numel() for part in cut)
        return cut

    def padding(self) -> float:
        """The share of the tokens computed since the last call, in all processes, that no row needed."""
        real, computed = parallel.total(self._real, self._computed)
        self._real = self._computed = 0
        return 1 - real / computed


def train(
    config: Config,
    policy: PreTrainedModel,
    words: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    heldout: Sequence[Row],
    run: RunFolder,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The fine-tuned policy and its metrics. Raises metrics.Cancelled at SIGTERM."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from training import trainer as adapter

    order = batches([len(row.input_ids) for row in rows], config)
    steps = len(order) // config.batch_size
    args = adapter.arguments(
        SFTConfig,
        run,
        steps=steps,
        batch_size=config.batch_size,
        microbatch=None,  # `passes` cuts the rows of a step
        save_every=config.save_every,
        gradient_checkpointing=config.gradient_checkpointing,
        logging_steps=config.log_every,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup * steps),
        weight_decay=config.weight_decay,
        adam_epsilon=1e-5,  # 1e-8 measurably differs (Huang et al. 2024, detail 5)
        train_sampling_strategy="sequential",  # `order` says which row comes when
        dataset_kwargs={"skip_prepare_dataset": True},  # rows are tokenised and labelled already
        max_length=None,
        seed=config.seed,
    )
    nothing = Row([words.pad_token_id] * 2, [IGNORED] * 2)
    progress = Progress(run, "sft", steps)
    sizes = [(len(row.input_ids), sum(label != IGNORED for label in row.labels)) for row in rows]

    def rows_of(step: int) -> list[tuple[int, int]]:
        drawn = order[step * config.batch_size : (step + 1) * config.batch_size]
        return [sizes[row] for row in drawn if row < len(rows)]

    pace = adapter.Pace(policy, rows_of)
    most = min(config.microbatch or config.batch_size, args.per_device_train_batch_size)
    passes = Passes(most)

    class Trainer(adapter.InPasses, SFTTrainer):
        cut = staticmethod(passes)

    def measure() -> dict[str, float]:
        return {"eval_loss": heldout_loss(trainer, heldout, nothing, most)}

    trainer = Trainer(
        policy,
        args,
        train_dataset=Dataset.from_list([dataclasses.asdict(row) for row in [*rows, nothing]]).select(order),
        processing_class=words,
        callbacks=[
            adapter.Reporter(
                progress,
                pace=pace,
                also=lambda loss: {"padding": passes.padding()},
                measure=measure if heldout else None,
                every=steps // config.epochs,
            )
        ],
    )
    trained = adapter.fit(trainer, run)
    lines = run.metrics()
    last = {name: [line[name] for line in lines if name in line][-1:] for name in ("loss", "eval_loss")}
    return trained, {name: next(iter(found), None) for name, found in last.items()} | {"steps": steps}


@torch.no_grad()
def heldout_loss(trainer: Trainer, rows: Sequence[Row], nothing: Row, size: int) -> float:
    """-log p(token) of these responses, the mean over their tokens: nats, whatever the processes and their batches.

    Each process computes its part, at most `size` rows at a time; one that has no row computes `nothing`.
    """
    targets = sum(label != IGNORED for row in rows for label in row.labels)
    own = parallel.mine(sorted(rows, key=lambda row: len(row.input_ids))) or [nothing]
    batch = trainer.data_collator([dataclasses.asdict(row) for row in own])
    trainer.model.eval()
    loss = 0.0
    for part in Passes(size)(batch):
        part = {name: values.to(trainer.args.device) for name, values in part.items()}
        loss += trainer.compute_loss(trainer.model, part, num_items_in_batch=targets).item()
    return parallel.total(loss)[0] / parallel.count()  # Trainer multiplies by the processes, whose mean DDP takes


def show(
    config: Config,
    policy: PreTrainedModel,
    words: PreTrainedTokenizerBase,
    snapshot: snapshots.Snapshot,
    run: RunFolder,
) -> float | None:
    """Sample responses to a few held-out prompts into samples.jsonl; returns the share that ended, None of none."""
    prompts = datasets.prompts(snapshot, "heldout")
    random.Random(config.seed).shuffle(prompts)
    room = policy.config.get_text_config().max_position_embeddings - config.max_new_tokens
    asked = [(prompt, ids) for prompt in prompts if len(ids := tokenizer.prompt_ids(words, prompt.messages)) <= room]
    asked = asked[:SHOWN]
    if not asked:
        return None
    policy.eval()
    samples = engine.sample(
        policy,
        [ids for _, ids in asked],
        max_new_tokens=config.max_new_tokens,
        temperature=1.0,
        eos_id=words.eos_token_id,
        pad_id=words.pad_token_id,
        generator=torch.Generator().manual_seed(config.seed),
        batch_size=SHOWN,
    )
    if parallel.is_main():
        with (run.path / "samples.jsonl").open("w") as file:
            for (prompt, _), ids in zip(asked, samples.response_ids, strict=True):
                said = {"prompt": prompt.messages[-1].content, "response": tokenizer.response_text(words, ids)}
                file.write(json.dumps(said) + "\n")
    return sum(samples.ended) / len(asked)
