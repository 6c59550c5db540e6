"""Held-out clusters of tasks in the café: what a model tuned on some clusters does on the one it never saw.

    python benchmarks/clusters.py [--seeds 0 1 2] [--out runs/clusters]

For each seed a 1.1 M parameter model learns the café's language, and from it one model for each of the four clusters is
fine-tuned on the other three. All then do all tasks: the table has, for each cluster, the base model, the model that
was tuned without it, and the mean of those that were tuned with it. What has been run is taken up, not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from processes import accord, spread
from rich.console import Console
from rich.table import Table

from accord.worlds.cafe.tasks import TASKS

CLUSTERS = list(dict.fromkeys(task.cluster for task in TASKS.values()))
LEARNING = {"batch_size": 32, "max_length": 128}
BASE = LEARNING | {"epochs": 1.5, "learning_rate": 2e-3}
TUNED = LEARNING | {"epochs": 4, "learning_rate": 1e-3, "warmup": 0.1, "schedule": "linear"}


def main() -> None:
    """Run what has not been run, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/clusters"))
    options = parser.parse_args()
    folders = [options.out / f"seed-{seed}" for seed in options.seeds]
    for seed, folder in zip(options.seeds, folders, strict=True):
        run(seed, folder)
    show(folders)


def run(seed: int, folder: Path) -> None:
    """The world, the base model, a model for each cluster left out, and all of them on all tasks."""
    world, models = folder / "world", {"base": folder / "base" / "model"}
    if not world.exists():
        accord("world", {"name": "cafe", "out": world, "seed": seed})
    if not models["base"].exists():
        given = {"model": world / "init", "data": world / "corpus.jsonl", "out": folder / "base", "seed": seed}
        accord("pretrain", BASE | given)
    tasks = world / "tasks" / "tasks.yaml"
    for cluster in CLUSTERS:
        out, mix = folder / f"without-{cluster}", folder / f"without-{cluster}.jsonl"
        models[out.name] = out / "model"
        if not models[out.name].exists():
            accord("tasks", {"tasks": tasks, "leave_out": cluster, "out": mix, "seed": seed})
            accord("sft", TUNED | {"model": models["base"], "data": mix, "out": out, "seed": seed})
    if not (folder / "evaluation").exists():
        given = {"tasks": tasks, "models": models, "max_new_tokens": 24, "seed": seed}
        accord("evaluate tasks", given | {"out": folder / "evaluation"})


def show(folders: list[Path]) -> None:
    """Each cluster and task: the mean over seeds, with the lowest and the highest."""
    found = [json.loads((folder / "evaluation" / "evaluation.json").read_text())["clusters"] for folder in folders]
    table = Table("cluster, task", "metric", "chance", "base", "held out", "held in", title=f"{len(folders)} seeds")
    for cluster, seeds in zip(CLUSTERS, zip(*found, strict=True), strict=True):
        table.add_row(cluster, "mean", "", *cells([c["mean"] for c in seeds], cluster), style="bold")
        for of_task in zip(*(c["tasks"] for c in seeds), strict=True):
            chance = "" if of_task[0]["chance"] is None else f"{of_task[0]['chance']:.2f}"
            name, metric = of_task[0]["name"], of_task[0]["metric"]
            table.add_row(f"  {name}", metric, chance, *cells([t["scores"] for t in of_task], cluster))
        table.add_section()
    Console(width=110).print(table)


def cells(seeds: list[dict[str, Any]], cluster: str) -> list[str]:
    """The base model, the model tuned without the cluster, and the mean of those tuned with it."""
    others = [f"without-{name}" for name in CLUSTERS if name != cluster]
    columns = (["base"], [f"without-{cluster}"], others)
    return [spread([sum(s[m]["estimate"] for m in models) / len(models) for s in seeds], 2) for models in columns]


if __name__ == "__main__":
    main()
