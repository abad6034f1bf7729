"""One batch of PPO: Pawl against the PPOTrainer of TRL 1.12, the last release that had one.

The same random Llama, prompts, reward model, value model, batch, epochs and response length on both sides; each side in
processes of its own that take turns, after a warm-up with a microscopic model. A bias on the head decides when a
response ends: never (`equal`: all are as long as allowed), or at each token with the same probability (`ended`: two in
five of the allowed tokens on average, as a trained policy's do). TRL runs with its own loss and loop, without gradient
checkpointing (its default, which costs time here), in the microbatches that were fastest for it.

sampling   prompts to responses (TRL: its batch_generation)
scoring    log-probs, reference, reward and value model, advantages: from there to the first update
update     the epochs of updates

The phases are timed from outside, by wrapping the functions in which they begin and end. What is compared are wall
seconds on two threads, for which nothing else may run on the machine; on a CPU the processor's seconds stand beside
them, which other work disturbs less and which do not tell that Pawl's two learners share the cores. Memory is the peak
above what the process held after the warm-up: resident memory, or CUDA's allocator.

    python tests/benchmarks/ppo.py [--quick] [--threads 1]
    python tests/benchmarks/ppo.py --device cuda --model 124m
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import libraries_first  # noqa: F401

HERE = Path(__file__).resolve()
SIDES = ("pawl", "trl")
PHASES = ("sampling", "scoring", "update", "rest")
LENGTHS = ("equal", "ended")
Found = dict[str, list[dict[str, Any]]]  # what the processes of each side printed


@dataclass(frozen=True)
class Setting:
    """The work of one batch, and how each side cuts it up."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    batch: int  # prompts, one response each
    prompt: tuple[int, int]  # tokens, from shortest to longest
    response: int  # tokens of every response
    microbatch: int  # Pawl's responses in one forward and backward pass
    trl_microbatch: int  # TRL's
    trl_rollout: int = 64  # TRL's responses generated and scored at once; its default
    epochs: int = 4
    end: float = 0.0  # probability that a response ends, at each token


SETTINGS = {
    "micro": Setting(16, 2, 4, 2, 32, 512, 8, (4, 8), 4, 4, 8, epochs=1),  # 14,000 parameters: the warm-up
    "3m": Setting(192, 6, 6, 3, 512, 4096, 64, (16, 48), 48, 4, 16),
    "124m": Setting(768, 12, 12, 4, 2880, 32768, 512, (128, 128), 128, 64, 64),
    "350m": Setting(1024, 24, 16, 4, 3456, 32768, 512, (128, 128), 128, 32, 32),
}


class Clock:
    """Marks of one process: what began or ended, in wall and CPU seconds."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.marks: list[tuple[str, float, float]] = []

    def mark(self, what: str) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        self.marks.append((what, time.perf_counter(), time.process_time()))

    def around(self, owner: Any, name: str, *, before: str | None = None, after: str | None = None) -> None:
        """From now on `owner.name` makes these marks when it is called and when it returns."""
        original: Callable = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if before:
                self.mark(before)
            result = original(*args, **kwargs)
            if after:
                self.mark(after)
            return result

        setattr(owner, name, timed)

    def batches(self) -> list[dict[str, dict[str, float]]]:
        """Each batch's phases. A sampling that no update follows (Pawl's, for the unit of scores) is no batch."""
        found, times = [], {}
        for what, *now in [*self.marks, ("sample", *self.marks[-1][1:])]:
            if what == "sample" and "updated" in times:
                order = ("sample", "sampled", "update", "updated", what)
                ends = [times[name] for name in order[:-1]] + [now]
                phases = zip(PHASES, ends, ends[1:], strict=False)
                found.append({name: {"wall": b[0] - a[0], "cpu": b[1] - a[1]} for name, a, b in phases})
                times = {}
            times[what] = now
        return found


class Memory:
    """The most memory this process holds above what it holds now, in bytes."""

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark
            self.before = self._status("VmRSS")

    def peak(self) -> int:
        if self.device == "cuda":
            import torch

            return torch.cuda.max_memory_allocated() - self.before
        return self._status("VmHWM") - self.before

    @staticmethod
    def _status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def prepare(work: Path, setting: Setting, batches: int) -> None:
    """Tokenizer and prompts into the folder `work`."""
    from pydoc_data.topics import topics

    from training import tokenizer

    tokenizer.train(topics.values(), setting.vocabulary).save_pretrained(work / "tokenizer")
    draw = random.Random(0)
    lengths = [draw.randint(*setting.prompt) for _ in range((batches + 1) * setting.batch)]
    prompts = [draw.choices(range(10, setting.vocabulary), k=length) for length in lengths]
    (work / "prompts.json").write_text(json.dumps(prompts))


def make_models(setting: Setting, tokens: Any, device: str) -> dict[str, Any]:
    """Policy, reference, reward and value model, the same on both sides: drawn from one seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=setting.vocabulary,
        hidden_size=setting.hidden,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads,
        num_key_value_heads=setting.kv_heads,
        intermediate_size=setting.intermediate,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokens.pad_token_id,
        eos_token_id=tokens.eos_token_id,
        bos_token_id=tokens.eos_token_id,
    )
    policy = LlamaForCausalLM(config)
    bias = torch.zeros(setting.vocabulary)
    bias[[tokens.pad_token_id, tokens.eos_token_id]] = -1e4
    if setting.end:  # the logits of a random model are all but equal
        bias[tokens.eos_token_id] = math.log(setting.vocabulary * setting.end / (1 - setting.end))
    reference = LlamaForCausalLM(config)
    reference.load_state_dict(policy.state_dict())
    for model in (policy, reference):
        model.lm_head.bias = torch.nn.Parameter(bias.clone(), requires_grad=False)
    config.num_labels = 1
    reward, value = LlamaForSequenceClassification(config), LlamaForSequenceClassification(config)
    value.load_state_dict(reward.state_dict())
    models = {"policy": policy, "reference": reference, "reward": reward, "value": value}
    return {name: model.to(device).eval() for name, model in models.items()}


def run_pawl(setting: Setting, work: Path, batches: int, device: str, clock: Clock) -> float:
    """Pawl's loop over so many batches; returns the mean response length."""
    import torch
    from accelerate import Accelerator
    from transformers import AutoTokenizer

    from data.records import Message, Prompt, prompt_id_of
    from data.runs import RunFolder
    from training import ppo, ppo_models, rewards

    tokens = AutoTokenizer.from_pretrained(work / "tokenizer")
    made = make_models(setting, tokens, device)
    for name in ("reference", "reward"):
        made[name].requires_grad_(False)
    judges = rewards.Rewards({"reward": made.pop("reward")}, (), tokens, torch.device(device), 1.0, "mean", 0, 0, None)
    made["value"].score = ppo_models.with_bias(made["value"].score)  # as when it starts from a reward model
    models = ppo_models.Models(**made, rewards=judges, tokens=tokens)
    message = (Message("user", "x"),)
    prompt = Prompt(prompt_id_of(message), message, (), "train", "benchmark", datetime.now(UTC))
    prompts = [(prompt, ids) for ids in json.loads((work / "prompts.json").read_text())][: batches * setting.batch]
    config = ppo.Config(
        snapshot=Path(),
        init="",
        reference="",
        reward="",
        steps=batches,
        batch_size=setting.batch,
        minibatch_size=setting.batch,
        microbatch=setting.microbatch,
        epochs=setting.epochs,
        max_new_tokens=setting.response,
        save_every=batches + 1,
    )
    run = RunFolder.create(work / "runs", "ppo", {})
    ppo.learn(models, prompts, config, run, Accelerator(cpu=device == "cpu"))
    return statistics.mean(line["length"] for line in run.metrics())


def time_pawl(clock: Clock) -> None:
    from training import ppo

    clock.around(ppo, "sample", before="sample", after="sampled")
    clock.around(ppo, "improve", before="update", after="updated")


def run_trl(setting: Setting, work: Path, batches: int, device: str, clock: Clock) -> float:
    """TRL's loop over so many batches; returns the mean response length."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    tokens = AutoTokenizer.from_pretrained(work / "tokenizer", padding_side="left")
    made = make_models(setting, tokens, device)
    if device == "cuda":  # its bf16 setting is not applied; weights in bf16 are its fast way
        made = {name: model.to(torch.bfloat16) for name, model in made.items()}
    # One batch more than it sees: in the last batch of a pass it makes an optimizer step of every microbatch.
    prompts = json.loads((work / "prompts.json").read_text())[: (batches + 1) * setting.batch]
    args = PPOConfig(
        output_dir=str(work / "trl"),
        total_episodes=batches * setting.batch,
        per_device_train_batch_size=setting.trl_microbatch,
        gradient_accumulation_steps=setting.batch // setting.trl_microbatch,
        num_mini_batches=1,
        num_ppo_epochs=setting.epochs,
        local_rollout_forward_batch_size=setting.trl_rollout,
        response_length=setting.response,
        temperature=1.0,
        num_sample_generations=0,
        use_cpu=device == "cpu",
        bf16=False,
        gradient_checkpointing=False,
        stop_token="eos" if setting.end else None,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = PPOTrainer(
        args,
        tokens,
        made["policy"],
        made["reference"],
        made["reward"],
        Dataset.from_dict({"input_ids": prompts}),
        made["value"],
    )
    clock.around(trainer, "log", before="updated")
    lengths: list[float] = []
    original = ppo_trainer.truncate_response

    def measured(stop: int, pad: int, responses: Any) -> Any:
        kept = original(stop, pad, responses)
        lengths.append((kept != pad).sum(1).float().mean().item())
        return kept

    ppo_trainer.truncate_response = measured
    trainer.train()
    ppo_trainer.truncate_response = original
    return statistics.mean(lengths) if lengths else float(setting.response)  # without a stop token always this many


def time_trl(clock: Clock) -> None:
    from trl.experimental.ppo import ppo_trainer

    clock.around(ppo_trainer, "batch_generation", before="sample", after="sampled")
    clock.around(ppo_trainer, "masked_whiten", after="update")  # of the advantages, the last thing before the epochs


def setting_of(model: str, lengths: str, response: int | None) -> Setting:
    setting = replace(SETTINGS[model], response=response or SETTINGS[model].response)
    return replace(setting, end=2 / setting.response) if lengths == "ended" else setting


def work_side(given: argparse.Namespace) -> None:
    """One process of one side: warm up, run, print one line of JSON."""
    side, work, batches, device = given.side, given.work, given.batches, given.device
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    run, time_it = {"pawl": (run_pawl, time_pawl), "trl": (run_trl, time_trl)}[side]
    clock, steps = Clock(device), 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    run(replace(SETTINGS["micro"], vocabulary=SETTINGS[given.model].vocabulary), work, 1, device, clock)
    time_it(clock)
    clock.marks.clear()
    register_optimizer_step_post_hook(count)
    memory = Memory(device)
    length = run(setting_of(given.model, given.lengths, given.response), work, batches, device, clock)
    print(json.dumps({"batches": clock.batches(), "peak": memory.peak(), "length": length, "steps": steps}))


def start(side: str, lengths: str, arguments: argparse.Namespace, work: Path, batches: int) -> dict[str, Any]:
    """Run one process of one side and return what it printed."""
    from rivals import python_of

    python = sys.executable if side == "pawl" else str(python_of("trl-1.12"))
    command = [python, str(HERE), "--side", side, "--lengths", lengths, "--work", str(work), "--batches", str(batches)]
    command += ["--model", arguments.model, "--device", arguments.device]
    command += ["--response", str(arguments.response)] if arguments.response else []
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(arguments.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def check_same_work(found: Found, setting: Setting, batches: int) -> None:
    """Both sides made as many optimizer steps and as long responses; else the ratio would mean nothing."""
    lengths = {side: statistics.mean(one["length"] for one in runs) for side, runs in found.items()}
    steps = {side: [(len(one["batches"]), one["steps"]) for one in runs] for side, runs in found.items()}
    wanted = (batches, batches * setting.epochs)
    same = all(one == wanted for runs in steps.values() for one in runs)
    if not same or abs(lengths["pawl"] / lengths["trl"] - 1) > (0.25 if setting.end else 0):
        raise RuntimeError(f"The sides did not do the same. Batches and optimizer steps {steps}, lengths {lengths}.")


def table(found: Found, clock: str) -> dict[str, dict[str, float]]:
    """Print the phases; returns the median seconds of each, per side."""
    seconds = {}
    for side, runs in found.items():
        batches = [batch for one in runs for batch in one["batches"]]
        seconds[side] = {name: statistics.median(batch[name][clock] for batch in batches) for name in PHASES}
        seconds[side]["batch"] = statistics.median(sum(batch[name][clock] for name in PHASES) for batch in batches)
    print(f"{clock + ' seconds a batch':24} {'Pawl':>8} {'TRL':>8} {'TRL / Pawl':>11}")
    for name in (*PHASES[:-1], "batch"):
        ours, theirs = seconds["pawl"][name], seconds["trl"][name]
        print(f"{name:24} {ours:8.2f} {theirs:8.2f} {theirs / ours:11.2f}")
    return {side: {name: round(value, 3) for name, value in values.items()} for side, values in seconds.items()}


def compare(found: Found, setting: Setting, batches: int, device: str) -> dict[str, Any]:
    """Check, print and sum up what the two sides measured."""
    check_same_work(found, setting, batches)
    tables = {clock: table(found, clock) for clock in (("wall", "cpu") if device == "cpu" else ("wall",))}
    speedups = {clock: round(times["trl"]["batch"] / times["pawl"]["batch"], 2) for clock, times in tables.items()}
    peaks = {side: statistics.median(one["peak"] for one in runs) for side, runs in found.items()}
    length = statistics.mean(one["length"] for one in found["pawl"])
    print(f"responses of {length:.1f} tokens; peak memory: ", end="")
    print(f"Pawl {peaks['pawl'] / 2**20:.0f} MiB, TRL {peaks['trl'] / 2**20:.0f} MiB\n", flush=True)
    return {
        "speedup": speedups["wall"],
        **({"speedup_cpu": speedups["cpu"]} if device == "cpu" else {}),
        "memory_ratio": round(peaks["pawl"] / peaks["trl"], 3),
        "seconds": tables["wall"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one process of each side, one batch, responses of equal length"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--model", choices=[name for name in SETTINGS if name != "micro"], help="3m; on a GPU 124m")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each process")
    parser.add_argument("--lengths", choices=LENGTHS, help="of responses; by default both, or equal when quick")
    parser.add_argument("--response", type=int, help="tokens allowed to a response; 48, on a GPU 128")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # a process of the benchmark's own
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.model = given.model or {"cpu": "3m", "cuda": "124m"}[given.device]
    if given.side:
        work_side(given)
        return
    repetitions, batches = (1, 1) if given.quick else (3, 3)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        prepare(Path(work), SETTINGS[given.model], batches)
        usual = LENGTHS[:1] if given.quick else LENGTHS
        for lengths in [given.lengths] if given.lengths else usual:
            found: Found = {side: [] for side in SIDES}
            for _ in range(repetitions):
                for side in SIDES:
                    found[side].append(start(side, lengths, given, Path(work), batches))
            print(f"{given.model}, {lengths}")
            figures[lengths] = compare(found, setting_of(given.model, lengths, given.response), batches, given.device)
    first, *others = figures
    print(json.dumps({**figures[first], **{lengths: figures[lengths] for lengths in others}}))


if __name__ == "__main__":
    main()
