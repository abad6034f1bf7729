import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from data.runs import RunFolder
from training import reward, sft

LORA = {"lora_rank": 2, "lora_targets": ("q_proj", "v_proj")}


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "kind"), [(sft, AutoModelForCausalLM), (reward, AutoModelForSequenceClassification)])
def test_a_stage_with_an_adapter_changes_its_layers_alone_and_saves_them_merged(
    stage, kind, snapshot, workspace, saved_policy
):
    name = stage.__name__.rpartition(".")[2]
    run = RunFolder.create(workspace.runs, name, {})

    stage.main(stage.Config(snapshot.path, "pretrain-0001", batch_size=2, learning_rate=1e-2, **LORA), run, workspace)

    folders = (saved_policy, workspace.checkpoints / run.id)
    before, after = (load_file(folder / "model.safetensors") for folder in folders)
    shared = before.keys() & after.keys()
    changed = {layer.split(".")[-2] for layer in shared if not torch.equal(before[layer], after[layer])}
    _, told = kind.from_pretrained(folders[1], output_loading_info=True)
    assert changed == {"q_proj", "v_proj"}
    assert not any(told.values())
