"""One step of each of TRL's trainers on a dataset folder as it comes from `python -m data export --format hf`.

Prints a line for each trainer with its loss and the norm of its gradient; ends with an error where a trainer would need
a mapping of columns.

    python tests/benchmarks/frozen/trainers.py
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
sys.path.insert(0, str(Path(__file__).parents[3]))

import datasets  # noqa: E402  # after the environment is set
import transformers  # noqa: E402

from data.dataset_folder import write_folder  # noqa: E402
from data.records import Message, NewPrompt, NewRanking, NewResponse  # noqa: E402
from data.store import Store  # noqa: E402
from training import tokenizer  # noqa: E402

TRAINERS = {  # the rows that each takes, its configuration, and what it trains
    "SFTTrainer": ("demonstrations", "SFTConfig", "LlamaForCausalLM"),
    "GRPOTrainer": ("prompts", "GRPOConfig", "LlamaForCausalLM"),
    "RewardTrainer": ("comparisons", "RewardConfig", "LlamaForSequenceClassification"),
    "DPOTrainer": ("comparisons", "DPOConfig", "LlamaForCausalLM"),
    "KTOTrainer": ("unpaired", "KTOConfig", "LlamaForCausalLM"),
}
TEXTS = ("Blue, the colour of the sky.", "A fish.", "Red or green?", "Blue")
SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def feedback() -> Store:
    """Four demonstrations and four rankings of four responses."""
    store = Store(None)
    new = [NewPrompt((Message("user", f"Name colour {n}."),), split="train") for n in range(4)]
    prompts = store.add_prompts(new)
    store.add_demonstrations([(prompt, TEXTS[0]) for prompt in prompts], labeler="ana", source="file")
    responses = tuple(NewResponse(text, "sft-0001") for text in TEXTS)
    store.add_rankings([NewRanking(prompt, responses, (1, 4, 3, 2), "ana") for prompt in prompts])
    return store


def step(
    name: str, rows: datasets.Dataset, words: transformers.PreTrainedTokenizerBase, scratch: Path
) -> tuple[float, float]:
    """Loss and norm of the gradient of one step of a microscopic model on these rows, in the columns they have."""
    _, config, model = TRAINERS[name]
    trl = importlib.import_module("trl")
    shape = transformers.LlamaConfig(vocab_size=len(words), pad_token_id=words.pad_token_id, num_labels=1, **SIZE)
    quiet = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
    more, judge = {"max_length": None}, {}  # nothing is cut off: a response would be lost first
    if name == "GRPOTrainer":
        more, judge = {"max_completion_length": 4, "num_generations": 4}, {"reward_funcs": length}
    arguments = getattr(trl, config)(
        output_dir=str(scratch / name),
        max_steps=1,
        per_device_train_batch_size=4,
        use_cpu=True,
        bf16=False,
        **quiet,
        **more,
    )
    start = str(scratch / f"{name}-model")  # a path, since some of them load their reference from it
    getattr(transformers, model)(shape).save_pretrained(start)
    trainer = getattr(trl, name)(start, args=arguments, train_dataset=rows, processing_class=words, **judge)
    trainer.remove_callback(transformers.PrinterCallback)
    loss = trainer.train().training_loss
    return loss, next(each["grad_norm"] for each in trainer.state.log_history if "grad_norm" in each)


def length(completions: list[list[dict[str, str]]], **_: object) -> list[float]:
    """Something to reward."""
    return [float(len(turns[0]["content"])) for turns in completions]


def main() -> None:
    words = tokenizer.train([" ".join(TEXTS) + " Name colour 0123."] * 20, 300)
    with tempfile.TemporaryDirectory() as scratch, feedback() as store:
        folder = Path(scratch)
        for kind in {kind for kind, _, _ in TRAINERS.values()}:
            write_folder(store.batches(kind), kind, folder / kind, agreement=None)
        rows = {
            kind: datasets.load_dataset(str(folder / kind), cache_dir=str(folder / "cache"))["train"]
            for kind in {kind for kind, _, _ in TRAINERS.values()}
        }
        steps = {name: step(name, rows[kind], words, folder) for name, (kind, _, _) in TRAINERS.items()}
    for name, (loss, norm) in steps.items():
        print(f"{name:16}{loss:8.3f}{norm:8.3f}")


if __name__ == "__main__":
    main()
