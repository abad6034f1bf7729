"""The product's own way from prompts to checkpoints: its store, its snapshots, its stages.

Each workspace is a folder of the proof; checkpoints of another workspace are named by their path.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data import owner
from data.records import Message, NewPrompt
from data.runs import RunFolder
from data.store import Store
from data.workspace import Workspace
from proof.prompts import Pair


def open_store(folder: Path) -> Store:
    """The store of the workspace in this folder, made if it is not there."""
    return Store(Workspace.at(folder).database)


def add_prompts(store: Store, pairs: Iterable[Pair], split: str) -> list[str]:
    """The prompts of these pairs, on that side of the split; returns their ids."""
    return store.add_prompts([NewPrompt((Message("user", pair.prompt),), split=split) for pair in pairs])


def freeze(store: Store, folder: Path) -> Path:
    """A snapshot of what the store holds now; returns its folder."""
    return owner.freeze(store, Workspace.at(folder)).path


def snapshot_of_prompts(folder: Path, train: Sequence[Pair], heldout: Sequence[Pair] = ()) -> Path:
    """A workspace with these prompts and no labels, frozen."""
    with open_store(folder) as store:
        add_prompts(store, train, "train")
        add_prompts(store, heldout, "heldout")
        return freeze(store, folder)


def run_stage(folder: Path, stage: str, run_id: str, *options: object) -> dict:
    """`python -m training STAGE` in this process, unless the run is done; one that was cut short is resumed.

    Returns the run's state. Raises RuntimeError with the end of the run's log when the stage fails.
    """
    from training.__main__ import main

    run = RunFolder(Workspace.at(folder).runs / run_id)
    if run.state().get("state") != "done":
        begun = (run.path / "config.json").exists()
        how = ["--resume", run_id] if begun else ["--run", run_id, *map(str, options)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = main([stage, "--workspace", str(folder), *how])
        if code:
            raise RuntimeError(f"{stage} {run_id} in {folder} ended with {code}:\n{run.log_tail()}")
    return run.state()


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Meanwhile, stages take this many CPU threads."""
    before = os.environ["OMP_NUM_THREADS"]
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        os.environ["OMP_NUM_THREADS"] = before


def share(checkpoint: Path, folder: Path) -> None:
    """Make another workspace's checkpoint one of this workspace too, under its own name."""
    link = Workspace.at(folder).checkpoints / checkpoint.name
    with contextlib.suppress(FileExistsError):
        link.symlink_to(checkpoint, target_is_directory=True)


def checkpoint(folder: Path, run_id: str) -> Path:
    """Where that run's checkpoint lies."""
    return Workspace.at(folder).checkpoints / run_id
