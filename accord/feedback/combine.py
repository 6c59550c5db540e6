"""Several rewards made one: sums, and ensembles of reward models, by their mean or by the worst of them.

Where members learned from different comparisons, or from different beginnings, they agree on what the comparisons show
and differ where they guess, so a policy that must please all of them finds fewer holes: the worst case (min) or the
mean (Coste et al. 2023, arXiv:2310.02743).

A Bradley-Terry reward is known only up to a constant, which differs from member to member: the smallest of several is
then mostly the smallest of their constants. Center the members before taking it (`accord reward --center-coefficient`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from accord.feedback.formula import ensemble_of
from accord.feedback.reward import Reward, score_texts
from accord.records import Sample, Text


class Combined(ABC):
    """A reward made of several, by name; `parts` keeps what each gave in the last call, and their own parts."""

    def __init__(self, members: Mapping[str, Reward]) -> None:
        self.members = dict(members)
        self.made_of = tuple(members.values())
        self.parts: dict[str, Tensor] = {}

    @abstractmethod
    def combine(self, scores: Tensor) -> Tensor:
        """One score a sample, (C,), from those of M members, (M, C)."""

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """The combined reward of every sample, (C,) float32."""
        return self._combined(lambda reward: reward(samples))

    def texts(self, pairs: Sequence[tuple[Text, Text]]) -> Tensor:
        """The combined reward of every (prompt, completion), (C,) float32."""
        return self._combined(lambda reward: score_texts(reward, pairs))

    def _combined(self, score: Callable[[Reward], Tensor]) -> Tensor:
        self.parts = {}
        for name, reward in self.members.items():
            self.parts[name] = score(reward)
            self.parts |= getattr(reward, "parts", {})
        return self.combine(torch.stack([self.parts[name] for name in self.members]))


class Weighted(Combined):
    """A sum of rewards, each times its weight, from (weight, reward) by name; `parts` are unweighted."""

    def __init__(self, terms: Mapping[str, tuple[float, Reward]]) -> None:
        super().__init__({name: reward for name, (_, reward) in terms.items()})
        self.weights = torch.tensor([weight for weight, _ in terms.values()])

    def combine(self, scores: Tensor) -> Tensor:
        return (self.weights[:, None] * scores).sum(0)


class Mean(Combined):
    """The members' mean."""

    def combine(self, scores: Tensor) -> Tensor:
        return scores.mean(0)


class Min(Combined):
    """The worst that any member says."""

    def combine(self, scores: Tensor) -> Tensor:
        return scores.amin(0)


ENSEMBLES: dict[str, type[Combined]] = {"mean": Mean, "min": Min}


def ensemble(name: str, meaning: Callable[[str], Reward]) -> Combined:
    """The ensemble that `mean(A, B, ...)` or `min(A, B, ...)` names, by the meaning of its members' names.

    Raises:
        InputError: it has fewer than two members, or one of them twice or without a name.
        ValueError: the name is none of an ensemble.
    """
    kind, members = ensemble_of(name)
    return ENSEMBLES[kind]({member: meaning(member) for member in members})
