import pytest
import torch

from training.losses import (
    clipped_policy_loss,
    clipped_share,
    clipped_value_loss,
    masked_mean,
    update_kl,
)


def test_a_masked_mean_ignores_what_is_not_in_the_mask():
    values = torch.tensor([[1.0, 5.0, float("nan")]])

    assert masked_mean(values, torch.tensor([[True, True, False]])).item() == 3.0


def test_a_masked_mean_over_nothing_is_zero():
    assert masked_mean(torch.ones(2), torch.zeros(2, dtype=torch.bool)).item() == 0.0


def test_the_policy_loss_takes_the_worse_of_clipped_and_not():
    ratio = torch.tensor([[1.5, 0.5, 1.5, 0.5, 7.0]])
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0, 100.0]])
    is_response = torch.tensor([[True, True, True, True, False]])

    loss = clipped_policy_loss(ratio.log(), torch.zeros(1, 5), advantages, is_response, clip=0.2)

    # max(-1.5, -1.2) = -1.2; max(-0.5, -0.8) = -0.5; max(1.5, 1.2) = 1.5; max(0.5, 0.8) = 0.8; padding left out
    torch.testing.assert_close(loss, torch.tensor((-1.2 - 0.5 + 1.5 + 0.8) / 4))


def test_a_ratio_that_ran_away_counts_no_more_than_the_dual_clip():
    ratio, advantages = torch.tensor([[9.0, 2.0, 9.0]]), torch.tensor([[-1.0, -1.0, 1.0]])

    loss = clipped_policy_loss(
        ratio.log(), torch.zeros(1, 3), advantages, torch.ones(1, 3, dtype=torch.bool), clip=0.2, dual_clip=3.0
    )

    # min(9, 3) = 3; 2 stays; a positive advantage is clipped as ever: -1.2
    torch.testing.assert_close(loss, torch.tensor((3.0 + 2.0 - 1.2) / 3))


def test_the_kl_of_updates_is_estimated_over_response_tokens_alone():
    ratio, is_response = torch.tensor([[1.0, 2.0, 50.0]]), torch.tensor([[True, True, False]])

    found = update_kl(ratio.log(), torch.zeros(1, 3), is_response)

    # 1 - 1 - 0 = 0 and 2 - 1 - log 2 = 0.306853
    torch.testing.assert_close(found, torch.tensor(0.306853 / 2))


def test_padding_that_would_overflow_leaves_the_policy_gradient_finite():
    logprobs = torch.tensor([[0.0, 1e4]], requires_grad=True)

    clipped_policy_loss(
        logprobs, torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[True, False]]), clip=0.2
    ).backward()

    assert logprobs.grad.tolist() == [[-1.0, 0.0]]


def test_the_clipped_share_counts_response_tokens_alone():
    ratio = torch.tensor([[1.5, 1.1, 0.7, 9.0]])
    is_response = torch.tensor([[True, True, True, False]])

    share = clipped_share(ratio.log(), torch.zeros(1, 4), is_response, clip=0.2)

    assert share.item() == pytest.approx(2 / 3)


def test_the_value_loss_takes_the_worse_of_clipped_and_not():
    values, old_values, returns = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 0.9]]), torch.tensor([[1.0, 0.0]])

    loss = clipped_value_loss(values, old_values, returns, torch.tensor([[True, True]]), clip=0.2)

    # moved from 0 to 1: clipped to 0.2, (0.2 - 1)^2 = 0.64; moved from 0.9 to 1: not clipped, 1. Half of the mean.
    torch.testing.assert_close(loss, torch.tensor(0.5 * (0.64 + 1.0) / 2))
