"""The routes of /api/v1 that tell how labelers do and how the project stands; data/insight.py counts."""

from __future__ import annotations

from annotate import roles
from annotate.roles import Here, Json, Labeler, Researcher

router = roles.signed_in()


@router.get("/labelers", tags=["people"])
def labelers(user: Researcher, context: Here) -> Json:
    """Each labeler, by pseudonym: counts, seconds, agreement, gold, what sways them. With every definition."""
    found = context.store.insight()
    return {name: found[name] for name in ("at", "labelers", "bins", "definitions")}


@router.get("/labelers/me", tags=["people"])
def my_numbers(user: Labeler, context: Here) -> Json:
    """My own counts, median seconds and self-agreement."""
    return context.store.own_numbers(user.name)


@router.get("/progress", tags=["people"])
def progress(user: Researcher, context: Here) -> Json:
    """Labels per day (UTC), queue, agreement, responses by checkpoint, skips by reason, what sways choices."""
    found = context.store.insight()
    return found["project"] | {name: found[name] for name in ("at", "bins", "definitions")}
