"""What tests of several packages need: commands as people type them, the app as a process, a first model."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from filelock import FileLock

# Tests train side by side: with threads that wait spinning, two processes on two cores take five times as long. To be
# set before torch is imported; what tests start inherits it.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_DISABLE_TELEMETRY": "1"}

ROOT = Path(__file__).parent.parent
START_SECONDS = 120  # an app that is not there by then will not come
_running: set[subprocess.Popen[str]] = set()  # commands, to be ended with the tests


@dataclass
class RunningApp:
    """The app as a process of its own, on a free port."""

    process: subprocess.Popen[bytes]
    url: str
    token: str  # the owner's
    owner: httpx.Client  # /api/v1, with the owner's token
    log: Path
    workspace: Path
    pages: bool

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def start_again(self) -> None:
        """The same command, on the port it had."""
        options = ["--port", str(urlsplit(self.url).port)]
        self.process = _launched([*self.process.args, *options], self.log)
        self.token = _when_ready(self.process, self.workspace, self.log, self.pages)["token"]
        self.owner.headers["Authorization"] = f"Bearer {self.token}"


@pytest.fixture(scope="session")
def running_app():
    """Starts the app: `with running_app(workspace, *options, pages=False) as app`."""
    return _running_app


@contextmanager
def _running_app(workspace: Path, *options: str, pages: bool = False) -> Iterator[RunningApp]:
    command = [sys.executable, "-m", "annotate", "--workspace", str(workspace), "--port", "0", "--no-train", *options]
    command += [] if pages else ["--no-pages"]
    log = workspace / "app.log"
    process = _launched(command, log)
    app = None
    try:
        server = _when_ready(process, workspace, log, pages)
        headers = {"Authorization": f"Bearer {server['token']}"}
        kept = httpx.Limits(keepalive_expiry=2)  # seconds; less than the app keeps a silent connection
        with httpx.Client(
            base_url=server["url"] + "/api/v1", headers=headers, timeout=60, limits=kept, verify=False
        ) as owner:
            app = RunningApp(process, server["url"], server["token"], owner, log, workspace, pages)
            yield app
    finally:
        process = app.process if app else process
        process.terminate()
        process.wait(30)


def _launched(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": "1"})


def _when_ready(process: subprocess.Popen[bytes], workspace: Path, log: Path, pages: bool) -> dict[str, str]:
    """What server.json says once the app of this process answers; with `pages`, once Gradio's pages are served too."""
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(timeout=60, verify=False) as client:
        while time.monotonic() < deadline:
            assert process.poll() is None, f"The app ended at its start:\n{log.read_text()}"
            path = workspace / "server.json"
            server = json.loads(path.read_text()) if path.exists() else {}
            if server.get("pid") == process.pid:
                headers = {"Authorization": f"Bearer {server['token']}"}
                asked = server["url"] + ("/" if pages else "/api/v1/health")
                if client.get(asked, headers=headers).status_code == 200:
                    return server
            time.sleep(0.1)
    raise AssertionError(f"The app was not there after {START_SECONDS} s:\n{log.read_text()}")


@dataclass
class OpenAIServer:
    """A server that speaks OpenAI's protocol and repeats what it is told: `MODEL at TEMPERATURE: MESSAGE`."""

    url: str = ""
    models: list[str] = field(default_factory=lambda: ["parrot"])
    asked: list[dict[str, Any]] = field(default_factory=list)  # the bodies of requests
    may_answer: threading.Event = field(default_factory=threading.Event)  # held back while it is cleared
    breaks: bool = False  # after the first word


@pytest.fixture(scope="session")
def openai_servers():
    """Starts such a server: `with openai_servers() as server`."""
    return _openai_server


@contextmanager
def _openai_server() -> Iterator[OpenAIServer]:
    state = OpenAIServer()
    state.may_answer.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._head("application/json")
            self.wfile.write(json.dumps({"data": [{"id": name} for name in state.models]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append(body)
            self._head("text/event-stream")
            state.may_answer.wait(30)
            words = f"{body['model']} at {body['temperature']}: {body['messages'][-1]['content']}".split(" ")
            for place, word in enumerate(words):
                self._tell({"delta": {"content": word if place == 0 else f" {word}"}, "finish_reason": None})
                if state.breaks:
                    return
            self._tell({"delta": {}, "finish_reason": "stop"})
            self.wfile.write(b"data: [DONE]\n\n")

        def _head(self, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()

        def _tell(self, choice: dict[str, Any]) -> None:
            self.wfile.write(f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n".encode())
            self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield state
        server.shutdown()


@pytest.fixture(scope="session")
def run_alone() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine to its end in a thread of its own: where Chromium is driven, this thread has an event loop."""

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, coroutine).result()

    return run


@pytest.fixture(scope="session")
def pawl() -> Callable[..., str]:
    """Runs `python -m ARGUMENTS` as a person would, and returns what it printed; it must succeed."""
    return _pawl


def _pawl(*arguments: object) -> str:
    command = [sys.executable, "-m", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        _running.add(process)
        said, complained = process.communicate(timeout=900)
        _running.discard(process)
    assert process.returncode == 0, f"{' '.join(command)}\n{said[-2000:]}\n{complained[-4000:]}"
    return said


@pytest.fixture(scope="session")
def first_model(first_workspace) -> Path:
    """A workspace whose first model is made by the embedded default, and whose samples wait to be ranked. Copy it.

    While working on a test, $PAWL_FIRST_MODEL may name one that was made before, to save its two minutes.
    """
    return _first_model(first_workspace)


@pytest.fixture(scope="session")
def first_workspace(tmp_path_factory, worker_id) -> Path:
    """Where the first model is made. One place for all test processes, found before a thread is begun: pytest makes
    its folders without a lock."""
    if made := os.environ.get("PAWL_FIRST_MODEL"):
        return Path(made)
    base = tmp_path_factory.getbasetemp()
    return (base if worker_id == "master" else base.parent) / "first-model"


@pytest.fixture(scope="session", autouse=True)
def first_model_in_the_making(request, first_workspace) -> Iterator[None]:
    """Begin to make the first model when a chosen test needs it, so that none of them waits for it."""
    if any("first_model" in item.fixturenames for item in request.session.items):
        threading.Thread(target=_first_model, args=(first_workspace,), daemon=True).start()
    yield
    for process in _running:  # the tests were cut short
        process.terminate()


def _first_model(workspace: Path) -> Path:
    """Made once, whichever of the test processes comes first; the others wait."""
    if "PAWL_FIRST_MODEL" in os.environ:
        return workspace
    with FileLock(f"{workspace}.lock"):
        if not (workspace / "made").exists():
            shutil.rmtree(workspace, ignore_errors=True)  # another process may have ended before it was made
            # Fewer steps than the preset's 850: enough to learn a taste from. And time for them on a busy machine.
            short = ["pretrain.steps=200", "pretrain.minutes=10", "sft.epochs=2", "sample.prompts=160"]
            given = ["--override", *short, "--workspace", workspace]
            _pawl("data", "seed", "--workspace", workspace)
            _pawl("training", "cycle", "--preset", "tiny", "--stages", "pretrain,sft", *given)
            (workspace / "made").touch()
    return workspace


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that turn a whole cycle come as soon as the first model is made, beside the slow ones of annotate/; fast
    files last: the processes then end at about the same time."""

    def place(item: pytest.Item) -> int:
        if item.path not in slow:
            return 3
        return 1 if item.path in cycles else 0 if item.path.parent.name == "annotate" else 2

    slow = {item.path for item in items if item.get_closest_marker("slow")}
    cycles = {item.path for item in items if "first_model" in item.fixturenames}
    items.sort(key=place)
