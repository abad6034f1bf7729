"""python -m training STAGE: run one stage, or one whole turn of the loop (`cycle`).

Reads   the stage's Config from the command line, over the defaults of a preset; with --resume from the run's folder
Writes  runs/<id>/: config.json, state.json, log.txt, and what the stage itself writes

Exit 0: done, also when --resume names a run that was done before. 1: failed, and state.json says why. 2: the command
line is wrong. 143: stopped by SIGTERM, and the run can be resumed. `cycle` has more (cycle.py). torchrun has exit codes
of its own: after it, state.json counts.

    python -m training sft --help
    python -m training sft --preset tiny --snapshot var/snapshots/3f9a12c0be77 --init pretrain-0001
    python -m training sft --resume sft-0003
    torchrun --standalone --nproc-per-node 8 -m training sft --resume sft-0003

`serve` is no stage: it lets policies be talked to (serve.py).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import sys
import traceback
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import tyro

from data.errors import Conflict, FeedbackError, InvalidInput, NotFound
from data.runs import RunFolder
from data.workspace import Workspace

SERVE = "serve"  # no stage: it has no run, and lasts until it is stopped
STAGES = ("pretrain", "sft", "reward", "ppo", "evaluate", "sample", "cycle")


@dataclass(frozen=True)
class Common:
    preset: str = "tiny"  # sets the defaults of the stage: tiny (two CPU cores) or small (one GPU)
    workspace: Path | None = None  # else $PAWL_WORKSPACE, else ./var
    # torchrun takes --run for the beginning of an option of its own, hence the other name
    run: Annotated[str | None, tyro.conf.arg(aliases=("--run-id",))] = None  # id of the run; a new one by default
    report_to: tuple[str, ...] = ()  # the metrics also to tensorboard, trackio, wandb, where they are installed
    resume: str | None = None  # id of a run to go on with; its own configuration counts, and no other may be given


def main(arguments: list[str]) -> int:
    """Run the stage named by the first argument; returns the exit code."""
    if arguments[:1] == [SERVE]:
        return serve(arguments[1:])
    if not arguments or arguments[0] not in STAGES:
        asked_for_help = bool(arguments) and arguments[0] in ("-h", "--help")
        print(f"{__doc__}\nStages: {', '.join(STAGES)}; and {SERVE}", file=sys.stdout if asked_for_help else sys.stderr)
        return 0 if asked_for_help else 2
    name, rest = arguments[0], arguments[1:]
    if name != "cycle":  # its stages choose for themselves
        take_one_gpu()
    prepare_process()
    from training import parallel

    stage = importlib.import_module(f"training.{name}")
    speaks = parallel.launched_as() == 0  # what all processes have to say is said once
    try:
        with contextlib.nullcontext() if speaks else silence(sys.stdout, sys.stderr):
            common, config, run = begin(name, stage.Config, rest)
    except FeedbackError as error:
        if speaks:
            print(error, file=sys.stderr)
        return 1
    if common.resume and run.has_ended():
        if speaks:
            print(f"{end_of(run)} To train again, start a new run.")
        parallel.leave()
        return int(stage.NOT_PROMOTED) if run.state()["state"] == "rejected" else 0
    with log_to(run) if speaks else silence(sys.stdout):
        # a cycle's stages report for themselves: as copies of its process they must find no tracker open in it
        code = execute(stage, config, run, Workspace.at(common.workspace), () if name == "cycle" else common.report_to)
    if code != 1:
        parallel.leave()
    return code


def serve(arguments: list[str]) -> int:
    """Let one or several policies be talked to until it is stopped; returns the exit code."""
    take_one_gpu()
    prepare_process()
    from training import serve as server

    try:
        return server.main(arguments)
    except FeedbackError as error:
        print(error, file=sys.stderr)
        return 1


def begin(name: str, kind: type, arguments: list[str]) -> tuple[Common, Any, RunFolder]:
    """The options, the stage's Config, and the run that is to be executed, which all processes share."""
    from training import parallel, trackers

    if parallel.launched() > 1 and name == "cycle":
        raise InvalidInput("cycle starts its stages itself: leave torchrun to its --launch. Nothing was done.")
    if name != "sft" and parallel.configured("DEEPSPEED"):
        raise InvalidInput(
            f"accelerate's configuration asks for DeepSpeed, and {name} cannot divide its models that way. Start it "
            "with a configuration of type FSDP, fsdp_version 2, or with torchrun. Nothing was done."
        )
    common, config = parse(name, kind, arguments)
    workspace = Workspace.at(common.workspace)
    require_free(workspace, name, common, config)  # asked by all processes, before one of them can have begun
    parallel.join()
    trackers.require(common.report_to)
    asked = {"stage": name, **dataclasses.asdict(config), "preset": common.preset, "report_to": common.report_to}
    return common, config, parallel.joined_run(lambda: open_run(workspace, name, common, asked), workspace.runs)


def take_one_gpu() -> None:
    """Without a launcher, work on the first GPU in sight: Trainer would take all, and multiply the batch by them."""
    if "LOCAL_RANK" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def prepare_process() -> None:
    """Settings that count only before torch and the hub are imported, and the wish to stop heard from the start."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin cost 2.7 times on a shared machine
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # else process 0 alone would load weights from checkpoints
    import torch

    from training.metrics import catch_stop_signal

    catch_stop_signal()
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads.split(",")[0]))


def parse(name: str, kind: type, arguments: list[str]) -> tuple[Common, Any]:
    """The common options and the stage's Config. The command line wins over the preset, the preset over defaults.

    With --resume both are the run's own. Raises InvalidInput when the command line asks for anything else.
    """
    from training.presets import PRESETS

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="tiny")
    first.add_argument("--workspace", default=None)
    first.add_argument("--resume", default=None)
    first.add_argument("--run", "--run-id", "--run_id", default=None)
    first.add_argument("--report-to", "--report_to", nargs="*", default=None)
    known, others = first.parse_known_args(arguments)
    if known.preset not in PRESETS:
        raise NotFound(f"There is no preset {known.preset!r}; choose from {', '.join(PRESETS)}.")
    if known.resume and not {"-h", "--help"} & set(arguments):
        run = find_run(Workspace.at(known.workspace), name, known.resume)
        if others or known.run not in (None, run.id):
            beside = " ".join(others) or f"--run {known.run}"
            raise InvalidInput(
                f"{beside} stands beside --resume {run.id}, and a run that goes on keeps its own configuration. "
                "Nothing was started; leave it out, or start a new run without --resume."
            )
        saved = run.config()
        report_to = tuple(saved.get("report_to", ()) if known.report_to is None else known.report_to)
        common = Common(known.preset, known.workspace, report_to=report_to, resume=known.resume)
        return common, config_of(kind, saved)
    fields = {**_required(kind), **PRESETS[known.preset].get(name, {})}
    flat = tyro.conf.arg(name="")
    options = [("config", Annotated[kind, flat]), ("common", Annotated[Common, flat])]
    command = dataclasses.make_dataclass("Command", options, frozen=True)
    try:
        parsed = tyro.cli(
            command,
            args=arguments,
            prog=f"python -m training {name}",
            description=str(sys.modules[kind.__module__].__doc__).splitlines()[0],
            default=command(kind(**fields), Common()),
        )
    except ValueError as error:  # a Config that refuses its values
        raise InvalidInput(f"{error} Nothing was started.") from error
    return parsed.common, parsed.config


def _required(kind: type) -> dict[str, Any]:
    """What tyro must ask for: fields without a default."""
    missing = dataclasses.MISSING
    fields = dataclasses.fields(kind)
    return {f.name: tyro.MISSING for f in fields if f.default is missing and f.default_factory is missing}


def config_of(kind: type, saved: dict[str, Any]) -> Any:
    """The Config that a run's config.json was written from: paths and tuples are given their types back."""
    hints = typing.get_type_hints(kind)
    known = {name: value for name, value in saved.items() if name in hints}
    return kind(**{name: _typed(hints[name], value) for name, value in known.items()})


def _typed(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        return tuple(_typed(typing.get_args(hint)[0], item) for item in value)
    return Path(value) if hint is Path else value


def find_run(workspace: Workspace, name: str, run_id: str) -> RunFolder:
    """An existing run of this stage. Raises NotFound, or InvalidInput when it is one of another stage."""
    run = RunFolder(workspace.runs / run_id)
    if not (run.path / "config.json").is_file():
        raise NotFound(f"There is no run {run_id!r} in {workspace.runs}; nothing was started.")
    require_stage(run, name)
    return run


def require_stage(run: RunFolder, name: str) -> None:
    """Raise InvalidInput when the run is one of another stage; an older run says its stage in its id, if at all."""
    stage = run.config().get("stage") or run.id.partition("-")[0]
    if stage in STAGES and stage != name:
        raise InvalidInput(
            f"The run {run.id} is one of the stage {stage}, not of {name}. Nothing was started, and it was left as it "
            f"is: go on with it by `python -m training {stage} --resume {run.id}`, or choose another name."
        )


def require_free(workspace: Workspace, name: str, common: Common, config: Any) -> None:
    """Let the run that the command line names be executed, when nobody else does and it would replace nothing.

    A run to resume that has ended passes: nothing will be done to it.

    Raises:
        InvalidInput: it is one of another stage.
        Conflict: another process works on it, it has ended, or another run made the checkpoint of that name.
    """
    from training import checkpoints

    run_id = common.resume or common.run
    if not run_id:
        return
    run = RunFolder(workspace.runs / run_id)
    if (run.path / "config.json").is_file():
        require_stage(run, name)
    if run.has_ended():
        if common.resume:
            return
        raise Conflict(f"{end_of(run)} Choose another --run, or leave it out.")
    if pid := run.worked_on_by():
        raise Conflict(
            f"The process {pid} works on the run {run_id}, and two may not write one run. Nothing was started; wait "
            f"for its end, or stop it first (kill {pid})."
        )
    path, other = workspace.checkpoints / run_id, "start a new run" if common.resume else "choose another --run"
    advice = f"It was kept, and nothing was started; {other}, or move {path} away."
    checkpoints.require_own(path, name, dataclasses.asdict(config), advice)


def end_of(run: RunFolder) -> str:
    """How a run ended that has nothing left to do."""
    state = run.state()
    made = [f", with the {name} {state[name]}" for name in ("checkpoint", "batch", "verdict") if state.get(name)]
    ended = f"{state['state']}{made[0] if made else ''}".rstrip(".")
    return f"The run {run.id} has ended: {ended}. Nothing was started, and it was left as it is."


def open_run(workspace: Workspace, name: str, common: Common, config: dict[str, Any]) -> RunFolder:
    """The run to resume, the one named, or a new one."""
    if common.resume:
        return find_run(workspace, name, common.resume)
    if not common.run:
        return RunFolder.create(workspace.runs, name, config)
    run = RunFolder(workspace.runs / common.run)
    run.path.mkdir(parents=True, exist_ok=True)
    run.begin(config)
    return run


def execute(
    stage: types.ModuleType, config: Any, run: RunFolder, workspace: Workspace, report_to: Sequence[str] = ()
) -> int:
    """Run the stage's `main` and write down how it ended."""
    from training import parallel, trackers
    from training.metrics import Cancelled

    run.claim(id=run.id, state="running", error=None)
    try:
        with trackers.following(report_to, run, dataclasses.asdict(config)):
            code = stage.main(config, run, workspace)
    except Cancelled:
        run.update(state="cancelled", error=f"Stopped. Go on with --resume {run.id}.")
        return Cancelled.exit_code
    except FeedbackError as error:
        return fail(run, reason_of(error, str(error), run))
    except KeyboardInterrupt:
        run.update(state="cancelled", error=f"Stopped. Go on with --resume {run.id}.")
        return Cancelled.exit_code
    except BaseException as error:  # whatever it was, the run's folder must say that it ended
        if parallel.is_loss(error):
            lost = "lost another process, which was killed or ran out of memory; the launcher's last lines name it."
            return fail(run, f"{lost} Go on with --resume {run.id}. ({error})")
        reason = reason_of(error, f"{type(error).__name__}: {error}", run)
        return fail(run, reason, traceback.format_exc())
    return code or 0


def reason_of(error: BaseException, words: str, run: RunFolder) -> str:
    """Why the run failed: the words, what was noted on the way, and how to go on when anything is saved."""
    from training import checkpoints

    parts = [words, *getattr(error, "__notes__", ())]
    step = checkpoints.saved_step(run.path)
    if step is not None and "--resume" not in words:
        parts.append(f"Step {step} is saved: when this is mended, go on with --resume {run.id}.")
    ended = [part if part.endswith((".", "!", "?")) else f"{part}." for part in parts[:-1]]
    return " ".join([*ended, parts[-1]])


def fail(run: RunFolder, reason: str, trace: str = "") -> int:
    """Write down why the run failed, in the words of the process that failed first; returns the exit code."""
    from training import parallel

    first, reason = parallel.first_failure(run, reason)
    RunFolder(run.path).update(state="failed", error=reason)  # by each process: the last to write it says the same
    if first:
        print(f"{trace}{reason}", file=sys.stderr)
    return 1


@contextlib.contextmanager
def log_to(run: RunFolder) -> Iterator[None]:
    """Copy what is printed into the run's log.txt, unless whoever started this process already sends it there."""
    path = run.path / "log.txt"
    with path.open("a") as log:
        if _same_file(sys.stdout, log):
            yield
            return
        copies = _Copied(sys.stdout, log), _Copied(sys.stderr, log)
        with contextlib.redirect_stdout(copies[0]), contextlib.redirect_stderr(copies[1]):
            yield


@contextlib.contextmanager
def silence(*streams: TextIO) -> Iterator[None]:
    """Drop what is printed to these of the standard streams."""
    with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
        for stream in streams:
            redirect = contextlib.redirect_stdout if stream is sys.stdout else contextlib.redirect_stderr
            stack.enter_context(redirect(nowhere))
        yield


def _same_file(one: TextIO, other: TextIO) -> bool:
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except OSError:  # a stream without a file, as under pytest
        return False


class _Copied:
    """A text stream that writes everything to a log as well."""

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        self._log.write(text)
        self._log.flush()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    if sys.argv[1:2] == [SERVE]:
        # its threads may be inside torch, which aborts when the interpreter takes them down; nothing is left to do
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)
