"""Which task next: slots, leases and overlap of one kind of task, in memory.

Reads nothing and writes nothing: the store replays its tables into a queue at start, and every later change goes
through the same methods, so a queue says after a restart what it said before.

A task has `overlap` slots; each is taken by a label or a live lease. A labeler who has labeled, skipped or leases a
task is not offered it. A task that three people skipped rests until it is returned. Picking takes O(log n), amortised:
tasks that nobody has touched wait in one heap shared by all; those that somebody has begun reach each labeler's own
heap through a log which each reads from where they stopped.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

RESTS_AFTER = 3  # skips


@dataclass(frozen=True, slots=True)
class Lease:
    """A labeler's hold on one slot of a task, until it expires."""

    task_id: str
    labeler: str
    token: str
    expires_at: datetime


_Place = tuple[int, int, int, str]  # of a task in a heap; the id is last
_NO_LEASES: Mapping[str, Lease] = MappingProxyType({})  # one for all the tasks that nobody holds


@dataclass(slots=True, eq=False)
class _Task:
    id: str
    priority: int
    number: int
    overlap: int
    labels: int = 0
    leases: Mapping[str, Lease] = field(default_factory=lambda: _NO_LEASES)  # by labeler
    finished_with: tuple[str, ...] = ()  # labelers who labeled or skipped it
    fresh: bool = True  # nobody has touched it yet
    retired: bool = False
    reserved_for: str | None = None
    skips: int = 0
    forgiven: int = 0  # skips that no longer count

    @property
    def resting(self) -> bool:
        return self.skips - self.forgiven >= RESTS_AFTER

    @property
    def free(self) -> bool:
        return not self.retired and not self.resting and self.labels + len(self.leases) < self.overlap

    @property
    def begun(self) -> bool:
        return bool(self.labels or self.leases)

    @property
    def untouched(self) -> bool:
        return self.fresh and not self.retired

    def open_to(self, labeler: str) -> bool:
        mine = self.reserved_for in (None, labeler)
        return mine and self.free and labeler not in self.leases and labeler not in self.finished_with

    def release(self, labeler: str) -> None:
        if labeler in self.leases:
            self.leases = {name: lease for name, lease in self.leases.items() if name != labeler} or _NO_LEASES

    @property
    def place(self) -> _Place:
        """Smallest first: the highest priority, then tasks that are begun, then the oldest."""
        return (-self.priority, 0 if self.begun else 1, self.number, self.id)


@dataclass(slots=True)
class _View:
    """The begun tasks that one labeler may still be offered, and how far they have read the log."""

    epoch: int
    read: int = 0
    heap: list[_Place] = field(default_factory=list)


class Queue:
    """Every task of one kind. Not safe for several threads: the writer alone calls it."""

    def __init__(self) -> None:
        self._tasks: dict[str, _Task] = {}
        self._fresh: list[_Place] = []
        self._log: list[_Task] = []  # tasks that were begun or got a slot back, in that order
        self._epoch = 0  # how often the log was made anew
        self._longest_log = 1_000
        self._views: dict[str, _View] = {}
        self._expiry: list[tuple[datetime, int, Lease]] = []
        self._leases = 0  # breaks ties in _expiry
        self._resting: dict[str, None] = {}
        self._begun_by: dict[str, dict[str, None]] = {}  # what each labeler leased and has not finished, oldest first

    def add(self, task_id: str, *, priority: int, number: int, overlap: int, reserved_for: str | None = None) -> None:
        """A new task. `number` rises with age and is unique; overlap 0 is never offered.

        One that is reserved for a labeler is theirs by the lease that comes with it, and is picked for nobody else.
        """
        self._tasks[task_id] = _Task(task_id, priority, number, overlap, reserved_for=reserved_for)
        if overlap and reserved_for is None:
            heapq.heappush(self._fresh, (-priority, 1, number, task_id))

    def tidy(self) -> None:
        """Drop what a rebuild left behind of begun tasks, at once: else the first labeler after a start would wait."""
        self._fresh = [place for place in self._fresh if self._tasks[place[-1]].untouched]
        heapq.heapify(self._fresh)

    def lease(self, lease: Lease) -> None:
        """Take a slot, or renew the hold on it."""
        task = self._tasks[lease.task_id]
        if lease.labeler in task.finished_with:
            return  # replayed after the label that used it up
        begun = task.begun
        self._hold(task, lease)
        if not begun:
            self._offer(task)

    def label(self, task_id: str, labeler: str) -> None:
        """The labeler's lease becomes a label."""
        task = self._tasks[task_id]
        begun = task.begun
        task.labels += 1
        self._finish(task, labeler)
        if not begun:
            self._offer(task)

    def undo(self, lease: Lease) -> None:
        """The labeler takes their label back and holds its slot again."""
        task = self._tasks[lease.task_id]
        task.labels -= 1
        task.finished_with = tuple(name for name in task.finished_with if name != lease.labeler)
        self._hold(task, lease)

    def skip(self, task_id: str, labeler: str) -> None:
        """The labeler gives the slot back, for good."""
        task = self._tasks[task_id]
        task.skips += 1
        if task.resting:
            self._resting[task_id] = None
        self._finish(task, labeler)
        self._offer(task)

    def give_back(self, task_id: str, skips: int) -> None:
        """A resting task is offered again: its first `skips` skips no longer count."""
        task = self._tasks[task_id]
        task.forgiven = skips
        if not task.resting:
            self._resting.pop(task_id, None)
        self._offer(task)

    def withdraw(self, task_id: str, labeler: str) -> None:
        """The labeler's label no longer counts: its slot is free for others."""
        task = self._tasks[task_id]
        task.labels -= 1
        self._offer(task)

    def retire(self, task_id: str) -> None:
        """Offer the task to nobody any more."""
        self._tasks[task_id].retired = True
        self._resting.pop(task_id, None)

    def lease_on(self, task_id: str, labeler: str) -> Lease | None:
        """The labeler's hold on the task, expired or not; None when there is none."""
        return self._tasks[task_id].leases.get(labeler)

    def held(self, labeler: str, now: datetime, after: str | None = None) -> Lease | None:
        """The lease that the labeler has open now, the oldest of several; that on the task `after` left aside."""
        for task_id in self._begun_by.get(labeler, ()):
            lease = self._tasks[task_id].leases.get(labeler)
            if lease and lease.expires_at > now and task_id != after:
                return lease
        return None

    def skips(self, task_id: str) -> int:
        """How often the task was skipped, ever."""
        return self._tasks[task_id].skips

    def pick(self, labeler: str, now: datetime) -> str | None:
        """The task to offer this labeler, who holds none; None when nothing is left for them.

        One whose lease they let expire comes first, while it has a slot: its draft may still be on their screen.
        """
        self._expire(now)
        begun = self._begun_by.get(labeler, {})
        for lapsed in [id for id in begun if labeler not in self._tasks[id].leases]:
            if self._tasks[lapsed].open_to(labeler):
                return lapsed
            del begun[lapsed]  # others have its slots by now
        heap = self._read_log(labeler)
        while heap:
            task = self._tasks[heap[0][-1]]
            if not task.open_to(labeler):
                heapq.heappop(heap)
            elif task.place > heap[0]:  # begun no more since it was put here
                heapq.heapreplace(heap, task.place)
            else:
                break
        while self._fresh and not self._tasks[self._fresh[0][-1]].untouched:
            heapq.heappop(self._fresh)
        tops = [heap[0] for heap in (heap, self._fresh) if heap]
        return min(tops)[-1] if tops else None

    def resting(self) -> list[str]:
        """The tasks that so many people skipped that they wait for a researcher, in that order."""
        return list(self._resting)

    def is_resting(self, task_id: str) -> bool:
        """Whether so many people skipped the task that it waits for a researcher."""
        return self._tasks[task_id].resting

    def is_retired(self, task_id: str) -> bool:
        """Whether the task is offered to nobody any more."""
        return self._tasks[task_id].retired

    def is_open(self, task_id: str) -> bool:
        """Whether the task still wants labels."""
        task = self._tasks[task_id]
        return not task.retired and task.labels < task.overlap

    def states(self) -> Iterator[tuple[str, str]]:
        """Every task's id with its state: open, done, resting, or retired before it was done."""
        for task in list(self._tasks.values()):
            if task.labels >= task.overlap:
                yield task.id, "done"
            else:
                yield task.id, "retired" if task.retired else "resting" if task.resting else "open"

    def _hold(self, task: _Task, lease: Lease) -> None:
        self._begun_by.setdefault(lease.labeler, {}).setdefault(task.id)
        task.leases = {**task.leases, lease.labeler: lease}
        self._leases += 1
        heapq.heappush(self._expiry, (lease.expires_at, self._leases, lease))

    def _finish(self, task: _Task, labeler: str) -> None:
        task.release(labeler)
        self._begun_by.get(labeler, {}).pop(task.id, None)
        if labeler not in task.finished_with:
            task.finished_with += (labeler,)

    def _offer(self, task: _Task) -> None:
        """Tell every labeler of a task that was just begun, or that got a slot back. Its older entries stay in the
        heaps until they come up, and are dropped then."""
        task.fresh = False
        if not task.free:
            return
        if len(self._log) >= self._longest_log:
            self._renew_log()
        self._log.append(task)

    def _renew_log(self) -> None:
        """Keep only what can still be offered, so that a labeler who comes late has little to read."""
        self._log = [task for task in dict.fromkeys(self._log) if task.free]
        self._epoch += 1
        self._longest_log = max(1_000, 2 * len(self._log))

    def _read_log(self, labeler: str) -> list[_Place]:
        view = self._views.get(labeler)
        if view is None or view.epoch != self._epoch:
            view = self._views[labeler] = _View(self._epoch)
        for task in self._log[view.read :]:
            if task.open_to(labeler):
                heapq.heappush(view.heap, task.place)
        view.read = len(self._log)
        return view.heap

    def _expire(self, now: datetime) -> None:
        """Free the slots whose leases have run out."""
        while self._expiry and self._expiry[0][0] <= now:
            lease = heapq.heappop(self._expiry)[2]
            task = self._tasks[lease.task_id]
            if task.leases.get(lease.labeler) is lease:  # not renewed, labeled or skipped since
                task.release(lease.labeler)
                self._offer(task)
