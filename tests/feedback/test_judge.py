"""The gold judge and the function reward, and what they do with scores that are no numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from accord.errors import InputError
from accord.feedback.judge import ScoreJudge, judge_samples
from accord.feedback.reward import TextReward, score_texts
from accord.records import Comparison, Completion, Message, Prompt, Sample, Text, Verdict


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


class Patient:
    """A judge that looks at samples, and prefers those that ended."""

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        return [Verdict(0.5) for _ in comparisons]

    def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
        return [Verdict(float(a.completion.stop == "end")) for a in first]


def test_samples_are_judged_as_samples_where_the_judge_can_and_else_as_texts() -> None:
    first, second = [sample("aaa"), sample("b")], [sample("b"), sample("aaa")]
    assert [v.first_wins for v in judge_samples(Patient(), first, second)] == [1.0, 1.0]
    assert [v.first_wins for v in judge_samples(ScoreJudge(length), first, second)] == [1.0, 0.0]


def test_texts_are_scored_as_texts_where_the_reward_can_and_else_as_samples() -> None:
    class Texts:
        def __call__(self, samples: Sequence[Sample]) -> torch.Tensor:
            raise AssertionError

        def texts(self, pairs: Sequence[tuple[Text, Text]]) -> torch.Tensor:
            return torch.tensor([float(len(c)) for _, c in pairs])

    assert score_texts(Texts(), [("p", "four")]).tolist() == [4.0]
    turns = (Message("assistant", "four"), Message("user", "and?"), Message("assistant", "six"))
    assert score_texts(TextReward(length), [("p", "four"), ("p", turns)]).tolist() == [4.0, len("four\n\nsix")]
