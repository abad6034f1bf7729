"""Sampling by Pawl's engine against `generate` of transformers: seconds for the same number of tokens.

The same model, prompts, temperature and number of new tokens, one process, the two taking turns; no token ends a
response, so both make every token. `generate` draws from the whole softmax too (top_k 0), once with its default dynamic
cache and once with its static one. Each prompt is answered once (K = 1) and four times (K = 4).

On the CPU: one thread, 64 responses at once, the model of preset tiny and one of 3 M parameters. On a GPU: 124 M in
bf16, 512 responses at once, 128 + 128 tokens, and how much of the memory's bandwidth the engine uses: weights, keys
and values that a step has to read, over its share of the whole call's time, over the bandwidth of a big copy.

    python tests/benchmarks/engine.py [--quick] [--device cuda]

The last line holds the median ratios against the dynamic cache, of preset tiny or of the 124 M model.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import libraries_first  # noqa: F401

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from training import engine, presets
from training.model import Shape

PAD = 0
TEMPERATURE = 0.8
MIDDLE = Shape(hidden=192, layers=6, heads=6, kv_heads=2, intermediate=576, positions=1024)


@dataclass(frozen=True)
class Work:
    """What is sampled: `batch` responses of `tokens` tokens to prompts of `shortest` to `longest` tokens."""

    name: str
    shape: Shape
    vocabulary: int
    batch: int
    shortest: int
    longest: int
    tokens: int


CPU = (
    Work("tiny, 1.05 M", presets.MODELS["tiny"], 2048, 64, 8, 56, 48),
    Work("3 M", MIDDLE, 2048, 64, 8, 56, 48),
)
GPU = (Work("small, 124 M", presets.MODELS["small"], 32768, 512, 128, 128, 128),)


def new_model(work: Work, device: str) -> LlamaForCausalLM:
    """A model with random weights; fp32 on the CPU, bf16 on a GPU."""
    shape = work.shape
    config = LlamaConfig(
        vocab_size=work.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    return model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)


def by_engine(model, prompts: list[list[int]], k: int, work: Work) -> Callable[[], int]:
    def run() -> int:
        samples = engine.sample(
            model,
            prompts,
            samples=k,
            max_new_tokens=work.tokens,
            temperature=TEMPERATURE,
            eos_id=work.vocabulary,  # cannot come
            pad_id=PAD,
            generator=torch.Generator().manual_seed(0),
            batch_size=work.batch,
        )
        return sum(map(len, samples.response_ids))

    return run


def by_generate(model, prompts: list[list[int]], k: int, work: Work, cache: str) -> Callable[[], int]:
    ids, is_token = engine.padded_left(prompts, PAD, model.device)
    config = GenerationConfig(
        do_sample=True,
        top_k=0,
        top_p=1.0,
        temperature=TEMPERATURE,
        max_new_tokens=work.tokens,
        num_return_sequences=k,
        pad_token_id=PAD,
        eos_token_id=None,
        cache_implementation=cache,
        disable_compile=model.device.type == "cpu",
    )

    def run() -> int:
        whole = model.generate(ids, attention_mask=is_token.long(), generation_config=config)
        return whole[:, ids.shape[1] :].numel()

    return run


def seconds(run: Callable[[], int], expected: int, device: str) -> float:
    """Processor seconds on the CPU, where other processes may be running; wall-clock seconds on a GPU."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    began = clock()
    made = run()
    if device == "cuda":
        torch.cuda.synchronize()
    took = clock() - began
    if made != expected:
        raise SystemExit(f"{made} tokens were made and not {expected}: the two sides cannot be compared.")
    return took


def compare(work: Work, k: int, repetitions: int, device: str) -> dict[str, float]:
    """Median seconds of each side, and the median of the ratios within a repetition."""
    draw = random.Random(0)
    prompts = [
        draw.choices(range(1, work.vocabulary), k=draw.randint(work.shortest, work.longest))
        for _ in range(work.batch // k)
    ]
    model = new_model(work, device)
    sides = {
        "engine": by_engine(model, prompts, k, work),
        "dynamic": by_generate(model, prompts, k, work, "dynamic"),
        "static": by_generate(model, prompts, k, work, "static"),
    }
    expected = work.batch * work.tokens
    took: dict[str, list[float]] = {side: [] for side in sides}
    for repetition in range(repetitions + 1):
        for side, run in sides.items():
            found = seconds(run, expected, device)
            if repetition:  # the first is warm-up
                took[side].append(found)
    row = {side: statistics.median(found) for side, found in took.items()}
    for side in ("dynamic", "static"):
        ratios = [theirs / ours for theirs, ours in zip(took[side], took["engine"], strict=True)]
        row[f"{side}_ratio"] = statistics.median(ratios)
    lengths = [len(prompt) for prompt in prompts for _ in range(k)]
    return row | {"bytes": bytes_to_read(model, lengths, work.tokens), "tokens": expected}


def bytes_to_read(model, prompt_lengths: list[int], tokens: int) -> int:
    """Of all decode steps together: every weight once a step, and the keys and values of what stands before."""
    config, size = model.config, model.dtype.itemsize
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * size
    before = sum(length + step for length in prompt_lengths for step in range(tokens))
    return tokens * size * sum(p.numel() for p in model.parameters()) + per_token * before


def bandwidth() -> float:
    """Bytes a second of a copy of 4 GiB on the GPU, read and written, the best of five."""
    source = torch.empty(1 << 32, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * source.numel() / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    repetitions = 5 if args.quick else 15
    limit = bandwidth() if args.device == "cuda" else None
    print(
        f"{'model':14} {'K':>2} {'engine':>9} {'dynamic':>9} {'static':>9} {'vs dynamic':>11} {'vs static':>10}", end=""
    )
    print(f" {'tokens/s':>10} {'bandwidth':>10}" if limit else "", flush=True)
    figures: dict[str, float] = {}
    for work in GPU if args.device == "cuda" else CPU:
        for k in (1, 4):
            row = compare(work, k, repetitions, args.device)
            print(
                f"{work.name:14} {k:2} {row['engine']:8.3f}s {row['dynamic']:8.3f}s {row['static']:8.3f}s"
                f" {row['dynamic_ratio']:10.2f}x {row['static_ratio']:9.2f}x",
                end="",
            )
            if limit:
                share = row["bytes"] / row["engine"] / limit
                print(f" {row['tokens'] / row['engine']:10.0f} {share:9.1%}", end="")
                figures.setdefault("bandwidth_share" if k == 1 else "bandwidth_share_k4", round(share, 3))
            print(flush=True)
            figures.setdefault("speedup" if k == 1 else "speedup_k4", round(row["dynamic_ratio"], 2))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
