"""The store's verbs over HTTP, for when the app owns the store.

`python -m data`, the training processes it serves and the simulated labelers speak through this. Answers of the app
come back as the store would have given them, its problem documents as the errors of data.errors.

    with Client("http://127.0.0.1:7860", token) as client:
        task = client.next_task("ranking")
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import httpx

from data.errors import FeedbackError, StoreFailed
from data.records import Checkpoint, NewDemonstration, NewPrompt, NewRanking, Role, TaskKind

if TYPE_CHECKING:
    import pyarrow as pa

    from data.batches import Batch

CONNECT_SECONDS = 5
KEEP_SECONDS = 2  # less than the app keeps a silent connection, so that none is closed under a request
ANSWER_SECONDS = 300  # freezing and exports of large stores take their time


class Client:
    """One signed-in connection to the app at `url`. Safe to share between threads."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        local = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(keepalive_expiry=KEEP_SECONDS),
            verify=self.url.startswith("https:"),  # reading the certificates takes longer than a request without them
            trust_env=not local,  # a proxy has no business between two processes of one machine
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # labeling

    def next_task(self, kind: TaskKind) -> dict[str, Any] | None:
        """My open task, else a new one: task_id, kind, lease, lease_expires_at, prompt, responses. None: none left."""
        task: dict[str, Any] | None = self._call("POST", "/tasks/next", {"kind": kind})
        return task

    def submit(self, task_id: str, label: dict[str, Any]) -> dict[str, Any]:
        """Send a label: `lease` and `ranks`, or `lease` and `response`, and the rest. Its label_id and revision."""
        receipt: dict[str, Any] = self._call("PUT", f"/tasks/{task_id}/label", label)
        return receipt

    def skip(self, task_id: str, lease: str, reason: str) -> None:
        """Give the task back with a reason; it does not come again."""
        self._call("POST", f"/tasks/{task_id}/skip", {"lease": lease, "reason": reason})

    # prompts, tasks and labels made elsewhere

    def add_prompts(self, prompts: Sequence[NewPrompt]) -> list[str]:
        """Add prompts; their ids in order. Identical prompts keep their id."""
        ids: list[str] = self._call("POST", "/prompts", [asdict(prompt) for prompt in prompts])["ids"]
        return ids

    def add_demonstration_tasks(self, prompt_ids: Sequence[str], overlap: int = 1) -> list[str]:
        """Ask `overlap` labelers for a demonstration of each prompt that has no such task yet; the new tasks' ids."""
        body = {"kind": "demonstration", "prompt_ids": list(prompt_ids), "overlap": overlap}
        ids: list[str] = self._call("POST", "/tasks", body)["task_ids"]
        return ids

    def add_source(self, name: str, licence: str) -> None:
        """Keep under which licence that is whose source has this name."""
        self._call("POST", "/sources", {"name": name, "licence": licence})

    def add_demonstrations(
        self, rows: Sequence[NewDemonstration | tuple[str, str]], *, labeler: str, source: str
    ) -> list[str]:
        """Add demonstrations as (prompt id, response) or whole; the ids of the new ones."""
        whole = [_timed(NewDemonstration(*row)._asdict()) for row in rows]
        body = {"labeler": labeler, "source": source, "rows": whole}
        ids: list[str] = self._call("POST", "/demonstrations", body)["label_ids"]
        return ids

    def add_rankings(self, rows: Sequence[NewRanking], *, source: str = "import") -> list[str]:
        """Add rankings; the ids of the new ones."""
        body = {"source": source, "rows": [_timed(asdict(row)) for row in rows]}
        ids: list[str] = self._call("POST", "/rankings", body)["label_ids"]
        return ids

    def withdraw(
        self,
        *,
        label_id: str | None = None,
        labeler: str | None = None,
        prompt_id: str | None = None,
        refreeze: bool = False,
    ) -> dict[str, Any]:
        """Withdraw a label, a labeler's labels, or a prompt with its labels, as `owner.withdraw` does and says."""
        body = {"label_id": label_id, "labeler": labeler, "prompt_id": prompt_id, "refreeze": refreeze}
        found: dict[str, Any] = self._call("POST", "/withdrawals", body)
        return found

    # people

    def users(self) -> list[dict[str, Any]]:
        """Everyone who may sign in, or once might: `name, role, pseudonym, active, created_at`."""
        users: list[dict[str, Any]] = self._call("GET", "/users")
        return users

    def add_user(self, name: str, role: Role) -> dict[str, Any]:
        """A new user: `name, role, pseudonym`, and their API `token`, which is shown this once."""
        user: dict[str, Any] = self._call("POST", "/users", {"name": name, "role": role})
        return user

    def sign_in_link(self, name: str) -> str:
        """The path of a link that signs this user in once."""
        link: str = self._call("POST", f"/users/{quote(name, safe='')}/link")["link"]
        return link

    def disable_user(self, name: str) -> None:
        """Shut a user out; what they said is kept."""
        self._call("POST", f"/users/{quote(name, safe='')}/disable")

    # reading

    def me(self) -> dict[str, Any]:
        """Who this token is."""
        me: dict[str, Any] = self._call("GET", "/me")
        return me

    def stats(self) -> dict[str, Any]:
        """Counts by kind and state, labelers, agreement, tasks per hour."""
        stats: dict[str, Any] = self._call("GET", "/stats")
        return stats

    def reliability(self) -> dict[str, Any]:
        """How reliable each labeler is, and what that means."""
        found: dict[str, Any] = self._call("GET", "/reliability")
        return found

    def export(self, kind: str, format: str) -> Iterator[bytes]:
        """The bytes of an export file as they arrive."""
        try:
            with self._http.stream("GET", f"/export/{kind}", params={"format": format}) as answer:
                if answer.is_error:
                    answer.read()
                    raise _error_of(answer)
                yield from answer.iter_bytes()
        except httpx.TransportError as error:
            raise self._silence(error) from error

    def export_batches(self, kind: str) -> Iterator[pa.RecordBatch]:
        """The rows of an export in Arrow batches, by way of a temporary file."""
        import pyarrow.parquet as pq  # a fifth of a second that the other calls do not need

        from data.columns import ROW_GROUP, SCHEMAS

        with tempfile.TemporaryFile() as file:
            file.writelines(self.export(kind, "parquet"))
            file.seek(0)
            for batch in pq.ParquetFile(file).iter_batches(batch_size=ROW_GROUP):
                yield batch.cast(SCHEMAS[kind])

    # models and runs

    def freeze(self, choices: dict[str, Any] | None = None) -> dict[str, Any]:
        """Freeze the labels in the app's workspace: `snapshot, path, counts, promoted, created_at, choices`."""
        summary: dict[str, Any] = self._call("POST", "/snapshots", choices)
        return summary

    def checkpoints(self) -> list[Checkpoint]:
        """Every checkpoint with its present standing, oldest first."""
        return [
            Checkpoint(
                **each | {"parents": tuple(each["parents"]), "created_at": datetime.fromisoformat(each["created_at"])}
            )
            for each in self._call("GET", "/checkpoints")
        ]

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Hand in a checkpoint, or a new state of one."""
        body = asdict(checkpoint) | {"created_at": checkpoint.created_at.isoformat()}
        self._call("POST", "/checkpoints", body)

    def add_batch(self, batch: Batch) -> list[str]:
        """Hand in sampled responses; the ids of the ranking tasks made of them."""
        ids: list[str] = self._call("POST", "/batches", asdict(batch))["task_ids"]
        return ids

    def put_run(self, run_id: str, state: dict[str, Any]) -> None:
        """Hand in how a run stands."""
        self._call("PUT", f"/runs/{run_id}", state)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        """One request; its JSON, or None for 204. Raises the error that the problem document names."""
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise self._silence(error) from error
        if answer.is_error:
            raise _error_of(answer)
        return answer.json() if answer.content else None

    def _silence(self, error: httpx.TransportError) -> StoreFailed:
        return StoreFailed(
            f"The app at {self.url} does not answer ({error or type(error).__name__}). Nothing is known to be stored; "
            "sending the same again is safe. See whether the app still runs."
        )


def _timed(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its time as JSON has it."""
    return row | {"labeled_at": row["labeled_at"].isoformat() if row["labeled_at"] else None}


def _error_of(answer: httpx.Response) -> FeedbackError:
    """The error in a problem document (RFC 9457); its title tells the class, else its status does."""
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": f"{answer.request.url} answered {answer.status_code}: {answer.text[:200]}"}
    kinds = list(_tree(FeedbackError))
    by_title = [kind for kind in kinds if kind.title == problem.get("title")]
    by_status = [kind for kind in kinds if kind.status == answer.status_code]
    kind = (by_title or by_status or [FeedbackError])[0]
    return kind(str(problem.get("detail") or problem.get("title") or answer.reason_phrase))


def _tree(kind: type[FeedbackError]) -> Iterator[type[FeedbackError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)
