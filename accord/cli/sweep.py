"""`accord sweep`: a method over a grid of settings, one run per combination, and the comparison of their results."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from accord.cli.call import accepted_options, require_known, target_of
from accord.cli.option import in_python
from accord.cli.parallel import cores
from accord.cli.pipeline import run_stages
from accord.cli.recipe import MOST_ROUNDS, Stage
from accord.errors import InputError, located
from accord.evaluate.options import checked_by
from accord.evaluate.statistics import over_seeds
from accord.locks import alone_in
from accord.results.intervals import wilson
from accord.results.sweep import Setting, SweepCell, SweepResult, SweepRun
from accord.train.rows import read_alarms, read_metrics

MEASURES = ("watched", "reward", "eval_accuracy", "eval_loss", "loss")
"""The measures by which runs are compared if none is named: the first that the runs have."""
LAST = 3
"""A run's final value is the mean of this many last measurements."""
OF_RUNS = {"out", "overwrite", "resume"}
"""Options that say where and how a run is made."""
COLLAPSE = "collapse"
"""The name of the alarm of a collapse."""
PARTS = 5
"""Disk space of a run, in models: the model, the best one, and a checkpoint with the optimizer's two moments."""


def _check(
    method: str, grid: Mapping[str, Any], parallel: int, collapse: float, options: Mapping[str, Any] | None
) -> None:
    points_of(method, grid, in_python(options or {}, "the sweep"))
    if parallel > cores():
        raise InputError(f"--parallel {parallel} are more runs than this machine has cores ({cores()}).")
    if not 0 < collapse <= 1:
        raise InputError(f"--collapse must be a share above 0 and up to 1, not {collapse:g}.")


@checked_by(_check)
def sweep(
    method: str,
    grid: dict[str, str | list[str]],
    *,
    out: str = "runs/sweep",
    parallel: int = 1,
    measure: str | None = None,
    collapse: float = 0.1,
    options: dict[str, str] | None = None,
) -> SweepResult:
    """Run a method once for every combination of settings in a grid, and compare final values and collapses.

    A finished run is not run again, an interrupted one continues, and a run that stops itself (on a loss that is not
    finite) is a result. A combination's final value is the mean of the measure's last three values, over its seeds with
    Student's interval. A run has collapsed if it stopped itself, if the alarm `collapse` rang, or if it lost a share of
    the measure. All other options are the method's.

    Args:
        method: the method's command, such as ppo.
        grid: the values to try of each option, separated by commas: --grid.learning-rate 1e-4,1e-3 --grid.seed 0,1,2.
        out: the folder for all runs and evaluation.json.
        parallel: how many runs are trained at once, each in its own process; they share the cores.
        measure: the column of metrics.jsonl to compare (default: watched, if the runs watch something, or else the
            reward, a held-out measure, or the loss). Lower is better for losses, higher for all others.
        collapse: a run has collapsed when it has lost this share of the measure's first value.
        options: the method's other options.

    Raises:
        InputError: there is no such method, an option or a value of the grid does not fit it, or the disk has no room
            for the runs.
    """
    given = in_python(options or {}, "the sweep")
    _check(method, grid, parallel, collapse, options)
    points = points_of(method, grid, given)
    stages = {name_of(point): {"command": method, **given, **point} for point in points}
    folder = Path(out)
    require_room(folder, [one.get("model") for name, one in stages.items() if not (folder / name / "model").is_dir()])
    what = f"{method} over {', '.join(grid)}: {len(points)} runs."
    recipe = {"name": folder.name, "description": what, "stages": stages}
    with alone_in(folder):
        done = run_stages(recipe, folder, parallel, keeps_on=True)
        named = measure_in([folder / stage.name for stage in done], measure)
        pairs = zip(done, points, strict=True)
        runs = [run_of(folder / stage.name, stage, point, named, collapse) for stage, point in pairs]
        axes = {name: list(dict.fromkeys(point[name] for point in points)) for name in points[0]}
        result = SweepResult(
            method=method,
            measure=named,
            loss=collapse,
            grid=axes,
            cells=cells_of(runs),
            runs=runs,
            warnings=[f"{run.name} has no {named}: the mean is without it." for run in runs if run.final is None],
        )
        return result.publish(out)


def points_of(method: str, grid: Mapping[str, Any], given: Mapping[str, Any]) -> list[dict[str, Setting]]:
    """The combinations of a grid's values, the last setting changing fastest.

    Raises InputError where there is no such method, or the grid is empty, names an option that the method does not have
    or that is also given directly, or has a value twice or one that does not fit.
    """
    target = target_of(method)
    if not hasattr(target, "fit"):
        raise InputError(f"`accord sweep` runs methods that train a model, such as ppo; {method} does not.")
    known = accepted_options(target)
    axes: dict[str, list[Setting]] = {}
    for name, texts in in_python(grid, "the grid").items():
        key = name.replace("_", "-")
        require_known(method, name, known, " for the grid")
        if name in OF_RUNS:
            raise InputError(f"{key} is no setting to compare: leave it out of the grid.")
        if name in given:
            raise InputError(f"{key} is given both in the grid and by itself; give it once.")
        values = texts.split(",") if isinstance(texts, str) else texts if isinstance(texts, list | tuple) else [texts]
        with located("the grid: "):
            axes[name] = [known[name].read(value.strip() if isinstance(value, str) else value) for value in values]
        if len({name_of({name: value}) for value in axes[name]}) < len(axes[name]):
            raise InputError(f"the grid has a value of {key} twice: {texts}.")
    count = prod(map(len, axes.values()))
    if not axes or not 0 < count <= MOST_ROUNDS:
        what = f"has {count:,} runs, and a sweep at most {MOST_ROUNDS:,}" if axes and count else "is empty"
        raise InputError(f"the grid {what}: give values such as --grid.learning-rate 1e-4,1e-3 --grid.seed 0,1,2.")
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def name_of(point: Mapping[str, Setting]) -> str:
    """The name of a run's folder, made of its settings, so that a larger grid finds existing runs."""
    return re.sub(r"[^\w-]", "_", "-".join(f"{name}-{value}" for name, value in point.items()))


def require_room(out: Path, models: Sequence[Any]) -> None:
    """Raise InputError where the disk has no room for the runs that start from these models (PARTS models each)."""
    weights = [file.stat().st_size for model in models for file in Path(str(model)).glob("*.safetensors")]
    there = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    need, free = PARTS * sum(weights), shutil.disk_usage(there).free
    if need > free:
        raise InputError(
            f"the runs to make ({len(models)}) need about {need / 1e9:.1f} GB for their models, and {there} has "
            f"{free / 1e9:.1f} GB free: make room, or give a smaller grid."
        )


def run_of(folder: Path, stage: Stage, settings: Mapping[str, Setting], measure: str, loss: float) -> SweepRun:
    """The result of a run from the rows in its folder; `loss` is the share whose loss is a collapse."""
    rows = read_metrics(folder)
    values = [row[measure] for row in rows if measure in row]
    alarms = [row["alarm"] for row in read_alarms(folder)]
    sign = -1 if measure.endswith("loss") else 1
    final = sum(values[-LAST:]) / len(values[-LAST:]) if values else None
    fell = final is not None and sign * (values[0] - final) > loss * abs(values[0])
    return SweepRun(
        name=stage.name,
        settings=dict(settings),
        steps=int(rows[-1]["step"]) if rows else 0,
        start=values[0] if values else None,
        final=final,
        best=max(values, key=lambda value: sign * value, default=None),
        alarms=list(dict.fromkeys(alarms)),
        stopped=stage.stopped,
        collapsed=bool(stage.stopped) or COLLAPSE in alarms or fell,
    )


def measure_in(folders: Iterable[Path], asked: str | None) -> str:
    """The measure asked for, or the first of MEASURES that a run has. Raises InputError where no run has it."""
    rows = [row for folder in folders for row in read_metrics(folder)]
    columns = {name for row in rows for name in row}
    measure = next((name for name in ([asked] if asked else MEASURES) if name in columns), None)
    if measure is None:
        raise InputError(
            f"no run has measured {asked or 'anything'}; their columns are {', '.join(sorted(columns))}: give the same "
            "command with one of these as --measure, which trains nothing again."
        )
    return measure


def cells_of(runs: Sequence[SweepRun]) -> list[SweepCell]:
    """Runs grouped by all settings but the seed, with the mean final value and the rate of collapses."""
    together: dict[str, list[SweepRun]] = {}
    for run in runs:
        key = {name: value for name, value in run.settings.items() if name != "seed"}
        together.setdefault(json.dumps(key), []).append(run)
    return [
        SweepCell(
            settings=json.loads(key),
            runs=len(same),
            final=over_seeds(ends) if (ends := [run.final for run in same if run.final is not None]) else None,
            collapsed=wilson(sum(run.collapsed for run in same), len(same)),
        )
        for key, same in together.items()
    ]
