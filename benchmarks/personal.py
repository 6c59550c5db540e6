"""Whose preferences a model follows: pooled, with each user's own head, and reading k of a user's choices.

    python benchmarks/personal.py [--seeds 0] [--tastes opposite groups] [--out runs/personal]

For each seed and population `accord world` writes the choices of users of the café and of others whom no model is
trained on. From one untrained model of width 96 `accord reward` fits a pooled reward model, `accord preference` a
pooled preference model of two answers, `accord personal` one of each that reads choices, and `accord evaluate personal`
tries them on the other users, beside Bayes and the oracle. What has been run is taken up, not run again. Prints a table
a population: means over the seeds, or with one its interval over users.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from accord.cli.main import main as accord
from accord.evaluate.statistics import mean_interval
from accord.results import parse
from accord.results.base import Interval
from accord.results.personal import PersonalResult

STEPS = 80
"""Optimizer steps of either model: of 12 users with 24 choices each, or of as many choices."""
MODELS = {
    "pooled": ("reward", "--batch-size", 288),
    "pooled-two": ("preference", "--batch-size", 288),
    "reads": ("personal",),
    "reads-two": ("personal", "--planes", 4),
}
"""The commands that fit models of one answer and of two."""
COMMON = ("--max-steps", str(STEPS), "--learning-rate", "2e-3", "--tokens-per-pass", "16384", "--track", "none")


Found = TypeVar("Found")


def main() -> None:
    """Run what has not been run, and print the tables."""
    study(__doc__ or "", "runs/personal", tried, table)


def study(
    about: str,
    out: str,
    tried: Callable[[Path, str, int, int], Found],
    table: Callable[[str, list[Found]], Table],
    tastes: Sequence[str] = ("opposite", "groups"),
) -> None:
    """What was tried, in a folder, of a population, a seed and so many users, for all asked for; a table of each."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tastes", nargs="+", default=tastes)
    parser.add_argument("--users", type=int, default=800)
    parser.add_argument("--out", type=Path, default=Path(out))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for of in options.tastes:
        began = time.monotonic()
        found = [tried(options.out / of / str(seed), of, seed, options.users) for seed in options.seeds]
        Console(width=140).print(table(of, found), f"{time.monotonic() - began:.0f} s")


def tried(folder: Path, tastes: str, seed: int, users: int) -> PersonalResult:
    """The models of a population and a seed on its unseen users."""
    world, out = folder / "cafe", folder / "evaluation"
    drawn = ("--tastes", tastes, "--users", users, "--width", 96, "--seed", seed)
    data = ("--model", world / "init", "--data", world / "comparisons.jsonl", "--seed", seed)
    if not (world / "init").exists():
        run("world", "--name", "cafe", "--out", world, *drawn)
    for name, command in MODELS.items():
        if not (folder / name / "model").exists():
            run(*command, "--out", folder / name, *data, *COMMON)
    if not (out / "evaluation.json").exists():
        of = [f"--models.{name}={folder / name / 'model'}" for name in MODELS]
        run("evaluate", "personal", "--out", out, "--data", world / "comparisons-unseen.jsonl", *of, "--tastes", tastes)
    result = parse(json.loads((out / "evaluation.json").read_text(encoding="utf-8")))
    assert isinstance(result, PersonalResult)
    return result


def run(*words: object) -> None:
    """A command, whose end ends this where it fails."""
    if status := accord([str(word) for word in words]):
        raise SystemExit(status)


def table(tastes: str, found: list[PersonalResult]) -> Table:
    """The accuracy of every model by k, and beside it the lowest of any group."""
    names = [f"{model.name}: {model.how}" for model in found[0].models]
    return by_choices(f"{tastes}, seeds: {len(found)}", names, found, "accuracy")


def by_choices(title: str, names: list[str], found: list[Any], rate: str) -> Table:
    """The `rate` of every model by k, over the seeds' results, and the lowest of any group at the largest k."""
    grid = Table(title=title)
    ks = sorted({given.k for model in found[0].models for given in model.given})
    for head in ("", *(f"k = {k}" for k in ks), "worst group at the largest k"):
        grid.add_column(head)
    for i, name in enumerate(names):
        by_k = [[getattr(g, rate) for one in found for g in one.models[i].given if g.k == k] for k in ks]
        worst = [part for one in found if (part := one.models[i].given[-1].worst) is not None]
        labels = ", ".join(sorted({part.label for part in worst}))
        least = f"{labels} {together([getattr(part, rate) for part in worst])}" if worst else ""
        grid.add_row(name, *(together(of) if of else "" for of in by_k), least)
    return grid


def together(intervals: list[Interval]) -> str:
    """The mean over seeds with Student's interval, or of one seed its own."""
    if len(intervals) == 1:
        return f"{intervals[0]}"
    return f"{mean_interval([interval.estimate for interval in intervals])}"


if __name__ == "__main__":
    main()
