"""A batch comes back as it was written, or not at all."""

import json
from dataclasses import asdict

import pytest

from data import batches
from data.batches import Batch, BatchRow
from data.errors import InvalidInput
from data.records import NewResponse

BATCH = Batch(
    "sample-0007",
    "ppo-0003",
    (
        BatchRow(
            "p-1",
            (
                NewResponse("Paris.", "ppo-0003", {"temperature": 0.7, "seed": 11}),
                NewResponse("Paris, said twice: Paris.", "sft-0002"),
            ),
        ),
        BatchRow("p-2", (NewResponse("", "ppo-0003"), NewResponse("naïve ☕", "ppo-0003"))),
    ),
)


def test_a_batch_is_read_back_as_it_was_written(tmp_path):
    batches.write(BATCH, tmp_path / "sample-0007.parquet")

    assert batches.read(tmp_path / "sample-0007.parquet") == BATCH
    assert [path.name for path in tmp_path.iterdir()] == ["sample-0007.parquet"]


def test_a_batch_travels_as_json():
    assert batches.of_json(json.loads(json.dumps(asdict(BATCH)))) == BATCH


def test_an_empty_batch_is_still_a_batch(tmp_path):
    batches.write(Batch("sample-0001", "sft-0001", ()), tmp_path / "b.parquet")

    assert batches.read(tmp_path / "b.parquet") == Batch("sample-0001", "sft-0001", ())


def test_a_damaged_file_is_refused_by_name(tmp_path):
    path = tmp_path / "sample-0007.parquet"
    batches.write(BATCH, path)
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(InvalidInput, match=r"sample-0007\.parquet cannot be read"):
        batches.read(path)


def test_another_parquet_file_is_not_a_batch(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")

    with pytest.raises(InvalidInput, match="not a batch"):
        batches.read(tmp_path / "other.parquet")


@pytest.mark.parametrize("body", [{}, {"id": "b", "checkpoint": "c", "rows": [{"prompt_id": "p"}]}, {"rows": 3}])
def test_json_that_is_not_a_batch_is_refused(body):
    with pytest.raises(InvalidInput, match="not a batch"):
        batches.of_json(body)


def test_a_failed_write_leaves_the_old_batch(tmp_path):
    path = tmp_path / "b.parquet"
    batches.write(BATCH, path)

    with pytest.raises(TypeError):  # a sampling setting that JSON cannot hold
        batches.write(Batch("b", "c", (BatchRow("p", (NewResponse("x", "c", {"seed": {1, 2}}),)),)), path)

    assert batches.read(path) == BATCH
    assert [file.name for file in tmp_path.iterdir()] == ["b.parquet"]
