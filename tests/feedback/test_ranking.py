"""K answers ranked at once: orders read strictly, what a place adds taken out, and rows that `accord reward` reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from accord.data.load import load_data
from accord.errors import InputError
from accord.feedback.judge import BothOrders
from accord.feedback.named import judge_named, only_compares
from accord.feedback.people import to_ranking
from accord.feedback.ranking import RankingJudge, Standing, places_of
from accord.prompting.requests import Reply, Request
from accord.records import Comparison, Ranking, Verdict, show
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.feedback.replies import Replies


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("B > A = C", [1.5, 0, 1.5]), ("A>B>C", [0, 1, 2]), ("**C > B > A**", [2, 1, 0]), ("A = B = C", [1, 1, 1]),
        ("Ranking: C > A > B.", [1, 2, 0]), ("A = C > B\n\nsince B is rude", [0.5, 2, 0.5]), ("(B > C > A)", [2, 0, 1]),
        ("B > A", None), ("B > A > A", None), ("B > A > D", None), ("B is the best", None), ("", None), ("B", None),
        ("A > B > C > D", None), ("I say A > B > C", None), ("B, A, C", None), ("> A > B > C", None),
        ("A > B > C and so on", None),
    ],
)  # fmt: skip
def test_a_written_order_is_read_strictly(text: str, places: list[float] | None) -> None:
    assert places_of(text, "ABC") == places


def shown(request: Request) -> list[str]:
    """The answers in the order in which a request has them."""
    return re.findall(r"\[Answer [A-Z]\]\n(.*)", show(request.prompt))


def by_odds(scores: dict[str, float], places: list[float]) -> Callable[[Request], Reply]:
    """A model whose letter has the log-odds of its answer, and what its place adds; times what is not for a letter."""

    def reply(request: Request) -> Reply:
        odds = np.array([scores[answer] + places[i] for i, answer in enumerate(shown(request))])
        chances = np.exp(odds) / np.exp(odds).sum() * 0.3
        return Reply(text="", choices=dict(zip(request.choices, chances.tolist(), strict=True)))

    return reply


@given(
    st.lists(st.floats(-3, 3), min_size=4, max_size=4),
    st.lists(st.floats(-3, 3), min_size=4, max_size=4),
    st.permutations("abcd"),
)
def test_what_a_place_adds_is_taken_out(scores: list[float], places: list[float], answers: list[str]) -> None:
    truth = dict(zip("abcd", scores, strict=True))
    judge = RankingJudge(Replies(by_odds(truth, places)))
    [standing] = judge.rank([("Why?", answers, {})])
    found = np.array(standing.scores)
    expected = np.array([truth[answer] for answer in answers])
    assert found - found.mean() == pytest.approx(expected - expected.mean(), abs=1e-9)
    [verdict] = judge([Comparison("Why?", "a", "b")])
    assert verdict.first_wins == pytest.approx(float(expit(truth["a"] - truth["b"])), abs=1e-9)
    assert BothOrders(judge)([Comparison("Why?", "a", "b")]) == [verdict]  # it asks both ways itself


def test_every_answer_stands_once_in_each_place() -> None:
    model = Replies(by_odds({"a": 0, "b": 0, "c": 0}, [0, 0, 0]))
    judge = RankingJudge(model, ["Be kind.", "Be brief.", "Be true."], per_comparison=2)
    judge.rank([("Why?", ("a", "b", "c"), {})])
    assert [shown(request) for request in model.asked] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]] * 2
    told = [str(show(request.prompt)).split("\n")[2] for request in model.asked]
    assert told[0] == told[2] != told[3] == told[5]
    assert {(request.max_tokens, request.choices) for request in model.asked} == {(0, ("A", "B", "C"))}


def written(order: Callable[[list[str]], str], **more: object) -> RankingJudge:
    return RankingJudge(Replies(lambda r: Reply(text=order(shown(r)))), max_tokens=8, **more)  # type: ignore[arg-type]


def test_written_orders_are_counted_by_place() -> None:
    def by_name(answers: list[str]) -> str:
        letters = dict(zip(answers, "ABCD", strict=False))
        return f"{letters['good']} > {letters['same']} = {letters['as good']} > {letters['bad']}"

    answers = ("bad", "as good", "good", "same")
    [standing] = written(by_name).rank([("Why?", answers, {})])
    assert standing == Standing((-3, -1.5, 0, -1.5), "place") and standing.ranks == (2, 1, 0, 1)
    [always_first] = written(lambda answers: "A > B > C > D").rank([("Why?", answers, {})])
    assert always_first.ranks == (0, 0, 0, 0)  # a judge that likes a place ties what it says of the answers
    model = Replies(lambda r: Reply(text="A > B"))
    assert RankingJudge(model, max_tokens=8)([Comparison("Why?", "a", "b")]) == [Verdict(0.5)]
    assert {request.max_tokens for request in model.asked} == {8}
    judge = written(by_name)
    judge.rank([("Why?", answers, {})])
    assert {r.max_tokens for r in judge.asker.model.asked} == {16}  # type: ignore[attr-defined]


def test_one_reply_that_is_not_valid_makes_no_ranking() -> None:
    odd = written(lambda answers: "A > B" if answers[0] == "a" else "Both are fine.")
    assert odd([Comparison("Why?", "a", "b")]) == [Verdict(None, "no order: the judge replied 'Both are fine.'")]
    lost = RankingJudge(Replies(lambda r: Reply(text=None, reason="server error (5xx)")))
    assert lost.rank([("Why?", ("a", "b", "c"), {})]) == [Standing(reason="server error (5xx)")]
    faint = RankingJudge(Replies(lambda r: Reply(text="", choices={"A": 0.001, "B": 0.002})))
    [standing] = faint.rank([("Why?", ("a", "b"), {})])
    assert standing.reason == "unclear: the judge gives all letters a probability of 0.003 together"
    zero = RankingJudge(Replies(lambda r: Reply(text="", choices={"A": 0.6, "B": 0.2, "C": 0.0})))
    [mean] = zero.rank([("Why?", ("a", "b", "c"), {})])
    assert mean.scores == pytest.approx((1 / 3,) * 3) and mean.unit == "share"
    with pytest.raises(InputError, match="a model ranks 2 to 26 answers, and 'Why.' has 27"):
        faint.rank([("Why?", tuple(map(str, range(27))), {})])


def test_verdicts_that_agree_with_no_ranking() -> None:
    pairs = [Comparison("?", *pair) for pair in ("ab", "ac", "bc")]
    cycle = [Verdict(1.0), Verdict(0.0), Verdict(1.0)]  # a beats b, b beats c, c beats a
    assert to_ranking(pairs, cycle) is None
    assert to_ranking(pairs, cycle, transitive=False) == Ranking("?", ("a", "b", "c"), (0, 0, 0))
    assert to_ranking(pairs, [Verdict(1.0), Verdict(None), Verdict(1.0)], transitive=False) is None


JUDGES = """
def value(text):
    return int(text.split()[1])

def sure(prompts, firsts, seconds):
    return [1.0 if value(a) > value(b) else 0.5 if value(a) == value(b) else 0.0 for a, b in zip(firsts, seconds)]

def silent(prompts, firsts, seconds):
    return [None if p.endswith("2") else q for p, q in zip(prompts, sure(prompts, firsts, seconds))]

def even(prompts, firsts, seconds):
    return [0.5 if p.endswith("1") else q for p, q in zip(prompts, sure(prompts, firsts, seconds))]
"""


def test_rankings_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ranking_judges.py").write_text(JUDGES)
    monkeypatch.syspath_prepend(str(tmp_path))
    values = {"hi 1": (3, 5, 4, 5), "hi 2": (1, 2, 0, 9), "hi 3": (7, 7, 1, 2)}
    words = ("good", "bad", "day", "hello")
    rows = [
        {"prompt": prompt, "completion": f"{word} {value}"}
        for prompt, some in values.items()
        for word, value in zip(words, some, strict=True)
    ]
    data, out = write_jsonl(tmp_path / "s.jsonl", rows), tmp_path / "o.jsonl"
    label = ("label", "--data", data, "--out", out, "--rankings", "--judge")
    assert accord(*label, "ranking_judges:sure") == 0
    assert [row["ranks"] for row in read_jsonl(out)] == [[2, 0, 1, 0], [2, 1, 3, 0], [0, 0, 2, 1]]
    assert load_data(str(out))[0] == Ranking("hi 1", ("good 3", "bad 5", "day 4", "hello 5"), (2, 0, 1, 0))
    assert "label: 3 rankings of 3 prompts, 0 all tied, 0 invalid" in capsys.readouterr().err
    model = save_model(tmp_path / "m", template=None)
    fit = ("reward", "--model", model, "--data", out, "--out", tmp_path / "rm", "--max-steps", 1, "--no-report")
    assert accord(*fit[:-1]) == 0
    capsys.readouterr()
    assert accord(*label, "ranking_judges:silent", "ranking_judges:even", "--by", "majority") == 0
    printed = capsys.readouterr().err
    told = "ranking_judges:silent: 2 ties, 6 invalid (6 the judge ranking_judges:silent gave no answer)"
    assert told in printed  # whoever is valid decides
    assert accord(*label, "ranking_judges:silent") == 0 and len(read_jsonl(out)) == 2
    assert "label: 2 rankings of 3 prompts, 0 all tied, 1 invalid" in capsys.readouterr().err
    assert accord(*label, "ranking_judges:even") == 0 and len(read_jsonl(out)) == 2
    assert "label: 2 rankings of 3 prompts, 1 all tied, 0 invalid" in capsys.readouterr().err
    assert accord(*label, "ranking_judges:sure", "--soft") == 2
    assert "leave out --soft and --pairs" in capsys.readouterr().err


def test_a_model_at_hand_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, judge = save_model(tmp_path / "m", template=None), tmp_path / "judge.yaml"
    judge.write_text(json.dumps({"model": model, "method": "rank", "template": "{answers}"}))
    rows = [{"prompt": "hi", "completion": text} for text in ("good", "bad day", "hello")]
    data, out = write_jsonl(tmp_path / "s.jsonl", rows), tmp_path / "o.jsonl"
    code = accord("label", "--data", data, "--out", out, "--judge", judge, "--rankings")
    printed = capsys.readouterr().err
    # the little model knows no letters: it gives them one probability, so that all are tied, or less than counts
    assert (
        code == 2 and "0 replies kept before, 3 more" in printed and "the judge found no completion better" in printed
    )
    named = judge_named(str(judge))
    assert isinstance(named, RankingJudge) and only_compares(named)
