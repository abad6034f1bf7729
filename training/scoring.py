"""Scores of K responses to each prompt, with gradients: a prompt is encoded once, rows of like length go together.

Computed are P + K * R tokens for a prompt of P and responses of R, where a row for each response would take
K * (P + R): the responses attend to the keys and values of their prompt, which are made once and carry the gradients
back. The scores are those of separate rows. On one CPU core that is 1.2 times faster at P = 16, R = 32, K = 4, and
4 times at P = 256, R = 32, K = 9.

On a GPU with bf16 the backbone runs in bf16 (autocast, weights in fp32) and the scalar head in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from data.errors import InvalidInput
from training.engine import padded_left, padded_right
from training.model import positions_of, precision
from training.sharding import is_divided, through

Ids = Sequence[int]
MOST_PADDING = 0.1  # of the tokens in one forward pass
SHARING_PAYS = 1.15  # times fewer tokens; with less, a second forward pass costs more than it saves


@dataclass(frozen=True)
class Scores:
    """What `score` found, and what it took."""

    values: Tensor  # (responses,) of the first prompt's responses, then the second's, ...
    tokens: int  # tokens that had to be computed
    computed: int  # the same with padding


def score(
    model: PreTrainedModel, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]], pad_id: int, *, share: bool
) -> Scores:
    """The scalar head's number at the last token of each response; prompts and responses are token ids, none empty.

    With `share`, prompts are encoded once where that saves enough tokens to pay.
    """
    apart = sum(len(prompt) * len(group) for prompt, group in zip(prompts, responses, strict=True))
    ends = sum(len(response) for group in responses for response in group)
    together = sum(map(len, prompts)) + ends
    if share and apart + ends >= SHARING_PAYS * together:
        with precision(model.device):
            hidden, computed = _after_shared_prompts(model, prompts, responses, pad_id)
            return Scores(_head(model, hidden), together, computed)
    pairs = zip(prompts, responses, strict=True)
    return score_rows(model, [[*prompt, *response] for prompt, group in pairs for response in group], pad_id)


def score_rows(model: PreTrainedModel, rows: Sequence[Ids], pad_id: int) -> Scores:
    """The scalar head's number at the last token of each row of token ids, none empty.

    A model that is divided among processes makes one pass over all of them, others one for those of like length.
    """
    tokens = sum(map(len, rows))
    with precision(model.device):
        if is_divided(model):
            ids, is_token = padded_right(rows, pad_id, model.device)
            return Scores(through(model, _of_padded, ids, is_token), tokens, ids.numel())
        hidden, computed = _of_rows(model, rows, pad_id)
        return Scores(_head(model, hidden), tokens, computed)


@torch.no_grad()
def check_sharing(model: PreTrainedModel, prompt: Ids, responses: Sequence[Ids], pad_id: int) -> None:
    """Raise InvalidInput when the model does not score alike with the prompt encoded once and in a row for each.

    Attention over keys and values does; a model that keeps another kind of state between tokens may not.
    """
    caches = {type(layer) for layer in DynamicCache(config=model.config).layers}
    if not caches <= {DynamicLayer, DynamicSlidingWindowLayer}:
        names = ", ".join(sorted(kind.__name__ for kind in caches))
        raise InvalidInput(
            f"This {type(model).__name__} keeps more of a prompt than its keys and values ({names}), so the prompt "
            "cannot be encoded once for all its responses. Nothing was trained; start again with --no-share-prompts."
        )
    rows = [[*prompt, *response] for response in responses]
    found = _head(model, _after_shared_prompts(model, [prompt], [responses], pad_id)[0])
    expected = _head(model, _of_rows(model, rows, pad_id)[0])
    difference = (found - expected).abs().max().item()
    if not difference <= 1e-3 * max(1.0, expected.abs().max().item()):
        raise InvalidInput(
            f"This {type(model).__name__} scores responses differently when their prompt is encoded once (by up to "
            f"{difference:.3g}), so it would learn from wrong scores. Nothing was trained; start again with "
            "--no-share-prompts."
        )


def groups_of_like_length(
    lengths: Sequence[int], most_padding: float = MOST_PADDING, most_rows: int | None = None
) -> list[list[int]]:
    """Indices from the shortest to the longest, in few groups such that padded to its longest, little is padding.

    `most_padding` is a share of all tokens, padding included: a group may have more, all together do not. No group has
    more than `most_rows`.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    allowed = most_padding / (1 - most_padding) * sum(lengths) if most_padding < 1 else math.inf
    for parts in range(1, len(lengths)):
        # Of lengths spread evenly, groups of equally much padding are the fewest.
        groups = _cut(order, lengths, allowed / parts, most_rows or len(lengths))
        if sum(lengths[group[-1]] * len(group) for group in groups) - sum(lengths) <= allowed:
            return groups
    return [[index] for index in order]


def _cut(order: Sequence[int], lengths: Sequence[int], most: float, most_rows: int) -> list[list[int]]:
    """The indices, which are in the order of their lengths, in groups of no more than so much padding and so many."""
    groups: list[list[int]] = []
    padding = 0
    for index in order:
        if groups:
            padding += (lengths[index] - lengths[groups[-1][-1]]) * len(groups[-1])
        if groups and padding <= most and len(groups[-1]) < most_rows:
            groups[-1].append(index)
        else:
            groups.append([index])
            padding = 0
    return groups


def _head(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """(rows,) scores of hidden states (rows, d), in fp32."""
    with torch.autocast(hidden.device.type, enabled=False):
        return model.score(hidden.float()).squeeze(-1)


def _of_padded(model: PreTrainedModel, ids: Tensor, is_token: Tensor) -> Tensor:
    """(rows,) scores at the last tokens of rows padded on the right."""
    return _head(model, _at_last(model.base_model(input_ids=ids, use_cache=False).last_hidden_state, is_token))


def _of_rows(model: PreTrainedModel, rows: Sequence[Ids], pad_id: int) -> tuple[Tensor, int]:
    """(rows, d) hidden states at the last token of each row, and how many tokens were computed."""
    parts, computed = [], 0
    groups = groups_of_like_length([len(row) for row in rows])
    for group in groups:
        ids, is_token = padded_right([rows[i] for i in group], pad_id, model.device)
        # No mask: padding stands on the right, where a causal model's real tokens never look.
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        parts.append(_at_last(hidden, is_token))
        computed += ids.numel()
    return _in_order(parts, groups), computed


def _after_shared_prompts(
    model: PreTrainedModel, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]], pad_id: int
) -> tuple[Tensor, int]:
    """The same for responses that attend to the keys and values of their prompt."""
    past, is_prompt, computed = _encode_prompts(model, prompts, pad_id)
    lengths = is_prompt.sum(1)
    rows = [response for group in responses for response in group]
    prompt_of = torch.tensor([i for i, group in enumerate(responses) for _ in group], device=model.device)
    parts = []
    groups = groups_of_like_length([len(row) for row in rows])
    for group in groups:
        ids, is_token = padded_right([rows[i] for i in group], pad_id, model.device)
        whose = prompt_of[group]
        width = max(len(prompts[i]) for i in whose.tolist())  # prompts are padded on the left
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(past):
            cache.update(keys[whose, :, -width:], values[whose, :, -width:], layer)
        hidden = model.base_model(
            input_ids=ids,
            attention_mask=torch.cat([is_prompt[whose, -width:], is_token], 1).long(),
            position_ids=lengths[whose, None] + positions_of(is_token),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        parts.append(_at_last(hidden, is_token))
        computed += ids.numel()
    return _in_order(parts, groups), computed


def _encode_prompts(
    model: PreTrainedModel, prompts: Sequence[Ids], pad_id: int
) -> tuple[list[tuple[Tensor, Tensor]], Tensor, int]:
    """Each layer's keys and values (prompts, heads, longest, d), which slots hold a token, and the tokens computed.

    Prompts are padded on the left, so that a response follows its prompt without a gap, as sliding windows need it.
    The cache is made without the model's config, so that it keeps keys that have left a sliding window: the attention
    mask hides them.
    """
    groups = groups_of_like_length([len(prompt) for prompt in prompts])
    longest = max(map(len, prompts))
    parts, computed = [], 0
    for group in groups:
        ids, is_token = padded_left([prompts[i] for i in group], pad_id, model.device)
        cache = DynamicCache()
        model.base_model(
            input_ids=ids,
            attention_mask=is_token.long(),
            position_ids=positions_of(is_token),
            past_key_values=cache,
            use_cache=True,
        )
        left = longest - ids.shape[1]
        parts.append([(pad(layer.keys, (0, 0, left, 0)), pad(layer.values, (0, 0, left, 0))) for layer in cache.layers])
        computed += ids.numel()
    _, is_prompt = padded_left(prompts, pad_id, model.device)
    layers = zip(*parts, strict=True)
    past = [tuple(_in_order(list(tensors), groups) for tensors in zip(*layer, strict=True)) for layer in layers]
    return past, is_prompt, computed


def _at_last(hidden: Tensor, is_token: Tensor) -> Tensor:
    """(rows, d) of (rows, tokens, d): at the last token before the padding on the right."""
    return hidden[torch.arange(len(hidden), device=hidden.device), is_token.sum(1) - 1]


def _in_order(parts: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> Tensor:
    """The groups' rows in one tensor, in the order that the groups were made from."""
    joined = torch.cat(list(parts))
    places = torch.tensor([index for group in groups for index in group], device=joined.device)
    return joined[places.argsort()]
