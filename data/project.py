"""How a project is run: its settings, its guidelines, tasks with a known answer, who may work, tasks that rest.

`Project` holds the verbs, `store.project` is one; below it stand the decisions behind them, pure like data/people.py.
Guidelines are versions named by their hash. Each label carries the version that its labeler had before them: the
present one at their first task, and from then on the one they last said they had read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from data.agreement import accuracy
from data.assignment import UNLIMITED
from data.catalog import checked_responses, ranking_rows
from data.errors import Conflict, NotFound
from data.live import Live
from data.records import FLAGS, Guideline, NewResponse, Settings
from data.rows import (
    AdmissionRow,
    AuditRow,
    GoldRow,
    GuidelineReadingRow,
    GuidelineRow,
    RetiredTaskRow,
    ReturnedTaskRow,
    Row,
    SettingsRow,
    as_json,
)
from data.validate import check_text, overlap_problems, rank_problem, refuse
from data.validate import shown as quoted

if TYPE_CHECKING:
    from data.writer import Decide

SHARES = ("double_share", "uniform_share", "gold_share", "repeat_share", "qualify_at", "review_below")
MAX_REPEAT_MINUTES = 60 * 24 * 365.0


class Project:
    """See the module. Made by the store, with its ways to write and to see the live state."""

    def __init__(self, write: Callable[[Decide[Any]], Any], live: Callable[[], Live]) -> None:
        self._write, self._live = write, live

    def settings(self) -> Settings:
        """What the project asks of its labelers."""
        return self._live().settings

    def change_settings(self, changes: dict[str, Any], author: str) -> Settings:
        """The settings with these changes, by name. Raises InvalidInput, naming every one at fault."""
        settings: Settings = self._write(partial(change_settings, changes=changes, author=author))
        return settings

    def guideline(self) -> Guideline | None:
        """What labelers are asked to do now."""
        return present_guideline(self._live())

    def guidelines(self) -> list[Guideline]:
        """Every version, the present one last."""
        return list(self._live().guidelines.values())

    def guideline_of(self, labeler: str) -> str:
        """The hash of the version that this labeler has before them; "" while there is none."""
        live = self._live()
        present = present_guideline(live)
        return live.guideline_read.get(live.labeler(labeler), present.hash if present else "")

    def set_guideline(self, text: str, author: str) -> Guideline:
        """The wording from now on; labelers are shown it before their next task. Raises InvalidInput."""
        guideline: Guideline = self._write(partial(set_guideline, text=text, author=author))
        return guideline

    def read_guideline(self, labeler: str, hash: str) -> None:
        """The labeler has read this version. Raises NotFound."""
        self._write(partial(read_guideline, name=labeler, hash=hash))

    def add_gold_task(
        self,
        prompt_id: str,
        responses: Sequence[NewResponse],
        ranks: Sequence[int | None],
        *,
        purpose: Literal["gold", "qualification"] = "gold",
        note: str = "",
        author: str = "",
    ) -> str:
        """A task with a known answer, for every labeler: `ranks` in the order of the responses. The task's id.

        Gold tasks come silently among the work; qualification tasks come before it. Labels of either check labelers
        and are in no dataset. Raises InvalidInput or NotFound.
        """
        decide = partial(
            add_gold_task,
            prompt_id=prompt_id,
            responses=checked_responses(responses),
            ranks=ranks,
            purpose=purpose,
            note=note,
            author=author,
        )
        task_id: str = self._write(decide)
        return task_id

    def admit(self, labeler: str, author: str) -> None:
        """Let this labeler work, whatever they scored in the qualification. Raises NotFound."""
        self._write(partial(admit, labeler=labeler, author=author))

    def give_back(self, task_id: str) -> None:
        """Offer a task that rests after three skips again. Raises NotFound or Conflict."""
        self._write(partial(give_back, task_id=task_id))

    def retire(self, task_id: str) -> None:
        """Offer this task to nobody any more; its labels stay. Raises NotFound."""
        self._write(partial(retire, task_id=task_id))


# ------------------------------------------------------------------- settings


def checked_settings(changes: dict[str, Any], present: Settings) -> Settings:
    """The settings with these changes. Raises InvalidInput naming every one at fault."""
    known = [field.name for field in fields(Settings)]
    problems = [f"{quoted(name)} is no setting: those are {', '.join(known)}" for name in changes if name not in known]
    for name, value in changes.items():
        if name in SHARES and not _number(value, 1.0):
            problems.append(f"{name} is {quoted(value)} and must be a number from 0 to 1")
        if name in ("ask_ratings", "ask_rewrite", "ask_comment") and not isinstance(value, bool):
            problems.append(f"{name} is {quoted(value)} and must be true or false")
    if "repeat_after_minutes" in changes and not _number(changes["repeat_after_minutes"], MAX_REPEAT_MINUTES):
        problems.append("repeat_after_minutes must be a number of minutes, a year at most")
    if "overlap" in changes:
        problems += overlap_problems(changes["overlap"])
    if "ask_flags" in changes:
        problems += _flag_problems(changes["ask_flags"])
    refuse(problems)
    settings = replace(present, **changes)
    if settings.gold_share + settings.repeat_share > 0.5:
        refuse(["gold_share and repeat_share together are over 0.5, so most of what labelers do would be checks"])
    return replace(settings, ask_flags=tuple(settings.ask_flags))


def _number(value: object, limit: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= limit


def _flag_problems(flags: object) -> list[str]:
    if isinstance(flags, str) or not isinstance(flags, Sequence):
        return [f"ask_flags is {quoted(flags)} and must be a list of flags"]
    return [
        f"ask_flags names {quoted(flag)}, no flag: those are {', '.join(FLAGS)}" for flag in flags if flag not in FLAGS
    ]


def change_settings(live: Live, now: datetime, *, changes: dict[str, Any], author: str) -> tuple[list[Row], Settings]:
    """The settings from now on. Raises InvalidInput."""
    settings = checked_settings(changes, live.settings)
    if settings == live.settings:
        return [], settings
    detail = as_json(changes)
    return [
        SettingsRow(as_json(asdict(settings)), author, now),
        AuditRow("settings changed", author, detail, now),
    ], settings


# ------------------------------------------------------------------- guidelines


def set_guideline(live: Live, now: datetime, *, text: str, author: str) -> tuple[list[Row], Guideline]:
    """The wording from now on; the present one again changes nothing. Raises InvalidInput."""
    check_text(text, "text", required=True)
    guideline = Guideline(text, hashlib.sha256(text.encode()).hexdigest()[:16], author, now)
    if (present := present_guideline(live)) is not None and present.hash == guideline.hash:
        return [], present
    row = GuidelineRow(guideline.hash, text, author, now)
    return [row, AuditRow("guideline set", guideline.hash, author, now)], guideline


def present_guideline(live: Live) -> Guideline | None:
    """What labelers are asked to do now."""
    return next(reversed(live.guidelines.values()), None)


def shown(live: Live, now: datetime, labeler: str) -> list[Row]:
    """At their first task a labeler has the present guideline before them."""
    present = present_guideline(live)
    if present is None or labeler in live.guideline_read:
        return []
    return [GuidelineReadingRow(present.hash, labeler, now)]


def read_guideline(live: Live, now: datetime, *, name: str, hash: str) -> tuple[list[Row], None]:
    """The labeler has read this version. Raises NotFound."""
    labeler = live.labeler(name)
    if hash not in live.guidelines:
        raise NotFound(f"There is no guideline {quoted(hash)}. Nothing was changed; read the present one.")
    return ([] if live.guideline_read.get(labeler) == hash else [GuidelineReadingRow(hash, labeler, now)]), None


# ------------------------------------------------------------------- tasks with a known answer


def add_gold_task(
    live: Live,
    now: datetime,
    *,
    prompt_id: str,
    responses: Sequence[NewResponse],
    ranks: Sequence[int | None],
    purpose: Literal["gold", "qualification"],
    note: str,
    author: str,
) -> tuple[list[Row], str]:
    """A task that everyone is to have, with the ranking expected of them; its id. Raises InvalidInput or NotFound."""
    check_text(note, "note", limit=10_000)
    if purpose not in ("gold", "qualification"):
        refuse([f"purpose is {quoted(purpose)} and must be gold or qualification"])
    refuse(_expected_problems(ranks, len(responses)))
    rows, task_id = ranking_rows(live, now, prompt_id, responses, UNLIMITED, purpose)
    expected = GoldRow(task_id, list(ranks), note, author, now)
    return [*rows, expected, AuditRow(f"{purpose} task added", task_id, author, now)], task_id


def _expected_problems(ranks: object, count: int) -> list[str]:
    if isinstance(ranks, str) or not isinstance(ranks, Sequence) or len(ranks) != count:
        return [f"gold must be a list of {count} ranks, one for each response, null for one that cannot be ranked"]
    problems = [p for n, rank in enumerate(ranks) if rank is not None for p in rank_problem(rank, count, f"gold[{n}]")]
    if not problems and accuracy(ranks, ranks) is None:
        problems.append("gold ranks fewer than two responses, so no answer could agree with it")
    return problems


def admit(live: Live, now: datetime, *, labeler: str, author: str) -> tuple[list[Row], None]:
    """Let a labeler, by name or pseudonym, work without qualifying. Raises NotFound."""
    pseudonyms = {user.pseudonym for user in live.users.values()}
    pseudonym = labeler if labeler in pseudonyms else live.user(labeler).pseudonym
    if pseudonym in live.admitted:
        return [], None
    return [AdmissionRow(pseudonym, author, now), AuditRow("labeler admitted", pseudonym, author, now)], None


# ------------------------------------------------------------------- tasks that rest


def give_back(live: Live, now: datetime, *, task_id: str) -> tuple[list[Row], None]:
    """Offer a resting task again to those who have not seen it. Raises NotFound or Conflict."""
    task = live.task(task_id).task
    queue = live.queue_of(task)
    if not queue.is_resting(task_id):
        raise Conflict(f"Task {task_id} does not rest. Nothing was changed.")
    return [ReturnedTaskRow(task_id, queue.skips(task_id), now), AuditRow("task returned", task_id, "", now)], None


def retire(live: Live, now: datetime, *, task_id: str) -> tuple[list[Row], None]:
    """Offer the task to nobody any more; its labels stay. Raises NotFound."""
    task = live.task(task_id).task
    if live.queue_of(task).is_retired(task_id):
        return [], None
    return [RetiredTaskRow(task_id, now), AuditRow("task retired", task_id, "", now)], None
