"""A microscopic model, a tokenizer made on the spot, and a workspace with a snapshot: nothing is downloaded."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data import snapshots
from data.records import Message, prompt_id_of
from data.runs import RunFolder
from data.snapshots import Snapshot
from data.workspace import Workspace
from training import checkpoints
from training import tokenizer as tokenizers
from training.model import Shape, new_policy, scalar_from_policy

ROOT = Path(__file__).parents[2]
PRELOADED = ["training.__main__", "training.cycle", "training.ppo", "training.pretrain", "training.reward"]
PRELOADED += ["training.sft", "training.trainer", "trl.trainer.sft_trainer"]
BEGIN = """
import os, sys
os.environ.update(environment)
file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(file, 1), os.dup2(file, 2)
sys.argv[1:] = arguments
exec(code)
"""
NOW = "2026-01-02T03:04:05+00:00"
MICRO = Shape(hidden=16, layers=2, heads=4, kv_heads=2, intermediate=32, positions=128)
WORDS = (
    "The cat sat on the mat and the dog ran to the door. What do cats eat? Cats eat fish and drink water. "
    "How do I open a file? Open it with a with statement, so that it is closed at the end. "
)


def prompt_row(text: str, split: str = "train") -> dict:
    """A prompt of one user's turn, as a snapshot holds it."""
    return {
        "prompt_id": prompt_id_of((Message("user", text),)),
        "messages": [{"role": "user", "content": text}],
        "tags": [],
        "split": split,
        "source": "test",
        "created_at": NOW,
    }


def demonstration_row(number: int, text: str, response: str, split: str = "train") -> dict:
    """A demonstration of that prompt, as a snapshot holds it."""
    prompt = prompt_row(text, split)
    return {
        "label_id": f"d-{number}",
        "revision": 1,
        "task_id": None,
        "prompt_id": prompt["prompt_id"],
        "prompt": prompt["messages"],
        "response": response,
        "labeler": "labeler-1",
        "source": "test",
        "created_at": NOW,
        "seconds": 1.0,
        "split": split,
        "guideline": "",
    }


def ranking_row(number: int, text: str, responses: list[str], ranks: list[int | None], split: str = "train") -> dict:
    """A ranking of responses to that prompt, as a snapshot holds it."""
    prompt = prompt_row(text, split)
    ids = [f"r-{number}-{i}" for i in range(len(responses))]
    return {
        "label_id": f"k-{number}",
        "revision": 1,
        "task_id": f"t-{number}",
        "prompt_id": prompt["prompt_id"],
        "prompt": prompt["messages"],
        "responses": [{"id": i, "text": t, "source": "sft-0001"} for i, t in zip(ids, responses, strict=True)],
        "ranks": ranks,
        "labeler": "labeler-1",
        "created_at": NOW,
        "seconds": 1.0,
        "display_order": ids,
        "split": split,
        "unrankable": [],
        "ratings": {},
        "flags": {},
        "rewrite": None,
        "comment": "",
        "guideline": "",
    }


def freeze(workspace: Workspace, *, prompts: list[dict], demonstrations=(), rankings=()) -> Snapshot:
    """A real snapshot of these rows in the workspace."""
    return snapshots.freeze(
        workspace.snapshots, prompts=prompts, demonstrations=list(demonstrations), rankings=list(rankings)
    )


@pytest.fixture
def rows():
    """What makes rows and snapshots: `rows.prompt`, `rows.demonstration`, `rows.ranking`, `rows.freeze`."""
    return SimpleNamespace(prompt=prompt_row, demonstration=demonstration_row, ranking=ranking_row, freeze=freeze)


@pytest.fixture(scope="session")
def words():
    """A tokenizer of 300 tokens."""
    return tokenizers.train([WORDS] * 20, 300)


@pytest.fixture
def policy(words):
    """A policy of about 10,000 parameters, the same in every test."""
    torch.manual_seed(0)
    return new_policy(MICRO, words).eval()


class Preloaded:
    """Starts processes as copies of one that has loaded what the stages import, which takes a new one ten seconds."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)

    def start(
        self, code: str, arguments: Sequence[str], log: Path, environment: dict[str, str] | None = None
    ) -> BaseProcess:
        """Begin to execute the code, which finds `arguments` there. What it prints is added to `log`."""
        names = {"code": code, "arguments": [*arguments], "log": str(log), "environment": environment or {}}
        process = self._context.Process(target=exec, args=(BEGIN, names))
        process.start()
        return process

    def training(self, *arguments: str, log: Path) -> BaseProcess:
        """Begin what `python -m training ARGUMENTS` does."""
        return self.start(
            "import runpy; runpy.run_module('training', run_name='__main__', alter_sys=True)", arguments, log
        )


@pytest.fixture(scope="session")
def preloaded():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield Preloaded()


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation inside it gives out, forward and backward."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(t.numel() for t in tree_leaves(found) if isinstance(t, torch.Tensor))])
        return found


@pytest.fixture
def largest_tensor():
    """A context whose `numel` is the size of the largest tensor that was ever made inside it."""
    return Largest()


@pytest.fixture
def workspace(tmp_path):
    return Workspace.at(tmp_path / "var")


@pytest.fixture
def run(workspace):
    return RunFolder.create(workspace.runs, "sft", {"seed": 0})


@pytest.fixture
def saved_policy(workspace, policy, words) -> Path:
    """checkpoints/pretrain-0001 of that policy."""
    return checkpoints.save(
        workspace.checkpoints,
        "pretrain-0001",
        stage="pretrain",
        parents=[],
        snapshot=None,
        model=policy,
        tokenizer=words,
        config={},
        metrics={},
        seed=0,
    )


@pytest.fixture
def judge_checkpoint(workspace, saved_policy, words) -> Path:
    """checkpoints/reward-0001: a reward model with a random head."""
    torch.manual_seed(3)
    model = scalar_from_policy(saved_policy, words)
    return checkpoints.save(
        workspace.checkpoints,
        "reward-0001",
        stage="reward",
        parents=["pretrain-0001"],
        snapshot=None,
        model=model,
        tokenizer=words,
        config={},
        metrics={},
        seed=0,
    )


@pytest.fixture
def snapshot(workspace) -> Snapshot:
    """Six train prompts and two held-out ones, five demonstrations, two rankings of the first prompt."""
    questions = [f"What do {animal} eat?" for animal in ("cats", "dogs", "cows", "bees", "owls", "fish")]
    heldout = ["What do foxes eat?", "What do mice eat?"]
    return freeze(
        workspace,
        prompts=[*(prompt_row(q) for q in questions), *(prompt_row(q, "heldout") for q in heldout)],
        demonstrations=[
            *(demonstration_row(i, q, "Fish and water.") for i, q in enumerate(questions[:4])),
            demonstration_row(9, heldout[0], "The mat.", "heldout"),
        ],
        rankings=[ranking_row(i, questions[0], ["Fish.", "Water.", "The door."], [1, 2, 2]) for i in range(2)],
    )
