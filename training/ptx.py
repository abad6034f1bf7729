"""PPO-ptx: text of the pretraining corpus mixed into PPO's updates, so that the policy does not forget how to write.

Reads   the corpus of the checkpoint that the policy grew from, made again as its manifest says; or files of your own
Writes  nothing
Learns  -log p(next token) of that text, beside what PPO learns (Ouyang et al. 2022, equation 2)

The two gradients are made apart and added as

    g = g_ppo + ptx_coef * |g_ppo| / |g_ptx| * g_ptx

in each optimizer step, so ptx_coef is the ratio of their norms. The factor of 27.8 that Ouyang et al. put between the
two losses holds for their normalisation, their batches and their model; a ratio of norms means the same for any.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.errors import InvalidInput
from data.workspace import Workspace
from training import checkpoints, corpus, parallel, sharding
from training.model import logprobs_of

COEF = 0.1  # where the configuration leaves it open
OWN_BLOCK = 256  # tokens in a block of one's own text
MOST_TOKENS = 1 << 20  # prepared for a run; a longer run sees them again
BYTES_PER_TOKEN = 8  # surely no fewer are read; the tokenizer of the preset tiny has 3.4


class Config(Protocol):
    """The options of `ppo` that count here."""

    init: str
    ptx_coef: float | None
    ptx_batch: int
    ptx_text: tuple[Path, ...]
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Mix:
    """Text for the updates of one run, cut into blocks."""

    blocks: Tensor  # (blocks, tokens) int
    rows: int  # blocks in each update
    coef: float

    def of_update(self, number: int) -> Tensor:
        """(rows, tokens) for the update with this number in the run: so a resumed run reads what it would have read."""
        return self.blocks[torch.arange(number * self.rows, (number + 1) * self.rows) % len(self.blocks)]


def load(config: Config, workspace: Workspace, tokens: PreTrainedTokenizerBase, updates: int) -> Mix | None:
    """The text for a run of so many updates; None when nothing is to be mixed in.

    With `ptx_coef` None it is COEF where the text is known, and otherwise nothing is mixed in and that is said.

    Raises:
        InvalidInput: `ptx_coef` asks for text and nobody knows which.
    """
    if config.ptx_coef == 0:
        return None
    init = checkpoints.resolve(config.init, workspace)
    pretrained = None if config.ptx_text else pretrained_ancestor(init, workspace.checkpoints)
    if pretrained is None and not config.ptx_text:
        unknown = f"{init.name} was not pretrained here, so the text to mix in is not known: name some with --ptx-text"
        if config.ptx_coef:
            raise InvalidInput(f"{unknown}, or mix in none with --ptx-coef 0. Nothing was trained.")
        print(f"ppo: no text is mixed into the updates (ptx). {unknown}.", flush=True)
        return None
    block = min(config.ptx_batch, OWN_BLOCK if pretrained is None else pretrained["block"])
    rows = max(1, config.ptx_batch // block)
    count = min(updates * rows, max(rows, MOST_TOKENS // block))
    if pretrained is None:
        sources = [corpus.Source("text", 1.0, corpus.files(config.ptx_text))]
    else:
        sources = sources_of(pretrained, size=count * block * BYTES_PER_TOKEN, seed=config.seed)
    ids = corpus.blocks(tokens, sources, length=block, count=count, seed=config.seed).ids
    return Mix(torch.from_numpy(ids).long(), rows, COEF if config.ptx_coef is None else config.ptx_coef)


def pretrained_ancestor(path: Path, folder: Path) -> dict[str, Any] | None:
    """The configuration of the pretraining that a checkpoint in `folder` grew from; None when it was not done here."""
    for ancestor in checkpoints.lineage(path, folder):
        if (ancestor / checkpoints.MANIFEST).is_file():
            manifest = checkpoints.read_manifest(ancestor)
            if manifest["stage"] == "pretrain":
                return manifest["config"]
    return None


def sources_of(pretrained: Mapping[str, Any], *, size: int, seed: int) -> list[corpus.Source]:
    """The corpora of a pretraining, by its configuration. Of Python's own text, of which there are megabytes, a part.

    Raises InvalidInput when its text is no longer there.
    """
    return corpus.sources(
        text=[Path(path) for path in pretrained["text"]],
        dataset_folder=Path(pretrained["dataset"]) if pretrained["dataset"] else None,
        text_column=pretrained["text_column"],
        prose_weight=pretrained["prose_weight"],
        code_weight=pretrained["code_weight"],
        prose=lambda: prose_sample(size, seed),
    )


def prose_sample(size: int, seed: int) -> list[str]:
    """Part of `corpus.python_prose`: the docstrings of so many random files that they have `size` characters.

    Of the language reference it takes an equal share. Reading all files takes seconds.
    """
    from pydoc_data.topics import topics

    paths = corpus.standard_library()
    random.Random(f"{seed}/ptx").shuffle(paths)
    documents: list[str] = []
    read = characters = 0
    while characters < size and read < len(paths):
        found = corpus.docstrings(paths[read].read_text("utf-8", "ignore"))
        texts = [text for text in found if len(text) >= corpus.SHORTEST]
        documents += texts
        characters += sum(map(len, texts))
        read += 1
    chosen = random.Random(f"{seed}/ptx/topics").sample(sorted(topics), round(len(topics) * read / len(paths)))
    return list(dict.fromkeys([topics[name].strip() for name in chosen] + documents))


def add_gradient(
    policy: PreTrainedModel, rows: Tensor, coef: float, microbatch: int, accelerator: Accelerator
) -> dict[str, float]:
    """Add the text's gradient to the one that the policy holds, at `coef` times its norm.

    rows is (rows, tokens); every process computes its part of them. Returns the text's loss in nats per token, and the
    norm of its gradient before scaling.
    """
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    kept = [weight.grad for weight in weights]
    for weight in weights:
        weight.grad = None
    total = rows.shape[0] * (rows.shape[1] - 1)
    loss = 0.0
    each = -(-len(rows) // parallel.count())
    for part, counts in parallel.in_step(rows.to(policy.device).split(min(microbatch, each))):
        with accelerator.autocast():
            part_loss = -counts * logprobs_of(policy, part, None).sum() / total
        accelerator.backward(part_loss)
        loss += part_loss.item()
    parallel.sum_gradients(weights)
    own = sharding.norm([gradient for gradient in kept if gradient is not None])
    other = sharding.norm([weight.grad for weight in weights if weight.grad is not None])
    scale = coef * own / other if other > 0 else 0.0
    for weight, gradient in zip(weights, kept, strict=True):
        if weight.grad is not None:
            weight.grad *= scale
        if gradient is not None:
            weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
    return {"ptx_loss": parallel.total(loss)[0], "ptx_grad_norm": other}
