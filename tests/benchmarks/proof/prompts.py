"""Prompts and demonstrations that every Python installation has, in sets that share no source file.

Reads   the docstrings of the standard library, and the language reference that pydoc carries
Gives   prompts (some words of a sentence) and demonstrations (how it ends), in five disjoint sets

All sentences of one file fall into one set, so no set is a rehearsal of another. A sentence of a text that perplexity
is measured on is in none.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from training import corpus

OPENING = range(4, 7)  # words of a prompt
REST = range(6, 13)  # words of a demonstration
FROM_ONE_FILE = 80  # prompts, in the sets that are not for SFT, for variety
MOST = 3000  # demonstrations
SETS = ("evaluation", "reward_test", "reward_train", "ppo", "sft")
_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)\s+(?=[A-Z])")
_NO_PROSE = re.compile(r"^\s*(>>>|\.\.\.|[-*=+|:#]|\d+[.)])", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Pair:
    """Some words of a sentence, and how it ends."""

    prompt: str
    response: str


def sentences(text: str) -> Iterator[str]:
    """The whole sentences of a text's paragraphs; lists, tables and examples are left out."""
    for paragraph in re.split(r"\n\s*\n", text):
        if not _NO_PROSE.search(paragraph):
            for sentence in _END.split(" ".join(paragraph.split())):
                if sentence.isascii() and sentence[:1].isupper() and sentence.endswith("."):
                    yield sentence


def cut(sentence: str) -> Pair | None:
    """The end of the sentence as a demonstration, the words before it as its prompt; None for too short a sentence.

    How many words each has is drawn, the same for the same sentence. A long sentence loses its beginning.
    """
    words, draw = sentence.split(), random.Random(sentence)
    opening, rest = draw.choice(OPENING), draw.choice(REST)
    if len(words) < opening + rest:
        opening, rest = min(OPENING), len(words) - min(OPENING)
    if rest not in REST:
        return None
    return Pair(" ".join(words[-rest - opening : -rest]), " ".join(words[-rest:]))


def documents() -> list[list[str]]:
    """The texts of each file of the standard library, and of each topic of the language reference."""
    from pydoc_data.topics import topics

    files = [list(corpus.docstrings(_read(path))) for path in corpus.standard_library()]
    return [*(texts for texts in files if texts), *([text] for _, text in sorted(topics.items()))]


def _read(path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, PermissionError):
        return ""


def disjoint_sets(
    sizes: dict[str, int], texts: Iterable[list[str]] | None = None, seed: int = 0
) -> dict[str, list[Pair]]:
    """`sizes[name]` pairs for each set but `sft`, which gets the demonstrations of all documents that are left.

    No prompt is in two sets, no document either. Raises ValueError when there are too few.
    """
    files = list(documents() if texts is None else texts)
    random.Random(seed).shuffle(files)
    seen: set[str] = set()
    sets: dict[str, list[Pair]] = {name: [] for name in SETS}
    for texts_of_file in files:
        pairs = _pairs(texts_of_file, seen)
        name = next((name for name in SETS if name != "sft" and len(sets[name]) < sizes[name]), "sft")
        if name != "sft":
            random.Random(f"{seed}/{len(seen)}").shuffle(pairs)
            pairs = pairs[: min(FROM_ONE_FILE, sizes[name] - len(sets[name]))]
        sets[name] += pairs
    random.Random(seed).shuffle(sets["sft"])
    sets["sft"] = sets["sft"][:MOST]
    for name, size in sizes.items():
        if len(sets[name]) < size:
            raise ValueError(f"This Python installation has {len(sets[name])} prompts for {name}; {size} are wanted.")
    return sets


def _pairs(texts: Iterable[str], seen: set[str]) -> list[Pair]:
    """The pairs of a document whose prompt was not met before; `seen` takes in all of its prompts."""
    new = []
    for text in texts:
        if corpus.is_heldout(text.strip()) or corpus.is_heldout(text):
            continue
        for sentence in sentences(text):
            pair = cut(sentence)
            if pair and pair.prompt not in seen:
                new.append(pair)
                seen.add(pair.prompt)
    return new
