"""Feedback in from files.

Reads   JSON lines, JSON, CSV, Parquet (each also .gz) and Hugging Face dataset folders (data.formats), in the shapes
        that other tools write (data.shapes); data/seeds/

A bad row never stops a good one: it is skipped and reported with its place. Importing a file again adds nothing.

    python -m data import comparisons FILE
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from data import shapes
from data.errors import InvalidInput
from data.formats import Unreadable, rows_of
from data.records import NewPrompt, NewRanking

SEEDS = Path(__file__).parent / "seeds"
BATCH_ROWS, BATCH_CHARACTERS = 500, 1_000_000  # what one request to the app may carry

Row = dict[str, Any]


class Intake(Protocol):
    """What takes feedback in: the store, or a client of the app that owns it."""

    def add_prompts(self, prompts: Sequence[NewPrompt]) -> list[str]: ...
    def add_demonstration_tasks(self, prompt_ids: Sequence[str], overlap: int = 1) -> list[str]: ...
    def add_demonstrations(self, rows: Sequence[tuple[str, str]], *, labeler: str, source: str) -> list[str]: ...
    def add_rankings(self, rankings: Sequence[NewRanking]) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that was not taken."""

    place: str  # "line 12"
    why: str


@dataclass(slots=True)
class Report:
    """What became of a file's rows: `taken` are in the store now, of which `new` were not there before."""

    kind: str
    file: str
    taken: int = 0
    new: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    def lines(self, shown: int = 20) -> list[str]:
        """The report in words, naming the first skipped rows."""
        here = self.taken - self.new
        known = f" ({here} {'was' if here == 1 else 'were'} there already)" if here else ""
        lines = [
            f"{self.file}: {self.taken} rows taken, {self.new} new {self.kind}{known}, {len(self.skipped)} skipped"
        ]
        lines += [f"  {row.place}: {row.why}" for row in self.skipped[:shown]]
        if len(self.skipped) > shown:
            lines.append(f"  and {len(self.skipped) - shown} more")
        return lines


def import_file(feedback: Intake, kind: str, path: Path, *, known: Iterable[str] = (), ask: int = 0) -> Report:
    """Import a file of prompts, demonstrations, comparisons or rankings.

    `known` are the ids of prompts that are there already, to tell the new ones. With `ask`, that many labelers are
    asked for a demonstration of each imported train prompt. Raises NotFound and InvalidInput for the file as a whole.
    """
    file, report = path.name, Report(kind, str(path))
    understand: dict[str, Callable[[Row, str], Any]] = {
        "prompts": shapes.prompt_of,
        "demonstrations": shapes.demonstration_of,
        "comparisons": shapes.comparison_of,
        "rankings": shapes.ranking_of,
    }
    put = _Putting(feedback, report, file, set(known), ask)
    waiting: list[tuple[str, Any]] = []
    characters = 0
    for place, row in rows_of(path):
        if isinstance(row, Unreadable):
            report.skipped.append(Skipped(place, row.why))
            continue
        try:
            item = understand[kind](row, file)
        except shapes.Misfit as misfit:
            report.skipped.append(Skipped(place, str(misfit)))
            continue
        waiting.append((place, item))
        characters += len(repr(item))
        if len(waiting) == BATCH_ROWS or characters > BATCH_CHARACTERS:
            put.put(waiting)
            waiting, characters = [], 0
    put.put(waiting)
    return report


@dataclass(slots=True)
class _Putting:
    """Hands understood rows to the store, in batches, and counts them."""

    feedback: Intake
    report: Report
    file: str
    known: set[str]
    ask: int

    def put(self, waiting: list[tuple[str, Any]]) -> None:
        """All of them, or when the store refuses, each half: the row at fault is found, and the others go in."""
        if not waiting:
            return
        try:
            new = self._add([item for _, item in waiting])
        except InvalidInput as error:
            if len(waiting) == 1:
                self.report.skipped.append(Skipped(waiting[0][0], str(error)))
            else:
                self.put(waiting[: len(waiting) // 2])
                self.put(waiting[len(waiting) // 2 :])
            return
        self.report.taken += len(waiting)
        self.report.new += new

    def _add(self, items: list[Any]) -> int:
        """Hand them over; how many are new."""
        if self.report.kind == "prompts":
            return self._prompts(items)
        return self._demonstrations(items) if self.report.kind == "demonstrations" else self._rankings(items)

    def _prompts(self, prompts: list[NewPrompt]) -> int:
        ids = self.feedback.add_prompts(prompts)
        new = set(ids) - self.known
        self.known |= new
        if self.ask:
            self.feedback.add_demonstration_tasks(ids, self.ask)
        return len(new)

    def _demonstrations(self, items: list[tuple[NewPrompt, str, str]]) -> int:
        ids = self.feedback.add_prompts([prompt for prompt, _, _ in items])
        by_labeler: dict[str, list[tuple[str, str]]] = {}
        for id, (_, response, labeler) in zip(ids, items, strict=True):
            by_labeler.setdefault(labeler, []).append((id, response))
        return sum(
            len(self.feedback.add_demonstrations(rows, labeler=labeler, source=self.file))
            for labeler, rows in by_labeler.items()
        )

    def _rankings(self, items: list[tuple[NewPrompt, NewRanking]]) -> int:
        ids = self.feedback.add_prompts([prompt for prompt, _ in items])
        rankings = [replace(ranking, prompt_id=id) for id, (_, ranking) in zip(ids, items, strict=True)]
        return len(self.feedback.add_rankings(rankings))


def seed(feedback: Intake) -> dict[str, int]:
    """The bundled prompts and demonstrations, and a demonstration task for each train prompt without one.

    What is there already is left alone. How many prompts and demonstrations are bundled, how many demonstrations and
    demonstration tasks are new.
    """
    prompts = [shapes.prompt_of(row, "seed") for row in _seed_rows("prompts")]
    written = [shapes.demonstration_of(row, "seed") for row in _seed_rows("demonstrations")]
    ids = feedback.add_prompts(prompts)
    shown = feedback.add_prompts([prompt for prompt, _, _ in written])
    rows = [(id, response) for id, (_, response, _) in zip(shown, written, strict=True)]
    new = feedback.add_demonstrations(rows, labeler="pawl", source="seed")
    train = [id for id, prompt in zip(ids, prompts, strict=True) if prompt.split != "heldout"]
    tasks = feedback.add_demonstration_tasks([id for id in train if id not in set(shown)])
    bundled = len(set(ids) | set(shown))
    return {"prompts": bundled, "demonstrations": len(rows), "new_demonstrations": len(new), "new_tasks": len(tasks)}


def _seed_rows(name: str) -> Iterator[Row]:
    for place, row in rows_of(SEEDS / f"{name}.jsonl"):
        if isinstance(row, Unreadable):
            raise InvalidInput(f"The bundled {name} are damaged: {place} {row.why}. Install Pawl again.")
        yield row
