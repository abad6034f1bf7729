"""Trained tokens a second of SFT: Pawl's stage against TRL's SFTTrainer with packing, on the same demonstrations.

The same random model from the same seed, the same rows (lengths lognormal around 80 tokens, a third of them prompt,
at most 512), one pass, fp32 on a CPU and bf16 on a GPU. An optimizer step of Pawl's is 16 demonstrations; of TRL's as
many packs of 512 tokens as hold about the same tokens. Only real tokens count, not padding. Of TRL's strategies "bfd"
keeps demonstrations apart, "wrapped" cuts them anywhere and lets them see each other, which is cheaper and not the
same training; "none" is TRL without packing. The ratio is against the packing that keeps them apart.

    python tests/benchmarks/sft.py [--quick] [--model small]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libraries_first  # noqa: F401
from pretrain import clock

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
BATCH, LONGEST = 16, 512  # demonstrations in a step of Pawl's; tokens
VOCABULARY = {"tiny": 2048, "small": 32768}


def demonstrations(count: int, vocabulary: int) -> list[tuple[list[int], list[int]]]:
    """Prompts and responses of random tokens, with lengths as of real answers: many short ones, few long ones."""
    draw = random.Random(0)
    lengths = [min(LONGEST, max(12, round(draw.lognormvariate(4.4, 0.6)))) for _ in range(count)]
    rows = [draw.choices(range(10, vocabulary), k=length) for length in lengths]
    return [(row[: len(row) // 3], row[len(row) // 3 :]) for row in rows]


def run_pawl(model: Any, words: Any, data: list, folder: Path, gpu: bool) -> float:
    """Seconds of one pass of Pawl's stage."""
    from data.runs import RunFolder
    from training import sft

    rows = [sft.Row(prompt + response, [sft.IGNORED] * len(prompt) + response) for prompt, response in data]
    at_once = None if gpu else 4  # as the preset tiny has it: rows of like length, and a CPU gains nothing by more
    config = sft.Config(
        folder, init="", epochs=1, batch_size=BATCH, microbatch=at_once, learning_rate=1e-4, save_every=10**6
    )
    run = RunFolder.create(folder, "sft", {})
    began = clock(gpu)
    sft.train(config, model, words, rows, [], run)
    return clock(gpu) - began


def run_trl(strategy: str | None) -> Callable[..., float]:
    """The same of SFTTrainer with that packing strategy."""

    def run(model: Any, words: Any, data: list, folder: Path, gpu: bool) -> float:
        from datasets import Dataset
        from transformers import PrinterCallback
        from trl import SFTConfig, SFTTrainer

        tokens = sum(len(prompt) + len(response) for prompt, response in data)
        packs = max(1, round(BATCH * tokens / len(data) / LONGEST))
        rows = [
            {"input_ids": prompt + response, "completion_mask": [0] * len(prompt) + [1] * len(response)}
            for prompt, response in data
        ]
        began = clock(gpu)  # packing is part of its work
        args = SFTConfig(
            output_dir=str(folder / "trl"),
            num_train_epochs=1,
            per_device_train_batch_size=packs if strategy else BATCH,
            packing=strategy is not None,
            packing_strategy=strategy or "bfd",
            max_length=LONGEST,
            learning_rate=1e-4,
            logging_steps=5,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=not gpu,
            bf16=gpu,
            gradient_checkpointing=False,
        )
        trainer = SFTTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=words)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return clock(gpu) - began

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer demonstrations and turns")
    parser.add_argument("--model", default="tiny", choices=VOCABULARY)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    import datasets
    import torch

    from training import model, presets, tokenizer

    datasets.disable_progress_bars()
    torch.set_num_threads(arguments.threads)
    gpu = torch.cuda.is_available()
    count, turns = (160, 3) if arguments.quick else (640, 5)
    words = tokenizer.train([str(number) for number in range(99_999)], VOCABULARY[arguments.model])
    data = demonstrations(count, len(words))
    tokens = sum(len(prompt) + len(response) for prompt, response in data)
    sides = {"Pawl": run_pawl, "bfd": run_trl("bfd"), "wrapped": run_trl("wrapped"), "none": run_trl(None)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(-1, turns):  # the first turn warms up
            for name, run in sides.items():
                torch.manual_seed(0)
                policy = model.new_policy(presets.MODELS[arguments.model], words)
                took = run(policy, words, data[: count if turn >= 0 else 2 * BATCH], Path(folder), gpu)
                if turn >= 0:
                    seconds[name].append(took)
    print(f"{count} demonstrations, {tokens / count:.0f} tokens on average")
    print(f"{'':12} {'tokens/s':>9} {'Pawl is':>8}")
    for name, found in seconds.items():
        ratio = statistics.median(theirs / ours for theirs, ours in zip(found, seconds["Pawl"], strict=True))
        print(f"{name if name == 'Pawl' else f'TRL {name}':12} {tokens / statistics.median(found):9.0f} {ratio:7.2f}x")
    ratios = {
        name: round(statistics.median(t / o for t, o in zip(seconds[name], seconds["Pawl"], strict=True)), 3)
        for name in sides
    }
    print(json.dumps({"ratio": ratios["bfd"], "ratio_wrapped": ratios["wrapped"], "ratio_unpacked": ratios["none"]}))


if __name__ == "__main__":
    main()
