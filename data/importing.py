"""Feedback in from files: rows as other tools write them, into the store or to the app that owns it.

Reads   JSON lines, JSON, CSV, Parquet (each also .gz) and Hugging Face dataset folders (data.formats), in the shapes
        that other tools write (data.shapes); data/seeds/
Writes  through the store's verbs, a few hundred rows at a time, whatever the size of the file

A bad row never stops a good one: it is skipped and reported with its place. Importing a file again adds nothing. Every
row that was read is either taken or skipped; what of a taken row could not be taken is reported too.

    python -m data import rankings FILE --source NAME --licence CC-BY-4.0
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from data import shapes
from data.errors import Conflict, InvalidInput
from data.formats import Found, Unreadable, rows_of
from data.records import NOBODY, NewDemonstration, NewPrompt, NewRanking
from data.reports import Report
from data.shapes.fields import Said
from data.shapes.plain import is_ours
from data.shapes.trees import gathered
from data.validate import prompt_problems, refuse, responses_problems, source_problems

SEEDS = Path(__file__).parent / "seeds"
BATCH_ROWS, BATCH_CHARACTERS = 500, 1_000_000  # what one request to the app may carry
PREVIEWED = 1_000  # rows that a dry run reads at most
SHOWN = 3  # of them, as they would be stored
PER_ROW = 2  # labels that are shown of a row that has many

Row = dict[str, Any]


class Intake(Protocol):
    """What takes feedback in: the store, or a client of the app that owns it."""

    def add_source(self, name: str, licence: str) -> None: ...
    def add_prompts(self, prompts: Sequence[NewPrompt]) -> list[str]: ...
    def add_demonstration_tasks(self, prompt_ids: Sequence[str], overlap: int = 1) -> list[str]: ...
    def add_demonstrations(
        self, rows: Sequence[NewDemonstration | tuple[str, str]], *, labeler: str, source: str
    ) -> list[str]: ...
    def add_rankings(self, rankings: Sequence[NewRanking], *, source: str = "import") -> list[str]: ...


Watch = Callable[[float, Report], None]  # hears how much of the file is read, 0 to 1, and the report so far


def import_file(
    feedback: Intake,
    kind: str,
    path: Path,
    *,
    source: str | None = None,
    licence: str | None = None,
    mapping: shapes.Mapping | None = None,
    known: Iterable[str] = (),
    ask: int = 0,
    watch: Watch = lambda done, report: None,
) -> Report:
    """Import a file of prompts, demonstrations, comparisons or rankings.

    `source` names where it comes from, else each row of one of our own exports, else the file's name; the `licence` is
    kept with that name, unless such a row has its own.
    `known` are the ids of prompts that are there already, to tell the new ones. With `ask`, that many labelers are
    asked for a demonstration of each imported train prompt. Raises NotFound, InvalidInput and Conflict for the file as
    a whole.
    """
    report, whole = Report(kind, str(path)), source or path.name
    refuse(source_problems(whole))
    if licence is not None:
        feedback.add_source(whole, licence)
    put = _Putting(feedback, report, set(known), ask, licence)
    waiting: list[_Read] = []
    characters = 0
    found = rows_of(path, lambda done: watch(done, report))
    for read in _readings(kind, found, source, path.name, mapping, report):
        if not put.licensed(read):
            continue
        waiting.append(read)
        characters += len(repr(read.said))
        if len(waiting) == BATCH_ROWS or characters > BATCH_CHARACTERS:
            put.put(waiting)
            waiting, characters = [], 0
    put.put(waiting)
    watch(1.0, report)
    return report


def preview(
    kind: str, path: Path, *, source: str | None = None, mapping: shapes.Mapping | None = None
) -> tuple[Report, list[Row]]:
    """A dry run: how the first rows of the file are recognised, and the first three as they would be stored.

    It ends at the first SHOWN rows that would be taken, or after PREVIEWED rows. Raises NotFound and InvalidInput for
    the file as a whole.
    """
    report, stored = Report(kind, str(path)), []
    found = itertools.islice(rows_of(path), PREVIEWED)
    for read in _readings(kind, found, source, path.name, mapping, report):
        problems = [problem for said in read.said for problem in _problems(said)]
        if problems:
            report.skip(read.place, "; ".join(problems[:3]), read.rows)
        else:
            report.taken += read.rows
            report.labels += len(read.said)
            stored += [{"place": read.place, **as_stored(said)} for said in read.said[:PER_ROW]]
            if (more := len(read.said) - PER_ROW) > 0:
                stored[-1]["more"] = f"and {more} more of this row"
        if len({row["place"] for row in stored}) == SHOWN:
            break
    return report, stored


def as_stored(said: Said) -> Row:
    """What a row says, by the names that exports have; only what it says."""
    row: Row = {"prompt": [{"role": turn.role, "content": turn.content} for turn in said.prompt.messages]}
    label = said.label
    if isinstance(label, NewDemonstration):
        row["response"] = label.response
    elif label is not None:
        row |= {
            "responses": [{"text": new.text, "source": new.source} for new in label.responses],
            "ranks": list(label.ranks),
            "display_order": list(label.display_order),
            "ratings": list(label.ratings),
            "flags": [list(each) for each in label.flags],
            "comment": label.comment,
        }
    if label is not None:
        row |= {
            "labeler": None if label.labeler == NOBODY else label.labeler,
            "seconds": label.seconds,
            "labeled_at": label.labeled_at.isoformat() if label.labeled_at else None,
            "details": label.details,
        }
    row |= {"source": said.prompt.source, "split": said.prompt.split, "tags": list(said.prompt.tags)}
    return {name: value for name, value in row.items() if value not in (None, [], {}, "")}


def _problems(said: Said) -> list[str]:
    """What the store would refuse."""
    problems = prompt_problems(said.prompt, "prompt")
    return problems + (responses_problems(said.label.responses, "") if isinstance(said.label, NewRanking) else [])


@dataclass(frozen=True, slots=True)
class _Read:
    """A row that was understood, or several that belong together."""

    place: str
    rows: int
    said: list[Said]
    source: str
    licence: str | None  # where the row itself names it


def _readings(
    kind: str, found: Iterable[Found], named: str | None, file: str, mapping: shapes.Mapping | None, report: Report
) -> Iterator[_Read]:
    """The rows that say something; the others go into the report."""
    for place, rows, row in gathered(found) if mapping is None else ((place, 1, row) for place, row in found):
        report.rows += rows
        if isinstance(row, Unreadable):
            report.skip(place, row.why)
            continue
        ours = mapping is None and is_ours(row)
        source, licence = _origin(row, file, named) if ours else (named or file, None)
        try:
            reading = shapes.read(kind, row, source, mapping)
        except shapes.Misfit as misfit:
            report.skip(place, str(misfit), rows)
            if misfit.shape:
                report.shapes[misfit.shape] += rows
            continue
        report.shapes[reading.shape] += rows
        for why in reading.left_out:
            report.leave_out(place, why)
        yield _Read(place, rows, reading.said, source, licence)


def _origin(row: Row, file: str, named: str | None) -> tuple[str, str | None]:
    """Where a row of our own exports says that it comes from, and under which licence; what is `named` goes before.

    What people labeled there comes from that file here, whatever it was called there.
    """
    said, licence = row.get("source"), row.get("licence")
    known = isinstance(said, str) and not source_problems(said)
    return named or (str(said) if known else file), licence if isinstance(licence, str) and licence else None


@dataclass(slots=True)
class _Putting:
    """Hands understood rows to the store, in batches, and counts them."""

    feedback: Intake
    report: Report
    known: set[str]
    ask: int
    licence: str | None  # of what names none itself
    _refusals: dict[tuple[str, str], str | None] = field(default_factory=dict)  # why a source is not under a licence

    def licensed(self, read: _Read) -> bool:
        """Keep the licence of the row's source. A row whose source is here under another one is skipped."""
        licence = read.licence or self.licence
        if licence is None:
            return True
        key = (read.source, licence)
        if key not in self._refusals:
            try:
                self.feedback.add_source(*key)
                self._refusals[key] = None
            except (Conflict, InvalidInput) as error:
                self._refusals[key] = str(error)
        if why := self._refusals[key]:
            self.report.skip(read.place, why, read.rows)
            return False
        return True

    def put(self, waiting: list[_Read]) -> None:
        """All of them, those of each source together."""
        by_source: dict[str, list[_Read]] = {}
        for read in waiting:
            by_source.setdefault(read.source, []).append(read)
        for reads in by_source.values():
            self._put(reads)

    def _put(self, waiting: list[_Read]) -> None:
        """All of them, or when the store refuses, each half: the row at fault is found, and the others go in."""
        said = [said for read in waiting for said in read.said]
        try:
            new = self._add(said, waiting[0].source)
        except InvalidInput as error:
            if len(waiting) > 1:
                self._put(waiting[: len(waiting) // 2])
                self._put(waiting[len(waiting) // 2 :])
            elif len(said) > 1:
                self._put_apart(waiting[0])
            else:
                self.report.skip(waiting[0].place, str(error), waiting[0].rows)
            return
        self.report.taken += sum(read.rows for read in waiting)
        self.report.labels += len(said)
        self.report.new += new

    def _put_apart(self, read: _Read) -> None:
        """Each thing that a row says by itself: some of them are refused."""
        refused: list[str] = []
        for said in read.said:
            try:
                self.report.new += self._add([said], read.source)
                self.report.labels += 1
            except InvalidInput as error:
                refused.append(str(error))
        if len(refused) == len(read.said):
            self.report.skip(read.place, refused[0], read.rows)
            return
        self.report.taken += read.rows
        for why in refused:
            self.report.leave_out(read.place, why)

    def _add(self, said: list[Said], source: str) -> int:
        """Hand them over; how many are new."""
        prompts = list(dict.fromkeys(each.prompt for each in said))
        id_of = dict(zip(prompts, self.feedback.add_prompts(prompts), strict=True))
        ids = [id_of[each.prompt] for each in said]
        if self.report.kind == "prompts":
            new = set(ids) - self.known
            self.known |= new
            if self.ask:
                self.feedback.add_demonstration_tasks(ids, self.ask)
            return len(new)
        demonstrations: list[NewDemonstration | tuple[str, str]] = []
        rankings = []
        for id, each in zip(ids, said, strict=True):
            if isinstance(each.label, NewDemonstration):
                demonstrations.append(each.label._replace(prompt_id=id))
            elif each.label is not None:
                rankings.append(replace(each.label, prompt_id=id))
        if demonstrations:
            return len(self.feedback.add_demonstrations(demonstrations, labeler=NOBODY, source=source))
        return len(self.feedback.add_rankings(rankings, source=source))


def seed(feedback: Intake) -> dict[str, int]:
    """The bundled prompts and demonstrations, and a demonstration task for each train prompt without one.

    What is there already is left alone. How many prompts and demonstrations are bundled, how many demonstrations and
    demonstration tasks are new.
    """
    with suppress(Conflict):  # somebody stated another licence
        feedback.add_source("seed", "Apache-2.0")
    prompts = [said.prompt for said in _seeds("prompts")]
    written = _seeds("demonstrations")
    ids = feedback.add_prompts(prompts)
    shown = feedback.add_prompts([said.prompt for said in written])
    rows = [
        (id, said.label.response)
        for id, said in zip(shown, written, strict=True)
        if isinstance(said.label, NewDemonstration)
    ]
    new = feedback.add_demonstrations(rows, labeler="pawl", source="seed")
    train = [id for id, prompt in zip(ids, prompts, strict=True) if prompt.split != "heldout"]
    tasks = feedback.add_demonstration_tasks([id for id in train if id not in set(shown)])
    bundled = len(set(ids) | set(shown))
    return {"prompts": bundled, "demonstrations": len(rows), "new_demonstrations": len(new), "new_tasks": len(tasks)}


def _seeds(kind: str) -> list[Said]:
    found = []
    for place, row in rows_of(SEEDS / f"{kind}.jsonl"):
        if isinstance(row, Unreadable):
            raise InvalidInput(f"The bundled {kind} are damaged: {place} {row.why}. Install Pawl again.")
        found += shapes.read(kind, row, "seed").said
    return found
