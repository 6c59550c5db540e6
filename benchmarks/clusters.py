"""Held-out clusters of tasks in the café: does tuning on some clusters help on one that the model never saw?

    python benchmarks/clusters.py [--seeds 0 1 2] [--out runs/clusters]

For each seed, a 1.1 M parameter model learns the café's language, and for each of the four clusters it is fine-tuned
once on the other three. All models then do all tasks.

Prints for each cluster and task the scores of the base model, of the model tuned without the cluster (held out), and
the mean of those tuned with it (held in). Finished runs are reused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from processes import mean_and_range, run_cli, study_parser
from rich.console import Console
from rich.table import Table

from accord.worlds.cafe.tasks import TASKS

CLUSTERS = list(dict.fromkeys(task.cluster for task in TASKS.values()))
LEARNING = {"batch_size": 32, "max_length": 128}
BASE = LEARNING | {"epochs": 1.5, "learning_rate": 2e-3}
TUNED = LEARNING | {"epochs": 4, "learning_rate": 1e-3, "warmup": 0.1, "schedule": "linear"}


def main() -> None:
    """Run what is missing, and print the table."""
    options = study_parser(__doc__, "runs/clusters").parse_args()
    folders = [options.out / f"seed-{seed}" for seed in options.seeds]
    for seed, folder in zip(options.seeds, folders, strict=True):
        run(seed, folder)
    show(folders)


def run(seed: int, folder: Path) -> None:
    """Make the world and the base model, tune without each cluster in turn, and evaluate all models on all tasks."""
    world, models = folder / "world", {"base": folder / "base" / "model"}
    if not world.exists():
        run_cli("world", {"name": "cafe", "out": world, "seed": seed})
    if not models["base"].exists():
        given = {"model": world / "init", "data": world / "corpus.jsonl", "out": folder / "base", "seed": seed}
        run_cli("pretrain", BASE | given)
    tasks = world / "tasks" / "tasks.yaml"
    for cluster in CLUSTERS:
        out, mix = folder / f"without-{cluster}", folder / f"without-{cluster}.jsonl"
        models[out.name] = out / "model"
        if not models[out.name].exists():
            run_cli("tasks", {"tasks": tasks, "leave_out": cluster, "out": mix, "seed": seed})
            run_cli("sft", TUNED | {"model": models["base"], "data": mix, "out": out, "seed": seed})
    if not (folder / "evaluation").exists():
        given = {"tasks": tasks, "models": models, "max_new_tokens": 24, "seed": seed}
        run_cli("evaluate tasks", given | {"out": folder / "evaluation"})


def show(folders: list[Path]) -> None:
    """The score on each cluster and task: the mean over seeds, with the lowest and the highest."""
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
    return [
        mean_and_range([sum(s[m]["estimate"] for m in models) / len(models) for s in seeds], 2) for models in columns
    ]


if __name__ == "__main__":
    main()
