"""Personalized models: pooled, with a head for each user, and conditioned on k of a user's choices.

    python benchmarks/personal.py [--seeds 0] [--tastes opposite groups] [--out runs/personal]

For each seed and population of tastes, `accord world` writes the choices of training users in the café, and of users
held out of training. From one untrained model of width 96, `accord reward` fits a pooled reward model, `accord
preference` a pooled preference model (which reads both answers), and `accord personal` one of each kind that reads a
user's choices. `accord evaluate personal` evaluates them on the held-out users, with Bayes and an oracle for
comparison.

Prints a table for each population with accuracy by k: means over seeds with Student's intervals, or one seed's interval
over users. Finished runs are reused.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from processes import study_parser
from rich.console import Console
from rich.table import Table

from accord.cli.main import main as run_cli
from accord.evaluate.statistics import mean_interval
from accord.results import parse
from accord.results.intervals import Interval
from accord.results.personal import PersonalResult

STEPS = 80
"""Optimizer steps of each model; a step has 12 users with 24 choices each, or as many pooled choices."""
MODELS = {
    "pooled": ("reward", "--batch-size", 288),
    "pooled-two": ("preference", "--batch-size", 288),
    "reads": ("personal",),
    "reads-two": ("personal", "--planes", 4),
}
"""The commands that fit reward models, and preference models (`-two`)."""
COMMON = ("--max-steps", str(STEPS), "--learning-rate", "2e-3", "--tokens-per-pass", "16384", "--track", "none")


Found = TypeVar("Found")


def main() -> None:
    """Run what is missing, and print the tables."""
    run_study(__doc__, "runs/personal", run_seed, table)


def run_study(
    doc: str | None,
    out: str,
    run_seed: Callable[[Path, str, int, int], Found],
    table: Callable[[str, list[Found]], Table],
    tastes: Sequence[str] = ("opposite", "groups"),
) -> None:
    """Call `run_seed(folder, population, seed, users)` for all that are asked for; print a table per population."""
    parser = study_parser(doc, out)
    parser.set_defaults(seeds=[0])
    parser.add_argument("--tastes", nargs="+", default=tastes, help="populations, as `accord world --tastes` has them")
    parser.add_argument("--users", type=int, default=800, help="number of users")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for of in options.tastes:
        began = time.monotonic()
        found = [run_seed(options.out / of / str(seed), of, seed, options.users) for seed in options.seeds]
        Console(width=140).print(table(of, found), f"{time.monotonic() - began:.0f} s")


def run_seed(folder: Path, tastes: str, seed: int, users: int) -> PersonalResult:
    """Train the models of a population and a seed, and evaluate them on its held-out users."""
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
    """Run a command; exit with its status if it fails."""
    if status := run_cli([str(word) for word in words]):
        raise SystemExit(status)


def table(tastes: str, found: list[PersonalResult]) -> Table:
    """The accuracy of every model by k, and that of the worst group."""
    names = [f"{model.name}: {model.how}" for model in found[0].models]
    return by_choices(f"{tastes}, seeds: {len(found)}", names, found, "accuracy")


def by_choices(title: str, names: list[str], found: list[Any], rate: str) -> Table:
    """The `rate` of every model by k, over seeds, and that of the worst group at the largest k."""
    grid = Table(title=title)
    ks = sorted({given.k for model in found[0].models for given in model.given})
    for head in ("", *(f"k = {k}" for k in ks), "worst group at the largest k"):
        grid.add_column(head)
    for i, name in enumerate(names):
        by_k = [[getattr(g, rate) for one in found for g in one.models[i].given if g.k == k] for k in ks]
        worst = [part for one in found if (part := one.models[i].given[-1].worst) is not None]
        labels = ", ".join(sorted({part.label for part in worst}))
        least = f"{labels} {joined([getattr(part, rate) for part in worst])}" if worst else ""
        grid.add_row(name, *(joined(of) if of else "" for of in by_k), least)
    return grid


def joined(intervals: list[Interval]) -> str:
    """The mean over seeds with Student's interval; for one seed its own interval."""
    if len(intervals) == 1:
        return f"{intervals[0]}"
    return f"{mean_interval([interval.estimate for interval in intervals])}"


if __name__ == "__main__":
    main()
