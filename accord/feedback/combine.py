"""Combinations of several rewards: weighted sums, and ensembles of reward models, by their mean or minimum.

Members trained on different comparisons, or from different initializations, agree on what the comparisons show and
differ where they guess, so a policy that must please all of them finds fewer errors to exploit: by the worst case (min)
or the mean (Coste et al. 2023, arXiv:2310.02743).

A Bradley-Terry reward is defined up to a constant, which differs between members: their minimum is then mostly the
minimum of the constants. Center the members first (`accord reward --center-coefficient`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from accord.feedback.formula import ensemble_of
from accord.feedback.reward import Reward, score_texts
from accord.records import Sample, Text


class Combined:
    """A reward that combines named members; `parts` has each member's last rewards, and their own parts.

    `combine` maps the scores of M members, (M, C), to one score per sample, (C,).
    """

    def __init__(self, members: Mapping[str, Reward], combine: Callable[[Tensor], Tensor]) -> None:
        self.members, self.combine = dict(members), combine
        self.made_of = tuple(members.values())
        self.abstains = any(getattr(member, "abstains", False) for member in self.made_of)
        self.parts: dict[str, Tensor] = {}

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
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


def weighted(terms: Mapping[str, tuple[float, Reward]]) -> Combined:
    """A weighted sum of rewards, from (weight, reward) by name; its `parts` are unweighted."""
    weights = torch.tensor([weight for weight, _ in terms.values()])
    members = {name: reward for name, (_, reward) in terms.items()}

    def total(scores: Tensor) -> Tensor:
        """The sum over members that are not NaN (that do not abstain); NaN where all are."""
        silent = scores.isnan()
        return (weights[:, None] * scores.nan_to_num()).sum(0).masked_fill(silent.all(0), torch.nan)

    return Combined(members, total)


ENSEMBLES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda scores: scores.nanmean(0),
    "min": lambda scores: scores.nan_to_num(torch.inf).amin(0).masked_fill(scores.isnan().all(0), torch.nan),
}
"""The members' mean, and their minimum, without those that abstain."""


def ensemble(name: str, meaning: Callable[[str], Reward]) -> Combined:
    """The ensemble named `mean(A, B, ...)` or `min(A, B, ...)`; `meaning` makes a member from its name.

    Raises as `ensemble_of`.
    """
    kind, members = ensemble_of(name)
    return Combined({member: meaning(member) for member in members}, ENSEMBLES[kind])
