"""Small worlds whose every sequence is known: networks in them, every group of samples, exact gradients and minima."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, PreTrainedModel

from accord.engine.fit import Objective
from accord.engine.forward import log_probabilities
from accord.engine.models import Policy
from accord.engine.trees import Branch, Tree, Trees
from accord.methods.online import OnlineMethod
from accord.objectives.segments import segment_sum
from accord.records import Completion, EncodedPrompt, Prompt, Sample
from accord.train.learner import Learner
from examples.worlds.enumerable import END, Enumerable
from tests.engine.tiny import policy_of, random_model


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


TWO_TOKENS = Enumerable(vocabulary=3, length=2, seed=1)

ONE_TOKEN = Enumerable(vocabulary=4, length=1, seed=2)


def network_in(world: Enumerable, seed: int) -> PreTrainedModel:
    """GPT-2 over the world's tokens: in float64 it computes nothing in less."""
    sizes = {"n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2, "attn_implementation": "eager"}
    config = GPT2Config(vocab_size=world.vocabulary, bos_token_id=None, eos_token_id=END, **sizes)
    return random_model(config, seed)


def sequence_logps(network: Any, world: Enumerable) -> Tensor:
    """log pi(y) of every sequence of the world, (S,)."""
    trees = Trees.of([Tree(world.prompt, tuple(map(Branch, world.sequences)))])
    logp, _ = log_probabilities(network, trees)
    return segment_sum(logp, trees.owner, trees.branches)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def minimize(network: nn.Module, loss: Callable[[], Tensor], iterations: int = 300) -> float:
    """The least loss over the network's weights that L-BFGS finds."""
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.LBFGS(
        weights, max_iter=iterations, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        return float(loss())


def mean_of(objective: Objective, trees: Trees) -> Callable[[], Tensor]:
    return lambda: objective(trees)[0].mean()
