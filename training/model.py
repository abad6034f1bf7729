"""Models: a new one from a shape, a policy or a scalar model from a folder, and what is computed from them.

Reads   checkpoint folders (safetensors only, never remote code)
Writes  nothing; `checkpoints.save` stores models

Every function takes an attention mask and derives positions from it, so padding may stand on either side. All
architectures with rotary positions serve; learned positions (GPT-2) are right only because positions are passed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute_in_backward
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from training.tokenizer import separator_id

# Logits held at once; beyond it they are made in slices, and made again in the backward pass. 2^26 fp32 are 256 MiB.
MAX_LOGITS = 1 << 26


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


def load_policy(path: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> PreTrainedModel:
    """The causal language model in a folder. With `tokenizer`, its embeddings and special ids are made to agree."""
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
    """The reward or value model in a folder: one number per token, read with `scores` or `token_values`."""
    return AutoModelForSequenceClassification.from_pretrained(
        path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )


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


def positions_of(attention_mask: Tensor) -> Tensor:
    """(batch, tokens) position of each real token, counted from 0 at the first one; 0 on padding before it."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def token_values(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """(batch, tokens) the scalar head's number at every token; meaningless on padding."""
    hidden = model.base_model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions_of(attention_mask),
        use_cache=False,
    ).last_hidden_state
    return model.score(hidden).squeeze(-1).float()


def scores(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """(batch,) the scalar head's number at the last real token, the end-of-sequence token of a whole response."""
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (places * attention_mask.long()).argmax(-1, keepdim=True)
    return token_values(model, input_ids, attention_mask).gather(1, last).squeeze(1)


def logprobs_of(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, temperature: float = 1.0) -> Tensor:
    """(batch, tokens - 1) log-probability of each next token, `input_ids[:, 1:]`, in fp32.

    All logits are divided by `temperature` first, as at sampling (Ziegler et al. 2019). Meaningless where either token
    is padding. Logits are made in slices over positions, so no fp32 (batch, tokens, vocabulary) copy is kept.
    """
    return _over_positions(model, input_ids, attention_mask, temperature, _logprobs)[0]


def logprobs_and_entropy(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`logprobs_of`, and (batch, tokens - 1) the entropy in nats of the distribution each token was drawn from."""
    logprobs, entropy = _over_positions(model, input_ids, attention_mask, temperature, _logprobs_and_entropy)
    return logprobs, entropy


def _over_positions(model, input_ids, attention_mask, temperature, measure) -> tuple[Tensor, ...]:
    """`measure(logits, targets)` for slices of positions, joined again along the positions."""
    hidden, head = _hidden_and_head(model, input_ids, attention_mask)
    targets = input_ids[:, 1:]

    def of_slice(hidden: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        return measure(head(hidden).float() / temperature, targets)

    per_position = input_ids.shape[0] * model.config.get_text_config().vocab_size
    width = max(1, MAX_LOGITS // per_position)
    pieces = list(zip(hidden[:, :-1].split(width, 1), targets.split(width, 1), strict=True))
    if len(pieces) == 1 or not torch.is_grad_enabled():
        results = [of_slice(*piece) for piece in pieces]
    else:
        results = [recompute_in_backward(of_slice, *piece, use_reentrant=False) for piece in pieces]
    return tuple(torch.cat(parts, dim=1) for parts in zip(*results, strict=True))


def _hidden_and_head(model, input_ids, attention_mask):
    """Hidden states, and the function that makes logits of them. Models that rescale logits give them ready made."""
    inputs = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": positions_of(attention_mask),
        "use_cache": False,
    }
    config = model.config.get_text_config()
    if any(getattr(config, name, None) for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")):
        return model(**inputs).logits, nn.Identity()
    return model.base_model(**inputs).last_hidden_state, model.get_output_embeddings()


def _logprobs(logits: Tensor, targets: Tensor) -> tuple[Tensor]:
    return (logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1),)


def _logprobs_and_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    total = logits.logsumexp(-1)
    entropy = total - (logits.softmax(-1) * logits).sum(-1)  # H = log Z - E[logit]
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - total, entropy
