"""Text and code to pretrain on, mixed by weight and cut into blocks; and bits per byte on what was held out.

Reads   the Python installation's own docstrings, language reference and sources; files and folders of text; a
        Hugging Face dataset folder
Writes  `heldout.jsonl` into the checkpoint that pretraining makes, so that every later model can be measured on it

A document is held out by a hash of its own words, so it stays so whatever else is in the corpus.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import random
import sysconfig
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.errors import InvalidInput
from training import parallel
from training.checkpoints import lineage
from training.model import logprobs_of
from training.tokenizer import document_ids, separator_id

HELDOUT = "heldout.jsonl"
HELDOUT_BYTES = 64_000  # enough for a standard error near 0.01 bits per byte
HELDOUT_SHARE = 0.03
SHORTEST = 40  # characters; below it a docstring teaches nothing ("See base class.")
_NOT_READ = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "pydoc_data", "__pycache__"}


@dataclass(frozen=True, slots=True)
class Source:
    """Documents that make up a share of the corpus. `documents` may be read lazily."""

    name: str
    weight: float
    documents: Sequence[str]


def standard_library() -> list[Path]:
    """The sources of the Python installation's standard library, without its tests, in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return [p for p in sorted(root.rglob("*.py")) if not _NOT_READ & set(p.relative_to(root).parts[:-1])]


def python_code() -> list[str]:
    """The standard library's sources, a file a document."""
    texts = (_read(path) for path in standard_library())
    return [text for text in texts if text and len(text) >= SHORTEST]


@cache  # it takes seconds
def python_prose() -> tuple[str, ...]:
    """Text in English about Python: the language reference's topics, and every docstring of the standard library."""
    from pydoc_data.topics import topics

    prose = [topic.strip() for _, topic in sorted(topics.items())]
    for path in standard_library():
        prose += [text for text in docstrings(_read(path) or "") if len(text) >= SHORTEST]
    return tuple(dict.fromkeys(prose))  # many classes repeat their parent's words


def sources(
    *,
    text: Sequence[Path],
    dataset_folder: Path | None,
    text_column: str,
    prose_weight: float | None,
    code_weight: float | None,
    prose: Callable[[], Sequence[str]] = python_prose,
) -> list[Source]:
    """The corpora that a pretraining's options ask for, those of weight 0 left out; one's own text weighs 1.

    Weights left open are 0.8 prose and 0.2 code, or nothing beside one's own text. `prose` reads Python's own text.
    """
    own = bool(text or dataset_folder)
    prose_share = (0.0 if own else 0.8) if prose_weight is None else prose_weight
    code_share = (0.0 if own else 0.2) if code_weight is None else code_weight
    found = []
    if text:
        found.append(Source("text", 1.0, files(text)))
    if dataset_folder:
        found.append(Source("dataset", 1.0, dataset(dataset_folder, text_column)))
    if prose_share > 0:
        found.append(Source("prose", prose_share, prose()))
    if code_share > 0:
        found.append(Source("code", code_share, python_code()))
    return found


def docstrings(source: str) -> Iterator[str]:
    """The docstrings of a source: of the module, and of each class and function in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # old files with "\\d" in plain strings
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a template of a source, not a source
            return
    statements: deque[ast.AST] = deque([tree])
    while statements:
        node = statements.popleft()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node):
                yield text
        for part in ("body", "handlers", "cases", "orelse", "finalbody"):
            statements.extend(getattr(node, part, ()))


def files(paths: Sequence[Path]) -> list[str]:
    """The text of each file, and of each readable file below each folder, in the order of their names.

    Files below a folder that are not UTF-8 text are left out. Raises InvalidInput for a path that is not there, a
    named file that is not text, or when nothing is left.
    """
    texts = []
    for path in paths:
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            texts += [text for p in below if (text := _read(p))]
        elif not path.is_file():
            raise InvalidInput(f"--text {path}: there is no such file or folder.")
        elif (text := _read(path)) is None:
            raise InvalidInput(f"--text {path}: not UTF-8 text.")
        else:
            texts.append(text)
    if not any(texts):
        raise InvalidInput(f"--text {' '.join(map(str, paths))}: no text in it.")
    return texts


def dataset(path: Path, column: str) -> Sequence[str]:
    """A text column of a Hugging Face dataset folder, read lazily. Raises InvalidInput when there is none."""
    import datasets

    saved = (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()
    try:
        loaded = datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path), split="train")
    except (FileNotFoundError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InvalidInput(f"--dataset {path}: {error}") from error
    if isinstance(loaded, datasets.DatasetDict):
        loaded = loaded["train"] if "train" in loaded else next(iter(loaded.values()))
    if column not in loaded.column_names:
        raise InvalidInput(f"--dataset {path} has no column {column!r}; it has {', '.join(loaded.column_names)}.")
    texts: Sequence[str] = loaded[column]
    return texts


def _read(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, PermissionError):
        return None
    return None if "\0" in text else text


def is_heldout(text: str, share: float = HELDOUT_SHARE) -> bool:
    """Whether these words are kept from training: a `share` of all documents, by hash."""
    number = int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big")
    return number < share * 2**64


def shuffled(documents: Sequence[str], seed: str, *, heldout: bool) -> Iterator[str]:
    """One side of the documents, in an order that only the seed decides."""
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    for index in order:
        if (text := documents[index]) and is_heldout(text) == heldout:
            yield text


def sample_text(sources: Sequence[Source], characters: int, seed: int) -> Iterator[str]:
    """About so many characters of training text, mixed by weight: what a tokenizer is trained on."""
    yield from _mixed(sources, characters, seed, heldout=False)


def heldout_sample(sources: Sequence[Source], size: int, seed: int) -> list[str]:
    """About `size` characters of held-out text, mixed by weight; long documents are cut to an eighth of it."""
    cut = max(1, size // 8)
    return [text[:cut] for text in _mixed(sources, size, seed, heldout=True, longest=cut)]


def _mixed(
    sources: Sequence[Source], characters: int, seed: int, *, heldout: bool, longest: int | None = None
) -> Iterator[str]:
    total = sum(source.weight for source in sources)
    for source in sources:
        left = characters * source.weight / total
        for text in shuffled(source.documents, f"{seed}/{source.name}", heldout=heldout):
            if left <= 0:
                break
            yield text
            left -= min(len(text), longest or len(text))


@dataclass(frozen=True, slots=True)
class Blocks:
    """Training text as (count, length) token ids, int32, and how many UTF-8 bytes a token stands for on average."""

    ids: np.ndarray
    bytes_per_token: float


def blocks(
    tokenizer: PreTrainedTokenizerBase, sources: Sequence[Source], *, length: int, count: int, seed: int
) -> Blocks:
    """`count` blocks of `length` tokens: each source fills its share, each document starts with the separator.

    Nothing is truncated: a document that does not fit goes on in the next block. A source that runs out starts over in
    another order. Raises InvalidInput for a source with no training text.
    """
    total = sum(source.weight for source in sources)
    parts, size_in_bytes = [], 0
    for source in sources:
        share = round(count * source.weight / total) if source is not sources[-1] else count - sum(map(len, parts))
        if share > 0:
            ids, read = _tokens(tokenizer, source, share * length, seed)
            parts.append(ids.reshape(share, length))
            size_in_bytes += read
    ids = np.concatenate(parts)
    np.random.default_rng(seed).shuffle(ids)
    return Blocks(ids, size_in_bytes / ids.size)


def _tokens(tokenizer: PreTrainedTokenizerBase, source: Source, wanted: int, seed: int) -> tuple[np.ndarray, int]:
    """Exactly `wanted` ids of the source's training text, and the bytes they stand for."""
    separator = separator_id(tokenizer)
    ids = np.empty(wanted, dtype=np.int32)
    have = size_in_bytes = epoch = 0
    while have < wanted:
        before = have
        for text in shuffled(source.documents, f"{seed}/{source.name}/{epoch}", heldout=False):
            document = [separator, *document_ids(tokenizer, text)]
            taken = min(len(document), wanted - have)
            ids[have : have + taken] = document[:taken]
            have += taken
            size_in_bytes += round(len(text.encode()) * taken / len(document))
            if have == wanted:
                break
        if have == before:
            raise InvalidInput(f"The corpus {source.name} has no text to train on.")
        epoch += 1
    return ids, size_in_bytes


def write_heldout(folder: Path, texts: Sequence[str]) -> None:
    """Store held-out texts in a checkpoint's folder, one JSON object a line."""
    (folder / HELDOUT).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def heldout_texts(model: Path, checkpoints: Path) -> list[str]:
    """The texts on which bits per byte of this model are measured: its nearest ancestor's held-out texts.

    Parents are looked for by name in the folder `checkpoints`. A model with no pretrained ancestor of ours is measured
    on the Python installation's docstrings, which it may have seen: compare such numbers only among its descendants.
    """
    for folder in lineage(model, checkpoints):
        if (folder / HELDOUT).is_file():
            return [json.loads(line)["text"] for line in (folder / HELDOUT).read_text().splitlines()]
    return heldout_sample([Source("prose", 1.0, python_prose())], HELDOUT_BYTES, seed=0)


def bits_per_byte(nats: float, size_in_bytes: int) -> float:
    """A negative log-likelihood of a text, independent of the tokenizer: nats / ln 2 / UTF-8 bytes."""
    return nats / math.log(2) / size_in_bytes


@torch.no_grad()
def heldout_bits_per_byte(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    window: int = 256,
    batch_size: int = 16,
) -> float:
    """Bits per byte of the texts, exactly: every token of every text is predicted once, the separator before it given.

    A text longer than `window` tokens is read in windows that share one token, so each begins with one token of
    context. The same windows for every model, so numbers of two models compare. Each process reads a part of them.
    """
    rows = [
        row for text in texts for row in _windows([separator_id(tokenizer), *document_ids(tokenizer, text)], window)
    ]
    rows.sort(key=len)  # little padding within a batch
    was_training = model.training
    model.eval()
    nats = 0.0
    for part in parallel.mine([rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]):
        ids, mask = _padded(part, tokenizer.pad_token_id, model.device)
        nats -= (logprobs_of(model, ids, mask) * mask[:, 1:]).sum().item()
    model.train(was_training)
    return bits_per_byte(parallel.total(nats)[0], sum(len(text.encode()) for text in texts))


def _windows(ids: list[int], window: int) -> list[list[int]]:
    return [ids[start : start + window + 1] for start in range(0, len(ids) - 1, window)]


def _padded(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(batch, longest) ids padded on the right, and their attention mask."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return ids, mask
