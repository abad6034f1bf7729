"""What the routes of the HTTP API take, and the records they become.

Only the shape is checked here, field by field and strictly (true is not 1, "2" is not 2, and a misspelt field is an
error rather than a label that is lost); what the fields mean to each other is for the store to check.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Discriminator, Field, FiniteFloat, Tag, field_validator

from annotate.cycles import DEFAULT_STAGES
from data.choices import Weights
from data.quality import Aggregate
from data.records import (
    Checkpoint,
    DemonstrationAnswer,
    Message,
    NewDemonstration,
    NewPrompt,
    NewRanking,
    NewResponse,
    RankingAnswer,
    Role,
    Split,
    TaskKind,
)


class Body(BaseModel):
    """A JSON object with these fields and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NextTask(Body):
    kind: TaskKind
    after: str | None = None  # a task that is on the screen: the next one is wanted already


class Rewrite(Body):
    response_id: str
    text: str


class RankingBody(Body):
    """A labeler's ranking; all but lease and ranks are optional."""

    lease: str
    ranks: dict[str, int]
    unrankable: list[str] = []
    ratings: dict[str, dict[str, int]] = {}
    flags: dict[str, list[str]] = {}
    rewrite: Rewrite | None = None
    comment: str = ""
    seconds: FiniteFloat | None = None
    client_at: AwareDatetime | None = Field(None, strict=False)

    def answer(self) -> RankingAnswer:
        return RankingAnswer(
            ranks=self.ranks,
            unrankable=tuple(self.unrankable),
            ratings=self.ratings,
            flags={response: tuple(flags) for response, flags in self.flags.items()},
            rewrite=self.rewrite.model_dump() if self.rewrite else None,
            comment=self.comment,
            seconds=self.seconds,
        )


class DemonstrationBody(Body):
    """A labeler's own ideal response."""

    lease: str
    response: str
    started_from: str | None = Field(None, alias="from")  # id of the model's response that they began with
    seconds: FiniteFloat | None = None
    client_at: AwareDatetime | None = Field(None, strict=False)

    def answer(self) -> DemonstrationAnswer:
        return DemonstrationAnswer(self.response, self.seconds, self.started_from)


def _kind_of_label(body: Any) -> TaskKind:
    return "demonstration" if isinstance(body, dict) and "response" in body and "ranks" not in body else "ranking"


LabelBody = Annotated[
    Annotated[RankingBody, Tag("ranking")] | Annotated[DemonstrationBody, Tag("demonstration")],
    Discriminator(_kind_of_label),
]


class Skip(Body):
    lease: str
    reason: str


class Lease(Body):
    lease: str


class DraftBody(Body):
    """What is on the screen; `work` is the page's own affair."""

    lease: str
    work: dict[str, Any]
    seconds: FiniteFloat | None = None


class Review(Body):
    """A reviewer's answer to a task on which labelers disagree."""

    ranks: dict[str, int]
    unrankable: list[str] = []
    comment: str = ""
    seconds: FiniteFloat | None = None

    def answer(self) -> RankingAnswer:
        return RankingAnswer(self.ranks, tuple(self.unrankable), comment=self.comment, seconds=self.seconds)


class GuidelineText(Body):
    text: str


class GuidelineRead(Body):
    hash: str


class Admission(Body):
    labeler: str  # name or pseudonym


class CheckBody(Body):
    """A ranked task whose answer is to be expected of every labeler."""

    task_id: str
    purpose: Literal["gold", "qualification"] = "gold"


class Texts(Body):
    """Texts to show, each by itself."""

    texts: list[str] = Field(max_length=64)


class MessageBody(Body):
    role: str
    content: str


class PromptBody(Body):
    messages: list[MessageBody]
    tags: list[str] = []
    split: Split | None = None
    source: str = ""

    def record(self) -> NewPrompt:
        messages = tuple(Message(message.role, message.content) for message in self.messages)
        return NewPrompt(messages, tuple(self.tags), self.split, self.source)


class ResponseBody(Body):
    text: str
    source: str
    sampling: dict[str, Any] = {}

    def record(self) -> NewResponse:
        return NewResponse(self.text, self.source, self.sampling)


class RankingTask(Body):
    """Rank these responses, made elsewhere."""

    kind: Literal["ranking"] = "ranking"
    prompt_id: str
    responses: list[ResponseBody]
    overlap: int = 1
    gold: list[int | None] | None = None  # the ranks expected, in the order of the responses
    purpose: Literal["gold", "qualification"] = "gold"
    note: str = ""


class DemonstrationTasks(Body):
    """Ask for a demonstration of each of these prompts that has no such task yet."""

    kind: Literal["demonstration"]
    prompt_ids: list[str]
    overlap: int = 1


def _kind_of_task(body: Any) -> TaskKind:
    return "demonstration" if isinstance(body, dict) and body.get("kind") == "demonstration" else "ranking"


TaskBody = Annotated[
    Annotated[RankingTask, Tag("ranking")] | Annotated[DemonstrationTasks, Tag("demonstration")],
    Discriminator(_kind_of_task),
]


class Source(Body):
    """Where imported prompts and labels come from: their `source` is this name."""

    name: str
    licence: str


class DemonstrationRow(Body):
    prompt_id: str
    response: str
    labeler: str | None = None  # whoever the whole body names
    seconds: FiniteFloat | None = None
    labeled_at: AwareDatetime | None = Field(None, strict=False)
    details: dict[str, Any] = {}

    def record(self) -> NewDemonstration:
        return NewDemonstration(**self.model_dump())


class Demonstrations(Body):
    """Demonstrations made elsewhere."""

    labeler: str
    source: str
    rows: list[DemonstrationRow]


class RankingRow(Body):
    """A ranking made elsewhere; `ranks` has one entry for each response, null is unrankable."""

    prompt_id: str
    responses: list[ResponseBody]
    ranks: list[int | None]
    labeler: str = "import"
    ratings: list[dict[str, int]] = []
    flags: list[list[str]] = []
    comment: str = ""
    seconds: FiniteFloat | None = None
    labeled_at: AwareDatetime | None = Field(None, strict=False)
    display_order: list[int] = []  # places of the responses as the labeler saw them
    details: dict[str, Any] = {}

    def record(self) -> NewRanking:
        return NewRanking(
            prompt_id=self.prompt_id,
            responses=tuple(response.record() for response in self.responses),
            ranks=tuple(self.ranks),
            labeler=self.labeler,
            ratings=tuple(self.ratings),
            flags=tuple(tuple(flags) for flags in self.flags),
            comment=self.comment,
            seconds=self.seconds,
            labeled_at=self.labeled_at,
            display_order=tuple(self.display_order),
            details=self.details,
        )


class Rankings(Body):
    source: str = "import"
    rows: list[RankingRow]


class Withdrawal(Body):
    """One label, or everything that one labeler said, or one prompt with all that was said of it."""

    label_id: str | None = None
    labeler: str | None = None
    prompt_id: str | None = None
    refreeze: bool = False  # freeze the snapshots that hold any of it anew


class SnapshotChoices(Body):
    """What to freeze, in the words of data/choices.py; nothing said is everything."""

    since: str | None = None
    until: str | None = None
    source: list[str] | None = None
    checkpoint: list[str] | None = None
    labeler: list[str] | None = None
    tag: list[str] | None = None
    language: list[str] | None = None
    min_agreement: float | None = None
    min_reliability: float | None = None
    aggregate: Aggregate | None = None
    weights: Weights | None = None
    hold_out_labelers: float | None = None


class NewUser(Body):
    name: str
    role: Role


class NewCycle(Body):
    """One turn of the loop; `overrides` sets options of single stages, as in {"ppo.steps": 10}."""

    preset: str | None = None  # the one that the app was started with
    stages: list[str] = list(DEFAULT_STAGES)
    overrides: dict[str, Any] = {}

    @field_validator("stages", mode="before")
    @classmethod
    def _words(cls, stages: Any) -> Any:
        return stages.split(",") if isinstance(stages, str) else stages  # as the command line writes them


class CheckpointBody(Body):
    id: str
    stage: str
    parents: list[str] = []
    snapshot: str | None = None
    metrics: dict[str, Any] = {}
    state: str = "candidate"
    reason: str = ""
    created_at: datetime = Field(strict=False)

    def record(self) -> Checkpoint:
        return Checkpoint(**(self.model_dump() | {"parents": tuple(self.parents)}))


class BatchBody(BaseModel):
    """Sampled responses, as data.batches writes them."""

    id: str
    checkpoint: str
    rows: list[dict[str, Any]]
