"""Estimators of KL(pi, ref) from samples of pi: Schulman (2020), "Approximating KL divergence".

With `d = log pi(y) - log ref(y)` of a token y drawn from pi, k1 and k3 have the mean KL(pi, ref); k2 does not, but is
close where the two are. As losses they differ, because the gradient ignores that the samples come from pi: the mean
gradient of k1 is 0, that of k2 is the gradient of KL(pi, ref), and that of k3 is the gradient of KL(ref, pi). So a
penalty on KL(pi, ref) is k1 in the reward, or in the loss k2 or the corrected k3, which accounts for the sampling.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accord.objectives.segments import require_vectors


def k1(logp: Tensor, reference: Tensor) -> Tensor:
    """`d`: unbiased, of either sign.

    Args:
        logp: (N,), log pi of every trained token.
        reference: (N,), the same under the reference model; gets no gradient.

    Returns:
        (N,), in nats.
    """
    return _log_ratio(logp, reference)


def k2(logp: Tensor, reference: Tensor) -> Tensor:
    """`d^2 / 2`: biased, never negative. Args and returns as for `k1`."""
    return _log_ratio(logp, reference) ** 2 / 2


def k3(logp: Tensor, reference: Tensor) -> Tensor:
    """`exp(-d) - 1 + d`: unbiased, never negative, and unbounded where the reference is far above pi.

    Args and returns as for `k1`.
    """
    d = _log_ratio(logp, reference)
    return torch.expm1(-d) + d


def k3_corrected(logp: Tensor, old_logp: Tensor, reference: Tensor) -> Tensor:
    """`pi / pi_old * k3`: for samples of pi_old its mean is KL(pi, ref), and its mean gradient the gradient of that.

    DeepSeek-V3.2 (DeepSeek-AI 2025, arXiv:2512.02556, section 3.1), where pi_old is the policy that sampled.

    Args:
        logp: (N,), log pi of every trained token.
        old_logp: (N,), the same under the policy that sampled it; gets no gradient.
        reference: (N,), the same under the reference model; gets no gradient.

    Returns:
        (N,), in nats.
    """
    return _log_ratio(logp, old_logp).exp() * k3(logp, reference)


def _log_ratio(logp: Tensor, reference: Tensor) -> Tensor:
    require_vectors(logp=logp, reference=reference)
    return logp - reference.detach()
