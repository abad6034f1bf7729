"""The bundled seeds are sound: a person who brings nothing of their own starts from these prompts and demonstrations.

pytest tests/data/test_seeds.py
"""

import ast
import json
from pathlib import Path

import pytest

SEEDS = Path(__file__).parents[2] / "data" / "seeds"
KINDS = {
    "advice",
    "borderline",
    "brainstorm",
    "classify",
    "code",
    "explain",
    "python",
    "question",
    "refusal",
    "rewrite",
    "science",
    "summarise",
}
FORMS = {"language", "multi-turn", "system"}


def rows(name):
    return [json.loads(line) for line in (SEEDS / name).read_text(encoding="utf-8").split("\n") if line]


PROMPTS = rows("prompts.jsonl")
DEMONSTRATIONS = rows("demonstrations.jsonl")


def key(row):
    return json.dumps(row["messages"], ensure_ascii=False).casefold()


def texts(row):
    return [message["content"] for message in row["messages"]] + ([row["response"]] if "response" in row else [])


def of_split(seeds, split):
    return [row for row in seeds if row["split"] == split]


def test_there_are_enough_seeds_to_start_with():
    assert len(PROMPTS) >= 220
    assert len(of_split(DEMONSTRATIONS, "train")) >= 110
    assert len(of_split(DEMONSTRATIONS, "heldout")) >= 10
    assert sum("multi-turn" in row["tags"] for row in PROMPTS) >= 20
    assert sum("system" in row["tags"] for row in PROMPTS) >= 8


def test_about_an_eighth_of_the_prompts_is_held_out():
    heldout = len(of_split(PROMPTS, "heldout"))

    assert len(of_split(PROMPTS, "train")) + heldout == len(PROMPTS)
    assert heldout >= 28
    assert 0.10 <= heldout / len(PROMPTS) <= 0.15


@pytest.mark.parametrize("tag", sorted(KINDS | FORMS))
def test_every_tag_is_on_both_sides_of_the_split(tag):
    splits = {row["split"] for row in PROMPTS if tag in row["tags"]}

    assert splits == {"train", "heldout"}


def test_a_row_has_exactly_its_fields():
    assert all(set(row) == {"messages", "tags", "split"} for row in PROMPTS)
    assert all(set(row) == {"messages", "response", "tags", "split"} for row in DEMONSTRATIONS)
    assert all(set(message) == {"role", "content"} for row in PROMPTS for message in row["messages"])


def test_users_and_assistants_take_turns_and_the_user_speaks_last():
    for row in PROMPTS:
        roles = [message["role"] for message in row["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles

        assert turns == ["user", "assistant"] * (len(turns) // 2) + ["user"], row


def test_the_tags_are_known_and_say_what_form_a_prompt_has():
    for row in PROMPTS:
        tags, roles = set(row["tags"]), [message["role"] for message in row["messages"]]

        assert len(tags) == len(row["tags"]), row
        assert tags <= KINDS | FORMS, row
        assert tags & KINDS, row
        assert ("system" in tags) == (roles[0] == "system"), row
        assert ("multi-turn" in tags) == ("assistant" in roles), row


def test_no_prompt_and_no_response_is_there_twice():
    responses = [row["response"].casefold() for row in DEMONSTRATIONS]

    assert len({key(row) for row in PROMPTS}) == len(PROMPTS)
    assert len({key(row) for row in DEMONSTRATIONS}) == len(DEMONSTRATIONS)
    assert len(set(responses)) == len(responses)


def test_a_demonstration_belongs_to_a_prompt_and_stays_on_its_side():
    prompts = {json.dumps(row["messages"]): row for row in PROMPTS}

    for row in DEMONSTRATIONS:
        prompt = prompts[json.dumps(row["messages"])]

        assert row["split"] == prompt["split"], row
        assert row["tags"] == prompt["tags"], row


def test_texts_are_clean_and_short():
    for row in PROMPTS + DEMONSTRATIONS:
        for text in texts(row):
            assert text and text == text.strip(), row
            assert all(char.isprintable() or char == "\n" for char in text), row  # no NUL, no other control character
            assert "<|" not in text and "\n#" not in text and not text.startswith("#"), row  # no tokens, no headings
            assert len(text.split()) <= 80, row


def test_a_response_ends_properly():
    for row in DEMONSTRATIONS:
        if "code" in row["tags"]:
            ast.parse(row["response"])  # a response to a code prompt is Python and nothing else
        else:
            assert row["response"][-1] in ".!?", row


def test_responses_are_long_and_short():
    lengths = [len(row["response"].split()) for row in DEMONSTRATIONS if "code" not in row["tags"]]

    assert max(lengths) <= 45
    assert sum(words <= 6 for words in lengths) >= 10
    assert sum(words >= 30 for words in lengths) >= 10
    assert sum(12 <= words <= 45 for words in lengths) > len(lengths) / 2


def test_the_readme_gives_the_true_counts():
    readme = (SEEDS / "README.md").read_text(encoding="utf-8")

    for name, seeds in (("prompts.jsonl", PROMPTS), ("demonstrations.jsonl", DEMONSTRATIONS)):
        counts = (len(seeds), len(of_split(seeds, "train")), len(of_split(seeds, "heldout")))
        line = "| `{}` | {} | {} | {} |".format(name, *counts)

        assert line in readme, f"data/seeds/README.md should have the line {line}"
