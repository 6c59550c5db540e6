"""`accord evaluate passes`: pass@k and the majority's answer, of one model or several, against the samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.evaluate.passes import majority_is_right, pass_at_k
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl

ANSWERS = {"hi": "good", "hello": "bad", "bye day": "bad", "bye": "good", "day": "good"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "base")
    write_jsonl(folder / "rows.jsonl", [{"prompt": p, "answer": a} for p, a in ANSWERS.items()])
    return folder


def passed(home: Path, out: Path, *options: object) -> dict[str, Any]:
    common = ("--data", home / "rows.jsonl", "--out", out, "--max-new-tokens", 6, "--dtype", "float32", "--seed", 5)
    assert accord("evaluate", "passes", *common, *options) == 0
    return json.loads((out / "evaluation.json").read_text())


def test_against_the_samples_themselves(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # `accord sample` with the same seed draws the same samples.
    found = passed(home, tmp_path, "--model", home / "base", "--verifier", "regex:(good|bad)", "--n", 6)
    shown = capsys.readouterr().out
    drawn = ("--n", 6, "--max-new-tokens", 6, "--dtype", "float32", "--seed", 5)
    out = tmp_path / "samples.jsonl"
    assert accord("sample", "--model", home / "base", "--data", home / "rows.jsonl", "--out", out, *drawn) == 0
    said = [[w for w in r["completion"].split() if w in ("good", "bad")] for r in read_jsonl(out)]
    last = [words[-1] if words else None for words in said]
    answers = [last[i : i + 6] for i in range(0, 30, 6)]
    right = [[a == gold for a in group] for group, gold in zip(answers, ANSWERS.values(), strict=True)]
    [row] = found["models"]
    for k in (1, 2, 4, 6):
        expected = sum(pass_at_k(6, sum(group), k) for group in right) / 5
        assert row["pass"][str(k)]["estimate"] == pytest.approx(expected, abs=1e-12)
        assert row["pass"][str(k)]["low"] <= expected <= row["pass"][str(k)]["high"]
    votes = [majority_is_right(a, r) for a, r in zip(answers, right, strict=True)]
    assert row["majority"]["estimate"] == pytest.approx(sum(votes) / 5, abs=1e-12)
    assert list(row["pass"]) == ["1", "2", "4", "6"] and row["pass"]["1"]["n"] == found["prompts"] == 5
    assert 0 < row["pass"]["1"]["estimate"] < row["pass"]["6"]["estimate"]
    assert (found["kind"], found["samples"], found["verifier"]) == ("passes", 6, "regex:(good|bad)")
    assert "pass@1" in shown and "pass@6" in shown and "majority@6" in shown


def test_several_models_by_name(home: Path, tmp_path: Path) -> None:
    named = ("--models.one", home / "base", "--models.same", home / "base")
    found = passed(home, tmp_path, *named, "--verifier", "regex:(good|bad)", "--n", 1)
    one, same = found["models"]
    assert (one.pop("name"), same.pop("name")) == ("one", "same") and one == same
    assert list(one["pass"]) == ["1"]
    assert one["majority"]["estimate"] == one["pass"]["1"]["estimate"]  # the majority of one


def test_a_reward_that_reads_no_answers_has_no_majority(home: Path, tmp_path: Path) -> None:
    # A sum of a verifier with itself, by halves, is right where the verifier is.
    halves = "0.5 * regex:(good|bad) + 0.5 * regex@answer:(good|bad)"
    summed = passed(home, tmp_path / "sum", "--model", home / "base", "--verifier", halves)["models"][0]
    plain = passed(home, tmp_path / "one", "--model", home / "base", "--verifier", "regex:(good|bad)")["models"][0]
    assert summed["pass"] == plain["pass"]
    assert summed["majority"] is None and plain["majority"] is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "needs --model, or several by --models.NAME, and not both"),
        (("--model", "a", "--models.b", "b"), "needs --model, or several by --models.NAME, and not both"),
        (("--model", "a", "--n", 0), "--n must be at least 1, not 0"),
        (("--model", "a", "--temperature", 0), "--temperature 0 gives the same sample every time: use --n 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    home: Path, tmp_path: Path, options: tuple[object, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--data", home / "rows.jsonl", "--out", tmp_path / "v", "--verifier", "number")
    assert accord("evaluate", "passes", *common, *options) == 2
    assert message in capsys.readouterr().err


def test_rows_without_answers_are_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "hi", "answer": "1"}, {"prompt": "bye"}])
    common = ("--model", home / "base", "--data", data, "--out", tmp_path / "v", "--max-new-tokens", 4)
    assert accord("evaluate", "passes", *common, "--verifier", "number") == 2
    assert "row 2 has no column 'answer', which the verifier number reads" in capsys.readouterr().err
    assert not (tmp_path / "v").exists()
