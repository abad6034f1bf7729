"""Pawl's reward stage on K-way rankings against TRL's RewardTrainer on the same rankings taken apart into pairs.

The same tiny model with the same start, the same rankings in the same number of optimizer steps at the same learning
rate, one thread, fp32, CPU seconds of the process. A pair says which of two responses a noisy judge of their words
preferred; accuracy is on prompts that neither has seen, its error clustered by prompt. TRL takes a batch of as many
pairs as Pawl's batch of rankings has.

    python tests/benchmarks/reward.py [--quick]
    python tests/benchmarks/reward.py --ties      what the three ways with ties give, a quarter of all pairs being tied
    python tests/benchmarks/reward.py --prompts   what it saves to encode the prompt of K responses once
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import tempfile
import time
from itertools import combinations
from statistics import mean

import libraries_first  # noqa: F401

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_DISABLE_TELEMETRY": "1"}
PROMPT = (48, 80)  # tokens, from and to
RESPONSE = (32, 64)
WORDS = 40  # different tokens in use
LEARNING_RATE = 1e-3


def rankings(count: int, k: int, seed: int, noise: float = 1.0, ties: float = 0.0):
    """`count` rankings by a judge who weighs words: the mean weight of a response's words, in standard deviations.

    `noise` is the scale of the Gumbel noise in each utility, so that pairs follow Bradley and Terry; utilities less
    than `ties` apart from the best of a rank are tied with it.
    """
    from training.preferences import Encoded

    taste = random.Random(0)
    worth = [taste.gauss(0, 1) for _ in range(WORDS)]
    draw = random.Random(seed)

    def words(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(10, 10 + WORDS) for _ in range(draw.randint(least, most)))

    found = []
    for number in range(count):
        prompt, responses = words(*PROMPT), tuple(words(*RESPONSE) for _ in range(k))
        true = [1.5 * sum(worth[word - 10] for word in r) / math.sqrt(len(r)) for r in responses]
        felt = [value - noise * math.log(-math.log(draw.random())) for value in true]
        found.append(
            Encoded(
                prompt_id=f"{seed}-{number}",
                prompt=prompt,
                responses=responses,
                ranks=ranks_of(felt, ties),
                lengths=tuple(map(len, responses)),
                sources=("made",) * k,
                ratings=(None,) * k,
                labeler="judge",
            )
        )
    return found


def ranks_of(utilities: list[float], ties: float) -> tuple[int, ...]:
    """Ranks from 1 for the best; those less than `ties` below the best of a rank share it."""
    ranks, rank, best = [0] * len(utilities), 0, math.inf
    for place in sorted(range(len(utilities)), key=lambda i: -utilities[i]):
        if best - utilities[place] >= ties or not rank:
            rank, best = rank + 1, utilities[place]
        ranks[place] = rank
    return tuple(ranks)


def pawl_seconds(model, tokens, data, batch: int, ties: str = "ignore") -> float:
    import torch

    from training import reward

    config = reward.Config(snapshot=None, init="", batch_size=batch, microbatch=batch, ties=ties)
    theta = reward.tie_parameter(data, config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, eps=1e-5, weight_decay=0.0)
    began = time.process_time()
    for start in range(0, len(data), batch):
        reward.improve(model.eval(), optimizer, data[start : start + batch], config, tokens.pad_token_id, theta)
    return time.process_time() - began


def trl_seconds(model, tokens, data, batch: int) -> float:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    k = len(data[0].ranks)
    args = RewardConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch * k * (k - 1) // 2,  # the pairs of as many rankings
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        adam_epsilon=1e-5,
        max_grad_norm=1.0,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        max_length=None,
        activation_checkpointing=False,
    )
    trainer = RewardTrainer(model, args, train_dataset=Dataset.from_list(exploded(data)), processing_class=tokens)
    began = time.process_time()
    trainer.train()
    return time.process_time() - began


def exploded(data) -> list[dict[str, list[int]]]:
    """Every decided pair as a row of its own."""
    return [
        {"chosen_ids": [*one.prompt, *one.responses[better]], "rejected_ids": [*one.prompt, *one.responses[worse]]}
        for one in data
        for better, worse in (
            sorted(pair, key=one.ranks.__getitem__) for pair in combinations(range(len(one.ranks)), 2)
        )
    ]


def accuracy(model, tokens, data) -> tuple[float, float]:
    """Of held-out pairs, and its standard error."""
    from training import calibration, reward

    config = reward.Config(snapshot=None, init="")
    return calibration.accuracy(calibration.decided(reward.judge(model.eval(), data, tokens.pad_token_id, config)))


def new_model(seed: int):
    """A tokenizer and the tiny preset's model with a scalar head, random."""
    import torch
    from transformers import LlamaForSequenceClassification

    from training import model, presets, tokenizer

    tokens = tokenizer.train([str(number) for number in range(9999)], 512)
    config = model.new_policy(presets.MODELS["tiny"], tokens).config
    config.num_labels = 1
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(config), tokens


def compare(k: int, count: int, batch: int, heldout: int, seed: int) -> dict[str, float]:
    """One epoch each from the same start."""
    train, unseen = rankings(count, k, 1 + 2 * seed), rankings(heldout, k, 2 + 2 * seed)
    figures: dict[str, float] = {}
    for name, seconds in (("pawl", pawl_seconds), ("trl", trl_seconds)):
        model, tokens = new_model(seed)
        figures[f"seconds_{name}"] = seconds(model, tokens, train, batch)
        figures[name], figures[f"{name}_error"] = accuracy(model, tokens, unseen)
    return figures


def compare_ties(seeds: int = 4, count: int = 400, k: int = 4) -> None:
    """Held-out accuracy on decided pairs with each way to deal with ties, from the same starts."""
    for seed in range(seeds):
        train, unseen = (rankings(count, k, number, ties=1.0) for number in (101 + 2 * seed, 102 + 2 * seed))
        for ties in ("ignore", "half", "rao-kupper"):
            model, tokens = new_model(seed)
            pawl_seconds(model, tokens, train, 8, ties)
            share, error = accuracy(model, tokens, unseen)
            print(f"seed {seed}, ties {ties}: accuracy {share:.3f} +- {error:.3f}", flush=True)


def compare_prompts(rows: int = 32) -> None:
    """CPU seconds of scores and gradients with the prompt in a row for each response, and encoded once."""
    import torch

    from training import scoring

    model, tokens = new_model(0)

    def seconds(prompts, responses, share: bool) -> float:
        began = time.process_time()
        scoring.score(model, prompts, responses, tokens.pad_token_id, share=share).values.sum().backward()
        return time.process_time() - began

    for k in (4, 9):
        for prompt, response in ((16, 32), (64, 32), (64, 64), (128, 48), (256, 32), (256, 64)):
            drawn = torch.randint(10, 10 + WORDS, (rows // k, prompt + k * response)).tolist()
            prompts = [row[:prompt] for row in drawn]
            responses = [[row[prompt + i * response :][:response] for i in range(k)] for row in drawn]
            apart, shared = (min(seconds(prompts, responses, share) for _ in range(3)) for share in (False, True))
            print(f"K = {k}, prompt {prompt}, responses {response}: {apart / shared:.2f} times faster", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed and fewer rankings")
    parser.add_argument("--ties", action="store_true", help="compare the ways with ties instead")
    parser.add_argument("--prompts", action="store_true", help="compare prompts encoded once and each time instead")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if options.ties:
        return compare_ties()
    if options.prompts:
        return compare_prompts()
    # K: rankings, rankings in a step, held-out rankings
    sizes = {4: (192, 8, 100), 9: (48, 4, 50)} if options.quick else {4: (480, 8, 300), 9: (128, 4, 150)}
    found: dict[int, list[dict[str, float]]] = {}
    for k, size in sizes.items():
        found[k] = [compare(k, *size, seed) for seed in range(1 if options.quick else 3)]
        for one in found[k]:
            print(
                f"K = {k}, {size[0]} rankings: Pawl {one['seconds_pawl']:.1f} cpu-s, accuracy {one['pawl']:.3f} +- "
                f"{one['pawl_error']:.3f}; TRL {one['seconds_trl']:.1f} cpu-s, {one['trl']:.3f} +- "
                f"{one['trl_error']:.3f}; {one['seconds_trl'] / one['seconds_pawl']:.2f} times",
                flush=True,
            )
    every = [one for of in found.values() for one in of]
    speedups = {
        f"speedup_k{k}": round(sum(one["seconds_trl"] for one in of) / sum(one["seconds_pawl"] for one in of), 2)
        for k, of in found.items()
    }
    means = {f"accuracy_{name}": round(mean(one[name] for one in every), 4) for name in ("pawl", "trl")}
    print(json.dumps(speedups | means))


if __name__ == "__main__":
    main()
