"""From nothing: what pretraining on text is worth to a fine-tuning, in a model that begins from text alone.

    python benchmarks/from_nothing.py [--seeds 0 1 2] [--rows 4000] [--out runs/from-nothing]

For each seed a tokenizer is trained on the shelf's text, and an untrained model is made that reads by it. It is
fine-tuned on demonstrations of all the shelf's tasks, after pretraining on the text and as it is: for 226 steps, and
for as long as the loss of those held out falls. The table has that loss, in nats a token, the lowest that a run came
to: its mean over seeds with a 95% interval (Student's t), and how much more it is from scratch, seed by seed. What has
been run is taken up, not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from processes import accord
from rich.console import Console
from rich.table import Table

from accord.evaluate.statistics import mean_interval
from accord.train.run import read_metrics

SIZES = {"layers": 4, "width": 96, "heads": 4, "kv_heads": 2, "context": 192}
LEARNING = {"batch_size": 32, "save_every": 1000, "track": "none"}
BASE = LEARNING | {"epochs": 1, "learning_rate": 3e-3, "split": "train[:20000]"}
TUNED = LEARNING | {"max_steps": 226, "learning_rate": 1e-3, "eval_split": 0.1, "eval_every": 25}
LONG = TUNED | {"max_steps": 6000, "schedule": "constant", "patience": 8}

ARMS = {
    "pretrained, then fine-tuned": ("base/model", TUNED, "tuned"),
    "fine-tuned from scratch": ("init", TUNED, "scratch"),
    "pretrained, then until it is no better": ("base/model", LONG, "tuned-long"),
    "from scratch, until it is no better": ("init", LONG, "scratch-long"),
}
"""What a fine-tuning begins from, its options and its folder: pretrained and from scratch in turn."""


def main() -> None:
    """Run what has not been run, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/from-nothing"))
    parser.add_argument("--rows", type=int, default=4000, help="demonstrations, 4,000 at most; a tenth is held out")
    options = parser.parse_args()
    found = [run(seed, options.rows, options.out / f"seed-{seed}") for seed in options.seeds]
    title = f"{options.rows:,} demonstrations, a tenth held out; seeds {options.seeds}"
    table = Table("model", "held-out loss", "more than pretrained", "after step", title=title)
    for i, name in enumerate(ARMS):
        losses = [arms[i][0] for arms in found]
        more = [loss - arms[i - i % 2][0] for loss, arms in zip(losses, found, strict=True)]
        steps = sorted(arms[i][1] for arms in found)
        table.add_row(name, over(losses), over(more) if i % 2 else "", f"{steps[0]:,} to {steps[-1]:,}")
    Console(width=120).print(table)


def over(values: Sequence[float]) -> str:
    """The mean over seeds, and its interval where there are several."""
    return f"{mean_interval(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def run(seed: int, rows: int, folder: Path) -> list[tuple[float, int]]:
    """The lowest loss of the rows held out, and after which step, of each arm."""
    world = folder / "world"
    corpus, tasks = world / "corpus.jsonl", world / "tasks" / "tasks.yaml"
    if not tasks.exists():
        accord("world", {"name": "shelf", "out": world, "seed": seed})
        accord("tasks", {"tasks": tasks, "out": folder / "demonstrations.jsonl", "rows": 4000, "seed": seed})
    if not (folder / "init").exists():
        accord("tokenizer", {"data": corpus, "vocab_size": 512, "out": folder / "tokenizer"})
        made = {"tokenizer": folder / "tokenizer", "out": folder / "init", "seed": seed}
        accord("new-model", SIZES | made)
    if not (folder / "base" / "model").exists():
        accord("pretrain", BASE | {"model": folder / "init", "data": corpus, "out": folder / "base", "seed": seed})
    for start, options, name in ARMS.values():
        if not (folder / f"{name}-{rows}" / "model").exists():
            given = {"model": folder / start, "data": folder / "demonstrations.jsonl", "out": folder / f"{name}-{rows}"}
            accord("sft", options | given | {"seed": seed, "split": f"train[:{rows}]"})
    return [best(folder / f"{name}-{rows}") for _, _, name in ARMS.values()]


def best(folder: Path) -> tuple[float, int]:
    """The lowest loss of the rows held out, and after which step."""
    return min((row["eval_loss"], int(row["step"])) for row in read_metrics(folder) if "eval_loss" in row)


if __name__ == "__main__":
    main()
