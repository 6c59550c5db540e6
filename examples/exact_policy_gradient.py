"""REINFORCE's expected gradient is the policy gradient, shown by summing over all possible completions.

A world of 4 tokens and at most 3 steps has 40 completions. They are branches of one tree, so a single pass gives all
log-probabilities, the expected reward is a sum, and its gradient is exact. The two gradients agree to about 1e-7:
weights are float64, but Llama's norms compute in float32. Takes seconds.

    python examples/exact_policy_gradient.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from accord.engine.forward import log_probabilities, prepare
from accord.engine.trees import Branch, Tree, Trees
from accord.objectives.policy import reinforce
from accord.objectives.segments import segment_sum

sys.path.insert(0, str(Path(__file__).parents[1]))  # examples/ is not in the package
from examples.worlds.enumerable import Enumerable, distribution


def main() -> None:
    world = Enumerable(vocabulary=4, length=3)
    model = prepare(world.new_model(seed=0))
    trees = Trees.of([Tree(world.prompt, tuple(Branch(sequence) for sequence in world.sequences))])

    def gradient(of: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(of, list(model.parameters()))])

    logp, _ = log_probabilities(model, trees)  # (N,), every token of every completion
    p = distribution(segment_sum(logp, trees.owner, trees.branches))  # (C,), sums to 1
    expected_reward = (p * world.reward).sum()
    exact = gradient(expected_reward)

    logp, _ = log_probabilities(model, trees)
    advantage = world.reward - expected_reward.detach()  # the baseline does not change the expectation
    loss = reinforce(logp, advantage[trees.owner])  # (N,), the loss of each token if its completion is sampled
    expected = -gradient((p.detach()[trees.owner] * loss).sum())

    print(f"{trees.branches} completions, expected reward {expected_reward:.4f}")
    difference = (exact - expected).abs().max()
    print(f"the gradients differ by at most {difference:.1e}; the largest entry is {exact.abs().max():.1e}")


if __name__ == "__main__":
    main()
