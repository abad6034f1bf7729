"""Words to token ids and back: one tokenizer, one chat template, one way for every stage.

Reads   text to train on, or the tokenizer of a checkpoint or of a model brought from outside
Writes  nothing itself; `checkpoints.save` stores the tokenizer and its template beside the weights

A conversation becomes `<|user|>` words `<|assistant|>` words `<|end|>`. A response starts right after a special token
and its last token is the end-of-sequence token, so prompt and response can be tokenised apart and joined: sampling,
SFT, the reward model and PPO all see the same ids (`prompt_ids` + `response_ids`). Padding is a token of its own;
were it the end-of-sequence token, no model would learn to stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data.errors import InvalidInput
from data.records import Message

PAD, SEPARATOR, END = "<|pad|>", "<|endoftext|>", "<|end|>"
ROLES = ("system", "user", "assistant")
SPECIALS = (PAD, SEPARATOR, *(f"<|{role}|>" for role in ROLES), END)

# No blank touches what people wrote, and nothing follows the end of a response.
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' -}}{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}"
    "{%- elif message['role'] in ['system', 'user'] -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] -}}"
    "{%- else -%}{{- raise_exception('A message is from system, user or assistant, not ' + message['role']) -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def train(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (Sennrich et al. 2016; bytes as in Radford et al. 2019) with Pawl's chat template.

    Every text comes back exactly: all 256 bytes are in the vocabulary and nothing is normalised.
    Raises InvalidInput when `vocab_size` cannot hold the bytes and the special tokens.
    """
    if vocab_size < (least := 256 + len(SPECIALS)):
        raise InvalidInput(f"vocab_size is {vocab_size}; bytes and special tokens alone need {least}.")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SEPARATOR, *(f"<|{role}|>" for role in ROLES)],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def load(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint or of any model folder, completed where it lacks what the stages need.

    A model brought from outside keeps its own chat template and end-of-sequence token. Added only where absent: a
    padding token that is not the end-of-sequence token, an end-of-sequence token, and Pawl's template with its tokens.
    The model's embeddings must then grow with it: `model.load_policy` sees to that.
    """
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if tokenizer.eos_token is None:
        tokenizer.add_special_tokens({"eos_token": END})
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
    if tokenizer.chat_template is None:
        tokenizer.add_tokens([f"<|{role}|>" for role in ROLES], special_tokens=True)
        opens = tokenizer("x").input_ids[0] == tokenizer.bos_token_id  # it was pretrained with a first token
        tokenizer.chat_template = ("{{- bos_token -}}" if opens else "") + TEMPLATE
    return tokenizer


def require_shared(tokenizer: PreTrainedTokenizerBase, path: Path, what: str) -> None:
    """Raises InvalidInput when to the model at `path` the policy's token ids would mean other words; `what` it is."""
    if load(path).get_vocab() != tokenizer.get_vocab():
        raise InvalidInput(
            f"The {what} {path.name} has another vocabulary than the policy, whose tokens would be other words to it. "
            "Take one that was trained from the same checkpoint."
        )


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The ids of a conversation up to where the assistant's response starts.

    Special tokens that somebody typed stay words: `<|end|>` in a user's turn does not end it.
    Raises InvalidInput for no messages, or a role or an order of turns that the template refuses.
    """
    if not messages:
        raise InvalidInput("A prompt needs at least one message.")
    turns = [{"role": m.role, "content": m.content} for m in messages]
    if not any(_is_hostile(tokenizer, m.content) for m in messages):
        return _encode(tokenizer, _render(tokenizer, turns))
    # The template is rendered around stand-ins, then template and words are tokenised apart. Private-use
    # characters name the stand-ins; words that hold the very same characters are never searched, only inserted.
    marks = [f"\ue000{index}\ue001" for index in range(len(turns))]
    rest = _render(tokenizer, [{**turn, "content": mark} for turn, mark in zip(turns, marks, strict=True)])
    ids: list[int] = []
    for turn, mark in zip(turns, marks, strict=True):
        if mark not in rest:  # the template leaves this turn out
            continue
        before, _, rest = rest.partition(mark)
        ids += _encode(tokenizer, before) + _encode(tokenizer, turn["content"], words=True)
    return ids + _encode(tokenizer, rest)


def response_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a response: its words, whatever they spell, then the end-of-sequence token."""
    return [*_encode(tokenizer, text, words=True), tokenizer.eos_token_id]


def response_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """What a labeler reads of sampled ids: special tokens left out, blanks at both ends trimmed, NUL made visible."""
    text = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return text.replace("\0", "\ufffd").strip()  # the store refuses NUL, and a byte-level model can say it


def document_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text to pretrain on, without separator; special tokens in it stay words."""
    return _encode(tokenizer, text, words=True)


def separator_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token before each pretraining document: `<|endoftext|>`, else the model's own first or last token."""
    known = tokenizer.get_vocab().get(SEPARATOR)
    if known is not None:
        return int(known)
    return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
    from jinja2.exceptions import TemplateError

    try:
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    except TemplateError as error:
        raise InvalidInput(f"The chat template refuses this conversation: {error}") from error


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, *, words: bool = False) -> list[int]:
    """Ids of a piece; with `words`, special tokens spelled in it are ordinary characters."""
    if not text:
        return []
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=words).input_ids)


def _is_hostile(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    return any(token.special and token.content in text for token in tokenizer.added_tokens_decoder.values())
