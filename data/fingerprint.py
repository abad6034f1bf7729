"""The hash of a table's content, taken column by column as its batches pass.

Needs   pyarrow only

Every column is a few streams of bytes, each hashed by itself: of text the lengths and the bytes, of numbers the values
and which of them are there, of a list its lengths and the streams of its elements, of a struct those of its fields. A
missing value has the length -1, or the value 0 and a mark. The streams run on from one batch to the next, so neither
the batches nor the row groups of a file, nor the machine, changes the hash; the order of the rows does.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


class Fingerprint:
    """Feed it the batches of a table in order; `hexdigest` is the hash of the columns' names and values."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._streams: defaultdict[str, Any] = defaultdict(hashlib.sha256)
        self.update(pa.RecordBatch.from_pylist([], schema))  # a table without rows has its columns too

    def update(self, batch: pa.RecordBatch) -> None:
        """Take in the next rows; their columns must be those of the schema."""
        for field, column in zip(self._schema, batch.columns, strict=True):
            self._take(field.name, column)

    def hexdigest(self) -> str:
        """64 hex digits."""
        streams = {name: stream.hexdigest() for name, stream in self._streams.items()}
        return hashlib.sha256(json.dumps(streams, sort_keys=True).encode()).hexdigest()

    def _take(self, name: str, values: pa.Array) -> None:
        if pa.types.is_string(values.type):
            self._add(f"{name} lengths", pc.fill_null(pc.binary_length(values), -1))
            self._add(name, values)
        elif pa.types.is_list(values.type):
            self._add(f"{name} lengths", pc.fill_null(pc.list_value_length(values), -1))
            self._take(f"{name}[]", values.flatten())  # without what lies under a missing list
        elif pa.types.is_struct(values.type):
            self._add(f"{name} there", values.is_valid().cast(pa.uint8()))
            for field, column in zip(values.type, values.flatten(), strict=True):
                self._take(f"{name}.{field.name}", column)
        else:
            self._add(f"{name} there", values.is_valid().cast(pa.uint8()))
            known = pc.fill_null(values, 0)
            self._add(name, pc.add(known, 0.0) if pa.types.is_floating(values.type) else known)  # -0.0 becomes 0.0

    def _add(self, stream: str, values: pa.Array) -> None:
        """The bytes of the values, those of text one after another."""
        digest = self._streams[stream]
        values = values.drop_null()
        if not len(values):
            return
        start, stop = values.offset, values.offset + len(values)
        if pa.types.is_string(values.type):
            places = memoryview(values.buffers()[1]).cast("i")
            start, stop, width = places[start], places[stop], 1
        else:
            width = values.type.bit_width // 8
        digest.update(memoryview(values.buffers()[-1] or b"")[start * width : stop * width])
