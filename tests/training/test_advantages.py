import math

import pytest
import torch

from training.advantages import RunningScale, adapted, explained_variance, gae, outcomes, token_rewards, whiten


def test_a_response_that_was_cut_off_gets_the_bad_score_in_place_of_its_own():
    ended = torch.tensor([False, True, True])

    assert outcomes(torch.tensor([4.0, 0.0, 1.0]), ended, missing_end_score=-1.0).tolist() == [-1.0, 0.0, 1.0]


def test_a_response_that_was_cut_off_never_beats_one_that_ended():
    ended = torch.tensor([False, True])

    assert outcomes(torch.tensor([5.0, -3.0]), ended, missing_end_score=-1.0).tolist() == [-3.0, -3.0]


def test_the_running_scale_is_that_of_all_scores_so_far():
    scale = RunningScale().after(torch.tensor([1.0, 3.0])).after(torch.tensor([8.0, 4.0]))

    # 1, 3, 8, 4: mean 4, squared deviations 9 + 1 + 16 + 0 = 26
    assert (scale.count, scale.mean, scale.squares) == (4, 4.0, 26.0)
    assert scale.std == math.sqrt(26 / 4)


def test_scores_that_never_varied_are_not_divided():
    assert RunningScale().std == 1.0
    assert RunningScale().after(torch.tensor([2.0, 2.0])).std == 1.0


def test_the_kl_coefficient_follows_its_target_by_a_clipped_error():
    def after(kl):
        return adapted(0.1, kl, target=6.0, batch_size=100, horizon=1000)

    assert after(6.6) == pytest.approx(0.1 * (1 + 0.1 * 100 / 1000))
    assert after(60.0) == pytest.approx(0.1 * (1 + 0.2 * 100 / 1000))
    assert after(0.0) == pytest.approx(0.1 * (1 - 0.2 * 100 / 1000))


def test_without_a_target_the_kl_coefficient_stays():
    assert adapted(0.1, 60.0, target=None, batch_size=100, horizon=1000) == 0.1


def test_the_score_lands_on_the_last_response_token():
    is_response = torch.tensor([[True, True, False]])
    logprobs, ref_logprobs = torch.tensor([[-1.0, -2.0, -9.0]]), torch.tensor([[-1.0, -4.0, -3.0]])

    rewards = token_rewards(torch.tensor([5.0]), logprobs, ref_logprobs, is_response, kl_coef=0.1)

    # token 2 is worth 5 - 0.1 * (-2 - -4) = 4.8; padding earns nothing
    torch.testing.assert_close(rewards, torch.tensor([[0.0, 4.8, 0.0]]))


def test_a_full_response_has_its_score_on_the_last_column():
    zeros, is_response = torch.zeros(1, 2), torch.tensor([[True, True]])

    assert token_rewards(torch.tensor([3.0]), zeros, zeros, is_response, kl_coef=1.0).tolist() == [[0.0, 3.0]]


def test_the_third_estimator_of_the_kl_is_never_negative():
    is_response = torch.tensor([[True, True, False]])
    logprobs, ref_logprobs = torch.tensor([[-1.0, -2.0, -9.0]]), torch.tensor([[-2.0, -1.0, -300.0]])

    rewards = token_rewards(torch.tensor([0.0]), logprobs, ref_logprobs, is_response, kl_coef=2.0, estimator="k3")

    # log-ratios 1 and -1: exp(-1) - 1 + 1 = 0.367879 and exp(1) - 1 - 1 = 0.718282, each twice and taken off
    torch.testing.assert_close(rewards, torch.tensor([[-0.735759, -1.436564, 0.0]]))


def test_advantages_are_the_discounted_sum_of_surprises():
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.4, 0.6]])

    advantages, returns = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), gamma=1.0, lam=0.5)

    # delta: 0.4 - 0.5 = -0.1, 0.6 - 0.4 = 0.2, 1 - 0.6 = 0.4; backwards 0.4, 0.2 + 0.5*0.4 = 0.4, -0.1 + 0.5*0.4 = 0.1
    torch.testing.assert_close(advantages, torch.tensor([[0.1, 0.4, 0.4]]))
    torch.testing.assert_close(returns, torch.tensor([[0.6, 0.8, 1.0]]))


def test_gamma_discounts_the_next_value():
    advantages, _ = gae(
        torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[True, True]]), gamma=0.5, lam=1.0
    )

    # delta 2: 2 - 1 = 1; delta 1: 0 + 0.5*1 - 0 = 0.5, plus 0.5*1*1 = 1
    torch.testing.assert_close(advantages, torch.tensor([[1.0, 1.0]]))


def test_what_stands_after_the_response_changes_no_advantage():
    is_response = torch.tensor([[True, False]])

    advantages, returns = gae(torch.tensor([[1.0, 7.0]]), torch.tensor([[0.25, 9.0]]), is_response, gamma=1.0, lam=1.0)

    assert advantages.tolist() == [[0.75, 0.0]] and returns.tolist() == [[1.0, 0.0]]


def test_whitening_looks_at_response_tokens_only():
    whitened = whiten(torch.tensor([[1.0, 3.0], [100.0, 5.0]]), torch.tensor([[True, True], [False, True]]))

    # mean 3, variance (4 + 0 + 4) / 3 -> deviation 1.632993, so -2 becomes -1.224745
    torch.testing.assert_close(whitened, torch.tensor([[-1.224745, 0.0], [0.0, 1.224745]]))


def test_whitening_without_a_shift_keeps_the_sign_of_the_mean():
    whitened = whiten(
        torch.tensor([[1.0, 3.0], [100.0, 5.0]]), torch.tensor([[True, True], [False, True]]), shift_mean=False
    )

    # deviation 1.632993 as above: 1, 3 and 5 over it
    torch.testing.assert_close(whitened, torch.tensor([[0.612372, 1.837117], [0.0, 3.061862]]))


def test_whitening_a_constant_gives_zeros_and_not_infinity():
    assert whiten(torch.full((2, 2), 7.0), torch.ones(2, 2, dtype=torch.bool)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_perfect_value_model_explains_all_and_a_constant_nothing():
    returns, everywhere = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool)

    assert explained_variance(returns, returns, everywhere).item() == 1.0
    assert explained_variance(torch.full((1, 3), 8.0), returns, everywhere).item() == 0.0
    # residuals 3, 2, 1 are as spread as the returns twice over: values 0, 2, 4 leave 1, 0, -1, variance equal
    assert explained_variance(torch.tensor([[3.0, 2.0, 1.0]]), returns, everywhere).item() == -3.0


def test_returns_that_do_not_vary_have_nothing_to_explain():
    constant = torch.ones(1, 2)

    assert explained_variance(torch.tensor([[0.0, 3.0]]), constant, torch.tensor([[True, True]])).item() == 0.0
