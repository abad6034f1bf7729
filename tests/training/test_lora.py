"""LoRA on microscopic Llama and Qwen3 models, with tied and with untied embeddings."""

import shutil

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from data.errors import InvalidInput
from training import checkpoints, engine, lora, sft, tokenizer
from training.model import fit_to_tokenizer, logprobs_of, scalar_from_policy, scores

pytestmark = pytest.mark.slow

ADAPTER = {"rank": 2, "alpha": 4.0}
IDS = torch.arange(2 * 7).reshape(2, 7) + 20
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
KINDS = ["llama-tied", "llama-untied", "qwen3-tied", "qwen3-untied"]


def made(kind, words):
    torch.manual_seed(0)
    family, embeddings = kind.split("-")
    shape = {**SHAPE, "intermediate_size": 32, "vocab_size": len(words), "tie_word_embeddings": embeddings == "tied"}
    if family == "llama":
        return fit_to_tokenizer(LlamaForCausalLM(LlamaConfig(**shape)), words).eval()
    return fit_to_tokenizer(Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=4)), words).eval()


@pytest.fixture(params=KINDS)
def base(request, words):
    return made(request.param, words)


@pytest.fixture
def llama(words):
    return made("llama-tied", words)


def moved(model, by=0.3):
    """The model with noise on all that can be trained, as if it had learned something."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += by * torch.randn(weight.shape, generator=generator)
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def saved(workspace, model, words, run_id="sft-0001"):
    fields = {"stage": "sft", "parents": [], "snapshot": None, "config": {}, "metrics": {}, "seed": 0}
    return checkpoints.save(workspace.checkpoints, run_id, model=model, tokenizer=words, **fields)


def names_in(path):
    with safe_open(path / "model.safetensors", "pt") as file:
        return set(file.keys())


def trained_names(model):
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def test_a_new_adapter_changes_nothing_and_switched_off_is_the_model_it_began_as(base):
    before = logits(base)

    lora.with_adapter(base, **ADAPTER)
    assert torch.equal(logits(base), before)
    after = logits(moved(base))
    with lora.without_adapter(base) as reference:
        assert reference is base
        assert torch.equal(logits(reference), before)

    assert (after - before).abs().max() > 0.01
    assert torch.equal(logits(base), after)
    assert all(weight.requires_grad for name, weight in base.named_parameters() if "lora_" in name)


def test_an_adapter_adds_alpha_by_rank_times_its_product(llama):
    layer = llama.model.layers[0].mlp.down_proj
    weight = layer.weight.clone()
    lora.with_adapter(llama, rank=2, alpha=6.0)
    adapted = moved(llama).model.layers[0].mlp.down_proj

    product = adapted.lora_B["default"].weight @ adapted.lora_A["default"].weight
    ones = torch.ones(1, 32)

    torch.testing.assert_close(adapted(ones), ones @ (weight + 6.0 / 2 * product).T)  # (16, 2) by (2, 32)


def test_a_checkpoint_holds_the_merged_weights_and_loads_with_plain_transformers(base, words, workspace):
    tied = base.config.tie_word_embeddings
    lora.with_adapter(base, **ADAPTER)
    after = logits(moved(base))

    folder = saved(workspace, base, words)
    loaded, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)

    assert not any(told.values()), told
    assert not [name for name in names_in(folder) if "lora" in name or "base_layer" in name]
    assert ("lm_head.weight" in names_in(folder)) != tied and loaded.config.tie_word_embeddings == tied
    torch.testing.assert_close(logits(loaded), after, atol=1e-4, rtol=0)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert not (folder / "adapter_config.json").exists()


def test_merging_leaves_the_model_in_training_as_it_is(llama):
    view = lora.with_adapter(llama, **ADAPTER)
    after = logits(moved(llama))
    weights = {name: weight.clone() for name, weight in llama.named_parameters()}

    plain = lora.merged(llama)

    assert not lora.has_adapter(plain) and lora.has_adapter(llama) and type(plain) is type(llama)
    assert not hasattr(plain, "peft_config")  # nothing tells a plain model from one that never had an adapter
    assert torch.equal(logits(llama), after)
    assert all(torch.equal(weight, weights[name]) for name, weight in llama.named_parameters())
    assert {p.data_ptr() for p in plain.parameters()}.isdisjoint(p.data_ptr() for p in llama.parameters())
    assert torch.equal(logits(lora.merged(view)), logits(plain))  # peft's view of it gives the same


def test_a_model_without_adapter_is_its_own_merged_model_and_its_own_reference(llama):
    before = logits(llama)

    assert lora.merged(llama) is llama and lora.with_adapter(llama, rank=0, alpha=1.0) is llama
    assert not lora.has_adapter(llama)
    with lora.without_adapter(llama):
        assert torch.equal(logits(llama), before)
    assert all(weight.requires_grad for weight in llama.parameters())


def test_the_adapter_comes_back_on_after_an_error_and_after_the_outer_of_two(llama):
    lora.with_adapter(llama, **ADAPTER)
    before = logits(llama)
    after = logits(moved(llama))

    with pytest.raises(KeyError), lora.without_adapter(llama):
        raise KeyError
    assert torch.equal(logits(llama), after)
    with lora.without_adapter(llama):
        with lora.without_adapter(llama):
            pass
        assert torch.equal(logits(llama), before)
    assert torch.equal(logits(llama), after)


def test_only_the_adapter_learns(base):
    lora.with_adapter(base, **ADAPTER)
    before = {name: weight.clone() for name, weight in moved(base).named_parameters()}
    optimizer = torch.optim.AdamW([weight for weight in base.parameters() if weight.requires_grad], lr=0.1)

    base(IDS, labels=IDS).loss.backward()
    optimizer.step()

    changed = {name for name, weight in base.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == trained_names(base) == {name for name in before if "lora_" in name}
    assert len(changed) == 2 * 2 * 7  # A and B of q, k, v, o, gate, up and down in two layers; none of the head


def test_engine_and_trainer_see_the_same_policy_and_the_same_reference(llama, words):
    prompt = torch.tensor([[5, 6, 7]])
    lora.with_adapter(llama, **ADAPTER)
    whole = torch.ones_like(IDS, dtype=torch.bool)
    reference = logprobs_of(llama, IDS, whole).detach()
    moved(llama)

    drawn = engine.sample(
        llama,
        prompt.tolist(),
        max_new_tokens=6,
        temperature=1.0,
        eos_id=words.eos_token_id,
        pad_id=words.pad_token_id,
        generator=torch.Generator().manual_seed(0),
        batch_size=1,
    )

    ids = torch.cat([prompt, torch.tensor(drawn.response_ids)], 1)
    found = logprobs_of(llama, ids, torch.ones_like(ids, dtype=torch.bool))[0, 2:]
    torch.testing.assert_close(found, torch.tensor(drawn.logprobs[0]), atol=1e-4, rtol=0)
    with lora.without_adapter(llama):
        assert torch.equal(logprobs_of(llama, IDS, whole), reference)


def test_a_scalar_model_has_an_adapter_on_its_backbone_and_learns_its_whole_head(llama, words, workspace):
    scalar = scalar_from_policy(saved(workspace, llama, words), words).eval()
    scalar.config.score_offset = 0.25
    lora.with_adapter(scalar, **ADAPTER)
    moved(scalar)
    found = scores(scalar, IDS, torch.ones_like(IDS))

    folder = saved(workspace, scalar, words, "reward-0001")
    loaded, told = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)

    assert "score.weight" in trained_names(scalar)
    assert {name.split(".")[0] for name in trained_names(scalar)} == {"model", "score"}
    assert not any(told.values()) and "score.weight" in names_in(folder)
    assert loaded.config.score_offset == 0.25
    torch.testing.assert_close(scores(loaded, IDS, torch.ones_like(IDS)), found, atol=1e-4, rtol=0)


def test_new_tokens_are_learned_in_full_and_no_others(base, words, workspace):
    embeddings = base.get_input_embeddings().weight.clone()
    head = base.get_output_embeddings().weight.clone()
    lora.with_adapter(base, **ADAPTER, new_tokens=[3, 8])
    after = logits(moved(base))

    plain = lora.merged(base)

    for found, before in ((plain.model.embed_tokens.weight, embeddings), (plain.lm_head.weight, head)):
        changed = (found != before).any(1).nonzero().flatten().tolist()
        assert changed == [3, 8]
    torch.testing.assert_close(logits(plain), after, atol=1e-4, rtol=0)
    loaded = AutoModelForCausalLM.from_pretrained(saved(workspace, base, words))
    torch.testing.assert_close(logits(loaded), after, atol=1e-4, rtol=0)


def test_tokens_that_a_tokenizer_was_given_are_known(words, tmp_path):
    words.save_pretrained(tmp_path / "mine")
    assert lora.added_tokens(tmp_path / "mine", tokenizer.load(tmp_path / "mine")) == []

    given = tokenizer.load(tmp_path / "mine")
    given.add_tokens(["<|tool|>", "<|result|>"], special_tokens=True)
    assert lora.added_tokens(tmp_path / "mine", given) == [len(words), len(words) + 1]


def test_an_adapter_can_be_on_some_layers_alone(llama):
    lora.with_adapter(llama, **ADAPTER, targets=("q_proj", "v_proj"))

    assert {name.split(".")[4] for name in trained_names(llama)} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rank": -1}, "lora_rank is -1"),
        ({"alpha": 0.0}, "lora_alpha is 0.0"),
        ({"dropout": 1.0}, "lora_dropout is 1.0"),
        ({"targets": ("q_proj", "query")}, "lora_targets has query; .* down_proj, gate_proj, k_proj"),
        ({"targets": ("lm_head",)}, "lora_targets has lm_head"),
        ({"targets": ()}, "lora_targets has no layer"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused_and_the_model_is_untouched(llama, options, says):
    with pytest.raises(InvalidInput, match=says):
        lora.with_adapter(llama, **{**ADAPTER, **options})
    assert not lora.has_adapter(llama) and all(weight.requires_grad for weight in llama.parameters())


def test_the_reference_must_be_what_the_adapter_starts_from(tmp_path):
    lora.require_same_start(tmp_path / "sft-0001", tmp_path / "x" / ".." / "sft-0001")
    with pytest.raises(InvalidInput, match="starts from ppo-0001 and the reference is sft-0001"):
        lora.require_same_start(tmp_path / "ppo-0001", tmp_path / "sft-0001")


def test_recomputed_activations_give_the_same_gradients(base):
    lora.with_adapter(base, **ADAPTER)
    moved(base).train()

    def gradients():
        base.zero_grad()
        base(IDS, labels=IDS, use_cache=False).loss.backward()
        return {name: weight.grad for name, weight in base.named_parameters() if weight.grad is not None}

    expected, calls = gradients(), []
    base.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    enable = getattr(base, "activation_checkpointing_enable", base.gradient_checkpointing_enable)
    for reentrant in (False, True):
        enable({"use_reentrant": reentrant})
        calls.clear()
        found = gradients()
        assert len(calls) == 2  # forward, and again for backward
        assert found.keys() == expected.keys() == trained_names(base)
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name])


# -- resuming --------------------------------------------------------------------------------------------------------


def step(model, optimizer):
    loss = model(IDS + torch.randint(0, 9, (1,)), labels=IDS).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_run_goes_on_from_its_adapter_alone_as_if_it_had_not_stopped(words, run):
    def begin():
        torch.manual_seed(1)
        model = made("llama-tied", words)
        lora.with_adapter(model, **ADAPTER, new_tokens=[3])
        return model, torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.01)

    model, optimizer = begin()
    step(model, optimizer)
    parts = {"models": {"policy": model}, "optimizers": {"policy": optimizer}}
    folder = checkpoints.save_state(run.path, 1, extra={}, only_trainable=True, **parts)
    step(model, optimizer)
    torch.manual_seed(99)

    again, other = begin()
    checkpoints.load_state(run.path, models={"policy": again}, optimizers={"policy": other})
    step(again, other)

    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name  # bit for bit
    with safe_open(folder / "policy.trainable.safetensors", "pt") as file:
        assert set(file.keys()) == trained_names(model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3-tied", "llama-untied"])
def test_sft_with_an_adapter_resumes_as_if_it_had_not_stopped(words, run, snapshot, kind):
    def trained():
        torch.manual_seed(0)
        policy = made(kind, words)
        view = lora.with_adapter(policy, **ADAPTER, dropout=0.1, new_tokens=[3])
        config = sft.Config(snapshot.path, "pretrain-0001", epochs=4, batch_size=2, save_every=2, log_every=1)
        rows = [sft.Row([5, 6, 7 + i, 8, 9], [-100, -100, 7 + i, 8, 9]) for i in range(4)]
        sft.train(config, view, words, rows, [], run)
        return policy.eval()

    whole = trained()
    kept = {path.name for path in (run.path / "trainer" / "checkpoint-8").iterdir()}
    shutil.rmtree(run.path / "trainer" / "checkpoint-8")  # as if it had been killed after step 6
    resumed = trained()

    assert "adapter_model.safetensors" in kept and "model.safetensors" not in kept
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4, 5, 6, 7, 8]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert {"lora_B", "trainable_tokens_delta"} <= {part for name in trained_names(whole) for part in name.split(".")}
    assert (logits(whole) - logits(made(kind, words))).abs().max() > 1e-3
    plain = lora.merged(whole)
    torch.testing.assert_close(logits(plain), logits(whole), atol=1e-4, rtol=0)
    moved(whole)  # TRL changed how it is called; what was merged goes its own way
    assert (logits(plain) - logits(whole)).abs().max() > 1e-3


def test_what_goes_into_an_adapter_is_dropped_in_training_alone(llama):
    lora.with_adapter(llama, **ADAPTER, dropout=0.5)
    moved(llama)

    assert torch.equal(logits(llama.eval()), logits(llama))
    assert not torch.equal(logits(llama.train()), logits(llama))
