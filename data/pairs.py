"""What follows from rankings, in columns: decided pairs, single verdicts; and the shapes that TRL's trainers load.

Reads   batches of rankings (data.columns.SCHEMAS), from the store or from a snapshot
Gives   batches of comparisons (every pair of responses that one labeler ranked apart) and of unpaired verdicts; any
        kind of rows in TRL's conversational columns
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from data.columns import SCHEMAS

TRL_COLUMNS = {  # which column becomes a conversation, and under what name
    "demonstrations": {"response": "completion"},
    "comparisons": {"chosen": "chosen", "rejected": "rejected"},
    "unpaired": {"completion": "completion"},
    "rankings": {},
    "prompts": {},
}


def comparisons(rankings: pa.RecordBatch) -> pa.RecordBatch:
    """The decided pairs of each ranking in turn; ties and responses without a rank are in none."""
    ranks, starts = matrix(rankings.column("ranks"))
    better, worse = ranks[:, :, None], ranks[:, None, :]
    row, chosen, rejected = np.nonzero((better > 0) & (better < worse))
    columns = _labels(rankings, row)
    for name, place in (("chosen", chosen), ("rejected", rejected)):
        columns |= {name: _response(rankings, "text", starts[row] + place)}
        columns |= {f"{name}_id": _response(rankings, "id", starts[row] + place)}
    columns["margin"] = pa.array(ranks[row, rejected] - ranks[row, chosen], pa.int32())
    return _batch(columns, "comparisons")


def unpaired(rankings: pa.RecordBatch) -> pa.RecordBatch:
    """Single responses with a verdict, as KTO wants them (Ethayarajh et al. 2024).

    A response is labelled true when it was ranked above more of the others than below, false when below more than
    above. Those in the very middle, and those without a rank, are in none.
    """
    ranks, starts = matrix(rankings.column("ranks"))
    better, worse = ranks[:, :, None], ranks[:, None, :]
    decided = (better > 0) & (worse > 0)
    ahead = (decided & (better < worse)).sum(2) - (decided & (better > worse)).sum(2)
    row, place = np.nonzero(ahead)
    columns = _labels(rankings, row)
    columns["completion"] = _response(rankings, "text", starts[row] + place)
    columns["response_id"] = _response(rankings, "id", starts[row] + place)
    columns["label"] = pa.array(ahead[row, place] > 0)
    columns["rank"] = pa.array(ranks[row, place], pa.int32())
    return _batch(columns, "unpaired")


_OF_THE_RANKING = ("labeler", "prompt_id", "prompt", "split", "source", "licence", "client_at", "details")
OF_RANKINGS = {"comparisons": comparisons, "unpaired": unpaired}


def trl_schema(kind: str) -> pa.Schema:
    """The columns of `trl`."""
    return trl(pa.RecordBatch.from_pylist([], SCHEMAS[kind]), kind).schema


def trl(batch: pa.RecordBatch, kind: str) -> pa.RecordBatch:
    """The rows as TRL's trainers load them, without a mapping of columns.

    demonstrations: prompt and completion (SFTTrainer); comparisons: prompt, chosen, rejected (RewardTrainer,
    DPOTrainer); unpaired: prompt, completion, label (KTOTrainer); prompts: prompt. Each text is a conversation, a list
    of turns. Rankings, which TRL has no trainer for, gain completions.
    """
    names = TRL_COLUMNS[kind]
    columns = {names.get(name, name): batch.column(name) for name in batch.schema.names}
    if kind == "prompts":
        columns = {"prompt": columns.pop("messages")} | columns
    if kind == "rankings":
        responses = columns["responses"]
        said = _said(responses.flatten().field("text"))
        columns["completions"] = pa.ListArray.from_arrays(_offsets(responses), said)
    for name in names.values():
        columns[name] = _said(columns[name])
    return pa.RecordBatch.from_pydict(columns)


def _said(texts: pa.Array) -> pa.Array:
    """Each text as a conversation of one turn, the assistant's."""
    roles = pa.repeat("assistant", len(texts))
    turns = pa.StructArray.from_arrays([roles, texts], ["role", "content"])
    return pa.ListArray.from_arrays(pa.array(np.arange(len(texts) + 1, dtype=np.int32)), turns)


def matrix(lists: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The numbers, a row for each list, 0 where there is none; and where each list starts among the numbers of all."""
    offsets = _offsets(lists).to_numpy()
    counts, values = np.diff(offsets), lists.flatten().fill_null(0).to_numpy()
    found = np.zeros((len(lists), int(counts.max(initial=0))), np.int32)
    row = np.repeat(np.arange(len(lists)), counts)
    found[row, np.arange(len(values)) - np.repeat(offsets[:-1], counts)] = values
    return found, offsets[:-1]


def _offsets(lists: pa.Array) -> pa.Array:
    """Where each list starts among the elements of all, and where the last one ends."""
    lengths = lists.value_lengths().to_numpy()
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _labels(rankings: pa.RecordBatch, row: np.ndarray) -> dict[str, pa.Array]:
    """What is said of the ranking in each of these rows."""
    names = {"ranking_id": "label_id"} | {name: name for name in _OF_THE_RANKING}
    return {name: rankings.column(of).take(pa.array(row)) for name, of in names.items()}


def _response(rankings: pa.RecordBatch, field: str, place: np.ndarray) -> pa.Array:
    return rankings.column("responses").flatten().field(field).take(pa.array(place))


def _batch(columns: dict[str, pa.Array], kind: str) -> pa.RecordBatch:
    schema = SCHEMAS[kind]
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
