"""Errors as RFC 9457 problem documents: what, which one, what was kept, and what to do next.

Nothing of what was sent is quoted unshortened, and nothing of what the app's code raised is shown.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from data.errors import FeedbackError

MEDIA_TYPE = "application/problem+json"


def problem(status: int, title: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A problem document. Its type is about:blank: the status and the words say it all."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    # ASCII, so that a lone surrogate in a quoted name cannot spoil the answer
    return Response(json.dumps(body), status_code=status, headers=headers, media_type=MEDIA_TYPE)


def of_error(error: FeedbackError) -> Response:
    """The problem document of one of our own errors."""
    headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else None
    return problem(error.status, error.title, str(error), headers)


def install(app: FastAPI) -> None:
    """Answer every error of the app's routes with a problem document; annotate.guards answers what nobody foresaw."""
    app.add_exception_handler(FeedbackError, _feedback_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)


async def _feedback_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FeedbackError)
    return of_error(error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [_sentence(item) for item in error.errors()]
    shown = "; ".join(found[:10]) + (f"; and {len(found) - 10} more" if len(found) > 10 else "")
    return problem(422, "Invalid input", f"{shown}. Nothing was stored; correct this and send it again.")


def _sentence(item: dict[str, Any]) -> str:
    """One validation error in words. The first parts of its place are where in the request it is, and which model."""
    place = [str(part) for part in item["loc"] if part not in ("body", "ranking", "demonstration")]
    if item["type"] == "json_invalid":
        return f"the body is not JSON: {item['ctx']['error']} at character {item['loc'][-1]}"
    name = ".".join(place)[:200] or "the body"
    return f"{name}: {item['msg'][0].lower()}{item['msg'][1:]}"


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    detail = error.detail if isinstance(error.detail, str) else title
    if error.status_code == HTTPStatus.BAD_REQUEST and request.url.path.startswith("/api/"):
        # FastAPI says no more than this of a body that is not UTF-8, nested too deeply or has a number of 5,000 digits
        detail = "The body could not be read as JSON in UTF-8. Nothing was stored; correct it and send it again."
    return problem(error.status_code, title, detail, dict(error.headers or {}))


def unexpected() -> Response:
    """The answer to what the app's programmers did not foresee; the log says what it was."""
    return problem(
        500,
        "Internal error",
        "Something went wrong in the app; its log says what. Nothing was acknowledged; send it again later.",
    )
