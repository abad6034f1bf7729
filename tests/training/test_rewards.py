import json
import math
import sys
from dataclasses import asdict

import pytest
import torch

from data.datasets import prompts as prompts_of
from data.errors import InvalidInput, NotFound
from training import checkpoints, tokenizer
from training.model import scalar_from_policy
from training.rewards import Rewards, ScoreUnit, Units, combined, length_excess, load, load_function, names_of, units_of
from training.rollouts import scores

CPU = torch.device("cpu")
TEXTS = ["Fish and water.", "The mat.", "The dog ran to the door.", "Cats."]


def save_judge(workspace, policy_path, words, run_id, seed):
    torch.manual_seed(seed)
    return checkpoints.save(
        workspace.checkpoints,
        run_id,
        stage="reward",
        parents=["pretrain-0001"],
        snapshot=None,
        model=scalar_from_policy(policy_path, words),
        tokenizer=words,
        config={},
        metrics={},
        seed=seed,
    )


@pytest.fixture
def judges(workspace, saved_policy, words):
    """checkpoints/reward-0001 and reward-0002: two reward models with random heads."""
    return [save_judge(workspace, saved_policy, words, f"reward-000{seed}", seed) for seed in (1, 2)]


@pytest.fixture
def asked(snapshot, words):
    """Four prompts, and their token ids."""
    prompts = prompts_of(snapshot, "train")[:4]
    return prompts, [tokenizer.prompt_ids(words, prompt.messages) for prompt in prompts]


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """Writes the module `mine` into the current directory, which is nowhere on the path of modules."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    yield lambda source: (folder / "mine.py").write_text(source)
    sys.modules.pop("mine", None)


def without_models(words, **changes):
    options = {
        "models": {},
        "functions": (),
        "tokens": words,
        "device": CPU,
        "reward_weight": 1.0,
        "ensemble": "mean",
        "ensemble_penalty": 0.0,
        "length_penalty": 0.0,
        "length_target": None,
        "units": Units((), 4.0),
    }
    return Rewards(**(options | changes))


# Two models in units: the first response is liked by one of them only, the second by both a little.
SPLIT = torch.tensor([[3.0, 0.5], [-1.0, 0.5]])


def test_the_mean_of_an_ensemble_falls_for_a_response_that_one_model_likes():
    assert combined(SPLIT, "mean", 0.0).tolist() == [1.0, 0.5]


def test_the_worst_of_an_ensemble_does_not():
    assert combined(SPLIT, "worst", 0.0).tolist() == [-1.0, 0.5]


def test_the_variance_between_models_is_taken_off_the_mean():
    # variance of 3 and -1 is ((3 - 1)^2 + (-1 - 1)^2) / 2 = 4, so 1 - 0.5 * 4 = -1; the models agree on the second
    assert combined(SPLIT, "mean-minus-variance", 0.5).tolist() == [-1.0, 0.5]


@pytest.mark.parametrize("ensemble", ["mean", "worst", "mean-minus-variance"])
def test_an_ensemble_of_one_is_that_model(ensemble):
    assert combined(SPLIT[:1], ensemble, 7.0).tolist() == [3.0, 0.5]


def test_units_are_the_mean_and_standard_deviation_of_the_references_responses_for_each_model():
    units = units_of(torch.tensor([[1.0, 5.0], [10.0, 10.4]]), torch.tensor([4.0, 8.0]))

    assert units.models[0] == ScoreUnit(mean=3.0, std=2.0)
    assert units.models[1].mean == pytest.approx(10.2) and units.models[1].std == pytest.approx(0.2)
    assert units.length == 6.0
    assert units.models[0].convert(torch.tensor([3.0, 7.0])).tolist() == [0.0, 2.0]


def test_scores_that_are_all_alike_have_a_unit_too():
    (unit,) = units_of(torch.tensor([[2.0, 2.0]]), torch.tensor([4.0, 8.0])).models

    assert unit == ScoreUnit(mean=2.0, std=1e-6)
    assert unit.convert(torch.tensor([2.0])).tolist() == [0.0]


def test_units_survive_a_runs_state_as_json():
    units = Units((ScoreUnit(0.1, 0.7), ScoreUnit(-3.0, 1e-6)), 12.5)

    assert Units.of(json.loads(json.dumps(asdict(units)))) == units


def test_only_tokens_beyond_the_target_cost():
    # 5 of 10 and 10 of 10 are free, 15 are half the target too long, 40 three times it
    assert length_excess(torch.tensor([5.0, 10.0, 15.0, 40.0]), 10.0).tolist() == [0.0, 0.0, 0.5, 3.0]


def test_a_response_twice_as_long_as_the_references_loses_the_length_penalty(words, asked):
    lengths = [len(tokenizer.response_ids(words, text)) for text in TEXTS]
    assert lengths[1] < lengths[0] < lengths[2]
    judge = without_models(words, length_penalty=2.0, units=Units((), lengths[0]))

    parts = judge.parts(*asked, TEXTS, microbatch=2)

    expected = [0.0, 0.0, 2 * (lengths[2] - lengths[0]) / lengths[0], 0.0]
    assert parts["length_penalty"].tolist() == pytest.approx(expected)
    assert parts["reward"].tolist() == pytest.approx([-value for value in expected])


def test_a_length_target_takes_the_place_of_the_references_length(words, asked):
    judge = without_models(words, length_penalty=1.0, length_target=1.0)
    lengths = [len(tokenizer.response_ids(words, text)) for text in TEXTS]

    assert judge.score(*asked, TEXTS, microbatch=2).tolist() == pytest.approx([1.0 - length for length in lengths])


def test_scores_without_units_are_refused(words, asked):
    with pytest.raises(ValueError, match="no units yet"):
        without_models(words, units=None).score(*asked, TEXTS, microbatch=2)


def test_names_are_separated_by_commas():
    assert names_of("reward-0001, reward-0002") == names_of(("reward-0001", "reward-0002"))
    assert names_of("") == ()


def test_a_reward_is_given_by_models_and_functions_in_one_option(words, workspace, judges, asked):
    judge = load("reward-0001,operator:length_hint=0.5", workspace, words, CPU)

    assert list(judge.models) == ["reward-0001"]
    assert [(function.name, function.weight) for function in judge.functions] == [("operator:length_hint", 0.5)]
    assert names_of("operator:length_hint") == ()


def test_one_model_twice_is_no_ensemble():
    with pytest.raises(InvalidInput, match="reward-0001 is named twice"):
        names_of("reward-0001,reward-0001")


def test_one_model_scores_in_units_of_the_references_responses(workspace, judges, words, asked):
    loaded = load("reward-0001", workspace, words, CPU)
    raw = scores(loaded.models["reward-0001"], words, asked[1], TEXTS, microbatch=4)

    judge = loaded.measured(asked[1], TEXTS, microbatch=3)
    found = judge.score(*asked, TEXTS, microbatch=2)

    assert not judge.models["reward-0001"].training
    assert not any(weight.requires_grad for weight in judge.models["reward-0001"].parameters())
    torch.testing.assert_close(found, (raw - raw.mean()) / raw.std(correction=0))
    assert found.mean().item() == pytest.approx(0.0, abs=1e-5)
    parts = judge.parts(*asked, TEXTS, microbatch=2)
    assert parts.keys() == {"reward", "score"}
    torch.testing.assert_close(parts["score"], raw)


def test_each_model_of_an_ensemble_has_its_own_units_and_its_own_number(workspace, judges, words, asked):
    judge = load("reward-0001,reward-0002", workspace, words, CPU, ensemble="worst", reward_weight=0.5)
    raw = judge.raw_scores(asked[1], TEXTS, microbatch=4)
    judge = judge.in_units(Units((ScoreUnit(1.0, 2.0), ScoreUnit(0.0, 0.5)), 5.0))

    parts = judge.parts(*asked, TEXTS, microbatch=4)

    first, second = (raw[0] - 1.0) / 2.0, raw[1] / 0.5
    torch.testing.assert_close(parts["reward"], 0.5 * torch.minimum(first, second))
    torch.testing.assert_close(parts["score_reward-0001"], raw[0])
    torch.testing.assert_close(parts["score_reward-0002"], raw[1])
    torch.testing.assert_close(parts["score"], (raw[0] + raw[1]) / 2)
    torch.testing.assert_close(parts["ensemble_disagreement"], (first - second).abs() / 2)  # of two: half the gap


def test_functions_and_models_are_mixed_by_their_weights(workspace, judges, words, asked, functions):
    functions("def long(prompts, responses):\n    return [float(len(text)) for text in responses]\n")
    options = {"reward_weight": 2.0, "reward_function": ["mine:long=0.25"]}
    judge = load("reward-0001", workspace, words, CPU, **options).measured(asked[1], TEXTS, microbatch=4)

    parts = judge.parts(*asked, TEXTS, microbatch=4)

    in_units = judge.units.models[0].convert(parts["score"])
    characters = torch.tensor([15.0, 8.0, 24.0, 5.0])
    torch.testing.assert_close(parts["function_mine:long"], characters)
    torch.testing.assert_close(parts["reward"], 2.0 * in_units + 0.25 * characters)


def test_a_model_of_another_vocabulary_is_named(workspace, judges, words):
    tokenizer.train(["Quite other words than these were."] * 20, 280).save_pretrained(judges[1])

    with pytest.raises(InvalidInput, match="reward-0002 has another vocabulary"):
        load("reward-0001,reward-0002", workspace, words, CPU)


def test_a_model_that_is_nowhere_is_named(workspace, words):
    with pytest.raises(NotFound, match="reward-0009"):
        load("reward-0009", workspace, words, CPU)


def test_a_run_may_be_judged_by_a_function_alone(workspace, words, asked, functions):
    functions(
        "def about_cats(prompts, responses):\n"
        "    asked = [prompt[-1] for prompt in prompts]\n"
        "    return [1.0 if turn == {'role': 'user', 'content': 'What do cats eat?'} else -1.0 for turn in asked]\n"
    )
    judge = load("", workspace, words, CPU, reward_function=["mine:about_cats=0.5"])
    judge = judge.measured(asked[1], TEXTS, microbatch=4)

    expected = [0.5 if "cats" in prompt.messages[0].content else -0.5 for prompt in asked[0]]
    assert judge.score(*asked, TEXTS, microbatch=4).tolist() == expected
    assert sorted(expected) == [-0.5, -0.5, -0.5, 0.5]


def test_a_weight_of_zero_turns_the_models_off(workspace, words, functions):
    functions("def one(prompts, responses):\n    return [1.0] * len(responses)\n")

    judge = load("not-there", workspace, words, CPU, reward_weight=0.0, reward_function=["mine:one"])

    assert not judge.models and judge.functions[0].weight == 1.0


def test_without_any_judge_there_is_nothing_to_learn(workspace, words):
    with pytest.raises(InvalidInput, match="Nothing would judge"):
        load("reward-0001", workspace, words, CPU, reward_weight=0.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ensemble": "median"}, "ensemble is 'median'; it is one of mean, worst"),
        ({"ensemble_penalty": -1.0}, "ensemble_penalty is -1.0"),
        ({"length_penalty": math.nan}, "length_penalty is nan"),
        ({"length_target": 0.0}, "length_target is 0.0"),
    ],
)
def test_an_option_that_cannot_be_is_refused(workspace, words, options, says):
    with pytest.raises(InvalidInput, match=says):
        load("reward-0001", workspace, words, CPU, **options)


def test_a_resumed_run_with_other_models_is_refused(words):
    with pytest.raises(InvalidInput, match="started with 2 reward models and now has 0"):
        without_models(words).in_units(Units((ScoreUnit(0, 1), ScoreUnit(0, 1)), 3.0))


@pytest.mark.parametrize("spec", ["mine", "mine:", ":one", "mine:one=", "mine:one=x", "mine:one=inf", ".mine:one"])
def test_a_function_is_named_by_module_and_name(spec, functions):
    functions("def one(prompts, responses):\n    return [1.0] * len(responses)\n")

    with pytest.raises(InvalidInput, match="is not module:function"):
        load_function(spec)


def test_a_module_or_function_that_is_nowhere_is_named(functions):
    functions("import a_module_that_is_not_there\n")
    with pytest.raises(InvalidInput, match="no module 'yours'"):
        load_function("yours:one")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):  # the trouble is inside of `mine`
        load_function("mine:one")
    with pytest.raises(InvalidInput, match="'json' has no function 'one'"):
        load_function("json:one")


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("[0.0, 1.0]", r"mine:f must return one finite number for each of the 3 responses, but returned 2 in a list"),
        ("0.5", r"mine:f .*, but returned 0\.5"),
        ("[0.0, None, 1.0]", r"mine:f .*, but gave None for response 2: 'second'"),
        ("[0.0, 1.0, float('nan')]", r"mine:f .*, but gave nan for response 3: 'third'"),
        ("[float('inf'), 1.0, 2.0]", r"mine:f .*, but gave inf for response 1: 'first'"),
        ("'abc'", r"mine:f .*, but returned 3 in a str"),
        ("{0: 1.0, 1: 1.0, 2: 1.0}", r"mine:f .*, but returned 3 in a dict"),
    ],
)
def test_a_function_that_returns_something_else_is_named_with_the_response(functions, asked, returned, says):
    functions(f"def f(prompts, responses):\n    return {returned}\n")

    with pytest.raises(InvalidInput, match=says):
        load_function("mine:f")(asked[0][:3], ["first", "second", "third"])


def test_a_function_may_return_a_tensor(functions, asked):
    functions("import torch\ndef f(prompts, responses):\n    return torch.arange(len(responses)) / 2\n")

    assert load_function("mine:f")(asked[0][:3], ["a", "b", "c"]) == [0.0, 0.5, 1.0]


def test_what_a_function_raises_passes_with_its_name(functions, asked):
    functions("def f(prompts, responses):\n    return 1 / 0\n")

    with pytest.raises(ZeroDivisionError) as caught:
        load_function("mine:f")(asked[0], TEXTS)
    assert "reward function mine:f" in caught.value.__notes__[0]


def test_the_penalty_of_an_ensemble_is_the_one_given(workspace, judges, words, asked):
    options = {"ensemble": "mean-minus-variance", "ensemble_penalty": 0.5}
    judge = load("reward-0001,reward-0002", workspace, words, CPU, **options)
    judge = judge.in_units(Units((ScoreUnit(0.0, 1.0), ScoreUnit(0.0, 1.0)), 5.0))
    one, other = judge.raw_scores(asked[1], TEXTS, microbatch=4)

    found = judge.score(*asked, TEXTS, microbatch=4)

    torch.testing.assert_close(found, (one + other) / 2 - 0.5 * ((one - other) / 2) ** 2)
