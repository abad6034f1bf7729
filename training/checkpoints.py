"""Checkpoints: a folder of weights with its manifest, written whole or not at all; and a run's state for resuming.

Writes  checkpoints/<id>/     safetensors, config, tokenizer, chat template, and `pawl.json` with what it was made of
        runs/<id>/states/...  weights (safetensors), optimizers (loaded with weights_only), random states, JSON
Reads   the same, a folder brought from outside, or a model of the Hugging Face hub

Nothing is unpickled and no remote code is run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.errors import Conflict, InvalidInput, NotFound
from data.runs import RunFolder, write_whole
from data.workspace import Workspace
from training import lora, parallel, sharding

MANIFEST = "pawl.json"
STATES_KEPT = 2
RESUME = ("states", "trainer", "corpus")  # folders of a run that only a resume needs
WHOLE = "whole"  # marks a checkpoint of Trainer, in a run's folder, that was written to the end
TRAINABLE = ".trainable.safetensors"  # how the file of a module saved without its frozen parameters ends


class Manifest(TypedDict):
    """What a checkpoint was made of: the fields of its `pawl.json`."""

    id: str  # that of the run that made it
    stage: str
    parents: list[str]  # checkpoint ids, or the name of a model brought from outside; the first lent its weights
    snapshot: str | None
    config: dict[str, Any]
    metrics: dict[str, Any]
    seed: int
    code_version: str
    created_at: str  # ISO 8601, UTC


def save(
    checkpoints: Path,
    run_id: str,
    *,
    stage: str,
    parents: Sequence[str],
    snapshot: str | None,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    seed: int,
    also: Callable[[Path], None] | None = None,
) -> Path:
    """Write checkpoints/<run_id>/ and return it. `also` may put further files into the folder.

    A reader sees no folder or a whole one. The same run saving again (resumed after a crash) replaces its own, and no
    other. Of a model with a LoRA adapter the merged weights are written, so that it loads like any other. All of
    several processes must ask: they hold the same, or pieces of one model, and the first one writes.

    Raises Conflict when there is a checkpoint of that name that another run made.
    """
    require_own(
        checkpoints / run_id,
        stage,
        config,
        f"Nothing was replaced, and what the run saved on its way is kept: move {checkpoints / run_id} away, then go "
        f"on with --resume {run_id}.",
    )
    manifest = Manifest(
        id=run_id,
        stage=stage,
        parents=list(parents),
        snapshot=snapshot,
        config=_as_json(config),
        metrics=dict(metrics),
        seed=seed,
        code_version=code_version(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )

    def fill(folder: Path) -> None:
        lora.merged(whole).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if also is not None:
            also(folder)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))

    with sharding.gathered(model) as whole:
        return _write_folder(checkpoints / run_id, fill) if parallel.is_main() else checkpoints / run_id


def finish(run: RunFolder, metrics: Mapping[str, Any]) -> None:
    """Say that the run has made its checkpoint, and drop what only a resume needed."""
    run.update(state="done", checkpoint=run.id, progress=1.0, metrics=metrics)
    if parallel.is_main():
        for name in RESUME:
            shutil.rmtree(run.path / name, ignore_errors=True)


def require_own(path: Path, stage: str, config: Mapping[str, Any], advice: str) -> None:
    """Let a run write its checkpoint to `path`, where there is nothing yet or what the run wrote before.

    Its own is what names the same id, stage and configuration, which holds the snapshot, the models it starts from and
    the seed. Raises Conflict, which ends in `advice`, when there is anything else.
    """
    if not path.exists():
        return
    try:
        found = read_manifest(path)
    except (NotFound, ValueError):
        raise Conflict(f"{path} is there already, and no run of Pawl made it. {advice}") from None
    if (found["id"], found["stage"], found["config"]) != (path.name, stage, _as_json(config)):
        raise Conflict(
            f"There is a checkpoint {path.name} already, made by another run: stage {found['stage']}, "
            f"{found['created_at']}. {advice}"
        )


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as a manifest holds it."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(config), default=str))
    return plain


def read_manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint folder. Raises NotFound when the folder has none."""
    try:
        manifest: Manifest = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError:
        raise NotFound(f"{path} is not a checkpoint made by Pawl: it has no {MANIFEST}.") from None
    return manifest


def add_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Add what was measured later to a checkpoint's manifest; numbers by the same name are replaced."""
    manifest = read_manifest(path)
    manifest["metrics"] = {**manifest["metrics"], **metrics}
    write_whole(path / MANIFEST, json.dumps(manifest, indent=2))


def resolve(name_or_path: str | Path, workspace: Workspace) -> Path:
    """The folder of a checkpoint id, of a model folder, or of a Hugging Face hub id (downloaded if it is not cached).

    Raises NotFound, naming what was looked for, when it is none of these.
    """
    name = str(name_or_path)
    folder = workspace.checkpoints / name
    if "/" not in name and (folder / MANIFEST).is_file():
        return folder
    if (Path(name) / "config.json").is_file():
        return Path(name).resolve()
    if name.count("/") == 1 and not Path(name).exists() and not name.startswith(("/", ".")):
        return _download(name)
    known = ", ".join(sorted(p.parent.name for p in workspace.checkpoints.glob(f"[!.]*/{MANIFEST}"))) or "none yet"
    raise NotFound(f"No checkpoint or model folder {name!r}. Checkpoints in {workspace.checkpoints}: {known}.")


def name_of(path: Path, given: str | Path) -> str:
    """What lineage calls the model in `path`: its checkpoint id, or what the user called it."""
    return read_manifest(path)["id"] if (path / MANIFEST).is_file() else str(given)


def lineage(path: Path, folder: Path) -> Iterator[Path]:
    """A model's folder, then those of its ancestors, the nearest first. Parents are looked for by name in `folder`."""
    waiting, seen = [path], {path}
    while waiting:
        current = waiting.pop(0)
        yield current
        parents = read_manifest(current)["parents"] if (current / MANIFEST).is_file() else []
        new = [folder / name for name in parents if folder / name not in seen]
        seen.update(new)
        waiting += new


def code_version() -> str:
    """Pawl's version, with the git commit when it runs from its repository; "+" marks uncommitted changes."""
    try:
        number = version("pawl")
    except PackageNotFoundError:
        number = "unknown"
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude", "*"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return number
    return f"{number} {described.stdout.strip()}".strip() if described.returncode == 0 else number


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise NotFound(f"{hub_id!r} is no checkpoint and no folder, and the hub did not give it: {reason}") from error


def _write_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """Fill a folder beside `target`, then rename it into place; an older `target` goes away afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        fill(temporary)
        temporary.chmod(0o755)  # mkdtemp makes it private
        old = None
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
            os.replace(target, old)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if old is not None:
        shutil.rmtree(old)
    return target


def save_state(
    run_path: Path,
    step: int,
    *,
    models: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    extra: Mapping[str, Any],
    only_trainable: bool = False,
) -> Path:
    """Save what a run needs to go on after `step`, under <run>/states/; the two newest are kept.

    Of several processes, which all hold the same, the first one writes and the others wait until it has.

    `extra` is the caller's own JSON (KL coefficient, running means, how far the prompts are). The global random states
    of torch, its accelerators, numpy and Python are saved too. With `only_trainable` frozen parameters are left out:
    the run that goes on must load them from where it got them first.
    """

    weights = {
        name: _to_save(_trainable(model))
        for name, model in models.items()
        if only_trainable or sharding.is_divided(model)
    }
    learned = {name: _to_save(optimizer.state_dict()) for name, optimizer in optimizers.items()}

    def fill(folder: Path) -> None:
        for name, model in models.items():
            if name in weights:
                save_file(weights[name], folder / f"{name}{TRAINABLE}")
            else:
                save_model(model, str(folder / f"{name}.safetensors"))
        torch.save(learned, folder / "optimizers.pt")
        torch.save(_random_states(), folder / "random.pt")
        drawn = {"python_random": random.getstate(), "numpy_random": _numpy_random()}
        (folder / "state.json").write_text(json.dumps({"step": step, **drawn, "extra": dict(extra)}))

    folder = run_path / "states" / f"step-{step:08d}"
    if parallel.is_main():
        _write_folder(folder, fill)
        for old in _states(run_path)[:-STATES_KEPT]:
            shutil.rmtree(old)
    parallel.wait()
    return folder


def load_state(
    run_path: Path,
    *,
    models: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> tuple[int, dict[str, Any]] | None:
    """Restore the newest state in place and return (step, extra); None when the run has none yet.

    Raises InvalidInput when it was saved of a model with other trainable weights.
    """
    states = _states(run_path)
    if not states:
        return None
    folder = states[-1]
    for name, model in models.items():
        if (folder / f"{name}{TRAINABLE}").is_file():
            _load_trainable(model, folder / f"{name}{TRAINABLE}")
        else:
            load_model(model, str(folder / f"{name}.safetensors"))
    saved = torch.load(folder / "optimizers.pt", weights_only=True)
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(_divided_again(saved[name], optimizer))
    _restore_random(torch.load(folder / "random.pt", weights_only=True))
    state = json.loads((folder / "state.json").read_text())
    kind, numbers, gauss = state["python_random"]
    random.setstate((kind, tuple(numbers), gauss))
    if "numpy_random" in state:  # states saved by earlier releases have none
        np.random.set_state(state["numpy_random"])
    return state["step"], state["extra"]


def _trainable(module: nn.Module) -> dict[str, Tensor]:
    """What training may change, by name: the parameters that are not frozen, and the buffers that are saved."""
    kept = module.state_dict().keys()
    learned = {name: weight.detach() for name, weight in module.named_parameters() if weight.requires_grad}
    return learned | {name: buffer for name, buffer in module.named_buffers() if name in kept}


def _load_trainable(module: nn.Module, path: Path) -> None:
    """Put the saved tensors in the place of those of a module whose frozen parameters are there already."""
    found, expected = load_file(path), _trainable(module)
    if {name: tensor.shape for name, tensor in found.items()} != {name: t.shape for name, t in expected.items()}:
        raise InvalidInput(
            f"{path} holds {len(found)} trainable tensors, and the model has {len(expected)} of other names or shapes: "
            "it was saved with other LoRA options. Nothing was changed; go on with the options of that run."
        )
    for name, tensor in found.items():
        expected[name].copy_(sharding.piece_of(tensor, expected[name]))


def _to_save(state: Any) -> Any:
    """The same nest of dicts and lists with `sharding.to_save` of its tensors. All processes must ask."""
    if isinstance(state, dict):
        return {name: _to_save(part) for name, part in state.items()}
    if isinstance(state, list):
        return [_to_save(part) for part in state]
    return sharding.to_save(state) if isinstance(state, Tensor) else state


def _divided_again(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's saved state with what belongs to a divided parameter divided like it."""
    parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
    divided = {
        place: {
            name: sharding.piece_of(part, parameters[place]) if isinstance(part, Tensor) else part
            for name, part in parts.items()
        }
        for place, parts in state["state"].items()
    }
    return {**state, "state": divided}


def saved_step(run_path: Path) -> int | None:
    """The step after which the run would go on, by what it has saved; None when it would start over."""
    saved = [*_states(run_path), *(mark.parent for mark in run_path.glob(f"trainer/checkpoint-*/{WHOLE}"))]
    return max((int(folder.name.partition("-")[2]) for folder in saved), default=None)


def _states(run_path: Path) -> list[Path]:
    return sorted((run_path / "states").glob("step-*"))  # names sort by step; unfinished ones start with a dot


def _numpy_random() -> dict[str, Any]:
    """numpy's global random state as JSON takes it; a user's reward function may draw from it."""
    state = np.random.get_state(legacy=False)
    return {**state, "state": {**state["state"], "key": state["state"]["key"].tolist()}}


def _random_states() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _restore_random(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
