"""The app as a process: owns the store of one workspace from start to stop.

Reads   the workspace
Writes  server.json (url, pid, owner token; mode 0600) while it accepts connections; at first start seeds, the
        guidelines of annotate/guidelines.md, and an admin

Ends with 0 when it was asked to stop (Ctrl-C, SIGTERM), 1 when it could not start or the store gave up.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.concurrency import run_in_threadpool

from annotate.app import create_app
from annotate.auth import Auth
from annotate.context import Context
from annotate.cycles import Cycles
from annotate.sampler import Sampler
from annotate.talks import Talks
from data import interchange
from data.errors import FeedbackError, StoreFailed, WorkspaceInUse
from data.store import Store
from data.workspace import Workspace

if TYPE_CHECKING:
    from fastapi import FastAPI

ADMIN = "admin"
GUIDELINES = Path(__file__).with_name("guidelines.md")  # what a new project begins with
GRACE = 5  # seconds that open connections (event streams, downloads) get when the app stops


@dataclass(frozen=True)
class Settings:
    """What `python -m annotate` was asked for."""

    host: str = "127.0.0.1"
    port: int = 7860  # 0 takes a free one
    preset: str = "tiny"
    base: str | None = None
    launch: str = ""
    sampler: str = ""  # an OpenAI-compatible server to talk to, instead of the promoted model
    sampler_models: tuple[str, ...] = ()  # which of its models; all that it lists
    train: bool = True  # make a first model when there is none
    pages: bool = True


def serve(workspace: Workspace, settings: Settings) -> int:
    """Serve until asked to stop; returns the exit code."""
    gc.disable()  # the store makes millions of objects that all stay
    try:  # the store before the port: whoever starts Pawl twice is told where the first one is
        store = Store(workspace.database)
    except WorkspaceInUse as error:
        return _refuse(_with_address(error, workspace))
    except FeedbackError as error:
        return _refuse(str(error))
    finally:
        gc.freeze()  # a look through them for garbage would stop everybody for seconds
        gc.enable()
    with store:
        try:
            listener = bound_socket(settings)
        except OSError as error:
            return _refuse(str(error))
        with listener:
            return _serve(App(workspace, store, settings, listener))


def _serve(app: App) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: through the finally below
    try:
        app.run()
    except KeyboardInterrupt:  # uvicorn raises the signal again once it has stopped serving
        pass
    except FeedbackError as error:
        return _refuse(str(error))
    finally:
        app.close()
        gc.unfreeze()
    return app.exit_code


class App:
    """One run of the app over an open store and a bound socket."""

    def __init__(self, workspace: Workspace, store: Store, settings: Settings, listener: socket.socket) -> None:
        self._workspace, self._store, self._settings, self._listener = workspace, store, settings, listener
        self._owner_token = secrets.token_urlsafe(32)
        self.url = _url(settings.host, listener.getsockname()[1])
        self.exit_code = 0
        self._cycles = Cycles(workspace, store, preset=settings.preset, base=settings.base, launch=settings.launch)
        self._auth = Auth(store, self._owner_token)
        store.on_failure = self._store_failed
        url, models = settings.sampler, settings.sampler_models
        talks = Talks(store, Sampler(workspace, store, url=url, models=models, preset=settings.preset))
        context = Context(store, workspace, self._cycles, self._auth, talks)
        app = create_app(context, pages=settings.pages, on_pages_failed=self._pages_failed)
        self._server = Server(app, self._cycles, self._accepting)

    def run(self) -> None:
        """Serve until asked to stop."""
        if not self._store.has_prompts():
            interchange.seed(self._store)
        if self._store.project.guideline() is None:
            self._store.project.set_guideline(GUIDELINES.read_text(encoding="utf-8"), "Pawl")
        self._server.run(sockets=[self._listener])

    def close(self) -> None:
        """No address any more."""
        if _server_file(self._workspace).get("pid") == os.getpid():
            self._workspace.server.unlink(missing_ok=True)

    def _accepting(self) -> None:
        """The app accepts connections: say where, let people in, begin what there is to begin."""
        _write_server_file(self._workspace, {"url": self.url, "pid": os.getpid(), "token": self._owner_token})
        print(f"Pawl is at {self.url} and keeps its data in {self._workspace.root}", flush=True)
        if (link := self._admin_link()) is not None:
            print(f"Sign in as {ADMIN}, once, within a week:\n  {link}", flush=True)
        if self._settings.train and (cycle := self._cycles.start_first_model()) is not None:
            print(f"There is no model yet: {cycle} is making one. The pages show how far it is.", flush=True)

    def _admin_link(self) -> str | None:
        """A one-time link for the admin, who is made at first start; None once there is a password."""
        if all(user.name != ADMIN for user in self._store.users()):
            self._store.add_user(ADMIN, "admin")
        if self._store.password_hash(ADMIN) is not None or not self._store.user(ADMIN).active:
            return None
        return self.url + self._auth.link_path(ADMIN)

    def _store_failed(self, error: StoreFailed) -> None:
        """Called by the store's writer: labels that were acknowledged are safe, and no more can be taken."""
        self._stop(f"Pawl stops: {error}")

    def _pages_failed(self) -> None:
        self._stop("Pawl stops: its pages could not be loaded; the error is above. The data is as it was.")

    def _stop(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)
        self.exit_code = 1
        self._server.should_exit = True


class Server(uvicorn.Server):
    """uvicorn, which says when it accepts connections; before it stops it ends the cycle, the talks and the streams."""

    def __init__(self, app: FastAPI, cycles: Cycles, accepting: Callable[[], None]) -> None:
        super().__init__(_uvicorn_config(app))
        self._cycles, self._accepting = cycles, accepting
        self._talks: Talks = app.state.context.talks
        self._streams_end: asyncio.Event = app.state.stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._accepting()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await run_in_threadpool(self._cycles.stop)  # still serving: the cycle's last word goes to the store by HTTP
        self._streams_end.set()
        await self._talks.stop()
        await super().shutdown(sockets)


def _uvicorn_config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        workers=1,
        log_level="warning",
        access_log=False,  # one-time links have their token in the address
        timeout_graceful_shutdown=GRACE,
        server_header=False,
    )


def bound_socket(settings: Settings) -> socket.socket:
    """A bound socket, made here so that the port that 0 became is known. Raises OSError in words of ours."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol by name: only where it is said does asyncio send without delay (TCP_NODELAY). Else each answer, whose
    # head and body are sent apart, waits 40 ms for the browser to acknowledge the head.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"Cannot listen at {settings.host} port {settings.port}: {error.strerror}. "
            "Stop what uses it, or choose another with --port (0 takes a free one)."
        ) from error
    return listener


def _url(host: str, port: int) -> str:
    """The address to tell people on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server_file(workspace: Workspace) -> dict[str, object]:
    """server.json; empty when there is none that can be read."""
    try:
        server = json.loads(workspace.server.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return server if isinstance(server, dict) else {}


def _write_server_file(workspace: Workspace, server: dict[str, object]) -> None:
    """Replace server.json in one step, never readable by others."""
    temporary = workspace.root / f".server.json.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(server, file)
    os.replace(temporary, workspace.server)


def _with_address(error: WorkspaceInUse, workspace: Workspace) -> str:
    url = _server_file(workspace).get("url")
    return f"{error} Pawl is running there already, at {url}." if url and str(url) not in str(error) else str(error)


def _refuse(message: str) -> int:
    print(f"Pawl did not start. {message}", file=sys.stderr, flush=True)
    return 1
