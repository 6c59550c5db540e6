"""What decodes a model's samples, token by token: a cache where the architecture supports it, else each whole text.

Every decoder has `prefill` for prompts whose samples join, `decode` for a token of every sample, and `keep` to drop the
finished ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor, nn

from accord.arrays import Tokens
from accord.engine.cache import Cache, rows_of
from accord.engine.cuda_graphs import GraphedCache, can_be_graphed
from accord.engine.forward import hidden_states, takes_trees
from accord.engine.readout import Readout
from accord.errors import InputError


class Recompute:
    """Decoding without a cache, for any architecture: every step recomputes every sequence."""

    def __init__(self, model: nn.Module, room: int) -> None:
        self.model, self.logits = model, Readout.of(model).cast().logits
        self.sequences: list[Tokens] = []

    def prefill(self, prompts: Sequence[Tokens], n: int) -> Tensor:
        self.sequences += [p for p in prompts for _ in range(n)]
        return self._logits(prompts)

    def decode(self, tokens: Tensor) -> Tensor:
        self.sequences = [(*s, t) for s, t in zip(self.sequences, tokens.tolist(), strict=True)]
        return self._logits(self.sequences)

    def keep(self, live: Tensor) -> None:
        self.sequences = [s for s, kept in zip(self.sequences, live.tolist(), strict=True) if kept]

    def _logits(self, sequences: Sequence[Tokens]) -> Tensor:
        trees = rows_of(sequences, next(self.model.parameters()).device)
        return self.logits(hidden_states(self.model, trees).index_select(0, trees.last))


class Mixture(nn.Module):
    """A model whose next-token distribution is pi^(1 - w) ref^w / Z, to be sampled from with `generate`.

    Munos et al. 2023 (arXiv:2312.00886), where w is called beta. Each conditional distribution is mixed and normalized
    separately, so a completion's probability is not the mixture of the two models' probabilities of it.

    Args:
        policy: pi, a causal language model of transformers.
        reference: ref, one with the same vocabulary size, of any architecture.
        weight: w, the reference's share: 0 is the policy, 1 the reference.

    Raises:
        InputError: the weight lies outside [0, 1].
        ValueError: the vocabularies differ in size.
    """

    def __init__(self, policy: nn.Module, reference: nn.Module, weight: float) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise InputError(f"the reference's share in a mixture must lie in [0, 1], not {weight}")
        sizes = [len(Readout.of(model).weight) for model in (policy, reference)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"models of {sizes[0]} and {sizes[1]} tokens cannot be mixed: their vocabularies differ")
        self.policy, self.reference, self.weight = policy, reference, weight

    def mix(self, policy: Tensor, reference: Tensor) -> Tensor:
        """The mixture's logits (rows, V) from those of both models.

        softmax((1 - w) log pi + w log ref): the models' normalizers only shift a row, so logits may stand for log pi
        and log ref.
        """
        return (1 - self.weight) * policy + self.weight * reference


class MixtureCache:
    """Decoding from a mixture: both models read the same prompts and tokens, and their logits are mixed."""

    def __init__(self, mixture: Mixture, room: int) -> None:
        self.mix = mixture.mix
        self.parts = [decoder(model, room) for model in (mixture.policy, mixture.reference)]

    def prefill(self, prompts: Sequence[Tokens], n: int) -> Tensor:
        return self.mix(*(part.prefill(prompts, n) for part in self.parts))

    def decode(self, tokens: Tensor) -> Tensor:
        return self.mix(*(part.decode(tokens) for part in self.parts))

    def keep(self, live: Tensor) -> None:
        for part in self.parts:
            part.keep(live)


Decoder: TypeAlias = Cache | Recompute | MixtureCache


def decoder(model: nn.Module, room: int) -> Decoder:
    """The decoder of a model for samples of up to `room` tokens: a cache where the architecture supports it, on a GPU
    with CUDA graphs where it supports them, else `Recompute`; for a mixture, both models'."""
    if isinstance(model, Mixture):
        if model.weight in (0, 1):
            return decoder(model.reference if model.weight else model.policy, room)
        return MixtureCache(model, room)
    if getattr(model, "_accord_recomputes", not takes_trees(model)):
        return Recompute(model, room)
    return GraphedCache(model, room) if can_be_graphed(model) else Cache(model, room)
