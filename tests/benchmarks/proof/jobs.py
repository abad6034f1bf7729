"""Jobs that need each other, in a few processes; what a job found is kept, so a proof that was stopped goes on.

Writes  <root>/results/<job>.json, whole or not at all
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.runs import write_whole

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """`make(root, **options)` returns what is to be kept; it may read the results of the jobs in `needs`."""

    name: str
    make: Callable[..., Result]
    options: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


def result_of(root: Path, name: str) -> Result:
    """What that job found."""
    return json.loads((root / "results" / f"{name}.json").read_text())


def run_all(jobs: Sequence[Job], root: Path, processes: int) -> dict[str, Result]:
    """Every job's result; those that are there already are not made again. The first that fails ends it all."""
    (root / "results").mkdir(parents=True, exist_ok=True)
    done = {job.name for job in jobs if (root / "results" / f"{job.name}.json").exists()}
    waiting = [job for job in jobs if job.name not in done]
    running: dict[Future[float], Job] = {}
    began, count = time.monotonic(), len(waiting)
    context = multiprocessing.get_context("spawn")  # torch does not survive a fork
    with ProcessPoolExecutor(processes, context) as pool:
        while waiting or running:
            for job in [job for job in waiting if done.issuperset(job.needs)][: processes - len(running)]:
                waiting.remove(job)
                running[pool.submit(_make, job, root)] = job
            if not running:
                raise ValueError(f"These jobs need what no job makes: {', '.join(job.name for job in waiting)}.")
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, seconds = running.pop(future), future.result()
                done.add(job.name)
                so_far = (time.monotonic() - began) / 60
                print(f"{so_far:5.1f} min  {len(done)}/{len(jobs)}  {job.name}: {seconds:.0f} s", flush=True)
    if count:
        print(f"{count} jobs in {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    return {job.name: result_of(root, job.name) for job in jobs}


def _make(job: Job, root: Path) -> float:
    """Make it, keep what it found, return the CPU seconds it took."""
    began = time.process_time()
    found = job.make(root, **job.options)
    path = root / "results" / f"{job.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = time.process_time() - began
    write_whole(path, json.dumps({**found, "cpu_seconds": seconds, "pid": os.getpid()}, indent=1))
    return seconds
