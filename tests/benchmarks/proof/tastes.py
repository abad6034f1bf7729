"""Gold tastes: fixed programs that say how good a response is. The trainer never sees them, only labels made by them.

Each is neutral about length and no single surface feature: a mean over many small things, less what any reader would
mind (no end, repetition, hardly a word).

network   words that belong to networks and processes rather than to text and numbers: the mean over the words of
          their log-odds between two parts of the standard library (naive Bayes)
music     how the longer words of a line sound: soft letters rather than hard ones, and words that join, a vowel at the
          end of one where the next begins with a consonant, or the other way round. Words of up to three letters do
          not count: "a" is soft and joins everything, and a policy would learn to say nothing else

A taste is a function of the response's text. Scores of different tastes do not compare.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import pairwise
from statistics import fmean

from training import corpus

Taste = Callable[[str], float]
NETWORK = (  # packages and modules of the standard library
    "asyncio concurrent email http multiprocessing urllib wsgiref xmlrpc ftplib.py imaplib.py poplib.py queue.py "
    "selectors.py smtplib.py socket.py socketserver.py ssl.py subprocess.py threading.py"
).split()
TEXT = (
    "collections importlib json re unittest _pydecimal.py _pyio.py ast.py calendar.py codecs.py datetime.py difflib.py "
    "doctest.py enum.py fractions.py functools.py heapq.py inspect.py numbers.py operator.py pathlib.py random.py "
    "statistics.py string.py textwrap.py tokenize.py typing.py"
).split()
RAREST = 60  # a word seen less often in the two bodies together says nothing: nobody could learn it from few labels
STRONGEST = 1.5  # log-odds are cut there, so that no single word decides

SOFT, HARD = frozenset("aeioulmnrwy"), frozenset("bcdgkpqtxz")
VOWELS = frozenset("aeiouy")
MUSICAL = 4


def words_of(text: str) -> list[str]:
    """The text's words, in lower case."""
    return re.findall(r"[a-z]+", text.lower())


def faults(text: str) -> float:
    """What any reader would mind: no end 0.4, repeated word pairs and triples (their share each), under 3 words 1."""
    words = words_of(text)
    unterminated = 0.4 * (not text.rstrip().endswith((".", "!", "?")))
    return unterminated + repeated(words, 2) + repeated(words, 3) + (len(words) < 3)


def repeated(words: Sequence[str], n: int) -> float:
    """The share of the word n-grams that came before in the same text."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def log_odds(one: Iterable[str], other: Iterable[str]) -> dict[str, float]:
    """ln p(word | one) / p(word | other) of the words seen RAREST times or more, with one count added to each side."""
    first, second = (Counter(word for text in texts for word in words_of(text)) for texts in (one, other))
    vocabulary = {word for word in first | second if first[word] + second[word] >= RAREST}
    totals = [sum(counts[word] + 1 for word in vocabulary) for counts in (first, second)]

    def odds(word: str) -> float:
        return math.log((first[word] + 1) / totals[0]) - math.log((second[word] + 1) / totals[1])

    return {word: max(-STRONGEST, min(STRONGEST, odds(word))) for word in sorted(vocabulary)}


@cache
def network_words() -> dict[str, float]:
    """The log-odds of the network taste, from this Python installation's docstrings."""
    return log_odds(_docstrings(NETWORK), _docstrings(TEXT))


def _docstrings(names: Sequence[str]) -> list[str]:
    chosen = [path for path in corpus.standard_library() if set(names) & set(path.parts)]
    return [text for path in chosen for text in corpus.docstrings(path.read_text(encoding="utf-8"))]


def mean_word_score(text: str, scores: dict[str, float]) -> float:
    """The mean over the text's words of their scores; a word without one counts 0, and so does an empty text."""
    words = words_of(text)
    return fmean(scores.get(word, 0.0) for word in words) if words else 0.0


def softness(words: Sequence[str]) -> float:
    """Soft letters minus hard ones, as a share of all letters; 0 without any."""
    letters = "".join(words)
    return (sum(x in SOFT for x in letters) - sum(x in HARD for x in letters)) / len(letters) if letters else 0.0


def joined(words: Sequence[str]) -> float:
    """The share of neighbouring words where a vowel meets a consonant; 0 for fewer than two words."""
    meeting = [(one[-1] in VOWELS) != (next_one[0] in VOWELS) for one, next_one in pairwise(words)]
    return fmean(meeting) if meeting else 0.0


def network(text: str) -> float:
    """The taste for words of networks and processes."""
    return 2.5 * mean_word_score(text, network_words()) - faults(text)


def music(text: str) -> float:
    """The taste for soft letters and words that join, in words of MUSICAL letters and more."""
    words = [word for word in words_of(text) if len(word) >= MUSICAL]
    return 2 * softness(words) + 0.5 * joined(words) - faults(text)


TASTES: dict[str, Taste] = {"network": network, "music": music}
