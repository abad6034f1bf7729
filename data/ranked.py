"""Rankings as columns of numbers: the texts left out, and those of a task together.

Reads   batches of rankings (data.columns.SCHEMAS), by prompt and label
Needs   pyarrow and numpy only
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

RANKED = ["prompt_id", "task_id", "labeler", "responses", "ranks", "display_order"]  # the columns to read


def without_texts(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rankings with the lengths of their responses, and the place at which each was shown, from 1; else 0."""
    responses = batch.column("responses")
    columns = {name: batch.column(name) for name in ("prompt_id", "task_id", "labeler", "ranks")}
    columns["lengths"] = lengths_of(responses, "text")
    columns["sources"] = _like(responses, responses.flatten().field("source"))
    columns["places"] = _like(responses, pa.array(_places(responses, batch.column("display_order"))))
    return pa.RecordBatch.from_pydict(columns)


def _places(responses: pa.ListArray, shown: pa.ListArray) -> np.ndarray:
    """Where in its row's `shown` ids each response stands, from 1; 0 in rows whose two lists have not the same ids."""
    counts, count_shown = (lists.value_lengths().fill_null(0).to_numpy() for lists in (responses, shown))
    rows, rows_shown = (np.repeat(np.arange(len(each)), each) for each in (counts, count_shown))
    ids = pa.chunked_array([responses.flatten().field("id"), shown.flatten()]).combine_chunks()
    codes = ids.dictionary_encode().indices.to_numpy()
    as_many = counts == count_shown
    here, there = np.nonzero(as_many[rows])[0], np.nonzero(as_many[rows_shown])[0]
    here = here[np.lexsort((codes[: len(rows)][here], rows[here]))]
    there = there[np.lexsort((codes[len(rows) :][there], rows_shown[there]))]
    starts = np.cumsum(count_shown) - count_shown
    places = np.zeros(len(rows), np.int32)
    places[here] = there - starts[rows_shown[there]] + 1
    strange = codes[: len(rows)][here] != codes[len(rows) :][there]
    places[np.isin(rows, rows[here][strange])] = 0
    return places


def by_whole_prompts(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows, cut where a prompt ends: the rankings of a task, which are of one prompt, come together."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        ids = batch.column("prompt_id")
        last = pc.index(ids, ids[len(ids) - 1]).as_py()
        if last:
            yield pa.concat_batches([*held, batch.slice(0, last)])
            held = []
        held.append(batch.slice(last))
    if held:
        yield pa.concat_batches(held)


def lengths_of(lists: pa.ListArray, field: str) -> pa.ListArray:
    """The characters of this field of each element."""
    return _like(lists, pc.utf8_length(lists.flatten().field(field)))


def _like(lists: pa.ListArray, values: pa.Array) -> pa.ListArray:
    """Other values in lists as long as these."""
    ends = np.cumsum(lists.value_lengths().fill_null(0).to_numpy())
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]).astype(np.int32)), values)
