"""What is acknowledged survives: kill -9 amid submissions, a write-ahead log cut short, a disk that is full.

The victims are real child processes. A full disk is a limit on the size of the files that the child may write.
"""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data.store import Store

pytestmark = pytest.mark.slow

COMMON = """
import os, resource, sys, threading
from pathlib import Path
from data.batches import Batch, BatchRow
from data.errors import StoreFailed
from data.records import Message, NewPrompt, NewResponse, RankingAnswer
from data.store import Store

path = Path(sys.argv[1])

def new_tasks(store, count, overlap):
    first = len(store.prompts())
    ids = store.add_prompts([NewPrompt((Message("user", f"Question {first + n}?"),)) for n in range(count)])
    texts = (NewResponse("One.", "sft-0001"), NewResponse("Two.", "sft-0001"))
    store.add_batch(Batch(f"batch-{first}", "sft-0001", tuple(BatchRow(id, texts) for id in ids)), overlap)

def submit(store, name, comment=""):
    assignment = store.next_task(name, "ranking")
    one, two = assignment.task.response_ids
    answer = RankingAnswer({one: 1, two: 2}, comment=comment)
    return store.submit_ranking(name, assignment.task.id, assignment.lease, answer, guideline="g1")
"""

SUBMITTING = (
    COMMON
    + """
store = Store(path)
names = [f"labeler{n}" for n in range(8)]
for name in set(names) - {user.name for user in store.users()}:
    store.add_user(name, "labeler")
new_tasks(store, 300, 8)

def work(name):
    while True:
        receipt = submit(store, name)
        os.write(1, f"{receipt.label_id}\\n".encode())  # acknowledged

for name in names:
    threading.Thread(target=work, args=(name,), daemon=True).start()
threading.Event().wait()
"""
)


def run(program: str, path: Path) -> str:
    """Run the program to its end; what it printed."""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def killed_amid(program: str, path: Path, acknowledgements: int) -> list[str]:
    """Start the program, kill -9 it after so many lines, and give the whole lines that it got out."""
    child = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        lines = [child.stdout.readline() for _ in range(acknowledgements)]
        os.kill(child.pid, signal.SIGKILL)
        lines += child.stdout.readlines()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    return [line.strip() for line in lines if line.endswith("\n")]


def test_every_acknowledged_label_is_there_once_after_five_kills(tmp_path):
    path = tmp_path / "feedback.duckdb"
    acknowledged: list[str] = []
    for kill in range(5):
        acknowledged += killed_amid(SUBMITTING, path, 40 + 60 * kill)
        with Store(path) as store:
            stored = Counter(row["label_id"] for row in store.ranking_rows())
            labels = Counter((ranking.task_id, ranking.labeler) for ranking in store.rankings())
        assert set(acknowledged) <= set(stored), f"kill {kill}"
        assert set(stored.values()) == set(labels.values()) == {1}
    assert len(acknowledged) == len(set(acknowledged)) >= 5 * 40


def test_a_write_ahead_log_cut_short_loses_no_label_before_the_cut(tmp_path):
    path, log = tmp_path / "feedback.duckdb", tmp_path / "feedback.duckdb.wal"
    acknowledged = killed_amid(SUBMITTING, path, 100)
    size = log.stat().st_size
    with log.open("r+b") as file:
        file.truncate(size - 7)  # the last commit is cut in two

    with Store(path) as store:
        stored = {row["label_id"] for row in store.ranking_rows()}

    lost = set(acknowledged) - stored
    assert len(lost) <= 8  # those of the last commit, of eight threads at most


FULL_LOG = (
    COMMON
    + """
store = Store(path)
store.add_user("ana", "labeler")
new_tasks(store, 4, 1)
kept = [submit(store, "ana").label_id]
waiting = store.next_task("ana", "ranking")
tables = lambda: [store._read(f"SELECT * FROM {t} ORDER BY rowid") for t in ("rankings", "leases", "tasks", "prompts")]
before = tables()
size = path.with_name(path.name + ".wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
try:
    submit(store, "ana", "x" * 50_000)
except StoreFailed as error:
    print("refused:", error)
assert tables() == before
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert store.next_task("ana", "ranking") == waiting  # memory says again what the tables say
kept += [submit(store, "ana", "x" * 50_000).label_id for _ in range(3)]
assert [r.label_id for r in store.rankings()] == kept
store.close()
print("kept:", *kept)
"""
)


def test_a_full_disk_refuses_the_label_and_the_store_goes_on_when_there_is_room(tmp_path):
    path = tmp_path / "feedback.duckdb"

    printed = run(FULL_LOG, path)

    assert "Nothing of it was kept" in printed
    with Store(path) as store:
        assert [ranking.label_id for ranking in store.rankings()] == printed.split("kept: ")[1].split()


FULL_CHECKPOINT = (
    COMMON
    + """
store = Store(path)
store.add_user("ana", "labeler")
failures = []
store.on_failure = failures.append
new_tasks(store, 1_000, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, resource.RLIM_INFINITY))  # the log is checkpointed at 16 MB
kept = []
try:
    while True:
        kept.append(submit(store, "ana", os.urandom(45_000).hex()).label_id)
except StoreFailed as error:
    print("stopped:", error)
for attempt in (lambda: submit(store, "ana"), lambda: store.rankings(), lambda: store.add_user("ben", "labeler")):
    try:
        attempt()
        print("went on")
    except StoreFailed as error:
        assert "has stopped" in str(error), error
assert len(failures) == 1 and "start the app again" in str(failures[0]), failures
store.close()
print("kept:", *kept)
"""
)


def test_a_disk_full_amid_a_checkpoint_stops_the_store_and_loses_nothing(tmp_path):
    path = tmp_path / "feedback.duckdb"

    printed = run(FULL_CHECKPOINT, path)

    kept = printed.split("kept: ")[1].split()
    assert "has stopped" in printed and "went on" not in printed
    assert len(kept) > 100
    with Store(path) as store:
        stored = Counter(row["label_id"] for row in store.ranking_rows())
    assert set(kept) <= set(stored) and set(stored.values()) == {1}
