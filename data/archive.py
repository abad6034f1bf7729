"""The store opened only to be read from, to freeze and to export: without the live state, which takes long to rebuild.

Reads   feedback.duckdb, which it owns meanwhile, as data/store.py does; an older one is brought up to date
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from data.database import open_database
from data.errors import StoreFailed
from data.exports import Moment, moment_of
from data.records import Checkpoint

if TYPE_CHECKING:
    import pyarrow as pa

MEMORY = "512MB"  # of the database; what is larger goes to temporary files beside it


class Archive:
    """What a store holds, to be read. Raises WorkspaceInUse when it is owned already, StoreFailed when damaged."""

    def __init__(self, path: Path) -> None:
        self._database = open_database(path)
        self._database.connection.execute(f"SET memory_limit = '{MEMORY}'")
        self._scratch = path.parent

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    @contextmanager
    def moment(self) -> Iterator[Moment]:
        """As `Store.moment`."""
        try:
            with moment_of(self._database) as moment:
                yield moment
        except duckdb.Error as error:
            raise StoreFailed(f"The database could not read this ({error}). Nothing was changed; try again.") from error

    def checkpoints(self) -> list[Checkpoint]:
        """As `Store.checkpoints`."""
        with self.moment() as moment:
            return moment.checkpoints()

    def batches(self, kind: str) -> Iterator[pa.RecordBatch]:
        """As `Store.batches`."""
        with self.moment() as moment:
            yield from moment.batches(kind, scratch=self._scratch)
