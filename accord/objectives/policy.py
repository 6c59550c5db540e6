"""Policy losses: REINFORCE, the clipped ratio of PPO and its value loss, and maximum likelihood.

Maximum likelihood is the loss of supervised fine-tuning, pretraining and rejection fine-tuning.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from accord.objectives.segments import require_positive, require_vectors


def reinforce(logp: Tensor, advantage: Tensor) -> Tensor:
    """The loss whose gradient is REINFORCE's estimate of the policy gradient, `-advantage * log pi`.

    Williams (1992), with the reward minus a baseline as advantage.

    Args:
        logp: (N,), the log-probability of every trained token under the policy.
        advantage: (N,), how much better than expected; gets no gradient.

    Returns:
        (N,).
    """
    require_vectors(logp=logp, advantage=advantage)
    return -advantage.detach() * logp


def clipped(logp: Tensor, old_logp: Tensor, advantage: Tensor, *, low: float, high: float) -> Tensor:
    """PPO's clipped surrogate, `-min(rho A, clip(rho, 1 - low, 1 + high) A)` with `rho = pi / pi_old`.

    Schulman et al. (2017, arXiv:1707.06347, eq. 7), where low = high; they differ in DAPO (Yu et al. 2025,
    arXiv:2503.14476, eq. 8). At rho = 1 its gradient is REINFORCE's. It has no upper bound where A < 0, as in the
    papers; where the clip is active, the value is finite and the gradient exactly 0 however far pi has moved.

    Args:
        logp: (N,), log pi of every trained token.
        old_logp: (N,), the same under the policy that sampled it; gets no gradient.
        advantage: (N,), A; gets no gradient.
        low: how far rho may fall, in [0, 1).
        high: how far rho may rise, 0 or more.

    Returns:
        (N,).
    """
    require_vectors(logp=logp, old_logp=old_logp, advantage=advantage)
    if not (0 <= low < 1 and high >= 0):
        raise ValueError(f"clip bounds must satisfy 0 <= low < 1 and high >= 0, not low {low} and high {high}")
    advantage = advantage.detach()
    log_ratio = logp - old_logp.detach()
    # The minimum clips rho only from above where A >= 0 and only from below where A < 0. Clipping log rho keeps exp
    # from overflowing on the clipped side, where the gradient would be 0 times infinity.
    from_above, from_below = log_ratio.clamp(max=math.log1p(high)), log_ratio.clamp(min=math.log1p(-low))
    return -advantage * torch.where(advantage >= 0, from_above, from_below).exp()


def value(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float) -> Tensor:
    """PPO's clipped value loss, `1/2 max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2)`.

    Schulman et al. (2016, arXiv:1506.02438, section 5) for the regression; the clip is that of OpenAI's PPO code, on
    which Stiennon et al. (2020, arXiv:2009.01325) and InstructGPT build.

    Args:
        values: (N,), V, the value at every trained token.
        old_values: (N,), V when the sample was taken; gets no gradient.
        returns: (N,), R, the targets; gets no gradient.
        clip: c, how far a value may move in one round, above 0; infinity does not clip.

    Returns:
        (N,).
    """
    require_vectors(values=values, old_values=old_values, returns=returns)
    require_positive(clip=clip)
    old_values, returns = old_values.detach(), returns.detach()
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


def negative_log_likelihood(logp: Tensor) -> Tensor:
    """The loss of maximum likelihood, `-log pi(y_n | x, y_<n)`.

    Summed over all tokens it is the cross-entropy of the empirical distribution against the model, in nats; its minimum
    over all models is at the empirical conditional frequencies.

    Args:
        logp: (N,), the log-probability of every trained token.

    Returns:
        (N,), one loss per token.
    """
    require_vectors(logp=logp)
    return -logp
