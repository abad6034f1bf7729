import importlib
import json
import os
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from data import records
from data.errors import Conflict, InvalidInput, TooFewLabels
from data.runs import RunFolder
from training import __main__ as command
from training import checkpoints
from training.metrics import Cancelled
from training.presets import PRESETS

ROOT = Path(__file__).parents[2]


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


@pytest.fixture
def finished(workspace):
    """A PPO run of old, which did not write down its stage, and has made its checkpoint."""
    (workspace.runs / "ppo-0100").mkdir(parents=True)
    run = RunFolder(workspace.runs / "ppo-0100")
    run.begin({"snapshot": "s", "init": "a", "reference": "a", "reward": "b"})
    run.append_metrics({"step": 1, "reward": 0.5})
    run.update(state="done", checkpoint=run.id)
    return run


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command_line(workspace, stage, *options):
    return command.main([stage, "--workspace", str(workspace.root), *options])


@pytest.mark.parametrize("saved", [{}, {"stage": "ppo"}])
def test_a_run_is_not_gone_on_with_by_another_stage(saved, finished, workspace, capsys):
    finished.begin(finished.config() | saved)
    finished.update(state="cancelled")
    before = contents(workspace.root)

    assert command_line(workspace, "reward", "--resume", finished.id) == 1
    assert command_line(workspace, "reward", "--run", finished.id, "--snapshot", "s", "--init", "a") == 1

    said = capsys.readouterr().err
    assert said.count("The run ppo-0100 is one of the stage ppo, not of reward. Nothing was started") == 2
    assert "`python -m training ppo --resume ppo-0100`" in said
    assert contents(workspace.root) == before


def test_a_run_is_of_the_stage_it_wrote_down_whatever_its_name(workspace):
    run = command.open_run(workspace, "sft", command.Common(run="reward-me"), {"stage": "sft", "snapshot": "s"})

    assert command.find_run(workspace, "sft", run.id) == run
    with pytest.raises(InvalidInput, match="one of the stage sft, not of reward"):
        command.find_run(workspace, "reward", run.id)


def test_a_run_writes_down_its_stage(workspace):
    _, _, run = command.begin("sft", Config, ["--workspace", str(workspace.root), "--snapshot", "x"])

    assert run.config()["stage"] == "sft"


def test_a_run_that_has_ended_is_not_trained_again(finished, workspace, capsys):
    before = contents(workspace.root)

    assert command_line(workspace, "ppo", "--resume", finished.id, "--preset", "tiny", "--report-to") == 0

    said = capsys.readouterr().out
    assert said.startswith("The run ppo-0100 has ended: done, with the checkpoint ppo-0100. Nothing was started")
    assert contents(workspace.root) == before


@pytest.mark.parametrize(("state", "code"), [("promoted", 0), ("rejected", 3)])
def test_a_cycle_that_has_ended_keeps_its_exit_code(state, code, workspace, capsys):
    run = RunFolder.create(workspace.runs, "cycle", {"stages": "sft"})
    run.update(state=state, verdict="sft-0001 stays.", stages=[])

    assert command_line(workspace, "cycle", "--resume", run.id) == code
    assert f"The run cycle-0001 has ended: {state}, with the verdict sft-0001 stays. Nothing" in capsys.readouterr().out


def test_the_name_of_a_run_that_has_ended_is_taken(finished, workspace, capsys):
    models = ["--snapshot", "s", "--init", "a", "--reference", "a", "--reward", "b"]
    before = contents(workspace.root)

    assert command_line(workspace, "ppo", "--run", finished.id, *models) == 1

    assert "with the checkpoint ppo-0100. Nothing was started, and it was left" in (said := capsys.readouterr().err)
    assert "Choose another --run, or leave it out." in said
    assert contents(workspace.root) == before


@pytest.mark.parametrize("other", [["--steps", "500", "--nonsense", "4"], ["--run", "ppo-0101"]])
def test_what_a_run_that_goes_on_would_ignore_is_refused(other, finished, workspace, capsys):
    finished.update(state="cancelled")
    before = contents(workspace.root)

    assert command_line(workspace, "ppo", "--resume", finished.id, *other) == 1

    said = capsys.readouterr().err
    assert said.startswith(f"{' '.join(other)} stands beside --resume ppo-0100, and a run that goes on keeps its own")
    assert "start a new run without --resume" in said
    assert contents(workspace.root) == before


def test_a_resumed_run_may_be_reported_to_another_tracker(workspace):
    run = RunFolder.create(workspace.runs, "sft", {"snapshot": "s", "report_to": ["wandb"]})
    resumed = ["--resume", run.id, "--run-id", run.id, "--workspace", str(workspace.root)]

    assert command.parse("sft", Config, resumed)[0].report_to == ("wandb",)
    assert command.parse("sft", Config, [*resumed, "--report-to", "trackio"])[0].report_to == ("trackio",)


def test_a_run_that_another_process_works_on_is_left_to_it(workspace):
    run = RunFolder.create(workspace.runs, "sft", {"snapshot": "s"})
    run.claim(state="running")  # by this process, which may go on with it
    arguments = ["--workspace", str(workspace.root), "--snapshot", "s"]
    assert command.begin("sft", Config, [*arguments[:2], "--resume", run.id])[2] == run

    claim = "import sys; from pathlib import Path; from data.runs import RunFolder\n"
    claim += "RunFolder(Path(sys.argv[1])).claim(); print('claimed', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", claim, run.path], cwd=ROOT, **pipes) as other:
        assert other.stdout.readline() == b"claimed\n"
        before = contents(workspace.root)
        for named in ([*arguments[:2], "--resume", run.id], [*arguments, "--run", run.id]):
            with pytest.raises(Conflict, match=f"process {other.pid} works on the run sft-0001.*kill {other.pid}"):
                command.begin("sft", Config, named)
        assert contents(workspace.root) == before
        other.stdin.close()
    assert command.begin("sft", Config, [*arguments[:2], "--resume", run.id])[2] == run  # it has ended


def test_a_checkpoint_that_the_run_did_not_make_is_not_its_to_replace(workspace, saved_policy):
    named = ["--workspace", str(workspace.root), "--snapshot", "s", "--run", "pretrain-0001"]
    before = contents(workspace.root)
    with pytest.raises(
        Conflict, match="checkpoint pretrain-0001 already.* It was kept, and nothing was started; choose"
    ):
        command.begin("sft", Config, named)
    with pytest.raises(Conflict, match="checkpoint pretrain-0001 already"):  # made with another configuration
        command.begin("pretrain", Config, named)
    assert contents(workspace.root) == before

    run = RunFolder.create(workspace.runs, "pretrain", {"snapshot": "s"})
    saved_policy.rename(workspace.checkpoints / run.id)
    with pytest.raises(Conflict, match="start a new run, or move"):
        command.begin("pretrain", Config, ["--workspace", str(workspace.root), "--resume", run.id])


def test_a_run_killed_between_its_checkpoint_and_its_last_word_goes_on(workspace, policy, words):
    arguments = ["--workspace", str(workspace.root), "--run", "mine"]
    _, config, run = command.begin("sft", Config, [*arguments, "--snapshot", "a/b", "--files", "c", "--minutes", "2"])
    about = {"parents": ["pretrain-0001"], "snapshot": None, "model": policy, "tokenizer": words, "seed": 0}
    made = {"stage": "sft", "config": command.dataclasses.asdict(config), "metrics": {}, **about}
    checkpoints.save(workspace.checkpoints, run.id, **made)

    _, again, _ = command.begin("sft", Config, [*arguments[:2], "--resume", run.id])
    checkpoints.save(workspace.checkpoints, run.id, **made | {"config": command.dataclasses.asdict(again)})

    assert again == config


def test_a_model_grown_from_a_checkpoint_brought_from_elsewhere_gets_another_name(workspace, saved_policy):
    saved_policy.rename(workspace.checkpoints / "sft-0001")

    _, _, run = command.begin("sft", Config, ["--workspace", str(workspace.root), "--snapshot", "s"])

    assert run.id == "sft-0002"


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


def test_what_was_noted_of_a_failure_and_how_to_go_on_after_it_are_written_down(run, workspace, capsys):
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
    assert capsys.readouterr().err.endswith(f"\n{run.state()['error']}\n")  # below the traceback
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
