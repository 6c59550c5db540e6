"""A world small enough to enumerate: every expectation is a finite sum, so estimators can be checked exactly."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product

import torch
from transformers import LlamaConfig, LlamaForCausalLM

END = 0
"""The end token; the other tokens are 1 ... vocabulary - 1."""


@dataclass(frozen=True, slots=True)
class Enumerable:
    """All completions of one prompt over `vocabulary` tokens, the end token among them, of at most `length` tokens.

    A completion ends with its only end token, or has full length without one. With a = vocabulary - 1 there are
    1 + a + ... + a^(length-1) completions of the first kind and a^length of the second: 7 for (3, 2), 40 for (4, 3).
    """

    vocabulary: int = 4
    length: int = 3
    seed: int = 0

    @property
    def prompt(self) -> tuple[int, ...]:
        """Two tokens: the first and the last that are not the end token."""
        return (1, self.vocabulary - 1)

    @property
    def sequences(self) -> list[tuple[int, ...]]:
        """Every completion once, S of them, ordered by the length before the end token."""
        words = range(1, self.vocabulary)
        ended = [(*body, END) for n in range(self.length) for body in product(words, repeat=n)]
        return ended + list(product(words, repeat=self.length))

    @property
    def reward(self) -> torch.Tensor:
        """A random reward per sequence, (S,) float64, standard normal; the seed decides it."""
        rng = random.Random(f"reward {self.seed}")
        return torch.tensor([rng.gauss(0.0, 1.0) for _ in self.sequences], dtype=torch.float64)

    def new_model(self, seed: int, dtype: torch.dtype = torch.float64, layers: int = 2) -> LlamaForCausalLM:
        """A random model over this vocabulary (width 16, 2 query heads, 1 key-value head), far from uniform.

        The caller's random state is kept.
        """
        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=len(self.prompt) + self.length,
            initializer_range=0.4,
            bos_token_id=None,
            eos_token_id=END,
            pad_token_id=None,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config)
        model.to(dtype)  # type: ignore[arg-type]  # transformers wraps Module.to without its types
        model.eval()
        return model


def distribution(logps: torch.Tensor) -> torch.Tensor:
    """Probabilities (S,) from the log-probabilities (S,) of all sequences of a world.

    ValueError where they do not sum to 1 (to 1e-5 in float32, 1e-10 in float64): a sequence is missing, or a
    log-probability is wrong.
    """
    probabilities = logps.exp()
    total = probabilities.sum().item()
    if abs(total - 1) > (1e-10 if logps.dtype == torch.float64 else 1e-5):
        raise ValueError(f"the probabilities of all sequences sum to {total}, not 1")
    return probabilities


def kl_regularized_optimum(reference_logp: torch.Tensor, reward: torch.Tensor, beta: float) -> torch.Tensor:
    """The policy that maximizes E[reward] - beta KL(policy || reference), as probabilities (S,).

    pi(y) = pi_ref(y) exp(r(y) / beta) / Z = softmax(log pi_ref + r / beta)    (Rafailov et al. 2023, equation 4)
    """
    return torch.softmax(reference_logp + reward / beta, dim=-1)


def bradley_terry_preferences(reward: torch.Tensor) -> torch.Tensor:
    """P[i, j] = sigmoid(r_i - r_j), the probability that sequence i is preferred to j, (S, S), from rewards (S,)."""
    return torch.sigmoid(reward[:, None] - reward[None, :])
