"""How a token is drawn: temperature, truncation, and one uniform number per token.

A token is drawn by inverting the cumulative distribution at a uniform number that depends only on the seed, the prompt,
the sample's number and the token's position. A sample is therefore the same in any batch (up to rounding of the
logits), and a draw costs one pass over the vocabulary.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from accord.arrays import Tokens
from accord.errors import InputError

LEAST = 1e-6
"""The least positive temperature, so that logits / temperature fits float32, and the least nucleus mass."""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        max_new_tokens: a completion is cut after this many tokens.
        temperature: divides the logits; 0 takes the most likely token.
        top_k: only the k most likely tokens can be drawn (0: all).
        top_p: only the smallest set of tokens of at least this probability can be drawn (1: all).
        seed: the same seed gives the same completions; several integers are combined.
        min_new_tokens: no end-of-turn token is drawn before this many tokens.
        stop: texts that end a completion; they remain part of it.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | tuple[int, ...] = 0
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.temperature < 0:
            raise InputError(f"temperature must not be negative, but is {self.temperature}")
        if not isfinite(self.temperature):
            raise InputError(f"temperature must be finite, not {self.temperature}")
        if 0 < self.temperature < LEAST:
            raise InputError(
                f"temperature must be 0, which takes the likeliest, or {LEAST:g} and more, not {self.temperature}"
            )
        if self.top_k < 0:
            raise InputError(f"top_k must not be negative, but is {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must lie in (0, 1], not {self.top_p}")
        if self.top_p < LEAST:
            raise InputError(f"top_p must be at least {LEAST:g}, not {self.top_p}; temperature 0 takes the likeliest")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise InputError(
                f"min_new_tokens must be from 0 to max_new_tokens, {self.max_new_tokens}, not {self.min_new_tokens}"
            )
        if not all(self.stop):
            raise InputError("stop must hold texts that are not empty")


def truncate_(z: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set to -inf, in place, the logits (rows, V) outside the top k and outside the nucleus of mass `top_p`.

    The nucleus is the smallest set of most likely tokens whose probability reaches `top_p` (Holtzman et al. 2020),
    after the top k. Softmax of the result is the renormalized distribution.
    """
    if 0 < top_k < z.shape[-1]:
        keep = z.topk(top_k, -1).indices
        z.copy_(torch.full_like(z, float("-inf")).scatter_(-1, keep, z.gather(-1, keep)))
    if top_p < 1.0:
        ordered, order = z.sort(-1, descending=True)
        p = torch.softmax(ordered, -1)
        outside = p.cumsum(-1) - p >= top_p
        z.scatter_(-1, order, ordered.masked_fill_(outside, float("-inf")))
    return z


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Tokens (B,) and their log-probabilities (B,) under the distribution drawn from, given one uniform number each.

    The token is the first whose cumulative probability, in vocabulary order, exceeds the uniform number.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1), torch.zeros(len(logits), dtype=logits.dtype, device=logits.device)
    z = truncate_(logits / sampling.temperature, sampling.top_k, sampling.top_p)
    logp = torch.log_softmax(z, -1)
    mass = torch.exp(logp).cumsum(-1)
    token = torch.searchsorted(mass, (uniform.to(mass) * mass[:, -1])[:, None], right=True).squeeze(1)
    # u * total may round up to the total: take no token past the first whose cumulative mass reaches it
    token = torch.minimum(token, torch.searchsorted(mass, mass[:, -1:].contiguous()).squeeze(1))
    return token, logp.gather(1, token[:, None]).squeeze(1)


def entropies(
    prompts: Sequence[Tokens], n: int, sampling: Sampling, seeds: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """The seed material of each of n samples of every prompt, prompt after prompt: seed, prompt digest, sample number.

    The samples of a prompt that occurs twice are numbered on, so that repeating it gives new samples; with `seeds`, one
    per prompt in place of the sampling's, its samples are the same again.
    """
    seed = sampling.seed if isinstance(sampling.seed, tuple) else (sampling.seed,)
    seen: Counter[int] = Counter()
    for i, prompt in enumerate(prompts):
        tokens = np.fromiter(prompt, np.int64, len(prompt))
        digest = int.from_bytes(hashlib.blake2b(tokens.tobytes(), digest_size=8).digest(), "little")
        own = seed if seeds is None else (seeds[i],)
        yield from ([*own, digest, seen[digest] + j] for j in range(n))
        seen[digest] += n if seeds is None else 0


def uniform_numbers(
    prompts: Sequence[Tokens], n: int, sampling: Sampling, seeds: Sequence[int] | None = None
) -> np.ndarray:
    """Numbers in [0, 1), (prompts, n, max_new_tokens), each a function of its sample's `entropies` and its position."""
    table = np.empty((len(prompts) * n, sampling.max_new_tokens))
    for row, entropy in zip(table, entropies(prompts, n, sampling, seeds), strict=True):
        row[:] = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy))).random(len(row))
    return table.reshape(len(prompts), n, -1)


def request_seeds(prompts: Sequence[Tokens], n: int, sampling: Sampling) -> list[int]:
    """A 63-bit seed for each of n samples of every prompt, prompt after prompt, derived from `entropies`."""
    sequences = map(np.random.SeedSequence, entropies(prompts, n, sampling))
    return [int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)) for sequence in sequences]
