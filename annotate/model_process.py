"""The model that labelers talk to, as a child process: `python -m training serve`.

Reads   the one line that the child prints when it answers
Writes  sampler.log in the workspace: what the child had to say of itself

The child ends when its standard input closes, so that none is left when the app dies.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.errors import SamplerFailed

if TYPE_CHECKING:
    from data.workspace import Workspace

log = logging.getLogger("pawl")
COMMAND = (sys.executable, "-m", "training", "serve")
NICE = ("nice", "-n", "5")  # it yields the processor to the app, and training yields it to this
TOKEN = "PAWL_SERVE_TOKEN"
START_SECONDS = 300.0  # a child that does not answer by then will not


@dataclass(frozen=True, slots=True)
class Place:
    """Where replies can be had, and of which models."""

    url: str  # ends in /v1
    token: str | None
    models: tuple[str, ...]
    own: bool  # the child: its words may be shown, and it knows how long a reply is


class Child:
    """`python -m training serve`, started and not yet answering."""

    def __init__(self, command: Sequence[str], workspace: Workspace, checkpoints: tuple[str, ...]) -> None:
        self.checkpoints = checkpoints
        self.users = 0
        self._unwanted = False
        self.used = time.monotonic()
        self._token = secrets.token_urlsafe(32)
        named = [word for id in checkpoints for word in ("--checkpoint", id)]
        with (workspace.root / "sampler.log").open("wb") as errors:
            self._process = subprocess.Popen(
                [*NICE, *command, "--workspace", str(workspace.root), *named],
                stdin=subprocess.PIPE,  # never written to: that it closes tells the child that the app is gone
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env={**os.environ, TOKEN: self._token},
            )

    def place(self) -> Place:
        """Wait until it answers, and say where. Raises SamplerFailed."""
        assert self._process.stdout is not None
        with self._process.stdout as said_by_it:
            ready, _, _ = select.select([said_by_it], [], [], START_SECONDS)
            line = said_by_it.readline() if ready else b""
        if not line:
            if not self._unwanted:
                log.error("The model that labelers talk to could not be started: sampler.log in the workspace says why")
            self.stop()
            raise SamplerFailed(
                "The model could not be started. What you wrote is kept; try again, and if it stays so, tell a "
                "researcher: sampler.log says why."
            )
        said = json.loads(line)
        return Place(said["url"], self._token, tuple(said["models"]), own=True)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End it and wait for that."""
        self._unwanted = True
        for ask in (self._hang_up, self._process.terminate, self._process.kill):
            ask()
            try:
                self._process.wait(5)
                return
            except subprocess.TimeoutExpired:
                continue

    def _hang_up(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
