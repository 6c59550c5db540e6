"""Every group of samples of a small world, each with its probability, so that expectations are sums."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from accord.engine.forward import log_probabilities
from accord.engine.models import Policy
from accord.engine.trees import Branch, Tree, Trees
from accord.methods.online import OnlineMethod
from accord.records import Completion, EncodedPrompt, Prompt, Sample
from accord.train.learner import Learner
from examples.worlds.enumerable import END, Enumerable
from tests.engine.tiny import policy_of
from tests.methods.test_policy_gradients import flat, network_in


def spoken(world: Enumerable, network: nn.Module) -> list[Sample]:
    """Every sequence of the world as a sample of the model."""
    trees = Trees.of([Tree(world.prompt, tuple(map(Branch, world.sequences)))])
    with torch.no_grad():
        tokens, _ = log_probabilities(network, trees)
    parts = tokens.split([len(sequence) for sequence in world.sequences])
    return [
        Sample(Prompt(""), "", world.prompt, Completion(s, tuple(p.tolist()), "end" if s[-1] == END else "length"))
        for s, p in zip(world.sequences, parts, strict=True)
    ]


def chances(samples: list[Sample]) -> Tensor:
    """The probability of each sample."""
    return torch.tensor([sum(s.completion.logprobs) for s in samples], dtype=torch.float64).exp()


def every_group(samples: list[Sample], size: int) -> tuple[list[Sample], Tensor]:
    """Every group of so many samples, one after another, and the probability of each group."""
    groups = list(product(range(len(samples)), repeat=size))
    each = chances(samples)
    return [samples[i] for group in groups for i in group], torch.stack([each[list(g)].prod() for g in groups])


def prompts_in(world: Enumerable, count: int) -> list[EncodedPrompt]:
    """The world's prompt so many times, in rows of their own."""
    return [EncodedPrompt(Prompt(""), world.prompt, row) for row in range(count)]


def started(world: Enumerable, method: OnlineMethod, feedback: Any = None) -> tuple[Any, Policy]:
    """A learner whose policy has moved away from the reference to other random weights; and the policy."""
    policy = policy_of(network_in(world, 2))
    learner: Learner = method.learner(policy, feedback)
    policy.network.load_state_dict(network_in(world, 1).state_dict())
    return learner, policy


def rows_of(trees: Trees) -> Tensor:
    """The row of the data that each branch belongs to, (C,)."""
    return torch.tensor([tree.row for tree in trees.trees])[trees.group]


def gradient(value: Tensor, network: nn.Module) -> Tensor:
    """Of one number with respect to all weights, laid end to end."""
    return flat(torch.autograd.grad(value, list(network.parameters())))
