"""The app as a process: first start, second start, stop, kill -9, and the commands that talk to it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack

import httpx
import pytest

from annotate.auth import Auth
from annotate.server import App, Settings, bound_socket
from data.client import Client
from data.errors import FeedbackError, StoreFailed
from data.store import Store
from data.workspace import Workspace

pytestmark = pytest.mark.slow


def annotate(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "annotate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def link_in(app) -> str | None:
    found = re.search(r"http://\S+/sign-in\?link=\S+", app.log.read_text())
    return found[0] if found else None


def test_a_first_start_seeds_and_prints_a_link_that_works_once_and_a_later_one_only_without_a_password(
    running_app, tmp_path
):
    with running_app(tmp_path) as app:
        link = link_in(app)
        assert app.owner.get("/stats").json()["labels"]["demonstrations"] >= 60
        assert (tmp_path / "server.json").stat().st_mode & 0o777 == 0o600
        with httpx.Client(base_url=app.url, headers={"Origin": app.url}) as browser:
            assert browser.get(link).status_code == 200
            token = link.split("link=")[1]
            assert browser.post("/sign-in/link", data={"link": token}).headers["location"] == "/sign-in/account"
            assert browser.get("/api/v1/me").json()["role"] == "admin"
            assert browser.post("/sign-in/link", data={"link": token}).status_code == 401
    app.log.unlink()

    with running_app(tmp_path) as app:  # no password was set: a fresh link
        again = link_in(app)
        assert again is not None and again.split("link=")[1] != token
        with httpx.Client(base_url=app.url, headers={"Origin": app.url}) as browser:
            browser.post("/sign-in/link", data={"link": again.split("link=")[1]})
            assert browser.post("/sign-in/account", data={"password": "correct horse"}).status_code == 200
    app.log.unlink()

    with running_app(tmp_path) as app:
        assert link_in(app) is None


@pytest.mark.parametrize("same_port", [True, False], ids=["typed twice", "on another port"])
def test_a_second_app_on_the_workspace_is_refused_with_the_address_of_the_first(running_app, tmp_path, same_port):
    with running_app(tmp_path) as app:
        port = app.url.rsplit(":", 1)[1] if same_port else 0
        second = annotate("--workspace", tmp_path, "--port", port, "--no-train", "--no-pages")

        assert second.returncode == 1
        assert app.url in second.stderr
        assert "Traceback" not in second.stderr
        assert app.owner.get("/health").status_code == 200


def test_an_answer_is_not_held_back_until_the_browser_acknowledges_its_head(running_app, tmp_path):
    with running_app(tmp_path) as app:
        app.owner.get("/health")
        seconds = []
        for _ in range(20):  # on one connection: the first answers on a new one are acknowledged at once
            began = time.perf_counter()
            app.owner.get("/health")
            seconds.append(time.perf_counter() - began)

    assert min(seconds) < 0.03  # where it is held back, none takes less than the 40 ms of a delayed acknowledgement


def test_a_port_that_is_taken_is_refused_in_words(running_app, tmp_path):
    with running_app(tmp_path) as app:
        other = annotate("--workspace", tmp_path / "other", "--port", app.url.rsplit(":", 1)[1], "--no-pages")

    assert other.returncode == 1
    assert "--port" in other.stderr and "Traceback" not in other.stderr


def test_a_stopped_app_leaves_no_address_and_exits_with_0(running_app, tmp_path):
    with running_app(tmp_path) as app:
        app.process.terminate()
        assert app.process.wait(30) == 0

    assert not (tmp_path / "server.json").exists()


def test_users_are_managed_whether_or_not_the_app_runs(running_app, tmp_path):
    before = annotate("users", "add", "ana", "--role", "labeler", "--workspace", tmp_path)
    with running_app(tmp_path) as app:
        during = annotate("users", "add", "ben", "--role", "researcher", "--workspace", tmp_path)
        people = annotate("users", "list", "--workspace", tmp_path).stdout
        names = {}
        for run in (before, during):
            assert run.returncode == 0, run.stderr
            headers = {"Authorization": f"Bearer {run.stdout.splitlines()[-1]}"}
            names |= {(me := httpx.get(f"{app.url}/api/v1/me", headers=headers).json())["name"]: me["role"]}
        assert annotate("users", "disable", "ben", "--workspace", tmp_path).returncode == 0
        assert httpx.get(f"{app.url}/api/v1/me", headers=headers).status_code == 401
        taken = annotate("users", "add", "ana", "--role", "admin", "--workspace", tmp_path)

    assert names == {"ana": "labeler", "ben": "researcher"}
    assert re.search(r"^ana +labeler .* active$", people, re.M)
    assert (taken.returncode, taken.stdout) == (1, "") and "ana" in taken.stderr


def test_listing_users_loads_neither_pages_nor_models(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "annotate", "users", "list", "--workspace", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)

    loaded = {line.split("|")[-1].strip() for line in run.stderr.splitlines()}
    assert run.returncode == 0 and "duckdb" in loaded
    assert not loaded & {"gradio", "torch", "pandas", "fastapi", "uvicorn"}


class Submitter(threading.Thread):
    """A labeler who goes on through crashes of the app, and remembers every receipt."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self.token, self.url = token, ""
        self.receipts: dict[str, str] = {}  # task id: label id
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            try:
                with Client(self.url, self.token) as client:
                    self._label(client)
            except FeedbackError:  # the app is dead, or was born again: ask anew
                time.sleep(0.05)

    def _label(self, client: Client) -> None:
        while not self.done.is_set() and (task := client.next_task("ranking")) is not None:
            ranks = {response["id"]: 1 + i for i, response in enumerate(task["responses"])}
            receipt = client.submit(task["task_id"], {"lease": task["lease"], "ranks": ranks, "seconds": 1})
            self.receipts[task["task_id"]] = receipt["label_id"]


def test_every_acknowledged_label_survives_five_kills(running_app, add_ranking_tasks, tmp_path):
    add_ranking_tasks(tmp_path, 400, overlap=8)
    with Store(Workspace.at(tmp_path).database) as store:
        auth = Auth(store)
        labelers = [Submitter(auth.add_user(f"labeler-{i}", "labeler")[1]) for i in range(8)]
    with ExitStack() as stack:
        stack.callback(lambda: [labeler.done.set() for labeler in labelers])
        for kill in range(6):
            with running_app(tmp_path) as app:
                for labeler in labelers:
                    labeler.url = app.url
                    if not labeler.is_alive():
                        labeler.start()
                before = sum(len(labeler.receipts) for labeler in labelers)
                while sum(len(labeler.receipts) for labeler in labelers) < before + 40:
                    time.sleep(0.01)
                if kill < 5:
                    app.process.kill()
                    app.process.wait()
                    continue
                for labeler in labelers:
                    labeler.done.set()
                    labeler.join()
                rows = [json.loads(line) for line in app.owner.get("/export/rankings").text.splitlines()]

    exported = Counter(row["label_id"] for row in rows)
    acknowledged = [label_id for labeler in labelers for label_id in labeler.receipts.values()]
    assert len(acknowledged) >= 240 and len(set(acknowledged)) == len(acknowledged)
    assert [label_id for label_id in acknowledged if exported[label_id] != 1] == []
    assert max(Counter((row["task_id"], row["labeler"]) for row in rows).values()) == 1
    assert max(Counter(row["task_id"] for row in rows).values()) <= 8


def test_an_app_whose_store_gives_up_stops_and_says_so(tmp_path, capsys):
    workspace = Workspace.at(tmp_path)
    settings = Settings(port=0, train=False, pages=False)
    with bound_socket(settings) as listener, Store(workspace.database) as store:
        app = App(workspace, store, settings, listener)
        running = threading.Thread(target=app.run)
        running.start()
        while not workspace.server.exists():
            time.sleep(0.05)
        store.on_failure(StoreFailed("The disk is full. Every label that was acknowledged is kept."))
        running.join(20)
        app.close()

    assert not running.is_alive() and app.exit_code == 1
    assert "The disk is full" in capsys.readouterr().err
    assert not workspace.server.exists()


def test_an_app_whose_pages_cannot_be_loaded_stops_and_says_so(tmp_path, capsys, monkeypatch):
    def broken(app):
        raise ImportError("no module named gradio, say")

    monkeypatch.setattr("annotate.app._mount", broken)
    workspace, settings = Workspace.at(tmp_path), Settings(port=0, train=False)
    with bound_socket(settings) as listener, Store(workspace.database) as store:
        app = App(workspace, store, settings, listener)
        running = threading.Thread(target=app.run)
        running.start()
        running.join(20)
        app.close()

    assert not running.is_alive() and app.exit_code == 1
    assert "pages could not be loaded" in capsys.readouterr().err


def test_the_pages_come_up_behind_sign_in(running_app, tmp_path):
    with running_app(tmp_path, pages=True) as app:
        headers = {"Authorization": f"Bearer {app.token}"}
        began = time.monotonic()
        while (page := httpx.get(app.url, headers=headers)).status_code == 503:
            assert "starting" in page.text
            assert time.monotonic() - began < 60
            time.sleep(0.3)
        assert page.status_code == 200 and "gradio" in page.text
        assert httpx.get(app.url).headers["location"] == "/sign-in"
        for path in ("/config", "/gradio_api/info", "/theme.css", "/gradio_api/app_id"):
            assert httpx.get(app.url + path).status_code == 401, path
        other = httpx.get(f"{app.url}/config", headers=headers | {"Origin": "https://evil.example", "Host": "pawl.org"})
        assert "access-control-allow-origin" not in other.headers
        log = app.log.read_text()

    assert app.process.returncode == 0
    assert "Traceback" not in log and "Warning" not in log, log
