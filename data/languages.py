"""The language that a prompt is in: what its tags say, else what its words look like.

A tag such as `lang:de` decides. Without one py3langid guesses, offline, from the letters of the user's turns; of a few
words it often guesses wrong, so tag short prompts. A text without letters is "und", undetermined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

TAG = "lang:"
UNDETERMINED = "und"


def language_of(messages: Iterable[Mapping[str, str]], tags: Iterable[str]) -> str:
    """The code of the language (ISO 639-1 where there is one)."""
    for tag in tags:
        if tag.startswith(TAG):
            return tag.removeprefix(TAG).lower()
    text = "\n".join(turn["content"] for turn in messages if turn["role"] == "user")
    if not any(letter.isalpha() for letter in text):
        return UNDETERMINED
    import py3langid  # its model takes a second to load: only who chooses by language needs it

    return str(py3langid.classify(text)[0])
