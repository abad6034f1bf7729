"""One epoch of a reward model on K-way rankings: Pawl's K forward passes against TRL's RewardTrainer on exploded pairs.

The same tiny model, the same random rankings, one thread, fp32, one process; no labels are worth learning here, only
the cost counts. In theory (K - 1) times fewer forward passes: 3 for K = 4, 8 for K = 9.

    python tests/benchmarks/reward_pairs.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from itertools import combinations

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_DISABLE_TELEMETRY": "1"}
PROMPT, RESPONSE = 24, 40  # tokens


def rankings(count: int, k: int, vocabulary: int) -> list[list[list[int]]]:
    """`count` rankings of `k` sequences of prompt and response, best first."""
    draw = random.Random(k)
    tokens = range(10, vocabulary)
    prompts = [draw.choices(tokens, k=PROMPT) for _ in range(count)]
    return [[prompt + draw.choices(tokens, k=RESPONSE) for _ in range(k)] for prompt in prompts]


def pawl_seconds(model, tokenizer, data: list[list[list[int]]]) -> float:
    import torch

    from training import reward

    config = reward.Config(snapshot=None, init="", batch_size=8, microbatch=8)
    encoded = [
        reward.Encoded("p", tuple(map(tuple, row)), tuple(range(1, len(row) + 1)), (0,) * len(row)) for row in data
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    began = time.process_time()
    for start in range(0, len(encoded), config.batch_size):
        part = encoded[start : start + config.batch_size]
        reward.improve(model, optimizer, part, config, tokenizer.pad_token_id)
    return time.process_time() - began


def trl_seconds(model, tokenizer, data: list[list[list[int]]]) -> float:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    pairs = [{"chosen_ids": better, "rejected_ids": worse} for row in data for better, worse in combinations(row, 2)]
    k = len(data[0])
    args = RewardConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=8 * k * (k - 1) // 2,  # the pairs of as many rankings
        num_train_epochs=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        max_length=None,
        activation_checkpointing=False,
    )
    trainer = RewardTrainer(model, args, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)
    began = time.process_time()
    trainer.train()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rankings")
    count = 32 if parser.parse_args().quick else 128
    import torch
    from transformers import LlamaForSequenceClassification

    from training import model, presets, tokenizer

    torch.set_num_threads(1)
    words = tokenizer.train([str(number) for number in range(9999)], 512)
    config = model.new_policy(presets.MODELS["tiny"], words).config
    config.num_labels = 1
    figures = {}
    for k in (4, 9):
        data = rankings(count, k, len(words))
        ours = pawl_seconds(LlamaForSequenceClassification(config), words, data)
        theirs = trl_seconds(LlamaForSequenceClassification(config), words, data)
        figures[f"k{k}_ratio"] = round(theirs / ours, 2)
        print(f"K = {k}: {count} rankings, Pawl {ours:.1f} cpu-s, TRL {theirs:.1f} cpu-s, ratio {theirs / ours:.2f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
