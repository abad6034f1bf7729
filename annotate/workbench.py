"""The labeler's day and how it is run, over HTTP: drafts, undo, own labels; guidelines, settings, skips, review.

Routes of /api/v1, on the terms of annotate/api.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Query
from pydantic import AwareDatetime

from annotate import roles
from annotate.bodies import Admission, CheckBody, DraftBody, GuidelineRead, GuidelineText, Lease, Review
from annotate.context import Context
from annotate.rendering import render
from annotate.roles import Anyone, Here, Json, Labeler, Researcher, Reviewer, ReviewingPerson
from data.errors import NotFound
from data.exports import iso
from data.records import Assignment, Guideline, Prompt, User

router = roles.signed_in()


def task_of(context: Context, user: User, assignment: Assignment) -> Json:
    """A task as its labeler's page gets it. Blind: no word of which model wrote what, nor of why they are given it."""
    settings = context.store.project.settings()
    task: Json = {
        "task_id": assignment.task.id,
        "kind": assignment.task.kind,
        "lease": assignment.lease,
        "lease_expires_at": iso(assignment.lease_expires_at),
        "prompt": _prompt(assignment.prompt),
        "guideline": _guideline_of(context, user),
    }
    if assignment.task.kind == "ranking":
        task["responses"] = [{"id": response.id, "text": response.text} for response in assignment.responses]
        task["asks"] = {
            "ratings": settings.ask_ratings,
            "flags": list(settings.ask_flags),
            "rewrite": settings.ask_rewrite,
            "comment": settings.ask_comment,
        }
    elif assignment.starts:
        task["drafts"] = [{"id": response.id, "text": response.text} for response in assignment.starts]
    if (draft := assignment.draft) is not None:
        task["draft"] = {"work": draft.work, "seconds": draft.seconds, "saved_at": iso(draft.saved_at)}
    return task


def _prompt(prompt: Prompt) -> Json:
    return {"messages": [{"role": m.role, "content": m.content} for m in prompt.messages]}


def _guideline_of(context: Context, user: User) -> Json:
    """The present guideline's hash, and whether this labeler has read it."""
    present = context.store.project.guideline()
    hash = present.hash if present else ""
    return {"hash": hash, "read": context.store.project.guideline_of(user.name) == hash}


# my work


@router.put("/tasks/{task_id}/draft", tags=["labeling"])
def save_draft(task_id: str, body: DraftBody, user: Labeler, context: Here) -> Json:
    """Keep what is on my screen; it comes back with the task, on any computer, until I submit or skip it."""
    saved = context.store.save_draft(user.name, task_id, body.lease, body.work, body.seconds)
    return {"saved_at": iso(saved)}


@router.post("/tasks/{task_id}/undo", tags=["labeling"])
def undo(task_id: str, body: Lease, user: Labeler, context: Here) -> Json:
    """Take my answer back: it counts no more, and the task is mine again for another while."""
    return {"lease_expires_at": iso(context.store.undo(user.name, task_id, body.lease))}


@router.get("/labels/mine", tags=["labeling"])
def my_labels(
    user: Labeler, context: Here, before: AwareDatetime | None = None, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> list[Json]:
    """What I said, the latest first, before a time if one is given."""
    return context.store.labels_of(user.name, before=before, limit=limit)


@router.get("/tasks/{task_id}/mine", tags=["labeling"])
def my_task(task_id: str, user: Labeler, context: Here) -> Json:
    """A task that I answered, as I saw it, with my answer and the lease under which I may revise it."""
    label = context.store.label_of(user.name, task_id)
    task = task_of(context, user, context.store.shown_to(user.name, task_id))
    return {**task, "answer": label["answer"], "seconds": label["seconds"]}


# guidelines


@router.get("/guideline", tags=["guidelines"])
def guideline(user: Anyone, context: Here) -> Json:
    """What labelers are asked to do; `tree` is its text formatted, as /render gives it."""
    present = context.store.project.guideline()
    if present is None:
        raise NotFound("This project has no guideline yet. A researcher can write one under Project.")
    return {**_guideline(present), "tree": render(present.text)}


@router.get("/guidelines", tags=["guidelines"])
def guidelines(user: Researcher, context: Here) -> list[Json]:
    """Every version, the present one last."""
    return [_guideline(version) for version in context.store.project.guidelines()]


@router.put("/guideline", tags=["guidelines"])
def set_guideline(body: GuidelineText, user: Researcher, context: Here) -> Json:
    """Another wording from now on; each labeler is shown it once before their next task."""
    return _guideline(context.store.project.set_guideline(body.text, user.name))


@router.post("/guideline/read", tags=["guidelines"])
def read_guideline(body: GuidelineRead, user: Labeler, context: Here) -> Json:
    """I have read this version."""
    context.store.project.read_guideline(user.name, body.hash)
    return {"hash": body.hash}


# the project


@router.get("/settings", tags=["project"])
def settings(user: Researcher, context: Here) -> Json:
    """What the project asks of its labelers."""
    return asdict(context.store.project.settings())


@router.put("/settings", tags=["project"])
def change_settings(body: dict[str, Any], user: Researcher, context: Here) -> Json:
    """Change the settings that are named; the others stay."""
    return asdict(context.store.project.change_settings(body, user.name))


@router.post("/admissions", tags=["project"])
def admit(body: Admission, user: Researcher, context: Here) -> Json:
    """Let a labeler work, whatever they scored in the qualification."""
    context.store.project.admit(body.labeler, user.name)
    return {"labeler": body.labeler}


@router.get("/admissions", tags=["project"])
def waiting(user: Researcher, context: Here) -> list[Json]:
    """Labelers who get no work yet, with how they did in the qualification; those who answered all of it first."""
    return context.store.checks.waiting()


@router.get("/checks", tags=["project"])
def checks(user: Researcher, context: Here, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[Json]:
    """The gold and qualification tasks that labelers are given, the newest first: the answer, and how many gave it."""
    return context.store.checks.known(limit)


@router.get("/checks/candidates", tags=["project"])
def candidates(user: Researcher, context: Here) -> list[Json]:
    """Ranked tasks that could be made into such a one: those reviewed first, then the latest that labelers agree on."""
    return context.store.checks.candidates()


@router.post("/checks", tags=["project"])
def make_check(body: CheckBody, user: Researcher, context: Here) -> Json:
    """Give a ranked task to every labeler as a check, with the answer that it got; `retire` takes it back. Its id."""
    return {"task_id": context.store.checks.make(body.task_id, body.purpose, user.name)}


@router.get("/tasks/resting", tags=["project"])
def resting(user: Researcher, context: Here) -> list[Json]:
    """Tasks that three people skipped, with their reasons: nobody is offered them until they are returned."""
    return context.store.resting()


@router.post("/tasks/{task_id}/return", tags=["project"])
def give_back(task_id: str, user: Researcher, context: Here) -> Json:
    """Offer a resting task again."""
    context.store.project.give_back(task_id)
    return {"task_id": task_id, "state": "open"}


@router.post("/tasks/{task_id}/retire", tags=["project"])
def retire(task_id: str, user: Researcher, context: Here) -> Json:
    """Offer a task to nobody any more; its labels stay."""
    context.store.project.retire(task_id)
    return {"task_id": task_id, "state": "retired"}


# review


@router.get("/reviews", tags=["review"])
def reviews(user: Reviewer, context: Here) -> list[Json]:
    """Tasks on which labelers disagree, the worst first, those already reviewed last."""
    return [{**asdict(one), "latest_at": iso(one.latest_at)} for one in context.store.reviews.disagreements()]


@router.get("/reviews/{task_id}", tags=["review"])
def review(task_id: str, user: Reviewer, context: Here) -> Json:
    """One such task: the prompt, the responses, and what each labeler said; ranks in the order of the responses."""
    return review_of(context, task_id)


@router.put("/reviews/{task_id}", tags=["review"])
def adjudicate(task_id: str, body: Review, user: ReviewingPerson, context: Here) -> Json:
    """My answer, a label of its own. The same again gives the same answer; another is a new revision."""
    hash = context.store.project.guideline_of(user.name)
    receipt = context.store.reviews.adjudicate(user.name, task_id, body.answer(), guideline=hash)
    return {"label_id": receipt.label_id, "revision": receipt.revision}


@router.post("/reviews/{task_id}/gold", tags=["review"])
def make_gold(task_id: str, user: Researcher, context: Here) -> Json:
    """Give a reviewed task to every labeler from now on, silently, to see how well they judge. The new task's id."""
    return {"task_id": context.store.checks.make(task_id, "gold", user.name)}


def review_of(context: Context, task_id: str) -> Json:
    """What a reviewer looks at. Blind like the labelers: no word of which model wrote what."""
    prompt, responses = context.store.task_texts(task_id)
    return {
        "task_id": task_id,
        "prompt": _prompt(prompt),
        "responses": [{"id": response.id, "text": response.text} for response in responses],
        "labels": context.store.reviews.labels(task_id),
    }


def _guideline(version: Guideline) -> Json:
    return {**asdict(version), "created_at": iso(version.created_at)}
