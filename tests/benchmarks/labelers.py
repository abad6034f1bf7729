"""A hundred labelers at once: how long from a submission to the next task, on a store of 1,000,000 tasks.

The labelers are programs in a process of their own that ask for a task over HTTP, think, submit a ranking of four
responses and are shown the next; each task is wanted by two of them. Measured is the time from sending the ranking to
holding the next task, both requests and the commit to disk between them included. The same on a store of 1,000 tasks,
and on Label Studio: its server, its default database, its REST API, as many annotators who choose among four responses.

    python tests/benchmarks/labelers.py [--quick] [--tasks 1000000] [--labelers 100] [--think 2]

The last line is JSON. p95_ms, p99_ms: of ours on the large store. doubles: tasks handed or labels stored beyond a
task's overlap, both stores. overlap_exact: whether each task that was begun ended with the two labels it wanted, and
each label that was acknowledged is stored. scale_ratio: p95 on the large store over p95 on the small one.
vs_label_studio: its p95 over ours on the large store.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import libraries_first  # noqa: F401
from crowd import full_store, label_studio
from rivals import python_of

ROOT = Path(__file__).parents[2]

SMALL = 1_000  # tasks in the store that the large one is compared with
CROWD = ROOT / "tests" / "benchmarks" / "crowd" / "crowd.py"


@dataclass(frozen=True)
class Server:
    """What a server took."""

    started: float  # seconds from the command to the first answer
    megabytes: float  # peak memory
    cpu: float  # seconds while the crowd worked


@dataclass(frozen=True)
class Measured:
    """One server under the crowd."""

    name: str
    milliseconds: list[float]
    submissions: int
    a_second: float
    server: Server
    doubles: int
    exact: bool
    failed: int

    def percentile(self, percent: int) -> float:
        """Of the time from a submission to the next task."""
        return statistics.quantiles(self.milliseconds, n=100, method="inclusive")[percent - 1]

    def row(self) -> str:
        times = "".join(f"{self.percentile(percent):9.0f}" for percent in (50, 95, 99))
        return (
            f"{self.name:34}{times}{self.a_second:9.1f}{1_000 * self.server.cpu / self.submissions:9.1f}"
            f"{self.server.megabytes:9.0f}{self.server.started:9.1f}{self.doubles:9}"
            f"{'yes' if self.exact else 'no':>7}{self.failed:8}"
        )


HEAD = f"{'':34}" + "".join(
    f"{name:>9}" for name in ("p50 ms", "p95 ms", "p99 ms", "a second", "CPU ms", "MB peak", "start s")
)
HEAD += f"{'doubles':>9}{'exact':>7}{'errors':>8}"


def of_pawl(tasks: int, labels: int, plan: dict[str, Any], people: int, folder: Path) -> Measured:
    """Fill a store, start the app on it, and let the crowd in."""
    tokens = full_store.make(folder, tasks, labels, people)
    before = Counter(task for task, _ in _pawl_labels(folder))
    with _app(folder) as (url, process, started):
        given = {**plan, "kind": "pawl", "url": url, "tokens": list(tokens.values()), "finish": True}
        spent = _cpu(process.pid)
        seen = _crowd(given)
        server = Server(started, _peak(process.pid), _cpu(process.pid) - spent)
    return _measured(f"Pawl, {tasks:,} tasks", seen, before, _pawl_labels(folder), server)


def of_label_studio(plan: dict[str, Any], people: int, folder: Path) -> Measured:
    """The nearest that Label Studio does, with a thousand tasks."""
    python = python_of("label-studio")
    label_studio.prepared(python, people)
    began = time.perf_counter()
    with label_studio.running(python, folder, _free_port(), SMALL, full_store.OVERLAP, people) as running:
        started = time.perf_counter() - began
        given = {
            **plan,
            "kind": "label-studio",
            "url": running.url,
            "tokens": running.tokens,
            "project": running.project,
        }
        spent = _cpu(running.process.pid)
        seen = _crowd({**given, "finish": False})
        server = Server(started, _peak(running.process.pid), _cpu(running.process.pid) - spent)
    stored = label_studio.labels_of(running.database)
    return _measured(f"Label Studio, {SMALL:,} tasks", seen, Counter(), stored, server)


def _measured(
    name: str,
    seen: dict[str, Any],
    before: Counter[str],
    stored: list[tuple[str, str]],
    server: Server,
) -> Measured:
    """What the crowd saw and what the database says, together; `before` counts the labels that each task had."""
    handed = Counter(task for task, _ in {tuple(pair) for pair in seen["handed"]})
    touched = {task for task, _ in seen["submitted"]} | set(handed)
    labels = Counter(task for task, _ in stored if task in touched)
    most = {task: max(labels[task], before[task] + handed[task]) for task in touched}
    beyond = sum(max(0, count - full_store.OVERLAP) for count in most.values())
    twice = sum(count - 1 for count in Counter(stored).values())
    kept = len(stored) - before.total() == len(seen["submitted"])
    return Measured(
        name=name,
        milliseconds=seen["milliseconds"],
        submissions=len(seen["submitted"]),
        a_second=len(seen["submitted"]) / seen["seconds"],
        server=server,
        doubles=beyond + twice,
        exact=kept and all(count == full_store.OVERLAP for count in labels.values()),
        failed=len(seen["failed"]),
    )


def _crowd(plan: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, CROWD], input=json.dumps(plan), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"The crowd failed:\n{done.stderr[-3000:]}")
    seen: dict[str, Any] = json.loads(done.stdout)
    for problem, count in Counter(seen["failed"]).most_common(3):
        print(f"  {count} times: {problem}")
    return seen


@contextmanager
def _app(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """The app on the workspace, its pages loaded; its address, its process, and the seconds to its first answer."""
    command = [sys.executable, "-m", "annotate", "--workspace", str(folder), "--port", "0", "--no-train"]
    began = time.perf_counter()
    with (folder / "app.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
    try:
        server = folder / "server.json"
        while not server.exists():
            if process.poll() is not None:
                raise RuntimeError(f"The app ended at its start:\n{(folder / 'app.log').read_text()[-3000:]}")
            time.sleep(0.02)
        told = json.loads(server.read_text())
        headers = {"Authorization": f"Bearer {told['token']}"}
        httpx.get(f"{told['url']}/api/v1/health").raise_for_status()
        started = time.perf_counter() - began
        while httpx.get(told["url"], headers=headers, timeout=60).status_code == 503:
            time.sleep(0.2)
        yield told["url"], process, started
    finally:
        process.terminate()
        process.wait(60)


def _pawl_labels(folder: Path) -> list[tuple[str, str]]:
    """Task and labeler of every ranking that is stored."""
    from data.database import open_database

    database = open_database(folder / "feedback.duckdb")
    try:
        return database.connection.execute("SELECT task_id, labeler FROM rankings").fetchall()
    finally:
        database.close()


def _peak(pid: int) -> float:
    """Megabytes of memory that the process held at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _cpu(pid: int) -> float:
    """Seconds of processor time that the process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def shown(measured: Measured) -> Measured:
    """Its row is printed at once: the next one may take minutes."""
    print(measured.row(), flush=True)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 tasks and fewer submissions")
    parser.add_argument("--tasks", type=int, help="in the large store; 1,000,000, or 20,000 with --quick")
    parser.add_argument("--labelers", type=int, default=100)
    parser.add_argument("--think", type=float, default=2.0, help="seconds between a task and its answer, on average")
    parser.add_argument("--submissions", type=int, help="3,000, or 1,000 with --quick")
    parser.add_argument("--no-rival", action="store_true", help="leave Label Studio out")
    arguments = parser.parse_args()
    tasks = arguments.tasks or (20_000 if arguments.quick else 1_000_000)
    submissions = arguments.submissions or (1_000 if arguments.quick else 3_000)
    plan: dict[str, Any] = {
        "think": arguments.think,
        "submissions": submissions,
        "seconds": 60 if arguments.quick else 120,
        "overlap": full_store.OVERLAP,
    }
    people = arguments.labelers
    print(f"{people} labelers who think {arguments.think} s, {submissions:,} submissions at most")
    folder = Path(tempfile.mkdtemp(prefix="pawl-labelers-"))
    try:
        print(HEAD, flush=True)
        large = shown(of_pawl(tasks, tasks * 3 // 10, plan, people, folder / "large"))
        plan["submissions"] = min(submissions, SMALL * full_store.OVERLAP * 3 // 4)  # the small store has no more work
        small = shown(of_pawl(SMALL, 0, plan, people, folder / "small"))
        rival = None if arguments.no_rival else shown(of_label_studio(plan, people, folder / "rival"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures = {
        "p95_ms": round(large.percentile(95), 1),
        "p99_ms": round(large.percentile(99), 1),
        "doubles": large.doubles + small.doubles,
        "overlap_exact": large.exact and small.exact,
        "scale_ratio": round(large.percentile(95) / small.percentile(95), 3),
        "vs_label_studio": round(rival.percentile(95) / large.percentile(95), 1) if rival else None,
        "label_studio_doubles": rival.doubles if rival else None,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
