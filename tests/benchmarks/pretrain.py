"""Tokens a second of pretraining: Pawl's stage against transformers' Trainer as it comes, on the same blocks.

The same model from the same seed, the same blocks of real text in the same batches, fp32 on a CPU and bf16 on a GPU.
Trainer keeps its own optimizer (AdamW) and reads blocks cut beforehand; Pawl's stage is `training.pretrain.train` with
all that belongs to a stage, once with AdamW, which is the same work and the `ratio`, and once with Muon, its default,
whose steps are slower and worth it: also printed is when its loss came down to Trainer's last one. They take turns.

    python tests/benchmarks/pretrain.py [--quick] [--model small]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import libraries_first  # noqa: F401

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_DISABLE_TELEMETRY": "1"}
MUON, ADAMW, TRAINER = "Pawl, Muon", "Pawl, AdamW", "Trainer, AdamW"
ADAMW_RATE = 3e-3
LOG_EVERY = 5  # steps whose mean loss is logged
SIZES = {"tiny": (2048, 8, 128), "small": (32768, 64, 1024)}  # vocabulary, blocks in a batch, tokens in a block


def clock(gpu: bool) -> float:
    """CPU seconds, since other work on the machine would decide wall time; on a GPU wall seconds."""
    import torch

    if gpu:
        torch.cuda.synchronize()
    return time.perf_counter() if gpu else time.process_time()


def run_pawl(config: Any, policy: Any, blocks: Any, folder: Path, gpu: bool) -> tuple[float, list[float]]:
    """Seconds that the stage's training took, and the losses it logged."""
    from data.runs import RunFolder
    from training import pretrain
    from training.metrics import Progress

    run = RunFolder.create(folder, "pretrain", {})
    began = clock(gpu)
    pretrain.train(config, policy, blocks, Progress(run, "pretrain", config.steps), run)
    return clock(gpu) - began, [line["loss"] for line in run.metrics() if "loss" in line]


def run_trainer(config: Any, policy: Any, blocks: Any, folder: Path, gpu: bool) -> tuple[float, list[float]]:
    """The same of transformers' Trainer."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from training.pretrain import BlockDataset

    args = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        logging_steps=config.log_every,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not gpu,
        bf16=gpu,
        dataloader_pin_memory=gpu,
    )
    trainer = Trainer(policy, args, train_dataset=BlockDataset(blocks.ids))
    trainer.remove_callback(PrinterCallback)
    began = clock(gpu)
    trainer.train()
    return clock(gpu) - began, [line["loss"] for line in trainer.state.log_history if "loss" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps and turns")
    parser.add_argument("--model", default="tiny", choices=SIZES)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    import torch

    from training import corpus, model, presets, pretrain, throughput, tokenizer

    torch.set_num_threads(arguments.threads)
    gpu = torch.cuda.is_available()
    vocabulary, batch, block = SIZES[arguments.model]
    steps, turns = (30, 3) if arguments.quick else (100, 5)
    sources = [corpus.Source("code", 1.0, corpus.python_code())]
    words = tokenizer.train(corpus.sample_text(sources, 400_000, 0), vocabulary)
    blocks = corpus.blocks(words, sources, length=block, count=steps * batch, seed=0)
    config = pretrain.Config(
        model=arguments.model,
        vocab_size=len(words),
        steps=steps,
        batch_size=batch,
        block=block,
        save_every=steps + 1,
        log_every=LOG_EVERY,
    )
    with_adamw = dataclasses.replace(config, optimizer="adamw", learning_rate=ADAMW_RATE)
    sides = {MUON: (run_pawl, config), ADAMW: (run_pawl, with_adamw), TRAINER: (run_trainer, with_adamw)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(-1, turns):  # the first turn warms up
            for name, (run, given) in sides.items():
                torch.manual_seed(0)
                policy = model.new_policy(presets.MODELS[arguments.model], words)
                took, losses[name] = run(given, policy, blocks, Path(folder), gpu)
                if turn >= 0:
                    seconds[name].append(took)
    dims, device = throughput.dimensions(policy), throughput.limits(torch.device("cuda" if gpu else "cpu"))
    flops = throughput.training_flops(dims, [block] * batch * steps, [block - 1] * batch * steps)
    print(f"{'':16} {'tokens/s':>10} {'MFU':>6} {'last loss':>10}")
    for name in sides:
        took = statistics.median(seconds[name])
        used = throughput.mfu(flops, took, device)
        print(f"{name:16} {steps * batch * block / took:10.0f} {used:6.1%} {losses[name][-1]:10.3f}")

    def ratio_of(name: str) -> float:
        return statistics.median(theirs / ours for theirs, ours in zip(seconds[TRAINER], seconds[name], strict=True))

    found = {"ratio": round(ratio_of(ADAMW), 3), "ratio_muon": round(ratio_of(MUON), 3)}
    reached = [place for place, loss in enumerate(losses[MUON], 1) if loss <= losses[TRAINER][-1]]
    if reached:
        share = reached[0] * LOG_EVERY / steps
        found["ratio_to_same_loss"] = round(ratio_of(MUON) / share, 2)
        print(f"Pawl with Muon has Trainer's last loss after {share:.0%} of the steps")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
