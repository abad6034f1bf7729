"""The store: everything people said, in one DuckDB file that one process owns.

Reads and writes  feedback.duckdb (tables in data/schema.py); nothing else ever opens, copies or hashes that file
Promises          a verb that returned is on disk, whatever dies next; an edit is a new revision, a withdrawal is a row
                  that hides, and no row is ever changed or removed
Raises            only the errors of data/errors.py

Every change goes through one writer thread (data/writer.py), which decides it against the live state in memory
(data/live.py) and commits it together with what else is waiting. Readers have cursors of their own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import duckdb

from data import catalog, exports, history, intake, labeling, lineage, people
from data.awaiting import Awaiting
from data.checks import Checks
from data.conversations import Conversations
from data.counts import Counts
from data.database import cursor_of, open_database
from data.errors import NotFound, StoreFailed
from data.insight import Insight, own
from data.live import Live
from data.project import Project
from data.queue import Lease
from data.records import (
    Assignment,
    Checkpoint,
    Demonstration,
    DemonstrationAnswer,
    NewDemonstration,
    NewPrompt,
    NewRanking,
    NewResponse,
    Prompt,
    Ranking,
    RankingAnswer,
    Receipt,
    Response,
    Role,
    TaskKind,
    User,
)
from data.review import Reviews
from data.rows import Row
from data.texts import Texts
from data.validate import check_demonstration, check_draft, check_notes, check_ranking
from data.writer import Decide, Writer

if TYPE_CHECKING:
    import pyarrow as pa

    from data.batches import Batch  # pyarrow: half a second that a sign-in does not need
    from data.near_duplicates import NearDuplicates

T = TypeVar("T")
TokenKind = Literal["api", "session", "link"]
SLICE = 1_000  # rows of an import in one commit: labelers wait behind no more than that
PLACED_AT_ONCE = 10_000  # prompts read at once for the index of near-duplicates


def utc_now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


class Store:
    """Verbs in, records out. Safe to call from any thread; close it, or use it as a context manager.

    `path` None keeps everything in memory. `now` is the clock that leases and time stamps go by. `on_failure` is
    called from the writer thread when the database has given up for good: the app must then stop.
    Raises WorkspaceInUse when the file is owned already, StoreFailed when it cannot be opened.
    """

    def __init__(self, path: Path | None, *, now: Callable[[], datetime] = utc_now, lease_minutes: float = 30) -> None:
        self.on_failure: Callable[[StoreFailed], None] | None = None
        self._now = now
        self._lease = timedelta(minutes=lease_minutes)
        self._database = open_database(path)
        self._scratch = path.parent if path else None  # where an export lays aside what does not fit in memory
        try:
            self._writer = Writer(self._database.connection, now, self._failed)
        except duckdb.Error as error:
            self._database.close()
            raise StoreFailed(f"The store {path} cannot be read: {error}. Nothing was changed.") from error
        except BaseException:
            self._database.close()
            raise
        self.project = Project(self._write, lambda: self._live)
        self.reviews = Reviews(self._write, lambda: self._live, self.moment)
        self.checks = Checks(self._write, lambda: self._live, self.moment, self.task_texts)
        self._placing = threading.Lock()  # prompts are placed one slice after another: each sees those before it
        self._near_duplicates: NearDuplicates | None = None
        self._counts = Counts()
        self._insight = Insight()
        self.conversations = Conversations(self, self._lease)
        self._texts = Texts(self._read, lambda: self._live)
        self.awaiting = Awaiting(self)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer what is waiting, then let the file go. A second close does nothing."""
        self._writer.close()
        self._database.close()

    # ------------------------------------------------------------------ people

    def add_user(self, name: str, role: Role) -> User:
        """A new person, with a pseudonym for exports. Raises Conflict when the name is taken."""
        return self._write(partial(people.add_user, name=name, role=role))

    def users(self) -> list[User]:
        """Everyone, in the order they were added."""
        return list(self._live.users.values())

    def user(self, name: str) -> User:
        """The person of that name. Raises NotFound."""
        return self._live.user(name)

    def disable_user(self, name: str) -> None:
        """Shut a person out: every token of theirs stops working at once. Their labels stay."""
        self._write(partial(people.disable_user, name=name))

    def set_password(self, name: str, password_hash: str, keep_session: str | None = None) -> None:
        """Keep the hash of a person's new password. Their sessions end, but for the one with this token hash."""
        self._write(partial(people.set_password, name=name, password_hash=password_hash, keep=keep_session))

    def password_hash(self, name: str) -> str | None:
        """The hash of a person's password; None when they have none. Raises NotFound for an unknown name."""
        return self._live.passwords.get(self._live.user(name).name)

    def add_token(self, name: str, token_hash: str, kind: TokenKind, expires_at: datetime | None) -> None:
        """Keep the hash of a token that lets a person in until `expires_at` (None: until revoked)."""
        self._write(partial(people.add_token, name=name, token_hash=token_hash, kind=kind, expires_at=expires_at))

    def user_of_token(self, token_hash: str, kind: str) -> User | None:
        """Whose token that is; None when it is unknown, of another kind, expired, revoked, or its owner disabled."""
        return self._live.user_of_token(token_hash, kind, self._now())

    def use_link(self, token_hash: str) -> User | None:
        """Spend a one-time link: the first caller gets its user, every other None."""
        return self._write(partial(people.use_link, token_hash=token_hash))

    def revoke_token(self, token_hash: str) -> None:
        """The token stops working; an unknown one is no error."""
        self._write(partial(people.revoke_token, token_hash=token_hash))

    # ------------------------------------------------- prompts, responses, tasks

    def add_prompts(self, prompts: Sequence[NewPrompt]) -> list[str]:
        """The prompts' ids, in their order. One whose messages are known keeps its id, tags and split.

        A new one without a split that nearly repeats another comes to that one's side (data/near_duplicates.py).
        Raises InvalidInput, naming every field at fault, before anything is stored.
        """
        checked = catalog.checked_prompts(prompts)
        ids: list[str] = []
        for start in range(0, len(checked), SLICE):
            with self._placing:
                placed = self._placed(checked[start : start + SLICE])
                ids += self._write(partial(catalog.add_prompts, prompts=placed))
        return ids

    def place_prompt(self, prompt: catalog.CheckedPrompt) -> catalog.CheckedPrompt:
        """The prompt on the side where it will be stored."""
        with self._placing:
            return self._placed([prompt])[0]

    def has_prompts(self) -> bool:
        """Whether there is any prompt; answers from memory."""
        return bool(self._live.prompts)

    def prompt_ids(self) -> set[str]:
        """The ids of all prompts; answers from memory."""
        return set(list(self._live.prompts))

    def prompts(self) -> list[Prompt]:
        """Every prompt that stands, oldest first."""
        return [
            exports.prompt_of(row)
            for row in self._read(f"SELECT {exports.PROMPT} FROM standing_prompts ORDER BY number")
        ]

    def prompt(self, id: str) -> Prompt:
        """The prompt with that id. Raises NotFound."""
        return self._texts.prompts([id])[id]

    def add_demonstration_tasks(self, prompt_ids: Sequence[str], overlap: int = 1) -> list[str]:
        """Ask for ideal responses: a task for each prompt that has none yet. The new tasks' ids."""
        return self._write(partial(catalog.add_demonstration_tasks, prompt_ids=prompt_ids, overlap=overlap))

    def add_ranking_task(self, prompt_id: str, responses: Sequence[NewResponse], overlap: int) -> str:
        """Ask `overlap` labelers to rank 2 to 9 responses. The task's id."""
        checked = catalog.checked_responses(responses)
        return self._write(partial(catalog.add_ranking_task, prompt_id=prompt_id, responses=checked, overlap=overlap))

    def add_batch(self, batch: Batch, overlap: int | None = None) -> list[str]:
        """A ranking task for each row of the batch, whole or not at all, in the order they are to be labeled.

        Without an `overlap` the project's settings say how many labelers each wants. Added again, the batch gives the
        same task ids.
        """
        return self._write(partial(catalog.add_batch, batch=catalog.checked_batch(batch), overlap=overlap))

    def retire_tasks(self, batch_id: str) -> int:
        """Hand out no more of a batch's open tasks; their labels stay. How many that were."""
        return self._write(partial(catalog.retire_batch, batch_id=batch_id))

    # ---------------------------------------------------------------- labeling

    def next_task(self, labeler: str, kind: TaskKind, after: str | None = None) -> Assignment | None:
        """The task this labeler has open, with the same lease; else a new one; None when nothing is left for them.

        Newest batch first; within it, tasks that others have begun, then the oldest; and now and then a task that
        shows how well they judge (data/assignment.py). `after` is a task they hold, and asks for the one to follow.
        """
        lease = self._write(self._claim(labeler, kind, after))
        return self._assignment(lease.task_id, lease.labeler, lease.token, lease.expires_at) if lease else None

    def labels_of(self, labeler: str, *, before: datetime | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """What this labeler said, the latest first, as data/history.py gives it."""
        pseudonym = self._live.user(labeler).pseudonym
        with self.moment() as moment:
            return history.labels_of(moment, self._live, pseudonym, before, limit)

    def label_of(self, labeler: str, task_id: str) -> dict[str, Any]:
        """What this labeler said of a task, as `labels_of` gives it. Raises NotFound."""
        pseudonym = self._live.user(labeler).pseudonym
        with self.moment() as moment:
            return history.label_of(moment, self._live, pseudonym, task_id)

    def shown_to(self, labeler: str, task_id: str) -> Assignment:
        """A task that this labeler answered, as they saw it. Raises NotFound."""
        live = self._live
        pseudonym = live.user(labeler).pseudonym
        label = live.answers.get((live.task(task_id).task.id, pseudonym))
        if label is None or label.lease is None:
            raise NotFound(f"You have no answer to task {task_id[:80]!r}.")
        return self._assignment(task_id, pseudonym, label.lease, self._now())

    def save_draft(
        self, labeler: str, task_id: str, lease: str, work: dict[str, Any], seconds: float | None
    ) -> datetime:
        """Keep what the labeler has on the screen, in the place of their draft before; when that was.

        It comes back with the task until they submit or skip it. Raises NotFound, InvalidInput, or Conflict when they
        do not hold the task.
        """
        text = check_draft(work, seconds)
        decide = partial(labeling.save_draft, name=labeler, task_id=task_id, token=lease, work=text, seconds=seconds)
        return self._write(decide)

    def undo(self, labeler: str, task_id: str, lease: str) -> datetime:
        """Take an answer back: it stands no more, and the task is the labeler's again until the time given.

        Raises NotFound or Conflict.
        """
        return self._write(partial(labeling.undo, name=labeler, task_id=task_id, token=lease, period=self._lease))

    def renew_lease(self, labeler: str, task_id: str, lease: str) -> datetime:
        """The lease's new end, a full period from now. Raises Conflict when it has expired or is another's."""
        return self._write(partial(labeling.renew, name=labeler, task_id=task_id, token=lease, period=self._lease))

    def submit_ranking(
        self,
        labeler: str,
        task_id: str,
        lease: str,
        answer: RankingAnswer,
        *,
        guideline: str,
        client_at: datetime | None = None,
    ) -> Receipt:
        """Keep a ranking. The same answer again earns the same receipt, another one the next revision.

        Raises NotFound (no such task), InvalidInput (every field at fault, named) or Conflict (the lease has expired
        or is another's); nothing is stored then.
        """
        return self._write(self._submission(labeler, task_id, lease, answer, guideline, client_at))

    def submit_demonstration(
        self,
        labeler: str,
        task_id: str,
        lease: str,
        answer: DemonstrationAnswer,
        *,
        guideline: str,
        client_at: datetime | None = None,
    ) -> Receipt:
        """Keep a demonstration, on the terms of `submit_ranking`."""
        return self._write(self._submission(labeler, task_id, lease, answer, guideline, client_at))

    def skip(self, labeler: str, task_id: str, lease: str, reason: str) -> None:
        """Give the task back: its slot is free for others, and this labeler is never offered it again."""
        self._write(partial(labeling.skip, name=labeler, task_id=task_id, token=lease, reason=reason))

    def add_source(self, name: str, licence: str) -> None:
        """Keep under which licence that is whose source has this name. Raises Conflict when it has another."""
        self._write(partial(intake.add_source, name=name, licence=licence))

    def sources(self) -> dict[str, str]:
        """The licences of what was imported, by the name of the source; of sources for which one was given."""
        return dict(self._live.sources)

    def add_demonstrations(
        self, rows: Sequence[NewDemonstration | tuple[str, str]], *, labeler: str, source: str
    ) -> list[str]:
        """Demonstrations made elsewhere, as (prompt id, response) or whole. The ids of those that were not here yet.

        The same prompt, response and source a second time adds nothing. `labeler` of those whose row names none: a
        user's name, or any name. A name gets a pseudonym, in each source another.
        """
        whole = [NewDemonstration(*row) for row in rows]
        checked = intake.checked_demonstrations(whole, labeler, source, self._live)
        slices = (checked[start : start + SLICE] for start in range(0, len(checked), SLICE))
        add = partial(intake.add_demonstrations, labeler=labeler, source=source)
        return [id for part in slices for id in self._write(partial(add, rows=part))]

    def add_rankings(self, rankings: Sequence[NewRanking], *, source: str = "import") -> list[str]:
        """Rankings made elsewhere; those of the same prompt and responses, in any order, share a task closed to others.

        The ids of those that were not here yet: the same labeler's same ranking a second time adds nothing.
        """
        checked = intake.checked_rankings(rankings, source, self._live)
        slices = (checked[start : start + SLICE] for start in range(0, len(checked), SLICE))
        add = partial(intake.add_rankings, source=source)
        return [id for part in slices for id in self._write(partial(add, rankings=part))]

    def label_details(self, label_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What their file said of these imported labels besides, by label id; a label without such is left out."""
        sql = "SELECT label_id, details FROM label_details WHERE label_id IN (SELECT unnest(?::VARCHAR[]))"
        return {id: json.loads(details) for id, details in self._read(sql, [list(label_ids)])}

    def withdraw(self, *, label_id: str | None = None, labeler: str | None = None) -> list[str]:
        """Hide one label, or all of a labeler's (by name or pseudonym), with the rewrites made in them.

        Their slots become free for others. The ids of all of them, those hidden before included. Raises NotFound.
        """
        return self._write(partial(labeling.withdraw, label_id=label_id, labeler=labeler))

    def withdraw_prompt(self, prompt_id: str) -> tuple[list[str], list[str]]:
        """Hide a prompt with its labels and tasks, and the later turns of a conversation, which repeat its words.

        Labels that come for it later are hidden too. The ids of the prompts, and of the labels that it hid, those
        hidden before included. Raises NotFound.
        """
        live = self._live
        live.prompt_number(prompt_id)
        turns = [[turn.prompt_id for turn in talk.turns] for talk in list(live.conversations.values())]
        later = [id for ids in turns if prompt_id in ids for id in ids[ids.index(prompt_id) :]]
        prompts = list(dict.fromkeys([prompt_id, *later]))
        sql = "SELECT DISTINCT label_id FROM {} WHERE prompt_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY label_id"
        labels = [id for table in ("rankings", "demonstrations") for (id,) in self._read(sql.format(table), [prompts])]
        self._write(partial(labeling.withdraw_prompts, prompt_ids=prompts, label_ids=labels))
        return prompts, labels

    # ----------------------------------------------------------------- reading

    def rankings(self) -> list[Ranking]:
        """Every ranking that stands, in its latest revision."""
        with self.moment() as moment:
            return list(moment.rankings())

    def demonstrations(self) -> list[Demonstration]:
        """Every demonstration that stands, in its latest revision."""
        with self.moment() as moment:
            return list(moment.demonstrations())

    def responses(self, ids: Sequence[str]) -> dict[str, Response]:
        """The responses with these ids, by id; an unknown id is left out."""
        sql = f"SELECT {exports.RESPONSE} FROM responses WHERE id IN (SELECT unnest(?::VARCHAR[]))"
        found = (exports.response_of(row) for row in self._read(sql, [list(ids)]))
        return {response.id: response for response in found}

    def stats(self) -> dict[str, Any]:
        """Counts by kind and state, labelers, agreement and pace, ready for JSON."""
        with self.moment() as moment:
            return self._counts.of(moment, self._live, self._now())

    def reliability(self) -> dict[str, Any]:
        """How reliable each labeler is, ready for JSON: data/quality.py says how it is found."""
        with self.moment() as moment:
            return self._counts.reliability(moment, self._live)

    def insight(self) -> dict[str, Any]:
        """How labelers do, and what holds for all of them together; data/insight.py says what it counts."""
        return self._insight.of(self.moment, self._live, self._now())

    def own_numbers(self, labeler: str) -> dict[str, Any]:
        """What a labeler, by name, is told of themself. Raises NotFound."""
        pseudonym = self._live.user(labeler).pseudonym
        with self.moment() as moment:
            return own(moment, pseudonym)

    def task_texts(self, task_id: str) -> tuple[Prompt, list[Response]]:
        """The prompt of a ranking task, and its responses in its own order. Raises NotFound."""
        task = self._live.task(task_id).task
        prompt, responses = self._texts.of(task_id)
        return prompt, [responses[id] for id in task.response_ids]

    def resting(self) -> list[dict[str, Any]]:
        """The tasks that rest after three skips, ready for JSON: what they show, and the reasons given."""
        live = self._live
        ids = [id for queue in live.queues.values() for id in queue.resting()]
        sql = "SELECT task_id, reason FROM skips WHERE task_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY rowid"
        reasons: dict[str, list[str]] = {id: [] for id in ids}
        for id, reason in self._read(sql, [ids]):
            reasons[id].append(reason)
        return [
            {
                "task_id": id,
                "kind": live.task(id).task.kind,
                "prompt": [asdict(turn) for turn in self._texts.of(id)[0].messages],
                "reasons": reasons[id],
            }
            for id in ids
        ]

    @contextmanager
    def moment(self) -> Iterator[exports.Moment]:
        """One consistent moment to read from: what is committed later is not in it."""
        with self._guarded(), exports.moment_of(self._database) as moment:
            yield moment

    def batches(self, kind: str) -> Iterator[pa.RecordBatch]:
        """Export rows of rankings, comparisons, unpaired, demonstrations or prompts, of one moment, in Arrow batches.

        What stands, in its latest revision, by prompt and label; data/columns.py has the columns of each kind.
        """
        with self.moment() as moment:
            yield from moment.batches(kind, scratch=self._scratch)

    def rows(self, kind: str) -> Iterator[dict[str, Any]]:
        """The same rows as dictionaries, one by one."""
        with self.moment() as moment:
            yield from moment.rows(kind)

    def ranking_rows(self) -> Iterator[dict[str, Any]]:
        """Export rows of the rankings that stand."""
        return self.rows("rankings")

    def comparison_rows(self) -> Iterator[dict[str, Any]]:
        """Export rows of every decided pair of every ranking that stands; ties are left out."""
        return self.rows("comparisons")

    def demonstration_rows(self) -> Iterator[dict[str, Any]]:
        """Export rows of the demonstrations that stand."""
        return self.rows("demonstrations")

    def prompt_rows(self) -> Iterator[dict[str, Any]]:
        """Export rows of the prompts."""
        return self.rows("prompts")

    # --------------------------------------------------------- models and runs

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint, or a known one's new standing. Promoting one retires the one promoted before."""
        self._write(partial(lineage.add_checkpoint, checkpoint=lineage.checked_checkpoint(checkpoint)))

    def checkpoints(self) -> list[Checkpoint]:
        """Every checkpoint with its present standing, oldest first."""
        return list(self._live.checkpoints.values())

    def checkpoint(self, id: str) -> Checkpoint:
        """The checkpoint with that id. Raises NotFound."""
        found = self._live.checkpoints.get(id)
        if found is None:
            raise NotFound(f"There is no checkpoint {id!r}. The Checkpoints page lists those there are.")
        return found

    def promoted(self) -> Checkpoint | None:
        """The checkpoint that is promoted now, if one is."""
        live = self._live
        return live.checkpoints[live.promoted] if live.promoted else None

    def promoted_before(self) -> Checkpoint | None:
        """The checkpoint that the promoted one took the place of, if there was one."""
        live = self._live
        return live.checkpoints[live.promoted_before] if live.promoted_before else None

    def put_run(self, run_id: str, state: dict[str, Any]) -> None:
        """Keep how a run stands; the same state again adds nothing."""
        self._write(partial(lineage.put_run, run_id=run_id, state=lineage.checked_run(run_id, state)))

    def run(self, run_id: str) -> dict[str, Any] | None:
        """How a run stood when it last said so; None for one that never did."""
        text = self._live.runs.get(run_id)
        return json.loads(text) if text is not None else None

    def runs(self) -> list[dict[str, Any]]:
        """How every run stands, in the order they were first heard of."""
        return [json.loads(text) for text in list(self._live.runs.values())]

    def audit(self) -> list[dict[str, Any]]:
        """Who was let in, shut out, promoted, withdrawn: every such event, oldest first."""
        columns = ("action", "subject", "detail", "created_at")
        rows = self._read(f"SELECT {', '.join(columns)} FROM audit ORDER BY rowid")
        return [dict(zip(columns, (*row[:3], row[3].isoformat()), strict=True)) for row in rows]

    # ------------------------------------------------------------------ inside

    def _placed(self, prompts: Sequence[catalog.CheckedPrompt]) -> list[catalog.CheckedPrompt]:
        """The prompts, each on its side. The index is made when the first new prompt comes, not at the start."""
        from data.near_duplicates import NearDuplicates  # numpy, which a start does not need

        new = {prompt.id: prompt for prompt in reversed(prompts) if prompt.id not in self._live.prompts}
        if not new:
            return list(prompts)
        if self._near_duplicates is None:
            index = NearDuplicates()
            sql = "SELECT messages, split FROM prompts WHERE number >= ? AND number < ? ORDER BY number"
            for first in range(0, len(self._live.prompts), PLACED_AT_ONCE):
                index.add(self._read(sql, [first, first + PLACED_AT_ONCE]))
            self._near_duplicates = index
        ordered = [new[id] for id in dict.fromkeys(prompt.id for prompt in prompts) if id in new]
        sides = self._near_duplicates.place([(prompt.messages, prompt.split, prompt.settled) for prompt in ordered])
        side_of = {prompt.id: side for prompt, side in zip(ordered, sides, strict=True)}
        return [replace(prompt, split=side_of.get(prompt.id, prompt.split)) for prompt in prompts]

    @property
    def _live(self) -> Live:
        return self._writer.live

    def _failed(self, failure: StoreFailed) -> None:
        if self.on_failure is not None:
            self.on_failure(failure)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """What the database raises while it is read, as StoreFailed."""
        if self._writer.failure is not None:
            raise StoreFailed(*self._writer.failure.args)
        try:
            yield
        except duckdb.FatalException as error:
            raise self._writer.fail(error) from error
        except duckdb.Error as error:
            raise StoreFailed(f"The database could not read this ({error}). Nothing was changed; try again.") from error

    def _write(self, decide: Decide[T]) -> T:
        return self._writer.run(decide)

    def _claim(self, labeler: str, kind: TaskKind, after: str | None) -> Decide[Lease | None]:
        return partial(labeling.claim, name=labeler, kind=kind, period=self._lease, after=after)

    def _submission(
        self,
        labeler: str,
        task_id: str,
        lease: str,
        answer: RankingAnswer | DemonstrationAnswer,
        guideline: str,
        client_at: datetime | None,
    ) -> Decide[Receipt]:
        """What the writer is to decide of the answer. Raises NotFound or InvalidInput."""
        task = self._live.task(task_id)
        decide: Callable[..., tuple[list[Row], Receipt]]
        if isinstance(answer, RankingAnswer):
            decide = partial(labeling.submit_ranking, answer=check_ranking(answer, task.task))
        else:
            decide = partial(labeling.submit_demonstration, answer=check_demonstration(answer, task.task))
        check_notes(guideline, client_at)
        return partial(decide, name=labeler, task=task, token=lease, guideline=guideline, client_at=client_at)

    def _read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._guarded(), cursor_of(self._database) as cursor:
            return cursor.execute(sql, list(parameters)).fetchall()

    def _assignment(self, task_id: str, labeler: str, lease: str, until: datetime) -> Assignment:
        """The task as the labeler of that pseudonym sees it."""
        live = self._live
        task = live.task(task_id).task
        prompt, responses = self._texts.of(task.id)
        order = labeling.display_order(task, labeler) if task.kind == "ranking" else ()
        return Assignment(
            task=task,
            prompt=prompt,
            responses=tuple(responses[id] for id in order),
            lease=lease,
            lease_expires_at=until,
            draft=live.drafts.get((task_id, labeler)),
            starts=() if task.kind == "ranking" else tuple(responses.values()),
        )
