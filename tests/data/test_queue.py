"""The queue alone: who is offered which task, without a store."""

import random
import time
from datetime import UTC, datetime, timedelta

import pytest

from data.queue import Lease, Queue

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
PERIOD = timedelta(minutes=30)


@pytest.fixture
def queue():
    return Queue()


def add(queue: Queue, count: int, *, overlap: int = 1, priority: int = 0, first: int = 0) -> None:
    for number in range(first, first + count):
        queue.add(f"t{number}", priority=priority, number=number, overlap=overlap)


def claim(queue: Queue, labeler: str, now: datetime = START) -> str | None:
    task_id = queue.pick(labeler, now)
    if task_id is not None:
        queue.lease(Lease(task_id, labeler, f"lease of {labeler} at {now}", now + PERIOD))
    return task_id


def answer(queue: Queue, labeler: str, now: datetime = START) -> str | None:
    task_id = claim(queue, labeler, now)
    if task_id is not None:
        queue.label(task_id, labeler)
    return task_id


def test_the_oldest_task_comes_first(queue):
    add(queue, 2)

    assert [claim(queue, "ana"), claim(queue, "ben"), claim(queue, "cem")] == ["t0", "t1", None]


def test_the_highest_priority_comes_before_the_oldest(queue):
    add(queue, 1, priority=1)
    add(queue, 1, priority=2, first=1)

    assert [claim(queue, "ana"), claim(queue, "ben")] == ["t1", "t0"]


def test_a_task_that_others_have_begun_is_finished_before_a_new_one_is_begun(queue):
    add(queue, 3, overlap=2)
    claim(queue, "ana")  # t0
    queue.skip("t0", "ana")  # nobody has begun t0 any more
    assert claim(queue, "ana") == "t1"

    assert claim(queue, "ben") == "t1"  # begun by ana
    assert claim(queue, "cem") == "t0"  # t1 is full


def test_labels_and_live_leases_together_never_exceed_the_overlap(queue):
    add(queue, 1, overlap=2)

    assert answer(queue, "ana") == "t0"
    assert claim(queue, "ben") == "t0"
    assert claim(queue, "cem") is None


def test_nobody_is_offered_a_task_they_labeled_or_skipped(queue):
    add(queue, 2, overlap=3)
    answer(queue, "ana")
    claim(queue, "ana")
    queue.skip("t1", "ana")

    assert queue.pick("ana", START) is None


def test_a_lease_that_ran_out_frees_its_slot(queue):
    add(queue, 1)
    claim(queue, "ana")

    assert claim(queue, "ben", START + PERIOD - timedelta(seconds=1)) is None
    assert claim(queue, "ben", START + PERIOD) == "t0"


def test_a_renewed_lease_holds_its_slot(queue):
    add(queue, 1)
    claim(queue, "ana")
    queue.lease(Lease("t0", "ana", "the same", START + 2 * PERIOD))

    assert claim(queue, "ben", START + PERIOD) is None
    assert queue.held("ana", START + PERIOD).token == "the same"


def test_who_let_a_lease_run_out_is_offered_that_task_first(queue):
    add(queue, 1, priority=1)
    claim(queue, "ana")
    add(queue, 1, priority=2, first=1)  # of higher priority, but ana's draft is still on her screen

    assert claim(queue, "ana", START + PERIOD) == "t0"


def test_a_withdrawn_label_frees_its_slot_for_others_alone(queue):
    add(queue, 1)
    answer(queue, "ana")
    queue.withdraw("t0", "ana")

    assert claim(queue, "ana") is None
    assert claim(queue, "ben") == "t0"


def test_a_retired_task_is_offered_to_nobody(queue):
    add(queue, 2, overlap=2)
    claim(queue, "ana")
    queue.retire("t0")
    queue.retire("t1")

    assert claim(queue, "ben") is None
    assert queue.held("ana", START).task_id == "t0"  # who holds it may still answer


def test_states_tell_open_done_and_retired_apart(queue):
    add(queue, 3)
    answer(queue, "ana")
    queue.retire("t0")  # done before it was retired
    queue.retire("t1")

    assert dict(queue.states()) == {"t0": "done", "t1": "retired", "t2": "open"}


class SlowQueue:
    """The same rules, read off word by word, looking at every task each time."""

    def __init__(self) -> None:
        self.tasks = {}

    def add(self, id, priority, overlap):
        self.tasks[id] = {"priority": priority, "overlap": overlap, "labels": 0, "leases": {}, "gone": set()}
        self.tasks[id] |= {"number": len(self.tasks), "retired": False, "skips": 0}

    def pick(self, labeler, begun, now):
        for task in self.tasks.values():
            task["leases"] = {name: end for name, end in task["leases"].items() if end > now}
        open_to = {
            id: task
            for id, task in self.tasks.items()
            if not task["retired"]
            and task["skips"] < 3
            and task["labels"] + len(task["leases"]) < task["overlap"]
            and labeler not in task["gone"]
        }
        for id in [id for id in begun if labeler not in self.tasks[id]["leases"]]:
            if id in open_to:
                return id
            begun.remove(id)  # others took it over
        best = min(
            open_to.items(),
            key=lambda item: (-item[1]["priority"], not (item[1]["labels"] or item[1]["leases"]), item[1]["number"]),
            default=(None, None),
        )
        return best[0]


@pytest.mark.parametrize("seed", range(6))
def test_a_thousand_random_moves_offer_what_a_slow_reading_of_the_rules_offers(queue, seed):
    rng, slow, now = random.Random(seed), SlowQueue(), START
    labelers = [f"labeler {n}" for n in range(6)]
    begun = {name: [] for name in labelers}  # leased and not finished, oldest first
    labels = []
    for step in range(1_000):
        now += timedelta(minutes=rng.choice([0, 0, 1, 5]))
        if rng.random() < 0.15:
            priority, overlap = rng.randrange(3), rng.randint(1, 3)
            slow.add(f"t{step}", priority, overlap)
            queue.add(f"t{step}", priority=priority, number=step, overlap=overlap)
        if labels and rng.random() < 0.03:
            task_id, labeler = labels.pop(rng.randrange(len(labels)))
            queue.withdraw(task_id, labeler)
            slow.tasks[task_id]["labels"] -= 1
        if slow.tasks and rng.random() < 0.02:
            task_id = rng.choice(list(slow.tasks))
            queue.retire(task_id)
            slow.tasks[task_id]["retired"] = True
        if (resting := queue.resting()) and rng.random() < 0.1:
            queue.give_back(resting[0], queue.skips(resting[0]))
            slow.tasks[resting[0]]["skips"] = 0
        labeler = rng.choice(labelers)
        held = queue.held(labeler, now)
        if held is None:
            task_id = queue.pick(labeler, now)
            assert task_id == slow.pick(labeler, begun[labeler], now), f"step {step}"
            if task_id is not None:
                queue.lease(Lease(task_id, labeler, str(step), now + PERIOD))
                slow.tasks[task_id]["leases"][labeler] = now + PERIOD
                if task_id not in begun[labeler]:
                    begun[labeler].append(task_id)
            continue
        task = slow.tasks[held.task_id]
        if rng.random() < 0.2:
            queue.skip(held.task_id, labeler)
            task["skips"] += 1
        elif rng.random() < 0.8:
            queue.label(held.task_id, labeler)
            task["labels"] += 1
            labels.append((held.task_id, labeler))
        else:
            continue  # the lease is left to run out
        begun[labeler].remove(held.task_id)
        task["gone"].add(labeler)
        del task["leases"][labeler]


@pytest.mark.slow
def test_one_labeler_works_through_twenty_thousand_begun_tasks_without_searching(queue):
    add(queue, 20_000, overlap=3)  # each stays open for others after this labeler's label

    started = time.perf_counter()
    done = sum(answer(queue, "ana") is not None for _ in range(20_000))

    assert done == 20_000
    assert time.perf_counter() - started < 5  # a search from the front would look at 200 million tasks
    assert answer(queue, "ben") == "t0"  # who comes late still finishes the oldest begun one first
