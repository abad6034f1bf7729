"""The app over a store in memory, with one person of each role."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from starlette.testclient import TestClient

from annotate.app import create_app
from annotate.auth import Auth
from annotate.context import Context
from annotate.cycles import Cycles
from annotate.sampler import Sampler
from annotate.talks import Talks
from data.batches import Batch, BatchRow
from data.records import ROLES, Message, NewPrompt, NewResponse
from data.store import Store
from data.workspace import Workspace

OWNER_TOKEN = "the-owner-token"
# behaves towards the app as a training cycle does: takes a run, writes how it stands, ends at SIGTERM
CYCLE = """
import os, signal, sys, time
from pathlib import Path
from data.runs import RunFolder
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
run = RunFolder(Path(arguments["--workspace"]) / "runs" / (arguments.get("--run") or arguments["--resume"]))
def stop(number, frame):
    run.update(state="cancelled", error="Stopped.")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("the cycle's own words", "resumed" if "--resume" in arguments else "begun", os.getpriority(os.PRIO_PROCESS, 0))
run.claim(state="running", stage="sft", progress=0.25)
"""
SLEEPS = CYCLE + "time.sleep(60)\n"
CRASHES = CYCLE + "raise MemoryError('out of memory, it said')\n"
PROMOTES = (
    CYCLE + "run.update(state='promoted', progress=1.0, checkpoint='ppo-0001', verdict='better', metrics={'kl': 2.5})\n"
)


@dataclass
class World:
    """The app without its pages, and what a test needs to talk to it."""

    store: Store
    workspace: Workspace
    context: Context
    client: TestClient
    tokens: dict[str, str]  # by role, and "owner"

    def call(self, method: str, path: str, role: str | None = None, **options) -> httpx.Response:
        """A request to /api/v1 by the person who has this role."""
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        return self.client.request(method, f"/api/v1{path}", headers=headers | options.pop("headers", {}), **options)

    def ranking_task(self, k: int = 3, overlap: int = 1, prompt: str = "What is a pawl?") -> str:
        """A new ranking task with responses "response 0", "response 1", ...; its id."""
        [prompt_id] = self.store.add_prompts([NewPrompt((Message("user", prompt),), split="train")])
        responses = [NewResponse(f"response {i}", "ppo-0001") for i in range(k)]
        return self.store.add_ranking_task(prompt_id, responses, overlap)


@contextmanager
def _world(folder: Path, **sampler: object) -> Iterator[World]:
    workspace = Workspace.at(folder)
    with Store(None) as store:
        auth = Auth(store, OWNER_TOKEN)
        tokens = {role: auth.add_user(role, role)[1] for role in ROLES} | {"owner": OWNER_TOKEN}
        cycles = Cycles(workspace, store, command=[sys.executable, "-c", SLEEPS])
        store.project.set_guideline("Rank them.", "researcher")
        talks = Talks(store, Sampler(workspace, store, **sampler))
        context = Context(store, workspace, cycles, auth, talks)
        with TestClient(create_app(context, pages=False), raise_server_exceptions=False) as client:
            yield World(store, workspace, context, client, tokens)
        cycles.stop()


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    with _world(tmp_path) as world:
        yield world


@pytest.fixture
def world_where(tmp_path):
    """A world whose sampler has these options: `with world_where(url=...) as world`."""
    return lambda **sampler: _world(tmp_path, **sampler)


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory) -> Iterator[World]:
    """One world for all tests of a file that leave it as they found it."""
    with _world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def cycle_commands() -> SimpleNamespace:
    """Programs that behave as a training cycle does, each in its own way."""
    return SimpleNamespace(
        sleeps=[sys.executable, "-c", SLEEPS],
        crashes=[sys.executable, "-c", CRASHES],
        promotes=[sys.executable, "-c", PROMOTES],
    )


@pytest.fixture
def add_ranking_tasks():
    """Adds many tasks of four responses in one go, to a workspace on which no app runs; their ids."""
    return _add_ranking_tasks


def _add_ranking_tasks(folder: Path, count: int, overlap: int) -> list[str]:
    with Store(Workspace.at(folder).database) as store:
        prompts = [NewPrompt((Message("user", f"Question {i}?"),), split="train") for i in range(count)]
        responses = tuple(NewResponse("word " * (n + 1), "test") for n in range(4))
        rows = tuple(BatchRow(prompt, responses) for prompt in store.add_prompts(prompts))
        return store.add_batch(Batch("sample-0001", "sft-0001", rows), overlap)
