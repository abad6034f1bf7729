"""Opening the one DuckDB file, so that exactly one store owns it.

DuckDB refuses a second process by a lock on the file, but gives a second opener in the same process the same
database; the register here refuses that one. The lock is dropped when anything in this process opens and closes the
file by other means, so nothing ever does: backups go through SQL.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from data.errors import StoreFailed, WorkspaceInUse
from data.schema import migrate

CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 2,  # exports must leave room for the labelers' requests
    "memory_limit": "2GB",  # what is larger goes to temporary files beside the database
    "autoinstall_known_extensions": False,  # never reach for the network
    "autoload_known_extensions": False,
}

_owned: set[Path] = set()
_register = threading.Lock()


@dataclass(slots=True)
class Database:
    """An open database that this process owns; `lock` guards the making of cursors."""

    connection: duckdb.DuckDBPyConnection
    path: Path | None
    lock: threading.Lock

    def close(self) -> None:
        """Let the file go."""
        with self.lock:
            self.connection.close()
        if self.path is not None:
            with _register:
                _owned.discard(self.path)


def open_database(path: Path | None) -> Database:
    """Open and migrate the file, or a database in memory. Raises WorkspaceInUse or StoreFailed."""
    if path is None:
        return _opened(None)
    path = path.resolve()
    with _register:
        if path in _owned:
            raise in_use(path)
        _owned.add(path)
    try:
        return _opened(path)
    except BaseException:
        with _register:
            _owned.discard(path)
        raise


def _opened(path: Path | None) -> Database:
    try:
        connection = duckdb.connect(str(path) if path else ":memory:", config=CONFIG)
    except duckdb.IOException as error:
        if path is not None and "lock" in str(error):  # DuckDB has one class for a held lock and a missing folder
            raise in_use(path) from error
        raise StoreFailed(f"The store {path} cannot be opened: {error}") from error
    except duckdb.Error as error:
        raise StoreFailed(
            f"The store {path} cannot be opened: {error}. Nothing was changed. Restore the file, with its .wal beside "
            "it, from a backup, and start again."
        ) from error
    try:
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        migrate(connection)
    except duckdb.Error as error:
        connection.close()
        raise StoreFailed(f"The store {path} cannot be brought up to date: {error}. Nothing was changed.") from error
    except BaseException:
        connection.close()
        raise
    return Database(connection, path, threading.Lock())


def in_use(path: Path) -> WorkspaceInUse:
    """The refusal of a second owner; it names the first one's address where server.json beside the file tells."""
    try:
        server = json.loads((path.parent / "server.json").read_text())
        where = f"by the app at {server['url']} (process {server['pid']})"
    except (OSError, ValueError, KeyError, TypeError):  # not an app, or one that is only just starting
        where = "by another process"
    return WorkspaceInUse(f"The store {path} is in use {where}. Nothing was changed; use that one, or stop it first.")


@contextmanager
def cursor_of(database: Database) -> Iterator[duckdb.DuckDBPyConnection]:
    """A cursor for one reader in one thread, closed (and its transaction ended) afterwards."""
    with database.lock:
        cursor = database.connection.cursor()
    try:
        yield cursor
    finally:
        cursor.close()
