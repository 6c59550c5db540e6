"""The gold judge and the function reward, and what they do with scores that are no numbers."""

from __future__ import annotations

import pytest
import torch

from accord.errors import InputError
from accord.feedback.judge import TextReward, ScoreJudge
from accord.records import Comparison, Completion, Message, Prompt, Sample, Text


def length(prompt: Text, completion: Text) -> float:
    return len(completion)


def sample(text: str) -> Sample:
    return Sample(Prompt((Message("user", "how is it ?"),)), text, (1, 2), Completion((3,), (-0.5,), "end"))


def test_the_higher_score_wins_and_equal_scores_tie() -> None:
    verdicts = ScoreJudge(length)([Comparison("", "aaa", "b"), Comparison("", "a", "bbb"), Comparison("", "a", "b")])
    assert [verdict.first_wins for verdict in verdicts] == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_makes_the_verdict_invalid(value: float) -> None:
    judge = ScoreJudge(lambda prompt, completion: value if completion == "bad" else 1.0)
    verdicts = judge([Comparison("", "bad", "good"), Comparison("", "good", "fine")])
    assert [verdict.first_wins for verdict in verdicts] == [None, 0.5]
    assert "difference of the two scores" in verdicts[0].reason


def test_a_function_scores_each_sample_in_order() -> None:
    rewards = TextReward(lambda prompt, text: len(prompt) + len(text) / 2)([sample("abc"), sample("")])
    assert rewards.dtype == torch.float32
    assert rewards.tolist() == [2.5, 1.0]  # one message in the prompt, plus half of 3 and of 0 letters


def test_no_samples_give_an_empty_tensor() -> None:
    assert TextReward(length)([]).shape == (0,)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), None, "7"])
def test_a_reward_that_is_no_finite_number_names_the_sample(value: object) -> None:
    reward = TextReward(lambda prompt, text: value if text == "bad" else 0.0)  # type: ignore[return-value,arg-type]
    with pytest.raises(
        InputError, match=r"for sample 2 of the batch \(prompt 'user: how is it \?', completion 'bad'\)"
    ):
        reward([sample("good"), sample("bad")])
