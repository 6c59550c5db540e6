"""Maximum likelihood: supervised fine-tuning, pre-training, rejection fine-tuning."""

from __future__ import annotations

from torch import Tensor

from accord.objectives._checks import require_vectors


def negative_log_likelihood(logp: Tensor) -> Tensor:
    """The loss of maximum likelihood, `-log pi(y_n | x, y_<n)`.

    Summed over all tokens it is the cross-entropy of the empirical distribution against the model, in nats; its minimum
    over all models is at the empirical conditional frequencies.

    Args:
        logp: (N,), the log-probability of every trained token.

    Returns:
        (N,), one loss a token.
    """
    require_vectors(logp=logp)
    return -logp
