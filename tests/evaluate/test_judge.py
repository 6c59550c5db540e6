"""A judge beside people: biases that are known are found, and what has no valid verdict is in no other number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit

from accord.data.judgments import Judgment
from accord.evaluate.accuracy import Predictions
from accord.evaluate.judge import by_gap, length_bias, measured, order_bias
from accord.feedback.judge import BothOrders, Orders
from accord.records import Comparison, Verdict
from tests.commands.small import accord, write_jsonl
from tests.days import set_day
from tests.trust.commands import write_judge

PAIRS = 400


class Biased:
    """Log-odds of the first: c times what people say, and d a doubling of length; b for whatever stands first."""

    def __init__(self, c: float, b: float, d: float, spread: float = 0.0, seed: int = 0) -> None:
        self.c, self.b, self.d, self.spread, self.seed = c, b, d, spread, seed

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        return [Verdict(float(expit(self.odds(c) + self.bias(c)))) for c in comparisons]

    def odds(self, pair: Comparison) -> float:
        side = 1 if pair.first > pair.second else -1  # people prefer what begins with b
        return self.c * side + self.d * float(np.log2(len(pair.first) / len(pair.second)))  # type: ignore[arg-type]

    def bias(self, pair: Comparison) -> float:
        number = int(str(pair.prompt)) + self.seed * PAIRS
        return self.b + self.spread * float(np.random.default_rng(number).normal())


def judgments(seed: int = 0, better_longer: float = 0.0) -> list[Judgment]:
    """Pairs of an answer of a's and one of b's; people prefer b, which is the first in half of them."""
    draw, rows = np.random.default_rng(seed), []
    for i in range(PAIRS):
        a = int(draw.integers(10, 200))
        b = max(1, round(a * 2 ** draw.normal(better_longer, 1)))
        first, second = ("a" * a, "b" * b) if draw.random() < 0.5 else ("b" * b, "a" * a)
        rows.append(Judgment(str(i), first, second, float(first[0] == "b"), i, source=("web", "chat")[i % 2]))
    return rows


def test_an_additive_bias_of_position_is_found_and_taken_out() -> None:
    judge, data = Biased(c=0.4, b=0.7, d=0.0), judgments()
    result = measured(data, judge)
    assert result.order_bias is not None
    assert [result.order_bias.estimate, result.order_bias.low, result.order_bias.high] == pytest.approx([0.7] * 3)
    assert result.agreement.estimate == 1.0 and result.first_wins is not None and result.inconsistent is not None
    # .4 + .7 and .7 - .4 are above 0, so that what stands first wins always, and no pair has one winner in both orders
    assert (result.first_wins.estimate, result.inconsistent.estimate) == (1.0, 1.0)
    pairs = [Comparison(j.prompt, j.first, j.second) for j in data]
    verdicts = BothOrders(judge)(pairs)
    assert [v.first_wins for v in verdicts] == pytest.approx([float(expit(judge.odds(pair))) for pair in pairs])


def test_a_bias_that_varies_lies_within_its_interval() -> None:
    held = 0
    for seed in range(20):
        judge = Biased(c=0.4, b=-0.3, d=0.0, spread=1.0, seed=seed)
        found = measured(judgments(seed), judge).order_bias
        assert found is not None and found.high - found.low < 0.25
        held += found.low <= -0.3 <= found.high
    assert held >= 17  # 19 of 20 expected; fewer than 17 has a probability of .016


@pytest.mark.parametrize("d", [0.8, 0.0, -0.5])
def test_a_length_bias_is_found_beside_what_people_prefer(d: float) -> None:
    """People prefer longer answers, the judge follows them, and adds d a doubling: the slope is d all the same."""
    result = measured(judgments(better_longer=0.7), Biased(c=0.6, b=0.5, d=d))
    assert result.length_slope is not None and result.longer is not None and result.people_longer is not None
    assert result.length_slope.estimate == pytest.approx(d, abs=2e-3)  # fit_logistic's ridge draws to 0
    assert result.length_slope.low - 2e-3 <= d <= result.length_slope.high + 2e-3
    assert result.people_longer.estimate > 0.6
    assert result.longer_more is not None
    assert result.longer_more.estimate == pytest.approx(result.longer.estimate - result.people_longer.estimate)
    assert (result.longer_more.low > 0) == (d > 0) and (result.longer_more.high < 0) == (d < 0)
    assert any("longer answer" in line for line in result.warnings) == (d != 0)


def test_by_hand() -> None:
    """Four pairs: right in both orders, wrong in both, another winner in the other order, and no verdict."""
    said = {
        "1": [0.9, 0.2], "2": [0.3, 0.6], "3": [0.8, 0.8], "4": [None, 0.5],
    }  # fmt: skip

    def judge(comparisons: Sequence[Comparison]) -> list[Verdict]:
        both = [said[str(c.prompt)][c.first != "good"] for c in comparisons]
        return [Verdict(p, "" if p is not None else "no letter: well") for p in both]

    rows = [Judgment(p, "good", "worse!", 1.0, int(p)) for p in said]
    result = measured(rows, judge)
    assert (result.pairs, result.agreement.n, result.ties) == (4, 3, 1)
    assert result.agreement.estimate == (1 + 0 + 0.5) / 3  # .8 and .8 are even
    assert result.invalid.estimate == 0.25 and result.faults == {"no letter": 1}
    assert result.first_wins is not None and result.first_wins.estimate == (1 + 1 + 2) / 6
    assert result.inconsistent is not None and result.inconsistent.estimate == 1 / 3
    bias = [logit(0.9) + logit(0.2), logit(0.3) + logit(0.6), 2 * logit(0.8)]
    assert result.order_bias is not None and result.order_bias.estimate == pytest.approx(sum(bias) / 6)
    assert result.longer is not None and result.longer.estimate == 0.5  # of three: wins once, ties once
    assert result.people_longer is not None and result.people_longer.estimate == 0.0
    assert result.by_length[0].label == "-2 to -2"


def test_a_judge_that_knows_no_order_has_no_bias_of_it() -> None:
    assert order_bias([Orders(Verdict(0.7))], np.zeros(1)) is None
    assert order_bias([Orders(Verdict(1.0), Verdict(0.2))], np.zeros(1)) is None
    even = Predictions([Judgment("?", "ab", "cd", 1.0)], np.array([0.1]))
    assert length_bias(even) == {} and by_gap(even)[0].label == "+0 to +0"


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "some_judge.py").write_text(
        "def first(prompts, firsts, seconds):\n    return [None if p == '3' else 1.0 for p in prompts]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [
        {"prompt": str(i), "chosen": "a" * (i + 2), "rejected": "b", "source": "x" if i < 20 else "y"}
        for i in range(30)
    ]
    data, out = write_jsonl(tmp_path / "d.jsonl", rows), tmp_path / "out"
    assert accord("evaluate", "judge", "--judge", "some_judge:first", "--data", data, "--out", out) == 0
    result = json.loads((out / "evaluation.json").read_text())
    assert result["kind"] == "judge" and result["agreement"]["estimate"] == 0.5 and result["ties"] == 29
    assert result["first_wins"]["estimate"] == result["inconsistent"]["estimate"] == 1.0
    assert result["order_bias"] is None and result["invalid"]["estimate"] == 1 / 30
    assert {part["label"]: part["accuracy"]["n"] for part in result["by_source"]} == {"x": 19, "y": 10}
    printed = capsys.readouterr()
    assert "first answer wins" in printed.out
    assert "The judge favors the answer shown first" in printed.out + printed.err
    assert accord("report", out) == 0
    page = (out / "report.html").read_text()
    assert "A judge compared with people" in page and "log-odds of twice the length" in page.lower()
    tied = write_jsonl(tmp_path / "t.jsonl", [{"prompt": "?", "completions": ["a", "b"], "ranks": [0, 0]}])
    assert accord("evaluate", "judge", "--judge", "some_judge:first", "--data", tied, "--out", out) == 2
    assert "has only ties, so there is nothing to agree with" in capsys.readouterr().err


def test_a_judge_continued_on_another_day_has_the_date_of_its_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_judge(tmp_path / "judge")
    data = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "hi", "chosen": "bye", "rejected": "bad"}] * 2)
    for day in ("2026-03-09", "2026-03-10"):
        set_day(monkeypatch, day)
        command = (
            "evaluate",
            "judge",
            "--judge",
            f"ai:{tmp_path / 'judge'}",
            "--data",
            data,
            "--out",
            tmp_path / "out",
        )
        assert accord(*command) == 0
        assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["date"] == "2026-03-09"
