"""Whom to believe: reward models of what careless annotators said, by how their verdicts are aggregated.

    python benchmarks/annotators.py [--seeds 0 1 2] [--sizes 1000] [--out runs/annotators]

For each seed, benchmarks/overoptimization.yaml makes a fine-tuned model of the café and samples of it, which the gold
reward compares. Ten simulated annotators judge the comparisons, three of them each, drawn at random: seven agree with
the gold reward nine times in ten, three of them with probability .55. `accord aggregate` makes preferences of the
verdicts, a reward model is fitted to them with the settings of benchmarks/overoptimization.py, and tried on 3,000
comparisons held out, of other prompts, against the gold reward. What has been run is taken up, not run again.
"""

from __future__ import annotations

import argparse
import io
import os
from contextlib import redirect_stdout
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from cafe import HELD_OUT, between, fitted, judged, on_trial, started
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
"""The options of `accord aggregate`; none where the gold reward's own verdicts are learned."""


def main() -> None:
    """Run what has not been run, and print a table a size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000])
    parser.add_argument("--out", type=Path, default=Path("runs/annotators"))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found = {(size, arm): [] for size in options.sizes for arm in ARMS}
    for seed in options.seeds:
        folder = started(options.out, seed)
        gold = judged(folder)
        for size, arm in found:
            found[size, arm].append(tried(folder / f"{size}", arm, gold[-HELD_OUT:], gold[:size], seed))
    for size in options.sizes:
        show(size, {arm: found[size, arm] for arm in ARMS})


def tried(folder: Path, arm: str, held_out: list[Preference], gold: list[Preference], seed: int) -> dict[str, float]:
    """The accuracy of the reward model of one arm and of its labels, and the log-loss of both."""
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
        found = on_trial(fitted(folder.parent, data, out / "reward", seed), held, out / "check")
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
    """What three annotators a comparison said of it."""
    draw = np.random.default_rng(seed)
    rows = []
    for row in gold:
        for who in draw.choice(len(RIGHT), LABELS, replace=False):
            better, worse = (row.chosen, row.rejected)[:: 1 if draw.random() < RIGHT[who] else -1]
            rows.append({**row_to_json(Preference(row.prompt, better, worse)), "annotator": f"annotator {who}"})
    return rows


def show(size: int, found: dict[str, list[dict[str, float]]]) -> None:
    """The means over seeds with Student's intervals, and by how much each arm is more right than the majority vote."""
    first, *_ = found.values()
    table = Table(
        f"{size} comparisons", "labels right", "their log-loss", "accuracy", "more than by majority", "log-loss"
    )
    for arm, runs in found.items():
        gain = [run["accuracy"] - base["accuracy"] for run, base in zip(runs, first, strict=True)]
        numbers = {name: [run[name] for run in runs] for name in runs[0]}
        loss = np.mean(numbers["label log-loss"])
        table.add_row(
            arm,
            f"{np.mean(numbers['labels']):.3f}",
            f"{loss:.3f}" if np.isfinite(loss) else "",
            between(numbers["accuracy"]),
            between(gain) if any(gain) else "",
            between(numbers["log-loss"]),
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
