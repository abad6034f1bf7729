"""Labelers who are served on an event loop: what they are promised, and what is read ahead for them."""

from __future__ import annotations

import asyncio

import pytest

from data.errors import Conflict, StoreFailed
from data.records import DemonstrationAnswer
from data.texts import AHEAD

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has


def test_many_labelers_on_one_event_loop_get_exactly_the_overlap_and_each_task_with_its_own_texts(
    store, add_ranking_tasks, in_order, run_alone
):
    add_ranking_tasks(store, 12, overlap=2)
    names = [f"labeler-{n}" for n in range(8)]
    for name in names:
        store.add_user(name, "labeler")

    async def work(name: str) -> list[str]:
        done = []
        while (given := await store.awaiting.next_task(name, "ranking")) is not None:
            assert given.prompt.id == given.task.prompt_id
            assert {response.id for response in given.responses} == set(given.task.response_ids)
            assert {response.prompt_id for response in given.responses} == {given.prompt.id}
            await store.awaiting.submit(name, given.task.id, given.lease, in_order(given), guideline="g1")
            done.append(given.task.id)
        return done

    async def everyone() -> list[list[str]]:
        return await asyncio.gather(*map(work, names))

    done = [id for ids in run_alone(everyone()) for id in ids]

    assert len(done) == 24  # 12 tasks, two labels each
    assert {done.count(id) for id in done} == {2}
    assert len(store.rankings()) == 24


def test_whoever_gives_up_waiting_changes_nothing_for_the_others(store, add_ranking_tasks, in_order, run_alone):
    add_ranking_tasks(store, 2)
    [prompt, _] = store.prompts()
    [asked] = store.add_demonstration_tasks([prompt.id])

    async def give_up() -> None:
        given = await store.awaiting.next_task("ana", "ranking")
        waiting = asyncio.create_task(
            store.awaiting.submit("ana", given.task.id, given.lease, in_order(given), guideline="g1")
        )
        await asyncio.sleep(0)  # it is with the writer now
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(Conflict):
            await store.awaiting.submit("ana", given.task.id, "no such lease", in_order(given), guideline="g1")
        other = await store.awaiting.next_task("ana", "demonstration")
        assert other.task.id == asked
        await store.awaiting.submit("ana", asked, other.lease, DemonstrationAnswer("A lever."), guideline="g1")

    run_alone(give_up())

    assert len(store.rankings()) == 1  # it was sent, so it is stored
    assert [demonstration.answer.response for demonstration in store.demonstrations()] == ["A lever."]


def test_the_tasks_that_follow_are_read_with_the_first(store, add_ranking_tasks):
    ids = add_ranking_tasks(store, AHEAD + 1)

    first = store.next_task("ana", "ranking")

    assert first.task.id == ids[0]
    assert [store._texts.held(id) is None for id in ids] == [False] * AHEAD + [True]
    prompt, responses = store.task_texts(ids[3])
    assert prompt.messages[0].content == "Question 3?"
    assert [response.text for response in responses] == ["Response 0.", "Response 1.", "Response 2."]


def test_after_the_store_is_closed_nothing_is_taken_in(store, run_alone):
    store.close()

    with pytest.raises(StoreFailed, match="closed"):
        run_alone(store.awaiting.next_task("ana", "ranking"))
