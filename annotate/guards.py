"""What stands before every route and page: limits on bodies, same-origin writes, sign-in for pages, headers.

Pure ASGI, so that streams pass through untouched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, RedirectResponse, Response

from annotate import PREFIX, sign_in
from annotate.auth import is_forged
from annotate.problems import of_error, problem, unexpected
from data.errors import Forbidden, NotSignedIn

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from annotate.auth import Auth

MAX_BODY = 1024 * 1024  # bytes
MAX_HANDED_IN = 256 * 1024 * 1024  # bytes; the owner's processes hand in whole batches and imports at once
MAX_IMPORT = 4 * 1024**3  # bytes; a file that a researcher imports is written to disk as it comes
OPEN = ("/sign-in", "/sign-in/link", "/sign-in/account", "/sign-out", "/manifest.json", "/favicon.ico")
GRADIO = "/gradio_api/"
GRADIO_SERVED = (  # what Gradio's pages ask for; uploads, files, proxies, recordings and direct calls are not served
    "app_id",
    "cancel",
    "component_server",
    "heartbeat/",
    "info",
    "queue/",
    "reset",
    "startup-events",
    "theme.css",
)
NOT_SERVED = ("/monitoring", "/login", "/logout", "/openapi.json", "/custom_component")  # Gradio's, of no use here
# Gradio's gr.HTML compiles its template and script in the page, hence unsafe-eval; nothing is fetched from elsewhere
PAGES_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
FORMS_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser's form would send `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guards:
    """Wraps the whole app. `pages_ready` says whether Gradio has been mounted; `stopping` ends its event streams."""

    def __init__(self, app: ASGIApp, auth: Auth, pages_ready: Callable[[], bool], stopping: asyncio.Event) -> None:
        self._app, self._auth, self._pages_ready, self._stopping = app, auth, pages_ready, stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        secured = _with_headers(send, scope["path"])
        limit = self._limit(connection, scope["path"])
        if (refusal := self._refusal(scope, connection, limit)) is not None:
            await refusal(scope, receive, secured)
            return
        streams = scope["method"] == "GET" and scope["path"].startswith(GRADIO)
        receive = _until(self._stopping, receive) if streams else _counted(receive, limit)
        await _answered(self._app, scope, receive, secured)

    def _limit(self, connection: HTTPConnection, path: str) -> int:
        """How many bytes this body may have."""
        user = self._auth.user_of(connection)
        if path.startswith(f"{PREFIX}/import/") and user is not None and user.role in ("researcher", "admin"):
            return MAX_IMPORT
        return MAX_HANDED_IN if user is self._auth.owner else MAX_BODY

    def _refusal(self, scope: Scope, connection: HTTPConnection, limit: int) -> Response | None:
        """The answer that ends this request here, or None."""
        path, method = scope["path"], scope["method"]
        if is_forged(connection, method):
            return of_error(
                Forbidden(
                    "This write came without an Origin header of this site, as another site's page would send it. "
                    "Nothing was changed; use the site's own pages, or a bearer token. "
                    "(A proxy before this app must pass the Host header on as it came.)"
                )
            )
        if not _small_enough(connection, limit):
            return problem(413, "Content Too Large", _too_large(limit))
        if not _is_served(path):
            return problem(404, "Not found", f"{path[:200]} is not served here.")
        if path in OPEN or path.startswith(f"{PREFIX}/"):
            return None
        if self._auth.user_of(connection) is None:
            return _sign_in_first(connection, method, path)
        if not self._pages_ready():
            return HTMLResponse(sign_in.starting(), status_code=503, headers={"Retry-After": "1"})
        return None


async def _answered(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Have `app` answer. What it did not foresee is answered here: Starlette's own answer would pass by our headers."""
    begun = False

    async def noted(message: Message) -> None:
        nonlocal begun
        begun = True
        await send(message)

    try:
        await app(scope, receive, noted)
    except Exception:
        if not begun:
            await unexpected()(scope, receive, send)
        raise  # the server writes it to the log


def _is_served(path: str) -> bool:
    if path.startswith(GRADIO):
        return path.removeprefix(GRADIO).startswith(GRADIO_SERVED)
    return not path.startswith(NOT_SERVED)


def _small_enough(connection: HTTPConnection, limit: int) -> bool:
    length = connection.headers.get("content-length", "0")
    return not length.isdecimal() or int(length) <= limit  # a length that is no number is the server's to refuse


def _too_large(limit: int) -> str:
    return f"The body has more than {limit:,} bytes. Nothing was stored; send less, or in several requests."


def _sign_in_first(connection: HTTPConnection, method: str, path: str) -> Response:
    if method in ("GET", "HEAD") and (path == "/" or "text/html" in connection.headers.get("accept", "")):
        return RedirectResponse(f"/sign-in?next={quote(path)}" if path != "/" else "/sign-in", status_code=303)
    return of_error(NotSignedIn("There is no valid session or token in this request. Sign in at /sign-in first."))


def _until(stopping: asyncio.Event, receive: Receive) -> Receive:
    """`receive`, to which the app's stop looks as if the browser had gone: event streams end by nothing else."""

    async def received() -> Message:
        waiting = [asyncio.ensure_future(receive()), asyncio.ensure_future(stopping.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return waiting[0].result() if waiting[0].done() else {"type": "http.disconnect"}
        finally:
            for each in waiting:
                each.cancel()

    return received


def _counted(receive: Receive, limit: int) -> Receive:
    """`receive`, which refuses a body longer than `limit` bytes even when it came without saying its length."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return counted


def _with_headers(send: Send, path: str) -> Send:
    """Add the security headers to whatever is answered."""

    async def secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            forms = path in OPEN or path.startswith(f"{PREFIX}/")
            headers["Content-Security-Policy"] = FORMS_POLICY if forms else PAGES_POLICY
            if forms:
                headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return secured
