"""What `--preset` sets: for each preset the fields of each stage's Config that differ from its defaults.

`tiny` is the embedded model of two CPU cores; `small` is for one GPU and fits most models brought from outside.
"""

from __future__ import annotations

from typing import Any

from training.model import Shape

MODELS = {
    "tiny": Shape(hidden=128, layers=4, heads=4, kv_heads=2, intermediate=384, positions=1024),  # 1.05M parameters
    "small": Shape(hidden=768, layers=12, heads=12, kv_heads=4, intermediate=2880, positions=2048),  # 124M
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {
        # Many small steps: with Muon, 400 of 8 x 128 tokens reach 2.02 bits per byte and 200 of 8 x 256 only 2.11.
        "pretrain": {
            "model": "tiny",
            "vocab_size": 2048,
            "steps": 850,
            "minutes": 2.0,
            "batch_size": 8,
            "block": 128,
            "learning_rate": 1e-2,
            "log_every": 25,
            "save_every": 200,
        },
        "sft": {
            "learning_rate": 2e-3,
            "batch_size": 8,
            "microbatch": 4,
            "epochs": 4,
            "max_length": 512,
            "max_new_tokens": 48,
        },
        "reward": {"learning_rate": 5e-4, "batch_size": 8, "epochs": 2, "max_tokens": 256},
        "ppo": {
            "steps": 20,
            "batch_size": 64,
            "minibatch_size": 64,
            "microbatch": 8,
            "epochs": 2,
            "max_new_tokens": 48,
            "max_prompt_tokens": 256,
            "temperature": 0.8,
            "learning_rate": 5e-4,
            "value_learning_rate": 1e-3,
            "kl_coef": 0.05,
            "save_every": 4,
        },
        # A policy of a million parameters pays 1 to 8 % for any taste; the limit is for one that forgets to write.
        "evaluate": {
            "samples": 8,
            "max_new_tokens": 48,
            "max_prompt_tokens": 256,
            "microbatch": 8,
            "temperature": 0.8,
            "max_tax": 0.2,
        },
        # At 0.8 the tiny model is easier to read than at 1, and more of its responses end (94 % against 83 %). PPO and
        # evaluate sample at the same temperature: the reward model judges what it was trained on.
        "sample": {"prompts": 240, "responses": 4, "max_new_tokens": 48, "temperature": (0.8,)},
    },
    "small": {
        "pretrain": {
            "model": "small",
            "vocab_size": 32768,
            "steps": 20_000,
            "batch_size": 64,
            "block": 1024,
            "learning_rate": 2e-3,
            "save_every": 1000,
        },
        "sft": {"learning_rate": 2e-5, "batch_size": 32, "epochs": 3, "max_length": 1024, "max_new_tokens": 256},
        "reward": {},
        "ppo": {"max_new_tokens": 256},
        "evaluate": {"max_new_tokens": 256},
        "sample": {"max_new_tokens": 256},
    },
}
