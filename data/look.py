"""What the labels of a snapshot look like: lengths, agreement, ties, whom and what they come from, what sways them.

Reads   the rows of a snapshot, a few thousand at a time; of texts only their lengths, so that memory stays flat
Gives   a Look: numbers to be drawn, or written as JSON
Needs   pyarrow and numpy only

Both sides of the split are looked at together. DEFINITIONS says what each number is; agreement and intervals are those
of data/agreement.py.

    python -m data stats --snapshot 3f9a12c0be77d2a1
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.agreement import DEFINITION, Ranks, Share, Tally, pairwise, summary
from data.contents import SPLITS
from data.labelers import as_json
from data.pairs import matrix
from data.ranked import RANKED, by_whole_prompts, lengths_of, without_texts
from data.snapshots import Snapshot
from data.verification import damage

MARGIN = 0.02  # of one half: an effect whose whole interval is farther from it is warned of
BINS = (25, 50, 100, 200, 400, 800, 1600, 3200, 6400)  # characters between the columns of a distribution
ALIKE = (
    0.2,
    0.4,
    0.6,
    0.8,
    1.0,
)  # agreement between the columns of `alike`; the last has the tasks without any dispute
SHOWN = 5  # sources of each kind in words; all of them are in the JSON
DEFINITIONS = {
    "lengths": (
        "In characters (Unicode code points). A prompt counts once, all its turns together. Chosen and rejected are "
        "the better and the worse of every two responses that a ranking puts in order, as exports have them."
    ),
    "agreement": DEFINITION,
    "alike": "Of each task that several labelers ranked, the agreement of its own rankings.",
    "ties": "A tie is two responses with the same rank in one ranking: three at one rank are three ties.",
    "labelers": "Labels of each, by pseudonym; a ranking made of several is that of `majority` or `mean-rank`.",
    "sources": (
        "Where prompts and demonstrations came in from, and which checkpoint or import wrote the responses. The "
        "responses of a task count once, however many labelers ranked it."
    ),
    "position": (
        "Of every two responses that a ranking puts in order, how often the one shown earlier is the better. Rankings "
        "of which nobody knows in what order the responses were shown are left out. Wilson 95 % interval, clustered by "
        f"ranking; a warning where all of it is more than {MARGIN:.0%} from one half."
    ),
    "length": (
        "Of every two responses of different length that a ranking puts in order, how often the longer one is the "
        "better. Longer ones may well be better. Wilson 95 % interval, clustered by ranking; a warning where all of it "
        f"is more than {MARGIN:.0%} from one half."
    ),
}


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long texts are, in characters (Unicode code points)."""

    texts: int
    quartiles: tuple[int, int, int] | None  # the least length that 25, 50, 75 % of the texts do not exceed
    distribution: tuple[int, ...]  # texts below BINS[0], from BINS[0] to below BINS[1], ..., from BINS[-1] on


@dataclass(frozen=True, slots=True)
class Labeled:
    """How much one labeler gave, by pseudonym."""

    labeler: str
    rankings: int
    demonstrations: int


@dataclass(frozen=True, slots=True)
class Look:
    """The numbers of a snapshot; DEFINITIONS has what they are."""

    snapshot: str
    counts: dict[str, int]  # as the manifest has them: prompts, demonstrations, rankings and how many are held out
    lengths: dict[str, Lengths]  # of prompts, chosen, rejected, demonstrations
    labelers: tuple[Labeled, ...]  # who gave most comes first
    tasks: int  # that somebody ranked
    double_tasks: int  # that several labelers ranked
    agreement: dict[str, Any]  # data.agreement.summary of those, or of the labels that rankings of several were made of
    alike: tuple[int, ...]  # of those, tasks below ALIKE[0], from ALIKE[0] to below ALIKE[1], ..., from ALIKE[-1] on
    decided: int  # pairs of responses that a ranking puts in order
    tied: int  # pairs that a ranking ties
    ties: tuple[int, ...]  # rankings with no tie, with one, ... up to the most there are
    unranked: int  # responses that a labeler gave no rank
    sources: dict[str, dict[str, int]]  # of prompts, responses, demonstrations, the most frequent first
    shown: int  # rankings whose display order is known
    position: Share  # of decided pairs: won by the response shown first
    length: Share  # of decided pairs of unlike length: won by the longer response

    def json(self) -> dict[str, Any]:
        """Everything, with the definitions and where the distributions are cut."""
        found = asdict(self) | {
            name: as_json(getattr(self, name), even=True, margin=MARGIN) for name in ("position", "length")
        }
        return found | {"bins": BINS, "alike_bins": ALIKE, "margin": MARGIN, "definitions": DEFINITIONS}


def look(snapshot: Snapshot) -> Look:
    """Read the snapshot once. Raises DamagedSnapshot when a file of it cannot be read."""
    seen = _Seen()
    try:
        for split in SPLITS:
            for batch in snapshot.batches("prompts", split, ["messages", "source"]):
                seen.prompts(batch)
            for batch in snapshot.batches("demonstrations", split, ["response", "labeler", "source"]):
                seen.demonstrations(batch)
            for rows in by_whole_prompts(map(without_texts, snapshot.batches("rankings", split, RANKED))):
                seen.rankings(rows)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise damage(snapshot.path, snapshot.path, f"a file of it cannot be read ({error})") from error
    return seen.look(snapshot)


def lines(found: Look) -> list[str]:
    """The same for people."""
    agreement = found.agreement
    said = [f"Snapshot {found.snapshot}", *(_line(name, f"{count:,}") for name, count in found.counts.items())]
    for name, lengths in found.lengths.items():
        if lengths.quartiles is not None:
            quartiles = "{:,}, {:,}, {:,}".format(*lengths.quartiles)
            said.append(_line(f"characters, {name}", f"{quartiles} (quartiles of {lengths.texts:,})"))
    share = Share(agreement["pairwise"], agreement["interval"], agreement["pairs"])
    for name, each in (("agreement", share), ("shown first wins", found.position), ("longer wins", found.length)):
        said.append(_line(name, _in_words(each)))
    said.append(_line("ties", f"{found.tied:,} of {found.tied + found.decided:,} pairs"))
    for name, sources in found.sources.items():
        first = [f"{source or 'unknown'} {count:,}" for source, count in list(sources.items())[:SHOWN]]
        more = [f"{len(sources) - SHOWN:,} more"] if len(sources) > SHOWN else []
        said.append(_line(f"{name} from", ", ".join(first + more) or "none"))
    return said


def _line(name: str, value: str) -> str:
    return f"{name:<28} {value}"


def _in_words(share: Share) -> str:
    if share.value is None or share.interval is None:
        return "nothing to tell from"
    return f"{share.value:.3f} [{share.interval[0]:.3f}, {share.interval[1]:.3f}] on {share.n:,} pairs"


class _Seen:
    """What was counted so far."""

    def __init__(self) -> None:
        self._lengths = {name: _Histogram() for name in ("prompts", "chosen", "rejected", "demonstrations")}
        self._sources = {name: Counter[str]() for name in ("prompts", "responses", "demonstrations")}
        self._labeled = {name: Counter[str]() for name in ("rankings", "demonstrations")}
        self._several: Counter[tuple[Ranks, ...]] = Counter()  # the rankings of one task, and how often
        self._ties = np.zeros(1, np.int64)
        self._position, self._length = Tally(), Tally()
        self._tasks = self._decided = self._unranked = self._shown = 0

    def prompts(self, batch: pa.RecordBatch) -> None:
        characters, _ = matrix(lengths_of(batch.column("messages"), "content"))
        self._lengths["prompts"].add(characters.sum(1))
        self._sources["prompts"].update(_counted(batch.column("source")))

    def demonstrations(self, batch: pa.RecordBatch) -> None:
        self._lengths["demonstrations"].add(pc.utf8_length(batch.column("response")).to_numpy())
        self._labeled["demonstrations"].update(_counted(batch.column("labeler")))
        for source, count in _counted(batch.column("source")).items():
            name = "rewrite" if source.startswith("rewrite:") else source  # which goes on with the ranking's id
            self._sources["demonstrations"][name] += count

    def rankings(self, rows: pa.RecordBatch) -> None:
        """All rankings of some prompts."""
        self._labeled["rankings"].update(_counted(rows.column("labeler")))
        ranks, _ = matrix(rows.column("ranks"))
        lengths, _ = matrix(rows.column("lengths"))
        places, _ = matrix(rows.column("places"))
        better = (ranks > 0)[:, :, None] & (ranks[:, :, None] < ranks[:, None, :])  # of each two, whether the first is
        row, chosen, rejected = np.nonzero(better)
        self._lengths["chosen"].add(lengths[row, chosen])
        self._lengths["rejected"].add(lengths[row, rejected])
        self._decided += len(row)
        self._unranked += rows.column("ranks").flatten().null_count
        self._shown += int((places > 0).any(1).sum())
        known = (places > 0)[:, :, None]
        _tally(self._position, better & known, places)
        _tally(self._length, better, -lengths)
        same = (ranks > 0)[:, :, None] & (ranks[:, :, None] == ranks[:, None, :])
        self._ties = _added(self._ties, np.bincount((same.sum((1, 2)) - (ranks > 0).sum(1)) // 2))
        self._by_task(rows)

    def _by_task(self, rows: pa.RecordBatch) -> None:
        """The tasks among these rankings: their responses' sources, and the ranks of those that several ranked."""
        _, first, task, labels = np.unique(
            pc.dictionary_encode(rows.column("task_id")).indices.to_numpy(),
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        self._tasks += len(first)
        self._sources["responses"].update(_counted(rows.column("sources").take(pa.array(first)).flatten()))
        shared = np.nonzero(labels[task] > 1)[0]
        given: defaultdict[int, list[Ranks]] = defaultdict(list)
        for of, ranks in zip(task[shared], rows.column("ranks").take(pa.array(shared)).to_pylist(), strict=True):
            given[of].append(tuple(ranks))
        self._several.update(map(tuple, given.values()))

    def look(self, snapshot: Snapshot) -> Look:
        """The numbers, of all that was read."""
        labeled = self._labeled
        people = sorted({*labeled["rankings"], *labeled["demonstrations"]})
        people.sort(key=lambda name: -labeled["rankings"][name] - labeled["demonstrations"][name])
        alike = [0] * (len(ALIKE) + 1)
        for rankings, times in self._several.items():
            if (agreement := pairwise([rankings])[0].value) is not None:
                alike[sum(agreement >= edge for edge in ALIKE)] += times
        ties = self._ties
        made_of = snapshot.manifest["agreement"] if snapshot.about.get("aggregated") else None
        return Look(
            snapshot=snapshot.hash,
            counts=snapshot.counts,
            lengths={name: histogram.lengths() for name, histogram in self._lengths.items()},
            labelers=tuple(
                Labeled(each, labeled["rankings"][each], labeled["demonstrations"][each]) for each in people
            ),
            tasks=self._tasks,
            double_tasks=self._several.total(),
            agreement=made_of or summary(self._several),
            alike=tuple(alike),
            decided=self._decided,
            tied=int((ties * np.arange(len(ties))).sum()),
            ties=tuple(ties.tolist()) if ties.any() else (),
            unranked=self._unranked,
            sources={name: dict(found.most_common()) for name, found in self._sources.items()},
            shown=self._shown,
            position=self._position.share(),
            length=self._length.share(),
        )


class _Histogram:
    """How many texts have each length: a number for each length there can be, however many texts there are."""

    def __init__(self) -> None:
        self._counts = np.zeros(1, np.int64)

    def add(self, lengths: np.ndarray) -> None:
        self._counts = _added(self._counts, np.bincount(lengths))

    def lengths(self) -> Lengths:
        up_to = np.cumsum(self._counts)
        texts = int(up_to[-1])
        if not texts:
            return Lengths(0, None, ())
        low, median, high = (int(np.searchsorted(up_to, share * texts)) for share in (0.25, 0.5, 0.75))
        bins = np.searchsorted(BINS, np.arange(len(up_to)), side="right")
        distribution = np.bincount(bins, self._counts, len(BINS) + 1).astype(int)
        return Lengths(texts, (low, median, high), tuple(distribution.tolist()))


def _tally(tally: Tally, better: np.ndarray, keys: np.ndarray) -> None:
    """Add each ranking as a cluster: of its decided pairs that differ in key, those that the smaller key won.

    data.labelers.effect, by columns: `better` says of each two responses of each ranking whether the first is better.
    """
    smaller, unlike = keys[:, :, None] < keys[:, None, :], keys[:, :, None] != keys[:, None, :]
    won, decided = (better & smaller).sum((1, 2)), (better & unlike).sum((1, 2))
    alike, times = np.unique(np.stack([won, decided], 1), axis=0, return_counts=True)
    for (successes, n), count in zip(alike.tolist(), times.tolist(), strict=True):
        tally.add(successes, n, count)


def _counted(values: pa.Array) -> dict[str, int]:
    return {each["values"] or "": each["counts"] for each in pc.value_counts(values).to_pylist()}


def _added(counts: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Two counts of what has the number 0, 1, ..., added."""
    if len(counts) < len(more):
        counts, more = more.astype(np.int64), counts
    counts[: len(more)] += more
    return counts
