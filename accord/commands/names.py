"""Rewards and judges by the names users give them: those of `accord.feedback.named`, and the small worlds' truth."""

from __future__ import annotations

from functools import partial

import torch

from accord.engine.models import Model
from accord.errors import InputError
from accord.feedback import named
from accord.feedback.judge import Judge, Reward, ScoreJudge, TextReward
from accord.feedback.simulated import Simulated
from accord.worlds import cafe

GOLD = {"cafe": cafe.gold}
"""Worlds with known truth, by name."""


def reward_named(spec: str, policy: Model | None = None, *, dtype: torch.dtype = torch.float32) -> Reward:
    """The reward that a name or a formula stands for, where a small world's name is its gold reward."""
    other = partial(named.one_named, policy=policy, dtype=dtype)
    return named.formula(spec, lambda name: TextReward(GOLD[name]) if name in GOLD else other(name))


def judge_named(name: str, *, agreement: float | None = None, seed: int = 0) -> Judge:
    """The gold judge of a small world, a labeller who agrees with it only so often, or any other judge by its name.

    Raises:
        InputError: an agreement was asked of a judge that has no truth to agree with.
    """
    if name in GOLD:
        return ScoreJudge(GOLD[name]) if agreement is None else Simulated(GOLD[name], agreement, seed)
    if agreement is not None:
        raise InputError(
            f"--agreement simulates people who know a world's truth ({', '.join(GOLD)}), and {name} is none."
        )
    return named.judge_named(name)
