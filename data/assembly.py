"""Rows of labels put together in columns, by prompt and label, in memory that stays flat.

Reads   streams of Arrow batches (data.exports gives them: labels, responses and prompts, each in any order)
Writes  a scratch file while it works, gone when it is done
Gives   batches of data.columns.SCHEMAS, the rows in the order of snapshots

Prompts are dealt into shares, consecutive in their order and each small enough to hold. What belongs to a share is put
aside in the scratch file as the streams pass; then share after share is read back, sorted and joined.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.columns import SCHEMAS

SHARE_BYTES = 32_000_000  # of texts in a share
SHARE = "share"  # the column of every stream that says which share a row belongs to
Read = Callable[[], Iterable[pa.RecordBatch]]
Shelf = dict[str, pa.Table]  # the rows of one share, by stream


def shares_of(prompts: pa.Table) -> pa.Table:
    """The share of each prompt: `prompts` has prompt_id, in order, and bytes, what it brings with it."""
    sizes = _array(prompts, "bytes").to_numpy()
    shares = ((np.cumsum(sizes) - sizes) // SHARE_BYTES).astype(np.int32)
    return pa.table({"prompt_id": prompts.column("prompt_id"), SHARE: shares})


def by_share(streams: Mapping[str, Read], scratch: Path | None) -> Iterator[Shelf]:
    """The rows of all streams, share after share."""
    with tempfile.TemporaryFile(dir=scratch) as file:
        schemas: dict[str, pa.Schema] = {}
        places: defaultdict[int, list[tuple[str, int, int]]] = defaultdict(list)
        for name, read in streams.items():
            for batch in read():
                schemas[name] = batch.schema
                for share, part in _dealt(batch):
                    places[share].append((name, file.tell(), file.write(part.serialize())))
        for share in sorted(places):
            parts: dict[str, list[pa.RecordBatch]] = {name: [] for name in schemas}
            for name, place, length in places[share]:
                file.seek(place)
                parts[name].append(pa.ipc.read_record_batch(pa.py_buffer(file.read(length)), schemas[name]))
            yield {name: pa.Table.from_batches(parts[name], schemas[name]) for name in schemas}


def _dealt(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of each share in the batch."""
    order = pc.sort_indices(batch.column(SHARE))
    batch = batch.take(order)
    shares, starts = np.unique(batch.column(SHARE).to_numpy(), return_index=True)
    for share, start, stop in zip(shares, starts, [*starts[1:], len(batch)], strict=True):
        yield int(share), batch.slice(start, stop - start)


def prompts(shelf: Shelf) -> pa.RecordBatch:
    """Rows of prompts, from the stream `prompts`."""
    return _batch(_sorted(shelf["prompts"], "prompt_id"), "prompts")


def demonstrations(shelf: Shelf) -> pa.RecordBatch:
    """Rows of demonstrations, from the streams `demonstrations` and `prompts`."""
    labels = _sorted(shelf["demonstrations"], "prompt_id", "label_id")
    return _batch(_with_prompt(labels, shelf["prompts"]), "demonstrations")


def rankings(shelf: Shelf) -> pa.RecordBatch:
    """Rows of rankings, from the streams `rankings`, `responses` and `prompts`."""
    labels = _sorted(shelf["rankings"], "prompt_id", "label_id")
    responses = _sorted(shelf["responses"], "task_number", "position")
    numbers, wanted = (_array(table, "task_number").to_numpy() for table in (responses, labels))
    first = np.searchsorted(numbers, wanted, "left")
    count = np.searchsorted(numbers, wanted, "right") - first
    ends = np.cumsum(count)
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    taken = responses.take(pa.array(np.arange(offsets[-1]) + np.repeat(first - (ends - count), count)))
    names = ["id", "text", "source"]
    shown = pa.StructArray.from_arrays([_array(taken, name) for name in names], names)
    table = _with_prompt(labels, shelf["prompts"])
    table = table.append_column("responses", pa.ListArray.from_arrays(pa.array(offsets), shown))
    return _batch(table.append_column("unrankable", _without_rank(table, _array(taken, "id"), offsets)), "rankings")


TABLES = {"rankings": rankings, "demonstrations": demonstrations, "prompts": prompts}


def _without_rank(labels: pa.Table, ids: pa.Array, offsets: np.ndarray) -> pa.Array:
    """The ids of each label's responses that have no rank."""
    ranks = _array(labels, "ranks").flatten()
    missing = np.concatenate([[0], np.cumsum(ranks.is_null().to_numpy(zero_copy_only=False))])
    return pa.ListArray.from_arrays(pa.array(missing[offsets].astype(np.int32)), ids.filter(ranks.is_null()))


def _with_prompt(labels: pa.Table, prompts: pa.Table) -> pa.Table:
    """The labels with the conversation and the split of their prompts."""
    rows = prompts.take(pc.index_in(labels.column("prompt_id"), prompts.column("prompt_id")))
    return labels.append_column("prompt", rows.column("messages")).append_column("split", rows.column("split"))


def _sorted(table: pa.Table, *names: str) -> pa.Table:
    return table.take(pc.sort_indices(table, [(name, "ascending") for name in names]))


def _array(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _batch(table: pa.Table, kind: str) -> pa.RecordBatch:
    """One batch with the kind's columns, in their order."""
    schema = SCHEMAS[kind]
    table = table.select(schema.names).cast(schema).combine_chunks()
    return table.to_batches()[0] if len(table) else pa.RecordBatch.from_pylist([], schema)
