"""What models of preferences report of the rankings they are fitted to."""

from __future__ import annotations

from torch import Tensor

from accord.engine.fit import Measures
from accord.engine.trees import Trees
from accord.objectives.preference import general_preference, strict_pairs


def agreement(outputs: Tensor, trees: Trees) -> Measures:
    """Of every pair of one prompt with different ranks: the log-odds of the better, and whether they favour it.

    Args:
        outputs: (C, 1 + 2k), a score alone (k = 0) or with k planes.
    """
    better, worse = strict_pairs(trees.group, trees.ranks)
    margin = general_preference(outputs.detach()[better], outputs.detach()[worse])
    return {"accuracy": (margin > 0).double() + 0.5 * (margin == 0), "margin": margin}
