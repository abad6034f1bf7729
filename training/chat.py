"""Chat: one reply after the other to a conversation, as text that grows while the model writes it.

Reads   a request in OpenAI's shape (messages, n, temperature, max_tokens, seed), and a policy
Writes  nothing; tells its caller of each piece of text as it comes

Several conversations are answered at once by taking turns: each holds the model for one burst of tokens. (Two
decodings of one model must not run in the same instant: the engine sets the model's attention for the time of a burst.)
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.errors import InvalidInput
from data.records import Message
from training import engine, tokenizer
from training.model import precision

MOST_REPLIES = 9
ROLES = ("system", "user", "assistant")
UNLIKE = {"top_p": 1, "top_k": None, "stop": None, "tools": None, "logprobs": False, "frequency_penalty": 0}
HALF = "\ufffd"  # what a tokenizer decodes the first bytes of a character to


class Turns:
    """A lock that is given to those who wait for it in the order in which they came."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._tickets = self._served = 0

    def take(self) -> None:
        """Wait for one's turn."""
        with self._condition:
            ticket, self._tickets = self._tickets, self._tickets + 1
            self._condition.wait_for(lambda: self._served == ticket)

    def give(self) -> None:
        """The next one's turn."""
        with self._condition:
            self._served += 1
            self._condition.notify_all()


@dataclass(frozen=True)
class Served:
    """A policy that answers, under the name it is asked for by."""

    name: str
    policy: PreTrainedModel
    words: PreTrainedTokenizerBase
    max_new_tokens: int  # of a reply, where the request does not say
    turns: Turns = field(default_factory=Turns)

    @property
    def positions(self) -> int:
        """How many tokens a prompt and its reply may have together."""
        return int(getattr(self.policy.config.get_text_config(), "max_position_embeddings", None) or 1 << 30)


@dataclass(frozen=True)
class Request:
    """What a body asks for, checked."""

    model: str
    messages: tuple[Message, ...]
    n: int
    temperature: float
    max_tokens: int | None
    seed: int | None
    stream: bool

    @classmethod
    def of(cls, body: Any) -> Request:
        """Raises InvalidInput naming the first field at fault."""
        if not isinstance(body, Mapping):
            raise InvalidInput("The body must be a JSON object.")
        for name, only in UNLIKE.items():
            if body.get(name, only) not in (only, None):
                raise InvalidInput(f"{name} is not supported: a token is drawn from the whole distribution.")
        longest = body.get("max_completion_tokens", body.get("max_tokens"))
        return cls(
            model=_text(body.get("model"), "model"),
            messages=_messages(body.get("messages")),
            n=_whole(body.get("n"), "n", 1, MOST_REPLIES) or 1,
            temperature=_temperature(body.get("temperature")),
            max_tokens=_whole(longest, "max_tokens", 1, 1 << 20),
            seed=_whole(body.get("seed"), "seed", 0, (1 << 63) - 1),
            stream=body.get("stream") is True,
        )


@dataclass(frozen=True)
class Reply:
    """A reply, whole."""

    text: str
    tokens: int
    ended: bool  # False: cut off at the number of tokens


class Growing:
    """The text of a reply in the making: `more` gives what came to it, and the pieces join to the whole reply.

    The end of what is decoded waits while it may still change: half a character, or blanks that a reply which ended
    there would not have.
    """

    def __init__(self, words: PreTrainedTokenizerBase) -> None:
        self._words = words
        self._length = 0
        self.text = ""

    def more(self, ids: list[int]) -> str:
        """What can be told of the tokens so far and was not yet."""
        if len(ids) == self._length:
            return ""
        self._length = len(ids)
        return self._to(tokenizer.response_text(self._words, ids).rstrip(HALF).rstrip())

    def last(self, ids: list[int]) -> str:
        """The rest of the whole reply."""
        return self._to(tokenizer.response_text(self._words, ids))

    def _to(self, text: str) -> str:
        if not text.startswith(self.text):
            return ""
        told, self.text = self.text, text
        return text[len(told) :]


def prompt_of(request: Request, served: Served) -> list[int]:
    """The token ids of the conversation. Raises InvalidInput when the model has no room for a reply to it."""
    ids = tokenizer.prompt_ids(served.words, request.messages)
    if len(ids) >= served.positions:
        raise InvalidInput(
            f"The conversation has {len(ids)} tokens, and this model reads {served.positions}, its reply included. "
            "Begin a new conversation."
        )
    return ids


def respond(request: Request, served: Served, ids: list[int], tell: Callable[[int, str], None]) -> list[Reply]:
    """The replies to the prompt `ids`. `tell` hears of each piece of each one's text; what it raises ends them all."""
    growing = [Growing(served.words) for _ in range(request.n)]

    def watch(grown: list[tuple[int, list[int]]]) -> None:
        served.turns.give()
        try:
            for number, tokens in grown:
                if piece := growing[number].more(tokens):
                    tell(number, piece)
        finally:
            served.turns.take()

    seed = secrets.randbits(62) if request.seed is None else request.seed
    served.turns.take()
    try:
        with precision(served.policy.device):
            samples = engine.sample(
                served.policy,
                [ids],
                samples=request.n,
                max_new_tokens=min(request.max_tokens or served.max_new_tokens, served.positions - len(ids)),
                temperature=request.temperature,
                eos_id=served.words.eos_token_id,
                pad_id=served.words.pad_token_id,
                generator=torch.Generator().manual_seed(seed),
                batch_size=request.n,
                watch=watch,
            )
    finally:
        served.turns.give()
    for number, tokens in enumerate(samples.response_ids):
        if piece := growing[number].last(tokens):
            tell(number, piece)
    return [
        Reply(grown.text, len(tokens), ended)
        for grown, tokens, ended in zip(growing, samples.response_ids, samples.ended, strict=True)
    ]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{name} must be text, and not empty.")
    return value


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidInput("messages must be a list of one message or more.")
    messages = []
    for place, item in enumerate(value):
        role, content = (item.get("role"), item.get("content")) if isinstance(item, Mapping) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            raise InvalidInput(f"messages[{place}] must have a role ({', '.join(ROLES)}) and a content that is text.")
        messages.append(Message(role, content))
    return tuple(messages)


def _whole(value: Any, name: str, least: int, most: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidInput(f"{name} must be a whole number from {least} to {most}.")
    return value


def _temperature(value: Any) -> float:
    value = 1.0 if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2:
        raise InvalidInput("temperature must be a number from 0 (the likeliest token each time) to 2.")
    return float(value)
