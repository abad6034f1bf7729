"""Two real processes over gloo learn what one learns, stop together, and go on exactly where they were.

The processes are forked from one that has torch and transformers loaded already, with the variables that torchrun
sets; one test goes through torchrun itself. Pretraining runs in double precision: Muon rounds its updates to bfloat16,
so the different order of a sum in single precision would show after a few steps, and a real fault could hide in it.
"""

from __future__ import annotations

import itertools
import re
import shutil
import socket
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data import batches
from data.errors import InvalidInput
from data.runs import RunFolder
from data.workspace import Workspace
from training import parallel
from training.checkpoints import read_manifest

ROOT = Path(__file__).parents[2]


def test_side_by_side_both_compute_as_the_caller_would_and_the_threads_come_back():
    def state():
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        return torch.get_num_threads(), torch.is_grad_enabled(), dtype, threading.get_ident()

    torch.set_num_threads(4)
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            one, other = parallel.side_by_side(state, state)
        with pytest.raises(ZeroDivisionError):
            parallel.side_by_side(lambda: 1 / 0, state)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(1)

    assert one[:3] == other[:3] == (2, False, torch.bfloat16)
    assert one[3] != other[3] == threading.get_ident()
    assert parallel.side_by_side(state, state)[0][3] == threading.get_ident()  # one thread is not divided


STAGE = """
import signal, torch
from training.__main__ import main
from training.metrics import Progress
from training.model import Shape
from training.presets import MODELS

MODELS["tiny"] = Shape(hidden=16, layers=2, heads=4, kv_heads=2, intermediate=32, positions=128)
if arguments[0] == "pretrain":
    torch.set_default_dtype(torch.float64)
at = Progress.at

def then(self, step, **how):
    at(self, step, **how)
    happens(step)

Progress.at = then

def happens(step):
    pass
"""
ANIMALS = ("cats", "dogs", "cows", "bees", "owls", "fish", "hens")
COMPARED = ("loss", "eval_loss", "grad_norm")
EVENTS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL) if step == 5 else None",
    "told to stop": "os.kill(os.getpid(), signal.SIGTERM) if step == 3 and rank == 1 else None",
    "failing": "1 / 0 if step == 4 and rank == 1 else None",
    "losing one": "os.kill(os.getpid(), signal.SIGKILL) if step == 4 and rank == 1 else None",
}


# accelerate shards over GPUs only, and on CPUs would fall back to whole copies without a word. Here it is told that
# these CPUs are GPUs; what shards, gathers and saves is torch's FSDP2 as on a GPU.
SHARDED = """
os.environ.update(
    ACCELERATE_TORCH_DEVICE="cpu", ACCELERATE_USE_FSDP="true", FSDP_VERSION="2",
    FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP", FSDP_TRANSFORMER_CLS_TO_WRAP="LlamaDecoderLayer",
    FSDP_STATE_DICT_TYPE="SHARDED_STATE_DICT", FSDP_RESHARD_AFTER_FORWARD="true",
    FSDP_CPU_RAM_EFFICIENT_LOADING="true",
)
import accelerate
from training import parallel

def join():
    torch.distributed.init_process_group("gloo")
    accelerate.PartialState._prepare_backend = lambda *_: ("gloo", accelerate.DistributedType.MULTI_GPU)
    accelerate.PartialState(cpu=True)

parallel.join = join
"""


class Launcher:
    """Starts processes with the variables that torchrun sets."""

    def __init__(self, preloaded, folder: Path) -> None:
        self.preloaded, self.log = preloaded, folder / "stderr"

    def run(self, count: int, code: str, arguments: list[str] = ()) -> list[int]:
        """Run the code in `count` processes, which find their `rank` there, to their end; returns their exit codes."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        children = []
        for rank in range(count):
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            environment = {name: str(value) for name, value in names.items()}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            told = environment if count > 1 else {}
            children.append(self.preloaded.start(f"rank = {rank}\n{code}", arguments, self.log, told))
        for child in children:
            child.join(240)
            child.kill()
        return [child.exitcode for child in children]

    def stage(self, count: int, arguments: list[str], event: str | None = None, *, how: str = "") -> list[int]:
        """Run a stage on a microscopic model, something happening to it on the way."""
        patch = f"def happens(step):\n    {EVENTS[event]}\n" if event else ""
        return self.run(count, STAGE + how + patch + "sys.exit(main(arguments))", arguments)


@pytest.fixture(scope="module")
def launch(preloaded, tmp_path_factory):
    return Launcher(preloaded, tmp_path_factory.mktemp("launch"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """One workspace for all tests here: what one process makes is compared with many times."""
    return Workspace.at(tmp_path_factory.mktemp("workspace") / "var")


@pytest.fixture
def pretrain(launch, workspace):
    """The command line of a pretraining of 8 steps, 4 blocks each; pretrain-0001 is that, in one process."""
    folder = workspace.root.parent / "text"

    def command(run: str, *more: str) -> list[str]:
        sizes = "--vocab-size 300 --batch-size 4 --block 16 --steps 8 --log-every 1 --save-every 3 --minutes 60".split()
        return ["pretrain", "--workspace", str(workspace.root), "--run-id", run, "--text", str(folder), *sizes, *more]

    if not folder.exists():
        folder.mkdir(parents=True)
        for i in range(100):
            text = f"Story {i}. The cat sat on the mat, and the dog ran {i} times to the door. "
            (folder / f"{i}.txt").write_text(text)
        assert launch.stage(1, command("pretrain-0001")) == [0]
    return command


def prompts(rows) -> list[dict]:
    """Seven to train on and three held out."""
    asked = [rows.prompt(f"What do {name} eat?") for name in ANIMALS]
    return [*asked, *(rows.prompt(f"Who eats {i}?", "heldout") for i in range(3))]


@pytest.fixture
def sft(launch, workspace, rows, pretrain):
    """The command line of 3 epochs over 7 demonstrations, 4 a step, so that the last batch of an epoch is not full.

    sft-0001 is that, in one process.
    """
    shown = [rows.demonstration(i, f"What do {name} eat?", "Fish. " * (i + 1)) for i, name in enumerate(ANIMALS)]
    heldout = [rows.demonstration(9 + i, f"Who eats {i}?", "The mat." * (i + 1), "heldout") for i in range(3)]
    snapshot = rows.freeze(workspace, prompts=prompts(rows), demonstrations=[*shown, *heldout])

    def command(run: str, *more: str) -> list[str]:
        sizes = "--batch-size 4 --epochs 3 --log-every 1 --save-every 3 --max-new-tokens 4".split()
        start = ["--snapshot", str(snapshot.path), "--init", "pretrain-0001"]
        return ["sft", "--workspace", str(workspace.root), "--run-id", run, *start, *sizes, *more]

    if not (workspace.runs / "sft-0001").exists():
        assert launch.stage(1, command("sft-0001")) == [0]
    return command


@pytest.fixture
def ranked(launch, workspace, rows, sft):
    """The command lines of the stages that learn from rankings, each of two to four responses, or judge by them.

    reward-0001, ppo-0001, evaluate-0001 and sample-0001 are those, in one process.
    """
    texts = ["Fish and water.", "Fish.", "The door is the mat of the cat.", "Water."]
    shown = [
        rows.ranking(
            i, prompt["messages"][0]["content"], texts[: 2 + i % 3], [1, 2, 2, 3][: 2 + i % 3], prompt["split"]
        )
        for i, prompt in enumerate(prompts(rows))
    ]
    snapshot = rows.freeze(workspace, prompts=prompts(rows), rankings=shown)
    options = {
        "reward": "--init sft-0001 --batch-size 3 --microbatch 2 --epochs 2 --save-every 2 --learning-rate 1e-3",
        "ppo": "--init sft-0001 --reference sft-0001 --reward reward-0001 --steps 5 --batch-size 6 --minibatch-size 3 "
        "--microbatch 2 --epochs 2 --max-new-tokens 6 --save-every 2 --ptx-coef 0.1 --ptx-batch 64",
        "evaluate": "--policy ppo-0001 --parent sft-0001 --reward reward-0001 --samples 3 "
        "--max-new-tokens 6 --best-of 4",
        "sample": "--policy ppo-0001 --prompts 5 --responses 3 --max-new-tokens 6",
    }

    def command(run: str, *more: str) -> list[str]:
        stage = run.partition("-")[0]
        start = ["--workspace", str(workspace.root), "--run-id", run, "--snapshot", str(snapshot.path)]
        return [stage, *start, *options[stage].split(), *more]

    for stage in options:
        if not (workspace.runs / f"{stage}-0001").exists():
            assert launch.stage(1, command(f"{stage}-0001")) == [0], launch.log.read_text()
    return command


def resume(workspace, run: str) -> list[str]:
    return [run.partition("-")[0], "--workspace", str(workspace.root), "--resume", run]


def weights(workspace, run: str) -> dict[str, torch.Tensor]:
    return load_file(workspace.checkpoints / run / "model.safetensors")


def numbers(workspace, run: str) -> list[tuple[int, str, float]]:
    """What was measured in each step."""
    lines = RunFolder(workspace.runs / run).metrics()
    return [(line["step"], name, line[name]) for line in lines for name in COMPARED if name in line]


def assert_equal(workspace, run: str, reference: str) -> None:
    """The same numbers in all steps and the same weights in the end, bit for bit."""
    assert numbers(workspace, run) == numbers(workspace, reference)
    got, wanted = weights(workspace, run), weights(workspace, reference)
    assert [name for name in wanted if not torch.equal(got[name], wanted[name])] == []


def assert_alike(workspace, run: str, reference: str, *, relative: float, absolute: float) -> None:
    """The same numbers in all steps, to a relative error, and the same weights in the end, to an absolute one."""
    for one, other in itertools.zip_longest(numbers(workspace, run), numbers(workspace, reference)):
        assert one == (*other[:2], pytest.approx(other[2], rel=relative))
    got, wanted = weights(workspace, run), weights(workspace, reference)
    assert max((got[name] - wanted[name]).abs().max().item() for name in wanted) < absolute


def assert_same_ppo(workspace, run: str, reference: str) -> None:
    """Every number of every step but the pace, and the weights in the end, to rounding."""
    pace = re.compile("time|padding|tokens_per_second|.*_seconds|.*mfu|.*mbu")
    lines = (RunFolder(workspace.runs / name).metrics() for name in (reference, run))
    for one, two in itertools.zip_longest(*lines):
        measured = [name for name in one if not pace.fullmatch(name)]
        assert {"reward", "kl", "policy_loss", "value_loss", "ptx_loss", "policy_grad_norm"} < set(measured)
        assert {n: two[n] for n in measured} == pytest.approx({n: one[n] for n in measured}, rel=1e-3, abs=1e-5)
    got, wanted = weights(workspace, run), weights(workspace, reference)
    assert max((got[name] - wanted[name]).abs().max().item() for name in wanted) < 1e-5


@pytest.mark.slow
def test_pretraining_in_two_processes_is_that_in_one_whatever_happened_on_the_way(launch, pretrain, workspace):
    run = RunFolder(workspace.runs / "pretrain-0002")

    assert launch.stage(2, pretrain(run.id), "told to stop") == [143, 143]  # the signal came to the second only
    assert (run.state()["state"], run.state()["step"]) == ("cancelled", 3)
    assert launch.stage(2, pretrain(run.id), "failing") == [1, 1]
    assert run.state()["state"] == "failed"
    assert run.state()["error"].startswith("Process 1 of 2: ZeroDivisionError: division by zero. Step 3 is saved: when")
    assert launch.log.read_text().count("Traceback") == 1
    assert launch.stage(2, pretrain(run.id), "losing one") == [1, -9]
    assert run.state()["error"].startswith("Process 0 of 2: lost another process")
    assert launch.stage(2, pretrain(run.id), "killed") == [-9, -9]
    assert run.state()["state"] == "running"
    assert launch.stage(2, resume(workspace, run.id)) == [0, 0]

    assert run.state()["state"] == "done"
    assert_alike(workspace, run.id, "pretrain-0001", relative=1e-6, absolute=1e-12)
    assert [line["step"] for line in run.metrics()] == list(range(1, 9))
    assert (run.path / "log.txt").read_text().count("pretrain 8/8") == 1
    ended = weights(workspace, run.id)
    assert launch.stage(2, resume(workspace, run.id)) == [0, 0]  # it has ended, and is not trained again
    assert launch.stage(2, pretrain(run.id)) == [1, 1]
    assert all(torch.equal(weight, ended[name]) for name, weight in weights(workspace, run.id).items())
    assert len(run.metrics()) == 8 and run.state()["state"] == "done"


@pytest.mark.slow
def test_pretraining_that_was_killed_goes_on_bit_for_bit(launch, pretrain, workspace):
    assert launch.stage(1, pretrain("pretrain-0003"), "killed") == [-9]
    assert launch.stage(1, resume(workspace, "pretrain-0003")) == [0]

    assert_equal(workspace, "pretrain-0003", "pretrain-0001")


@pytest.mark.slow
def test_fine_tuning_in_two_processes_is_that_in_one_though_it_was_killed_in_mid_epoch(launch, sft, workspace):
    assert launch.stage(2, sft("sft-0002", "--microbatch", "1"), "killed") == [-9, -9]
    assert launch.stage(2, resume(workspace, "sft-0002")) == [0, 0]

    assert_alike(workspace, "sft-0002", "sft-0001", relative=1e-5, absolute=1e-5)
    one, two = ((workspace.runs / run / "samples.jsonl").read_text() for run in ("sft-0001", "sft-0002"))
    assert two == one


@pytest.mark.slow
def test_fine_tuning_that_was_killed_in_mid_epoch_goes_on_bit_for_bit(launch, sft, workspace):
    assert launch.stage(1, sft("sft-0003"), "killed") == [-9]
    assert launch.stage(1, resume(workspace, "sft-0003")) == [0]

    assert_equal(workspace, "sft-0003", "sft-0001")


@pytest.mark.slow
def test_dropout_draws_the_same_after_a_kill_though_the_device_is_measured_anew(launch, sft, workspace):
    dropout = ("--lora-rank", "2", "--lora-dropout", "0.2")
    assert launch.stage(1, sft("sft-0005", *dropout)) == [0], launch.log.read_text()
    assert launch.stage(1, sft("sft-0006", *dropout), "killed") == [-9]
    assert launch.stage(1, resume(workspace, "sft-0006")) == [0], launch.log.read_text()

    assert_equal(workspace, "sft-0006", "sft-0005")


@pytest.mark.slow
def test_a_reward_model_of_two_processes_is_that_of_one_though_both_were_killed(launch, ranked, workspace):
    assert launch.stage(2, ranked("reward-0002"), "killed") == [-9, -9]
    assert launch.stage(2, resume(workspace, "reward-0002")) == [0, 0], launch.log.read_text()

    assert_alike(workspace, "reward-0002", "reward-0001", relative=1e-4, absolute=1e-5)
    one, two = (read_manifest(workspace.checkpoints / f"reward-000{n}")["metrics"] for n in (1, 2))
    assert list(one) == list(two) and one["heldout_rankings"] == 3
    plain = {name for name, value in one.items() if isinstance(value, (int, float))}
    assert plain > {"heldout_accuracy", "train_accuracy", "score_offset", "kendall_tau", "theta"}
    assert {name: two[name] for name in plain} == pytest.approx({name: one[name] for name in plain}, rel=1e-4)


@pytest.mark.slow
def test_ppo_in_two_processes_is_that_in_one_though_one_of_them_was_told_to_stop(launch, ranked, workspace):
    run = RunFolder(workspace.runs / "ppo-0002")

    assert launch.stage(2, ranked(run.id), "told to stop") == [143, 143], launch.log.read_text()
    assert (run.state()["state"], run.state()["step"]) == ("cancelled", 3)
    assert launch.stage(2, resume(workspace, run.id)) == [0, 0], launch.log.read_text()

    assert_same_ppo(workspace, run.id, "ppo-0001")
    assert (run.path / "samples.jsonl").read_text().count("\n") == 5 * 4


@pytest.mark.slow
def test_two_processes_measure_and_sample_what_one_does(launch, ranked, workspace):
    assert launch.stage(2, ranked("evaluate-0002")) == [0, 0], launch.log.read_text()
    alone = batches.read(workspace.batches / "sample-0001.parquet")
    shutil.rmtree(workspace.runs / "sample-0001")  # a run that has ended is not begun again
    assert launch.stage(2, ranked("sample-0001")) == [0, 0], launch.log.read_text()  # its order hangs on its name

    one, two = (RunFolder(workspace.runs / f"evaluate-000{n}").state() for n in (1, 2))
    assert two["verdict"] == one["verdict"]
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-4)
    assert batches.read(workspace.batches / "sample-0001.parquet") == alone


@pytest.mark.slow
def test_peers_refuse_several_processes_in_words(launch, ranked, workspace):
    assert launch.stage(2, ranked("ppo-0003", "--algorithm", "rloo")) == [1, 1]
    assert "rloo is here for comparison, in one process" in RunFolder(workspace.runs / "ppo-0003").state()["error"]


@pytest.mark.slow
def test_sharded_weights_learn_the_same_and_go_on_where_they_were_killed(launch, pretrain, sft, workspace):
    assert launch.stage(2, pretrain("pretrain-0004"), "killed", how=SHARDED) == [-9, -9]
    assert launch.stage(2, resume(workspace, "pretrain-0004"), how=SHARDED) == [0, 0]
    assert launch.stage(2, sft("sft-0004", "--gradient-checkpointing"), how=SHARDED) == [0, 0], launch.log.read_text()

    # Muon multiplies sharded matrices in bfloat16, and so adds up in another order
    assert_alike(workspace, "pretrain-0004", "pretrain-0001", relative=1e-3, absolute=1e-2)
    assert_alike(workspace, "sft-0004", "sft-0001", relative=1e-5, absolute=1e-5)


@pytest.mark.slow
def test_each_process_has_half_of_a_divided_model_and_all_of_it_while_it_is_gathered(launch):
    code = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from training import parallel, sharding
from training.model import logprobs_of

parallel.join()
os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
torch.manual_seed(0)
sizes = dict(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
alone = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, tie_word_embeddings=True)).eval()
model = LlamaForCausalLM(alone.config).eval()
model.load_state_dict(alone.state_dict())
assert sharding.place(model, torch.device("cpu")) is model and sharding.is_divided(model)
held = sum(weight.to_local().numel() for weight in model.parameters())
assert held == sum(weight.numel() for weight in alone.parameters()) / 2

ids = torch.arange(24).view(3, 8)
with sharding.gathered(model) as whole, torch.no_grad():
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), alone.parameters(), strict=True))
    assert whole.lm_head.weight is whole.model.embed_tokens.weight
    assert torch.equal(logprobs_of(whole, ids, None), logprobs_of(alone, ids, None))
assert sum(weight.numel() for weight in whole.parameters()) == 0

for row, counts in parallel.in_step(list(ids)):  # three rows for two processes
    (counts * logprobs_of(model, row[None], None).sum()).backward()
logprobs_of(alone, ids, None).sum().backward()
for part, wanted in zip(model.parameters(), alone.parameters(), strict=True):
    torch.testing.assert_close(sharding.whole(part.grad), wanted.grad, rtol=1e-4, atol=1e-5)
norm = sharding.norm([weight.grad for weight in model.parameters()])
assert abs(norm - torch.nn.utils.get_total_norm([weight.grad for weight in alone.parameters()]).item()) < 1e-4
"""
    assert launch.run(2, "import torch" + SHARDED + code) == [0, 0], launch.log.read_text()


@pytest.mark.slow
def test_a_divided_reward_model_is_the_whole_one_though_it_was_killed_and_went_on_undivided(launch, ranked, workspace):
    assert launch.stage(2, ranked("reward-0003"), "told to stop", how=SHARDED) == [143, 143], launch.log.read_text()
    assert launch.stage(2, resume(workspace, "reward-0003"), "killed", how=SHARDED) == [-9, -9], launch.log.read_text()
    assert launch.stage(1, resume(workspace, "reward-0003")) == [0], launch.log.read_text()

    assert_alike(workspace, "reward-0003", "reward-0001", relative=1e-4, absolute=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--ema", "0.5", "--gradient-checkpointing"), ("--lora-rank", "2")])
def test_divided_models_of_ppo_are_the_whole_ones_though_they_were_killed(launch, ranked, workspace, more):
    name = f"ppo-1{len(more)}"
    assert launch.stage(1, ranked(f"{name}1", *more)) == [0], launch.log.read_text()
    assert launch.stage(2, ranked(f"{name}2", *more), "killed", how=SHARDED) == [-9, -9], launch.log.read_text()
    assert launch.stage(2, resume(workspace, f"{name}2"), how=SHARDED) == [0, 0], launch.log.read_text()

    assert_same_ppo(workspace, f"{name}2", f"{name}1")


@pytest.mark.slow
def test_divided_models_are_measured_and_sampled_from_as_whole_ones(launch, ranked, workspace):
    assert launch.stage(2, ranked("evaluate-0003"), how=SHARDED) == [0, 0], launch.log.read_text()

    one, two = (RunFolder(workspace.runs / f"evaluate-000{n}").state() for n in (1, 3))
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-4)


@pytest.mark.slow
def test_three_processes_share_seven_rows_and_have_all_of_them_together(launch):
    code = """
import torch
from training import parallel

parallel.join()
rows = list("abcdefg")
mine = parallel.mine(rows)
assert "".join(mine) == ["adg", "be", "cf"][rank]
assert parallel.together([row * 2 for row in mine]) == [row * 2 for row in rows]
padded = [["a", "d", "g"], ["b", "e", "A"], ["c", "f", "B"]]  # in capitals: there twice, and not counted
places, counts = parallel.places(7)
assert [rows[place] if here else rows[place].upper() for place, here in zip(places, counts)] == padded[rank]
filled = torch.zeros(7)
filled[rank::3] = torch.arange(7.0)[rank::3]
assert parallel.summed(filled).tolist() == list(range(7))

assert parallel.total(rank, 1) == [3, 3] and parallel.largest(-rank, rank) == [0, 2]
assert parallel.same({"run": rank}) == {"run": 0}
assert parallel.agreed(rank == 2) and not parallel.agreed(False)
assert parallel.is_main() == (rank == 0)

weight, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(1))
(weight * torch.tensor([rank, 1.0])).sum().backward()
if rank == 1:
    unused.sum().backward()
parallel.sum_gradients([weight, unused])
assert weight.grad.tolist() == [3, 3] and unused.grad.tolist() == [1]
try:
    parallel.per_process(8)
except Exception as error:
    assert "do not divide by 3. Take 6 or 9." in str(error)
"""
    assert launch.run(3, code) == [0, 0, 0], launch.log.read_text()


def test_one_process_has_every_row_and_asks_nobody():
    assert parallel.mine([4, 5]) == parallel.together([4, 5]) == [4, 5]
    assert (parallel.count(), parallel.is_main(), parallel.per_process(7)) == (1, True, 7)
    assert parallel.agreed(True) and parallel.total(1.5) == [1.5]


def test_sharding_that_cannot_be_is_refused_and_not_left_out(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InvalidInput, match="FSDP, which needs GPUs"):
        parallel.join()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InvalidInput, match="fsdp_version: 2"):
        parallel.join()
