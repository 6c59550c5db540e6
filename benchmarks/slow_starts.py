"""Does `nothing-learned` tell a reward model that starts slowly from one that cannot learn, in the café?

    accord demo --out runs/demo                                                # once: fine-tuned model, comparisons
    python benchmarks/slow_starts.py --demo runs/demo --out runs/slow-starts   # 8 seeds, and 4 with random labels
    python benchmarks/slow_starts.py --simulate                                # the table of simulated margins

The reward models of the demo, of other seeds and with the default warmup. Of some runs a coin flip swaps chosen and
rejected of each pair. Prints a line of JSON per run: the first step at which the mean accuracy of ten steps passed 58%,
and the step at which the alarm rings. Finished runs are reused. Simulated are the margins of pairs, from a normal
distribution with a given share above 0: how often the alarm rings at its first opportunity, and by twice as many steps.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from accord.files import write_rows
from accord.methods import RewardModel
from accord.train.alarms_of_rows import MIN_ROWS, nothing_learned
from accord.train.history import History
from accord.train.rows import read_metrics

LEARNED, ROWS = 0.58, 10
"""The mean accuracy, of so many steps, of a model that has begun to learn."""
SPREAD, RUNS = 0.3, 200
"""Of the simulated margins, and how many runs are simulated."""


def swapped(comparisons: Path, file: Path) -> Path:
    """Write the comparisons with random labels."""
    coin, rows = random.Random(7), [json.loads(line) for line in comparisons.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if coin.random() < 0.5:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    write_rows(file, rows)
    return file


def train(demo: Path, data: Path, out: Path, seed: int) -> Path:
    """Train one reward model unless it is finished, and return its folder."""
    if not (out / "model").exists():
        method = RewardModel(learning_rate=5e-4, batch_size=64, epochs=3, max_length=128, seed=seed)
        method.fit(str(demo / "sft" / "model"), str(data), split="train[:-500]", out=out, resume=out.exists())
    return out


def summary(folder: Path) -> dict[str, Any]:
    """When a run began to learn, and when the alarm rings for its rows."""
    rows = read_metrics(folder)
    accuracy = np.array([row["accuracy"] for row in rows])
    means = np.convolve(accuracy, np.ones(ROWS) / ROWS, "valid")
    began = np.flatnonzero(means > LEARNED)
    began_at = int(began[0]) + ROWS if len(began) else None
    return {"run": folder.name, "began at step": began_at, "rings at step": rings_at(rows)}


def rings_at(rows: Iterable[Mapping[str, Any]]) -> int | None:
    """The first step of a run at which the alarm rings."""
    history = History()
    for step, row in enumerate(rows, start=1):
        history.add(row)
        if step >= MIN_ROWS and nothing_learned.check(history):
            return step
    return None


def simulated(generator: np.random.Generator, share: float, pairs: int) -> Iterator[dict[str, float]]:
    """The rows of a run at chance, or always equally good: `pairs` margins a step, of which a share is above 0."""
    for margins in generator.normal(SPREAD * norm.ppf(share), SPREAD, (2 * MIN_ROWS, pairs)):
        yield {"loss": np.log1p(np.exp(-margins)).mean(), "accuracy": (margins > 0).mean()}


def simulate() -> None:
    """Print the table of simulated runs."""
    generator, shares = np.random.default_rng(1), (0.5, 0.55, 0.6, 0.65, 0.7)
    print(f"| pairs per step | {' | '.join(map(str, shares))} |\n|---|{'---|' * len(shares)}")
    for pairs in (2, 8, 16, 32, 64):
        cells = []
        for share in shares:
            steps = [rings_at(simulated(generator, share, pairs)) for _ in range(RUNS)]
            rang = [step for step in steps if step is not None]
            cells.append(f"{rang.count(MIN_ROWS) / RUNS:.0%}, {len(rang) / RUNS:.0%}")
        print(f"| {pairs} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="folder of `accord demo`")
    parser.add_argument("--out", type=Path, default=Path("runs/slow-starts"), help="folder of the runs")
    parser.add_argument("--simulate", action="store_true", help="simulate runs instead")
    given = parser.parse_args()
    if given.simulate:
        simulate()
        return
    comparisons = given.demo / "comparisons" / "comparisons.jsonl"
    given.out.mkdir(parents=True, exist_ok=True)
    at_random = swapped(comparisons, given.out / "random.jsonl")
    runs = [("correct", comparisons, seed) for seed in range(1, 9)] + [("random", at_random, s) for s in range(1, 5)]
    for name, data, seed in runs:
        print(json.dumps(summary(train(given.demo, data, given.out / f"{name}-{seed}", seed))), flush=True)


if __name__ == "__main__":
    main()
