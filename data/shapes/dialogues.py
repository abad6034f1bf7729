"""Conversations as chat tools keep them: ShareGPT's turns, Chatbot Arena's battles, MT-bench's questions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data.records import Message, NewResponse
from data.shapes import fields
from data.shapes.fields import Answer, Misfit, Row, Said, Shape, text
from data.shapes.plain import last_turns

_ROLES = {"system": "system"}
_ROLES |= dict.fromkeys(("human", "user", "prompter"), "user")
_ROLES |= dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant")
_WINNERS = {"model_a": (1, 2), "model_b": (2, 1), "tie": (1, 1), "tie (bothbad)": (1, 1)}


def _turns(value: Any, name: str) -> tuple[Message, ...]:
    """A list of {"from", "value"}."""
    if not isinstance(value, list) or not value:
        raise Misfit(f"has no turn in {name}")
    found = []
    for number, turn in enumerate(value, 1):
        role = _ROLES.get(str(turn.get("from")).lower()) if isinstance(turn, dict) else None
        if role is None:
            said = turn.get("from") if isinstance(turn, dict) else turn
            raise Misfit(f"has in {name} a turn {number} from {str(said)[:40]!r}, not human, gpt or system")
        found.append(Message(role, text(turn.get("value"), f"turn {number} of {name}")))
    return tuple(found)


def _share_gpt(row: Row) -> tuple[Message, ...]:
    turns = _turns(row["conversations"], "conversations")
    system = row.get("system")
    return (Message("system", system), *turns) if isinstance(system, str) and system.strip() else turns


def _share_gpt_prompts(row: Row, source: str) -> Iterator[Said | str]:
    turns = _share_gpt(row)
    yield Said(fields.new_prompt(row, turns[:-1] if turns[-1].role == "assistant" else turns, source))


def _share_gpt_replies(row: Row, source: str) -> Iterator[Said | str]:
    found = list(fields.replies(row, _share_gpt(row), source, Answer(fields.name_of(row.get("labeler")))))
    if not found:
        raise Misfit("has no response: no turn from gpt in conversations that answers a human's")
    yield from found


def _share_gpt_choice(row: Row, source: str) -> Iterator[Said | str]:
    """With the two replies that it could end with."""
    sides = [_turns([row.get(name)], name)[0].content for name in ("chosen", "rejected")]
    if sides[0] == sides[1]:
        raise Misfit("has the same text as chosen and as rejected")
    texts = sorted(sides)
    ranks = [1 if words == sides[0] else 2 for words in texts]
    prompt = fields.new_prompt(row, _share_gpt(row), source)
    yield fields.ranking(prompt, [NewResponse(words, source) for words in texts], ranks, Answer(), listed=False)


def _battle(row: Row, source: str) -> Iterator[Said | str]:
    names = ("conversation_a", "conversation_b")
    sides = fields.messages(row[names[0]], names[0]), fields.messages(row[names[1]], names[1])
    messages, *texts = last_turns(sides, (), names)
    ranks = _WINNERS.get(str(row["winner"]))
    if ranks is None:
        raise Misfit(f"has the winner {str(row['winner'])[:40]!r}: it is {', '.join(_WINNERS)}")
    models = [row.get("model_a"), row.get("model_b")]
    responses = [NewResponse(words, str(model or source)) for words, model in zip(texts, models, strict=True)]
    details = fields.plain_details(row, "winner", "turn", "language")
    answer = Answer(fields.name_of(row.get("judge")), labeled_at=fields.time_of(row.get("tstamp")), details=details)
    yield fields.ranking(fields.new_prompt(row, messages, source), responses, ranks, answer)


def _first_turn(row: Row, source: str) -> Iterator[Said | str]:
    turns = row["turns"]
    if not turns:
        raise Misfit("has no turn in turns")
    yield Said(fields.asked(row, text(turns[0], "turn 1 of turns"), source))
    if len(turns) > 1:
        yield f"turns 2 to {len(turns)} ask about a model's reply to turn 1, which is not in the file: left out"


def _has_turns(row: Row) -> bool:
    return isinstance(row.get("turns"), list) and all(isinstance(turn, str) for turn in row["turns"])


def _answers_alone(row: Row, source: str) -> Iterator[Said | str]:
    raise Misfit(f"answers question {str(row['question_id'])[:40]}, which is not in the file: put it beside the answer")
    yield


SHAPES = (
    Shape(
        "ShareGPT preference",
        lambda row: isinstance(row.get("conversations"), list) and isinstance(row.get("chosen"), dict),
        rankings=_share_gpt_choice,
    ),
    Shape(
        "ShareGPT",
        lambda row: isinstance(row.get("conversations"), list),
        demonstrations=_share_gpt_replies,
        prompts=_share_gpt_prompts,
    ),
    Shape(
        "Chatbot Arena battles",
        lambda row: all(isinstance(row.get(f"conversation_{side}"), list) for side in "ab") and "winner" in row,
        rankings=_battle,
    ),
    Shape("MT-bench questions", _has_turns, prompts=_first_turn),
    Shape(
        "MT-bench answers",
        lambda row: "question_id" in row and isinstance(row.get("choices"), list) and "question" not in row,
        demonstrations=_answers_alone,
        prompts=_answers_alone,
    ),
)
