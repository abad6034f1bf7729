"""Models: a new one from a shape, a policy or a scalar model from a folder, and what is computed from them.

Reads   checkpoint folders (safetensors only, never remote code)
Writes  nothing; `checkpoints.save` stores models

Functions that take an attention mask derive positions from it, so padding may stand on either side. All architectures
with rotary positions serve; learned positions (GPT-2) are right only because positions are passed. Without a mask,
padding stands on the right, where a causal model's real tokens never look; attention then takes its fastest way.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute_in_backward
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from data.errors import InvalidInput
from training.parallel import has_bf16
from training.sharding import through
from training.tokenizer import separator_id

# Logits held at once; beyond it they are made in slices, and made again in the backward pass. 2^24 fp32 are 64 MiB.
MAX_LOGITS = 1 << 24
# Configurations by these names rescale logits after the head, each family in its own way.
RESCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of a Llama-architecture model with grouped-query attention and tied embeddings."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    positions: int


def new_policy(shape: Shape, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A policy with random weights, drawn from torch's global generator (Touvron et al. 2023; Ainslie et al. 2023)."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        bos_token_id=separator_id(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return fit_to_tokenizer(LlamaForCausalLM(config), tokenizer)


def room_for_prompts(model: PreTrainedModel, max_new_tokens: int) -> int:
    """The tokens that a prompt may have beside a response of `max_new_tokens`; any number where positions have no end.

    Raises:
        InvalidInput: there is no room for a prompt.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    if max_new_tokens >= positions:
        raise InvalidInput(
            f"max_new_tokens {max_new_tokens} leaves no room for a prompt in the model's {positions} positions. "
            "Nothing was sampled; take fewer."
        )
    return int(positions) - max_new_tokens


def load_policy(path: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> PreTrainedModel:
    """The causal language model in a folder. With `tokenizer`, its embeddings and special ids are made to agree.

    Raises InvalidInput for a reward model, whose backbone would otherwise speak as it never learned to.
    """
    if is_scalar(path):
        raise InvalidInput(
            f"{Path(path).name} is a reward model and cannot speak: name a policy here, such as its parent."
        )
    policy = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    return policy if tokenizer is None else fit_to_tokenizer(policy, tokenizer)


def fit_to_tokenizer(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Give each token an embedding, and write the padding and end-of-sequence ids where transformers looks for them."""
    if policy.get_input_embeddings().weight.shape[0] < len(tokenizer):
        policy.resize_token_embeddings(len(tokenizer))  # new rows start as the mean of the old ones
    policy.config.pad_token_id = tokenizer.pad_token_id
    policy.config.eos_token_id = tokenizer.eos_token_id
    # Plain sampling: nucleus or top-k settings of a base model would hide what the policy really says.
    policy.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True, top_k=0
    )
    return policy


def load_scalar(path: str | Path) -> PreTrainedModel:
    """The reward or value model in a folder: one number per token, read with `scores` or `token_values`.

    Raises InvalidInput for a model without a trained scalar head: transformers would draw one at random.
    """
    name = Path(path).name
    if not is_scalar(path):
        raise InvalidInput(f"{name} is no reward model: it has no scalar head. Name a checkpoint of the stage reward.")
    scalar, found = AutoModelForSequenceClassification.from_pretrained(
        path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    if missing := sorted(found["missing_keys"]):
        raise InvalidInput(f"{name} is no whole reward model: {', '.join(missing)} are not in its weights.")
    if scalar.config.num_labels != 1:
        raise InvalidInput(f"{name} gives {scalar.config.num_labels} numbers for a response; a reward model gives one.")
    return scalar


def is_scalar(path: str | Path) -> bool:
    """Whether the model in a folder gives numbers for its tokens, and not tokens."""
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def scalar_from_policy(
    path: str | Path, tokenizer: PreTrainedTokenizerBase | None = None, *, zero_head: bool = False
) -> PreTrainedModel:
    """The policy's backbone with a new scalar head, drawn from torch's global generator.

    The head starts as N(0, 1/(d + 1)), standard deviation 1/sqrt(d + 1), without bias (Stiennon et al. 2020;
    Huang et al. 2024, detail 6); with `zero_head` at zero, as a value model's may.
    """
    policy = load_policy(path, tokenizer)
    config = policy.config
    config.num_labels = 1
    scalar = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32, trust_remote_code=False)
    scalar.base_model.load_state_dict(policy.base_model.state_dict())
    head: Tensor = scalar.score.weight
    nn.init.normal_(head, std=0.0 if zero_head else 1 / math.sqrt(head.shape[1] + 1))
    return scalar


def precision(device: torch.device) -> AbstractContextManager[object]:
    """Forward passes inside it are in bf16 on a GPU that has it, with weights as they are, and else in their dtype."""
    if device.type == "cuda" and has_bf16():
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def positions_of(attention_mask: Tensor) -> Tensor:
    """(batch, tokens) position of each real token, counted from 0 at the first one; 0 on padding before it."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def token_values(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """(batch, tokens) the scalar head's number at every token, in fp32; meaningless on padding."""
    return through(model, _token_values, input_ids, attention_mask)


def scores(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """(batch,) the scalar head's number at the last real token, the end-of-sequence token of a whole response."""
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (places * attention_mask.long()).argmax(-1, keepdim=True)
    return token_values(model, input_ids, attention_mask).gather(1, last).squeeze(1)


def logprobs_of(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None, temperature: float = 1.0
) -> Tensor:
    """(batch, tokens - 1) log-probability of each next token, `input_ids[:, 1:]`, in fp32; see `logprobs_at`.

    Meaningless where either token is padding.
    """
    everywhere = torch.ones_like(input_ids, dtype=torch.bool)
    return logprobs_at(model, input_ids, attention_mask, everywhere, temperature).view(len(input_ids), -1)


def logprobs_at(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    is_target: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """(N,) log-probability, in fp32, of the N tokens where `is_target` is True, row after row.

    input_ids, attention_mask and is_target are (batch, tokens); a row's first token follows nothing and never counts.
    All logits are divided by `temperature` first, as at sampling (Ziegler et al. 2019). Logits are made for the N
    positions alone, at most MAX_LOGITS at once, so that no (batch, tokens, vocabulary) tensor ever exists. (Models that
    rescale their logits after the head are asked for those of the columns in which any row has a target.)
    """
    return through(model, _at, input_ids, attention_mask, is_target, temperature, _logprobs)[0]


@torch.no_grad()
def logprobs_and_entropy_at(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    is_target: Tensor,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """`logprobs_at`, and (N,) the entropy in nats of the distribution each of the tokens was drawn from."""
    measure = _logprobs_and_entropy
    logprobs, entropy = through(model, _at, input_ids, attention_mask, is_target, temperature, measure)
    return logprobs, entropy


@contextmanager
def layers_recomputed(*models: PreTrainedModel) -> Iterator[None]:
    """Forward passes in here keep only the inputs of each layer; the backward pass computes the rest again.

    Transformers heeds its own switch in training mode alone, so each layer, and nothing inside it, is put in that mode
    for as long: dropout stays off.

    Raises:
        ValueError: a model has no layer that can be computed again.
    """
    recompute = partial(recompute_in_backward, use_reentrant=False, preserve_rng_state=False)
    before = []
    for model in models:
        layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
        if not layers:
            raise ValueError(f"gradient_checkpointing: {type(model).__name__} has no layers that can be recomputed.")
        before += [(layer, layer.training, layer.gradient_checkpointing) for layer in layers]
    for layer, _, _ in before:
        layer.training = layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = recompute
    try:
        yield
    finally:
        for layer, was_training, was_recomputed in before:
            layer.training, layer.gradient_checkpointing = was_training, was_recomputed


def _token_values(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    hidden = model.base_model(**_inputs(input_ids, attention_mask)).last_hidden_state
    with torch.autocast(hidden.device.type, enabled=False):  # bf16 would keep three digits of the number
        return model.score(hidden.float()).squeeze(-1)


def _at(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    is_target: Tensor,
    temperature: float,
    measure: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """`measure(logits, targets)` for slices of the targets, joined again."""
    is_next = is_target[:, 1:]
    hidden, head = _hidden_and_head(model, input_ids, attention_mask, is_next)
    targets = input_ids[:, 1:][is_next]

    def of_slice(hidden: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        logits = head(hidden).float()
        return measure(logits if temperature == 1 else logits / temperature, targets)

    rows = max(1, MAX_LOGITS // model.config.get_text_config().vocab_size)
    pieces = list(zip(hidden.split(rows), targets.split(rows), strict=True))
    if len(pieces) == 1 or not torch.is_grad_enabled():
        results = [of_slice(*piece) for piece in pieces]
    else:
        recomputed = {"use_reentrant": False, "preserve_rng_state": False}
        results = [recompute_in_backward(of_slice, *piece, **recomputed) for piece in pieces]
    return tuple(torch.cat(parts) for parts in zip(*results, strict=True))


def _hidden_and_head(model, input_ids, attention_mask, is_next):
    """(N, hidden) states at the places where `is_next` (batch, tokens - 1) is True, and what makes logits of them."""
    inputs = _inputs(input_ids, attention_mask)
    config = model.config.get_text_config()
    if any(getattr(config, name, None) not in (None, 1, 1.0) for name in RESCALED):
        columns = is_next.any(0).nonzero().squeeze(1)
        return model(**inputs, logits_to_keep=columns).logits[is_next[:, columns]], nn.Identity()
    return model.base_model(**inputs).last_hidden_state[:, :-1][is_next], model.get_output_embeddings()


def _inputs(input_ids: Tensor, attention_mask: Tensor | None) -> dict[str, Tensor | bool]:
    """What a transformers model is called with, without a cache."""
    if attention_mask is None:
        return {"input_ids": input_ids, "use_cache": False}
    positions = positions_of(attention_mask)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": positions,
        "use_cache": False,
    }


def _logprobs(logits: Tensor, targets: Tensor) -> tuple[Tensor]:
    return (-F.cross_entropy(logits, targets, reduction="none"),)


def _logprobs_and_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logprobs = logits.log_softmax(-1)
    return logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1), -(logprobs.exp() * logprobs).sum(-1)
