"""PPO's updates on real rollouts of a microscopic policy: what one batch does to policy and value model."""

import copy
import math
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from training import engine, ptx
from training import model as models_of
from training.advantages import whiten
from training.model import scalar_from_policy
from training.ppo import Config
from training.rollouts import (
    Rollouts,
    Sampling,
    assemble,
    logprobs_and_entropy_in,
    response_logprobs,
    sample,
    values_in,
)
from training.update import (
    ADAM_EPS,
    check_first_ratio,
    first_microbatches,
    improve,
    make_optimizer,
    minibatches,
    passes,
    policy_loss,
    set_learning_rates,
    trained,
    value_loss,
)

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
ROWS = 8


def a_config(**changes):
    options = {"steps": 4, "batch_size": ROWS, "minibatch_size": 4, "microbatch": 3, "epochs": 2, "max_new_tokens": 8}
    options |= {"temperature": 0.8, "learning_rate": 3e-3, "value_learning_rate": 3e-3}
    return Config(Path("s"), "a", "b", "c", **(options | changes))


@pytest.fixture
def learners(policy, saved_policy, words):
    """A policy and a value model, as `Models` holds them."""
    torch.manual_seed(1)
    return SimpleNamespace(policy=policy, value=scalar_from_policy(saved_policy, words).eval())


@pytest.fixture
def sampled(learners, words):
    """Eight responses of 1 to 8 tokens to prompts of unlike length."""
    prompts = [words("What do cats eat?" * n).input_ids for n in (1, 2, 3, 1, 4, 1, 2, 1)]
    drawn = sample(learners.policy, words, prompts, Sampling(8, 0.8, ROWS), torch.Generator().manual_seed(0))
    ids = [row[:n] for row, n in zip(drawn.response_ids, (8, 3, 5, 8, 1, 6, 8, 4), strict=True)]
    samples = engine.Samples(ids, [[0.0] * len(row) for row in ids], [True] * ROWS)
    return assemble(prompts, samples, words.pad_token_id, CPU)


@pytest.fixture
def batch(sampled, learners):
    """Those responses judged, with advantages and returns drawn at random."""
    return judged(sampled, learners, a_config())


def judged(sampled, learners, config):
    groups = first_microbatches(sampled, config, 0)
    old, entropy = logprobs_and_entropy_in(groups, learners.policy, sampled, temperature=config.temperature)
    rollouts = Rollouts(
        **(vars(sampled) | {"old_logprobs": old}),
        engine_logprobs=sampled.old_logprobs,
        entropy=entropy,
        ref_logprobs=old,
        scores=torch.zeros(ROWS),
        values=values_in(groups, learners.value, sampled),
    )
    drawn = torch.randn(old.shape, generator=torch.Generator().manual_seed(2))
    return rollouts, whiten(drawn, rollouts.is_response), rollouts.values + drawn


def update(learners, batch, config, optimizer=None, step=0, **more):
    optimizer = optimizer or make_optimizer(learners, config)
    return improve(learners, optimizer, *batch, config, step, Accelerator(cpu=True), **more)


def weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_each_pass_holds_every_row_once_in_an_order_of_its_own():
    config = a_config()
    orders = [torch.cat(list(minibatches(config, step, epoch, CPU))).tolist() for step in (0, 1) for epoch in (0, 1)]

    assert all(sorted(order) == list(range(ROWS)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    again = list(passes(config, 0, CPU))
    assert [rows.tolist() for rows in again] == [orders[0][:4], orders[0][4:], orders[1][:4], orders[1][4:]]


def test_the_first_microbatches_are_those_of_the_first_pass(batch):
    config = a_config()
    found = first_microbatches(batch[0], config, 0)

    first = set(minibatches(config, 0, 0, CPU)[0].tolist())
    assert sorted(torch.cat(found).tolist()) == list(range(ROWS))
    assert all(set(rows.tolist()) <= first or not set(rows.tolist()) & first for rows in found)


def test_adam_has_the_epsilon_of_the_original_and_no_decay(learners):
    optimizer = make_optimizer(learners, a_config(learning_rate=1e-4, value_learning_rate=2e-4))

    assert ADAM_EPS == 1e-5
    assert [(g["lr"], g["eps"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (1e-4, 1e-5, 0),
        (2e-4, 1e-5, 0),
    ]


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({}, [1.0, 0.75, 0.5, 0.25]),
        ({"lr_schedule": "constant"}, [1.0, 1.0, 1.0, 1.0]),
        ({"lr_schedule": "constant", "warmup": 2}, [0.5, 1.0, 1.0, 1.0]),
        ({"warmup": 2}, [0.5, 0.75, 0.5, 0.25]),
    ],
)
def test_the_learning_rates_rise_and_fall(learners, changes, rates):
    config = a_config(learning_rate=1.0, value_learning_rate=2.0, **changes)
    optimizer = make_optimizer(learners, config)
    found = []
    for step in range(4):
        set_learning_rates(optimizer, config, step)
        found.append([group["lr"] for group in optimizer.param_groups])

    assert found == [[rate, 2 * rate] for rate in rates]


def test_each_minibatch_of_each_pass_is_one_optimizer_step(learners, batch):
    config = a_config()  # 8 rows in minibatches of 4, twice
    optimizer = make_optimizer(learners, config)

    found = update(learners, batch, config, optimizer)

    assert found["updates"] == 4
    assert {state["step"].item() for state in optimizer.state.values()} == {4}


def test_the_first_ratio_is_one_to_the_last_bit(learners, batch):
    found = update(learners, batch, a_config())

    assert found["ratio_first"] == 1.0
    assert found["update_kl"] > 0 and found["policy_grad_norm"] > 0


def test_a_first_ratio_off_one_is_an_error():
    check_first_ratio(1e-5)
    for gap in (0.01, float("nan")):
        with pytest.raises(ArithmeticError, match="disagree about the policy"):
            check_first_ratio(gap)


def test_dropout_in_the_update_is_found_out(learners, batch):
    for layer in learners.policy.model.layers:
        layer.self_attn.attention_dropout = 0.5
    update(copy.deepcopy(learners), batch, a_config())  # in eval mode it does nothing

    learners.policy.train()
    with pytest.raises(ArithmeticError):
        update(learners, batch, a_config())


def test_another_temperature_in_the_update_is_found_out(learners, batch):
    with pytest.raises(ArithmeticError):
        update(learners, batch, a_config(temperature=1.0))


def test_microbatches_change_no_gradient(learners, batch):
    """Losses are means over the minibatch's response tokens, also where rows and microbatches are of unlike length."""
    moved = []
    for microbatch in (1, 8):
        own = copy.deepcopy(learners)
        config = a_config(microbatch=microbatch, minibatch_size=8, epochs=1)
        sgd = torch.optim.SGD([{"params": trained(own.policy)}, {"params": trained(own.value)}], lr=1.0)
        update(own, batch, config, sgd)
        moved.append((weights(own.policy), weights(own.value)))

    torch.testing.assert_close(moved[0], moved[1], atol=1e-6, rtol=1e-5)
    assert not torch.equal(moved[0][0], weights(learners.policy))


def test_the_loss_is_a_mean_over_tokens_and_not_over_responses(learners, batch):
    rollouts, advantages, _ = batch
    whole, _ = policy_loss(learners.policy, rollouts, advantages, a_config())

    # every ratio is 1, so the loss is minus the mean advantage of all response tokens
    torch.testing.assert_close(whole, -advantages[rollouts.is_response].mean())


def test_the_value_loss_weighs_as_much_as_it_is_told_to(learners, batch):
    rollouts, _, returns = batch

    half, reported = value_loss(learners.value, rollouts, returns, a_config(value_coef=0.5))
    twice, _ = value_loss(learners.value, rollouts, returns, a_config(value_coef=2.0))

    # the values are the old ones, so nothing is clipped: half the mean squared error, times the weight
    error = (rollouts.values - returns)[rollouts.is_response].square().mean() / 2
    torch.testing.assert_close(torch.stack([half, twice]), torch.stack([0.5 * error, 2.0 * error]))
    torch.testing.assert_close(reported["value_loss"], error)


def test_padding_has_no_part_in_the_gradient(learners, batch):
    rollouts, advantages, returns = batch
    loud = [tensor.masked_fill(~rollouts.is_response, 1e4) for tensor in (rollouts.old_logprobs, advantages, returns)]
    spoiled = Rollouts(**(vars(rollouts) | {"old_logprobs": loud[0]}))
    own = copy.deepcopy(learners)

    quiet = update(learners, batch, a_config())
    found = update(own, (spoiled, *loud[1:]), a_config())

    assert found == quiet
    assert torch.equal(weights(own.policy), weights(learners.policy))


def test_gradients_are_clipped_for_policy_and_value_model_each(learners, batch):
    before = weights(learners.policy), weights(learners.value)
    config = a_config(minibatch_size=8, epochs=1, max_grad_norm=1e-3)
    sgd = torch.optim.SGD([{"params": trained(learners.policy)}, {"params": trained(learners.value)}], lr=1.0)

    found = update(learners, batch, config, sgd)

    assert min(found["policy_grad_norm"], found["value_grad_norm"]) > 1e-2
    for old, model in zip(before, (learners.policy, learners.value), strict=True):
        assert (weights(model) - old).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_in_the_warm_up_of_the_value_model_the_policy_stays_as_it_is(learners, batch):
    before = weights(learners.policy), weights(learners.value)
    config = a_config(value_warmup=2)

    for step in (0, 1):
        found = update(learners, batch, config, step=step)

    assert torch.equal(weights(learners.policy), before[0]) and not torch.equal(weights(learners.value), before[1])
    assert found.keys() == {"value_loss", "padding", "value_grad_norm", "updates"}
    assert "ratio_first" in update(learners, batch, config, step=2)
    assert not torch.equal(weights(learners.policy), before[0])


def test_the_passes_end_when_the_policy_has_moved_far_enough(learners, batch):
    config = a_config(learning_rate=1e-2, epochs=6, minibatch_size=8)
    one = copy.deepcopy(learners)
    update(one, batch, a_config(learning_rate=1e-2, epochs=1, minibatch_size=8))

    found = update(learners, batch, a_config(**{**vars_of(config), "target_update_kl": 1e-6}))

    assert found["updates"] == 1
    assert torch.equal(weights(learners.policy), weights(one.policy))
    assert all(weight.grad is None for weight in learners.policy.parameters())


def vars_of(config):
    names = ("learning_rate", "epochs", "minibatch_size")
    return {name: getattr(config, name) for name in names}


def test_the_moving_average_follows_the_policy_slowly(learners, batch):
    before = weights(learners.policy)
    average = [weight.detach().clone() for weight in trained(learners.policy)]

    update(learners, batch, a_config(minibatch_size=8, epochs=1, ema=0.75), average=average)

    found = torch.cat([weight.flatten() for weight in average])
    torch.testing.assert_close(found, 0.75 * before + 0.25 * weights(learners.policy))


def test_recomputed_layers_learn_the_same(learners, batch):
    own = copy.deepcopy(learners)

    plain = update(learners, batch, a_config())
    found = update(own, batch, a_config(gradient_checkpointing=True))

    assert found["ratio_first"] == 1.0
    assert found["policy_loss"] == pytest.approx(plain["policy_loss"])
    torch.testing.assert_close(weights(own.policy), weights(learners.policy))


def test_no_update_holds_logits_of_batch_tokens_and_vocabulary(learners, batch, monkeypatch, largest_tensor):
    monkeypatch.setattr(models_of, "MAX_LOGITS", 4 * 300)

    with largest_tensor as largest:
        found = update(learners, batch, a_config(microbatch=8))

    tokens = int(batch[0].is_response.sum())
    assert tokens > 20 and found["ratio_first"] == 1.0
    # the responses' logits would be tokens * 300 > 6,000; the tied embeddings and their gradient are 300 x 16 = 4,800
    assert largest.numel == 4800


@pytest.fixture
def bf16():
    AcceleratorState._reset_state(True)
    yield Accelerator(mixed_precision="bf16", cpu=True)
    AcceleratorState._reset_state(True)


def test_in_bf16_the_first_ratio_is_one_too_and_the_weights_stay_in_fp32(learners, sampled, batch, bf16):
    config = a_config()
    with bf16.autocast():
        in_bf16 = judged(sampled, learners, config)
    before = weights(learners.policy)

    found = improve(learners, make_optimizer(learners, config), *in_bf16, config, 0, bf16)

    gap = (in_bf16[0].old_logprobs - batch[0].old_logprobs).abs().max().item()
    assert gap > 1e-4  # it is bf16
    assert found["ratio_first"] == 1.0
    assert weights(learners.policy).dtype == torch.float32 and not torch.equal(weights(learners.policy), before)


def test_the_updates_raise_the_probability_of_what_was_better_than_expected(learners, batch):
    rollouts, advantages, _ = batch

    update(learners, batch, a_config(minibatch_size=8, epochs=4))

    with torch.no_grad():
        moved = response_logprobs(learners.policy, rollouts, 0.8) - rollouts.old_logprobs
    better, worse = (rollouts.is_response & (advantages > 0)), (rollouts.is_response & (advantages < 0))
    assert moved[better].mean() > 0 > moved[worse].mean()


def test_each_update_starts_from_no_gradient(learners, batch):
    still = {"minibatch_size": 8, "learning_rate": 0.0, "value_learning_rate": 0.0, "max_grad_norm": 1e9}

    once = update(learners, batch, a_config(epochs=1, **still))
    twice = update(learners, batch, a_config(epochs=2, **still))

    # nothing moves, so each pass over the whole batch finds the same gradient: added up, the second would be double
    for name in ("policy_grad_norm", "value_grad_norm"):
        assert twice[name] == pytest.approx(once[name], rel=1e-4)


def test_the_losses_are_clipped_around_what_the_batch_was_sampled_with(learners, batch):
    rollouts, advantages, _ = batch
    config, better = a_config(clip=0.1, value_clip=0.3), torch.ones_like(advantages)
    moved = {"old_logprobs": rollouts.old_logprobs - math.log(1.5), "values": rollouts.values - 1}
    before = Rollouts(**(vars(rollouts) | moved))

    found = [
        policy_loss(learners.policy, before, better, config)[0],
        policy_loss(learners.policy, before, -better, config)[0],
        policy_loss(learners.policy, before, -better, a_config(clip=0.1, dual_clip=1.2))[0],
        value_loss(learners.value, before, rollouts.values, config)[0],
    ]

    # every ratio is 1.5: max(-1.5, -1.1), max(1.5, 1.1), and no more than 1.2; each value moved by 1 onto its return
    # and is clipped to a move of 0.3: value_coef 0.5 times half of 0.7^2
    torch.testing.assert_close(torch.stack(found), torch.tensor([-1.1, 1.5, 1.2, 0.1225]), atol=1e-5, rtol=1e-4)


def test_a_ratio_below_one_is_as_far_off_as_one_above(learners, batch):
    rollouts, advantages, _ = batch
    for factor in (0.5, 1.5):
        before = Rollouts(**(vars(rollouts) | {"old_logprobs": rollouts.old_logprobs - math.log(factor)}))

        _, measured = policy_loss(learners.policy, before, advantages, a_config())

        assert measured["ratio_gap"].item() == pytest.approx(0.5, abs=1e-4)


def test_the_moving_average_takes_a_step_in_each_update(learners, batch):
    followed = [weight.detach().clone() for weight in trained(learners.policy)]
    seen, wanted = [], weights(learners.policy)
    optimizer = make_optimizer(learners, a_config())
    optimizer.register_step_post_hook(lambda *_: seen.append(weights(learners.policy)))

    update(learners, batch, a_config(ema=0.75), optimizer, average=followed)

    assert len(seen) == 4
    for after in seen:
        wanted = 0.75 * wanted + 0.25 * after
    torch.testing.assert_close(torch.cat([weight.flatten() for weight in followed]), wanted)


def test_each_update_reads_text_of_its_own_and_what_is_clipped_has_it_in(learners, batch):
    read, before = [], weights(learners.policy)

    class Text(ptx.Mix):
        def of_update(self, number):
            read.append(number)
            return super().of_update(number)

    mix = Text(torch.randint(6, 300, (4, 16), generator=torch.Generator().manual_seed(5)), rows=2, coef=2.0)
    config = a_config(max_grad_norm=1e-3)
    sgd = torch.optim.SGD([{"params": trained(learners.policy)}, {"params": trained(learners.value)}], lr=1.0)

    found = update(learners, batch, config, sgd, step=3, mix=mix)

    assert read == [12, 13, 14, 15]  # four updates in each of the steps before
    assert found["ptx_loss"] > 0 and found["policy_grad_norm"] > 1e-2
    assert (weights(learners.policy) - before).norm().item() < 4 * 1.001e-3  # four steps of 1e-3 at most


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_on_two_threads_each_model_learns_on_its_own_what_it_learns_on_one(learners, batch, two_threads):
    alone, where = copy.deepcopy(vars(learners)), {}
    for name, model in vars(learners).items():

        def notice(*_, name=name):
            where[name] = threading.get_ident(), torch.get_num_threads()

        model.base_model.layers[0].register_forward_pre_hook(notice)

    found = update(learners, batch, a_config())

    torch.set_num_threads(1)
    expected = update(SimpleNamespace(**alone), batch, a_config())

    assert where["policy"] == (threading.get_ident(), 1) and where["value"][0] != threading.get_ident()
    assert found == expected
    for name, model in alone.items():
        assert torch.equal(weights(getattr(learners, name)), weights(model))


def test_layers_are_computed_again_in_the_backward_pass_where_it_is_asked_for(learners, batch):
    calls = {"policy": 0, "value": 0}
    for name in calls:

        def count(*_, name=name):
            calls[name] += 1

        getattr(learners, name).model.layers[0].self_attn.register_forward_pre_hook(count)
    text = ptx.Mix(torch.randint(6, 300, (4, 16), generator=torch.Generator().manual_seed(5)), rows=2, coef=1.0)
    options = {"minibatch_size": 8, "microbatch": 8, "epochs": 1, "learning_rate": 0.0, "value_learning_rate": 0.0}

    update(learners, batch, a_config(**options), mix=text)
    once = dict(calls)
    update(learners, batch, a_config(**options, gradient_checkpointing=True), mix=text)

    assert min(once.values()) > 0
    assert calls == {name: 3 * number for name, number in once.items()}  # once, and then twice


def test_no_forward_pass_has_more_rows_than_a_microbatch(learners, batch):
    rows = []
    for model in (learners.policy, learners.value):
        model.model.layers[0].register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))

    update(learners, batch, a_config(minibatch_size=8, microbatch=2, epochs=1))

    assert sum(rows) == 2 * ROWS and max(rows) <= 2


def test_the_share_of_clipped_tokens_goes_by_the_policys_clip(learners, batch):
    rollouts, advantages, _ = batch
    before = Rollouts(**(vars(rollouts) | {"old_logprobs": rollouts.old_logprobs - math.log(1.2)}))

    found = [
        policy_loss(learners.policy, before, advantages, a_config(clip=clip, value_clip=0.3 - clip))[1]
        for clip in (0.1, 0.25)
    ]

    assert [one["clip_fraction"].item() for one in found] == [1.0, 0.0]  # every ratio is 1.2
