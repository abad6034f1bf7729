"""The routes of /api/v1 that take feedback in from a file: the body is the file, data/importing.py reads it.

The file is streamed to a folder of its own in the workspace, which is gone when the answer is given. Nothing is
fetched: an address in a file is text.
"""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool

from annotate import roles
from annotate.bodies import Source
from annotate.context import Context
from annotate.roles import Here, Json, Researcher
from data.errors import InvalidInput
from data.importing import import_file, preview
from data.shapes import Mapping

router = roles.signed_in()
Kind = Literal["prompts", "demonstrations", "comparisons", "rankings"]


@router.get("/sources", tags=["data"])
def sources(user: Researcher, context: Here) -> Json:
    """The licences of what was imported, by the name of its source."""
    return context.store.sources()


@router.post("/sources", tags=["data"])
def add_source(body: Source, user: Researcher, context: Here) -> Json:
    """Keep under which licence that is whose source has this name; the same again adds nothing."""
    context.store.add_source(body.name, body.licence)
    return {"name": body.name, "licence": body.licence}


@router.post(
    "/import/{kind}",
    tags=["data"],
    openapi_extra={"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}},
)
async def import_(
    kind: Kind,
    request: Request,
    user: Researcher,
    context: Here,
    name: str = "upload.jsonl",
    source: str | None = None,
    licence: str | None = None,
    map: Annotated[list[str], Query()] = [],  # noqa: B006  # FastAPI copies it
    ask: Annotated[int, Query(ge=0, le=100)] = 0,
    dry_run: bool = False,
) -> Json:
    """Take in the file that is the body, called `name`: its ending tells its format. A dry run only shows what it is.

    Every row is taken or named with the reason. The same file again adds nothing.
    """
    mapping = Mapping.parse(map)
    called = PurePosixPath(name.replace("\\", "/")).name[-200:] or "upload"
    if ask and kind != "prompts":
        raise InvalidInput("ask goes with prompts: labelers are asked for demonstrations of them. Nothing imported.")
    with tempfile.TemporaryDirectory(prefix=".import-", dir=context.workspace.root) as folder:
        path = Path(folder) / f"body{''.join(PurePosixPath(called).suffixes[-2:])}"
        with path.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        given = (kind, path, source or called, mapping)
        if dry_run:
            return await run_in_threadpool(_previewed, *given, called)
        return await run_in_threadpool(_taken, context, *given, called, licence, ask)


def _previewed(kind: str, path: Path, source: str, mapping: Mapping | None, called: str) -> Json:
    report, stored = preview(kind, path, source=source, mapping=mapping)
    report.file = called
    return {**report.json(), "stored": stored}


def _taken(
    context: Context,
    kind: str,
    path: Path,
    source: str,
    mapping: Mapping | None,
    called: str,
    licence: str | None,
    ask: int,
) -> Json:
    known = context.store.prompt_ids() if kind == "prompts" else ()
    options = {"source": source, "licence": licence, "mapping": mapping, "known": known, "ask": ask}
    report = import_file(context.store, kind, path, **options)
    report.file = called
    return {**report.json(), "said": report.lines()[0]}
