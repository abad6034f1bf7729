"""Reading what stands at one consistent moment, as records and as export rows, streamed.

Rows leave as Arrow batches, by prompt and label, which data.assembly puts together from three streams of the database:
labels, responses and prompts. Nothing is a Python object on the way, and memory stays flat however much there is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from data.database import Database, cursor_of
from data.records import (
    Checkpoint,
    Demonstration,
    DemonstrationAnswer,
    Message,
    Prompt,
    Ranking,
    RankingAnswer,
    Response,
)

if TYPE_CHECKING:
    import pyarrow as pa

PROMPT = "id, messages, tags, split, source, created_at"
RESPONSE = "id, prompt_id, text, source, sampling, created_at"
_RANKING = (
    "label_id, revision, task_id, prompt_id, labeler, display_order, ranks, ratings, flags, rewrite, comment, seconds, "
    "guideline, created_at"
)
_DEMONSTRATION = "label_id, revision, task_id, prompt_id, labeler, response, seconds, guideline, source, created_at"
CHUNK = 500  # rows at a time
BATCH = 30_000  # rows of a stream at a time
Row = dict[str, Any]

# What goes out, as streams of rows that know their share. {chosen} and {wanted} are joins with what is asked for.
_ISO = "replace(strftime({}, '%Y-%m-%dT%H:%M:%S.%f'), '.000000', '') || '+00:00'"  # isoformat
_TIME = f"{_ISO} AS created_at"
_ORIGIN = f"""coalesce(licence, '') AS licence, coalesce({_ISO.format("label.client_at")}, '') AS client_at,
            coalesce(details::VARCHAR, '{{{{}}}}') AS details"""
_JOINED = """LEFT JOIN label_details USING (label_id)
            LEFT JOIN sources ON sources.name = if(starts_with(label.source, 'rewrite:'), 'rewrite', label.source)"""
_MESSAGES = """from_json(messages, '[{{"role":"VARCHAR","content":"VARCHAR"}}]') AS messages"""
_STREAMS = {
    "rankings": f"""
        SELECT share, label_id, revision, task_id, task_number, prompt_id, ranks, labeler,
            {_TIME.format("label.created_at")}, seconds, display_order, ratings::VARCHAR AS ratings,
            flags::VARCHAR AS flags, rewrite::VARCHAR AS rewrite, comment, guideline, source, {_ORIGIN}
        FROM standing_rankings label JOIN shares USING (prompt_id) {{chosen}} {_JOINED}""",
    "demonstrations": f"""
        SELECT share, label_id, revision, task_id, prompt_id, response, labeler, source,
            {_TIME.format("label.created_at")}, seconds, guideline, {_ORIGIN},
            coalesce(started_from, '') AS started_from
        FROM standing_demonstrations label JOIN shares USING (prompt_id) {{chosen}} {_JOINED}""",
    "prompts": f"""
        SELECT share, prompt_id, {_MESSAGES}, tags, split, source, {_TIME.format("prompt.created_at")},
            coalesce(licence, '') AS licence
        FROM standing_prompts prompt JOIN shares ON id = prompt_id LEFT JOIN sources ON sources.name = prompt.source""",
    "responses": """
        SELECT share, task_number, position, id, text, source FROM responses JOIN shares USING (prompt_id)
        SEMI JOIN (SELECT task_number FROM standing_rankings {chosen}) USING (task_number)""",
}
# The prompts in order, with about the bytes that the rows of each will take.
_SIZES = {
    "rankings": """
        SELECT prompt_id, sum(500 + len(ranks) * usual)::DOUBLE AS bytes
        FROM standing_rankings {chosen} {wanted},
            (SELECT coalesce(avg(strlen(text)), 0) AS usual FROM (SELECT text FROM responses LIMIT 10000))
        GROUP BY prompt_id ORDER BY prompt_id""",
    "demonstrations": """
        SELECT prompt_id, sum(500 + strlen(response))::DOUBLE AS bytes FROM standing_demonstrations {chosen} {wanted}
        GROUP BY prompt_id ORDER BY prompt_id""",
    "prompts": """
        SELECT prompt_id, (200 + strlen(messages))::DOUBLE AS bytes
        FROM (SELECT id AS prompt_id, messages FROM standing_prompts) {wanted} ORDER BY prompt_id""",
}
_BY_TASK = """FROM (SELECT task_number, labeler, arg_max(ranks, created_at) AS ranks FROM standing_rankings
    WHERE source <> 'review' GROUP BY task_number, labeler) GROUP BY task_number HAVING count(*) > 1"""
_CHECKPOINTS = """
    SELECT id, stage, parents, snapshot, metrics, coalesce(state, 'candidate'), coalesce(reason, ''), created_at
    FROM checkpoints LEFT JOIN (
        SELECT id, arg_max(state, rowid) AS state, arg_max(reason, rowid) AS reason FROM checkpoint_states GROUP BY id
    ) standing USING (id) ORDER BY checkpoints.rowid"""
_PARTS = {  # the streams that a kind of rows is put together from
    "rankings": ("rankings", "responses", "prompts"),
    "demonstrations": ("demonstrations", "prompts"),
    "prompts": ("prompts",),
}


def iso(time: datetime) -> str:
    """ISO 8601, in UTC."""
    return time.astimezone(UTC).isoformat()


def prompt_of(row: tuple[Any, ...]) -> Prompt:
    """The record of a row of PROMPT columns."""
    id, messages, tags, split, source, created_at = row
    turns = tuple(Message(turn["role"], turn["content"]) for turn in json.loads(messages))
    return Prompt(id, turns, tuple(tags), split, source, created_at)


def response_of(row: tuple[Any, ...]) -> Response:
    """The record of a row of RESPONSE columns."""
    id, prompt_id, text, source, sampling, created_at = row
    return Response(id, prompt_id, text, source, json.loads(sampling), created_at)


@contextmanager
def moment_of(database: Database) -> Iterator[Moment]:
    """One consistent moment to read from: what is committed later is not in it."""
    with cursor_of(database) as cursor:
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        cursor.execute("SELECT version FROM schema_version").fetchall()  # the moment is that of the first query
        yield Moment(cursor)


class Moment:
    """One consistent moment of the store. Its iterators are read one after another, not two at once."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor  # inside the transaction that is this moment
        self._reading = False

    def select(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of a query with a small answer."""
        self._refuse_a_second()
        return self._cursor.execute(sql, parameters or {}).fetchall()

    def rankings(self) -> Iterator[Ranking]:
        """The rankings that stand, by task."""
        for row in self._standing_rankings():
            answer = RankingAnswer(
                ranks=row["ranked"],
                unrankable=row["unrankable"],
                ratings=row["ratings"],
                flags={id: tuple(given) for id, given in row["flags"].items()},
                rewrite=row["rewrite"],
                comment=row["comment"],
                seconds=row["seconds"],
            )
            yield Ranking(
                label_id=row["label_id"],
                revision=row["revision"],
                task_id=row["task_id"],
                prompt_id=row["prompt_id"],
                answer=answer,
                labeler=row["labeler"],
                display_order=tuple(row["display_order"]),
                guideline=row["guideline"],
                created_at=row["created_at"],
            )

    def demonstrations(self) -> Iterator[Demonstration]:
        """The demonstrations that stand, oldest first."""
        for rows in self._stream(f"SELECT {_DEMONSTRATION} FROM standing_demonstrations ORDER BY created_at, label_id"):
            for (
                label_id,
                revision,
                task_id,
                prompt_id,
                labeler,
                response,
                seconds,
                guideline,
                source,
                created_at,
            ) in rows:
                yield Demonstration(
                    label_id=label_id,
                    revision=revision,
                    task_id=task_id,
                    prompt_id=prompt_id,
                    answer=DemonstrationAnswer(response, seconds),
                    labeler=labeler,
                    source=source,
                    guideline=guideline,
                    created_at=created_at,
                )

    def batches(
        self,
        kind: str,
        *,
        labels: Collection[str] | None = None,
        prompts: Collection[str] | None = None,
        scratch: Path | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Rows of a kind of data.columns.SCHEMAS by prompt and label, in batches of some tens of megabytes at most.

        With `labels` or `prompts` only those with these ids, and labels only of those prompts. `scratch` is the folder
        for what does not fit in memory.
        """
        from data import assembly, pairs  # pyarrow and numpy: half a second that a sign-in does not need

        if kind in pairs.OF_RANKINGS:
            for batch in self.batches("rankings", labels=labels, prompts=prompts, scratch=scratch):
                yield pairs.OF_RANKINGS[kind](batch)
            return
        chosen = self._join("chosen", "label_id", labels)
        wanted = self._join("wanted", "prompt_id", prompts)
        sizes = _SIZES[kind].format(chosen=chosen, wanted=wanted)
        self._cursor.register("shares", assembly.shares_of(self._reader(sizes).read_all()))
        streams = {name: partial(self._reader, _STREAMS[name].format(chosen=chosen)) for name in _PARTS[kind]}
        for share in assembly.by_share(streams, scratch):
            yield assembly.TABLES[kind](share)

    def rows(self, kind: str) -> Iterator[Row]:
        """The rows of `batches` as dictionaries, one by one."""
        from data.columns import rows_of

        for batch in self.batches(kind):
            for start in range(0, len(batch), CHUNK):
                yield from rows_of(batch.slice(start, CHUNK))

    def ranking_rows(self) -> Iterator[Row]:
        """One row per ranking, whole: the conversation, the responses in the task's order, what was said of them."""
        return self.rows("rankings")

    def comparison_rows(self) -> Iterator[Row]:
        """One row per decided pair of a ranking, ties left out; `chosen` and `rejected` are texts."""
        return self.rows("comparisons")

    def demonstration_rows(self) -> Iterator[Row]:
        """One row per demonstration, with its conversation."""
        return self.rows("demonstrations")

    def prompt_rows(self) -> Iterator[Row]:
        """One row per prompt."""
        return self.rows("prompts")

    def promoted(self) -> str | None:
        """The id of the checkpoint that is promoted, if one is."""
        sql = "SELECT id FROM checkpoint_states GROUP BY id HAVING arg_max(state, rowid) = 'promoted'"
        found = self.select(sql)
        return found[0][0] if found else None

    def checkpoints(self) -> list[Checkpoint]:
        """Every checkpoint with its present standing, oldest first."""
        found = {}
        for id, stage, parents, snapshot, metrics, state, reason, created_at in self.select(_CHECKPOINTS):
            found[id] = Checkpoint(
                id, stage, tuple(parents), snapshot, json.loads(metrics), state, reason, created_at.astimezone(UTC)
            )
        return list(found.values())  # each in its latest version, at the place of its first

    def ranks_by_task(self) -> Counter[tuple[tuple[int | None, ...], ...]]:
        """How many tasks several labelers ranked like this: one vector of ranks from each, their latest."""
        sql = (
            f"SELECT vectors, count(*) FROM (SELECT list(ranks ORDER BY ranks) AS vectors {_BY_TASK}) GROUP BY vectors"
        )
        return Counter({tuple(map(tuple, vectors)): count for vectors, count in self.select(sql)})

    def rankings_by_task(self) -> Iterator[dict[str, list[int | None]]]:
        """The rankings of each task by several labelers, their latest, as vectors of ranks by labeler."""
        sql = f"SELECT list(labeler ORDER BY labeler), list(ranks ORDER BY labeler) {_BY_TASK}"
        for rows in self._stream(sql):
            for labelers, ranks in rows:
                yield dict(zip(labelers, ranks, strict=True))

    def _standing_rankings(self) -> Iterator[Row]:
        """The rankings that stand, by task: their columns, with ratings, flags and rewrite decoded, and two more.

        `ranked` gives each rankable response id its rank, `unrankable` the other ids.
        """
        columns = [*_RANKING.split(", "), "response_ids"]
        sql = f"""SELECT {_RANKING}, response_ids FROM standing_rankings
            JOIN (SELECT id AS task_id, response_ids FROM tasks) USING (task_id) ORDER BY task_number, label_id"""
        for rows in self._stream(sql):
            for values in rows:
                row = dict(zip(columns, values, strict=True))
                ids = row["response_ids"]
                row["ranked"] = {id: rank for id, rank in zip(ids, row["ranks"], strict=True) if rank is not None}
                row["unrankable"] = tuple(id for id in ids if id not in row["ranked"])
                for name in ("ratings", "flags", "rewrite"):
                    row[name] = json.loads(row[name]) if row[name] is not None else None
                yield row

    def _join(self, name: str, column: str, ids: Collection[str] | None) -> str:
        """The join with a table of these ids, as SQL; nothing when all are meant."""
        if ids is None:
            return ""
        import pyarrow as pa

        self._cursor.register(name, pa.table({column: pa.array(list(ids), pa.string())}))
        return f"SEMI JOIN {name} USING ({column})"

    def _reader(self, sql: str) -> pa.RecordBatchReader:
        self._refuse_a_second()
        return self._cursor.sql(sql).to_arrow_reader(BATCH)

    def _stream(self, sql: str) -> Iterator[list[tuple[Any, ...]]]:
        self._refuse_a_second()
        self._reading = True
        try:
            result = self._cursor.execute(sql)
            while rows := result.fetchmany(CHUNK):
                yield rows
        finally:
            self._reading = False

    def _refuse_a_second(self) -> None:
        if self._reading:  # DuckDB would end the first without a word
            raise RuntimeError("Another iterator of this moment is still being read: finish or close it first.")
