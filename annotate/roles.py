"""Who may call a route: the dependencies that every router of the API shares.

A route takes `user: Researcher` and so is closed to everyone below; `context: Here` gives it the app's parts.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPBearer

from annotate.context import Context
from data.records import Role, User

Json = dict[str, Any]


async def _here(request: Request) -> Context:  # async: answered on the event loop, without a hop to a thread
    context: Context = request.app.state.context
    return context


Here = Annotated[Context, Depends(_here)]


def _at_least(role: Role) -> Any:
    async def check(request: Request, context: Here) -> User:
        return context.auth.require(request, role)

    return Depends(check)


async def _person(request: Request, context: Here) -> User:
    return context.auth.require_person(request)


async def _reviewer(request: Request, context: Here) -> User:
    context.auth.require(request, "reviewer")
    return context.auth.require_person(request)


async def _owner(request: Request, context: Here) -> User:
    return context.auth.require_owner(request)


Anyone = Annotated[User, _at_least("labeler")]  # signed in
Labeler = Annotated[User, Depends(_person)]  # a person: not the owner token
Reviewer = Annotated[User, Depends(_reviewer)]  # a person
Researcher = Annotated[User, _at_least("researcher")]
Admin = Annotated[User, _at_least("admin")]
Owner = Annotated[User, Depends(_owner)]

_bearer = HTTPBearer(auto_error=False, description="An API token, as `python -m annotate users add` prints it.")
_PROBLEMS: dict[int | str, Json] = {  # what every route may answer instead: RFC 9457 problem documents
    status: {"description": words, "content": {"application/problem+json": {"schema": {"type": "object"}}}}
    for status, words in (
        (401, "Not signed in"),
        (403, "This role may not do this"),
        (404, "Nothing by that name"),
        (409, "Not in the present state: an expired or foreign lease, a name that is taken, too few labels"),
        (413, "The body is too large"),
        (422, "What was sent cannot be stored: the detail names the field"),
    )
}


def signed_in() -> APIRouter:
    """A router whose routes are for people who are signed in."""
    return APIRouter(dependencies=[Depends(_bearer)], responses=_PROBLEMS)
