"""`accord label` by several judges: their verdicts together, each one's faults, and who is reliable."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import exp, log
from pathlib import Path

import pytest

from accord.feedback.judge import pooled
from accord.records import Verdict
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl

JUDGES = """
def value(text):
    return int(text.split()[1])

def sure(prompts, firsts, seconds):
    return [0.9 if value(a) > value(b) else 0.1 for a, b in zip(firsts, seconds)]

def unsure(prompts, firsts, seconds):
    return [0.4 if value(a) > value(b) else 0.6 for a, b in zip(firsts, seconds)]

def silent(prompts, firsts, seconds):
    return [None] * len(prompts)

def at_times(prompts, firsts, seconds):
    return [None if "2" in p else q for p, q in zip(prompts, sure(prompts, firsts, seconds))]

def careless(prompts, firsts, seconds):
    right = [value(a) > value(b) for a, b in zip(firsts, seconds)]
    return [1.0 if r != (int(p.split()[1]) % 3 == 0) else 0.0 for p, r in zip(prompts, right)]

def even(prompts, firsts, seconds):
    return [0.5] * len(prompts)
"""
Label = Callable[..., tuple[int, str, list[dict[str, object]]]]


@pytest.fixture
def label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Label:
    """Labels 60 pairs, of which the completion of the higher number is the better one, by judges of that module."""
    (tmp_path / "several_judges.py").write_text(JUDGES)
    monkeypatch.syspath_prepend(str(tmp_path))
    samples = [{"prompt": f"p {i}", "completion": f"is {(i * k) % 7 + k}"} for i in range(60) for k in (1, 9)]
    data, out = write_jsonl(tmp_path / "s.jsonl", samples), tmp_path / "o.jsonl"

    def run(judges: str, *more: object) -> tuple[int, str, list[dict[str, object]]]:
        names = [name if "." in name or name == "cafe" else f"several_judges:{name}" for name in judges.split()]
        code = accord("label", "--data", data, "--out", out, "--judge", *names, "--soft", *more)
        said = capsys.readouterr()
        return code, said.out + said.err, [*read_jsonl(out)] if code == 0 else []

    return run


def number(text: object) -> int:
    return int(str(text).split()[1])


def is_right(row: dict[str, object]) -> bool:
    return number(row["chosen"]) > number(row["rejected"])


def odds(p: float) -> float:
    return log(p / (1 - p))


def test_the_mean_of_log_odds() -> None:
    assert pooled([Verdict(0.9), Verdict(0.4)]).first_wins == pytest.approx(1 / (1 + exp(-(odds(0.9) + odds(0.4)) / 2)))
    assert pooled([Verdict(0.9), Verdict(None, "no"), Verdict(0.9)]).first_wins == pytest.approx(0.9)
    assert pooled([Verdict(1.0), Verdict(0.4)]) == Verdict(0.7)  # no log-odds: the mean of the probabilities
    assert pooled([Verdict(None, "one"), Verdict(None, "two")]) == Verdict(None, "one")


def test_several_judges_make_one_verdict_by_the_mean(label: Label) -> None:
    code, said, rows = label("sure unsure at_times silent")
    assert code == 0 and len(rows) == 60
    three = 1 / (1 + exp(-(2 * odds(0.9) + odds(0.4)) / 3))
    two = 1 / (1 + exp(-(odds(0.9) + odds(0.4)) / 2))
    for row in rows:
        expected = two if "2" in str(row["prompt"]) else three
        assert row["chosen_probability"] == pytest.approx(expected)
    assert "several_judges:silent: 0 ties, 60 invalid" in said and "several_judges:at_times: 0 ties, " in said


@pytest.mark.parametrize("by", ["dawid-skene", "bradley-terry"])
def test_whoever_is_careless_counts_for_less(label: Label, by: str) -> None:
    """Two that agree, and one that errs on a third of the prompts: the majority's winner is always theirs."""
    code, said, rows = label("sure at_times careless", "--by", by)
    assert code == 0 and len(rows) == 60
    assert all(
        int(str(r["chosen"]).split()[1]) > int(str(r["rejected"]).split()[1])
        for r in rows
        if "2" not in str(r["prompt"])
    )
    assert "several_judges:careless" in said and "reliability" in said


def test_the_majority_and_what_no_judge_says(label: Label) -> None:
    _, _, rows = label("sure unsure careless", "--by", "majority")
    # sure is right and unsure wrong, so that careless decides: 2 of 3 for its side
    for row in rows:
        right = int(str(row["chosen"]).split()[1]) > int(str(row["rejected"]).split()[1])
        assert right == (int(str(row["prompt"]).split()[1]) % 3 != 0) and row["chosen_probability"] == pytest.approx(
            2 / 3
        )
    code, said, rows = label("silent at_times", "--by", "majority")
    silent = sum("2" in f"p {i}" for i in range(60))
    assert code == 0 and len(rows) == 60 - silent  # invalid, and no ties
    assert f"label: {60 - silent} preferences from 60 comparisons, 0 ties, {silent} invalid" in said


def test_wrong_use(label: Label) -> None:
    code, said, _ = label("sure", "--by", "mean")
    assert code == 2 and "--by mean is for several judges, and there is one: name more, or leave it out" in said
    code, said, _ = label("sure sure")
    assert code == 2 and "the judge several_judges:sure is named twice" in said
    code, said, _ = label("sure cafe", "--reasoning", 4)
    assert code == 2 and "--reasoning is for language models that judge" in said and "cafe is none" in said
    code, said, _ = label("silent even", "--by", "majority")
    assert code == 2 and "the judge found no completion better than another: 60 ties, 0 invalid" in said


def test_every_language_model_has_its_journal(label: Label, tmp_path: Path) -> None:
    model = save_model(tmp_path / "m", template=None)
    judge = tmp_path / "judge.yaml"
    judge.write_text(json.dumps({"model": model, "template": "{first} {second}"}))
    code, said, _ = label(f"sure {judge}", "--journal", tmp_path / "j")
    assert code == 0 and f"more, 0 requests without one; kept in {tmp_path / 'j'}.2" in said
