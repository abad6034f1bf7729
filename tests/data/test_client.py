"""The store's verbs over HTTP, against the app as a real process; and who owns the store."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data import interchange, open_workspace
from data.__main__ import main
from data.batches import Batch, BatchRow
from data.client import Client
from data.columns import rows_of
from data.errors import (
    Conflict,
    FeedbackError,
    InvalidInput,
    NotFound,
    NotSignedIn,
    StoreFailed,
    TooFewLabels,
    WorkspaceInUse,
)
from data.owner import live_app, open_feedback
from data.records import Checkpoint, Message, NewPrompt, NewRanking, NewResponse
from data.store import Store
from data.workspace import Workspace

ROOT = Path(__file__).parents[2]
COLOUR = NewPrompt((Message("user", "Name a colour."),), ("colour",), "train", "test")
RESPONSES = (NewResponse("Blue.", "sft-0001", {"temperature": 0.7}), NewResponse("Fish.", "sft-0001"))


@pytest.fixture
def workspace(tmp_path):
    return Workspace.at(tmp_path / "var")


@contextmanager
def the_app(workspace):
    """The app without its pages on a free port, as a process of its own; ends with the block."""
    command = [sys.executable, "-m", "annotate", "--port", "0", "--no-train", "--no-pages"]
    with (workspace.root / "app.txt").open("w") as log:
        process = subprocess.Popen(
            [*command, "--workspace", str(workspace.root)], stdout=log, stderr=subprocess.STDOUT, cwd=ROOT
        )
    try:
        deadline = time.monotonic() + 60
        while not workspace.server.exists():
            assert process.poll() is None and time.monotonic() < deadline, (workspace.root / "app.txt").read_text()
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.slow
def test_a_client_does_what_the_store_does(workspace):
    with the_app(workspace), open_feedback(workspace) as client:
        assert isinstance(client, Client)
        (id,) = client.add_prompts([COLOUR])
        assert client.add_prompts([COLOUR]) == [id]
        assert len(client.add_demonstration_tasks([id])) == 1
        assert client.add_demonstration_tasks([id]) == []
        assert len(client.add_demonstrations([(id, "Blue.")], labeler="ana", source="f.csv")) == 1
        assert client.add_demonstrations([(id, "Blue.")], labeler="ana", source="f.csv") == []
        ranking = NewRanking(id, RESPONSES, (1, 2), "ana", ({"helpful": 7}, {}), ((), ("false",)), "So.", 4.5)
        (label_id,) = client.add_rankings([ranking])
        assert client.add_rankings([ranking]) == []
        assert len(client.add_batch(Batch("sample-0001", "sft-0001", (BatchRow(id, RESPONSES),)))) == 1
        when = datetime(2026, 1, 2, tzinfo=UTC)
        client.add_checkpoint(
            Checkpoint("sft-0001", "sft", ("pretrain-0001",), None, {"loss": 1.5}, "promoted", "the first", when)
        )
        client.put_run("cycle-0001", {"id": "cycle-0001", "state": "running"})

        assert client.stats()["labels"]["rankings"] == 1
        frozen = client.freeze()
        assert (workspace.snapshots / frozen["snapshot"]).is_dir()
        assert frozen["promoted"] == "sft-0001"
        (row,) = map(json.loads, b"".join(client.export("rankings", "jsonl")).splitlines())
        assert (row["label_id"], row["ranks"], row["comment"]) == (label_id, [1, 2], "So.")
        opened = open_workspace(workspace.root)  # which asks the app too
        [record] = opened.rankings
        assert (record.label_id, record.comment, opened.counts()["rankings"]) == (label_id, "So.", 1)
        assert opened.checkpoints()[0].created_at == when
        assert client.withdraw(label_id=label_id)["label_ids"] == [label_id]
        assert b"".join(client.export("rankings", "jsonl")) == b""

        with pytest.raises(InvalidInput, match="robot"):
            client.add_prompts([NewPrompt((Message("robot", "x"),))])
        with pytest.raises(NotFound):
            client.withdraw(labeler="nobody")
        with pytest.raises(Conflict, match="ben"):
            client.add_user("ben", "labeler")
            client.add_user("ben", "labeler")
    with open_feedback(workspace) as store:
        assert isinstance(store, Store)
        assert store.promoted().parents == ("pretrain-0001",)
        assert store.run("cycle-0001") == {"id": "cycle-0001", "state": "running"}


@pytest.mark.slow
def test_a_labeler_works_through_a_client(workspace):
    with the_app(workspace), open_feedback(workspace) as owner:
        (id,) = owner.add_prompts([COLOUR])
        owner.add_batch(Batch("sample-0001", "sft-0001", (BatchRow(id, RESPONSES),)))
        token = owner.add_user("ana", "labeler")["token"]
        with Client(owner.url, token) as ana:
            assert ana.me()["name"] == "ana"
            task = ana.next_task("ranking")
            label = {"lease": task["lease"], "ranks": {response["id"]: 1 for response in task["responses"]}}
            receipt = ana.submit(task["task_id"], label)
            assert ana.submit(task["task_id"], label) == receipt
            assert ana.next_task("ranking") is None
            task = ana.next_task("demonstration")
            ana.skip(task["task_id"], task["lease"], "unclear")
        owner.disable_user("ana")
        with Client(owner.url, token) as ana, pytest.raises(NotSignedIn):
            ana.me()


@pytest.mark.slow
def test_an_import_through_the_app_gives_what_one_into_the_store_gives(workspace, tmp_path):
    path = tmp_path / "f.jsonl"
    rows = [{"prompt": f"Prompt {n}?", "chosen": f"{n} is good", "rejected": f"{n} is bad"} for n in range(700)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"prompt": "x"}\n')

    with the_app(workspace), open_feedback(workspace) as client:
        report = interchange.import_file(client, "comparisons", path)
        assert (report.taken, report.new, len(report.skipped)) == (700, 700, 1)
        assert interchange.seed(client)["new_tasks"] == 0  # the app seeded its store when it started
        assert (
            main(
                [
                    "export",
                    "comparisons",
                    "--to",
                    str(tmp_path / "d"),
                    "--format",
                    "hf",
                    "--workspace",
                    str(workspace.root),
                ]
            )
            == 0
        )
        over_http = [row for batch in client.export_batches("comparisons") for row in rows_of(batch)]
    with open_feedback(workspace) as store:
        again = interchange.import_file(store, "comparisons", path)
        assert (again.taken, again.new) == (700, 0)
        assert over_http == list(store.comparison_rows())
    shards = sorted((tmp_path / "d" / "data").iterdir())
    assert sum(pq.ParquetFile(shard).metadata.num_rows for shard in shards) == 700


@pytest.mark.slow
def test_the_address_of_an_app_that_was_killed_is_removed(workspace):
    with the_app(workspace) as process:
        process.kill()
        process.wait(timeout=30)
        assert workspace.server.exists()

        with open_feedback(workspace) as store:
            assert isinstance(store, Store)
    assert not workspace.server.exists()


def test_a_store_that_nobody_owns_is_opened_and_let_go(workspace):
    with open_feedback(workspace) as store:
        store.add_prompts([COLOUR])
    with open_feedback(workspace) as store:
        assert len(store.prompts()) == 1


def test_another_process_that_never_says_where_it_listens_is_named_after_a_while(workspace):
    with Store(workspace.database):
        began = time.monotonic()
        with pytest.raises(WorkspaceInUse, match=r"feedback\.duckdb"), open_feedback(workspace, wait=0.5):
            pass
        assert time.monotonic() - began >= 0.5


def test_a_store_in_use_is_waited_for(workspace):
    store = Store(workspace.database)
    threading.Timer(0.4, store.close).start()

    with open_feedback(workspace, wait=30) as opened:
        assert isinstance(opened, Store)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": "http://127.0.0.1:9", "pid": 1, "token": "t"}'])
def test_a_server_file_that_leads_nowhere_is_ignored_and_removed(workspace, text):
    workspace.server.write_text(text)

    with open_feedback(workspace) as store:
        assert isinstance(store, Store)
    assert not workspace.server.exists()


@contextmanager
def answering(status, body, kind="application/problem+json"):
    """A server that gives every request this answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "title", "error"),
    [
        (409, "Too few labels", TooFewLabels),
        (409, "Workspace in use", WorkspaceInUse),
        (409, "Conflict", Conflict),
        (404, "Something new", NotFound),
        (418, "Teapot", FeedbackError),
    ],
)
def test_a_problem_document_is_raised_as_the_error_it_names(status, title, error):
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": "What, and what next."})

    with answering(status, body.encode()) as url, Client(url, "token") as client:
        with pytest.raises(error, match="^What, and what next.$") as raised:
            client.stats()
        assert type(raised.value) is error
        with pytest.raises(error, match="What, and what next"):
            list(client.export("prompts", "jsonl"))


def test_an_answer_that_is_no_problem_document_is_quoted():
    with answering(502, b"<h1>Bad gateway</h1>", "text/html") as url, Client(url, "token") as client:
        with pytest.raises(FeedbackError, match=r"answered 502: <h1>Bad gateway"):
            client.stats()


def test_a_silent_app_is_named():
    with Client("http://127.0.0.1:9", "token") as client:
        with pytest.raises(StoreFailed, match=r"app at http://127\.0\.0\.1:9 does not answer"):
            client.stats()


def test_another_workspaces_app_at_the_same_address_is_not_taken_for_ours(workspace):
    problem = json.dumps({"title": "Not signed in", "status": 401, "detail": "Who?"}).encode()

    with answering(401, problem) as url:
        workspace.server.write_text(json.dumps({"url": url, "pid": os.getpid(), "token": "ours"}))
        assert live_app(workspace) is None
