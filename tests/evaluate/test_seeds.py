"""A recipe over several seeds: means by hand, what is compared with what, and what is refused."""

from __future__ import annotations

import json
import shutil
from math import inf
from pathlib import Path
from typing import Any

import pytest

from accord.errors import InputError
from accord.evaluate import evaluate_seeds
from accord.evaluate.seeds import stage_over_seeds
from accord.report.page import write_report
from accord.results import SeedsResult, SweepResult, load
from accord.results.intervals import Interval
from accord.results.models import AtTemperature, ModelRow, ModelsResult, Pair, WinRate
from accord.results.sweep import SweepCell
from tests.cli.pipelines import Pipeline
from tests.commands.small import accord, write_jsonl


def measured(win: float | None, sft: float) -> ModelsResult:
    """Two models, one of which may have no win rate; one wins over the other in a half, at each of two temperatures."""
    models = [
        ModelRow(name="sft", scores={"cafe": Interval(sft, 0, 1, 40)}),
        ModelRow(name="dpo", win_rate=None if win is None else WinRate(estimate=win, low=0, high=1, n=40)),
    ]
    pairs = [Pair(model="dpo", against="sft", estimate=0.5, low=0, high=1)]
    return ModelsResult(models=models, pairs=pairs, temperatures=[AtTemperature(temperature=0.5, models=models)])


def test_means_over_seeds_by_hand() -> None:
    # 1, 2, 6: mean 3, s = sqrt((4 + 1 + 9) / 2) = sqrt 7, t of 2 degrees of freedom 4.302653; 4.302653 sqrt(7 / 3).
    stage = stage_over_seeds("wins", [measured(1, 0.25), measured(2, 0.5), measured(6, 0.75)])
    numbers = {(number.part, number.of, number.measure): number for number in stage.numbers}
    won = numbers["models", "dpo", "win_rate"]
    assert won.values == [1, 2, 6] and won.mean.n == 3 and won.mean.estimate == 3
    assert won.mean.low == pytest.approx(3 - 6.572411, abs=1e-5)
    assert won.mean.high == pytest.approx(3 + 6.572411, abs=1e-5)
    assert numbers["models", "sft", "scores.cafe"].mean.estimate == 0.5
    assert numbers["temperatures", "temperature 0.5, dpo", "win_rate"].values == [1, 2, 6]
    assert numbers["pairs", "dpo against sft", "rate"].mean == Interval(0.5, 0.5, 0.5, 3)
    assert len(numbers) == 5


def test_what_a_run_could_not_measure_is_no_number_of_the_mean() -> None:
    stage = stage_over_seeds("wins", [measured(0.25, 0), measured(None, 0), measured(0.75, 0)])
    won = next(number for number in stage.numbers if (number.of, number.measure) == ("dpo", "win_rate"))
    assert won.values == [0.25, 0.75] and won.mean.n == 2 and won.mean.estimate == 0.5


def test_of_a_single_value_there_is_no_interval(tmp_path: Path) -> None:
    stage = stage_over_seeds("wins", [measured(0.25, 0), measured(None, 0)])
    result = SeedsResult(runs=["a", "b"], seeds=["0", "1"], stages=[stage])
    result.save(tmp_path)
    assert load(tmp_path) == result
    assert "0.250 (1 of 2)" in result.text()


def test_cells_of_a_sweep_are_told_apart_by_their_settings() -> None:
    def sweep(root: str, final: float) -> SweepResult:
        settings: dict[str, Any] = {"model": f"{root}/sft-small/model", "split": "train[:250]"}
        cell = SweepCell(
            settings=settings, runs=1, final=Interval(final, final, final, 1), collapsed=Interval(0, 0, 0.8)
        )
        return SweepResult(method="reward", measure="eval_accuracy", loss=0.1, grid={}, cells=[cell], runs=[])

    stage = stage_over_seeds("sizes", [sweep("runs/a", 0.5), sweep("runs/b", 0.75)])
    assert [number.of for number in stage.numbers] == ["model sft-small, split train[:250]"] * 2
    assert {number.measure: number.mean.estimate for number in stage.numbers} == {"final": 0.625, "collapsed": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three seeds of a recipe that tunes a model and asks what it is worth, and the same with other steps."""
    home = tmp_path_factory.mktemp("seeds")
    pipeline = Pipeline(home)
    held_out = write_jsonl(
        home / "held-out.jsonl", [{"prompt": "hi", "answer": "hello"}, {"prompt": "bye", "answer": "bye"}]
    )
    sft = {"command": "sft", "model": "${base}", "data": "${data}", "max_steps": "${steps}", "seed": "${seed}"}
    asked = {"command": "evaluate models", "data": held_out, "models": {"sft": "${sft}/model"}, "judge": "exact"}
    pipeline.variables |= {"seed": 0}
    pipeline.write({"sft": sft, "asked": {**asked, "max_new_tokens": 6, "seed": "${seed}"}})
    for name, seed, steps in (("0", 0, 2), ("1", 1, 2), ("2", 2, 2), ("longer", 3, 4), ("again", 1, 2)):
        assert accord("run", pipeline.recipe, "--out", home / name, "--seed", seed, "--steps", steps) == 0
    return [str(home / name) for name in ("0", "1", "2", "longer", "again")]


def test_a_recipe_over_three_seeds(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert accord("evaluate", "seeds", *runs[:3], "--out", tmp_path / "seeds") == 0
    assert "asked, models: means over 3" in capsys.readouterr().out
    written = json.loads((tmp_path / "seeds" / "evaluation.json").read_text())
    assert written["seeds"] == ["0", "1", "2"]
    (stage,) = written["stages"]
    number = next(number for number in stage["numbers"] if number["measure"] == "scores.exact")
    alone = [json.loads((Path(run) / "asked" / "evaluation.json").read_text()) for run in runs[:3]]
    assert number["values"] == [one["models"][0]["scores"]["exact"]["estimate"] for one in alone]
    page = write_report(tmp_path / "seeds").read_text()
    assert "Over several seeds" in page and "scores.exact" in page


def refused(runs: list[str], out: Path) -> str:
    with pytest.raises(InputError) as caught:
        evaluate_seeds(runs, str(out / "seeds"))
    assert not (out / "seeds").exists()
    return str(caught.value)


def test_what_is_no_mean_over_seeds_is_refused(runs: list[str], tmp_path: Path) -> None:
    assert "needs two runs or more" in refused(runs[:1], tmp_path)
    assert "each given once" in refused([runs[0], runs[0]], tmp_path)
    assert "the stage sft max_steps is 2 in the first and 4 in the second" in refused([runs[0], runs[3]], tmp_path)
    assert "have the same seed, 1" in refused([runs[1], runs[4]], tmp_path)
    (tmp_path / "empty").mkdir()
    assert "is no run of a recipe" in refused([runs[0], str(tmp_path / "empty")], tmp_path)


def test_a_number_that_no_run_measures_is_refused(runs: list[str], tmp_path: Path) -> None:
    copy = shutil.copytree(runs[1], tmp_path / "copy")
    file = copy / "asked" / "evaluation.json"
    result = json.loads(file.read_text())
    result["models"][0]["scores"]["exact"]["estimate"] = inf
    file.write_text(json.dumps(result))
    assert f"{file} holds Infinity, which is not a valid number in a result" in refused([runs[0], str(copy)], tmp_path)
