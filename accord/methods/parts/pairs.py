"""Losses on pairs of completions, of the policy's margin against the reference's: what DPO and IPO share.

The margin is log pi(first) - log pi(second), first being the chosen completion where one was chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from accord.engine.fit import Measures, Objective
from accord.engine.forward import log_probabilities
from accord.engine.trees import Trees
from accord.objectives.segments import segment_sum

PairLoss = Callable[[Tensor, Tensor, Trees], Tensor]
"""(policy's margin (P,), reference's margin (P,), the pairs) -> losses (P,)."""


def pair_objective(
    network: nn.Module,
    reference: nn.Module,
    loss: PairLoss,
    *,
    beta: float,
    average: bool = False,
    temperature: float = 1.0,
) -> Objective:
    """A loss of pairs as an objective over trees of two branches each.

    Args:
        network: the policy's network; `reference` the frozen one it started from.
        beta: what log(pi / ref) is multiplied by to be reported as the implicit reward.
        average: a completion's log-probability is the mean over its tokens instead of the sum.
        temperature: that of the distributions compared.
    """

    def objective(trees: Trees) -> tuple[Tensor, Measures]:
        with torch.no_grad():
            ref = completion_log_probabilities(reference, trees, temperature, average=average)
        policy = completion_log_probabilities(network, trees, temperature, average=average)
        reward = beta * (policy.detach() - ref)
        gap = margin(reward)
        return loss(margin(policy), margin(ref), trees), {
            "accuracy": (gap > 0).double() + 0.5 * (gap == 0),
            "margin": gap,
            "chosen_reward": reward[0::2],
            "rejected_reward": reward[1::2],
        }

    return objective


def completion_log_probabilities(
    network: nn.Module, trees: Trees, temperature: float = 1.0, *, average: bool = False
) -> Tensor:
    """log pi(completion | prompt) of every branch, (C,): the sum, or the mean, over its tokens."""
    logp, _ = log_probabilities(network, trees, temperature)
    total = segment_sum(logp, trees.owner, trees.branches)
    return total / torch.bincount(trees.owner, minlength=trees.branches) if average else total


def margin(values: Tensor) -> Tensor:
    """First less second of every pair: (C,) -> (C / 2,)."""
    return values[0::2] - values[1::2]
