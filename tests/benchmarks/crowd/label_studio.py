"""Label Studio as a rival: its own server on its default database (SQLite), with annotators, a project and its tasks.

Reads   the environment that tests/benchmarks/rivals.py makes
Writes  a folder of its own: the database that Label Studio migrates at its first start
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_SECONDS = 300  # the first start migrates the database
OFFLINE = {
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",  # tokens that a program can send as they are
    "FEATURE_FLAGS_OFFLINE": "true",
}
CONFIG = """<View><Text name="prompt" value="$prompt"/><Text name="a" value="$a"/><Text name="b" value="$b"/>
<Text name="c" value="$c"/><Text name="d" value="$d"/>
<Choices name="best" toName="prompt">
<Choice value="A"/><Choice value="B"/><Choice value="C"/><Choice value="D"/></Choices>
</View>"""
# Runs inside Label Studio: migrates, and makes the annotators, who are members of one organization. Says their tokens.
PREPARE = """
import json, os, sys
from label_studio.server import _setup_env, _apply_database_migrations
_setup_env()
_apply_database_migrations()
from organizations.models import Organization
from rest_framework.authtoken.models import Token
from users.models import User
organization, tokens = None, []
for number in range(int(sys.argv[1])):
    user = User.objects.create_user(email=f"annotator-{number}@localhost.invalid", password=os.urandom(8).hex())
    if organization is None:
        organization = Organization.create_organization(created_by=user, title="Pawl's rival")
        organization.jwt.legacy_api_tokens_enabled = True
        organization.jwt.save()
    else:
        organization.add_user(user)
    user.active_organization = organization
    user.save()
    tokens.append(Token.objects.get_or_create(user=user)[0].key)
print("TOKENS " + json.dumps(tokens))
"""


@dataclass(frozen=True)
class Running:
    """A server with a project whose tasks wait."""

    url: str
    project: int
    tokens: list[str]
    process: subprocess.Popen[bytes]
    database: Path


@contextmanager
def running(python: Path, folder: Path, port: int, tasks: int, overlap: int, people: int) -> Iterator[Running]:
    """Label Studio with these many tasks and annotators, on a port that is free."""
    shutil.copytree(prepared(python, people), folder)
    tokens = json.loads((folder / "tokens.json").read_text())
    start = "import sys; from label_studio.server import main; sys.argv[0] = 'label-studio'; main()"
    command = [python, "-c", start, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, env=_environment(folder), stdout=log, stderr=log, cwd=folder)
    try:
        url = f"http://127.0.0.1:{port}"
        _when_ready(url, process, folder / "log.txt")
        project = _project(url, tokens[0], tasks, overlap)
        yield Running(url, project, tokens, process, folder / "label_studio.sqlite3")
    finally:
        process.terminate()
        process.wait(30)


def prepared(python: Path, people: int) -> Path:
    """A database with the annotators and nothing else. Migrating one takes minutes: it is kept beside the rival."""
    kept = python.parents[1] / f"prepared-{people}"
    if (kept / "tokens.json").exists():
        return kept
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    ran = subprocess.run(
        [python, "-c", PREPARE, str(people)], env=_environment(kept), capture_output=True, text=True, cwd=kept
    )
    if ran.returncode != 0:
        raise RuntimeError(f"Label Studio could not be prepared:\n{ran.stderr[-3000:]}")
    [line] = [line for line in ran.stdout.splitlines() if line.startswith("TOKENS ")]
    (kept / "tokens.json").write_text(line.removeprefix("TOKENS "))
    return kept


def _environment(folder: Path) -> dict[str, str]:
    environment = os.environ | OFFLINE | {"LABEL_STUDIO_BASE_DATA_DIR": str(folder)}
    return {name: value for name, value in environment.items() if name != "PYTHONPATH"}


def _when_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"Label Studio ended at its start:\n{log.read_text()[-3000:]}")
        try:
            if httpx.get(f"{url}/health", timeout=10).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"Label Studio was not there after {START_SECONDS} s:\n{log.read_text()[-3000:]}")


def _project(url: str, token: str, tasks: int, overlap: int) -> int:
    """A project that wants `overlap` annotations of each of `tasks` tasks; its id."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}, timeout=300) as client:
        body = {"title": "Responses", "label_config": CONFIG, "maximum_annotations": overlap}
        made = client.post("/api/projects/", json=body)
        made.raise_for_status()
        project = int(made.json()["id"])
        text = "A pawl is a small lever that drops into the teeth of a ratchet. "
        for start in range(0, tasks, 1_000):
            rows = [
                {"prompt": f"Question {i}: what is a pawl?", **{name: f"{name} {i}. {text * 5}" for name in "abcd"}}
                for i in range(start, min(tasks, start + 1_000))
            ]
            client.post(f"/api/projects/{project}/import", json=rows).raise_for_status()
    return project


def labels_of(database: Path) -> list[tuple[str, str]]:
    """Task and annotator of every annotation that is stored."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT task_id, completed_by_id FROM task_completion").fetchall()
    return [(str(task), str(annotator)) for task, annotator in rows]
