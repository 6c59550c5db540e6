"""Which items to ask people about: at random, or sooner those that the reward model so far is unsure of.

    python benchmarks/active.py [--seeds 0 1 2] [--arms random entropy] [--out runs/active]

For each seed, benchmarks/overoptimization.yaml makes a fine-tuned model of the café and pairs of its answers, of which
3,000, of other prompts, are held out. The others are the items of a project of `accord annotate`. A simulated annotator
agrees with the gold reward nine times in ten. After 125, 250, 500 and 1,000 answers a reward model is fitted to all so
far with the settings of benchmarks/overoptimization.py, tried on what is held out, and weighs the items for the answers
to come, as `accord annotate serve --uncertainty` does. What has been run is taken up, not run again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from cafe import HELD_OUT, between, fitted, judged, on_trial, started
from rich.console import Console
from rich.table import Table

from accord.annotate import Project
from accord.annotate.simulated import answer_unattended
from accord.cli.annotate_models import weigh
from accord.files import write_rows
from accord.records import Preference, row_to_json

SIZES = (125, 250, 500, 1000)
RIGHT = 0.9
"""How often the annotator agrees with the gold reward."""

ARMS = {"random": (0, 0.0), "entropy": (1, 2.0), "entropy, power 6": (1, 6.0), "ensemble of 3": (3, 2.0)}
"""How many reward models weigh the items, and the power of their uncertainty."""


def main() -> None:
    """Run what has not been run, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--out", type=Path, default=Path("runs/active"))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[str, list[list[float]]] = {arm: [] for arm in options.arms}
    for seed in options.seeds:
        folder = started(options.out, seed)
        gold = judged(folder)
        write_rows(folder / "held-out.jsonl", gold[-HELD_OUT:])
        for arm in options.arms:
            found[arm].append(learned(folder, arm, gold[:-HELD_OUT], seed))
    show(found)


def learned(folder: Path, arm: str, pool: list[Preference], seed: int) -> list[float]:
    """The held-out accuracy of one arm after each number of answers."""
    out = folder / arm.replace(", ", "-").replace(" ", "-")
    result = out / "accuracy.json"
    if not result.exists():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        with redirect_stdout(io.StringIO()):
            result.write_text(json.dumps(rounds(folder, out, ARMS[arm], pool, seed)))
    return list(json.loads(result.read_text()))


def rounds(folder: Path, out: Path, how: tuple[int, float], pool: list[Preference], seed: int) -> list[float]:
    """Ask, learn, and weigh what is left, again and again."""
    members, focus = how

    def simulated(key: str) -> dict[str, Any]:  # of an item it is the same in every arm; the first is the better
        wrong = random.Random(f"{seed}:{key}").random() >= RIGHT
        return {"better": int(wrong), "strength": "much", "comment": ""}

    project = Project.open(out / "labels.db", seed=seed)
    project.add([{"id": f"{i}", **row_to_json(row)} for i, row in enumerate(pool)])
    accuracies = []
    for size in SIZES:
        answer_unattended(project, {"simulated": simulated}, lambda n=size: project.progress().answers >= n)
        rows = out / f"rows-{size}.jsonl"
        project.export(rows)
        models = [
            fitted(folder, rows, out / f"{size}-{member}", seed + 100 * member) for member in range(max(1, members))
        ]
        found = on_trial(models[0], folder / "held-out.jsonl", out / f"check-{size}")
        accuracies.append(found["accuracy"]["estimate"])
        if members:
            weigh(project, "compare", [str(model) for model in models], focus)
    return accuracies


def show(found: dict[str, list[list[float]]]) -> None:
    """Mean accuracies over seeds with Student's intervals, and by how much each arm is above the first."""
    base, *_ = found.values()
    table: Any = Table("answers", *found)
    for i, size in enumerate(SIZES):
        cells = []
        for runs in found.values():
            gain = [run[i] - other[i] for run, other in zip(runs, base, strict=True)]
            cells.append(between([run[i] for run in runs]) + (f"\n{between(gain)}" if any(gain) else ""))
        table.add_row(f"{size:,}", *cells)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
