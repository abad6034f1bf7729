"""The one thread that changes the store: it decides each call against the live state and commits many at once.

A call hands in a function `decide(live, now)` that returns the rows to append and what to answer; it changes nothing
itself. The writer takes every call that is waiting, decides them one after another (each sees the rows of those before
it), appends all their rows in one transaction, and answers only after the commit: whoever has an answer has it on disk.

A commit that fails is rolled back and the live state is rebuilt from the tables. If the disk failed, all its callers
get StoreFailed; if it was one call's row that no table takes, the others are stored without it. When the database
itself has given up (FatalException: the disk is full amid a checkpoint), every later call fails.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

import duckdb

from data.errors import StoreFailed
from data.live import Live
from data.rows import TABLES, DraftRow, Row

T = TypeVar("T")
Decide = Callable[[Live, datetime], tuple[Sequence[Row], T]]
GROUP = 256  # calls in one commit at most
FEW = 2  # rows of a table, up to which an INSERT costs less than an appender
_Call = tuple[Decide[Any], "Future[Any]"]
_ORDER = {kind: place for place, kind in enumerate(TABLES)}


class Writer:
    """See the module. `connection` is the writer's alone from now on; `failed` hears of the end, in this thread."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        now: Callable[[], datetime],
        failed: Callable[[StoreFailed], None],
    ) -> None:
        self.live = Live.rebuilt(connection)
        self.failure: StoreFailed | None = None
        self._connection = connection
        self._now = now
        self._failed = failed
        self._waiting: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._gate = threading.Lock()  # nothing is put behind the None that ends the thread
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="store writer", daemon=True)
        self._thread.start()

    def run(self, decide: Decide[T]) -> T:
        """Decide, commit, answer. Raises what `decide` raises (nothing is stored then), or StoreFailed."""
        return self.hand_in(decide).result()

    def hand_in(self, decide: Decide[T]) -> Future[T]:
        """As `run`, but the answer, or what it would raise, is still to come. Raises StoreFailed when closed."""
        answer: Future[T] = Future()
        answer.set_running_or_notify_cancel()  # whoever gives up waiting cannot take it back
        with self._gate:
            if self._closed:
                raise StoreFailed("The store is closed. Nothing was stored; start the app again.")
            self._waiting.put((decide, answer))
        return answer

    def close(self) -> None:
        """Answer what is waiting and end the thread."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._waiting.put(None)
        if threading.current_thread() is not self._thread:  # on_failure may close the store from within
            self._thread.join()

    def fail(self, error: Exception) -> StoreFailed:
        """Mark the database as gone, tell the app once, and return what every call gets from now on."""
        with self._gate:
            first, self.failure = self.failure is None, self.failure or _gone(error)
        if first:
            self._failed(self.failure)
        return self.failure

    def _work(self) -> None:
        ended = False
        while not ended:
            calls = [self._waiting.get()]
            with suppress(queue.Empty):
                while len(calls) < GROUP:
                    calls.append(self._waiting.get_nowait())
            ended = calls[-1] is None
            self._handle([call for call in calls if call is not None])

    def _handle(self, calls: list[_Call]) -> None:
        """Decide and commit these calls together, then answer each."""
        if self.failure is not None:
            return _answer_all(calls, self.failure)
        outcomes: list[tuple[Any, Exception | None]] = []
        rows: list[Row] = []
        try:
            for decide, _ in calls:
                outcomes.append(self._decide(decide, rows))
            if rows:
                self._commit(rows)
        except Exception as error:  # whatever it was, the callers hear of it, and memory must match the disk again
            return self._recover(error, calls)
        for (_, future), (result, refusal) in zip(calls, outcomes, strict=True):
            if refusal is not None:
                future.set_exception(refusal)
            else:
                future.set_result(result)

    def _decide(self, decide: Decide[Any], rows: list[Row]) -> tuple[Any, Exception | None]:
        try:
            new, result = decide(self.live, self._now())
        except Exception as refusal:  # raised again in the caller's thread
            return None, refusal
        for row in new:
            self.live.apply(row)
        rows.extend(new)
        return result, None

    def _commit(self, rows: list[Row]) -> None:
        """Append the rows in one transaction, or none of them."""
        by_table: dict[type[Row], list[Row]] = {}
        for row in rows:
            by_table.setdefault(type(row), []).append(row)
        if len(rows) == 1 and DraftRow not in by_table:  # a statement by itself is a transaction
            return self._append(type(rows[0]), rows)
        self._connection.execute("BEGIN")
        try:
            for kind in sorted(by_table, key=_ORDER.__getitem__):
                self._append(kind, self._drafts(by_table[kind]) if kind is DraftRow else by_table[kind])
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):  # after a failed COMMIT no transaction is left to roll back
                self._connection.execute("ROLLBACK")
            raise

    def _append(self, kind: type[Row], rows: list[Row]) -> None:
        if 0 < len(rows) <= FEW:
            marks = f"({', '.join('?' * len(rows[0]))})"
            values = [value for row in rows for value in row]
            self._connection.execute(f"INSERT INTO {TABLES[kind]} VALUES {', '.join([marks] * len(rows))}", values)
        elif rows:
            appender = self._connection.appender(TABLES[kind])
            appender.append_rows(rows)
            appender.flush()

    def _drafts(self, rows: list[Row]) -> list[Row]:
        """The drafts that remain, after taking out those before them: a draft is no label, and only the last counts."""
        last = {(row.task_id, row.labeler): row for row in rows if isinstance(row, DraftRow)}
        tasks, labelers = zip(*last, strict=True)
        self._connection.execute(
            "DELETE FROM drafts WHERE (task_id, labeler) IN (SELECT unnest(?::VARCHAR[]), unnest(?::VARCHAR[]))",
            [list(tasks), list(labelers)],
        )
        return [row for row in last.values() if row.work is not None]

    def _recover(self, error: Exception, calls: list[_Call]) -> None:
        """Make memory say again what the tables say, and tell the callers that nothing of theirs was kept."""
        try:
            if isinstance(error, duckdb.FatalException):
                raise error
            self.live = Live.rebuilt(self._connection)
        except Exception as gone:  # without the tables there is nothing left to go by
            _answer_all([*calls, *self._drained()], _gone(gone))
            self.fail(gone)
            return
        if len(calls) > 1 and not isinstance(error, duckdb.TransactionException | duckdb.IOException):
            for call in calls:  # one of them is at fault: it alone must fail
                self._handle([call])
            return
        failure = StoreFailed(
            f"The database could not store this ({error}). Nothing of it was kept and everything stored before is "
            "safe. Send it again; if the disk is full, free some space first."
        )
        failure.__cause__ = error
        _answer_all(calls, failure)

    def _drained(self) -> list[_Call]:
        """The calls that wait behind the present ones."""
        calls: list[_Call] = []
        with self._gate, suppress(queue.Empty):
            while not self._closed:  # once closed, the None that ends the thread is in there and must stay
                call = self._waiting.get_nowait()
                if call is not None:
                    calls.append(call)
        return calls


def _gone(error: Exception) -> StoreFailed:
    failure = StoreFailed(
        f"The database has stopped ({error}). Everything that was acknowledged is on disk. Free some space on the "
        "disk if it is full, then start the app again; what was not acknowledged is sent again by the page."
    )
    failure.__cause__ = error
    return failure


def _answer_all(calls: list[_Call], failure: StoreFailed) -> None:
    for _, future in calls:
        answer = StoreFailed(*failure.args)  # one each: an exception raised in two threads mixes their tracebacks
        answer.__cause__ = failure.__cause__
        future.set_exception(answer)
