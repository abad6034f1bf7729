"""A stage in a process of its own: a copy of this one, a new Python, or a launcher that starts several."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO, Protocol

import torch

from data.errors import InvalidInput

PATIENT = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}  # seconds that torchrun gives a stage to save before it kills it


class Child(Protocol):
    """A stage that was started."""

    def poll(self) -> int | None:
        """The exit code, or the signal that killed it as a negative number; None while it runs."""

    def terminate(self) -> None:
        """Ask it to stop."""


def launcher(launch: str) -> list[str]:
    """The words before `-m training STAGE`: this Python, or the launcher, looked for beside this Python as well.

    Raises:
        InvalidInput: there is no such program.
    """
    if not launch:
        return [sys.executable]
    program, *options = shlex.split(launch)
    found = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    if found is None:
        raise InvalidInput(f"There is no program {program!r} to launch the stage with. Nothing was trained.")
    return [found, *options]


def start(launch: str, stage: list[str], log: BinaryIO) -> Child:
    """Start a stage, given as the words behind `python -m training`, with what it prints in `log`."""
    if not launch and can_fork():
        return Copy(stage, log)
    words = [*launcher(launch), "-m", "training", *stage]
    return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=PATIENT | os.environ)


def can_fork() -> bool:
    """Whether a stage may be a copy of this process: CUDA does not survive a fork, nor do the libraries of macOS."""
    return sys.platform == "linux" and torch.version.cuda is None and torch.version.hip is None


class Copy:
    """A stage as a copy of this process, which has torch and transformers loaded: seconds sooner than a new process."""

    def __init__(self, stage: list[str], log: BinaryIO) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=_become, args=(stage, log.fileno()))
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()


def _become(stage: list[str], log: int) -> None:
    """What a new process with that command line would do, from its first signal to its exit code."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # the cycle's may be copied into its own log
    sys.argv[1:] = stage
    runpy.run_module("training", run_name="__main__")
