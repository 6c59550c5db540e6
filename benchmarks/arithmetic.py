"""STaR and GRPO on sums: a weak model that learns from a verifier alone, with and without rationalization.

    python benchmarks/arithmetic.py [--seeds 0 1 2] [--out runs/arithmetic]

A 0.4 M parameter model learns from few demonstrations to add on a scratchpad, and is seldom right. From there, STaR
(with and without rationalization) and GRPO see problems and answers, but no scratchpads. All models then answer
held-out sums of 2, 3 and 4 digits, 4 samples each.

Prints pass@1 with 95% intervals, and seconds of CPU time. A seed takes about ten minutes on one core; finished runs are
reused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from processes import mean_and_range, run_cli, study_parser, train_weak_adder
from rich.console import Console
from rich.table import Table

from accord.worlds.sums import HINT

DIGITS = (2, 3, 4)
LIMITS = {"max_length": 72, "max_new_tokens": 48}
METHODS: dict[str, dict[str, Any]] = {
    "star": {"command": "star", "verifier": "number", "hint": HINT},
    "star without hints": {"command": "star", "verifier": "number", "hint": ""},
    "grpo": {"command": "grpo", "reward": "number"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "star": {"rounds": 4, "group_size": 4, "split": "train[:600]", "batch_size": 16, "max_steps": 150}
    | {"learning_rate": 1e-3},
    "grpo": {"max_steps": 200, "batch_size": 32, "group_size": 8, "learning_rate": 2e-4, "kl_coefficient": 0.0},
}


def main() -> None:
    """Run what is missing, and print the table."""
    options = study_parser(__doc__, "runs/arithmetic").parse_args()
    folders = [options.out / f"seed-{seed}" for seed in options.seeds]
    for seed, folder in zip(options.seeds, folders, strict=True):
        run(seed, folder)
    show(folders)


def run(seed: int, folder: Path) -> None:
    """Make the world and the weak model, train by every method, and evaluate all models."""
    world, weak = folder / "world", train_weak_adder(folder, seed)
    models = {"weak": weak}
    for name, given in METHODS.items():
        out = folder / name.replace(" ", "-")
        models[out.name] = out / "model"
        if not models[out.name].exists():
            settings = SETTINGS[given["command"]] | LIMITS | given
            command = settings.pop("command")
            cost = run_cli(command, settings | {"model": weak, "data": world / "train.jsonl", "out": out, "seed": seed})
            (folder / f"{out.name}.json").write_text(json.dumps({"seconds": cost.seconds}))
    for digits in DIGITS:
        given = {"data": world / f"heldout-{digits}.jsonl", "out": folder / f"verified-{digits}", "verifier": "number"}
        if not (folder / f"verified-{digits}").exists():
            run_cli("evaluate passes", given | {"models": models, "n": 4, "max_new_tokens": 48, "seed": seed})


def show(folders: list[Path]) -> None:
    """pass@1 by number of digits: the mean over seeds, and the lowest and highest 95% bound of any seed."""
    titles = [f"{digits} digits" for digits in DIGITS]
    table = Table("model", *titles, "seconds", title=f"sums, {len(folders)} seeds: pass@1 (95% bounds over all seeds)")
    for name in ("weak", *(name.replace(" ", "-") for name in METHODS)):
        cells = []
        for digits in DIGITS:
            found = [json.loads((f / f"verified-{digits}" / "verification.json").read_text()) for f in folders]
            rows = [next(m for m in one["models"] if m["name"] == name)["pass"]["1"] for one in found]
            mean = sum(row["estimate"] for row in rows) / len(rows)
            cells.append(f"{mean:.3f} [{min(r['low'] for r in rows):.3f}, {max(r['high'] for r in rows):.3f}]")
        costs = [json.loads(file.read_text())["seconds"] for f in folders if (file := f / f"{name}.json").exists()]
        table.add_row(name, *cells, mean_and_range(costs, 0))
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
