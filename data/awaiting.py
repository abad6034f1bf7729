"""The two verbs that all labelers wait for at once, awaited on an event loop: no thread is held while the writer works.

`store.awaiting` is one `Awaiting`. Its verbs promise and raise what the store's do.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from data.records import Assignment, DemonstrationAnswer, RankingAnswer, Receipt, TaskKind

if TYPE_CHECKING:
    from data.store import Store
    from data.writer import Decide

T = TypeVar("T")


class Awaiting:
    """See the module."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def next_task(self, labeler: str, kind: TaskKind, after: str | None = None) -> Assignment | None:
        """`Store.next_task`."""
        store = self._store
        lease = await self._written(store._claim(labeler, kind, after))
        if lease is None:
            return None
        if store._texts.held(lease.task_id) is None:
            await asyncio.to_thread(store._texts.of, lease.task_id)
        return store._assignment(lease.task_id, lease.labeler, lease.token, lease.expires_at)

    async def submit(
        self,
        labeler: str,
        task_id: str,
        lease: str,
        answer: RankingAnswer | DemonstrationAnswer,
        *,
        guideline: str,
        client_at: datetime | None = None,
    ) -> Receipt:
        """`Store.submit_ranking` or `Store.submit_demonstration`, as the answer is one or the other."""
        return await self._written(self._store._submission(labeler, task_id, lease, answer, guideline, client_at))

    async def _written(self, decide: Decide[T]) -> T:
        return await asyncio.wrap_future(self._store._writer.hand_in(decide))
