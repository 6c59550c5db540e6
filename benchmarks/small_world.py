"""The café recipe over several seeds: the table "The small world" of docs/results.md.

    python benchmarks/small_world.py [--seeds 0 1 2] [--threads 1 2 3] [--out runs/small_world]

Every seed is a complete run of recipes/cafe.yaml, with its own world, base model, labelers and samples; it takes five
to eight minutes on two cores. The table has means over seeds with the lowest and the highest; win rates are over the
fine-tuned model, judged by the gold reward.

`--threads` repeats the first seed with each of these numbers of threads, and prints a second table: a check of how much
the order of floating-point sums matters. Finished runs are reused.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from processes import mean_and_range, study_parser
from rich.console import Console
from rich.table import Table

from accord.cli.pipeline import packaged, run_pipeline


def main() -> None:
    """Run every seed that is missing, and print the table."""
    parser = study_parser(__doc__, "runs/small_world")
    parser.add_argument("--threads", type=int, nargs="+", default=[], help="repeat the first seed with these numbers")
    options = parser.parse_args()
    folders = [options.out / f"seed-{seed}" for seed in options.seeds]
    for seed, folder in zip(options.seeds, folders, strict=True):
        run_pipeline(packaged("cafe"), folder, {"seed": seed})
    console = Console(width=110)
    show(console, folders, f"{len(folders)} seeds")
    first = options.seeds[0]
    repeats = [options.out / f"seed-{first}-threads-{threads}" for threads in options.threads]
    for threads, folder in zip(options.threads, repeats, strict=True):
        torch.set_num_threads(threads)
        run_pipeline(packaged("cafe"), folder, {"seed": first})
    if repeats:
        show(console, repeats, f"seed {first}, {' '.join(map(str, options.threads))} threads")


def show(console: Console, folders: list[Path], title: str) -> None:
    """Print means over runs with the range: every model's evaluation, and accuracy on held-out comparisons."""
    evaluations = [json.loads((f / "evaluation" / "evaluation.json").read_text()) for f in folders]
    table = Table("model", "gold reward", "win rate over sft", "lowest 95% bound", "KL", title=title)
    for i, model in enumerate(evaluations[0]["models"]):
        rows = [e["models"][i] for e in evaluations]
        wins = [r["win_rate"] for r in rows if r["win_rate"]]
        table.add_row(
            model["name"],
            mean_and_range([r["scores"]["cafe"]["estimate"] for r in rows]),
            mean_and_range([w["estimate"] for w in wins]),
            f"{min(w['low'] for w in wins):.3f}" if wins else "",
            mean_and_range([r["kl"]["estimate"] for r in rows]),
        )
    console.print(table)
    for check in ("reward-check", "dpo-check"):
        found = [json.loads((f / check / "evaluation.json").read_text()) for f in folders]
        accuracy = mean_and_range([c["accuracy"]["estimate"] for c in found])
        console.print(
            f"{found[0]['name']}: held-out accuracy {accuracy}, ceiling {found[0]['ceiling']}", highlight=False
        )
    seconds = [json.loads((f / "pipeline.json").read_text())["seconds"] for f in folders]
    console.print(f"seconds per run: {mean_and_range(seconds, 0)}", highlight=False)


if __name__ == "__main__":
    main()
