"""What the store remembers, as frozen records. A method of the store returns these, never rows or frames.

Times are aware datetimes in UTC. Ids are strings: a prompt's is derived from its messages, so the same prompt
always has the same id; the others are random.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

Role = Literal["labeler", "reviewer", "researcher", "admin"]
ROLES: tuple[Role, ...] = ("labeler", "reviewer", "researcher", "admin")  # each may do what those before it may
Split = Literal["train", "heldout"]
TaskKind = Literal["ranking", "demonstration"]
# work and conversation are data; the others check labelers, and their labels are kept out of every dataset
Purpose = Literal["work", "conversation", "gold", "repeat", "qualification"]
CHECKS: tuple[Purpose, ...] = ("gold", "repeat", "qualification")
FLAGS = (
    "unsafe",
    "pii",
    "refusal",
    "false",
    "off_topic",
    # what InstructGPT asked of each response besides (Ouyang et al. 2022, table 3)
    "fails_instruction",
    "ignores_constraint",
    "inappropriate",
    "hallucination",
    "sexual",
    "violent",
    "encourages_harm",
    "denigrates",
    "harmful_advice",
    "opinion",
    "moral_judgment",
)
RATINGS = ("helpful", "harmless", "honest")  # each 1 to 7
MAX_TEXT = 100_000  # characters in any one text
NOBODY = "import"  # the labeler of imported labels of which nobody says who gave them


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


def prompt_id_of(messages: tuple[Message, ...]) -> str:
    """The id of these messages: the same words always have the same id."""
    text = json.dumps([[m.role, m.content] for m in messages], ensure_ascii=False)
    return "p-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def split_of(prompt_id: str) -> Split:
    """The side a prompt falls on when nobody says: one in ten is held out, by a stable hash of its id."""
    return "heldout" if int(hashlib.sha256(prompt_id.encode()).hexdigest(), 16) % 10 == 0 else "train"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked: a conversation that ends with a user's turn."""

    id: str
    messages: tuple[Message, ...]
    tags: tuple[str, ...]
    split: Split
    source: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewPrompt:
    """A prompt on its way in. `split` None lets the id decide (`split_of`)."""

    messages: tuple[Message, ...]
    tags: tuple[str, ...] = ()
    split: Split | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class NewResponse:
    """A response on its way in. `source` is the checkpoint id that sampled it, or a name for one made elsewhere."""

    text: str
    source: str
    sampling: dict[str, Any] = field(default_factory=dict)  # temperature, seed, ... as the sampler recorded them


@dataclass(frozen=True, slots=True)
class Response:
    """What a model wrote to a prompt."""

    id: str
    prompt_id: str
    text: str
    source: str
    sampling: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of work offered to labelers: rank these responses, or write the ideal one."""

    id: str
    kind: TaskKind
    prompt_id: str
    response_ids: tuple[str, ...]  # empty for demonstrations; display order is per labeler
    overlap: int  # labelers wanted
    batch_id: str | None
    purpose: Purpose = "work"
    repeat_of: str | None = None  # the task of which this is the second showing to the same labeler


@dataclass(frozen=True, slots=True)
class Draft:
    """What a labeler had on the screen when it was last saved; `work` is the page's own affair."""

    work: dict[str, Any]
    seconds: float | None
    saved_at: datetime


@dataclass(frozen=True, slots=True)
class Assignment:
    """A task as one labeler sees it: everything on the screen, and the lease that lets them answer."""

    task: Task
    prompt: Prompt
    responses: tuple[Response, ...]  # in this labeler's display order
    lease: str
    lease_expires_at: datetime
    draft: Draft | None = None
    starts: tuple[Response, ...] = ()  # for a demonstration: responses that models wrote to the same prompt


@dataclass(frozen=True, slots=True)
class Guideline:
    """What labelers are asked to do. `hash` names this wording in every label given under it."""

    text: str
    hash: str
    author: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Settings:
    """What a project asks of its labelers. Shares are of 0 to 1."""

    ask_ratings: bool = True
    ask_flags: tuple[str, ...] = FLAGS
    ask_rewrite: bool = True
    ask_comment: bool = True
    overlap: int = 1  # labelers wanted for each task that a model's batch brings
    double_share: float = 0.15  # of those tasks: wanted of two at least, so that agreement can be measured
    uniform_share: float = 0.2  # of a batch: in random order; the rest by the reward model's uncertainty
    gold_share: float = 0.05  # of what a labeler is given: tasks whose answer is known
    repeat_share: float = 0.05  # of what a labeler is given: tasks they ranked before
    repeat_after_minutes: float = 60.0  # a task is not repeated sooner, when its answer may be remembered
    qualify_at: float = 0.7  # mean agreement with the qualification tasks that lets a labeler work
    review_below: float = 0.6  # tasks on which labelers agree less go to a reviewer


@dataclass(frozen=True, slots=True)
class RankingAnswer:
    """What a labeler says of K responses: `ranks` gives each rankable response id 1..K, 1 is best, equal is a tie."""

    ranks: dict[str, int]
    unrankable: tuple[str, ...] = ()
    ratings: dict[str, dict[str, int]] = field(default_factory=dict)
    flags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rewrite: dict[str, str] | None = None  # {"response_id", "text"}
    comment: str = ""
    seconds: float | None = None  # active seconds, as the page counted them


@dataclass(frozen=True, slots=True)
class NewRanking:
    """A ranking made elsewhere, on its way in. Rankings of the same prompt and responses share one task."""

    prompt_id: str
    responses: tuple[NewResponse, ...]  # 2 to 9
    ranks: tuple[int | None, ...]  # one for each response: 1 is best, equal is a tie, None is unrankable
    labeler: str  # the name its file gives, or "import"; the store gives it a pseudonym, one for each source
    ratings: tuple[dict[str, int], ...] = ()  # empty, or one for each response
    flags: tuple[tuple[str, ...], ...] = ()  # empty, or one for each response
    comment: str = ""
    seconds: float | None = None
    labeled_at: datetime | None = None  # when the labeler gave it, where its file says so
    display_order: tuple[int, ...] = ()  # places of the responses as the labeler saw them; empty: not known
    details: dict[str, Any] = field(default_factory=dict)  # what else its file says of it


class NewDemonstration(NamedTuple):
    """A demonstration made elsewhere, on its way in."""

    prompt_id: str
    response: str
    labeler: str | None = None  # the name its file gives; None: whoever the whole import names
    seconds: float | None = None
    labeled_at: datetime | None = None
    details: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class DemonstrationAnswer:
    """A labeler's own ideal response."""

    response: str
    seconds: float | None = None
    started_from: str | None = None  # id of the model's response that the labeler began with


@dataclass(frozen=True, slots=True)
class Receipt:
    """The store has it on disk."""

    label_id: str
    revision: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """One labeler's ranking of one task; of several revisions the store hands out the latest."""

    label_id: str
    revision: int
    task_id: str
    prompt_id: str
    answer: RankingAnswer
    labeler: str  # pseudonym
    display_order: tuple[str, ...]  # response ids, as shown to this labeler
    guideline: str  # hash of the guidelines shown
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One labeler's ideal response to a prompt. `task_id` is None for one that was imported."""

    label_id: str
    revision: int
    task_id: str | None
    prompt_id: str
    answer: DemonstrationAnswer
    labeler: str  # pseudonym
    source: str  # "labeler", "rewrite:<ranking label id>", "seed", or the file it was imported from
    guideline: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder of weights with its parents, as its `pawl.json` says, and its standing."""

    id: str
    stage: str  # pretrain, sft, reward, ppo, or base for a model brought from outside
    parents: tuple[str, ...]
    snapshot: str | None
    metrics: dict[str, Any]
    state: str  # candidate, promoted, rejected, retired
    reason: str  # why it has that state, in words
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation: the labeler's message ends its prompt, the replies are its task's responses."""

    key: str  # the labeler's page made it: the same one again is the same turn
    prompt_id: str
    task_id: str
    chosen: str | None = None  # id of the response that continues the conversation


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one labeler and the model said to each other."""

    id: str
    labeler: str  # pseudonym
    key: str  # the labeler's page made it: the same one again is the same conversation
    turns: tuple[Turn, ...]
    attack: int | None  # an attempt to make the model misbehave, and how far it did, 1 to 5; None: no such attempt
    ended: bool
    created_at: datetime


PRESETS = ("tiny", "small")  # sizes that a cycle can be asked for
STAGES = ("pretrain", "sft", "reward", "ppo")  # what a cycle can be asked to train, in the order they run
CHECKPOINT_STATES = ("candidate", "promoted", "rejected", "retired")
CYCLE_STATES = ("queued", "running", "promoted", "rejected", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class CycleStatus:
    """How one turn of the loop stands; the fields of `GET /cycles/{id}`."""

    id: str
    state: str  # one of CYCLE_STATES
    stage: str | None
    progress: float  # 0 to 1
    metrics: dict[str, Any]
    checkpoint: str | None
    verdict: str | None  # in words
    error: str | None = None


@dataclass(frozen=True, slots=True)
class User:
    """A person who may sign in. `pseudonym` stands for them in everything exported."""

    name: str
    role: Role
    pseudonym: str
    active: bool
    created_at: datetime
