"""Results: what is written is read again, files of before too, and what cannot be read says what to run."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from accord.errors import InputError
from accord.results import QUESTIONS, Interval, load, parse
from accord.results.models import Divergence, ModelsResult
from accord.results.overoptimization import CurvePoint
from accord.results.passes import PassesResult
from tests.report.evaluations import EVERYTHING
from tests.report.evaluations.models import MODELS


@pytest.mark.parametrize("evaluation", EVERYTHING.values(), ids=lambda e: e["kind"])
def test_what_is_written_is_read_again(evaluation: dict[str, Any], tmp_path: Path) -> None:
    result = parse(evaluation)
    assert type(result) is QUESTIONS[evaluation["kind"]]
    assert result.save(tmp_path) == tmp_path / "evaluation.json"
    assert load(tmp_path) == load(tmp_path / "evaluation.json") == result


def test_the_numbers_as_tables() -> None:
    result = parse(MODELS)
    assert isinstance(result, ModelsResult)
    console = Console(width=120, file=StringIO())
    console.print(result.table())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Bradley-Terry leaderboard" in shown and "82.3% [77.3, 87.3]" in shown
    assert "82.3%" in result._repr_html_()
    frame = result.frame()
    assert list(frame["name"]) == ["sft", "dpo", "ppo"]
    assert frame["scores.cafe.estimate"].tolist() == [0.353, 0.571, 0.644]


def test_an_interval_as_text_and_from_the_other_side() -> None:
    interval = Interval(0.8625, 0.81, 0.9, 40)
    assert f"{interval:.2f} {interval} {interval:.1%}" == "0.86 [0.81, 0.90] 0.863 [0.810, 0.900] 86.2% [81.0, 90.0]"
    assert f"{Interval(1.9, 1.2, 3.1e21):.2f}" == "1.90 [1.20, 3e+21]"
    assert interval.mirrored() == Interval(0.1375, 0.1, 0.19, 40)


def test_fields_that_are_not_given_are_not_written() -> None:
    point = CurvePoint(distance=1.0, at=None, proxy=2.0, gold=3.0)
    assert json.loads(point.model_dump_json()) == {"distance": 1.0, "at": None, "proxy": 2.0, "gold": 3.0}


def test_intervals_without_an_estimate_are_none() -> None:
    nothing = {"estimate": float("nan")}
    row = {"name": "a", "scores": {"cafe": nothing}, "kl": nothing, "win_rate": {"estimate": None}}
    result = ModelsResult.model_validate({"models": [row]})
    (model,) = result.models
    assert model.scores == {} and model.kl is None
    assert model.win_rate is not None and model.win_rate.interval is None
    bound = ModelsResult.model_validate({"models": [{"name": "a", "kl": {**interval(1.0), "bound": True}}]})
    assert bound.models[0].kl == Divergence(1.0, 0.5, 1.5, 4, True)


def interval(estimate: float) -> dict[str, float]:
    return {"estimate": estimate, "low": estimate - 0.5, "high": estimate + 0.5, "n": 4}


def test_what_accord_verify_wrote_is_read(tmp_path: Path) -> None:
    row = {"name": "m", "model": "m", "pass": {"1": interval(0.5), "2": interval(0.7)}, "majority": None}
    verification = {
        "kind": "verification",
        "data": "d.jsonl",
        "verifier": "number",
        "prompts": 4,
        "samples": 2,
        "sampling": {"temperature": 1.0, "max_new_tokens": 8, "seed": 0},
        "models": [{**row, "length": 3.5, "ended": 1.0}],
    }
    (tmp_path / "verification.json").write_text(json.dumps(verification))
    result = load(tmp_path)
    assert isinstance(result, PassesResult)
    assert result.kind == "passes" and result.models[0].passes[2].estimate == 0.7
    written = json.loads(result.model_dump_json())
    assert written["models"] == verification["models"]


def test_british_spelling_of_before_is_read() -> None:
    curves = {"kind": "overoptimisation", "proxy": "r", "gold": "g", "curves": []}
    assert parse(curves).kind == "overoptimization"
    trial = {"kind": "comparisons", "name": "m", "accuracy": interval(0.5), "labelled_ties": 3}
    assert parse(trial).model_dump()["labeled_ties"] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"kind": ', "is not a JSON object; restore it or remove it."),
        ("[]", "is not a JSON object"),
        ('{"kind": "beauty"}', "is no result of a kind that accord knows (models, comparisons,"),
        ('{"kind": "tasks"}', "(clusters: Field required); run accord evaluate tasks again to write it anew."),
        ('{"kind": "verification", "prompts": 1}', "run accord evaluate passes again to write it anew."),
    ],
)
def test_what_cannot_be_read_says_what_to_do(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(InputError) as error:
        load(tmp_path)
    assert message in str(error.value) and str(tmp_path / "evaluation.json") in str(error.value)


def test_where_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        load(tmp_path)
