"""Rewards and judges by the names users give them: a small world's, or a reward model's folder."""

from __future__ import annotations

from accord.engine.models import load_scorer
from accord.errors import InputError
from accord.feedback.judge import FunctionReward, Judge, Reward, ScoreJudge
from accord.feedback.learned import LearnedReward, learned_judge
from accord.feedback.simulated import Simulated
from accord.worlds import cafe

GOLD = {"cafe": cafe.gold}
"""Worlds with known truth, by name."""


def reward_named(name: str) -> Reward:
    """The gold reward of a small world, or the reward model in a folder."""
    if name in GOLD:
        return FunctionReward(GOLD[name])
    return LearnedReward(load_scorer(name))


def judge_named(name: str, *, agreement: float | None = None, seed: int = 0) -> Judge:
    """The gold judge of a small world, a labeller who agrees with it only so often, or a reward model's judgment.

    Raises:
        InputError: an agreement was asked of a reward model, which has no truth to agree with.
    """
    if name in GOLD:
        return ScoreJudge(GOLD[name]) if agreement is None else Simulated(GOLD[name], agreement, seed)
    if agreement is not None:
        raise InputError(
            f"--agreement simulates people who know a world's truth ({', '.join(GOLD)}), and {name} is none."
        )
    return learned_judge(name)
