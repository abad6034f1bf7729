"""Several processes on one run: which rows are whose, what they agree on, and who speaks; two models on a CPU's cores.

torchrun or `accelerate launch` starts a process for each device; accelerate joins them and moves their tensors. The
batch a stage is configured with is the batch of all processes together, so the same command learns the same on one
device and on eight. Process 0 alone writes the run's folder and prints. With one process nothing here does anything.

Every function that talks to the other processes must be called by all of them, in the same order.

    torchrun --standalone --nproc-per-node 8 -m training sft --snapshot var/snapshots/3f9a12c0be77 --init pretrain-0001
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, broadcast, broadcast_object_list, gather, gather_object, reduce
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from data.errors import InvalidInput
from data.runs import RunFolder

T = TypeVar("T")
U = TypeVar("U")
PATIENCE = timedelta(hours=4)  # of a process that waits while another prepares data or measures
FAILURE = ".failure"  # in the run's folder: the words of the process that failed first


def launched() -> int:
    """How many processes the launcher started, known before they are joined."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_as() -> int:
    """The number of this process among those the launcher started; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def configured(name: str) -> bool:
    """Whether accelerate's configuration asks for FSDP or for DEEPSPEED."""
    return os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true"


def join() -> None:
    """Join the processes that the launcher started. Nothing to do for one.

    Raises:
        InvalidInput: weights are to be divided in a way that is not possible here. Without a GPU accelerate would leave
            it out without a word.
    """
    if launched() == 1:
        return
    gpu = torch.cuda.is_available()
    for name in ("FSDP", "DEEPSPEED"):
        if configured(name) and not gpu:
            raise InvalidInput(f"accelerate's configuration asks for {name}, which needs GPUs. Nothing was started.")
    if configured("FSDP") and os.environ.get("FSDP_VERSION") != "2":
        raise InvalidInput("Of FSDP only version 2 is supported: set fsdp_version: 2. Nothing was started.")
    if not gpu:  # else it is "cpu:0", onto which older releases of transformers cannot load an optimizer
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
    PartialState(cpu=not gpu, timeout=PATIENCE)


def leave() -> None:
    """Take leave of the other processes, when the work is done."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def count() -> int:
    """How many processes work on this run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def index() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes and speaks."""
    return index() == 0


def wait() -> None:
    """Go on when all processes have come here."""
    if count() > 1:
        PartialState().wait_for_everyone()


def device() -> torch.device:
    """Where this process computes: its own GPU, the first without a launcher, or the CPU."""
    found: torch.device = PartialState(cpu=not torch.cuda.is_available()).device
    return found


def has_bf16() -> bool:
    """Whether this process computes on a GPU that has bf16."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def same(value: T) -> T:
    """What process 0 has, whatever the others pass."""
    if count() == 1:
        return value
    box: list[Any] = [value]
    return broadcast_object_list(box)[0]


def largest(*numbers: float) -> list[float]:
    """The largest of each number over all processes."""
    if count() == 1:
        return list(numbers)
    rows = gather(torch.tensor([numbers], dtype=torch.float64, device=PartialState().device))
    return rows.amax(0).tolist()


def agreed(wish: bool) -> bool:
    """True on all processes when it is True on one: a signal reaches them at different moments."""
    return bool(largest(float(wish))[0])


def total(*numbers: float) -> list[float]:
    """The sum of each number over all processes, such as the tokens of a global batch."""
    if count() == 1:
        return list(numbers)
    summed: Tensor = reduce(torch.tensor(numbers, dtype=torch.float64, device=PartialState().device), "sum")
    return summed.tolist()


def per_process(batch_size: int) -> int:
    """The rows of a global batch that each process gets. Raises InvalidInput when they do not divide."""
    if batch_size % count():
        lower = batch_size - batch_size % count()
        near = f"{lower} or {lower + count()}" if lower else str(count())
        raise InvalidInput(
            f"batch_size {batch_size} is the batch of all {count()} processes together, and {batch_size} rows do not "
            f"divide by {count()}. Take {near}."
        )
    return batch_size // count()


def places(rows: int) -> tuple[list[int], list[bool]]:
    """Which of a global batch's rows are this process's, and whether each counts.

    As `mine`, but all processes get equally many, for passes that all must take part in: where the rows do not divide,
    the last places are rows of another process again, and do not count.
    """
    each = -(-rows // count())
    places = [index() + count() * place for place in range(each)]
    return [place % rows for place in places], [place < rows for place in places]


def in_step(parts: Sequence[T]) -> list[tuple[T, bool]]:
    """This process's of the parts that one forward and backward pass each is made of, and whether each counts.

    As `places`, for the passes of a model that is divided among the processes.
    """
    return [(parts[place], counts) for place, counts in zip(*places(len(parts)), strict=True)]


def mine(rows: Sequence[T]) -> list[T]:
    """This process's part of what all have: every n-th, in order. Some processes may have one more than others."""
    return list(rows[index() :: count()])


def together(part: list[T]) -> list[T]:
    """The parts of all processes, each made of its `mine`, in the order of the whole."""
    if count() == 1:
        return part
    parts = gather_object([part])
    return [parts[place % count()][place // count()] for place in range(sum(map(len, parts)))]


def side_by_side(one: Callable[[], T], other: Callable[[], U]) -> tuple[T, U]:
    """What both return. On a CPU with two threads or more they run at the same time, each on half of the threads.

    They must share nothing that either changes. The operations of a small model are too small to be divided among
    threads; two models of their own are two halves already. `other` runs in the thread that called. On a GPU, and in
    one of several processes, which talk to each other in an order, they run one after the other.
    """
    threads = torch.get_num_threads()
    if threads < 2 or count() > 1 or torch.cuda.is_available():
        return one(), other()
    precision = torch.autocast("cpu", torch.get_autocast_dtype("cpu"), enabled=torch.is_autocast_enabled("cpu"))
    grad = torch.set_grad_enabled(torch.is_grad_enabled())

    def one_as_here() -> T:  # a thread has its own precision and its own word on gradients
        with grad, precision:
            return one()

    torch.set_num_threads(threads // 2)  # for this thread, and for those that begin now
    try:
        with ThreadPoolExecutor(1) as pool:
            begun = pool.submit(one_as_here)
            found = other()
            return begun.result(), found
    finally:
        torch.set_num_threads(threads)


def summed(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes: the whole, where each filled in its own rows and left zeros elsewhere."""
    return tensor if count() == 1 else reduce(tensor, "sum")


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make each gradient the sum over all processes: the last thing before clipping and the optimizer's step.

    For a model that every process holds whole: each process has divided its loss by the tokens of the global batch, and
    may have run any number of passes, forward or backward, through any part of the model. Gradients of a model that is
    divided (sharding.py) are such sums already.
    """
    if count() == 1:
        return
    weights = [weight for weight in parameters if weight.requires_grad and not isinstance(weight, DTensor)]
    for weight in weights:
        if weight.grad is None:  # no row of this process touched it
            weight.grad = torch.zeros_like(weight)
    waiting = [distributed.all_reduce(weight.grad, async_op=True) for weight in weights]
    for handle in waiting:
        handle.wait()


def whole(accelerator: Accelerator, model: nn.Module, blank: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """A plain model with the weights of one that was trained, the same on all processes.

    The model itself where every process holds it whole; else `blank()`, filled with the weights gathered from all.
    """
    if accelerator.distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return accelerator.unwrap_model(model)
    state = accelerator.get_state_dict(model)  # on process 0; empty on the others
    plain = blank()
    if is_main():
        plain.load_state_dict(state)
    plain.to(accelerator.device)
    for tensor in plain.state_dict().values():
        tensor.copy_(broadcast(tensor))
    return plain


class QuietRun(RunFolder):
    """A run's folder in the hands of a process that is not process 0: it reads, and what it writes is not written."""

    __slots__ = ()

    def begin(self, config: dict[str, Any]) -> None:
        pass

    def update(self, **changes: Any) -> None:
        pass

    def append_metrics(self, line: dict[str, Any]) -> None:
        pass

    def drop_metrics_after(self, step: int) -> None:
        pass


def joined_run(open_run: Callable[[], RunFolder], runs: Path) -> RunFolder:
    """The run that process 0 opens, on every process."""
    run = open_run() if is_main() else None
    if run is not None:
        (run.path / FAILURE).unlink(missing_ok=True)  # of an earlier attempt
    name = same(run.id if run is not None else "")
    return run or QuietRun(runs / name)


def is_loss(error: BaseException) -> bool:
    """Whether this is what a process meets that waits for another one, which has ended."""
    return isinstance(error, distributed.DistError) or (
        launched() > 1 and isinstance(error, RuntimeError) and "by peer" in str(error)
    )


def first_failure(run: RunFolder, reason: str) -> tuple[bool, str]:
    """Whether this process is the first to fail, and why that one failed: the others fail in its wake."""
    if launched() == 1:
        return True, reason
    reason = f"Process {launched_as()} of {launched()}: {reason}"
    mark, own = run.path / FAILURE, run.path / f"{FAILURE}-{launched_as()}"
    own.write_text(reason)
    try:
        os.link(own, mark)  # whole at once, and only one of several succeeds
    except FileExistsError:
        return False, mark.read_text()
    finally:
        own.unlink()
    return True, reason
