"""Both orders: an additive position bias goes exactly, hard verdicts agree or tie, symmetric judges are asked once."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.errors import InputError
from accord.feedback.judge import BothOrders, JudgeReward, Orders, RewardJudge, ScoreJudge
from accord.feedback.reward import check_prompts, listen
from accord.records import Comparison, EncodedPrompt, Sample, Verdict
from tests.feedback.samples import CHAT, sample

PAIR = Comparison("q", "a", "b")


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def orders(forward: float | None, swapped: float | None) -> Orders:
    return Orders(Verdict(forward, "" if forward is not None else "hm"), Verdict(swapped))


@given(st.floats(-8, 8), st.floats(-8, 8))
def test_a_bias_that_adds_to_the_log_odds_goes_exactly(lead: float, bias: float) -> None:
    # The judge says sigmoid(lead + bias) of (a, b) and sigmoid(-lead + bias) of (b, a).
    verdict = orders(sigmoid(lead + bias), sigmoid(-lead + bias)).verdict
    assert verdict.first_wins == pytest.approx(sigmoid(lead), abs=1e-8)


def test_literals() -> None:
    # .9 is odds of 9, .4 odds of 2/3 for the other: sqrt(9 / (2/3)) = sqrt 13.5 = 3.6742, of which 3.6742 / 4.6742.
    both = orders(0.9, 0.4)
    assert both.verdict.first_wins == pytest.approx(13.5**0.5 / (1 + 13.5**0.5))
    assert (both.first_wins, both.inconsistent) == ([1.0, 0.0], False)


@pytest.mark.parametrize(
    ("forward", "swapped", "verdict", "inconsistent"),
    [
        (1.0, 0.0, 1.0, False),
        (0.0, 1.0, 0.0, False),
        (1.0, 1.0, 0.5, True),
        (0.0, 0.0, 0.5, True),
        (0.5, 0.5, 0.5, False),
        (1.0, 0.5, 0.5, True),
        (1.0, 0.2, 1.0, False),  # one hard verdict: both count for their winner
        (0.7, 1.0, 0.5, True),
        (0.5, 0.3, (7 / 3) ** 0.5 / (1 + (7 / 3) ** 0.5), True),
    ],
)
def test_hard_verdicts_agree_or_tie(forward: float, swapped: float, verdict: float, inconsistent: bool) -> None:
    both = orders(forward, swapped)
    assert (both.verdict.first_wins, both.inconsistent) == (pytest.approx(verdict), inconsistent)
    assert both.mirrored.verdict.first_wins == pytest.approx(1 - verdict)


def test_one_invalid_order_makes_the_verdict_invalid_and_contradicts_nothing() -> None:
    assert orders(None, 1.0).verdict == Verdict(None, "hm")
    swapped = Orders(Verdict(1.0), Verdict(None, "hm"))
    assert swapped.verdict == Verdict(None, "in the swapped order: hm")
    assert (swapped.inconsistent, swapped.first_wins) == (False, [1.0])


def test_the_other_side_of_a_symmetric_verdict() -> None:
    assert Orders(Verdict(0.25)).mirrored == Orders(Verdict(0.75))
    assert Orders(Verdict(None, "hm")).mirrored == Orders(Verdict(None, "hm"))
    assert Orders(Verdict(1.0)).first_wins == [0.5] and not Orders(Verdict(1.0)).inconsistent


def test_a_judge_is_called_once_with_both_orders() -> None:
    calls: list[list[Comparison]] = []

    def judge(comparisons: Sequence[Comparison]) -> list[Verdict]:
        calls.append(list(comparisons))
        return [Verdict(sigmoid(log(4) if c.first == "a" else -log(1))) for c in comparisons]

    # (a, b): odds of 4; (b, a): even odds. Their mean is sqrt 4 = 2 to 1.
    assert [v.first_wins for v in BothOrders(judge)([PAIR])] == [pytest.approx(2 / 3)]
    assert calls == [[PAIR, Comparison("q", "b", "a")]]
    assert [v.first_wins for v in BothOrders(judge).samples([sample("a")], [sample("b")])] == [pytest.approx(2 / 3)]


def test_a_symmetric_judge_is_asked_once() -> None:
    asked: list[str] = []

    def score(prompt: object, text: object) -> float:
        asked.append(str(text))
        return float(len(str(text)))

    assert BothOrders(ScoreJudge(score))([Comparison("q", "aa", "b")]) == [Verdict(1.0)]
    assert asked == ["aa", "b"]
    assert BothOrders(BothOrders(ScoreJudge(score))).orders([sample("a")], [sample("bb")]) == [Orders(Verdict(0.0))]


def test_what_the_judge_needs_to_hear_reaches_it() -> None:
    class Reader:
        def __init__(self) -> None:
            self.heard: list[object] = []

        def __call__(self, samples: Sequence[Sample]) -> None:
            raise AssertionError

        def listen(self, policy: object) -> None:
            self.heard.append(policy)

        def check(self, prompt: object, row: int) -> None:
            self.heard.append(row)

    reader = Reader()
    judge = BothOrders(RewardJudge(reader))  # type: ignore[arg-type]
    listen(judge, "policy")  # type: ignore[arg-type]
    check_prompts(judge, [EncodedPrompt(sample("a").prompt, (), 3)])
    check_prompts(judge, [])
    assert reader.heard == ["policy", 3]


class Leaning:
    """A judge whose log-odds are the difference in length, and `bias` for whichever stands first."""

    def __init__(self, bias: float) -> None:
        self.bias = bias

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        return [Verdict(sigmoid(len(c.first) - len(c.second) + self.bias)) for c in comparisons]


@given(st.lists(st.text("ab", max_size=6), min_size=1, max_size=5), st.text("ab", max_size=6), st.floats(-8, 8))
def test_as_a_reward_a_judge_gives_the_log_odds_over_the_row_s_completion(
    said: list[str], reference: str, bias: float
) -> None:
    reward = JudgeReward(Leaning(bias))
    leads = [len(text) - len(reference) for text in said]
    assert reward([sample(text, completion=reference) for text in said]).tolist() == pytest.approx(leads, abs=1e-5)
    assert reward.logged["beats"] == pytest.approx(sum(map(sigmoid, leads)) / len(leads), abs=1e-6)


def test_verdicts_without_odds_are_as_sure_as_can_be_and_invalid_ones_abstain() -> None:
    class Says:
        def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
            known = {("good", "it"): 1.0, ("it", "good"): 0.0, ("bad", "it"): 0.0, ("it", "bad"): 1.0}
            return [Verdict(known.get((str(c.first), str(c.second)))) for c in comparisons]

    reward = JudgeReward(Says(), "gold")
    scores = reward([sample(text, gold="it") for text in ("good", "bad", "new")]).tolist()
    assert scores[:2] == pytest.approx([log(999_999), -log(999_999)], rel=1e-6)
    assert scores[2] != scores[2] and reward.abstains and reward.logged == {"beats": 0.5}


def test_the_row_s_columns_reach_the_judge_in_both_orders_and_chats_are_read() -> None:
    seen: list[Comparison] = []

    def judge(comparisons: Sequence[Comparison]) -> list[Verdict]:
        seen.extend(comparisons)
        return [Verdict(0.5) for _ in comparisons]

    answer = [{"role": "assistant", "content": "two coins"}]
    assert JudgeReward(judge)([sample("three", prompt=CHAT, completion=answer, price=2)]).tolist() == [0.0]
    assert [(c.prompt, c.first, c.second) for c in seen] == [(CHAT, "three", "two coins"), (CHAT, "two coins", "three")]
    assert all(c.columns["price"] == 2 for c in seen)


def test_a_row_without_the_completion_is_refused_before_anything_is_sampled() -> None:
    reward = JudgeReward(Leaning(0), "gold")
    prompts = [EncodedPrompt(sample("", **columns).prompt, (1,), 4) for columns in ({"answer": 1}, {"gold": 3})]
    for prompt, message in zip(
        prompts, ("row 5 has no column 'gold'.*there are: answer", "row 5: 'gold' must be a string"), strict=True
    ):
        with pytest.raises(InputError, match=message):
            check_prompts(reward, [prompt])
