"""Pretraining: a new tokenizer and a new model learn to predict text and code.

Reads   the Python installation's docstrings and sources, or your own text (corpus.py)
Writes  a checkpoint: the model, its tokenizer with the chat template, and the held-out texts that every model grown
        from it is measured on
Learns  -log p(next token), the mean over all tokens of blocks cut from the mixed corpus

    python -m training pretrain --preset tiny
    python -m training pretrain --preset small --text books/ --dataset my-dataset --text-column text
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from data.runs import RunFolder
from data.workspace import Workspace
from training import checkpoints, corpus, model, parallel, tokenizer
from training.metrics import Progress
from training.muon import MuonAndAdamW, adamw
from training.presets import MODELS

OPTIMIZERS = {"muon": MuonAndAdamW, "adamw": adamw}


@dataclass(frozen=True)
class Config:
    model: str = "tiny"  # the shape of the model: tiny (1M parameters) or small (124M)
    vocab_size: int = 2048  # tokens of the new tokenizer, bytes and special tokens included
    text: tuple[Path, ...] = ()  # files or folders of UTF-8 text
    dataset: Path | None = None  # a Hugging Face dataset folder
    text_column: str = "text"  # its column that holds the documents
    prose_weight: float | None = None  # docstrings and language reference; 0.8, or 0 with --text or --dataset
    code_weight: float | None = None  # Python's own sources; 0.2, or 0 with --text or --dataset
    steps: int = 850  # optimizer updates
    minutes: float | None = None  # end earlier, learning rate brought down in time
    batch_size: int = 8  # blocks in one step, of all processes together
    microbatch: int | None = None  # blocks in one forward pass; changes the memory and not the result. All by default
    gradient_checkpointing: bool = False  # compute layers again in the backward pass: less memory, the same result
    block: int = 128  # tokens in a block
    optimizer: Literal["muon", "adamw"] = "muon"  # adamw makes faster steps, learns less in each, and wants 3e-3
    learning_rate: float = 1e-2  # at its height
    weight_decay: float = 0.1
    log_every: int = 10  # steps
    save_every: int = 100  # steps; from there a run resumes
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"model is {self.model!r}; choose from {', '.join(MODELS)}.")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; choose from {', '.join(OPTIMIZERS)}.")
        if not 2 <= self.block <= MODELS[self.model].positions:
            raise ValueError(f"block is {self.block}; model {self.model} takes 2 to {MODELS[self.model].positions}.")
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps is {self.steps} and batch_size {self.batch_size}; both must be at least 1.")
        if self.microbatch is not None and self.microbatch < 1:
            raise ValueError(f"microbatch is {self.microbatch}; it must be at least 1.")


def main(config: Config, run: RunFolder, workspace: Workspace) -> None:
    """Make the checkpoint of a new language model."""
    from training import trainer as adapter

    began = time.monotonic()
    adapter.divided(config.batch_size, config.microbatch)  # refuse before the work, not after it
    progress = Progress(run, "pretrain", config.steps)
    torch.manual_seed(config.seed)
    folder = run.path / "corpus"
    if parallel.is_main() and not (folder / "whole").exists():
        prepare(config, folder)
    parallel.wait()
    words, blocks = tokenizer.load(folder / "tokenizer"), load_blocks(folder)
    heldout = corpus.heldout_texts(folder, workspace.checkpoints)
    print(f"pretrain: {blocks.ids.size:,} tokens, {blocks.bytes_per_token:.2f} bytes each", flush=True)
    policy, steps = train(config, model.new_policy(MODELS[config.model], words), blocks, progress, run)
    metrics = {
        "bits_per_byte": corpus.heldout_bits_per_byte(policy, words, heldout),
        "parameters": sum(weight.numel() for weight in policy.parameters()),
        "steps": steps,
        "tokens": steps * config.batch_size * config.block,
        "seconds": round(time.monotonic() - began, 1),
    }
    checkpoints.save(
        workspace.checkpoints,
        run.id,
        stage="pretrain",
        parents=(),
        snapshot=None,
        model=policy,
        tokenizer=words,
        config=dataclasses.asdict(config),
        metrics=metrics,
        seed=config.seed,
        also=lambda folder: corpus.write_heldout(folder, heldout),
    )
    print(f"{run.id}: {metrics}", flush=True)
    checkpoints.finish(run, metrics)


def prepare(config: Config, folder: Path) -> None:
    """Write what training reads: the tokenizer, the blocks and the held-out texts.

    Made once in a run, so that all its processes, and the run when it is resumed, read the very same.
    """
    sources = sources_of(config)
    folder.mkdir(exist_ok=True)
    corpus.write_heldout(folder, corpus.heldout_sample(sources, corpus.HELDOUT_BYTES, config.seed))
    # A larger vocabulary needs more text to find its rarer tokens in: 1,000 characters for each of them.
    words = tokenizer.train(corpus.sample_text(sources, 1000 * config.vocab_size, config.seed), config.vocab_size)
    words.save_pretrained(folder / "tokenizer")
    blocks = corpus.blocks(
        words, sources, length=config.block, count=config.steps * config.batch_size, seed=config.seed
    )
    np.save(folder / "blocks.npy", blocks.ids)
    (folder / "blocks.json").write_text(json.dumps({"bytes_per_token": blocks.bytes_per_token}))
    (folder / "whole").touch()


def load_blocks(folder: Path) -> corpus.Blocks:
    """The blocks that `prepare` wrote, read from the disk as they are needed."""
    said = json.loads((folder / "blocks.json").read_text())
    return corpus.Blocks(np.load(folder / "blocks.npy", mmap_mode="r"), said["bytes_per_token"])


def sources_of(config: Config) -> list[corpus.Source]:
    """The corpora asked for."""
    return corpus.sources(
        text=config.text,
        dataset_folder=config.dataset,
        text_column=config.text_column,
        prose_weight=config.prose_weight,
        code_weight=config.code_weight,
    )


def train(
    config: Config, policy: PreTrainedModel, blocks: corpus.Blocks, progress: Progress, run: RunFolder
) -> tuple[PreTrainedModel, int]:
    """The trained policy and the steps made. Raises metrics.Cancelled at SIGTERM."""
    from transformers import Trainer, TrainingArguments

    from training import trainer as adapter

    args = adapter.arguments(
        TrainingArguments,
        run,
        steps=config.steps,
        batch_size=config.batch_size,
        microbatch=config.microbatch,
        save_every=config.save_every,
        gradient_checkpointing=config.gradient_checkpointing,
        logging_steps=config.log_every,
        max_grad_norm=1.0,
        seed=config.seed,
    )
    clock = adapter.Clock(config.minutes)
    pace = adapter.Pace(policy, lambda step: [(config.block, config.block - 1)] * config.batch_size)

    def bits_per_byte(loss: float) -> dict[str, float]:
        return {"bits_per_byte": loss / math.log(2) / blocks.bytes_per_token}

    policy.forward = MethodType(loss_alone, policy)  # through which Trainer, DDP and FSDP2 ask
    kind = OPTIMIZERS[config.optimizer]
    optimizer = kind(policy, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(config, step, clock.share))
    trainer = Trainer(
        policy,
        args,
        train_dataset=BlockDataset(blocks.ids),
        callbacks=[adapter.Reporter(progress, pace=pace, clock=clock, also=bits_per_byte)],
    )
    trainer.optimizer, trainer.lr_scheduler = optimizer, schedule  # as arguments they are refused under FSDP
    trained = adapter.fit(trainer, run, clock)
    vars(trained).pop("forward", None)
    return trained, int(trainer.state.global_step)


def loss_alone(
    policy: PreTrainedModel, input_ids: Tensor, labels: Tensor, num_items_in_batch: Tensor | int, **_: object
) -> dict[str, Tensor]:
    """A forward pass as Trainer wants it, of blocks in which every token is a target: the loss, and no logits.

    The model's own makes (batch, tokens, vocabulary) of them at once; see `model.logprobs_at`.
    """
    return {"loss": -model.logprobs_of(policy, input_ids, None).sum() / num_items_in_batch}


def rate(config: Config, step: int, clock: float = 0.0) -> float:
    """The share of the learning rate at a step: a linear rise over 5 %, then linearly down to 0 at the end.

    With `minutes`, of which the share `clock` is used, the end is whichever comes first: a run cut short by the clock
    has cooled down too.
    """
    done = max(step / config.steps, clock)
    return max(0.0, min(1.0, (step + 1) / (0.05 * config.steps), (1 - done) / 0.95))


class BlockDataset(torch.utils.data.Dataset):
    """Blocks as Trainer wants them; every token of a block is a target."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(self.ids[index].astype(np.int64))
        return {"input_ids": ids, "labels": ids}
