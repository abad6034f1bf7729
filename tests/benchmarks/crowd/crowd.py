"""Many labelers at once, in a process of their own: ask for a task, think, submit, be shown the next.

Reads   a plan as JSON from standard input: kind ("pawl" or "label-studio"), url, tokens, think, submissions, project
Writes  JSON to standard output: milliseconds from submitting to the next task on the screen, who was handed what,
        how many submissions were taken, how long it all took

    python tests/benchmarks/crowd/crowd.py < plan.json
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

Json = dict[str, Any]
GRACE = 30  # seconds after the time is over, in which what was begun may end
PATIENCE = 600  # seconds for one request: a server that is slow is measured, not given up


class Pawl:
    """How a labeler works through Pawl's HTTP API."""

    def __init__(self, client: httpx.AsyncClient, token: str, plan: Json) -> None:
        self._client, self._headers = client, {"Authorization": f"Bearer {token}"}

    async def next(self) -> Json | None:
        """The next task, None when nothing is left."""
        found = await self._client.post("/api/v1/tasks/next", json={"kind": "ranking"}, headers=self._headers)
        found.raise_for_status()
        return None if found.status_code == 204 else found.json()

    async def submit(self, task: Json) -> None:
        """Rank the responses in the order that they were shown in."""
        ranks = {response["id"]: place for place, response in enumerate(task["responses"], 1)}
        answer = {"lease": task["lease"], "ranks": ranks, "seconds": 2.0}
        taken = await self._client.put(f"/api/v1/tasks/{task['task_id']}/label", json=answer, headers=self._headers)
        taken.raise_for_status()

    @staticmethod
    def id_of(task: Json) -> str:
        return task["task_id"]


class LabelStudio:
    """How an annotator works through Label Studio's REST API, as its own front end does."""

    def __init__(self, client: httpx.AsyncClient, token: str, plan: Json) -> None:
        self._client, self._headers = client, {"Authorization": f"Token {token}"}
        self._project = plan["project"]

    async def next(self) -> Json | None:
        """The next task, None when nothing is left."""
        found = await self._client.get(f"/api/projects/{self._project}/next", headers=self._headers)
        if found.status_code == 404:
            return None
        found.raise_for_status()
        return found.json()

    async def submit(self, task: Json) -> None:
        """Choose the first response."""
        choice = {"from_name": "best", "to_name": "prompt", "type": "choices", "value": {"choices": ["A"]}}
        answer = {"result": [choice], "lead_time": 2.0}
        taken = await self._client.post(f"/api/tasks/{task['id']}/annotations/", json=answer, headers=self._headers)
        taken.raise_for_status()

    @staticmethod
    def id_of(task: Json) -> str:
        return str(task["id"])


KINDS = {"pawl": Pawl, "label-studio": LabelStudio}


@dataclass
class Record:
    """What the crowd saw."""

    left: int  # tasks that may still be asked for
    milliseconds: list[float] = field(default_factory=list)  # from submitting to the next task
    handed: list[tuple[str, int]] = field(default_factory=list)  # task, labeler
    submitted: list[tuple[str, int]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    first: float = 0.0
    last: float = 0.0


async def insist(record: Record, until: float, what: Any, *given: Any) -> Any:
    """Ask until the server has an answer: one that gave up under load is asked again, and the time goes on.

    Raises httpx.HTTPError when it still gives none as the time is over.
    """
    while True:
        try:
            return await what(*given)
        except httpx.HTTPError as error:
            record.failed.append(f"{type(error).__name__}: {error}"[:200])
            refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
            if refused or time.perf_counter() > until + GRACE:
                raise
            await asyncio.sleep(0.5)


async def work_until_refused(*given: Any) -> None:
    """One labeler; one whom the server never answers gives up, which the record tells."""
    with suppress(httpx.HTTPError):
        await work(*given)


async def work(labeler: Pawl | LabelStudio, number: int, record: Record, plan: Json) -> None:
    """One labeler, until enough tasks were handed out; what they hold then they still submit."""
    draw = random.Random(number)
    await asyncio.sleep(draw.uniform(0, plan["think"]))
    record.left -= 1
    task = await insist(record, plan["until"], labeler.next)
    while task is not None:
        record.handed.append((labeler.id_of(task), number))
        await asyncio.sleep(draw.uniform(0.5, 1.5) * plan["think"])
        began = time.perf_counter()
        record.first = record.first or began
        try:
            await insist(record, plan["until"], labeler.submit, task)
            record.submitted.append((labeler.id_of(task), number))
            record.last = time.perf_counter()
            if record.left <= 0 or began > plan["until"]:
                return
            record.left -= 1
            task = await insist(record, plan["until"], labeler.next)
        except asyncio.CancelledError:  # the time is over: who still waits has waited so long at least
            record.milliseconds.append(1_000 * (time.perf_counter() - began))
            raise
        record.milliseconds.append(1_000 * (time.perf_counter() - began))


async def finish(labelers: list[Any], record: Record, overlap: int) -> None:
    """Give the tasks that were begun the labels they still want. Whoever is offered another one leaves it."""
    counts = Counter(task for task, _ in record.submitted)
    for number, labeler in enumerate(labelers):
        if all(count >= overlap for count in counts.values()):
            return
        task = await labeler.next()
        if task is None:
            continue
        record.handed.append((labeler.id_of(task), number))
        if 0 < counts[labeler.id_of(task)] < overlap:
            await labeler.submit(task)
            record.submitted.append((labeler.id_of(task), number))
            counts[labeler.id_of(task)] += 1


async def crowd(plan: Json) -> Json:
    """Let everybody work at once."""
    people = len(plan["tokens"])
    # a connection is given up before the server would close it (uvicorn after 5 s), not at the same moment
    limits = httpx.Limits(max_connections=people, max_keepalive_connections=people, keepalive_expiry=4)
    record = Record(plan["submissions"])
    plan["until"] = time.perf_counter() + plan["seconds"]
    async with httpx.AsyncClient(base_url=plan["url"], limits=limits, timeout=PATIENCE) as client:
        labelers = [KINDS[plan["kind"]](client, token, plan) for token in plan["tokens"]]
        works = [asyncio.create_task(work_until_refused(each, n, record, plan)) for n, each in enumerate(labelers)]
        done, waiting = await asyncio.wait(works, timeout=plan["seconds"] + GRACE)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for each in done:
            each.result()  # raises what a labeler of ours did wrong
        if plan["finish"]:
            await finish(labelers, record, plan["overlap"])
    return {
        "milliseconds": record.milliseconds,
        "handed": record.handed,
        "submitted": record.submitted,
        "failed": record.failed,
        "seconds": record.last - record.first,
    }


if __name__ == "__main__":
    json.dump(asyncio.run(crowd(json.load(sys.stdin))), sys.stdout)
