"""A prompt that nearly repeats another is on its side of the split, now and after a restart."""

import json

import pytest

from data.near_duplicates import NearDuplicates, similarity
from data.records import Message, NewPrompt, split_of
from data.store import Store

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has

LONG = "Explain to a ten year old child why the sky is blue during the day and red in the evening over the sea"


def as_json(text, system="Be kind."):
    return json.dumps([{"role": "system", "content": system}, {"role": "user", "content": text}])


def test_similarity_is_that_of_the_word_shingles():
    # a b c d e: abc bcd cde; a b c d f: abc bcd cdf; 2 of 4
    assert similarity(as_json("a b c d e"), as_json("A b, c d f!")) == 0.5
    assert similarity(as_json("a b c d e"), as_json("a b c d e", system="Be brief.")) == 1.0
    assert similarity(as_json("你好吗"), as_json("你好嘛")) == 0.0
    assert similarity(as_json("???"), as_json("!")) == 0.0


def test_a_near_duplicate_takes_the_side_of_the_first_and_a_settled_side_stands():
    index = NearDuplicates()
    other = "Write a limerick about an old lighthouse keeper who is afraid of the dark"

    first = index.place([(as_json(LONG), "heldout", False), (as_json(LONG + " today"), "train", False)])
    later = index.place(
        [(as_json("Please " + LONG), "train", False), (as_json(other), "train", False), (as_json(LONG), "train", True)]
    )

    assert first == ["heldout", "heldout"]  # the second came after the first, in the same file
    assert later == ["heldout", "train", "train"]


def test_sides_are_found_among_many_and_are_the_same_after_they_were_sorted_in(monkeypatch):
    monkeypatch.setattr("data.near_duplicates.RECENT", 2_000)
    texts = [" ".join(f"word{(n * n * 31 + k * k * n) % 997}" for k in range(20)) for n in range(1_000)]
    index = NearDuplicates()
    index.add((as_json(text), "heldout" if n % 2 else "train") for n, text in enumerate(texts))

    found = index.place([(as_json(text + " now"), "train", False) for text in texts[:200]])

    expected = ["heldout" if n % 2 else "train" for n in range(200)]  # 18 of 19 shingles are the same
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= 198
    assert len(index) == 1_200


def test_the_store_places_near_duplicates_also_after_a_restart(tmp_path):
    def of(text):
        return NewPrompt((Message("user", text),))

    variants = [f"{LONG} {word}" for word in "today tomorrow always never there here now then".split()]
    with Store(tmp_path / "store.duckdb") as store:
        first = store.prompt(store.add_prompts([of(LONG)])[0])
        assert first.split == split_of(first.id)
        assert {store.prompt(id).split for id in store.add_prompts([of(text) for text in variants[:4]])} == {
            first.split
        }
    with Store(tmp_path / "store.duckdb") as store:
        assert store._near_duplicates is None
        store.add_prompts([of(LONG)])  # nothing new: nothing to compare
        assert store._near_duplicates is None
        assert {store.prompt(id).split for id in store.add_prompts([of(text) for text in variants[4:]])} == {
            first.split
        }
        assert {prompt.split for prompt in store.prompts()} == {first.split}
