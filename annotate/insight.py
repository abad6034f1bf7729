"""The routes of /api/v1 that tell how labelers do and how the project stands; data/insight.py counts."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from annotate import PREFIX
from annotate.api import PROBLEMS, Here, Json, Labeler, Researcher, bearer

router = APIRouter(prefix=PREFIX, tags=["people"], dependencies=[Depends(bearer)], responses=PROBLEMS)


@router.get("/labelers")
def labelers(user: Researcher, context: Here) -> Json:
    """Each labeler, by pseudonym: counts, seconds, agreement, gold, what sways them. With every definition."""
    found = context.store.insight()
    return {name: found[name] for name in ("labelers", "bins", "definitions")}


@router.get("/labelers/me")
def my_numbers(user: Labeler, context: Here) -> Json:
    """My own counts, median seconds and self-agreement."""
    return context.store.own_numbers(user.name)


@router.get("/progress")
def progress(user: Researcher, context: Here) -> Json:
    """Labels per day (UTC), queue, agreement, responses by checkpoint, skips by reason, what sways choices."""
    found, stats = context.store.insight(), context.store.stats()
    return {
        **found["project"],
        **{name: stats[name] for name in ("labels", "tasks", "agreement", "tasks_per_hour")},
        "bins": found["bins"],
        "definitions": found["definitions"],
    }
