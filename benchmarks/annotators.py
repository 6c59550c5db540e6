"""Learning from unreliable annotators: reward models by how three verdicts on each comparison are aggregated.

    python benchmarks/annotators.py [--seeds 0 1 2] [--sizes 1000] [--out runs/annotators]

For each seed, benchmarks/overoptimization.yaml makes a fine-tuned model of the café and samples, which the gold reward
compares. Each comparison is judged by three of ten simulated annotators, drawn at random: seven agree with the gold
reward with probability .9, three with .55. `accord aggregate` turns the verdicts into preferences, and a reward model
fitted to them is evaluated against the gold reward on 3,000 held-out comparisons of other prompts.

Prints a table for each size: means over seeds with Student's 95% intervals. Finished runs are reused.
"""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from cafe import HELD_OUT, evaluate_reward, fit_reward_model, gold_preferences, prepare_seed, with_interval
from processes import study_parser
from rich.console import Console
from rich.table import Table

import accord
from accord.data import load_data
from accord.files import write_rows
from accord.records import Preference, row_to_json

RIGHT = (0.9,) * 7 + (0.55,) * 3
"""How often each annotator agrees with the gold reward."""
LABELS = 3

ARMS: dict[str, dict[str, Any]] = {
    "majority vote": {"by": "majority", "hard": True},
    "majority, its share": {"by": "majority"},
    "Dawid-Skene, hard": {"by": "dawid-skene", "hard": True},
    "Dawid-Skene": {"by": "dawid-skene"},
    "CrowdBT, hard": {"by": "bradley-terry", "hard": True},
    "CrowdBT": {"by": "bradley-terry"},
    "clean labels": {},
}
"""The options of `accord aggregate`; none for a reward model fitted to the gold reward's own verdicts."""


def main() -> None:
    """Run what is missing, and print a table for each size."""
    parser = study_parser(__doc__, "runs/annotators")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000], help="numbers of comparisons to learn from")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found = {(size, arm): [] for size in options.sizes for arm in ARMS}
    for seed in options.seeds:
        folder = prepare_seed(options.out, seed)
        gold = gold_preferences(folder)
        for size, arm in found:
            found[size, arm].append(measure(folder / f"{size}", arm, gold[-HELD_OUT:], gold[:size], seed))
    for size in options.sizes:
        show(size, {arm: found[size, arm] for arm in ARMS})


def measure(folder: Path, arm: str, held_out: list[Preference], gold: list[Preference], seed: int) -> dict[str, float]:
    """Accuracy and log-loss of one arm's reward model, and of the labels that it was fitted to."""
    out = folder / arm.replace(" ", "-")
    data = out / "comparisons.jsonl" if ARMS[arm] else folder / "gold.jsonl"
    held = folder / "held-out.jsonl"
    with redirect_stdout(io.StringIO()):
        if not (out / "reward" / "model").exists():
            write_rows(folder / "gold.jsonl", gold)
            write_rows(folder / "verdicts.jsonl", verdicts(gold, seed))
            if ARMS[arm]:
                accord.aggregate(str(data), data=str(folder / "verdicts.jsonl"), **ARMS[arm])
            write_rows(held, held_out)
        found = evaluate_reward(fit_reward_model(folder.parent, data, out / "reward", seed), held, out / "check")
    chosen = {(row.prompt, row.chosen, row.rejected) for row in gold}
    labels = load_data(str(data))
    right = [(row.prompt, row.chosen, row.rejected) in chosen for row in labels]
    sure = [row.probability if is_right else 1 - row.probability for row, is_right in zip(labels, right, strict=True)]
    return {
        "accuracy": found["accuracy"]["estimate"],
        "log-loss": found["calibration"]["log_loss"]["estimate"],
        "labels": float(np.mean(right)),
        "label log-loss": -float(np.mean([log(p) for p in sure])) if min(sure) > 0 else float("inf"),
    }


def verdicts(gold: list[Preference], seed: int) -> list[dict[str, Any]]:
    """The verdicts of three annotators on every comparison, as rows for `accord aggregate`."""
    draw = np.random.default_rng(seed)
    rows = []
    for row in gold:
        for who in draw.choice(len(RIGHT), LABELS, replace=False):
            better, worse = (row.chosen, row.rejected)[:: 1 if draw.random() < RIGHT[who] else -1]
            rows.append({**row_to_json(Preference(row.prompt, better, worse)), "annotator": f"annotator {who}"})
    return rows


def show(size: int, found: dict[str, list[dict[str, float]]]) -> None:
    """Means over seeds with Student's intervals, and each arm's gain in accuracy over the majority vote."""
    first, *_ = found.values()
    table = Table(
        f"{size} comparisons", "labels right", "labels' log-loss", "accuracy", "gain over majority", "log-loss"
    )
    for arm, runs in found.items():
        gain = [run["accuracy"] - base["accuracy"] for run, base in zip(runs, first, strict=True)]
        numbers = {name: [run[name] for run in runs] for name in runs[0]}
        loss = np.mean(numbers["label log-loss"])
        table.add_row(
            arm,
            f"{np.mean(numbers['labels']):.3f}",
            f"{loss:.3f}" if np.isfinite(loss) else "",
            with_interval(numbers["accuracy"]),
            with_interval(gain) if any(gain) else "",
            with_interval(numbers["log-loss"]),
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
