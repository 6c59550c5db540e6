"""The geometric mixture of two models: what Nash-MD plays against, drawn from token by token like any model."""

from __future__ import annotations

from torch import Tensor, nn

from accord.engine.readout import Readout
from accord.errors import InputError


class Mixture(nn.Module):
    """A model whose next token is distributed as pi^(1 - w) ref^w / Z, to be sampled from with `generate`.

    Munos et al. 2023 (arXiv:2312.00886), where w is called beta. Each conditional distribution is mixed and
    normalised by itself, so a whole completion's probability is not the mixture of the two models' probabilities of it.
    """

    def __init__(self, policy: nn.Module, reference: nn.Module, weight: float) -> None:
        """
        Args:
            policy: pi, a causal language model of transformers.
            reference: ref, one with as many tokens, of any architecture.
            weight: w, the reference's share: 0 is the policy, 1 the reference.

        Raises:
            InputError: the weight lies outside [0, 1].
            ValueError: the vocabularies differ in size.
        """
        super().__init__()
        if not 0 <= weight <= 1:
            raise InputError(f"the reference's share in a mixture lies in [0, 1], and is not {weight}")
        sizes = [len(Readout.of(model).weight) for model in (policy, reference)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"models of {sizes[0]} and {sizes[1]} tokens cannot be mixed: their vocabularies differ")
        self.policy, self.reference, self.weight = policy, reference, weight

    def mix(self, policy: Tensor, reference: Tensor) -> Tensor:
        """The mixture's logits (rows, V) from those of both models.

        softmax((1 - w) log pi + w log ref): the models' own normalisers only shift a row, so the logits do as well.
        """
        return (1 - self.weight) * policy + self.weight * reference
