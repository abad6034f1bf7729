"""What is appended to the tables, one class per table, fields in the order of its columns.

A row is never changed once it is written, so these classes are also the whole history that the store keeps.
JSON columns hold text that `as_json` made. `labeler` is always a pseudonym.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from data.records import Message

# made once: json.dumps would make one for each value
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def as_json(value: Any) -> str:
    """Canonical JSON: the same value always gives the same text. Raises ValueError for NaN and infinity."""
    return _CANONICAL.encode(value)


def digest_of(value: Any) -> str:
    """A short name for the value: equal values have equal digests."""
    return hashlib.sha256(as_json(value).encode()).hexdigest()[:32]


def messages_json(messages: Sequence[Message]) -> str:
    """A conversation as it is stored and exported."""
    return as_json([{"role": message.role, "content": message.content} for message in messages])


def new_id(prefix: str) -> str:
    """A random id: `prefix` tells people what it names."""
    return f"{prefix}-{secrets.token_hex(8)}"


class UserRow(NamedTuple):
    name: str
    role: str
    pseudonym: str
    created_at: datetime


class DisabledUserRow(NamedTuple):
    name: str
    created_at: datetime


class PasswordRow(NamedTuple):
    name: str
    hash: str
    created_at: datetime


class TokenRow(NamedTuple):
    hash: str
    name: str
    kind: str
    expires_at: datetime | None
    created_at: datetime


class SpentTokenRow(NamedTuple):
    hash: str
    reason: str  # revoked or used
    created_at: datetime


class OutsiderRow(NamedTuple):
    """Someone named in an import, who is not a user."""

    name: str  # SOURCE/NAME: the same name in another source is another person
    pseudonym: str
    created_at: datetime


class PromptRow(NamedTuple):
    number: int  # rising: rows that belong together lie together, so a look-up by number reads one row group
    id: str
    messages: str
    tags: list[str]
    split: str
    source: str
    created_at: datetime


class ResponseRow(NamedTuple):
    task_number: int
    position: int
    id: str
    prompt_id: str
    text: str
    source: str
    sampling: str
    created_at: datetime


class TaskRow(NamedTuple):
    number: int
    id: str
    kind: str
    prompt_id: str
    response_ids: list[str]
    overlap: int  # 0 for a task that only holds imported rankings
    priority: int  # how many batches there were: the newest batch goes first
    batch_id: str | None
    created_at: datetime
    purpose: str = "work"  # or gold, repeat, qualification, which check labelers; or conversation
    repeat_of: str | None = None  # the task that this labeler ranked before
    reserved_for: str | None = None  # the one labeler it is for


class BatchRow(NamedTuple):
    id: str
    checkpoint: str
    created_at: datetime


class RetiredBatchRow(NamedTuple):
    batch_id: str
    created_at: datetime


class LeaseRow(NamedTuple):
    token: str
    task_id: str
    labeler: str
    expires_at: datetime
    created_at: datetime


class SkipRow(NamedTuple):
    task_id: str
    labeler: str
    lease: str
    reason: str
    created_at: datetime


class RankingRow(NamedTuple):
    label_id: str
    revision: int
    task_id: str
    task_number: int
    prompt_id: str
    labeler: str
    lease: str | None  # None for an import
    digest: str  # of the answer: the same one sent again is recognised
    display_order: list[str]
    ranks: list[int | None]  # in the order of the task's responses; NULL is unrankable
    ratings: str
    flags: str
    rewrite: str | None
    comment: str
    seconds: float | None
    guideline: str
    source: str  # "labeler", "review", or the file it was imported from
    client_at: datetime | None
    created_at: datetime
    purpose: str = "work"  # the task's


class DemonstrationRow(NamedTuple):
    label_id: str
    revision: int
    task_id: str | None
    prompt_id: str
    labeler: str
    lease: str | None  # None for an import and for a rewrite
    digest: str
    response: str
    seconds: float | None
    guideline: str
    source: str
    client_at: datetime | None
    created_at: datetime
    started_from: str | None = None  # the response that the labeler began with


class WithdrawalRow(NamedTuple):
    label_id: str
    created_at: datetime


class WithdrawnPromptRow(NamedTuple):
    """The prompt is shown and frozen no more, and neither is any label of it, then or later."""

    prompt_id: str
    created_at: datetime


class UndoneRow(NamedTuple):
    """The labeler took this revision back and has the task again, until `expires_at`. A later revision stands."""

    label_id: str
    revision: int
    expires_at: datetime
    created_at: datetime


class DraftRow(NamedTuple):
    """What a labeler has on the screen. It takes the place of their draft before; no work, no draft."""

    task_id: str
    labeler: str
    work: str | None
    seconds: float | None
    created_at: datetime


class GoldRow(NamedTuple):
    """The ranking that is expected of whoever is given the task, in the order of its responses."""

    task_id: str
    ranks: list[int | None]
    note: str
    author: str
    created_at: datetime


class QualificationScoreRow(NamedTuple):
    """How far an answer to a qualification task agrees with what is expected, 0 to 1."""

    task_id: str
    labeler: str
    score: float
    created_at: datetime


class AdmissionRow(NamedTuple):
    """A researcher lets this labeler work, whatever the qualification said."""

    labeler: str
    author: str
    created_at: datetime


class RetiredTaskRow(NamedTuple):
    task_id: str
    created_at: datetime


class ReturnedTaskRow(NamedTuple):
    """A researcher offers a resting task again: the skips there were up to then no longer count."""

    task_id: str
    skips: int
    created_at: datetime


class SettingsRow(NamedTuple):
    settings: str
    author: str
    created_at: datetime


class GuidelineRow(NamedTuple):
    hash: str
    text: str
    author: str
    created_at: datetime


class GuidelineReadingRow(NamedTuple):
    """This labeler has this guideline before them from now on."""

    hash: str
    labeler: str
    created_at: datetime


class CheckpointRow(NamedTuple):
    id: str
    stage: str
    parents: list[str]
    snapshot: str | None
    metrics: str
    created_at: datetime


class CheckpointStateRow(NamedTuple):
    id: str
    state: str
    reason: str
    created_at: datetime


class RunRow(NamedTuple):
    id: str
    state: str
    created_at: datetime


class AuditRow(NamedTuple):
    action: str
    subject: str
    detail: str
    created_at: datetime


class ConversationRow(NamedTuple):
    id: str
    labeler: str
    key: str
    created_at: datetime


class TurnRow(NamedTuple):
    """A turn of a conversation. Its task has these rows before it, which keep it from everyone else."""

    conversation_id: str
    key: str
    prompt_id: str
    task_id: str
    created_at: datetime


class ContinuationRow(NamedTuple):
    """The response that continues a conversation after its turn of this task; the latest counts."""

    conversation_id: str
    task_id: str
    response_id: str
    created_at: datetime


class AttackRow(NamedTuple):
    """A conversation marked as an attack, or no longer; the latest counts."""

    conversation_id: str
    success: int | None  # 1 to 5; NULL: no attack
    created_at: datetime


class EndedConversationRow(NamedTuple):
    id: str
    created_at: datetime


class SourceRow(NamedTuple):
    """Where imported prompts and labels come from, and under which licence; their `source` is this name."""

    name: str
    licence: str
    created_at: datetime


class LabelDetailsRow(NamedTuple):
    """What a file says of an imported label beyond what Pawl asks: a strength, ratings on a scale of its own."""

    label_id: str
    details: str
    created_at: datetime


Row = (
    UserRow
    | DisabledUserRow
    | PasswordRow
    | TokenRow
    | SpentTokenRow
    | OutsiderRow
    | PromptRow
    | TaskRow
    | ResponseRow
    | BatchRow
    | RetiredBatchRow
    | LeaseRow
    | SkipRow
    | RankingRow
    | DemonstrationRow
    | WithdrawalRow
    | WithdrawnPromptRow
    | UndoneRow
    | DraftRow
    | GoldRow
    | QualificationScoreRow
    | AdmissionRow
    | RetiredTaskRow
    | ReturnedTaskRow
    | SettingsRow
    | GuidelineRow
    | GuidelineReadingRow
    | CheckpointRow
    | CheckpointStateRow
    | RunRow
    | AuditRow
    | ConversationRow
    | TurnRow
    | ContinuationRow
    | AttackRow
    | EndedConversationRow
    | SourceRow
    | LabelDetailsRow
)

TABLES: dict[type[Row], str] = {
    UserRow: "users",
    DisabledUserRow: "disabled_users",
    PasswordRow: "passwords",
    TokenRow: "tokens",
    SpentTokenRow: "spent_tokens",
    OutsiderRow: "outsiders",
    PromptRow: "prompts",
    ResponseRow: "responses",
    BatchRow: "batches",
    TaskRow: "tasks",
    RetiredBatchRow: "retired_batches",
    LeaseRow: "leases",
    SkipRow: "skips",
    RankingRow: "rankings",
    DemonstrationRow: "demonstrations",
    WithdrawalRow: "withdrawals",
    WithdrawnPromptRow: "withdrawn_prompts",
    UndoneRow: "undone",
    DraftRow: "drafts",
    GoldRow: "gold",
    QualificationScoreRow: "qualification_scores",
    AdmissionRow: "admissions",
    RetiredTaskRow: "retired_tasks",
    ReturnedTaskRow: "returned_tasks",
    SettingsRow: "settings",
    GuidelineRow: "guidelines",
    GuidelineReadingRow: "guideline_readings",
    CheckpointRow: "checkpoints",
    CheckpointStateRow: "checkpoint_states",
    RunRow: "runs",
    AuditRow: "audit",
    ConversationRow: "conversations",
    TurnRow: "turns",
    ContinuationRow: "continuations",
    AttackRow: "attacks",
    EndedConversationRow: "ended_conversations",
    SourceRow: "sources",
    LabelDetailsRow: "label_details",
}
