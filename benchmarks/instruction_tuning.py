"""Instruction tuning on the shelf: what a model tuned on some clusters does on those that only text told it of.

    python benchmarks/instruction_tuning.py [--seeds 0 1 2] [--widths 48 96 192] [--out runs/instruction-tuning]

For each seed a model of each width learns the shelf's text, and is tuned on all clusters but those held out; both then
do the held-out clusters' tasks. The table has, of each size and cluster, chance, the base model, the tuned one and the
gain, with 95% intervals for one seed, and the lowest and highest for several. What has been run is taken up, not run
again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from processes import accord, spread
from rich.console import Console
from rich.table import Table

from accord.worlds import shelf

HELD_OUT = ("color", "remove", "name")
LEARNING = {"batch_size": 32, "max_length": 192, "save_every": 1000, "track": "none"}
BASE = LEARNING | {"epochs": 2, "learning_rate": 3e-3}
TUNED = LEARNING | {"epochs": 1, "learning_rate": 5e-4, "warmup": 0.1, "schedule": "linear"}


def main() -> None:
    """Run what has not been run, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--widths", type=int, nargs="+", default=[48, 96, 192])
    parser.add_argument("--out", type=Path, default=Path("runs/instruction-tuning"))
    options = parser.parse_args()
    table = Table("parameters", "cluster", "chance", "base", "tuned", "gain", title=f"seeds {options.seeds}")
    for width in options.widths:
        found = [run(seed, width, options.out / f"seed-{seed}") for seed in options.seeds]
        parameters = sum(p.numel() for p in shelf.new_model(0, width).parameters())
        for i, name in enumerate(HELD_OUT):
            table.add_row(f"{parameters:,}" if i == 0 else "", name, *cells([clusters[name] for clusters in found]))
        table.add_section()
    Console(width=120).print(table)


def run(seed: int, width: int, folder: Path) -> dict[str, Any]:
    """A base model of this width, the model tuned from it, and the held-out clusters of their evaluation by name."""
    world, base, tuned = folder / f"world-{width}", folder / f"base-{width}", folder / f"tuned-{width}"
    tasks, mix, held_out = world / "tasks" / "tasks.yaml", folder / f"mix-{width}.jsonl", ",".join(HELD_OUT)
    if not tasks.exists():
        accord("world", {"name": "shelf", "out": world, "seed": seed, "width": width})
    if not (base / "model").exists():
        given = {"model": world / "init", "data": world / "corpus.jsonl", "out": base, "seed": seed}
        accord("pretrain", BASE | given)
    if not (tuned / "model").exists():
        accord("tasks", {"tasks": tasks, "leave_out": held_out, "out": mix, "seed": seed})
        accord("sft", TUNED | {"model": base / "model", "data": mix, "out": tuned, "seed": seed})
    evaluation = folder / f"evaluation-{width}"
    if not (evaluation / "evaluation.json").exists():
        models = {"base": base / "model", "tuned": tuned / "model"}
        given = {"tasks": tasks, "models": models, "held_out": held_out, "templates": 2, "max_new_tokens": 16}
        accord("evaluate tasks", given | {"out": evaluation, "seed": seed})
    clusters = json.loads((evaluation / "evaluation.json").read_text())["clusters"]
    return {cluster["name"]: cluster for cluster in clusters if cluster["held_out"]}


def cells(seeds: list[dict[str, Any]]) -> list[str]:
    """Chance, and the base model's score, the tuned one's and the gain: an interval, or the range over seeds."""
    chances = [shelf.chance(task["name"]) for task in seeds[0]["tasks"]]
    columns = [
        [s["mean"]["base"] for s in seeds],
        [s["mean"]["tuned"] for s in seeds],
        [s["gains"]["tuned"] for s in seeds],
    ]
    if len(seeds) > 1:
        return [f"{float(sum(chances)) / len(chances):.2f}", *(spread([s["estimate"] for s in c], 2) for c in columns)]
    shown = [f"{c[0]['estimate']:.2f} [{c[0]['low']:.2f}, {c[0]['high']:.2f}]" for c in columns]
    return [f"{float(sum(chances)) / len(chances):.2f}", *shown]


if __name__ == "__main__":
    main()
