"""What the stages minimise: pure functions of tensors, a mask named by what True means.

pairwise_ranking_loss                        the reward model
clipped_policy_loss, clipped_value_loss      PPO
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def masked_mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean of `values` over the places where `where` is True; both of one shape. A scalar; 0 if there are none."""
    return values.masked_fill(~where, 0).sum() / where.sum().clamp(min=1)


def decided_pairs(ranks: Tensor) -> Tensor:
    """Which response beat which: (rankings, K, K) bool, True at [r, i, j] where i was ranked better than j.

    ranks is (rankings, K) of integers: 1 is best, equal is a tie, 0 is a response without a rank (unrankable, or
    padding of a ranking with fewer than K). Ties and responses without a rank give no pair.
    """
    has_rank = ranks > 0
    return (ranks[:, :, None] < ranks[:, None, :]) & has_rank[:, :, None] & has_rank[:, None, :]


def pairwise_ranking_loss(scores: Tensor, ranks: Tensor) -> Tensor:
    """-log sigmoid(better - worse), the mean over a ranking's decided pairs, then the mean over rankings. A scalar.

    scores and ranks are (rankings, K), ranks as in `decided_pairs`. All K(K-1)/2 pairs of one ranking are one batch
    element: shuffled one by one into a data set, each response would be fitted K-1 times in an epoch
    (Ouyang et al. 2022, section 3.5). A ranking without a decided pair counts for nothing.
    """
    pairs = decided_pairs(ranks)
    margins = scores[:, :, None] - scores[:, None, :]
    per_ranking = (-logsigmoid(margins) * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)
    return masked_mean(per_ranking, pairs.any(2).any(1))


def pairs_right(scores: Tensor, ranks: Tensor) -> Tensor:
    """How many decided pairs of each ranking the scores order as the labeler did; equal scores are half right.

    scores and ranks (rankings, K); returns (rankings,) of floats, to be divided by the number of decided pairs.
    """
    margins = scores[:, :, None] - scores[:, None, :]
    return ((margins > 0) + 0.5 * (margins == 0)).mul(decided_pairs(ranks)).sum((1, 2))


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, is_response: Tensor, *, clip: float
) -> Tensor:
    """PPO's pessimistic surrogate, averaged over response tokens only.

    All (batch, tokens); is_response is True where the policy chose the token.
    max(-A * ratio, -A * clamp(ratio, 1 - clip, 1 + clip)), Schulman et al. 2017, eq. 7.
    """
    # Outside the response both sides are set to 0, so that padding can never overflow the exponential.
    ratio = (logprobs - old_logprobs).masked_fill(~is_response, 0).exp()
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
    return masked_mean(loss, is_response)


def clipped_share(logprobs: Tensor, old_logprobs: Tensor, is_response: Tensor, *, clip: float) -> Tensor:
    """The share of response tokens whose ratio lies outside [1 - clip, 1 + clip]. All (batch, tokens); a scalar."""
    ratio = (logprobs - old_logprobs).masked_fill(~is_response, 0).exp()
    return masked_mean(((ratio - 1).abs() > clip).float(), is_response)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, is_response: Tensor, *, clip: float
) -> Tensor:
    """Half the squared error of the values, pessimistic about moves further than `clip` from the old values.

    All (batch, tokens). 0.5 * max((V - R)^2, (clamp(V, V_old - clip, V_old + clip) - R)^2), over response tokens.
    """
    clipped = torch.clamp(values, old_values - clip, old_values + clip)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), is_response)
