"""A prompt and the completions that branch from it: the one shape every method trains on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Branch:
    """One completion's tokens, the last of them the end-of-turn token unless it was cut.

    `trained` flags the tokens the loss sees (None: all of them); `logprobs` are the sampler's, where it was sampled.
    """

    tokens: tuple[int, ...]
    trained: tuple[bool, ...] | None = None
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Tree:
    """A prompt's tokens and its branches. `ranks` orders them where people did (0 is best, equal ranks tie);

    `row` is the row of the data it came from, counted from 0, for messages.
    """

    prompt: tuple[int, ...]
    branches: tuple[Branch, ...]
    ranks: tuple[int, ...] = ()
    row: int = -1
