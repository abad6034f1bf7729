"""A store in memory with a clock that stands still, and the few moves that most tests make."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from data.records import Assignment, Message, NewPrompt, NewResponse, RankingAnswer
from data.store import Store


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 9, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    with Store(None, now=clock) as store:
        for name in ("ana", "ben", "cem"):
            store.add_user(name, "labeler")
        yield store


@pytest.fixture
def add_ranking_tasks() -> Callable[..., list[str]]:
    """add_ranking_tasks(store, 3, overlap=2): three tasks of three responses each; their ids, oldest first."""

    def add(store: Store, count: int, *, overlap: int = 1, responses: int = 3) -> list[str]:
        first = len(store.prompts())
        prompts = [NewPrompt((Message("user", f"Question {first + n}?"),), split="train") for n in range(count)]
        texts = [NewResponse(f"Response {n}.", "sft-0001", {"temperature": 0.7}) for n in range(responses)]
        return [store.add_ranking_task(id, texts, overlap) for id in store.add_prompts(prompts)]

    return add


@pytest.fixture
def in_order() -> Callable[..., RankingAnswer]:
    """in_order(assignment): the answer that ranks the responses 1, 2, 3 ... in the task's own order."""

    def answer(assignment: Assignment, **more: object) -> RankingAnswer:
        ranks = {id: rank for rank, id in enumerate(assignment.task.response_ids, 1)}
        return RankingAnswer(ranks, **more)

    return answer


@pytest.fixture
def label(in_order) -> Callable[..., tuple[str, str]]:
    """label(store, "ana"): claim the next ranking task and rank it in order; (task id, label id)."""

    def submit(store: Store, labeler: str, **more: object) -> tuple[str, str]:
        assignment = store.next_task(labeler, "ranking")
        assert assignment is not None
        answer = in_order(assignment, **more)
        receipt = store.submit_ranking(labeler, assignment.task.id, assignment.lease, answer, guideline="g1")
        return assignment.task.id, receipt.label_id

    return submit
