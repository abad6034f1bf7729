"""The thin adapter to transformers' Trainer: device settings, progress, a clean stop, resuming from a whole checkpoint.

Writes  runs/<id>/trainer/checkpoint-<step>/ while training; gone when the stage has made its checkpoint

pretrain uses Trainer itself, sft TRL's subclass of it. A checkpoint of Trainer is not atomic, so `WHOLE` is written
into it last and only folders that have it are resumed from.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data.runs import RunFolder
from training.metrics import Cancelled, Progress

WHOLE = "whole"  # the name of the marker file


def arguments(
    kind: type[TrainingArguments], run: RunFolder, *, steps: int, batch_size: int, save_every: int, **more: Any
) -> TrainingArguments:
    """TrainingArguments, or TRL's subclass of them: fp32 on a CPU, bf16 on a GPU that has it, nothing sent anywhere."""
    gpu = torch.cuda.is_available()
    # TRL turns this on by default, under a name that depends on the release of transformers.
    names = {field.name for field in dataclasses.fields(kind)}
    recompute = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return kind(
        output_dir=str(run.path / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        save_steps=save_every,
        save_total_limit=2,
        logging_strategy="steps",
        use_cpu=not gpu,
        bf16=gpu and torch.cuda.is_bf16_supported(),
        dataloader_pin_memory=gpu,
        report_to=[],
        disable_tqdm=True,
        **{recompute: False},
        **more,
    )


def fit(trainer: Trainer, run: RunFolder) -> None:
    """Train, going on from the run's newest whole checkpoint. Raises Cancelled when SIGTERM came; that is saved."""
    trainer.remove_callback(PrinterCallback)  # Reporter prints
    newest = newest_whole(run.path / "trainer")
    run.drop_metrics_after(_step_of(newest) if newest else 0)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, Reporter) and callback.cancelled:
            raise Cancelled


def finish(run: RunFolder, metrics: dict[str, Any]) -> None:
    """Say that the run has made its checkpoint, and drop what only a resume needs."""
    run.update(state="done", checkpoint=run.id, progress=1.0, metrics=metrics)
    print(f"{run.id}: {metrics}", flush=True)
    shutil.rmtree(run.path / "trainer", ignore_errors=True)


def newest_whole(folder: Path) -> Path | None:
    """The checkpoint with the most steps among those written to the end."""
    return max((mark.parent for mark in folder.glob(f"checkpoint-*/{WHOLE}")), key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


class Reporter(TrainerCallback):
    """Hands Trainer's logs to Progress, marks whole checkpoints, and stops at SIGTERM or when the time is over."""

    def __init__(
        self,
        progress: Progress,
        *,
        minutes: float | None = None,
        also: Callable[[float], dict[str, float]] | None = None,
    ) -> None:
        """`also` gives further numbers to record from the loss of a step."""
        self.progress, self.also = progress, also
        self.cancelled = False
        self._until = None if minutes is None else time.monotonic() + 60 * minutes

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        kept = ("loss", "eval_loss", "grad_norm", "learning_rate")
        numbers = {name: logs[name] for name in kept if name in logs}
        if not state.is_world_process_zero or not numbers:
            return
        if self.also is not None and "loss" in numbers:
            numbers |= self.also(numbers["loss"])
        self.progress.log(state.global_step, **numbers)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.progress.at(state.global_step)
        if self.progress.stop_requested:
            self.cancelled = control.should_save = control.should_training_stop = True
        elif self._until is not None and time.monotonic() > self._until:
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, and nothing here reads it
        (folder / WHOLE).touch()
