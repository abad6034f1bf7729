"""The arms of the proof as jobs: each runs real stages in workspaces below `root` and returns what it measured.

model/                   pretraining and SFT, shared by all
responses-train, -test/  four responses of the SFT model to each prompt that is ranked
<taste>/                 labels of that taste, and the reward models, policies and DPO trained on them
<taste>-flips/           the same responses as comparisons, one in four turned around
control-<seed>/          labels in random order: of no taste, so one control serves every taste
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np

from data import batches, interchange
from data.batches import Batch
from data.runs import RunFolder
from data.workspace import Workspace
from proof import labelers, policies, prompts, stages
from proof.jobs import Result, result_of
from proof.significance import clustered_error, win_rate
from proof.tastes import TASTES, Taste, words_of

SIZES = {"evaluation": 400, "reward_test": 400, "reward_train": 2000, "ppo": 1000}  # prompts of each set
K = 4  # responses ranked at once: 6 comparisons
SUBSETS = {"750": 125, "3000": 500, "12000": 2000}  # comparisons, and the rankings that give them
BEST_OF = 16

PRETRAIN = ("--preset", "tiny", "--vocab-size", 1024, "--steps", 1400, "--minutes", 8)
SFT = ("--preset", "tiny", "--epochs", 2, "--batch-size", 16, "--max-length", 128, "--max-new-tokens", policies.LONGEST)
SAMPLE = ("--preset", "tiny", "--temperature", 1.0, "--max-new-tokens", policies.LONGEST, "--batch-size", 128)
REWARD = ("--preset", "tiny", "--epochs", 1, "--batch-size", 4, "--microbatch", 4)
REWARD += ("--learning-rate", 3e-3, "--warmup", 0.1)
PPO = ("--preset", "tiny", "--batch-size", 128, "--minibatch-size", 128, "--microbatch", 32, "--epochs", 2)
PPO += ("--max-new-tokens", policies.LONGEST, "--temperature", 1.0, "--learning-rate", 5e-4)
PPO += ("--value-warmup", 4, "--warmup", 8)  # steps; without them the first ones go the wrong way and cost variety
# From so high a coefficient, adapted this fast, the policy comes to rest near the target at little cost in variety. At
# .1 it passes by on its way, wins no more there, and says the same more often (docs/proof.md).
PPO += ("--kl-coef", 0.35, "--kl-target", 2.3, "--kl-horizon", 600)
PTX = 0.3  # the norm of the gradient on pretraining text over PPO's own
# A fifth of this rate counts (training/peers.py).
DPO = ("--preset", "tiny", "--algorithm", "dpo", "--batch-size", 64, "--minibatch-size", 64, "--microbatch", 64)
DPO += ("--steps", 180, "--learning-rate", 2e-3, "--max-new-tokens", policies.LONGEST, "--temperature", 1.0)


def make_model(root: Path) -> Result:
    """The prompt sets, and the pretrained and fine-tuned model that every arm starts from."""
    sets = prompts.disjoint_sets(SIZES)
    text = {name: [[pair.prompt, pair.response] for pair in pairs] for name, pairs in sets.items()}
    (root / "prompts.json").write_text(json.dumps(text))
    folder = root / "model"
    with stages.open_store(folder) as store:
        ids = stages.add_prompts(store, sets["sft"], "train")
        rows = [(id, pair.response) for id, pair in zip(ids, sets["sft"], strict=True)]
        store.add_demonstrations(rows, labeler="docstrings", source="standard library")
        snapshot = stages.freeze(store, folder)
    with stages.threads(2):  # every other job waits for this one
        stages.run_stage(folder, "pretrain", "pretrain", *PRETRAIN)
        stages.run_stage(folder, "sft", "sft", "--snapshot", snapshot, "--init", "pretrain", *SFT)
    from training import corpus, model, tokenizer

    heldout = corpus.heldout_texts(sft_of(root), Workspace.at(folder).checkpoints)
    found = {}
    for name in ("pretrain", "sft"):
        path = stages.checkpoint(folder, name)
        found[f"perplexity_{name}"] = policies.perplexity(model.load_policy(path).eval(), tokenizer.load(path), heldout)
    return {"sizes": {name: len(pairs) for name, pairs in sets.items()}, **found}


def sft_of(root: Path) -> Path:
    return stages.checkpoint(root / "model", "sft")


def prompts_of(root: Path, name: str) -> list[str]:
    """The prompts of one set."""
    return [prompt for prompt, _ in json.loads((root / "prompts.json").read_text())[name]]


def pairs_of(root: Path, name: str) -> list[prompts.Pair]:
    return [prompts.Pair(prompt, None) for prompt in prompts_of(root, name)]


def sample_responses(root: Path, split: str) -> Result:
    """K responses of the SFT model to each prompt of reward_train or reward_test, by the stage `sample`."""
    folder, asked = root / f"responses-{split}", pairs_of(root, f"reward_{split}")
    snapshot = stages.snapshot_of_prompts(folder, asked)
    stages.share(sft_of(root), folder)
    options = ("--snapshot", snapshot, "--policy", "sft", "--prompts", len(asked), "--responses", K)
    return stages.run_stage(folder, "sample", "sample", *options, *SAMPLE)["metrics"]


def batch_of(root: Path, split: str) -> Batch:
    """What `sample_responses` drew, rows with fewer than K left out."""
    batch = batches.read(Workspace.at(root / f"responses-{split}").batches / "sample.parquet")
    return Batch(batch.id + "-" + split, batch.checkpoint, tuple(row for row in batch.rows if len(row.responses) == K))


def texts_of(batch: Batch) -> list[list[str]]:
    return [[response.text for response in row.responses] for row in batch.rows]


def speak_as_sft(root: Path) -> Result:
    """The SFT model's responses to the evaluation prompts: the baseline, a second draw, and BEST_OF more."""
    from training import model, tokenizer

    words, policy = tokenizer.load(sft_of(root)), model.load_policy(sft_of(root)).eval()
    asked = prompts_of(root, "evaluation")
    first, again = (policies.speak(policy, words, asked, place=place) for place in ("baseline", "policy"))
    more = policies.speak(policy, words, asked, place="best-of", samples=BEST_OF).texts
    return {
        "baseline": asdict(first),
        "more": more,
        "again": {taste: against_sft(again.texts, asdict(first), TASTES[taste]) for taste in TASTES},
        "ended": fmean(first.ended),
        "distinct_2": policies.distinct_2(first.texts),
        "unique": len(set(first.texts)) / len(first.texts),
        "length": fmean(first.lengths),
    }


def label(root: Path, taste: str) -> Result:
    """Human-like labels: test prompts by two labelers each, then train prompts by one, frozen at three sizes."""
    folder = root / taste
    train, test = batch_of(root, "train"), batch_of(root, "test")
    people = labelers.crowd(TASTES[taste], texts_of(train))
    snapshots = {}
    with stages.open_store(folder) as store:
        stages.add_prompts(store, pairs_of(root, "reward_train"), "train")
        stages.add_prompts(store, pairs_of(root, "reward_test"), "heldout")
        for _ in labelers.rank_all(store, test, people, overlap=2):
            pass
        sizes = {count: name for name, count in SUBSETS.items()} | {len(train.rows): "12000"}
        for count in labelers.rank_all(store, train, people, overlap=1):
            if count in sizes:
                snapshots[sizes[count]] = str(stages.freeze(store, folder))
        said = store.stats()["agreement"]
    gold = [TASTES[taste](text) for texts in texts_of(train) for text in texts]
    return {
        "snapshots": snapshots,
        "tau": people.tau,
        "agreement_true": people.agreement(texts_of(test)),
        "agreement_app": said["pairwise"],
        "agreement_pairs": said["pairs"],
        "agreement_error": agreement_error(folder),
        "label_vs_gold": people.correctness(texts_of(test)),
        "gold_mean": fmean(gold),
        "gold_std": pstdev(gold),
        "surface": surface(TASTES[taste], texts_of(train)),
    }


def agreement_error(folder: Path) -> float:
    """The standard error of the agreement over pairs of labels, clustered by task."""
    by_task: dict[str, list[list[int]]] = {}
    with stages.open_store(folder) as store:
        for row in store.ranking_rows():
            by_task.setdefault(row["task_id"], []).append(row["ranks"])
    agreed, tasks = [], []
    for task, (one, *others) in by_task.items():
        for other in others:
            for i, j in combinations(range(len(one)), 2):
                agreed.append(float((one[i] < one[j]) == (other[i] < other[j])))
                tasks.append(task)
    return clustered_error(np.array(agreed), np.array(tasks))


SURFACE = {
    "characters": len,
    "words": lambda text: len(words_of(text)),
    "letters per word": lambda text: fmean(map(len, words_of(text) or [""])),
    "ends with a full stop": lambda text: text.rstrip().endswith("."),
    "starts with Return": lambda text: text.startswith("Return"),
    "share of capitals": lambda text: sum(map(str.isupper, text)) / max(1, len(text)),
    "share of vowels": lambda text: sum(letter in "aeiou" for letter in text) / max(1, len(text)),
    "share of blanks": lambda text: text.count(" ") / max(1, len(text)),
    "has 'the'": lambda text: "the" in words_of(text),
    "punctuation marks": lambda text: sum(mark in ".,;:()'\"_-" for mark in text),
}


def surface(taste: Taste, tasks: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """For each surface feature its correlation with the taste, and how many pairs it orders as the taste does."""
    worth = [[taste(text) for text in texts] for texts in tasks]
    found = {}
    for name, feature in SURFACE.items():
        values = [[float(feature(text)) for text in texts] for texts in tasks]
        flat = np.array(values).ravel(), np.array(worth).ravel()
        correlation = float(np.corrcoef(*flat)[0, 1]) if flat[0].std() else 0.0
        right = ordered_right(values, worth)
        found[name] = {"correlation": correlation, "accuracy": max(right, 1 - right)}
    return found


def ordered_right(found: Sequence[Sequence[float]], worth: Sequence[Sequence[float]]) -> float:
    """The share of pairs of a task, decided in `worth`, that `found` orders alike; equal in `found` is half right."""
    return float(np.mean(pairs_right(found, worth)[0]))


def pairs_right(found: Sequence[Sequence[float]], worth: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """For each decided pair, how right `found` is (0, 0.5 or 1), and the number of its task."""
    right, tasks = [], []
    for number, (mine, true) in enumerate(zip(found, worth, strict=True)):
        for i, j in combinations(range(len(true)), 2):
            if true[i] != true[j]:
                gap = (mine[i] - mine[j]) * (1 if true[i] > true[j] else -1)
                right.append(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0)
                tasks.append(number)
    return np.array(right), np.array(tasks)


def label_with_flips(root: Path, taste: str) -> Result:
    """Comparisons of all pairs of the responses, one in four turned around; frozen at 3,000 and at all of them."""
    folder, snapshots = root / f"{taste}-flips", {}
    train, test = batch_of(root, "train"), batch_of(root, "test")
    some = SUBSETS["3000"]
    parts = (("test", test.rows), ("3000", train.rows[:some]), ("12000", train.rows[some:]))
    with stages.open_store(folder) as store:
        asked = pairs_of(root, "reward_train"), pairs_of(root, "reward_test")
        ids = stages.add_prompts(store, asked[0], "train") + stages.add_prompts(store, asked[1], "heldout")
        known = {id: pair.prompt for id, pair in zip(ids, [*asked[0], *asked[1]], strict=True)}
        for name, rows in parts:
            file = folder / f"flips-{name}.jsonl"
            flipped = labelers.import_flips(store, file, rows, known, TASTES[taste], seed=0)
            snapshots[name] = str(stages.freeze(store, folder))
    return {"snapshots": snapshots, "flipped": flipped}


def label_pairs(root: Path, taste: str) -> Result:
    """The human-like labels exported as comparisons and imported again, so that each pair stands alone."""
    folder, file = root / f"{taste}-pairs", root / f"{taste}-pairs" / "comparisons.jsonl"
    with stages.open_store(folder) as store, stages.open_store(root / taste) as labelled:
        stages.add_prompts(store, pairs_of(root, "reward_train"), "train")
        stages.add_prompts(store, pairs_of(root, "reward_test"), "heldout")
        interchange.write(interchange.stream(labelled.batches("comparisons"), "comparisons", "trl"), file)
        taken = interchange.import_file(store, "comparisons", file)
        return {"snapshots": {"12000": str(stages.freeze(store, folder))}, "comparisons": taken.new}


def label_at_random(root: Path, seed: int) -> Result:
    """Rankings in an order drawn at random."""
    folder = root / f"control-{seed}"
    with stages.open_store(folder) as store:
        for split, side in (("train", "train"), ("test", "heldout")):
            asked = pairs_of(root, f"reward_{split}")
            ids = stages.add_prompts(store, asked, side)
            known = {id: pair.prompt for id, pair in zip(ids, asked, strict=True)}
            file = folder / f"shuffled-{split}.jsonl"
            labelers.import_shuffled(store, file, batch_of(root, split).rows, known, seed)
        return {"snapshots": {"12000": str(stages.freeze(store, folder))}}


def train_reward(root: Path, labels: str, size: str, seed: int, tastes: Sequence[str]) -> Result:
    """A reward model on those labels, held against the tastes on the test responses."""
    folder, run = root / labels, f"reward-{labels}-{size}-{seed}"
    snapshot = result_of(root, f"labels/{labels}")["snapshots"][size]
    stages.share(sft_of(root), folder)
    state = stages.run_stage(folder, "reward", run, "--snapshot", snapshot, "--init", "sft", "--seed", seed, *REWARD)
    path = stages.checkpoint(folder, run)
    batch = batch_of(root, "test")
    by_id = prompts_by_id(root, "reward_test")
    asked = [by_id[row.prompt_id] for row in batch.rows for _ in range(K)]
    flat = policies.scores(path, asked, [text for texts in texts_of(batch) for text in texts])
    found = [flat[start : start + K] for start in range(0, len(flat), K)]
    sft = result_of(root, "sft")["baseline"]["texts"]
    own = policies.scores(path, prompts_of(root, "evaluation"), sft)
    lengths = [[float(len(text)) for text in texts] for texts in texts_of(batch)]
    return {
        "checkpoint": str(path),
        "stage": state["metrics"],
        "gold": {taste: accuracy(found, texts_of(batch), TASTES[taste]) for taste in tastes},
        "longer": {taste: accuracy(lengths, texts_of(batch), TASTES[taste]) for taste in tastes},
        "length_correlation": within_prompt_correlation(found, lengths),
        "unit": [fmean(own), pstdev(own)],  # the SFT model's own responses: the zero and the one of the proxy
    }


def prompts_by_id(root: Path, name: str) -> dict[str, str]:
    from data.records import Message, prompt_id_of

    return {prompt_id_of((Message("user", prompt),)): prompt for prompt in prompts_of(root, name)}


def accuracy(found: Sequence[Sequence[float]], texts: Sequence[Sequence[str]], taste: Taste) -> dict[str, float]:
    """How often a pair of a prompt is ordered as the taste has it, with the error clustered by prompt."""
    right, tasks = pairs_right(found, [[taste(text) for text in row] for row in texts])
    return {"accuracy": float(right.mean()), "error": clustered_error(right, tasks), "pairs": len(right)}


def within_prompt_correlation(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """The correlation of two numbers of a response after the mean of its prompt was taken from both."""
    a, b = (np.array(rows, float) for rows in (one, other))
    return float(np.corrcoef((a - a.mean(1, keepdims=True)).ravel(), (b - b.mean(1, keepdims=True)).ravel())[0, 1])


def best_of(root: Path, taste: str, seed: int) -> Result:
    """The best of BEST_OF responses of the SFT model by the reward model, against its first one."""
    sft = result_of(root, "sft")
    reward = result_of(root, f"reward/{taste}/12000-{seed}")
    asked = prompts_of(root, "evaluation")
    repeated = [prompt for prompt in asked for _ in range(BEST_OF)]
    found = np.array(policies.scores(Path(reward["checkpoint"]), repeated, sft["more"])).reshape(-1, BEST_OF)
    texts = [sft["more"][place * BEST_OF + best] for place, best in enumerate(found.argmax(1))]
    return {"gold": {taste: against_sft(texts, sft["baseline"], TASTES[taste])}, "texts": texts}


def against_sft(texts: Sequence[str], baseline: dict, taste: Taste) -> dict[str, object]:
    """Gold numbers of these responses against the SFT model's to the same prompts."""
    new, old = [taste(text) for text in texts], [taste(text) for text in baseline["texts"]]
    lengths = [[len(words_of(text)) for text in side] for side in (texts, baseline["texts"])]
    return {
        **asdict(win_rate(new, old)),
        "mean": fmean(new),
        "worth": new,
        "within_length": policies.within_length(new, lengths[0], old, lengths[1]),
        "word_ratio": fmean(lengths[0]) / fmean(lengths[1]),
    }


def train_policy(
    root: Path,
    labels: str,
    arm: str,
    seed: int,
    judge: str,
    tastes: Sequence[str],
    options: Sequence[object],
    keep: Sequence[int],
) -> Result:
    """The last stage from the SFT model with the reward model `judge`; measured after the steps `keep` and at the end.

    The arm's checkpoint is that of the end: how many steps there are was settled before, and nothing is chosen.
    """
    folder, run = root / labels, f"{arm}-{seed}"
    reward = result_of(root, judge)
    snapshot = result_of(root, f"labels/{labels}")["snapshots"]["12000"]
    if "dpo" not in options:  # DPO learns from the rankings; PPO from prompts that nobody ranked
        snapshot = stages.snapshot_of_prompts(root / "ppo-prompts" / run / labels, pairs_of(root, "ppo"))
    for name in ("pretrain", "sft"):  # the text for PPO-ptx is found by way of the ancestors
        stages.share(stages.checkpoint(root / "model", name), folder)
    with kept_states(Workspace.at(folder).runs / run, keep):
        state = stages.run_stage(
            folder, "ppo", run, "--snapshot", snapshot, "--init", "sft", "--reference", "sft", "--reward",
            Path(reward["checkpoint"]).name, "--seed", seed, *options,
        )  # fmt: skip
    found = [measure(root, folder, run, step, labels, judge, tastes) for step in (*keep, None)]
    curve = RunFolder(Workspace.at(folder).runs / run).metrics()
    for point in found:
        logged = [line for line in curve if point["step"] is None or line["step"] <= point["step"]]
        point["logged_kl"] = logged[-1].get("kl")
    return {"points": found, "stage": state["metrics"], "curve": curve}


def measure(
    root: Path, folder: Path, run: str, step: int | None, labels: str, judge: str, tastes: Sequence[str]
) -> Result:
    """Everything about the policy of that run after `step`, or at its end."""
    from training import corpus, model, tokenizer

    path = stages.checkpoint(folder, run)
    words, policy = tokenizer.load(path), model.load_policy(path).eval()
    if step is not None:
        load_kept(policy, Workspace.at(folder).runs / run, step)
    reference = model.load_policy(sft_of(root)).eval()
    asked, sft = prompts_of(root, "evaluation"), result_of(root, "sft")["baseline"]
    said = policies.speak(policy, words, asked, place="policy", reference=reference)
    return {
        "step": step,
        "gold": {taste: against_sft(said.texts, sft, TASTES[taste]) for taste in tastes},
        "proxy": in_units(result_of(root, judge), asked, said.texts),
        "second": second_opinion(root, labels, asked, said.texts),
        "kl": said.kl,
        "length_ratio": fmean(said.lengths) / fmean(sft["lengths"]),
        "ended": fmean(said.ended),
        "distinct_2": policies.distinct_2(said.texts),
        "unique": len(set(said.texts)) / len(said.texts),
        "perplexity": policies.perplexity(
            policy, words, corpus.heldout_texts(sft_of(root), Workspace.at(root / "model").checkpoints)
        ),
        "texts": said.texts,
    }


def in_units(reward: Result, asked: Sequence[str], texts: Sequence[str]) -> float:
    """The mean score, where the SFT model's own responses have mean 0 and standard deviation 1."""
    mean, std = reward["unit"]
    return (fmean(policies.scores(Path(reward["checkpoint"]), asked, texts)) - mean) / std


def second_opinion(root: Path, labels: str, asked: Sequence[str], texts: Sequence[str]) -> float | None:
    """The same by a reward model trained on other labels of the same taste; None for labels of no taste."""
    if labels not in TASTES:
        return None
    return in_units(result_of(root, f"reward/{labels}-flips/3000-0"), asked, texts)


@contextmanager
def kept_states(run: Path, steps: Sequence[int]) -> Iterator[None]:
    """Meanwhile, copies of the policy at these steps are kept: a stage removes its states when it ends."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            for step in steps:
                keep_state(run, step)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def kept_path(run: Path, step: int) -> Path:
    return run / "kept" / f"policy-{step:08d}.safetensors"


def keep_state(run: Path, step: int) -> None:
    """Copy the policy's weights of that step, if its state is there and they are not kept yet."""
    state, kept = run / "states" / f"step-{step:08d}" / "policy.safetensors", kept_path(run, step)
    if state.exists() and not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        partial = kept.with_suffix(".partial")
        try:
            partial.write_bytes(state.read_bytes())
        except FileNotFoundError:  # removed between the two
            return
        partial.rename(kept)


def load_kept(policy: object, run: Path, step: int) -> None:
    from safetensors.torch import load_model

    load_model(policy, str(kept_path(run, step)))


def optimise_too_far(root: Path, taste: str, options: Sequence[object], keep: Sequence[int]) -> Result:
    """A long run at a KL coefficient of 0 against a reward model of 3,000 comparisons, one in four turned around.

    After each of the steps `keep` the policy is also shown to the stage `evaluate`, with a reward model trained on the
    human-like labels as its second judge; what it warns of or objects to is the alarm.
    """
    labels, judge, run = f"{taste}-flips", f"reward/{taste}-flips/3000-0", "long-0"
    found = train_policy(root, labels, "long", 0, judge, sorted(TASTES), options, keep)
    folder, second = root / labels, Path(result_of(root, f"reward/{taste}/12000-0")["checkpoint"])
    stages.share(second, folder)
    snapshot = stages.snapshot_of_prompts(root / f"evaluation-{taste}", (), pairs_of(root, "evaluation"))
    for point in found["points"]:
        policy = run if point["step"] is None else save_kept(folder, run, point["step"])
        state = stages.run_stage(
            folder, "evaluate", f"evaluate-{policy}", "--preset", "tiny", "--snapshot", snapshot, "--policy", policy,
            "--parent", "sft", "--reward", Path(result_of(root, judge)["checkpoint"]).name, "--judge", second.name,
            "--samples", 2, "--temperature", 1.0, "--max-new-tokens", policies.LONGEST, "--max-tax", 1.0,
        )  # fmt: skip
        point["alarm"] = bool(state["metrics"]["warning"]) or state["verdict"] == "rejected"
        point["reason"] = state["reason"]
    return found


def save_kept(folder: Path, run: str, step: int) -> str:
    """The policy after that step as a checkpoint of its own; returns its id."""
    from training import checkpoints, model, tokenizer

    end, name = stages.checkpoint(folder, run), f"{run}-step-{step}"
    policy, made = model.load_policy(end), checkpoints.read_manifest(end)
    load_kept(policy, Workspace.at(folder).runs / run, step)
    checkpoints.save(
        Workspace.at(folder).checkpoints, name, stage="ppo", parents=made["parents"], snapshot=made["snapshot"],
        model=policy, tokenizer=tokenizer.load(end), config=made["config"], metrics={}, seed=made["seed"],
    )  # fmt: skip
    return name
