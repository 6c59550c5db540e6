"""A user's own head: a logistic regression on a model's states, fitted to the user's few choices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, log_expit

from accord import objectives
from accord.evaluate.statistics import Floats

if TYPE_CHECKING:
    from accord.evaluate.personal import ChoiceStates, Leads, Users

GRID = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Candidate variances of what a user's own head adds to the lead of a pair of average distance."""


@dataclass(frozen=True)
class OwnHeads:
    """Heads fitted to each user's choices: w = w0 + v with a normal prior on v, where w0 is the model's own head.

        maximize over v   sum over the choices of log sigmoid((w0 + v) . d_i) - |v|^2 / (2 s^2)

    d_i is the state of the chosen answer minus that of the rejected one. s^2 is chosen from GRID by leave-one-out
    likelihood of the given choices, over all users and at k = `most`; no question enters it. For a preference model the
    score head is fitted per user and the planes stay: its log-odds replace w0 . d_i.
    """

    read: ChoiceStates
    users: Users

    @cached_property
    def _parts(self) -> tuple[Leads, list[Floats]]:
        """For every user the leads by the model's own head in all choices, (n,), and their state differences."""
        score: Any = self.read.model.network.score
        weight = score.weight.detach().double()  # (L, d)
        leads = [
            objectives.preference.general_preference(*(s.double() @ weight.T).unbind(1)).cpu().numpy()
            for s in self.read.states
        ]
        return leads, [(s[:, 0] - s[:, 1]).double().cpu().numpy() for s in self.read.states]

    @cached_property
    def _scale(self) -> float:
        """The mean of |d|^2 over the given choices; 1 where there are none, or all differences are 0."""
        known = np.concatenate([d[: self.users.most] for d in self._parts[1]])
        return float((known**2).sum() / max(1, len(known))) or 1.0

    @cached_property
    def variance(self) -> float:
        """The variance of GRID with the highest leave-one-out likelihood."""
        leads, apart = self._parts
        k = self.users.most

        def left_out(variance: float) -> float:
            total = 0.0
            for lead, d in zip(leads, apart, strict=True):
                for i in range(k):
                    others = np.arange(k) != i
                    total += float(log_expit(self._fitted(lead[:k], d[:k], others, variance)[i]))
            return total

        return max(GRID, key=left_out) if k > 1 else 1.0

    def _fitted(self, lead: Floats, d: Floats, known: np.ndarray, variance: float) -> Floats:
        """The leads (n,) after v is fitted to the known choices."""
        kernel = d @ d.T * (variance / self._scale)  # v = sum of a_i d_i s^2, so leads move by kernel a
        inner, a = kernel[np.ix_(known, known)], np.zeros(int(known.sum()))

        def loss(a: Floats) -> float:
            return float(a @ inner @ a / 2 - log_expit(lead[known] + inner @ a).sum())

        for _ in range(100):  # Newton's method for a_i = sigmoid(-lead_i), with backtracking line search
            chance = expit(-(lead[known] + inner @ a))
            slope = chance * (1 - chance)
            step = np.linalg.solve(np.eye(len(a)) + slope[:, None] * inner, chance - a)
            falls, before = float((a - chance) @ inner @ step), loss(a)
            while loss(a + step) > before + 1e-4 * falls + 1e-12 * abs(before):
                step, falls = step / 2, falls / 2
            a += step
            if np.abs(step).max(initial=0.0) < 1e-9:
                break
        return lead + kernel[:, known] @ a

    def leads(self, k: int) -> Leads:
        """The leads on the questions after each user's head is fitted to the first k choices."""
        leads: Leads = []
        for lead, d in zip(*self._parts, strict=True):
            known = np.arange(len(d)) < k
            leads.append(self._fitted(lead, d, known, self.variance)[self.users.most :])
        return leads
