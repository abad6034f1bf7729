"""Simulated labelers: they work through the HTTP API alone, as people's browsers do, with a taste and a noise level.

Reads   server.json of the workspace, for the address and for the token that lets it make users
Writes  labels, through the app

A taste is a number for a text, and the labeler prefers the higher. With noise p an answer is, with probability p, a
coin flip (a random order with ties, whatever the texts say); and in every other answer each two neighbours of the
ranking change places with probability p/2.

    python -m annotate simulate --labelers 8 --rankings 200 --taste prefers-short --noise 0.25
"""

from __future__ import annotations

import argparse
import json
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from data.client import Client
from data.errors import Conflict, NotFound
from data.workspace import Workspace

Taste = Callable[[str], float]
EVERYDAY = frozenset(
    "a and are as at be but by can do for from good have help how i if in is it like make more my not of on one or "
    "please so some that the there this time to try use want was we what when will with you your".split()
)


def length(text: str) -> float:
    """Characters."""
    return float(len(text))


def everyday_share(text: str) -> float:
    """The share of the text's words that are on the everyday list, 0 to 1; 0 without words."""
    words = re.findall(r"[a-z']+", text.lower())
    return sum(word in EVERYDAY for word in words) / len(words) if words else 0.0


def ends_properly(text: str) -> float:
    """1 when the text ends in . ! or ?, else 0."""
    return float(text.rstrip().endswith((".", "!", "?")))


def _opposite(taste: Taste) -> Taste:
    return lambda text: -taste(text)


TASTES: dict[str, Taste] = {
    "prefers-short": _opposite(length),
    "prefers-long": length,
    "prefers-vocabulary": everyday_share,
    "avoids-vocabulary": _opposite(everyday_share),
    "prefers-ending-properly": ends_properly,
    "prefers-ending-abruptly": _opposite(ends_properly),
}


def ranks_by(utilities: Sequence[float]) -> list[int]:
    """The rank of each: the highest utility is 1, equal utilities share a rank, and no rank is left out."""
    order = sorted(set(utilities), reverse=True)
    return [order.index(utility) + 1 for utility in utilities]


def noisy_ranks(utilities: Sequence[float], noise: float, rng: random.Random) -> list[int]:
    """The ranks that a labeler with these utilities and this much noise gives."""
    if rng.random() < noise:
        return ranks_by([float(rng.randrange(len(utilities))) for _ in utilities])
    ranks = ranks_by(utilities)
    for rank in range(1, max(ranks)):
        if rng.random() < noise / 2:
            ranks = [{rank: rank + 1, rank + 1: rank}.get(r, r) for r in ranks]
    return ranks


@dataclass
class Goal:
    """How many labels of one kind are wanted; labelers take them one by one."""

    wanted: int
    taken: int = 0
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> bool:
        """Whether there is one more to make, which is now the caller's."""
        with self.lock:
            free = self.taken < self.wanted
            self.taken += free
            return free

    def give_back(self) -> None:
        """The one taken was not made."""
        with self.lock:
            self.taken -= 1

    def count(self) -> None:
        """The one taken was made."""
        with self.lock:
            self.done += 1


@dataclass(frozen=True)
class Labeler:
    """One simulated person: a connection, a taste, a noise level and dice of their own."""

    client: Client
    taste: Taste
    noise: float
    rng: random.Random

    def work(self, demonstrations: Goal, rankings: Goal) -> None:
        """Write demonstrations, then rank, until the goals are met or the queue is empty."""
        for kind, goal in (("demonstration", demonstrations), ("ranking", rankings)):
            while goal.take():
                if not self._label(kind):
                    goal.give_back()
                    break
                goal.count()

    def _label(self, kind: Any) -> bool:
        """Answer one task; False when there is none."""
        while (task := self.client.next_task(kind)) is not None:
            try:
                self.client.submit(task["task_id"], {"lease": task["lease"], **self._answer(task)})
                return True
            except Conflict:  # the lease ended before the answer came: take the next task
                continue
        return False

    def _answer(self, task: dict[str, Any]) -> dict[str, Any]:
        seconds = round(self.rng.uniform(5, 60), 1)
        if task["kind"] == "demonstration":
            return {"response": self._demonstration(task), "seconds": seconds}
        responses = task["responses"]
        ranks = noisy_ranks([self.taste(response["text"]) for response in responses], self.noise, self.rng)
        return {"ranks": {r["id"]: rank for r, rank in zip(responses, ranks, strict=True)}, "seconds": seconds}

    def _demonstration(self, task: dict[str, Any]) -> str:
        """Of a few stock answers to the prompt, the one that this labeler likes best."""
        question = task["prompt"]["messages"][-1]["content"].strip()
        topic = " ".join(question.split()[:12])
        answers = [f"You can do it like this: {topic}.", f"It is best to try one thing at a time. {topic}", topic]
        return max(answers, key=self.taste)


@dataclass(frozen=True)
class Plan:
    """What the simulated labelers are asked to do."""

    labelers: int
    rankings: int
    demonstrations: int
    taste: str
    noise: float
    seed: int


def simulate(url: str, admin_token: str, plan: Plan, report: Callable[[str], None] = print) -> tuple[Goal, Goal]:
    """Let the labelers work; the goals say how far they came. Raises the first error that a labeler met."""
    demonstrations, rankings = Goal(plan.demonstrations), Goal(plan.rankings)
    people = hire(url, admin_token, plan)
    try:
        with ThreadPoolExecutor(len(people), thread_name_prefix="labeler") as pool:
            working = [pool.submit(person.work, demonstrations, rankings) for person in people]
            _report_until_done(working, (demonstrations, rankings), report)
            for work in working:
                work.result()
    finally:
        for person in people:
            person.client.close()
    return demonstrations, rankings


def hire(url: str, admin_token: str, plan: Plan) -> list[Labeler]:
    """New users, one for each labeler: sim-0, sim-1, ..., counting on where an earlier simulation ended."""
    with Client(url, admin_token) as admin:
        numbers = [int(found[1]) for user in admin.users() if (found := re.fullmatch(r"sim-(\d+)", user["name"]))]
        first = max(numbers, default=-1) + 1
        tokens = [admin.add_user(f"sim-{first + i}", "labeler")["token"] for i in range(plan.labelers)]
    taste = TASTES[plan.taste]
    return [
        Labeler(Client(url, token), taste, plan.noise, random.Random(f"{plan.seed}/{i}"))
        for i, token in enumerate(tokens)
    ]


def _report_until_done(working: Sequence[Future[None]], goals: Sequence[Goal], report: Callable[[str], None]) -> None:
    """A line with each further tenth, and at least every five seconds."""
    began = said_at = time.monotonic()
    said, wanted = 0, sum(goal.wanted for goal in goals)
    while wait(working, timeout=0.1).not_done:
        done, now = sum(goal.done for goal in goals), time.monotonic()
        if done - said >= wanted / 10 or now - said_at >= 5:
            report(f"{done} of {wanted} labels after {now - began:.1f} s")
            said, said_at = done, now


def main(arguments: Sequence[str], parser: argparse.ArgumentParser) -> int:
    """Read the options, let the labelers work, say how far they came; returns the exit code."""
    parser.add_argument("--labelers", type=_positive, default=8, help="how many work at once (default 8)")
    parser.add_argument("--rankings", type=int, default=200, help="how many rankings in all (default 200)")
    parser.add_argument("--demonstrations", type=int, default=0, help="how many demonstrations first (default 0)")
    parser.add_argument("--taste", choices=sorted(TASTES), default="prefers-short", help="what they like")
    parser.add_argument(
        "--noise", type=_share, default=0.25, help="0 says what the taste says, 1 is dice (default 0.25)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the dice")
    parser.add_argument("--url", help="of the app, when it is not the workspace's on this machine")
    parser.add_argument("--token", help="an admin's API token, for use with --url")
    options = parser.parse_args(arguments)
    url, token = _app(options)
    plan = Plan(
        labelers=options.labelers,
        rankings=options.rankings,
        demonstrations=options.demonstrations,
        taste=options.taste,
        noise=options.noise,
        seed=options.seed,
    )
    demonstrations, rankings = simulate(url, token, plan)
    for name, goal in (("demonstrations", demonstrations), ("rankings", rankings)):
        short = "" if goal.done >= goal.wanted else f" of the {goal.wanted} asked for: the queue is empty"
        if goal.wanted:
            print(f"{goal.done} {name} are in{short}.")
    return 0


def _app(options: argparse.Namespace) -> tuple[str, str]:
    """Address and admin token of the app. Raises NotFound when no app says where it is."""
    if options.url and options.token:
        return options.url, options.token
    workspace = Workspace.at(options.workspace)
    try:
        server = json.loads(workspace.server.read_text())
    except FileNotFoundError as error:
        raise NotFound(
            f"No app runs on {workspace.root}. Start it with `python -m annotate`, or name one with --url and --token."
        ) from error
    return options.url or server["url"], options.token or server["token"]


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _share(text: str) -> float:
    if not 0 <= (number := float(text)) <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return number
