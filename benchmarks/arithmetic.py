"""STaR and GRPO on sums: a weak model taught by a verifier alone, and what rationalization does for longer sums.

    python benchmarks/arithmetic.py [--seeds 0 1 2] [--out runs/arithmetic]

A 0.4 M parameter model learns from few demonstrations to add on a scratchpad, and is right at times. From there STaR
(with and without rationalization) and GRPO see problems and answers, no scratchpads. Then all answer held-out sums of
2, 3 and 4 digits, 4 samples each: pass@1 with its 95% interval. What has been run is taken up, not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from processes import accord, spread
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
    """Run what has not been run, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/arithmetic"))
    options = parser.parse_args()
    folders = [options.out / f"seed-{seed}" for seed in options.seeds]
    for seed, folder in zip(options.seeds, folders, strict=True):
        run(seed, folder)
    show(folders)


def run(seed: int, folder: Path) -> None:
    """The world, the weak model, the methods, and what each of the models can do."""
    world, weak = folder / "world", folder / "weak" / "model"
    if not world.exists():
        accord("world", {"name": "sums", "out": world, "seed": seed})
    if not weak.exists():
        start = {"model": world / "init", "data": world / "demonstrations.jsonl", "out": folder / "weak"}
        accord("sft", start | {"batch_size": 32, "epochs": 4.5, "learning_rate": 2e-3, "max_length": 64, "seed": seed})
    models = {"weak": weak}
    for name, given in METHODS.items():
        out = folder / name.replace(" ", "-")
        models[out.name] = out / "model"
        if not models[out.name].exists():
            settings = SETTINGS[given["command"]] | LIMITS | given
            command = settings.pop("command")
            cost = accord(command, settings | {"model": weak, "data": world / "train.jsonl", "out": out, "seed": seed})
            (folder / f"{out.name}.json").write_text(json.dumps({"seconds": cost.seconds}))
    for digits in DIGITS:
        given = {"data": world / f"heldout-{digits}.jsonl", "out": folder / f"verified-{digits}", "verifier": "number"}
        if not (folder / f"verified-{digits}").exists():
            accord("evaluate passes", given | {"models": models, "n": 4, "max_new_tokens": 48, "seed": seed})


def show(folders: list[Path]) -> None:
    """pass@1 by digits: the mean over seeds, and the widest 95% interval of any seed."""
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
        table.add_row(name, *cells, spread(costs, 0))
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
