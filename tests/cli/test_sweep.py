"""A method over a grid: every combination once, what each ended with, and which collapsed."""

from __future__ import annotations

from itertools import product
from math import isnan
from pathlib import Path
from types import SimpleNamespace

import pytest

from accord.cli.recipe import Stage
from accord.cli.sweep import cells_of, measure_in, points_of, run_of
from accord.errors import InputError
from accord.records import Demonstration
from accord.report import write_report
from accord.results import SweepResult, load
from accord.results.sweep import Setting, SweepRun
from accord.train.rows import read_metrics
from tests.commands.small import accord, save_model, write_jsonl


@pytest.fixture
def given(tmp_path: Path) -> tuple[object, ...]:
    rows = [Demonstration("hi", "hello good day"), Demonstration("bye", "good bye")]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    more = ("--batch-size", 1, "--max-steps", 4, "--dtype", "float32", "--warmup", 0)
    return ("sweep", "sft", "--out", tmp_path / "out", "--model", save_model(tmp_path / "m"), "--data", data, *more)


def test_every_combination_runs_once_and_one_that_stops_itself_is_a_result(
    given: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, grid = tmp_path / "out", ("--grid.learning-rate", "1e-3,1e30", "--grid.seed", "0,1")
    assert accord(*given, *grid) == 0
    result = load(out)
    assert isinstance(result, SweepResult)
    assert (result.method, result.measure, result.grid) == (
        "sft",
        "loss",
        {"learning_rate": [1e-3, 1e30], "seed": [0, 1]},
    )
    assert [run.settings for run in result.runs] == [
        {"learning_rate": rate, "seed": seed} for rate in (1e-3, 1e30) for seed in (0, 1)
    ]
    healthy, dead = result.runs[:2], result.runs[2:]
    for run in healthy:
        losses = [row["loss"] for row in read_metrics(out / run.name)]
        assert (run.start, run.final, run.best) == (losses[0], pytest.approx(sum(losses[-3:]) / 3), min(losses))
        assert (run.steps, run.stopped, run.collapsed) == (4, "", False)
    assert all("not finite" in run.stopped and run.collapsed and run.steps < 4 for run in dead)
    assert [(cell.settings, cell.runs, cell.collapsed.estimate) for cell in result.cells] == [
        ({"learning_rate": 1e-3}, 2, 0.0),
        ({"learning_rate": 1e30}, 2, 1.0),
    ]
    assert "sft over 4 runs" in capsys.readouterr().out
    assert [run.name for run in result.runs][::2] == ["learning_rate-0_001-seed-0", "learning_rate-1e_30-seed-0"]
    capsys.readouterr()
    assert accord(*given, "--grid.learning-rate", "1e-3,1e30", "--grid.seed", "0,1,2") == 0  # two more runs
    assert len(load(out).runs) == 6  # type: ignore[attr-defined]
    printed = capsys.readouterr().err
    same = [line.split()[0] for line in printed.splitlines() if "is as it was" in line]
    assert same == [run.name for run in result.runs]
    page = write_report(out).read_text()
    assert "A method over a grid of settings." in page
    assert '<td class="b5">' in page and "100.0% collapsed" in page and "the loss of row" in page


def test_runs_with_the_same_settings_but_seeds_are_one_row() -> None:
    def run(rate: float, seed: int, final: float, collapsed: bool = False) -> SweepRun:
        settings = {"seed": seed, "rate": rate}
        return SweepRun(name="", settings=settings, steps=1, final=final, collapsed=collapsed)

    one, other = cells_of([run(1, 0, 0.2), run(2, 0, 0.5), run(1, 1, 0.4, True), run(1, 2, 0.6)])
    assert (one.settings, one.runs) == ({"rate": 1}, 3)
    assert one.final and one.final.estimate == pytest.approx(0.4)
    assert one.final.low == pytest.approx(0.4 - 4.302653 * 0.2 / 3**0.5)  # Student's t of two degrees of freedom
    assert one.collapsed.estimate == pytest.approx(1 / 3)
    assert other.final and (other.final.estimate, other.runs, isnan(other.final.low)) == (0.5, 1, False)


def test_the_map_has_a_panel_for_each_value_of_the_settings_before_the_last_two() -> None:
    grid = {"beta": [0.1, 0.2], "seed": [0], "rate": [1, 2], "epochs": [1, None]}
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    runs = [SweepRun(name="", settings=p, steps=1, final=float(i)) for i, p in enumerate(points)]
    result = SweepResult(method="ppo", measure="watched", loss=0.1, grid=grid, cells=cells_of(runs), runs=runs)
    first, second = result.panels()
    assert (first.title, first.row, first.column, first.columns) == ("beta 0.1", "rate", "epochs", ["1", "None"])
    ends = [[[c.final.estimate for c in cells if c and c.final] for _, cells in p.rows] for p in (first, second)]
    assert ends == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    (alone,) = result.model_copy(update={"grid": {"seed": [0], "rate": [1]}, "cells": cells_of(runs[:1])}).panels()
    assert (alone.title, alone.row, alone.column) == ("", "", "rate")


def test_the_table_has_no_interval_for_a_single_run() -> None:
    def drawn(finals: list[float]) -> str:
        runs = [SweepRun(name="", settings={"rate": 1, "seed": i}, steps=1, final=v) for i, v in enumerate(finals)]
        grid: dict[str, list[Setting]] = {"rate": [1], "seed": [*range(len(runs))]}
        return SweepResult(method="ppo", measure="watched", loss=0.1, grid=grid, cells=cells_of(runs), runs=runs).text()

    one, two = drawn([0.5]), drawn([0.5, 0.5])
    assert "ppo over one run" in one and "0.500" in one and "0.500 [" not in one
    assert "ppo over 2 runs" in two and "0.500 [0.500, 0.500]" in two


@pytest.mark.parametrize(
    ("measure", "values", "alarms", "collapsed"),
    [
        ("watched", [0.5, 0.7, 0.46, 0.46, 0.46], [], False),  # 8% lost
        ("watched", [0.5, 0.7, 0.44, 0.44, 0.44], [], True),  # 12% lost
        ("watched", [-0.5, -0.54, -0.54, -0.54], [], False),
        ("watched", [-0.5, -0.56, -0.56, -0.56], [], True),
        ("loss", [1.0, 1.08, 1.08, 1.08], [], False),
        ("loss", [1.0, 1.2, 1.2, 1.2], [], True),
        ("loss", [1.0, 0.2, 0.2, 0.2], [], False),
        ("watched", [0.5, 0.7, 0.7, 0.7], ["collapse"], True),
        ("watched", [0.5, 0.7, 0.7, 0.7], ["length"], False),
    ],
)
def test_what_a_collapse_is(
    measure: str, values: list[float], alarms: list[str], collapsed: bool, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": i, measure: value} for i, value in enumerate(values)])
    write_jsonl(tmp_path / "alarms.jsonl", [{"step": 2, "alarm": name} for name in alarms])
    run = run_of(tmp_path, Stage("one", "ppo", {}), {"seed": 0}, measure, 0.1)
    assert run.collapsed is collapsed
    assert run.steps == len(values) - 1


def test_what_is_compared(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 1.0, "reward": 0.1, "kl": 0.2}])
    assert measure_in([tmp_path], None) == "reward"
    assert measure_in([tmp_path], "kl") == "kl"
    with pytest.raises(InputError, match="no run has measured watched; their columns are kl, loss, reward, step"):
        measure_in([tmp_path], "watched")


def test_the_points_of_a_grid() -> None:
    points = points_of("ppo", {"learning-rate": "1e-4,1e-3", "inner_epochs": ["1", "2"]}, {})
    assert points == [{"learning_rate": r, "inner_epochs": n} for r in (1e-4, 1e-3) for n in (1, 2)]
    assert points_of("ppo", {"learning_rate": [1e-4], "seed": 3}, {}) == [{"learning_rate": 1e-4, "seed": 3}]
    with pytest.raises(InputError, match="^the grid is empty: give values such as"):
        points_of("ppo", {"seed": []}, {})
    with pytest.raises(InputError, match="^`accord sweep` runs methods that train a model, such as ppo; score does"):
        points_of("score", {"limit": "1,2"}, {})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--grid.learning-rat", "1"),
            "`accord sft` has no option learning-rat for the grid; did you mean",
        ),
        (("--grid.learning-rate", "1e-3,x"), "--learning-rate must be a number, not x."),
        (("--grid.learning-rate", "1e-3,.001"), "the grid has a value of learning-rate twice: 1e-3,.001."),
        (("--grid.batch-size", "1,2"), "batch-size is given both in the grid and by itself; give it once."),
        (("--grid.learning-rate", "1,-1"), "stage learning_rate--1_0: learning_rate must be positive, not -1.0."),
        (("--grid.seed", ",".join(map(str, range(1001)))), "the grid has 1,001 runs, and a sweep at most 1,000:"),
        (("--grid.seed", "0,"), "the grid: --seed is empty; give it a value, or leave it out."),
        (("--grid.out", "a,b"), "out is no setting to compare: leave it out of the grid."),
        (("--grid.seed", ""), "--seed is empty; give it a value, or leave it out."),
        (("--grid.seed", "0,1", "--parallel", "1000"), "--parallel 1000 are more runs than this machine has cores"),
        (("--grid.seed", "0,1", "--collapse", "0"), "--collapse must be a share above 0 and up to 1, not 0."),
        (("--grid.seed", "0,1", "--measure", "gold"), "as --measure, which trains nothing again."),
    ],
)
def test_a_grid_that_cannot_be_run(
    more: tuple[str, ...], message: str, given: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert accord(*given, *more) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_grid_that_the_disk_does_not_hold(
    given: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    assert accord(*given, "--grid.seed", "0,1") == 2
    assert "the runs to make (2) need about 0.0 GB for their models" in capsys.readouterr().err
    (tmp_path / "out" / "seed-0" / "model").mkdir(parents=True)
    assert accord(*given, "--grid.seed", "0,1") == 2
    assert "the runs to make (1) need" in capsys.readouterr().err
