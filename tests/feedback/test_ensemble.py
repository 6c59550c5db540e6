"""Ensembles of rewards: the mean and the worst of their members, by name and in sums."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from accord.errors import InputError
from accord.feedback.combine import ENSEMBLES, Combined, ensemble
from accord.feedback.judge import RewardJudge
from accord.feedback.named import formula, judge_named, reward_named
from accord.feedback.reward import Reward, score_texts
from accord.records import Comparison, Sample
from tests.feedback.samples import sample

TWO = [sample("four"), sample("a longer one")]


def constant(*scores: float) -> Reward:
    """A reward that gives these scores whatever it is shown."""

    def score(samples: Sequence[Sample]) -> torch.Tensor:
        return torch.tensor(scores[: len(samples)])

    return score


MEMBERS = {"a": constant(1.0, 5.0), "b": constant(3.0, -1.0), "c": constant(2.0, 2.0)}


def named(spec: str) -> Reward:
    """A formula over the members above."""
    return formula(spec, lambda name: ensemble(name, MEMBERS.__getitem__) if "(" in name else MEMBERS[name])


def test_mean_and_worst_by_hand() -> None:
    # Sample by sample: (1, 3, 2) and (5, -1, 2).
    assert named("mean(a, b, c)")(TWO).tolist() == [2.0, 2.0]
    assert named("min(a, b, c)")(TWO).tolist() == [1.0, -1.0]
    # In a sum each counts as one term: 1 * 2 + 10 * min(1, 3), and 1 * 2 + 10 * min(5, -1).
    assert named("c + 10 * min(a, b)")(TWO).tolist() == [12.0, -8.0]


def test_members_are_reported_as_parts() -> None:
    summed = named("c + 10 * min(a, b)")
    summed(TWO)
    parts = {name: part.tolist() for name, part in summed.parts.items()}  # type: ignore[attr-defined]
    assert parts == {"c": [2.0, 2.0], "min(a, b)": [1.0, -1.0], "a": [1.0, 5.0], "b": [3.0, -1.0]}


def test_an_offset_of_one_member_moves_the_mean_alike_and_decides_the_worst() -> None:
    # Why members need centering: with b lowered by 10 the worst is b's everywhere, whatever a says.
    low = {"a": MEMBERS["a"], "b": constant(-7.0, -11.0)}
    assert Combined(low, ENSEMBLES["mean"])(TWO).tolist() == [
        -3.0,
        -3.0,
    ]  # the mean of a and b, (2, 2), less 5: its order is as it was
    assert Combined(low, ENSEMBLES["min"])(TWO).tolist() == [-7.0, -11.0]


def test_texts_alone_are_scored_too() -> None:
    assert score_texts(named("min(a, b)"), [("q", "four"), ("q", "a longer one")]).tolist() == [1.0, -1.0]


def test_names_of_real_rewards_and_judges() -> None:
    both = reward_named("min(cafe, exact@answer)")
    assert (
        isinstance(both, Combined)
        and both.combine is ENSEMBLES["min"]
        and list(both.members) == ["cafe", "exact@answer"]
    )
    assert isinstance(judge_named("mean(cafe, exact@answer)"), RewardJudge)


@pytest.mark.parametrize("name", ["min(a)", "mean(a, a)", "min()", "mean(a, )"])
def test_what_is_no_ensemble_is_named(name: str) -> None:
    with pytest.raises(InputError, match=r"needs two or more different rewards, as in (min|mean)\(A, B\)"):
        named(name)


def test_an_ensemble_judges_by_its_own_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accord.feedback.named.one_named", lambda name, **_: ensemble(name, MEMBERS.__getitem__))
    [verdict] = judge_named("min(a, b)")([Comparison("q", "four", "a longer one")])
    assert verdict.first_wins == 1.0  # 1 against -1
