"""The thin adapter to transformers' Trainer: device settings, progress, a clean stop, resuming from a whole checkpoint.

Writes  runs/<id>/trainer/checkpoint-<step>/ while training; gone when the stage has made its checkpoint

pretrain uses Trainer itself, sft TRL's subclass of it. A checkpoint of Trainer is not atomic, so `WHOLE` is written
into it last and only folders that have it are resumed from.

Trainer divides the loss of a batch by its targets in all processes and all microbatches, and sums the gradients, so
what is learned does not depend on how a batch is divided among them. Its own microbatches all have equally many rows,
and a batch equally many of them; `InPasses` lets a batch go through in parts of any size.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from data.errors import InvalidInput
from data.runs import RunFolder
from training import parallel
from training.checkpoints import WHOLE
from training.metrics import Cancelled, Progress
from training.throughput import dimensions, limits, mfu, training_flops

CLOCK = "clock.json"
Batch = dict[str, Tensor]


def divided(batch_size: int, microbatch: int | None) -> tuple[int, int]:
    """Rows in one forward pass of one process, and how many such passes make its part of a batch of `batch_size` rows.

    Raises:
        InvalidInput: the batch does not divide among the processes, or a process' part into microbatches.
    """
    rows = parallel.per_process(batch_size)
    size = min(microbatch or rows, rows)
    if rows % size:
        fitting = ", ".join(str(n) for n in range(1, rows + 1) if rows % n == 0)
        raise InvalidInput(f"microbatch {size} does not divide the {rows} rows of one process. Take one of {fitting}.")
    return size, rows // size


def arguments(
    kind: type[TrainingArguments],
    run: RunFolder,
    *,
    steps: int,
    batch_size: int,
    microbatch: int | None,
    save_every: int,
    gradient_checkpointing: bool = False,
    **more: Any,
) -> TrainingArguments:
    """TrainingArguments, or TRL's subclass of them: fp32 on a CPU, bf16 on a GPU that has it, nothing sent anywhere.

    `batch_size` counts the rows of one optimizer step in all processes together. Raises InvalidInput as `divided` does.
    """
    gpu = torch.cuda.is_available()
    size, passes = divided(batch_size, microbatch)
    # TRL turns this on by default, under a name that depends on the release of transformers.
    names = {field.name for field in dataclasses.fields(kind)}
    recompute = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return kind(
        output_dir=str(run.path / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=passes,
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        ddp_timeout=int(parallel.PATIENCE.total_seconds()),
        save_steps=save_every,
        save_total_limit=2,
        logging_strategy="steps",
        use_cpu=not gpu,
        bf16=parallel.has_bf16(),
        dataloader_pin_memory=gpu,
        report_to=[],
        disable_tqdm=True,
        **{recompute: gradient_checkpointing},
        **more,
    )


class InPasses:
    """Mixed in before a Trainer: what it takes for one batch goes through the model in several passes.

    Memory is that of the largest pass. Set `cut`, which must make equally many passes on all processes.
    """

    cut: Callable[[Batch], Sequence[Batch]]

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """The sum of the losses of the passes, each divided by `num_items_in_batch`, the targets of all of them."""
        losses = []
        *early, last = self.cut(inputs)
        for part in early:
            self.accelerator.sync_gradients = False  # DeepSpeed would make a step of each pass
            with model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext():
                losses.append(super().training_step(model, part, num_items_in_batch))
        self.accelerator.sync_gradients = True
        losses.append(super().training_step(model, last, num_items_in_batch))
        return torch.stack(losses).sum()


class Clock:
    """The minutes that training may take and the seconds it has used, the same on all processes, kept when resuming."""

    def __init__(self, minutes: float | None) -> None:
        self.minutes, self.seconds = minutes, 0.0
        self._last = time.monotonic()

    @property
    def share(self) -> float:
        """How much of the time is used; 0 without a limit."""
        return 0.0 if self.minutes is None else self.seconds / (60 * self.minutes)

    def tick(self, wish_to_stop: bool) -> bool:
        """Read the time, and return whether any process wishes to stop. To be called by all processes."""
        now = time.monotonic()
        since, self._last = now - self._last, now
        wish, self.seconds = parallel.largest(float(wish_to_stop), self.seconds + since)
        return bool(wish)

    def save(self, folder: Path) -> None:
        (folder / CLOCK).write_text(json.dumps({"seconds": self.seconds}))

    def load(self, folder: Path) -> None:
        """Go on from the time that was used when the checkpoint in `folder` was made."""
        self.seconds = json.loads((folder / CLOCK).read_text())["seconds"]
        self._last = time.monotonic()


def fit(trainer: Trainer, run: RunFolder, clock: Clock | None = None) -> PreTrainedModel:
    """Train, going on from the run's newest whole checkpoint; returns the trained model, plain and on every process.

    Raises:
        Cancelled: SIGTERM came to one of the processes; what all of them have is saved.
    """
    trainer.remove_callback(PrinterCallback)  # Reporter prints
    newest = newest_whole(run.path / "trainer")
    run.drop_metrics_after(_step_of(newest) if newest else 0)
    if newest and clock:
        clock.load(newest)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, Reporter) and callback.cancelled:
            raise Cancelled
    config = trainer.accelerator.unwrap_model(trainer.model).config
    return parallel.whole(
        trainer.accelerator,
        trainer.model_wrapped,
        lambda: AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False),
    )


def newest_whole(folder: Path) -> Path | None:
    """The checkpoint with the most steps among those written to the end."""
    return max((mark.parent for mark in folder.glob(f"checkpoint-*/{WHOLE}")), key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


class Pace:
    """How fast the steps are made: tokens a second in all processes together, and the share of the device's FLOPs."""

    def __init__(self, model: nn.Module, rows_of: Callable[[int], Sequence[tuple[int, int]]]) -> None:
        """`rows_of(step)`: of each row of a step, counted from 0, its length and how many of its tokens are targets."""
        self._dimensions, self._rows_of = dimensions(model), rows_of
        self.begin(0)

    def begin(self, step: int) -> None:
        """The step with this number begins now."""
        self._step, self._time = step, time.monotonic()

    def until(self, step: int) -> dict[str, float]:
        """`tokens_per_second` and `mfu` of the steps since the last call, before this one; waiting counts as time."""
        if step == self._step:
            return {}
        first, began = self._step, self._time
        self.begin(step)
        seconds = self._time - began
        lengths, targets = zip(*(row for number in range(first, step) for row in self._rows_of(number)), strict=True)
        needed = training_flops(self._dimensions, lengths, targets) / parallel.count()
        return {"tokens_per_second": sum(lengths) / seconds, "mfu": mfu(needed, seconds, limits(parallel.device()))}


class Reporter(TrainerCallback):
    """Hands Trainer's logs to Progress, marks whole checkpoints, and stops at SIGTERM or when the time is over."""

    def __init__(
        self,
        progress: Progress,
        *,
        pace: Pace | None = None,
        clock: Clock | None = None,
        also: Callable[[float], dict[str, float]] | None = None,
        measure: Callable[[], dict[str, float]] | None = None,
        every: int = 1,
    ) -> None:
        """`also` gives further numbers to record from the loss of a step; `measure` gives some each `every` steps."""
        self.progress, self.pace, self.also, self.clock = progress, pace, also, clock or Clock(None)
        self.measure, self.every = measure, every
        self.cancelled = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.pace is not None:
            self.pace.begin(state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        kept = ("loss", "grad_norm", "learning_rate")
        numbers = {name: logs[name] for name in kept if name in logs}
        if not numbers:
            return
        if self.also is not None and "loss" in numbers:
            numbers |= self.also(numbers["loss"])
        if self.pace is not None:
            numbers |= self.pace.until(state.global_step)
        self.progress.log(state.global_step, **numbers)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.at(state.global_step)
        if self.measure is not None and state.global_step % self.every == 0:
            self.progress.log(state.global_step, **self.measure())
        if self.clock.tick(self.progress.stop_requested):
            self.cancelled = control.should_save = control.should_training_stop = True
            self.progress.at(state.global_step, always=True)
        elif self.clock.share >= 1 or state.global_step >= state.max_steps:
            control.should_log = control.should_training_stop = True  # Trainer logs each so many steps only

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        parallel.wait()  # the other processes have written their part
        if parallel.is_main():
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, and nothing here reads it
            self.clock.save(folder)
            (folder / WHOLE).touch()
