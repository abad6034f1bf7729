import importlib
import json
import os
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from data import records
from data.errors import InvalidInput, TooFewLabels
from data.runs import RunFolder
from training import __main__ as command
from training import checkpoints
from training.metrics import Cancelled
from training.presets import PRESETS


@dataclass(frozen=True)
class Config:
    snapshot: Path  # what labelers said
    files: tuple[Path, ...] = ()  # more of it
    minutes: float | None = None  # at most
    steps: int = 3  # updates

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1.")


@pytest.fixture(autouse=True)
def bare_preset(monkeypatch):
    """The stage above is none of the real ones: its preset sets nothing."""
    monkeypatch.setitem(PRESETS, "tiny", {})


def stage_that(does):
    """A stage module whose main is `does`."""
    return types.SimpleNamespace(Config=Config, main=does, __doc__="A stage.")


@pytest.fixture
def run(workspace):
    return RunFolder.create(workspace.runs, "sft", {})


def test_the_command_line_wins_over_the_preset_and_the_preset_over_the_default(monkeypatch):
    monkeypatch.setitem(PRESETS, "small", {"sft": {"steps": 9, "minutes": 2.0}})

    common, config = command.parse("sft", Config, ["--preset", "small", "--snapshot", "x", "--minutes", "5"])

    assert config == Config(Path("x"), minutes=5.0, steps=9)
    assert common.preset == "small"


@pytest.mark.slow  # imports every stage
def test_every_preset_has_only_fields_that_the_stages_know(monkeypatch):
    monkeypatch.undo()
    assert tuple(PRESETS) == records.PRESETS  # what the app offers
    for stages in PRESETS.values():
        for name, fields in stages.items():
            known = importlib.import_module(f"training.{name}").Config.__dataclass_fields__
            assert set(fields) <= set(known), name


def test_a_preset_nobody_knows_is_named_with_those_there_are(workspace, capsys):
    assert command.main(["sample", "--preset", "huge", "--workspace", str(workspace.root)]) == 1
    assert "'huge'; choose from tiny, small" in capsys.readouterr().err


def test_help_tells_the_fields_with_their_comments(capsys):
    with pytest.raises(SystemExit) as end:
        command.parse("sft", Config, ["--help"])

    told = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    assert "what labelers said (required)" in told and "updates (default: 3)" in told and "--resume" in told


def test_a_field_without_default_must_be_given(capsys):
    with pytest.raises(SystemExit) as end:
        command.parse("sft", Config, [])

    assert end.value.code == 2
    assert "--snapshot" in capsys.readouterr().err


def test_a_value_that_the_stage_refuses_is_named():
    with pytest.raises(InvalidInput, match="steps is 0; it must be at least 1. Nothing was started"):
        command.parse("sft", Config, ["--snapshot", "x", "--steps", "0"])


def test_the_configuration_of_a_run_comes_back_with_its_types():
    config = Config(Path("a/b"), files=(Path("c"), Path("d")), minutes=1.5)

    saved = json.loads(json.dumps(command.dataclasses.asdict(config), default=str))

    assert command.config_of(Config, saved) == config


def test_a_resumed_run_keeps_its_own_configuration(workspace):
    run = RunFolder.create(workspace.runs, "sft", {"snapshot": "s", "steps": 7, "preset": "tiny"})

    common, config = command.parse("sft", Config, ["--resume", run.id, "--workspace", str(workspace.root)])

    assert config == Config(Path("s"), steps=7)
    assert command.open_run(workspace, "sft", common, {}) == run


def test_a_run_that_is_not_there_cannot_be_resumed(workspace, capsys):
    assert command.main(["sample", "--resume", "sample-0042", "--workspace", str(workspace.root)]) == 1
    assert "'sample-0042'" in capsys.readouterr().err


def test_a_run_id_that_was_given_is_used(workspace):
    run = command.open_run(workspace, "sft", command.Common(run="sft-0005"), {"steps": 2})

    assert run.path == workspace.runs / "sft-0005"
    assert run.config() == {"steps": 2}


def test_the_run_has_a_second_name_that_torchrun_leaves_alone(tmp_path):
    assert command.parse("sft", Config, ["--snapshot", "x", "--run-id", "sft-0005"])[0].run == "sft-0005"
    assert command.parse("sft", Config, ["--snapshot", "x", "--run", "sft-0005"])[0].run == "sft-0005"


def test_one_process_takes_one_gpu_and_a_launched_one_what_it_was_given(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for given, taken in ((None, "0"), ("2,3", "2"), ("", "")):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if given is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        command.take_one_gpu()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == taken

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    command.take_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize("stage", ["pretrain", "reward", "ppo", "evaluate", "sample"])
def test_what_cannot_be_divided_by_deepspeed_says_so_and_what_can_divide_it(stage, workspace, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")

    assert command.main([stage, "--workspace", str(workspace.root)]) == 1

    said = capsys.readouterr().err
    assert f"asks for DeepSpeed, and {stage} cannot divide its models that way" in said
    assert "fsdp_version 2" in said
    assert not list(workspace.runs.glob(f"{stage}-*"))


def test_a_cycle_refuses_several_processes_once(workspace, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert command.main(["cycle", "--workspace", str(workspace.root)]) == 1

    assert (
        capsys.readouterr().err == "cycle starts its stages itself: leave torchrun to its --launch. Nothing was done.\n"
    )


def test_the_first_process_to_fail_tells_why_for_all(run, workspace, monkeypatch, capsys):
    def refuse(*_):
        raise TooFewLabels("sft needs 1 demonstration")

    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert command.execute(stage_that(refuse), Config(Path()), run, workspace) == 1

    assert run.state()["error"] == "Process 1 of 2: sft needs 1 demonstration"
    assert capsys.readouterr().err == "Process 1 of 2: sft needs 1 demonstration\n"


def test_a_stage_that_ends_well_exits_with_0_or_its_own_code(run, workspace):
    assert command.execute(stage_that(lambda *_: None), Config(Path()), run, workspace) == 0
    assert command.execute(stage_that(lambda *_: 3), Config(Path()), run, workspace) == 3


def test_a_crash_is_written_down_with_its_reason(run, workspace, capsys):
    def crash(*_):
        raise MemoryError("no room for 12 GiB")

    assert command.execute(stage_that(crash), Config(Path()), run, workspace) == 1
    assert run.state()["state"] == "failed"
    assert run.state()["error"] == "MemoryError: no room for 12 GiB"
    assert "Traceback" in capsys.readouterr().err


def test_what_was_noted_of_a_failure_and_how_to_go_on_after_it_are_written_down(run, workspace):
    def crash(*_):
        error = ValueError("no such thing")
        error.add_note("It was raised in the reward function mine:f.")
        raise error

    def refuse(*_):
        raise InvalidInput("mine:f returned two numbers")

    assert command.execute(stage_that(crash), Config(Path()), run, workspace) == 1
    assert run.state()["error"] == "ValueError: no such thing. It was raised in the reward function mine:f."

    checkpoints.save_state(run.path, 4, models={}, optimizers={}, extra={})
    assert command.execute(stage_that(crash), Config(Path()), run, workspace) == 1
    assert run.state()["error"] == (
        "ValueError: no such thing. It was raised in the reward function mine:f. "
        "Step 4 is saved: when this is mended, go on with --resume sft-0001."
    )
    assert command.execute(stage_that(refuse), Config(Path()), run, workspace) == 1
    assert run.state()["error"].startswith("mine:f returned two numbers. Step 4 is saved")


def test_what_a_person_can_mend_is_said_without_a_traceback(run, workspace, capsys):
    def refuse(*_):
        raise TooFewLabels("sft needs 1 demonstration")

    assert command.execute(stage_that(refuse), Config(Path()), run, workspace) == 1
    assert run.state() | {"updated_at": 0, "pid": 0, "born": ""} == {
        "id": run.id,
        "state": "failed",
        "error": "sft needs 1 demonstration",
        "updated_at": 0,
        "pid": 0,
        "born": "",
    }
    assert capsys.readouterr().err == "sft needs 1 demonstration\n"


def test_a_cancelled_stage_exits_with_143_and_says_how_to_go_on(run, workspace):
    def stop(*_):
        raise Cancelled

    assert command.execute(stage_that(stop), Config(Path()), run, workspace) == 143
    assert run.state()["state"] == "cancelled"
    assert f"--resume {run.id}" in run.state()["error"]


def test_what_is_printed_is_logged(run, capsys):
    with command.log_to(run):
        print("step 1")
        print("a warning", file=sys.stderr)

    assert (run.path / "log.txt").read_text() == "step 1\na warning\n"
    assert capsys.readouterr().out == "step 1\n"


def test_output_that_already_goes_to_the_log_is_not_logged_twice(run, monkeypatch):
    with (run.path / "log.txt").open("a") as log:
        monkeypatch.setattr(sys, "stdout", log)
        with command.log_to(run):
            print("once")

    assert (run.path / "log.txt").read_text() == "once\n"


def test_a_stage_nobody_knows_is_a_wrong_command_line(capsys):
    assert command.main(["dream"]) == 2
    assert "pretrain, sft, reward" in capsys.readouterr().err


@pytest.mark.parametrize("stage", (*command.STAGES, command.SERVE))
def test_every_stage_explains_itself(stage, capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main([stage, "--help"])

    assert "--workspace" in capsys.readouterr().out
