"""How much of the hardware is used: the FLOPs and bytes a stage needs, over what the device could do in that time.

Reads   a model's parameters and configuration; the name of the device, or a short measurement of it
Writes  nothing; the stages log what comes out of `mfu`, `mbu` and `ppo_use`

FLOPs are those that the mathematics needs, whatever the code does: padding, recomputed activations and logits that
nobody reads count for nothing, so waste lowers the utilisation (model FLOPs utilisation, Chowdhery et al. 2022,
appendix B). Causal attention is counted once, not as the full square: there they count the square.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Dimensions:
    """What of a dense decoder costs time."""

    body: int  # weights of the matrices inside the layers; every token is multiplied by each of them once
    head: int  # weights of the head; only tokens whose logits (or value) are wanted are multiplied by it
    layers: int
    width: int  # query heads times their dimension
    kv_width: int  # key and value heads times their dimension
    frozen: bool = False  # most matrices get no gradient (adapters do): their backward pass is half as long


def dimensions(model: PreTrainedModel) -> Dimensions:
    """Of a causal language model or of a scalar model (reward, value). A mixture of experts counts with all experts."""
    config = model.config.get_text_config()
    head = model.get_output_embeddings() or getattr(model, "score", None)
    head_weights = {id(weight) for weight in head.parameters()} if head is not None else set()
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    body = [w for w in model.parameters() if w.ndim >= 2 and id(w) not in embeddings | head_weights]
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    inside = sum(w.numel() for w in body)
    return Dimensions(
        body=inside,
        head=sum(w.numel() for w in head.parameters() if w.ndim >= 2) if head is not None else 0,
        layers=config.num_hidden_layers,
        width=heads * head_width,
        kv_width=(getattr(config, "num_key_value_heads", None) or heads) * head_width,
        frozen=2 * sum(w.numel() for w in body if w.requires_grad) < inside,
    )


def forward_flops(dims: Dimensions, lengths: Sequence[int], predicted: Sequence[int]) -> float:
    """FLOPs of one forward pass over sequences of these lengths, logits wanted at `predicted` positions of each.

    2 per weight and token; attention 4 * layers * width per token and position it looks at (queries on keys, weights on
    values), and the token at place t looks at t of them: length * (length + 1) / 2 for a sequence.
    """
    looks = sum(length * (length + 1) / 2 for length in lengths)
    return 2 * dims.body * sum(lengths) + 2 * dims.head * sum(predicted) + 4 * dims.layers * dims.width * looks


def training_flops(dims: Dimensions, lengths: Sequence[int], predicted: Sequence[int]) -> float:
    """FLOPs of one forward and backward pass: the backward pass costs two forward passes, one for the gradients of
    what came in and one for those of the weights, which is left out where they are frozen."""
    forward = forward_flops(dims, lengths, predicted)
    of_weights = 2 * dims.body * sum(lengths) + 2 * dims.head * sum(predicted)
    return 3 * forward - (of_weights if dims.frozen else 0)


def ranking_flops(dims: Dimensions, prompt: int, responses: Sequence[int]) -> float:
    """FLOPs of training on the scores of such responses to a prompt of so many tokens, which is read once for all."""
    whole = training_flops(dims, [prompt + response for response in responses], [1] * len(responses))
    return whole - (len(responses) - 1) * training_flops(dims, [prompt], [0])


def sampling_flops(dims: Dimensions, prompts: Sequence[int], responses: Sequence[int]) -> float:
    """FLOPs of sampling such responses to such prompts with a cache: a forward pass over all but the last token."""
    return forward_flops(dims, [p + r - 1 for p, r in zip(prompts, responses, strict=True)], responses)


def sampling_bytes(dims: Dimensions, prompts: Sequence[int], responses: Sequence[int], element: int) -> float:
    """Bytes that sampling must read when all rows are decoded together; `element` is bytes a number (2 in bf16).

    Every step reads the weights once and, for each row that still goes on, the keys and values of all tokens before.
    The first token of a response comes from the prefill, counted as one more reading of the weights.
    """
    kept = 2 * dims.layers * dims.kv_width  # numbers in the cache for one token
    # Step i of a row (i = 1 ... r - 1) looks at the prompt, the i - 1 tokens cached before it, and itself.
    looks = sum((r - 1) * p + r * (r - 1) / 2 for p, r in zip(prompts, responses, strict=True))
    return element * ((dims.body + dims.head) * max(responses) + kept * looks)


def ppo_flops(
    policy: Dimensions,
    value: Dimensions,
    rewards: Sequence[Dimensions],
    prompts: Sequence[int],
    responses: Sequence[int],
    *,
    policy_passes: float,
    value_passes: float,
) -> dict[str, float]:
    """FLOPs of one batch of PPO by phase; the reference has the policy's dimensions.

    Sampling yields the old log-probs; scoring is a forward pass each of reference, value model and reward models; the
    update trains policy and value model so many times on the batch. Logits are wanted at the response tokens, values
    too, scores once.
    """
    lengths = [p + r for p, r in zip(prompts, responses, strict=True)]
    judged = sum(forward_flops(reward, lengths, [1] * len(lengths)) for reward in rewards)
    return {
        "sampling": sampling_flops(policy, prompts, responses),
        "scoring": forward_flops(policy, lengths, responses) + forward_flops(value, lengths, responses) + judged,
        "update": policy_passes * training_flops(policy, lengths, responses)
        + value_passes * training_flops(value, lengths, responses),
    }


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device can do at most."""

    flops: float  # a second, in the dense matrix products that training uses (bf16 on a GPU, fp32 on a CPU)
    bandwidth: float  # bytes of memory a second


# Dense bf16 with fp32 accumulation, without sparsity, and memory bandwidth: the vendor's data sheets. By CUDA name.
SHEETS = {
    "NVIDIA B200": Limits(2250e12, 8.0e12),
    "NVIDIA H200": Limits(989e12, 4.8e12),
    "NVIDIA H100 80GB HBM3": Limits(989e12, 3.35e12),
    "NVIDIA H100 NVL": Limits(835e12, 3.9e12),
    "NVIDIA H100 PCIe": Limits(756e12, 2.0e12),
    "NVIDIA A100-SXM4-80GB": Limits(312e12, 2.039e12),
    "NVIDIA A100 80GB PCIe": Limits(312e12, 1.935e12),
    "NVIDIA A100-SXM4-40GB": Limits(312e12, 1.555e12),
    "NVIDIA A100-PCIE-40GB": Limits(312e12, 1.555e12),
    "NVIDIA L40S": Limits(362e12, 0.864e12),
    "NVIDIA L4": Limits(121e12, 0.3e12),
    "NVIDIA GeForce RTX 4090": Limits(165.2e12, 1.008e12),
    "NVIDIA GeForce RTX 3090": Limits(71e12, 0.936e12),
}


@functools.cache
def limits(device: torch.device) -> Limits:
    """The data sheet's where the device is in `SHEETS`, else a measurement of a quarter of a second, made once."""
    if device.type == "cuda" and (sheet := SHEETS.get(torch.cuda.get_device_name(device))):
        return sheet
    dtype, size = (torch.bfloat16, 4096) if device.type == "cuda" else (torch.float32, 512)
    own = torch.Generator(device).manual_seed(0)  # the global one belongs to the run: its dropout must not depend on us
    left, right = (torch.randn(size, size, dtype=dtype, device=device, generator=own) for _ in range(2))
    product = torch.empty_like(left)
    source = torch.zeros(1 << 26, dtype=torch.uint8, device=device)  # 64 MiB: beyond most caches
    target = torch.empty_like(source)
    copy = _seconds(lambda: target.copy_(source), device)
    # One core at a time: threads that wait for one another would measure what else the machine does.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    product_of_one = _seconds(lambda: torch.mm(left, right, out=product), device)
    torch.set_num_threads(threads)
    cores = 1 if device.type == "cuda" else threads
    return Limits(flops=cores * 2 * size**3 / product_of_one, bandwidth=2 * source.numel() / copy)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The shortest of the runs of `work` that fit into an eighth of a second, at least three: one that was alone."""

    def once() -> float:
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    found = [once() for _ in range(3)]
    while sum(found) < 0.125:
        found.append(once())
    return min(found)


def mfu(flops: float, seconds: float, limits: Limits) -> float:
    """Model FLOPs utilisation: the share of the device's peak that needed FLOPs made up."""
    return flops / (seconds * limits.flops)


def mbu(read: float, seconds: float, limits: Limits) -> float:
    """Memory bandwidth utilisation: the share of the bandwidth that bytes which had to be read made up."""
    return read / (seconds * limits.bandwidth)


def ppo_use(
    policy: PreTrainedModel,
    value: PreTrainedModel,
    rewards: Iterable[PreTrainedModel],
    prompts: Sequence[int],
    responses: Sequence[int],
    *,
    policy_passes: float,
    value_passes: float,
    seconds: Mapping[str, float],
    element: int,
) -> dict[str, float]:
    """What PPO logs of a batch: MFU of all phases together and of the update, bandwidth use of sampling.

    prompts and responses are lengths in tokens, of this process's rows; seconds has the keys of `ppo_flops`; element is
    bytes a number while sampling.
    """
    dims = dimensions(policy)
    flops = ppo_flops(
        dims,
        dimensions(value),
        [dimensions(reward) for reward in rewards],
        prompts,
        responses,
        policy_passes=policy_passes,
        value_passes=value_passes,
    )
    device = limits(policy.device)
    return {
        "mfu": mfu(sum(flops.values()), sum(seconds[phase] for phase in flops), device),
        "update_mfu": mfu(flops["update"], seconds["update"], device),
        "sampling_mbu": mbu(sampling_bytes(dims, prompts, responses, element), seconds["sampling"], device),
    }
