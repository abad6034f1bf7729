"""The two doors of Pawl for Python: a snapshot by its name, and a workspace to read from.

    from data import load_snapshot, open_workspace

Reads   snapshots/, feedback.duckdb or, when an app owns that, the app over HTTP
Writes  nothing
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from data.errors import NotFound
from data.reading import Readable
from data.records import Checkpoint, Split
from data.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

    from data.archive import Archive
    from data.client import Client
    from data.snapshots import Snapshot


class StoreCounts(TypedDict):
    """How much a store holds now."""

    prompts: int
    prompts_heldout: int
    demonstrations: int
    demonstrations_trainable: int  # of train prompts
    rankings: int
    rankings_trainable: int  # of train prompts, with a pair in them that is not a tie
    labelers: int  # who gave any of them


def load_snapshot(path_or_hash: str | Path, workspace: str | Path | None = None, *, verify: bool = True) -> Snapshot:
    """The snapshot in this folder, or the one of a workspace whose hash begins so.

    The workspace is the one given, else $PAWL_WORKSPACE, else ./var. Unless `verify` is False, every row is hashed
    again. Raises NotFound, InvalidInput when several hashes begin so, DamagedSnapshot when rows were edited.
    """
    from data import snapshots  # pyarrow

    path = Path(path_or_hash)
    if not (path / "manifest.json").exists() and snapshots.NAME.fullmatch(str(path_or_hash)):
        path = snapshots.named(Workspace.existing(workspace).snapshots, str(path_or_hash)).path
    return snapshots.load(path) if verify else snapshots.unverified(path)


def open_workspace(path: str | Path | None = None) -> OpenWorkspace:
    """The workspace at `path`, else $PAWL_WORKSPACE, else ./var, to be read. Raises NotFound when there is none."""
    return OpenWorkspace(Workspace.existing(path))


class OpenWorkspace(Readable):
    """What a workspace holds now: the labels that stand, each in its latest revision; snapshots and checkpoints.

    While no app owns the store, it is opened for each read and let go after it, and no app can start meanwhile; a
    `with` block keeps it open in between. When an app owns it, the app is asked. Raises WorkspaceInUse when another
    process has the store and is no app.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.path = workspace.root
        self._workspace = workspace
        self._lock = threading.Lock()
        self._readers = 0
        self._owner = ExitStack()
        self._feedback: Archive | Client | None = None

    def __enter__(self) -> OpenWorkspace:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def snapshots(self) -> list[Snapshot]:
        """Its snapshots, oldest first; `load_snapshot` hashes one again, this does not."""
        from data.snapshots import listing

        return listing(self._workspace.snapshots)

    def snapshot(self, name: str) -> Snapshot:
        """The snapshot whose hash begins so, as `load_snapshot` gives it."""
        return load_snapshot(name, self.path)

    def checkpoints(self) -> list[Checkpoint]:
        """Every checkpoint with its present standing, oldest first."""
        with self._reading() as feedback:
            return feedback.checkpoints()

    def counts(self) -> StoreCounts:
        """How many prompts and labels stand."""
        from data.client import Client
        from data.counts import label_counts

        with self._reading() as feedback:
            if isinstance(feedback, Client):
                found = feedback.stats()
            else:
                with feedback.moment() as moment:
                    found = label_counts(moment)
        prompts, labels = found["prompts"], found["labels"]
        return {
            "prompts": prompts["train"] + prompts["heldout"],
            "prompts_heldout": prompts["heldout"],
            "demonstrations": labels["demonstrations"],
            "demonstrations_trainable": labels["demonstrations_trainable"],
            "rankings": labels["rankings"],
            "rankings_trainable": labels["rankings_trainable"],
            "labelers": len(found["labelers"]),
        }

    def read(self, kind: str, split: Split | None = None) -> Iterator[pa.RecordBatch]:
        """Rows of a kind of data.columns.SCHEMAS, of one moment."""
        import pyarrow.compute as pc

        from data.client import Client

        with self._reading() as feedback:
            batches = feedback.export_batches(kind) if isinstance(feedback, Client) else feedback.batches(kind)
            for batch in batches:
                chosen = batch if split is None else batch.filter(pc.equal(batch.column("split"), split))
                if len(chosen):
                    yield chosen

    @contextmanager
    def _reading(self) -> Iterator[Archive | Client]:
        feedback = self._open()
        try:
            yield feedback
        finally:
            self._close()

    def _open(self) -> Archive | Client:
        """The store, opened for the first of several readers."""
        from data.owner import open_to_read

        with self._lock:
            if self._feedback is None:
                if not self._workspace.database.exists():
                    raise NotFound(f"There is no store in {self.path}: no feedback.duckdb. Its snapshots can be read.")
                self._feedback = self._owner.enter_context(open_to_read(self._workspace))
            self._readers += 1
            return self._feedback

    def _close(self) -> None:
        """Let the store go after the last of them."""
        with self._lock:
            self._readers -= 1
            if not self._readers:
                self._feedback = None
                self._owner.close()
