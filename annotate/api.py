"""The HTTP API, /api/v1: each route checks the role and calls one verb of the store, or of what stands beside it.

OpenAPI at /api/v1/openapi.json. Every error is a problem document (annotate.problems). The handlers are plain
functions, so they run on the thread pool; but those that every labeler waits for after each task, `next_task` and
`submit`, await the commit on the event loop, and are looked for first.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from annotate import PREFIX, VERSION, conversations, exports, imports, insight, looking, rendering, roles, workbench
from annotate.bodies import (
    BatchBody,
    CheckpointBody,
    Demonstrations,
    DemonstrationTasks,
    LabelBody,
    Lease,
    NewCycle,
    NewUser,
    NextTask,
    PromptBody,
    Rankings,
    Skip,
    SnapshotChoices,
    TaskBody,
    Texts,
    Withdrawal,
)
from annotate.problems import problem
from annotate.roles import Admin, Anyone, Here, Json, Labeler, Owner, Researcher
from data import batches, owner, snapshots
from data.choices import Choices
from data.errors import NotFound
from data.exports import iso
from data.records import Checkpoint, CycleStatus

router = APIRouter(prefix=PREFIX)
to_all = APIRouter()
labeling = roles.signed_in()
signed_in = roles.signed_in()


@to_all.get("/health", tags=["app"])
def health(context: Here) -> Json:
    """Whether the app answers, and which model is promoted."""
    promoted = context.store.promoted()
    return {"status": "ok", "version": VERSION, "model": promoted.id if promoted else None}


@signed_in.get("/me", tags=["people"])
def me(user: Anyone, context: Here) -> Json:
    """Who this token or session is."""
    person: Json = {"name": user.name, "role": user.role, "pseudonym": user.pseudonym}
    if context.store.project.must_qualify(user):
        person["qualifying"] = True  # until then they are given nothing but the qualification tasks
    return person


@signed_in.post("/render", tags=["labeling"])
def render(body: Texts, user: Anyone) -> Json:
    """Each text as a tree of plain nodes to draw: Markdown and formulas, without any HTML. Nothing is stored."""
    return {"trees": rendering.render_all(body.texts)}


# labeling


@labeling.post("/tasks/next", tags=["labeling"], responses={204: {"description": "Nothing left"}}, response_model=Json)
async def next_task(body: NextTask, user: Labeler, context: Here) -> Any:
    """My open lease first, else a new task. With `after`, a task that I hold, the one that comes after it."""
    assignment = await context.store.awaiting.next_task(user.name, body.kind, body.after)
    if assignment is None:
        return Response(status_code=204)
    return workbench.task_of(context, user, assignment)


@labeling.put("/tasks/{task_id}/label", tags=["labeling"])
async def submit(task_id: str, body: LabelBody, user: Labeler, context: Here) -> Json:
    """Store a label. The same body again gives the same answer; another body is a new revision."""
    receipt = await context.store.awaiting.submit(
        user.name,
        task_id,
        body.lease,
        body.answer(),
        guideline=context.store.project.guideline_of(user.name),
        client_at=body.client_at,
    )
    return {"label_id": receipt.label_id, "revision": receipt.revision}


@signed_in.post("/tasks/{task_id}/skip", tags=["labeling"])
def skip(task_id: str, body: Skip, user: Labeler, context: Here) -> Json:
    """Give the task back with a reason; it does not come again."""
    context.store.skip(user.name, task_id, body.lease, body.reason)
    return {"task_id": task_id, "skipped": True}


@signed_in.post("/tasks/{task_id}/lease", tags=["labeling"])
def renew(task_id: str, body: Lease, user: Labeler, context: Here) -> Json:
    """Keep the task for another while: the page asks for this while it is in view."""
    return {"lease_expires_at": iso(context.store.renew_lease(user.name, task_id, body.lease))}


# what there is to label


@signed_in.post("/prompts", tags=["tasks"])
def add_prompts(body: list[PromptBody], user: Researcher, context: Here) -> Json:
    """Add prompts. Identical prompts keep their id."""
    return {"ids": context.store.add_prompts([prompt.record() for prompt in body])}


@signed_in.post("/tasks", tags=["tasks"])
def add_tasks(body: TaskBody, user: Researcher, context: Here) -> Json:
    """Have responses ranked that were made elsewhere; or ask for demonstrations of prompts.

    With `gold`, the ranks expected, it is a task that checks labelers: it comes to everyone, silently or (purpose
    qualification) before their work, and its labels are in no dataset.
    """
    if isinstance(body, DemonstrationTasks):
        return {"task_ids": context.store.add_demonstration_tasks(body.prompt_ids, body.overlap)}
    responses = [response.record() for response in body.responses]
    if body.gold is None:
        return {"task_id": context.store.add_ranking_task(body.prompt_id, responses, body.overlap)}
    task_id = context.store.project.add_gold_task(
        body.prompt_id, responses, body.gold, purpose=body.purpose, note=body.note, author=user.name
    )
    return {"task_id": task_id}


@signed_in.post("/demonstrations", tags=["tasks"])
def add_demonstrations(body: Demonstrations, user: Researcher, context: Here) -> Json:
    """Take in demonstrations made elsewhere; the same again adds nothing."""
    rows = [row.record() for row in body.rows]
    return {"label_ids": context.store.add_demonstrations(rows, labeler=body.labeler, source=body.source)}


@signed_in.post("/rankings", tags=["tasks"])
def add_rankings(body: Rankings, user: Researcher, context: Here) -> Json:
    """Take in rankings made elsewhere; the same again adds nothing."""
    return {"label_ids": context.store.add_rankings([row.record() for row in body.rows], source=body.source)}


@signed_in.post("/withdrawals", tags=["tasks"])
def withdraw(body: Withdrawal, user: Researcher, context: Here) -> Json:
    """Hide a label, all of a labeler's, or a prompt with all of its, from what is frozen or exported from now on.

    Names the snapshots and checkpoints that were made of it; with `refreeze`, freezes the snapshots anew.
    """
    with exports.one_at_a_time:
        return owner.withdraw(context.store, context.workspace, **body.model_dump())


# what has been said


@signed_in.get("/stats", tags=["data"])
def stats(user: Researcher, context: Here) -> Json:
    """Counts by kind and state, labelers, agreement, tasks per hour."""
    return context.store.stats()


@signed_in.get("/reliability", tags=["data"])
def reliability(user: Researcher, context: Here) -> Json:
    """How reliable each labeler is, found from tasks that several ranked, and how much their labels would weigh."""
    return context.store.reliability()


@signed_in.get("/export/{kind}", tags=["data"], response_class=StreamingResponse)
def export(
    kind: Literal["demonstrations", "comparisons", "unpaired", "rankings", "prompts"],
    user: Researcher,
    context: Here,
    format: Literal["trl", "trl-parquet", "jsonl", "parquet", "csv", "arrow"] = "jsonl",
) -> StreamingResponse:
    """A file of one consistent moment, streamed."""
    return exports.stream(context.store, kind, format)


@signed_in.post("/snapshots", tags=["data"])
def freeze(user: Researcher, context: Here, body: SnapshotChoices | None = None) -> Json:
    """Freeze the labels there are, or those chosen; the same labels and choices give the same snapshot."""
    choices = Choices.of(body.model_dump(exclude_none=True) if body else {})
    with exports.one_at_a_time:
        return owner.freeze(context.store, context.workspace, choices).summary()


@signed_in.get("/snapshots", tags=["data"])
def list_snapshots(user: Researcher, context: Here) -> list[Json]:
    """The snapshots there are, oldest first."""
    return [snapshot.summary() for snapshot in snapshots.listing(context.workspace.snapshots)]


# models


@signed_in.post("/cycles", tags=["models"])
def start_cycle(body: NewCycle, user: Researcher, context: Here) -> Json:
    """Begin one turn of the loop."""
    return {"cycle_id": context.cycles.start(body.preset, body.stages, body.overrides)}


@signed_in.get("/cycles", tags=["models"])
def list_cycles(user: Researcher, context: Here) -> list[Json]:
    """Every cycle, the newest first."""
    return [_cycle(status) for status in context.cycles.list()]


@signed_in.get("/cycles/{cycle_id}", tags=["models"])
def cycle(cycle_id: str, user: Researcher, context: Here) -> Json:
    """How a cycle stands."""
    return _cycle(context.cycles.status(cycle_id))


@signed_in.post("/cycles/{cycle_id}/cancel", tags=["models"])
def cancel_cycle(cycle_id: str, user: Researcher, context: Here) -> Json:
    """Ask a running cycle to stop; it can be resumed."""
    return _cycle(context.cycles.cancel(cycle_id))


@signed_in.post("/cycles/{cycle_id}/resume", tags=["models"])
def resume_cycle(cycle_id: str, user: Researcher, context: Here) -> Json:
    """Go on with a cycle that failed or was cancelled."""
    return {"cycle_id": context.cycles.resume(cycle_id)}


@signed_in.get("/checkpoints", tags=["models"])
def list_checkpoints(user: Researcher, context: Here) -> list[Json]:
    """Every checkpoint, with its parents, snapshot, metrics and state."""
    return [_checkpoint(checkpoint) for checkpoint in context.store.checkpoints()]


@signed_in.get("/checkpoints/{checkpoint_id}", tags=["models"])
def checkpoint(checkpoint_id: str, user: Researcher, context: Here) -> Json:
    """One checkpoint."""
    return _checkpoint(context.store.checkpoint(checkpoint_id))


@signed_in.post("/checkpoints", tags=["training"])
def add_checkpoint(body: CheckpointBody, user: Owner, context: Here) -> Json:
    """A training process hands in a checkpoint, or a new state of one."""
    context.store.add_checkpoint(body.record())
    return {"id": body.id}


@signed_in.post("/batches", tags=["training"])
def add_batch(body: BatchBody, user: Owner, context: Here) -> Json:
    """A training process hands in sampled responses; the same batch again adds nothing."""
    return {"task_ids": context.store.add_batch(batches.of_json(body.model_dump()))}


@signed_in.put("/runs/{run_id}", tags=["training"])
def put_run(run_id: str, body: dict[str, Any], user: Owner, context: Here) -> Json:
    """A training process hands in how a run stands."""
    context.store.put_run(run_id, body)
    return {"id": run_id}


# people


@signed_in.get("/users", tags=["people"])
def list_users(user: Admin, context: Here) -> list[Json]:
    """Everyone who may sign in, or once might."""
    return [{**asdict(person), "created_at": iso(person.created_at)} for person in context.store.users()]


@signed_in.post("/users", tags=["people"])
def add_user(body: NewUser, user: Admin, context: Here) -> Json:
    """A new user. Their API token is shown this once."""
    person, token = context.auth.add_user(body.name, body.role)
    return {"name": person.name, "role": person.role, "pseudonym": person.pseudonym, "token": token}


@signed_in.post("/users/{name}/link", tags=["people"])
def sign_in_link(name: str, user: Admin, context: Here) -> Json:
    """A link that signs this user in once, for who lost password and token; it goes after the app's address."""
    return {"name": name, "link": context.auth.link_path(name)}


@signed_in.post("/users/{name}/disable", tags=["people"])
def disable_user(name: str, user: Admin, context: Here) -> Json:
    """Their tokens and sessions stop working at once; what they said is kept."""
    context.store.disable_user(name)
    return {"name": name, "active": False}


router.include_router(labeling)
router.include_router(to_all)
router.include_router(workbench.router)
router.include_router(insight.router)
router.include_router(looking.router)
router.include_router(imports.router)
router.include_router(conversations.router)
router.include_router(signed_in)


@router.api_route(
    "/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"], include_in_schema=False
)
def unknown(path: str, request: Request) -> Response:
    """No such route, or not by this method."""
    methods = _methods_of(request)
    if methods:
        allowed = ", ".join(sorted(methods))
        detail = f"{request.url.path[:200]} takes {allowed}, not {request.method}. Nothing was changed."
        return problem(405, "Method not allowed", detail, {"Allow": allowed})
    raise NotFound(f"There is no route {request.url.path[:200]!r}. {PREFIX}/openapi.json lists those there are.")


def _methods_of(request: Request) -> set[str]:
    """The methods that the documented routes take at this request's path."""
    asked = request.url.path
    paths: Json = request.app.openapi()["paths"]
    found = (methods for path, methods in paths.items() if re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), asked))
    return {method.upper() for methods in found for method in methods}


def _cycle(status: CycleStatus) -> Json:
    return asdict(status)


def _checkpoint(checkpoint: Checkpoint) -> Json:
    return {**asdict(checkpoint), "created_at": iso(checkpoint.created_at)}
