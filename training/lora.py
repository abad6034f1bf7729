"""LoRA: train a small adapter beside the frozen weights of a model, and have one backbone in memory for both.

Reads   nothing; Writes nothing. A run's state holds the adapter alone (`checkpoints.save_state(only_trainable=True)`),
        a checkpoint the merged weights (`checkpoints.save`), which plain transformers loads
Learns  for each linear layer W a product B A of rank r, so that it computes W x + (alpha / r) B A x
        (Hu et al. 2021, section 4.1). B starts at zero: the model with a new adapter is the model without

The adapter (peft's) goes into the transformers model itself, so that everything which works with the model still does:
its class, its config, its backbone and its head. The head of a scalar model is trained in full, since it is new and
small. In PPO the policy without its adapter is the reference, so the run must start from the reference.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from data.errors import InvalidInput

if TYPE_CHECKING:
    from peft import PeftModel

ALL_LINEAR = "all-linear"
Model = TypeVar("Model", bound=nn.Module)


def with_adapter(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str] = (ALL_LINEAR,),
    dropout: float = 0.0,
    new_tokens: Sequence[int] = (),
) -> PreTrainedModel | PeftModel:
    """Freeze the model, put an adapter into it, in place, and return peft's view of it, which TRL's trainers want.

    Everything else goes on with `model`. The adapter is drawn from torch's global generator. With rank 0 nothing
    happens and the model comes back.

    `targets` are names of linear layers ("q_proj", "v_proj"), or "all-linear": all but the head. `new_tokens` are ids
    that the model does not know yet: their rows of the embedding, and of the output layer where it has its own, are
    trained in full, for frozen they would all stay the same token. `dropout` is that of the adapter's input, in train
    mode; reinforcement learning takes none, as it would make the policy that samples another than the one that learns.

    Raises:
        InvalidInput: an option cannot be, or the model has no such layer.
    """
    if rank == 0:
        return model
    from peft import LoraConfig, get_peft_model

    _check(rank, alpha, dropout)
    head = getattr(model, "score", None)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_layers(model, targets),
        trainable_token_indices=_rows(model, new_tokens),
        task_type=None if head is not None else "CAUSAL_LM",
    )
    view = get_peft_model(model, config)
    if head is not None:
        head.requires_grad_(True)
    elif _is_adapter(outside := model.get_output_embeddings()):
        outside.__dict__["bias"] = outside.original_module.bias  # TRL asks for it, and peft hides it
    return view


@contextmanager
def without_adapter(model: Model) -> Iterator[Model]:
    """Inside, the model computes what it did before it was given an adapter. One that has none stays as it is.

    That is PPO's reference, at no memory. For use without gradients.
    """
    layers = [layer for layer in model.modules() if _is_adapter(layer) and not layer.disable_adapters]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield model
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def has_adapter(model: nn.Module) -> bool:
    """Whether an adapter is inside, switched on or not."""
    return any(_is_adapter(layer) for layer in model.modules())


def merged(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """A plain transformers model that computes the same, on the CPU; a model without adapter comes back as it is.

    The adapter is added to a copy of the weights, so training can go on with the model itself.
    """
    if not has_adapter(model):
        return model
    from peft import PeftModel
    from peft.utils.other import AuxiliaryTrainingWrapper

    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    # deepcopy takes these for the copies of the tensors: they need no room on the device, and what is tied stays tied.
    memo = {id(weight): nn.Parameter(weight.detach().cpu().clone()) for weight in inner.parameters()}
    memo |= {id(buffer): buffer.detach().cpu().clone() for buffer in inner.buffers()}
    plain = copy.deepcopy(inner, memo)
    done: list[str] = []
    for name, layer in list(plain.named_modules()):
        if any(name.startswith(f"{outer}.") for outer in done) or not _is_adapter(layer):
            continue
        if isinstance(layer, AuxiliaryTrainingWrapper):
            whole = layer.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
        else:
            layer.merge(safe_merge=True)
            whole = layer.get_base_layer()
        plain.set_submodule(name, whole)
        done.append(name)
    del plain.peft_config
    vars(plain).pop("forward", None)  # TRL puts one there, and it would go on calling the model in training
    return plain


def require_same_start(init: Path, reference: Path) -> None:
    """Raise InvalidInput unless the policy starts from the reference.

    With LoRA the reference is the policy without its adapter, so it can be no other model.
    """
    if init.resolve() != reference.resolve():
        raise InvalidInput(
            f"With LoRA the reference is the policy without its adapter, but the policy starts from {init.name} and "
            f"the reference is {reference.name}. Nothing was trained: start from {reference.name}, measure the KL from "
            f"{init.name}, or train all weights with --lora-rank 0."
        )


def added_tokens(path: Path, tokens: PreTrainedTokenizerBase) -> list[int]:
    """The ids that `tokenizer.load` gave to a tokenizer from outside and that its model does not know."""
    known = AutoTokenizer.from_pretrained(path, trust_remote_code=False).get_vocab()
    return sorted(number for token, number in tokens.get_vocab().items() if token not in known)


def _check(rank: int, alpha: float, dropout: float) -> None:
    """Raises InvalidInput for numbers that no adapter can have."""
    if rank < 0:
        raise InvalidInput(f"lora_rank is {rank}; it must be 0 (train all weights) or more.")
    if not alpha > 0:
        raise InvalidInput(f"lora_alpha is {alpha}; it must be more than 0.")
    if not 0 <= dropout < 1:
        raise InvalidInput(f"lora_dropout is {dropout}; it must be 0 or more and less than 1.")


def _layers(model: PreTrainedModel, targets: Sequence[str]) -> list[str]:
    """The names of the linear layers that the adapter is for. Raises InvalidInput when the model has no such layer."""
    heads = (model.get_output_embeddings(), getattr(model, "score", None))
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    known = sorted({name.rpartition(".")[2] for name, module in linear if module not in heads})
    wanted = known if tuple(targets) == (ALL_LINEAR,) else list(targets)
    missing = [name for name in wanted if name not in known]
    if missing or not wanted:
        raise InvalidInput(
            f"lora_targets has {', '.join(missing) or 'no layer'}; this {type(model).__name__} can have an adapter on "
            f"{', '.join(known)}, or on all of them with {ALL_LINEAR}. Embeddings and head are not among them."
        )
    return wanted


def _rows(model: PreTrainedModel, new_tokens: Sequence[int]) -> dict[str, list[int]] | None:
    """Which rows of which embeddings are trained in full, as peft wants it."""
    if not new_tokens:
        return None
    inside, outside = model.get_input_embeddings(), model.get_output_embeddings()
    apart = outside is not None and outside.weight is not inside.weight  # tied ones peft finds by itself
    wanted = (inside, outside) if apart else (inside,)
    return {name: list(new_tokens) for name, module in model.named_modules() if module in wanted}


def _is_adapter(layer: nn.Module) -> bool:
    """Whether it is one of peft's layers, in the place of one of the model's own."""
    if not type(layer).__module__.startswith("peft."):  # so that peft is not imported for a model without adapter
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return isinstance(layer, (BaseTunerLayer, AuxiliaryTrainingWrapper))
