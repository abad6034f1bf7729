"""The child that answers labelers: a real `python -m training serve` over microscopic checkpoints."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from annotate.sampler import Sampler
from data.errors import SamplerFailed
from data.records import Checkpoint, Message
from data.store import Store
from data.workspace import Workspace

pytestmark = pytest.mark.slow
HELLO = [Message("user", "What do cats eat?")]


@pytest.fixture
def workspace(tmp_path):
    """Two checkpoints of a microscopic model, and a third that is an empty folder."""
    import torch

    from training import checkpoints, tokenizer
    from training.model import Shape, new_policy

    workspace = Workspace.at(tmp_path)
    words = tokenizer.train(["The cat sat on the mat. What do cats eat? Fish."] * 9, 290)
    for number in (1, 2):
        torch.manual_seed(number)
        policy = new_policy(Shape(hidden=16, layers=1, heads=2, kv_heads=1, intermediate=32, positions=128), words)
        made = {"stage": "ppo", "parents": [], "snapshot": None, "config": {}, "metrics": {}, "seed": 0}
        checkpoints.save(workspace.checkpoints, f"ppo-000{number}", model=policy, tokenizer=words, **made)
    (workspace.checkpoints / "ppo-0003").mkdir()
    return workspace


@contextmanager
def sampling(workspace: Workspace, **options):
    """A store, and a sampler that has no child left at the end."""
    with Store(None) as store:
        sampler = Sampler(workspace, store, **options)
        try:
            yield store, sampler
        finally:
            sampler.stop()
        assert sampler._child is None or not sampler._child.is_alive()


def promote(store: Store, id: str) -> None:
    store.add_checkpoint(Checkpoint(id, "ppo", (), None, {}, "promoted", "better", datetime.now(UTC)))


@pytest.fixture
def replies(run_alone):
    """replies(sampler, count): the replies, and who of them spoke when."""

    def ask(sampler: Sampler, count: int = 2) -> tuple[list, list[int]]:
        heard: list[int] = []
        return run_alone(sampler.replies(HELLO, count, lambda number, piece: heard.append(number))), heard

    return ask


def eventually(what) -> bool:
    deadline = time.monotonic() + 15
    while not what() and time.monotonic() < deadline:
        time.sleep(0.05)
    return what()


def test_the_child_is_started_when_needed_renewed_after_a_promotion_and_stopped_when_idle(workspace, replies):
    with sampling(workspace, idle_seconds=1.5) as (store, sampler):
        assert "no model" in sampler.why_not()
        promote(store, "ppo-0001")
        assert (sampler.why_not(), sampler.is_ready()) == (None, False)

        alone, heard = replies(sampler)
        first = sampler._child
        assert [(reply.source, reply.sampling["temperature"]) for reply in alone] == [
            ("ppo-0001", 0.8),
            ("ppo-0001", 1.0),
        ]
        assert heard != sorted(heard)  # side by side, not one after the other

        promote(store, "ppo-0002")
        assert not sampler.is_ready()
        both, _ = replies(sampler, 3)
        second = sampler._child
        assert [reply.source for reply in both] == ["ppo-0002", "ppo-0001", "ppo-0002"]
        assert eventually(lambda: not first.is_alive())
        assert second.is_alive()
        assert eventually(lambda: not second.is_alive())  # nobody talked for a while
        assert not sampler.is_ready()


def test_a_child_that_cannot_start_is_told_and_its_words_are_kept(workspace, replies):
    with sampling(workspace) as (store, sampler):
        promote(store, "ppo-0003")

        with pytest.raises(SamplerFailed, match="sampler.log"):
            replies(sampler)

        told = (workspace.root / "sampler.log").read_text()
        assert "ppo-0003" in told and "Traceback" not in told
