"""FLOPs, bytes and utilisation against numbers worked out by hand, and against what torch counts itself."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForSequenceClassification

from training import throughput
from training.throughput import Dimensions, Limits

DIMS = Dimensions(body=100, head=10, layers=2, width=4, kv_width=2)


def test_the_weights_of_a_model_are_counted_where_tokens_pass_through_them(policy):
    found = throughput.dimensions(policy)

    # a layer: queries and output 16 * 16 each, keys and values 16 * 8 each, three matrices of 16 * 32
    assert found.body == 2 * (2 * 256 + 2 * 128 + 3 * 512)
    assert found.head == 300 * 16  # shared with the embeddings, whose look-up is free
    assert (found.layers, found.width, found.kv_width, found.frozen) == (2, 16, 8, False)


def test_a_scalar_model_has_a_head_of_one_row(policy):
    config = copy.deepcopy(policy.config)
    config.num_labels = 1

    found = throughput.dimensions(LlamaForSequenceClassification(config))

    assert (found.body, found.head) == (4608, 16)


def test_a_model_whose_matrices_get_no_gradient_is_frozen(policy):
    policy.requires_grad_(False)

    assert throughput.dimensions(policy).frozen


def test_a_forward_pass_costs_two_flops_a_weight_and_causal_attention_once():
    # 3 tokens through the body: 600; logits at 2 of them: 40; attention over 1 + 2 + 3 places: 4 * 2 * 4 * 6 = 192
    assert throughput.forward_flops(DIMS, [3], [2]) == 832
    # one more sequence, of 1 token and none predicted: 200 + 4 * 2 * 4 * 1
    assert throughput.forward_flops(DIMS, [3, 1], [2, 0]) == 832 + 232


def test_torch_counts_the_same_flops_apart_from_the_half_of_attention_that_is_masked(policy):
    ids = torch.arange(10, 18)[None]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it knows no fused attention on CPUs
        policy(input_ids=ids)

    attention = 4 * 2 * 16  # times places looked at
    square = attention * (8 * 8 - 8 * 9 / 2)
    assert throughput.forward_flops(throughput.dimensions(policy), [8], [8]) + square == counter.get_total_flops()


def test_a_ranking_costs_its_prompt_once_and_each_response_once():
    # trained on: a row of 3 tokens 3 * (600 + 20 + 192), one of 4 tokens 3 * (800 + 20 + 320), of which the prompt of 2
    # tokens, 3 * (400 + 0 + 96), was computed before
    assert throughput.ranking_flops(DIMS, 2, [1, 2]) == 3 * (812 + 1140) - 3 * 496


def test_training_costs_three_forward_passes_and_less_where_weights_are_frozen():
    frozen = Dimensions(100, 10, 2, 4, 2, frozen=True)

    assert throughput.training_flops(DIMS, [3], [2]) == 3 * 832
    assert throughput.training_flops(frozen, [3], [2]) == 3 * 832 - 640


def test_sampling_passes_over_all_tokens_but_the_last():
    # 2 tokens of prompt, 2 of response: 3 tokens are fed, 2 predicted
    assert throughput.sampling_flops(DIMS, [2], [2]) == 832


def test_sampling_reads_the_weights_at_every_step_and_the_cache_of_rows_that_go_on():
    # 8 numbers a cached token. The row of 2 tokens has one step, that looks at 3 tokens; the row of 1 token none.
    assert throughput.sampling_bytes(DIMS, [2, 5], [2, 1], element=2) == 2 * (110 * 2 + 8 * 3)


def test_a_batch_of_ppo_costs_eight_flops_a_weight_and_twelve_more_in_each_pass():
    plain = Dimensions(body=10, head=0, layers=0, width=0, kv_width=0)

    found = throughput.ppo_flops(plain, plain, [plain], [2], [2], policy_passes=4, value_passes=4)

    # 4 tokens: reference, reward and value model 2 * 10 each; policy and value model 6 * 10 each in 4 passes
    assert found == {"sampling": 2 * 10 * 3, "scoring": 3 * 2 * 10 * 4, "update": 4 * 2 * 6 * 10 * 4}


def test_what_does_not_happen_in_a_batch_of_ppo_costs_nothing():
    plain = Dimensions(body=10, head=0, layers=0, width=0, kv_width=0)

    found = throughput.ppo_flops(plain, plain, [], [2], [2], policy_passes=0, value_passes=1)

    assert found == {"sampling": 60, "scoring": 2 * 2 * 10 * 4, "update": 6 * 10 * 4}


def test_utilisation_is_the_share_of_what_the_device_could_do():
    device = Limits(flops=100e12, bandwidth=2e12)

    assert throughput.mfu(50e12, 2.0, device) == 0.25
    assert throughput.mbu(1e12, 2.0, device) == 0.25


def test_a_device_that_is_in_no_table_is_measured_once():
    found = throughput.limits(torch.device("cpu"))

    assert found.flops > 1e8 and found.bandwidth > 1e8
    assert throughput.limits(torch.device("cpu")) is found


def test_measuring_a_device_leaves_the_random_numbers_of_the_run_as_they_were():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    throughput.limits.cache_clear()  # as in a process that has just gone on with a run

    throughput.limits(torch.device("cpu"))

    assert torch.equal(torch.get_rng_state(), before)


def test_ppo_reports_its_use_of_the_device(policy, monkeypatch):
    monkeypatch.setattr(throughput, "limits", lambda device: Limits(flops=1e9, bandwidth=1e9))
    config = copy.deepcopy(policy.config)
    config.num_labels = 1
    scalar = LlamaForSequenceClassification(config)
    seconds = {"sampling": 1.0, "scoring": 1.0, "update": 2.0}

    found = throughput.ppo_use(
        policy, scalar, [scalar], [4, 4], [4, 2], policy_passes=1, value_passes=1, seconds=seconds, element=4
    )

    # weights 9408 at 4 steps; 32 numbers a cached token: 3 * 4 + 6 and 1 * 4 + 1 places; 4 bytes each
    assert found["sampling_mbu"] == pytest.approx(4 * (9408 * 4 + 32 * 23) / 1e9)
    # policy: body and head 6 FLOPs a weight at 14 and 6 tokens; value model: a head of 16; attention 3 * 128 * 57 each
    update = 6 * (4608 * 14 + 4800 * 6) + 6 * (4608 * 14 + 16 * 6) + 2 * 3 * 128 * 57
    assert found["update_mfu"] == pytest.approx(update / (2.0 * 1e9))
    assert found["update_mfu"] / 2 < found["mfu"] < found["update_mfu"]
