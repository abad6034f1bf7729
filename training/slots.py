"""Slots: where responses in the making keep their keys and values, and the decode step that adds a token to each.

A slot holds one response. Its k-th token stands in the k-th column whatever stands in other slots, so nothing is padded
on the left, and a new response can take a slot at any time. There are no more columns than the longest response has
reached, to the next of a few sizes.

A step - forward pass, drawing, bookkeeping - neither waits for the device nor asks it anything, and changes only
tensors that stay where they are: so on a GPU it is captured as a CUDA graph, one for each size of batch and number of
columns, and replayed. Elsewhere the same step runs as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, Cache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import StaticLayer

BLOCK = 64  # tokens of the vocabulary whose probabilities are first added up, when one is drawn
LEAST_COLUMNS = 32


@dataclass(frozen=True)
class Plan:
    """What pays on a device. It changes the speed, and the responses by no more than rounding."""

    prefill_tokens: int  # prompt tokens in one forward pass, padding included
    burst: int  # decode steps between two looks at which responses have ended
    refill: float  # share of the slots that must be free before waiting prompts are taken in
    row_sizes: int  # sizes of the running batch between one power of two and the next
    least_rows: int  # the batch shrinks no further
    column_sizes: int  # numbers of columns between one power of two and the next
    captured: bool  # the step is a CUDA graph


CPU = Plan(prefill_tokens=1024, burst=1, refill=1 / 8, row_sizes=4, least_rows=1, column_sizes=4, captured=False)
# A capture takes as long as tens of steps, so there are few sizes; a look at what has ended waits for the device.
CUDA = Plan(prefill_tokens=1 << 16, burst=8, refill=1 / 4, row_sizes=1, least_rows=64, column_sizes=2, captured=True)


class Start(NamedTuple):
    """A response to be started."""

    row: int  # of its prompt in the prefill
    prompt: tuple[int, ...]
    response: int  # its number among all responses, the row of the results that it writes


class _InUse(NamedTuple):
    """What is known of a slot in use without a look at the device."""

    shift: int  # its column less the steps made so far
    end: int  # the step after which its response is cut off


class Slots:
    """`size` slots, the results of all responses, and the steps. The running batch is the first `rows` slots."""

    def __init__(
        self,
        model: PreTrainedModel,
        uniforms: Tensor,
        size: int,
        *,
        plan: Plan,
        temperature: float,
        eos_id: int,
        pad_id: int,
    ) -> None:
        """`uniforms` (responses, tokens of a response) are the numbers in [0, 1) that the tokens are drawn by."""
        self.model, self.plan, self.size, self.temperature = model, plan, size, temperature
        self.eos_id, self.pad_id = eos_id, pad_id
        self.config, self.dtype, self.device = model.config.get_text_config(), model.dtype, model.device
        nobody, self.limit = uniforms.shape
        # A slot that idles goes on writing: behind its last response's end, or to nobody's row if it had none yet.
        self.uniforms = F.pad(uniforms, (0, 1, 0, 1)).to(self.device)
        self.tokens = torch.full(self.uniforms.shape, pad_id, device=self.device)
        self.logprobs = torch.zeros(self.uniforms.shape, device=self.device)
        # (5, size) of each slot: last token, its column, tokens drawn so far, which response, 1 while it goes on
        self.state = torch.zeros(5, size, dtype=torch.long, device=self.device)
        self.state[3] = nobody
        self.cache = Cache(layer_class_to_replicate=partial(_Layer, self))
        self.rows, self.columns = size, LEAST_COLUMNS
        self.places: dict[int, Tensor] = {}  # this step's `place_of`
        self._in_use: list[_InUse | None] = [None] * size
        self._steps = 0
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}  # of each number of rows, at this number of columns

    def free(self) -> list[int]:
        return [slot for slot, known in enumerate(self._in_use) if known is None]

    def results(self) -> tuple[list[list[int]], list[list[float]]]:
        """Tokens and log-probs of every response; what stands behind an end-of-sequence token means nothing."""
        return self.tokens[:-1, :-1].tolist(), self.logprobs[:-1, :-1].tolist()

    def so_far(self) -> list[tuple[int, list[int]]]:
        """The number and the tokens so far of each response in the running batch, those that just ended included."""
        drawn, response = self.state[2:4, : self.rows].tolist()
        nobody = len(self.tokens) - 1
        return [
            (number, self.tokens[number, :count].tolist())
            for number, count in zip(response, drawn, strict=True)
            if number != nobody
        ]

    def place(self, starts: Sequence[Start], slots: Sequence[int], prefilled: Cache | None) -> None:
        """Start responses in these free slots; `prefilled` has their prompts' keys and values, without the last token.

        None: the prompts have but one token.
        """
        state = [[start.prompt[-1], len(start.prompt) - 1, 0, start.response, 1] for start in starts]
        target = torch.tensor(slots, device=self.device)
        self.state[:, target] = torch.tensor(state, device=self.device).T
        for slot, start in zip(slots, starts, strict=True):
            self._in_use[slot] = _InUse(len(start.prompt) - 1 - self._steps, self._steps + self.limit)
        if prefilled is None:
            return
        self._grow(prefilled.layers[0].keys.shape[2])
        source = torch.tensor([start.row for start in starts], device=self.device)
        for number, layer in enumerate(prefilled.layers):
            if number == len(self.cache.layers):
                self.cache.layers.append(_Layer(self))
            self.cache.layers[number].place(target, layer.keys[source], layer.values[source])

    def advance(self, *, shrink: bool) -> None:
        """Some steps of the running batch, at most `plan.burst`; then the slots whose responses ended are free.

        With `shrink` the batch gets smaller as slots become free; `place` must not be called any more.
        """
        known = [known for known in self._in_use if known]
        if shrink:
            self._shrink(max(self.plan.least_rows, _rounded_up(len(known), self.plan.row_sizes)))
        steps = min(self.plan.burst, max(known.end for known in known) - self._steps)
        self._grow(max(known.shift for known in known) + self._steps + steps)
        with _grouped_attention(self.config):
            self._run(steps)
        self._steps += steps
        for slot, goes_on in enumerate(self.state[4, : self.rows].tolist()):
            if not goes_on:
                self._in_use[slot] = None

    def _grow(self, columns: int) -> None:
        """Make room for at least so many columns."""
        if columns > self.columns:
            self.columns = _rounded_up(columns, self.plan.column_sizes)
            self._graphs.clear()
            for layer in self.cache.layers:
                layer.grow()

    def _shrink(self, rows: int) -> None:
        """Let the batch be the first `rows` slots, and move responses from behind them into free ones."""
        if rows >= self.rows:
            return
        moving = [slot for slot, known in enumerate(self._in_use) if known and slot >= rows]
        holes = self.free()[: len(moving)]
        source, target = (torch.tensor(slots, dtype=torch.long, device=self.device) for slots in (moving, holes))
        for layer in self.cache.layers:
            layer.place(target, layer.keys[source], layer.values[source])
        self.state[:, target] = self.state[:, source]
        for old, new in zip(moving, holes, strict=True):
            self._in_use[new], self._in_use[old] = self._in_use[old], None
        self.rows = rows

    def _run(self, steps: int) -> None:
        """So many steps. Before a step is captured it runs once as it is: that readies the libraries, and counts."""
        if not self.plan.captured:
            for _ in range(steps):
                self._step()
            return
        if self.rows not in self._graphs:
            self._step()
            steps -= 1
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the device
                self._step()
            self._graphs[self.rows] = graph
        for _ in range(steps):
            self._graphs[self.rows].replay()

    def _step(self) -> None:
        """The next token of every response in the running batch."""
        self.places.clear()
        token, column, drawn, response, goes_on = self.state[:, : self.rows]
        logits = self.model(
            input_ids=token[:, None],
            attention_mask=self._mask(column),
            position_ids=column[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        chosen, logprobs = draw(logits, self.uniforms[response, drawn], self.temperature)
        self.tokens[response, drawn] = chosen
        self.logprobs[response, drawn] = logprobs
        token.copy_(chosen)
        column.add_(goes_on)
        drawn.add_(goes_on)
        goes_on.mul_((chosen != self.eos_id) & (drawn < self.limit))
        column.mul_(goes_on)  # an idle slot writes to its own first column

    def _mask(self, column: Tensor) -> Tensor | dict[str, Tensor]:
        """What each slot's token may look back on, 0 or -inf: (rows, 1, 1, columns), for each kind of layer."""
        back = (column[:, None] - torch.arange(self.columns, device=self.device))[:, None, None]
        full = torch.zeros(back.shape, dtype=self.dtype, device=self.device).masked_fill_(back < 0, float("-inf"))
        kinds = set(getattr(self.config, "layer_types", None) or ())
        sliding = getattr(self.config, "sliding_window", None)
        if sliding is None or (kinds and "sliding_attention" not in kinds):
            return full
        near = full.masked_fill(back >= sliding, float("-inf"))
        return {"full_attention": full, "sliding_attention": near} if len(kinds) > 1 else near

    def place_of(self, heads: int) -> Tensor:
        """(rows * heads,) which of (slots, heads, columns), counted through, this step's tokens belong to."""
        if heads not in self.places:
            row = torch.arange(self.rows * heads, device=self.device).view(self.rows, heads)
            self.places[heads] = (row * self.columns + self.state[1, : self.rows, None]).flatten()
        return self.places[heads]


class _Layer(StaticLayer):
    """One layer's keys and values of every slot, (slots, heads, columns, head size)."""

    def __init__(self, slots: Slots) -> None:
        super().__init__(max_cache_len=slots.columns)
        self.slots = slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Room for every slot, in the dtypes and sizes of these keys and values."""
        self.keys, self.values = (
            states.new_zeros(self.slots.size, states.shape[1], self.slots.columns, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def grow(self) -> None:
        """More columns; the new ones are zero, for what is masked must be a number all the same."""
        self.keys, self.values = (
            F.pad(kept, (0, 0, 0, self.slots.columns - kept.shape[2])) for kept in (self.keys, self.values)
        )

    def place(self, slots: Tensor, key_states: Tensor, value_states: Tensor) -> None:
        """Write the first columns of these slots, (len(slots), heads, any number of columns, head size)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys[slots, :, : key_states.shape[2]] = key_states
        self.values[slots, :, : value_states.shape[2]] = value_states

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Write each row's one token into its own column; returns the keys and values of the running batch."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place = self.slots.place_of(key_states.shape[1])
        for kept, new in ((self.keys, key_states), (self.values, value_states)):
            kept.view(-1, kept.shape[3]).index_copy_(0, place, new.reshape(-1, kept.shape[3]).to(kept.dtype))
        return self.keys[: self.slots.rows], self.values[: self.slots.rows]


def draw(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """One token per row and its log-prob, fp32; logits (rows, vocabulary), uniforms (rows,) in [0, 1).

    Inverts the distribution function: first the probabilities of whole blocks are added up, then those within the block
    that the number falls into. Both running sums are in fp64, so that a long tail is not rounded away. At temperature 0
    the likeliest token, and its log-prob at temperature 1.
    """
    if temperature == 0:
        chosen = logits.argmax(-1, keepdim=True)
        return chosen.squeeze(1), logits.float().log_softmax(-1).gather(1, chosen).squeeze(1)
    probabilities = (logits.float() / temperature).softmax(-1)
    padding = -probabilities.shape[1] % BLOCK
    blocks = (F.pad(probabilities, (0, padding)) if padding else probabilities).unflatten(1, (-1, BLOCK))
    sums = blocks.sum(-1)
    heights = sums.cumsum(-1, dtype=torch.float64)
    threshold = uniforms[:, None] * heights[:, -1:]  # times the sum, which rounding leaves a little off 1
    block = torch.searchsorted(heights, threshold, right=True).clamp_(max=blocks.shape[1] - 1)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK)).squeeze(1).cumsum(-1, dtype=torch.float64)
    share = 1 - (heights.gather(1, block) - threshold) / sums.gather(1, block)  # of the block, up to the number
    place = torch.searchsorted(inside, share * inside[:, -1:], right=True).clamp_(max=BLOCK - 1)
    chosen = (block * BLOCK + place).clamp_(max=probabilities.shape[1] - 1)
    return chosen.squeeze(1), probabilities.gather(1, chosen).squeeze(1).log()


def _rounded_up(count: int, parts: int) -> int:
    """The least size that is no less than `count`, of `parts` sizes between one power of two and the next."""
    unit = max(1, (1 << (count - 1).bit_length()) // (2 * parts))
    return -(-count // unit) * unit


def _grouped_sdpa(module, query: Tensor, key: Tensor, value: Tensor, attention_mask, scaling=None, **kwargs):
    """Attention of one token per row: the query heads that share a key head stand as its queries, so no key is copied.

    query (rows, heads, 1, head size), key and value (rows, key heads, columns, head size).
    """
    rows, heads, _, size = query.shape
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    found = F.scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return found.reshape(rows, 1, heads, value.shape[3]), None


AttentionInterface.register("grouped_sdpa", _grouped_sdpa)


@contextmanager
def _grouped_attention(config: PreTrainedConfig) -> Iterator[None]:
    """Where the model's attention is sdpa, let it be `_grouped_sdpa`."""
    own = config._attn_implementation
    config._attn_implementation = "grouped_sdpa" if own == "sdpa" else own
    try:
        yield
    finally:
        config._attn_implementation = own
