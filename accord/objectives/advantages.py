"""Advantages: how much better a sample, or a token, was than expected. None of them carries a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from accord.objectives.segments import last_index, require_between, require_index, require_sorted, require_vectors


def leave_one_out(rewards: Tensor) -> Tensor:
    """Every sample's reward minus the mean of its siblings', `r_i - 1/(G-1) sum over j != i of r_j`.

    RLOO (Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740). The baseline does not depend on the sample, so the
    policy gradient stays unbiased. Samples with identical rewards get exactly 0.

    Args:
        rewards: (P, G), the rewards of the G samples of every prompt, G at least 2, all finite.

    Returns:
        (P, G).
    """
    samples = _require_groups(rewards)
    return _centered(rewards) * (samples / (samples - 1))


def group(rewards: Tensor, *, scale: bool = True) -> Tensor:
    """Every sample's reward minus its group's mean, over the group's standard deviation, `(r_i - mean) / std`.

    GRPO (Shao et al. 2024, arXiv:2402.03300, section 4.1.2), with the sample deviation (over G - 1). Without scale it
    is Dr. GRPO (Liu et al. 2025, arXiv:2503.20783), whose expected gradient is (G-1)/G times the policy gradient; with
    it the gradient is not proportional to the policy gradient. Samples with identical rewards get exactly 0.

    Args and returns as for `leave_one_out`; `scale` divides by the standard deviation.
    """
    samples = _require_groups(rewards)
    centered = _centered(rewards)
    if not scale:
        return centered
    # Scaling by the largest first keeps the squares of very large or very small rewards representable.
    largest = centered.abs().amax(1, keepdim=True)
    unit = centered / torch.where(largest > 0, largest, 1)
    deviation = (unit.square().sum(1, keepdim=True) / (samples - 1)).sqrt()
    return unit / torch.where(deviation > 0, deviation, 1)


def reward_to_go(rewards: Tensor, owner: Tensor) -> Tensor:
    """The reward to go, `G_t = sum over k >= t of r_k`, within each owner's rewards.

    An action does not affect the rewards before it, so the policy gradient with G_t in place of the sum of all rewards
    has the same expectation, without the noise of the earlier ones (GPOMDP: Baxter and Bartlett 2001, "Infinite-horizon
    policy-gradient estimation").

    Args:
        rewards: (K,), in order of time.
        owner: (K,) integers, non-decreasing: the episode each reward belongs to.

    Returns:
        (K,), summed from the last backwards, so that equal episodes give equal numbers.
    """
    return gae(rewards, torch.zeros_like(rewards), owner, gamma=1.0, lam=1.0)[1]


def gae(rewards: Tensor, values: Tensor, owner: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimates and the returns they imply.

    `A_t = delta_t + gamma lam A_(t+1)` with `delta_t = r_t + gamma V_(t+1) - V_t`; past a completion's last token V and
    A are 0. Schulman et al. (2016, arXiv:1506.02438, eq. 16). With lam = 1 the advantage is the discounted return-to-go
    minus the value, with lam = 0 the residual delta.

    Args:
        rewards: (N,), the reward of every trained token.
        values: (N,), V, the value before it.
        owner: (N,) integers, non-decreasing: the completion each token belongs to.
        gamma: the discount, in [0, 1].
        lam: how far advantages look ahead, in [0, 1].

    Returns:
        Advantages (N,) and returns (N,), advantage plus value. Computed in float64 whatever the dtype.
    """
    require_vectors(rewards=rewards, values=values)
    require_index("owner", owner, len(rewards))
    require_sorted(owner)
    require_between(0.0, 1.0, gamma=gamma, lam=lam)
    # A recurrence over tokens is faster on Python floats than with a tensor operation per token.
    advantages: list[float] = []
    advantage, following, branch = 0.0, 0.0, -1
    backward = (x.detach().tolist()[::-1] for x in (rewards, values, owner))
    for reward, here, token_owner in zip(*backward, strict=True):
        if token_owner != branch:
            advantage, following, branch = 0.0, 0.0, token_owner
        advantage = reward + gamma * following - here + gamma * lam * advantage
        following = here
        advantages.append(advantage)
    exact = torch.tensor(advantages[::-1], dtype=torch.float64)
    returns = exact + values.detach().cpu().double()
    return exact.to(rewards), returns.to(rewards)


def token_rewards(kl: Tensor, scores: Tensor, owner: Tensor, *, coefficient: float) -> Tensor:
    """The reward of every token: `-coefficient * kl`, plus the completion's score on its last token.

    Summed over a completion it is the reward of KL-regularized policy optimization, `r(x, y) - beta log(pi / pi_ref)`
    (Ziegler et al. 2019, arXiv:1909.08593, eq. 2; Ouyang et al. 2022, arXiv:2203.02155, eq. 2).

    Args:
        kl: (N,), log pi - log pi_ref of every trained token (`kl.k1`).
        scores: (C,), the score of every completion.
        owner: (N,) integers in [0, C), non-decreasing: the completion each token belongs to; every completion has
            tokens.
        coefficient: beta, 0 or more.

    Returns:
        (N,), in the dtype of `kl`.
    """
    require_vectors(kl=kl)
    require_vectors(scores=scores)
    require_index("owner", owner, len(kl))
    require_between(0.0, float("inf"), coefficient=coefficient)
    rewards = -coefficient * kl.detach()
    return rewards.index_add(0, last_index(owner, len(scores)), scores.detach().to(rewards))


def whiten(values: Tensor, *, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """`(values - mean) / std`, for a mean and a standard deviation taken over everything the step trains on.

    The statistics are the caller's: of all micro-batches and ranks, so that the result does not depend on how the step
    was split. Where std is 0 the values are only centered.

    Args:
        values: (N,).
        mean: one number.
        std: one number, 0 or more.

    Returns:
        (N,).
    """
    require_vectors(values=values)
    deviation = float(std)
    require_between(0.0, float("inf"), std=deviation)
    return (values - float(mean)) / (deviation or 1.0)


def _require_groups(rewards: Tensor) -> int:
    """Checks a table of rewards and returns G."""
    if rewards.dim() != 2 or not rewards.is_floating_point():
        shape = tuple(rewards.shape)
        raise ValueError(f"rewards must be floating-point of shape (prompts, samples), not {rewards.dtype} of {shape}")
    if rewards.shape[1] < 2:
        raise ValueError("a group needs at least two rewards: one alone has nothing to be compared with")
    if not bool(rewards.isfinite().all()):
        prompt = int((~rewards.isfinite()).any(1).nonzero()[0])
        raise ValueError(f"group {prompt} holds a reward that is not finite: drop the group or give it a reward")
    return rewards.shape[1]


def _centered(rewards: Tensor) -> Tensor:
    """Rewards (P, G) minus their row's mean, exactly 0 where a row is constant."""
    # The mean of G equal numbers can round to another number; the mean of G zeros cannot.
    offset = rewards.detach() - rewards.detach()[:, :1]
    return offset - offset.mean(1, keepdim=True)
