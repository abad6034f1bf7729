"""Which side a new prompt falls on: that of a prompt much like it, so that none is trained on and measured with.

Reads   the texts and sides of the prompts there are, once, when the first new prompt comes after a start
Writes  nothing: the side is stored with the prompt as it comes in, and never moves

Two prompts are near-duplicates when the word shingles of their turns (system messages left out) have a Jaccard
similarity of ALIKE or more. Candidates come from MinHash signatures cut into bands (Broder 1997; Leskovec, Rajaraman
and Ullman 2020, section 3.4): two prompts as alike as ALIKE share one of BANDS bands of ROWS values with a probability
of 1 - (1 - ALIKE^ROWS)^BANDS = .995. Each candidate is then compared by its shingles themselves: all of them, or the
KEPT smallest hashes of a longer text. Bands lie in sorted arrays: a kilobyte at most for a prompt of twenty words;
an index of Python objects takes five.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.records import Split

ALIKE = 0.8  # Jaccard similarity from which two prompts are near-duplicates
SHINGLE = 3  # words
BANDS, ROWS = 10, 4
KEPT = 256  # shingle hashes of one prompt
LOOKED_AT = 4  # prompts in one bucket; prompts made from one template would fill a bucket by the thousand
AT_ONCE = 50_000  # shingles hashed in one array operation
RECENT = 100_000  # bands that wait in a dictionary before they are sorted in
# words, and each character of scripts that put no spaces between words
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_U64 = NDArray[np.uint64]
_U32 = NDArray[np.uint32]
_random = np.random.default_rng(20200101)
_FACTORS: _U64 = _random.integers(1, 2**63, BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_SHIFTS: _U64 = _random.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64)
_PLACES: _U64 = _random.integers(1, 2**63, max(SHINGLE, ROWS), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_BAND: _U64 = _random.integers(0, 2**63, BANDS, dtype=np.uint64)

Placed = tuple[str, Split]  # a prompt's messages as JSON, and its side


class NearDuplicates:
    """The prompts there are, found by what they say. Not safe to share between threads."""

    def __init__(self) -> None:
        self._shingles: list[_U32] = []
        self._sides: list[Split] = []
        self._keys: _U64 = np.empty(0, np.uint64)  # sorted, with the prompt of each
        self._prompts: NDArray[np.int64] = np.empty(0, np.int64)
        self._recent: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._sides)

    def add(self, prompts: Iterable[Placed]) -> None:
        """Take note of prompts whose side is decided."""
        waiting = iter(prompts)
        while part := list(islice(waiting, 1_000)):
            self.place([(messages, side, True) for messages, side in part])

    def place(self, prompts: Sequence[tuple[str, Split, bool]]) -> list[Split]:
        """The side of each new prompt, as (messages, side, whether that is settled); it is taken note of too.

        One that is not settled takes the side of the near-duplicate that was there first, if there is one; those
        before it in `prompts` were there before it.
        """
        found = [_shingles(messages) for messages, _, _ in prompts]
        keys = _band_keys(found)
        starts = np.searchsorted(self._keys, keys, "left").tolist()
        ends = np.searchsorted(self._keys, keys, "right").tolist()
        decided: list[Split] = []
        for place, (_, side, settled) in enumerate(prompts):
            bands = keys[place].tolist()
            if not settled:
                ranges = zip(starts[place], ends[place], strict=True)
                side = self._side_of_first(found[place], self._candidates(ranges, bands)) or side
            decided.append(side)
            for key in bands:
                self._recent.setdefault(key, []).append(len(self._sides))
            self._shingles.append(_smallest(found[place]))
            self._sides.append(side)
        if len(self._recent) > RECENT:
            self._sort_in()
        return decided

    def _candidates(self, ranges: Iterable[tuple[int, int]], bands: Sequence[int]) -> list[int]:
        """The prompts that share a band, those first that came first."""
        seen: set[int] = set()
        for start, end in ranges:
            if end > start:
                seen.update(self._prompts[start : min(end, start + LOOKED_AT)].tolist())
        for key in bands:
            seen.update(self._recent.get(key, ())[:LOOKED_AT])
        return sorted(seen)

    def _side_of_first(self, shingles: _U32, candidates: Iterable[int]) -> Split | None:
        mine = _smallest(shingles)
        for candidate in candidates:
            if _similarity(mine, self._shingles[candidate]) >= ALIKE:
                return self._sides[candidate]
        return None

    def _sort_in(self) -> None:
        """Move what is recent into the sorted arrays; prompts of one key stay in the order they came."""
        pairs = [(key, prompt) for key, prompts in self._recent.items() for prompt in prompts]
        keys = np.array([key for key, _ in pairs], np.uint64)
        order = np.argsort(keys, kind="stable")
        keys, prompts = keys[order], np.array([prompt for _, prompt in pairs], np.int64)[order]
        places = np.searchsorted(self._keys, keys, "right")
        self._keys, self._prompts = np.insert(self._keys, places, keys), np.insert(self._prompts, places, prompts)
        self._recent = {}


def similarity(one: str, other: str) -> float:
    """The Jaccard similarity of two prompts' shingles, each prompt as the JSON of its messages."""
    return _similarity(_smallest(_shingles(one)), _smallest(_shingles(other)))


def _shingles(messages: str) -> _U32:
    """The hashes of a prompt's shingles, sorted, each once; a text without words is one shingle of its own."""
    turns: list[dict[str, Any]] = json.loads(messages)
    text = " ".join(turn["content"] for turn in turns if turn["role"] != "system").lower()
    words = _WORD.findall(text) or [text]
    hashes = np.array([zlib.crc32(word.encode()) for word in words], np.uint64)
    count = max(1, len(hashes) - SHINGLE + 1)
    mixed = np.zeros(count, np.uint64)
    for place in range(min(SHINGLE, len(hashes))):
        mixed += hashes[place : place + count] * _PLACES[place]
    return np.unique((_mixed(mixed) >> np.uint64(32)).astype(np.uint32))


def _band_keys(prompts: Sequence[_U32]) -> _U64:
    """(prompts, BANDS): prompts with the same key in a band are candidates."""
    signatures: list[_U64] = []
    part: list[_U32] = []
    waiting = 0
    for shingles in prompts:
        if part and waiting + len(shingles) > AT_ONCE:
            signatures.append(_signatures(part))
            part, waiting = [], 0
        part.append(shingles)
        waiting += len(shingles)
    if part:
        signatures.append(_signatures(part))
    if not signatures:
        return np.empty((0, BANDS), np.uint64)
    by_band = np.concatenate(signatures).reshape(-1, BANDS, ROWS)
    keys: _U64 = _mixed((by_band * _PLACES[:ROWS]).sum(2, dtype=np.uint64) + _BAND)
    return keys


def _signatures(prompts: Sequence[_U32]) -> _U64:
    """(prompts, BANDS * ROWS): of each hash function, its least value over the prompt's shingles."""
    together = np.concatenate(prompts).astype(np.uint64)
    starts = np.cumsum([0, *map(len, prompts[:-1])])
    values = (together[:, None] * _FACTORS + _SHIFTS) >> np.uint64(32)
    least: _U64 = np.minimum.reduceat(values, starts, axis=0)
    return least


def _smallest(shingles: _U32) -> _U32:
    return shingles[:KEPT]  # they are sorted; hashes are random, so these are a fair sample of the shingles


def _similarity(one: _U32, other: _U32) -> float:
    """Of the smallest hashes in either, the share that both have: exact when neither had more than KEPT."""
    union = np.union1d(one, other)[:KEPT] if max(len(one), len(other)) == KEPT else np.union1d(one, other)
    both = np.intersect1d(one, other, assume_unique=True)
    shared = int(np.searchsorted(both, union[-1], "right"))
    return shared / len(union)


def _mixed(values: _U64) -> _U64:
    """Each number scattered over all 64 bits (the last step of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
