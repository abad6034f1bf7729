"""Where a workspace keeps what: the paths, and nothing else.

`--workspace DIR` on every command, else $PAWL_WORKSPACE, else ./var.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from data.errors import NotFound


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder that holds one project's feedback, models and runs."""

    root: Path

    @classmethod
    def at(cls, path: str | Path | None = None) -> Workspace:
        """The workspace at `path`, else $PAWL_WORKSPACE, else ./var; made if it is not there."""
        workspace = cls(_root(path))
        for folder in (workspace.snapshots, workspace.batches, workspace.checkpoints, workspace.runs):
            folder.mkdir(parents=True, exist_ok=True)
        return workspace

    @classmethod
    def existing(cls, path: str | Path | None = None) -> Workspace:
        """The same, when it is only to be read: nothing is made. Raises NotFound when there is none."""
        workspace = cls(_root(path))
        if not workspace.database.exists() and not workspace.snapshots.is_dir():
            raise NotFound(
                f"There is no workspace at {workspace.root}: neither feedback.duckdb nor snapshots/. Name its folder, "
                "or set $PAWL_WORKSPACE."
            )
        return workspace

    @property
    def database(self) -> Path:
        return self.root / "feedback.duckdb"

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def batches(self) -> Path:
        return self.root / "batches"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def server(self) -> Path:
        return self.root / "server.json"


def _root(path: str | Path | None) -> Path:
    return Path(path or os.environ.get("PAWL_WORKSPACE") or "var").resolve()
