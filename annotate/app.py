"""The app: one FastAPI process that owns the store, with the Gradio pages mounted at "/".

Reads   the workspace
Writes  feedback.duckdb through the store; server.json while it runs (url, pid and owner token, mode 0600)

The store, the API and sign-in are served at once; Gradio takes seconds to import, so it is mounted when it is there.
One process only: the store, Gradio's queue and the sessions live in its memory.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from annotate import PREFIX, VERSION, api, problems, sign_in
from annotate.context import Context
from annotate.guards import Guards

if TYPE_CHECKING:
    import gradio

log = logging.getLogger("pawl")
# a pawl holding a ratchet wheel back, as one small drawing
FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><circle cx="14" cy="18" r="9" fill="none" '
    'stroke="#0f6b63" stroke-width="5" stroke-dasharray="4.4 2.67"/><circle cx="14" cy="18" r="3" fill="#0f6b63"/>'
    '<path d="M29 4 20 10l1.5 3L30 8z" fill="#b45f06"/></svg>'
)
MANIFEST = {
    "name": "Pawl",
    "short_name": "Pawl",
    "start_url": "/",
    "display": "standalone",
    "icons": [{"src": "/favicon.ico", "sizes": "any", "type": "image/svg+xml"}],
}
_both = APIRouter()
_both.include_router(api.router)
_both.include_router(sign_in.router)
ROUTES = _both.routes  # FastAPI takes .2 s to know them all, and knows them for every app of a process


@dataclass
class Pages:
    """Whether the Gradio pages are mounted; True too where none are wanted."""

    ready: bool


def create_app(context: Context, *, pages: bool = True, on_pages_failed: Callable[[], None] = lambda: None) -> FastAPI:
    """The whole app over these parts. Without `pages` it serves the API and sign-in alone, and needs no Gradio.

    The pages are loaded once the app runs; `on_pages_failed` is called when they cannot be.
    """
    state = Pages(ready=not pages)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(context.talks.stop)
            if not pages:
                yield
                return
            loading = asyncio.create_task(_load_pages(app, state, stack))
            loading.add_done_callback(partial(_loaded, on_pages_failed))
            yield
            loading.cancel()

    app = FastAPI(
        title="Pawl",
        version=VERSION,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.context = context
    app.state.stopping = asyncio.Event()  # set when the app is asked to stop, so that open event streams end
    # no origin is allowed; that it is there keeps Gradio from adding its own, which lets every origin in
    app.add_middleware(CORSMiddleware, allow_origins=[])
    app.add_middleware(Guards, auth=context.auth, pages_ready=lambda: state.ready, stopping=app.state.stopping)
    problems.install(app)
    app.router.routes.extend(ROUTES)
    app.add_api_route("/favicon.ico", _favicon, include_in_schema=False)
    app.add_api_route("/manifest.json", _manifest, include_in_schema=False)
    return app


def _favicon() -> Response:
    return Response(FAVICON, media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})


def _manifest() -> Response:
    return JSONResponse(MANIFEST, media_type="application/manifest+json", headers={"Cache-Control": "max-age=86400"})


async def _load_pages(app: FastAPI, state: Pages, stack: AsyncExitStack) -> None:
    """Import Gradio in a thread, mount the pages, start their queue: the app answers meanwhile."""
    blocks = await run_in_threadpool(_mount, app)
    gradio_app = app.routes[-1].app  # type: ignore[attr-defined]  # the mount was added last
    # mount_gradio_app starts these with the parent's lifespan, which has begun long ago
    await stack.enter_async_context(gradio_app.router.lifespan_context(gradio_app))
    blocks.run_startup_events()
    await blocks.run_extra_startup_events()
    gc.freeze()  # Gradio's objects stay too, and a look through them for garbage takes a tenth of a second
    state.ready = True


def _loaded(on_failed: Callable[[], None], task: asyncio.Task[None]) -> None:
    """The pages are there, or the app is of no use."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("The pages could not be loaded", exc_info=error)
        on_failed()


def _mount(app: FastAPI) -> gradio.Blocks:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio

    from annotate import pages
    from annotate.pages import theme

    context: Context = app.state.context
    blocks = pages.build(context)
    blocks.state_session_capacity = 1_000  # pages keep their state in Gradio's memory until so many others came
    # no limit to how many wait for the store at once; positions in the queue are not broadcast after each event
    blocks.queue(default_concurrency_limit=None, status_update_rate=30, api_open=False)
    # as Gradio has it, it looks for events a thousand times a second: 6 % of a core for an app that nobody uses
    blocks._queue.sleep_when_free, blocks._queue.progress_update_sleep_when_free = 0.02, 0.1

    def name_of(request: Request) -> str | None:
        user = context.auth.user_of(request)
        return user.name if user else None

    # it says so of every app with several pages, asked for or not
    warnings.filterwarnings("ignore", message="SSR mode is not supported", category=UserWarning)
    gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        auth_dependency=name_of,
        run_history=False,  # it would keep every call in the browser, and offers to send them to a hub
        footer_links=[],
        enable_monitoring=False,
        show_error=False,  # texts of exceptions are for the log
        ssr_mode=False,
        mcp_server=False,
        max_file_size="1mb",
        **theme.mount_options(),
    )
    return blocks
