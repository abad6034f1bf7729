"""The real app in a process of its own, and people signed in to it in Chromium.

With a folder in $PAWL_SCREENSHOTS, screenshots go there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from annotate.auth import COOKIE
from data.runs import RunFolder

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_numbers = count(1)
expect.set_options(timeout=20_000)  # milliseconds; the machine may be busy


@dataclass(frozen=True)
class AppServer:
    """A running app: where it is, and the owner's token."""

    process: Any  # tests/conftest.py: it can be stopped, and started again
    sampler: Any  # the server that answers who converses (tests/conftest.py)
    made: list[str] = field(default_factory=list)  # ranking tasks of the present test

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def token(self) -> str:
        return self.process.token

    @property
    def workspace(self) -> Path:
        return self.process.workspace

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        """One request to /api/v1, as the owner unless another token is given; the decoded answer, None for 204."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        answer = self.process.owner.request(method, path, json=body, headers=headers)
        answer.raise_for_status()
        return None if answer.status_code == 204 else answer.json()

    def person(self, role: str) -> tuple[str, str]:
        """A new user of this role: name and token. Tasks left over from other tests are skipped."""
        made = self.call("POST", "/users", {"name": f"{role}-{next(_numbers)}", "role": role})
        while (task := self.call("POST", "/tasks/next", {"kind": "ranking"}, made["token"])) is not None:
            skip = {"lease": task["lease"], "reason": "left over from another test"}
            self.call("POST", f"/tasks/{task['task_id']}/skip", skip, made["token"])
        return made["name"], made["token"]

    def ranking_task(self, responses: list[str], messages: list[dict[str, str]] | None = None, overlap: int = 1) -> str:
        """A new task to rank these responses; its id."""
        asked = messages or [{"role": "user", "content": f"Question {next(_numbers)}: what is a pawl?"}]
        (prompt,) = self.call("POST", "/prompts", [{"messages": asked, "split": "train"}])["ids"]
        given = [{"text": text, "source": "elsewhere"} for text in responses]
        body = {"prompt_id": prompt, "responses": given, "overlap": overlap}
        self.made.append(self.call("POST", "/tasks", body)["task_id"])
        return self.made[-1]

    def retire_what_was_made(self) -> None:
        """Nobody is given a ranking task of this test any more."""
        while self.made:
            self.call("POST", f"/tasks/{self.made.pop()}/retire")

    def exported(self, kind: str) -> list[dict[str, Any]]:
        """The rows that /export/{kind} gives."""
        lines = self.process.owner.get(f"/export/{kind}").text.split("\n")  # splitlines parts at U+2028 too
        return [json.loads(line) for line in lines if line]

    def rankings(self) -> dict[str, dict[str, Any]]:
        """The exported ranking rows, by task."""
        return {row["task_id"]: row for row in self.exported("rankings")}

    def ranks_by_text(self, task_id: str) -> dict[str, int | None]:
        """What was stored for this task: the rank of each response's text."""
        row = self.rankings()[task_id]
        return {response["text"]: rank for response, rank in zip(row["responses"], row["ranks"], strict=True)}


@pytest.fixture(scope="session")
def hostile() -> Any:
    """The module tests/browser/hostile.py: texts that would like to be more than text."""
    found = importlib.util.spec_from_file_location("hostile", Path(__file__).with_name("hostile.py"))
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def start_app(running_app: Any, openai_servers: Any) -> Callable[..., AbstractContextManager[AppServer]]:
    """An app with its pages: `with start_app(workspace) as server`."""

    @contextmanager
    def start(workspace: Path) -> Iterator[AppServer]:
        workspace.mkdir(parents=True, exist_ok=True)
        with openai_servers() as sampler:
            with running_app(workspace, "--sampler", sampler.url, pages=True) as app:
                yield AppServer(app, sampler)

    return start


@pytest.fixture(scope="session")
def app_server(tmp_path_factory: pytest.TempPathFactory, start_app: Any) -> Iterator[AppServer]:
    """The app on a workspace of its own, without a model in the making."""
    with start_app(tmp_path_factory.mktemp("workspace")) as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or "/usr/bin/chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield chromium
        chromium.close()


@dataclass
class Person:
    """Somebody signed in: their page, and what the browser did on their behalf."""

    page: Page
    name: str
    token: str
    url: str
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def visit(self, path: str) -> Page:
        """Go to this page of the app and return it."""
        self.page.goto(self.url + path, wait_until="domcontentloaded")
        return self.page

    def foreign_requests(self) -> list[str]:
        """Requests that left for anywhere but the app."""
        return [url for url in self.requests if not url.startswith((self.url, "data:", "blob:"))]


@pytest.fixture(scope="session")
def idle_contexts() -> dict[str, list[BrowserContext]]:
    """Contexts that nobody uses now, by the app's address. What was fetched and compiled in one is there at once."""
    return {}


@pytest.fixture
def page_as(app_server: AppServer, browser: Browser, idle_contexts: Any) -> Iterator[Callable[..., Person]]:
    """page_as(role, width=, height=, dark=) gives a new person of that role an empty page in a browser of their own.

    They are signed in, and nothing is left there of who had it before; `alone` takes one that nobody had, and nobody
    gets after; `phone` is such a one that is touched, of 360 by 740. At the end no page may have raised an error in its
    scripts, nor asked anything of another host.
    """
    people: list[Person] = []
    ends: list[Callable[[], None]] = []
    url = app_server.url
    idle = idle_contexts.setdefault(url, [])

    def sign_in(
        role: str,
        *,
        width: int = 1280,
        height: int = 860,
        dark: bool = False,
        alone: bool = False,
        phone: bool = False,
    ) -> Person:
        name, token = app_server.person(role)
        if phone:
            alone, width, height = True, 360, 740
        options: dict[str, Any] = {"has_touch": True, "is_mobile": True} if phone else {}
        context = browser.new_context(base_url=url, **options) if alone or not idle else idle.pop()
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.set_default_timeout(20_000)
        kept = {"origin": url, "storageTypes": "cookies,local_storage,session_storage,indexeddb,cache_storage"}
        context.new_cdp_session(page).send("Storage.clearDataForOrigin", kept)
        given = {"data": {"token": token}, "headers": {"Origin": url}}
        answer = httpx.post(f"{url}/sign-in", **given, timeout=60, verify=False)  # certificates take long to read
        session = {"name": COOKIE, "value": answer.cookies[COOKIE], "url": url, "httpOnly": True, "sameSite": "Strict"}
        context.add_cookies([session])
        person = Person(page, name, token, url)
        people.append(person)

        def note(request: Any) -> None:
            person.requests.append(request.url)

        def end() -> None:
            page.unroute_all(behavior="ignoreErrors")  # a request that is still answered would fail the next test
            page.close()
            context.remove_listener("request", note)
            if alone:
                context.close()
            else:
                context.clear_cookies()
                context.set_offline(False)
                idle.append(context)

        context.on("request", note)
        page.on("pageerror", lambda error: person.errors.append(str(error)))
        ends.append(end)
        return person

    yield sign_in
    for end in ends:
        end()
    app_server.retire_what_was_made()
    for person in people:
        assert person.foreign_requests() == []
        assert person.errors == []


@pytest.fixture(scope="session")
def screenshot() -> Callable[[Page, str], None]:
    """screenshot(page, name) keeps what is on the screen as a picture, where pictures were asked for."""
    asked = os.environ.get("PAWL_SCREENSHOTS")

    def keep(page: Page, name: str) -> None:
        if asked:
            page.wait_for_timeout(250)  # transitions end
            page.screenshot(path=Path(asked) / f"{name}.png")

    return keep


@pytest.fixture
def finished_cycle(app_server):
    """A cycle's folders as training leaves them behind: sft and reward done, ppo failed."""
    runs = app_server.workspace / "runs"
    cycle = RunFolder.create(runs, "cycle", {"preset": "tiny", "stages": "sft,reward,ppo"})
    stages = [{"stage": "freeze", "state": "done", "progress": 1.0}]
    for stage, steps, lines in (
        ("sft", 40, lambda n: {"loss": 4.0 / (1 + n / 10) + 0.1 * (n % 3)}),
        ("reward", 30, lambda n: {"loss": 0.7 - 0.01 * n + 0.02 * (n % 4), "accuracy": 0.5 + n / 100}),
        (
            "ppo",
            25,
            lambda n: {
                "reward": -1 + n / 8 + 0.2 * (n % 3),
                "kl": n / 5 + 0.3 * (n % 2),
                "length": 40 - n / 2,
                "ended": 0.8 + n / 200,
                "entropy": 3 - n / 20,
                "clip_fraction": 0.1 + 0.02 * (n % 3),
                "explained_variance": n / 30,
            },
        ),
    ):
        run = RunFolder.create(runs, stage, {})
        for step in range(1, steps + 1):
            run.append_metrics({"step": step, **lines(step)})
        state = "failed" if stage == "ppo" else "done"
        stages.append({"stage": stage, "run": run.id, "state": state, "progress": 1.0, "checkpoint": run.id})
    sample = {
        "step": 25,
        "prompt": "Say <b>hello</b>",
        "response": "<img src=x onerror=alert(1)> hello",
        "score": 1.5,
        "kl": 2.0,
    }
    (run.path / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    (cycle.path / "log.txt").write_text("$ python -m training cycle\nppo: MemoryError\n")
    error = "The stage ppo was killed by signal 9. The end of its log:\nMemoryError: <script>alert(2)</script>"
    cycle.update(id=cycle.id, state="failed", stage="ppo", progress=0.6, stages=stages, error=error)
    return cycle


@pytest.fixture
def type_into():
    """Fills a Gradio box as a person does, who looks before going on: a page still being drawn may set it back."""
    return _type_into


def _type_into(box, text: str) -> None:
    for _ in range(5):
        box.fill(text)
        box.page.wait_for_timeout(300)
        if box.input_value() == text:
            return
    raise AssertionError(f"The box does not keep {text!r}; it holds {box.input_value()!r}.")
