import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.errors import Conflict, InvalidInput, NotFound
from training import checkpoints
from training.checkpoints import add_metrics, load_state, name_of, read_manifest, resolve, save, save_state


def save_again(workspace, policy, words, **changes):
    fields = {
        "stage": "sft",
        "parents": ["pretrain-0001"],
        "snapshot": "0123456789abcdef",
        "config": {"init": Path("x/y"), "epochs": 2},
        "metrics": {"loss": 1.5},
        "seed": 7,
    }
    return save(workspace.checkpoints, "sft-0001", model=policy, tokenizer=words, **{**fields, **changes})


def test_a_checkpoint_names_all_it_was_made_of(workspace, policy, words):
    manifest = read_manifest(save_again(workspace, policy, words))

    assert {name: manifest[name] for name in ("id", "stage", "parents", "snapshot", "config", "metrics", "seed")} == {
        "id": "sft-0001",
        "stage": "sft",
        "parents": ["pretrain-0001"],
        "snapshot": "0123456789abcdef",
        "config": {"init": "x/y", "epochs": 2},
        "metrics": {"loss": 1.5},
        "seed": 7,
    }
    assert manifest["created_at"].endswith("+00:00") and manifest["code_version"]


def test_a_checkpoint_loads_with_plain_transformers_and_no_missing_keys(workspace, policy, words):
    folder = save_again(workspace, policy, words)

    loaded, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    assert tokenizer.chat_template


def test_a_checkpoint_holds_nothing_that_is_unpickled(workspace, policy, words):
    names = {path.name for path in save_again(workspace, policy, words).iterdir()}

    assert names == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "pawl.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_a_checkpoint_that_could_not_be_written_leaves_no_folder(workspace, policy, words):
    def fail(folder):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_again(workspace, policy, words, also=fail)

    assert list(workspace.checkpoints.iterdir()) == []


def test_saving_again_replaces_the_runs_own_checkpoint(workspace, policy, words):
    save_again(workspace, policy, words)
    save_again(workspace, policy, words, metrics={"loss": 0.5})

    assert [path.name for path in workspace.checkpoints.iterdir()] == ["sft-0001"]
    assert read_manifest(workspace.checkpoints / "sft-0001")["metrics"] == {"loss": 0.5}


@pytest.mark.parametrize("other", [{"stage": "reward"}, {"config": {"init": "x/y", "epochs": 3}}])
def test_a_checkpoint_that_another_run_made_is_kept_and_so_is_what_this_one_saved(other, workspace, policy, words):
    made = save_again(workspace, policy, words)
    before = {path.name: path.read_bytes() for path in made.iterdir()}

    with pytest.raises(Conflict, match="sft-0001 already, made by another run: stage sft, .* with --resume sft-0001"):
        save_again(workspace, policy, words, **other)

    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    assert [path.name for path in workspace.checkpoints.iterdir()] == ["sft-0001"]


@pytest.mark.parametrize("manifest", [None, '{"id": "sft-0'])
def test_a_folder_that_no_run_made_is_not_replaced(manifest, workspace, policy, words):
    (folder := workspace.checkpoints / "sft-0001").mkdir()
    (folder / "notes.txt").touch()
    if manifest is not None:
        (folder / "pawl.json").write_text(manifest)

    with pytest.raises(Conflict, match="sft-0001 is there already, and no run of Pawl made it"):
        save_again(workspace, policy, words)

    assert (folder / "notes.txt").exists()


def test_what_is_measured_later_joins_the_manifest(saved_policy):
    add_metrics(saved_policy, {"win_rate": 0.6})
    add_metrics(saved_policy, {"kl": 2.0})

    assert read_manifest(saved_policy)["metrics"] == {"win_rate": 0.6, "kl": 2.0}


def test_a_model_is_found_by_id_and_by_folder(workspace, saved_policy):
    assert resolve("pretrain-0001", workspace) == saved_policy
    assert resolve(saved_policy, workspace) == saved_policy
    assert name_of(saved_policy, "anything") == "pretrain-0001"


def test_a_folder_from_outside_keeps_the_name_it_was_given(workspace, policy, tmp_path):
    policy.save_pretrained(tmp_path / "mine")

    assert name_of(resolve(tmp_path / "mine", workspace), "somewhere/mine") == "somewhere/mine"


def test_a_model_that_is_nowhere_is_named_with_those_that_are(workspace, saved_policy):
    (workspace.checkpoints / ".sft-0002.half").mkdir()
    (workspace.checkpoints / ".sft-0002.half" / "pawl.json").touch()

    with pytest.raises(NotFound, match=r"'sft-0009'.*: pretrain-0001\.$"):
        resolve("sft-0009", workspace)


def test_a_folder_without_manifest_is_not_a_checkpoint(tmp_path):
    with pytest.raises(NotFound, match="pawl.json"):
        read_manifest(tmp_path)


def trained(policy, optimizer):
    """One step that draws from every random state there is."""
    ids = torch.randint(0, 300, (2, 8)) + random.randrange(2)
    noise = torch.rand(1) + np.random.rand()
    (policy(ids, labels=ids).loss * noise).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_run_goes_on_from_its_state_as_if_it_had_not_stopped(workspace, run, words, policy):
    def start():
        model = type(policy)(policy.config)
        model.load_state_dict(policy.state_dict())
        return model, torch.optim.AdamW(model.parameters())

    random.seed(5)
    np.random.seed(5)
    model, optimizer = start()
    trained(model, optimizer)
    parts = {"models": {"policy": model}, "optimizers": {"policy": optimizer}}
    save_state(run.path, 1, extra={"kl_coef": 0.25, "seen": [1, 2]}, **parts)
    trained(model, optimizer)
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)

    again, other = start()
    parts = {"models": {"policy": again}, "optimizers": {"policy": other}}
    step, extra = load_state(run.path, **parts)
    trained(again, other)

    assert (step, extra) == (1, {"kl_coef": 0.25, "seen": [1, 2]})
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name  # bit for bit


def test_a_state_from_before_numpys_random_state_was_saved_still_loads(run):
    folder = save_state(run.path, 1, models={}, optimizers={}, extra={"kl_coef": 0.25})
    state = json.loads((folder / "state.json").read_text())
    del state["numpy_random"]
    (folder / "state.json").write_text(json.dumps(state))
    np.random.seed(3)
    expected = np.random.RandomState(3).rand()  # what comes next where nothing is restored

    assert load_state(run.path, models={}, optimizers={}) == (1, {"kl_coef": 0.25})
    assert np.random.rand() == expected


def test_a_run_without_state_starts_from_nothing(run):
    assert load_state(run.path, models={}, optimizers={}) is None


def test_the_two_newest_states_are_kept_and_half_written_ones_not_seen(run):
    for step in (1, 2, 10):
        save_state(run.path, step, models={}, optimizers={}, extra={})
    (run.path / "states" / ".step-00000011.half").mkdir()

    assert load_state(run.path, models={}, optimizers={}) == (10, {})
    assert sorted(p.name for p in (run.path / "states").glob("step-*")) == ["step-00000002", "step-00000010"]


def test_the_step_that_a_run_goes_on_after_is_known_whoever_saved_it(run):
    assert checkpoints.saved_step(run.path) is None
    (run.path / "trainer" / "checkpoint-12").mkdir(parents=True)
    assert checkpoints.saved_step(run.path) is None  # cut short
    (run.path / "trainer" / "checkpoint-9").mkdir()
    (run.path / "trainer" / "checkpoint-9" / "whole").touch()
    assert checkpoints.saved_step(run.path) == 9
    save_state(run.path, 10, models={}, optimizers={}, extra={})
    assert checkpoints.saved_step(run.path) == 10


class Malicious:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_state_that_hides_code_is_not_run(run, capsys):
    folder = save_state(run.path, 1, models={}, optimizers={}, extra={})
    torch.save({"policy": Malicious()}, folder / "optimizers.pt")

    with pytest.raises(Exception, match="[Ww]eights.only"):
        load_state(run.path, models={}, optimizers={})
    assert "must not run" not in capsys.readouterr().out


def test_the_code_version_is_known(monkeypatch):
    assert checkpoints.code_version()
    monkeypatch.setenv("PATH", "")  # no git on this machine
    assert checkpoints.code_version() in (checkpoints.code_version().split()[0], "unknown")


def test_a_manifest_is_plain_json(saved_policy):
    assert json.loads((saved_policy / "pawl.json").read_text())["id"] == "pretrain-0001"


def half_frozen(policy):
    """The policy, of which only the last layer learns."""
    policy.requires_grad_(False)
    policy.model.layers[-1].requires_grad_(True)
    return policy


def test_a_state_can_leave_out_what_is_frozen(run, policy):
    parts = {"models": {"policy": half_frozen(policy)}, "optimizers": {}}
    folder = save_state(run.path, 1, extra={}, only_trainable=True, **parts)
    learned = policy.model.layers[-1].mlp.up_proj.weight
    before = learned.detach().clone()
    frozen = policy.model.embed_tokens.weight.detach().clone()
    with torch.no_grad():
        learned += 1

    load_state(run.path, **parts)

    assert torch.equal(learned, before) and torch.equal(policy.model.embed_tokens.weight, frozen)
    assert set(load_file(folder / "policy.trainable.safetensors")) == {
        name for name, weight in policy.named_parameters() if weight.requires_grad
    }
    assert not (folder / "policy.safetensors").exists()


def test_a_state_of_other_trainable_weights_is_refused_and_changes_nothing(run, policy):
    save_state(run.path, 1, models={"policy": half_frozen(policy)}, optimizers={}, extra={}, only_trainable=True)
    policy.requires_grad_(True)
    before = {name: weight.clone() for name, weight in policy.named_parameters()}

    with pytest.raises(InvalidInput, match="holds 9 trainable tensors, and the model has 20 of other names"):
        load_state(run.path, models={"policy": policy}, optimizers={})

    assert all(torch.equal(weight, before[name]) for name, weight in policy.named_parameters())
