"""Active learning: does asking first about the items that the reward model is unsure of beat asking at random?

    python benchmarks/active.py [--seeds 0 1 2] [--arms random entropy] [--out runs/active]

For each seed, benchmarks/overoptimization.yaml makes a fine-tuned model of the café and pairs of its answers. 3,000
pairs with prompts of their own are held out; the others are the items of an `accord annotate` project, whose simulated
annotator agrees with the gold reward nine times in ten. After 125, 250, 500 and 1,000 labels, a reward model is fitted
to all labels so far, evaluated on the held-out pairs, and used to weight the next items by its uncertainty, as `accord
annotate serve --uncertainty` does.

Prints held-out accuracy by number of labels for each arm: means over seeds with Student's 95% intervals, and under them
the differences from the first arm. Finished runs are reused.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from cafe import HELD_OUT, evaluate_reward, fit_reward_model, gold_preferences, prepare_seed, with_interval
from processes import study_parser
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
"""How many reward models weight the items (0: none), and the power to which their uncertainty is raised."""


def main() -> None:
    """Run what is missing, and print the table."""
    parser = study_parser(__doc__, "runs/active")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="ways to choose the next items")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[str, list[list[float]]] = {arm: [] for arm in options.arms}
    for seed in options.seeds:
        folder = prepare_seed(options.out, seed)
        gold = gold_preferences(folder)
        write_rows(folder / "held-out.jsonl", gold[-HELD_OUT:])
        for arm in options.arms:
            found[arm].append(accuracies_of(folder, arm, gold[:-HELD_OUT], seed))
    show(found)


def accuracies_of(folder: Path, arm: str, pool: list[Preference], seed: int) -> list[float]:
    """The held-out accuracy of one arm after each number of labels."""
    out = folder / arm.replace(", ", "-").replace(" ", "-")
    result = out / "accuracy.json"
    if not result.exists():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        with redirect_stdout(io.StringIO()):
            result.write_text(json.dumps(run_rounds(folder, out, ARMS[arm], pool, seed)))
    return list(json.loads(result.read_text()))


def run_rounds(folder: Path, out: Path, arm: tuple[int, float], pool: list[Preference], seed: int) -> list[float]:
    """For each size: collect labels, fit and evaluate a reward model, and weight the remaining items."""
    members, focus = arm

    def simulated(key: str) -> dict[str, Any]:  # the same in every arm; the first answer is the better one
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
            fit_reward_model(folder, rows, out / f"{size}-{member}", seed + 100 * member)
            for member in range(max(1, members))
        ]
        found = evaluate_reward(models[0], folder / "held-out.jsonl", out / f"check-{size}")
        accuracies.append(found["accuracy"]["estimate"])
        if members:
            weigh(project, "compare", [str(model) for model in models], focus)
    return accuracies


def show(found: dict[str, list[list[float]]]) -> None:
    """Mean accuracies over seeds with Student's intervals, and the gain of each arm over the first."""
    base, *_ = found.values()
    table: Any = Table("answers", *found)
    for i, size in enumerate(SIZES):
        cells = []
        for runs in found.values():
            gain = [run[i] - other[i] for run, other in zip(runs, base, strict=True)]
            cells.append(with_interval([run[i] for run in runs]) + (f"\n{with_interval(gain)}" if any(gain) else ""))
        table.add_row(f"{size:,}", *cells)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
