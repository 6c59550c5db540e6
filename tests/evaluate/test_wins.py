"""Win rates by hand: verdicts in both orders, ties, invalid ones, the sign test, warnings, and a row a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log

import pytest
import torch

from accord.evaluate.answers import Answers
from accord.evaluate.wins import Duels, held_against, judged, standings, warnings
from accord.feedback.judge import Orders, RewardJudge, ScoreJudge
from accord.records import Comparison, Prompt, Sample, Verdict
from accord.results.models import SignTest
from tests.evaluate.test_compare import answers

LONGER = ScoreJudge(lambda prompt, text: float(len(text)))


def between(judge: Callable[..., list[Verdict]], model: Answers, against: Answers) -> Duels:
    (duels,) = judged(judge, [against, model])
    return duels


def decided(*wins: float | None, reason: str = "") -> Duels:
    """Verdicts as given, on answers of one length."""
    orders = [Orders(Verdict(win, reason if win is None else "")) for win in wins]
    return Duels(answers("a", *"x" * len(wins)), answers("b", *"y" * len(wins)), orders)


def test_a_win_rate_by_hand() -> None:
    duels = between(LONGER, answers("a", "xxx", "x", "xx", "xxxx"), answers("b", "x", "xx", "xx", "x"))
    rate = duels.win_rate()
    assert (rate.estimate, rate.n, rate.ties, rate.invalid) == (0.625, 4, 1, 0)  # 1, 0, .5, 1
    assert 0 <= rate.low <= 0.625 <= rate.high <= 1
    # Two wins and a loss: P(X <= 1) = 1/2 of three fair coins, twice that is 1.
    assert rate.sign_test == SignTest(wins=2, losses=1, p=1.0)


def test_from_the_other_side_it_is_what_is_left() -> None:
    a, b = answers("a", "xxx", "x", "xx"), answers("b", "x", "xx", "xx")
    there, back = between(LONGER, a, b), between(LONGER, b, a)
    assert there.mirrored.win_rate().estimate == back.win_rate().estimate == 0.5
    assert there.mirrored.longer.tolist() == back.longer.tolist() == [-2, 1, 0]
    assert there.mirrored.wins.tolist() == back.wins.tolist() == [0, 1, 0.5]


def test_wins_and_losses_alone_have_wilsons_interval() -> None:
    rate = decided(1.0, 1.0, 1.0, 1.0).win_rate()
    assert (rate.low, rate.high) == (pytest.approx(4 / (4 + 1.959964**2), abs=1e-6), 1.0)


def test_invalid_verdicts_are_counted_and_are_no_ties() -> None:
    duels = decided(1.0, None, 0.5, None, reason="no letter in 'hm'")
    rate = duels.win_rate()
    assert (rate.estimate, rate.n, rate.ties, rate.invalid) == (0.75, 2, 1, 2)
    assert "a against b: 2 of 4 verdicts are invalid (the first: no letter in 'hm')" in warnings([duels])


def test_without_a_valid_verdict_there_is_no_win_rate() -> None:
    duels = decided(None, None, reason="down")
    rate = duels.win_rate()
    assert [getattr(rate, k) for k in ("estimate", "low", "high", "length_controlled")] == [None] * 4
    assert (rate.n, rate.ties, rate.invalid) == (0, 0, 2)
    assert [getattr(duels.pair(), k) for k in ("first_wins", "inconsistent")] == [None, None]
    assert standings([duels]) == []
    assert warnings([duels]) == ["a against b: 2 of 2 verdicts are invalid, so there is no win rate (the first: down)"]


def test_the_judge_sees_both_answers_to_one_prompt_in_both_orders() -> None:
    seen: list[Comparison] = []

    def judge(comparisons: Sequence[Comparison]) -> list[Verdict]:
        seen.extend(comparisons)
        return [Verdict(0.5)] * len(comparisons)

    between(judge, answers("a", "u", "v"), answers("b", "y", "z"))
    there = [Comparison("p0", "u", "y"), Comparison("p1", "v", "z")]
    assert seen == there + [Comparison(c.prompt, c.second, c.first) for c in there]


def test_a_judge_of_position_alone_decides_nothing() -> None:
    pair = between(lambda pairs: [Verdict(1.0)] * len(pairs), answers("a", "u", "v"), answers("b", "y", "z")).pair()
    assert (pair.estimate, pair.ties, pair.first_wins, pair.inconsistent) == (0.5, 2, 1.0, 1.0)


def test_a_judge_of_samples_sees_tokens_and_why_they_stopped() -> None:
    class Patient:
        """Prefers what ended, and of the rest the longer."""

        def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
            raise AssertionError("texts do not say whether they were cut")

        def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
            def merit(s: Sample) -> tuple[bool, int]:
                return s.completion.stop == "end", len(s.completion.tokens)

            return [Verdict(float(merit(a) > merit(b))) for a, b in zip(first, second, strict=True)]

    rate = between(Patient(), answers("a", "x", "yy...", "zzz"), answers("b", "xx...", "y", "z")).win_rate()
    assert (rate.estimate, rate.n) == (pytest.approx(2 / 3), 3)  # 1, 0, 1


def test_every_two_models_meet_once_and_every_answer_is_rewarded_once() -> None:
    rewarded: list[Sample] = []

    def length(samples: Sequence[Sample]) -> torch.Tensor:
        rewarded.extend(samples)
        return torch.tensor([float(len(s.text)) for s in samples])

    models = [answers("a", "x", "y"), answers("b", "xx", "y"), answers("c", "x", "yyy")]
    duels = judged(RewardJudge(length), models)
    assert [(d.model.name, d.against.name, d.wins.tolist()) for d in duels] == [
        ("b", "a", [1, 0.5]),
        ("c", "a", [0.5, 1]),
        ("c", "b", [0, 1]),
    ]
    assert len(rewarded) == 6
    rivals = held_against(duels, "b")
    assert {name: d.wins.tolist() for name, d in rivals.items()} == {"c": [0, 1], "a": [0, 0.5]}
    assert held_against(duels, None) == {}


def test_one_model_alone_has_nobody_to_meet() -> None:
    assert judged(LONGER, [answers("a", "x")]) == []


def test_two_models_are_as_far_apart_as_the_log_odds_of_their_win_rate() -> None:
    # 30 wins of 40: logit .75 = log 3, less what the ridge takes: 40 (.75 - sigmoid(d)) = .01 d / 2.
    best, other = standings([decided(*[1.0] * 30, *[0.0] * 10)])
    assert (best.name, other.name) == ("a", "b")
    gap = best.rating.estimate - other.rating.estimate
    assert gap == pytest.approx(log(3), abs=1e-3)
    assert 40 * (0.75 - 1 / (1 + exp(-gap))) == pytest.approx(0.01 * gap / 2, abs=1e-8)
    assert best.elo.estimate - other.elo.estimate == pytest.approx(gap * 400 / log(10))


def test_warnings_of_few_pairs_of_lengths_that_never_overlap_and_of_ratings_without_bound() -> None:
    long, short = answers("long", "xxx", "xxxx"), answers("short", "x", "x")
    assert warnings([between(LONGER, long, short)]) == [
        "long against short: every answer is longer, so the length-controlled win rate is an extrapolation",
        "intervals from 2 pairs are unreliable; judge 20 or more",
        "short loses every time, so its rating is unbounded",
        "long wins every time, so its rating is unbounded",
    ]
    assert warnings([decided(*[1.0, 0.0] * 10)]) == []


def test_a_row_a_prompt() -> None:
    a, b = answers("a", "xx", "y"), answers("b", "x", "yyy")
    for model in (a, b):
        model.scores["size"] = torch.tensor([float(len(s.text)) for s in model.samples])
    first, second = between(lambda pairs: [Verdict(None, "hm")] + [Verdict(0.0)] * (len(pairs) - 1), a, b).rows()
    shared = {"model": "a", "against": "b"}
    assert first == shared | {
        "prompt": "p0",
        "first": "xx",
        "second": "x",
        "verdict": None,
        "reason": "hm",
        "scores": {"size": [2.0, 1.0]},
        "lengths": [2, 1],
    }
    assert second["verdict"] == 0.5 and "reason" not in second  # against both orders' second answer: no winner
    assert second["prompt"] == Prompt("p1").prompt and second["lengths"] == [1, 3]
