"""Export files as HTTP streams: made chunk by chunk, one chunk at a time, so that labelers do not feel them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse

from data import interchange

if TYPE_CHECKING:
    from data.store import Store

ENDINGS = {"trl": "jsonl", "trl-parquet": "parquet"}  # of file names, where it is not the format
one_at_a_time = threading.Lock()  # held while rows are read and written, never while a slow reader is waited for


def stream(store: Store, kind: str, format: str) -> StreamingResponse:
    """The rows of `kind` as a file of `format`, all of the moment in which the first chunk is made."""
    return attachment(interchange.stream(store.batches(kind), kind, format), kind, format)


def attachment(chunks: Iterator[bytes], kind: str, format: str) -> StreamingResponse:
    """A file of these chunks, each made in its turn among all exports."""
    name = f"pawl-{kind}{'-trl' if format.startswith('trl') else ''}.{ENDINGS.get(format, format)}"
    return StreamingResponse(
        _in_turn(chunks),
        media_type=interchange.MEDIA_TYPES[format],
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _in_turn(chunks: Iterator[bytes]) -> Iterator[bytes]:
    with closing(chunks) as source:  # type: ignore[type-var]  # a generator: closing it ends the read transaction
        while True:
            with one_at_a_time:
                chunk = next(source, None)
            if chunk is None:
                return
            yield chunk
