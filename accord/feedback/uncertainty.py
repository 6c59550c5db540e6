"""How unsure models of preferences are of a comparison, and so how much its answer would teach them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import entr

from accord.errors import InputError
from accord.feedback.judge import Judge
from accord.records import Comparison


def uncertainty(judges: Sequence[Judge], comparisons: Sequence[Comparison]) -> list[float]:
    """How unsure the judges are of each comparison, in nats.

    One judge gives P(first wins) = p, whose entropy H(p) = -p ln p - (1 - p) ln(1 - p) is largest, ln 2, where it finds
    both equally good. Several, an ensemble, disagree: H(mean of p) - mean of H(p) is what an answer tells of which of
    them is right (Houlsby et al. 2011, arXiv:1112.5745, eq. 2), and 0 where all are as unsure as each other, as they
    are where people toss coins.

    Raises InputError where there is no judge, or one has no verdict.
    """
    if not judges:
        raise InputError("uncertainty needs a model that judges")
    by_judge = [judge(comparisons) for judge in judges]
    for verdicts in by_judge:
        wrong = next((i for i, verdict in enumerate(verdicts) if verdict.first_wins is None), None)
        if wrong is not None:
            raise InputError(f"comparison {wrong + 1} has no verdict: {verdicts[wrong].reason}")
    p = np.array([[verdict.first_wins for verdict in verdicts] for verdicts in by_judge], dtype=np.float64)  # (J, C)
    whole = _entropy(p.mean(0))
    spread = whole if len(judges) == 1 else whole - _entropy(p).mean(0)
    return [float(value) for value in np.maximum(spread, 0.0)]


def _entropy(p: np.ndarray) -> np.ndarray:
    return np.asarray(entr(p) + entr(1 - p))
