"""Models too large for one device: FSDP2 in the training loops that are Pawl's own, where accelerate is told so.

A divided model is in pieces on all processes, with its gradients and its optimizer. It is used in two ways:

through    with gradients: a layer's weights are gathered when it computes and dropped again, as FSDP2 does it. All
           processes must make equally many such passes (`parallel.in_step`)
gathered   without: a plain model with all weights, for as long as it samples or judges. Any number of passes, of any
           kind, and each process for itself

So one whole copy of one model at a time must fit a device, beside the pieces of all of them. Where nothing is divided
every function here gives back what it got. pretrain and sft leave all this to Trainer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from training import parallel

Model = TypeVar("Model", bound=PreTrainedModel)
Result = TypeVar("Result")
SHELL = "undivided"  # the name under which a divided model keeps its like without weights, unknown to nn.Module


def is_asked() -> bool:
    """Whether models are to be divided: accelerate's configuration says FSDP, and there are processes to share them."""
    return parallel.configured("FSDP") and parallel.count() > 1


def is_divided(module: nn.Module) -> bool:
    """Whether its weights are in pieces on several processes."""
    return isinstance(module, FSDPModule) or any(isinstance(weight, DTensor) for weight in module.parameters())


def place(model: Model, device: torch.device) -> Model:
    """The model on this process's device; in place divided among all, where that is asked for.

    Optimizers are made afterwards: the parameters are new ones. Gradients are sums over the processes.
    """
    if is_divided(model):
        return model
    if not is_asked():
        return model.to(device)
    shell = _shell(model, device)
    mesh = init_device_mesh(device.type, (parallel.count(),))
    for layer in [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
    model.compute = MethodType(_compute, model)
    register_fsdp_forward_method(model, "compute")
    vars(model)[SHELL] = shell
    return model


def through(model: PreTrainedModel, compute: Callable[..., Result], *given: Any) -> Result:
    """compute(model, *given) as one forward pass of the model: what it returns are tensors or a tuple of them.

    For whatever calls parts of a model, such as its backbone without its head: a divided model gathers the weights
    outside its layers when the pass begins. One that Trainer divided is in such a pass already.
    """
    return model.compute(compute, *given) if SHELL in vars(model) else compute(model, *given)


@contextmanager
def gathered(model: Model) -> Iterator[Model]:
    """A plain model with all weights of one that is divided, for use without gradients. All processes must enter."""
    if not is_divided(model):
        yield model
        return
    shell = vars(model)[SHELL]
    pairs = list(zip(model.parameters(), shell.parameters(), strict=True))
    for piece, weight in pairs:
        weight.data = whole(piece.detach())
    try:
        yield shell
    finally:
        for _, weight in pairs:
            weight.data = weight.new_empty(0)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be divided. All processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def to_save(tensor: Tensor) -> Tensor | None:
    """The same of a tensor that process 0 will write: a divided one goes to its CPU alone. All processes must ask."""
    if not isinstance(tensor, DTensor):
        return tensor
    found = tensor.full_tensor()
    return found.cpu() if parallel.is_main() else None


def piece_of(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's piece of a tensor that all have whole, divided as `like` is; whole where their shapes differ."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def norm(tensors: Sequence[Tensor]) -> float:
    """The norm of all tensors as one vector, divided or not. All processes must ask."""
    return whole(torch.nn.utils.get_total_norm(tensors)).item()


def _compute(model: PreTrainedModel, what: Callable[..., Any], *given: Any) -> Any:
    """What FSDP2 takes for a forward method: its results must be no views."""
    found = what(model, *given)
    return tuple(part.clone() for part in found) if isinstance(found, tuple) else found.clone()


def _shell(model: Model, device: torch.device) -> Model:
    """The model without weights: parameters of no elements, tied as the model's are."""
    memo: dict[int, Any] = {
        id(weight): nn.Parameter(torch.empty(0, dtype=weight.dtype, device=device), requires_grad=False)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, memo).to(device).eval()
