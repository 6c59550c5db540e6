"""Every method in the café, from the same start, on an equal budget of samples.

    python benchmarks/methods.py [--seeds 0 1 2] [--out runs/methods]

For each seed, benchmarks/methods.yaml makes a fine-tuned model, 8,000 of its samples compared by simulated people who
agree with the gold reward 73% of the time, and a reward model and a preference model fitted to these comparisons.
Offline methods learn from the comparisons; online methods draw 8,000 samples of their own, scored by the reward model
or judged by the preference model. All models then answer 400 held-out questions, judged by the gold reward.

Each method runs in a process of its own with one thread, so seconds are CPU time and memory is the method's alone.
Prints one table; finished runs are reused.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from processes import mean_and_range, run_cli, study_parser
from rich.console import Console
from rich.table import Table

from accord.cli.pipeline import run_pipeline

SHARED = {"model": "{sft}", "max_length": 128, "warmup": 0.1, "schedule": "linear"}
PAIRS = SHARED | {"data": "{comparisons}", "split": "train[:-500]", "batch_size": 64, "learning_rate": 3e-4}
PROMPTS = SHARED | {"data": "{prompts}", "max_steps": 125, "max_new_tokens": 40, "learning_rate": 3e-4}
SCORED, JUDGED = PROMPTS | {"reward": "{reward}"}, PROMPTS | {"judge": "{preference}"}
GROUPS = {"batch_size": 16, "group_size": 4}
BEST = {"model": "{sft}", "data": "{prompts}", "limit": 1000, "max_new_tokens": 40, "best_of": 8, "reward": "{reward}"}
CHOSEN = SHARED | {"data": "{rejection}/best.jsonl", "batch_size": 32, "learning_rate": 3e-4}

METHODS: dict[str, list[dict[str, Any]]] = {
    "rejection": [{"command": "sample", **BEST, "out": "{rejection}/best.jsonl"}, {"command": "sft", **CHOSEN}],
    "raft": [{"command": "raft", **SCORED, "batch_size": 8, "group_size": 8, "learning_rate": 1e-4}],
    "reinforce": [{"command": "reinforce", **SCORED, "batch_size": 64}],
    "rloo": [{"command": "rloo", **SCORED, **GROUPS}],
    "grpo": [{"command": "grpo", **SCORED, **GROUPS, "kl": "reward", "kl_coefficient": 0.05}],
    "ppo": [{"command": "ppo", **SCORED, "batch_size": 64, "inner_epochs": 2, "minibatches": 2}],
    "dpo": [{"command": "dpo", **PAIRS}],
    "ipo": [{"command": "ipo", **PAIRS}],
    "kto": [{"command": "kto", **PAIRS, "batch_size": 128, "learning_rate": 1e-4}],
    "online-dpo": [
        {"command": "online-dpo", **JUDGED, "batch_size": 32, "group_size": 2, "beta": 0.3, "learning_rate": 1e-4}
    ],
    "nash-md": [
        {"command": "nash-md", **JUDGED, "batch_size": 8, "group_size": 4, "opponents": 4, "kl_coefficient": 0.05}
    ],
    "ipo-md": [{"command": "ipo-md", **JUDGED, "batch_size": 32, "group_size": 2}],
}
"""The commands of each method; {name} is a folder or file of the shared stages, {method} the method's own folder."""


def main() -> None:
    """Run what is missing, and print the table."""
    parser = study_parser(__doc__, "runs/methods")
    parser.add_argument("--only", nargs="+", choices=tuple(METHODS), default=list(METHODS), help="methods to run")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    folders = [options.out / f"seed-{seed}" for seed in options.seeds]
    for seed, folder in zip(options.seeds, folders, strict=True):
        run_pipeline(Path(__file__).with_suffix(".yaml"), folder / "shared", {"seed": seed})
        for method in options.only:
            run_method(method, seed, folder)
        evaluate(options.only, seed, folder)
    show(options.only, folders)


def paths(folder: Path) -> dict[str, str]:
    """The paths by which {name} in the methods' options is replaced."""
    shared = folder / "shared"
    models = {name: str(shared / name / "model") for name in ("base", "sft", "reward", "preference")}
    files = {"comparisons": shared / "comparisons/comparisons.jsonl", "prompts": shared / "world/prompts.jsonl"}
    own = {name: folder / name for name in METHODS}
    return models | {name: str(path) for name, path in (files | own).items()}


def run_method(method: str, seed: int, folder: Path) -> None:
    """Run the method's commands, each in a process of its own, and write their cost to cost.json."""
    out = folder / method
    if (out / "cost.json").exists():
        return
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    at = paths(folder)
    costs = []
    for given in METHODS[method]:
        options = {"out": str(out / "run"), "seed": seed, **given}
        command = options.pop("command")
        costs.append(run_cli(command, {k: v.format(**at) if isinstance(v, str) else v for k, v in options.items()}))
    cost = {"seconds": sum(c.seconds for c in costs), "peak_gb": max(c.peak_gb for c in costs)}
    (out / "cost.json").write_text(json.dumps(cost))


def evaluate(methods: list[str], seed: int, folder: Path) -> None:
    """Score and judge every model's answers to held-out prompts by the gold reward."""
    at, out = paths(folder), folder / "evaluation"
    models = {"base": at["base"], "sft": at["sft"]} | {m: str(folder / m / "run" / "model") for m in methods}
    if (out / "evaluation.json").exists():
        known = {row["name"] for row in json.loads((out / "evaluation.json").read_text())["models"]}
        if set(models) <= known:
            return
    given = {"data": f"{folder}/shared/world/heldout.jsonl", "out": str(out), "judge": "cafe", "against": "sft"}
    given |= {"reference": "sft", "reward": at["reward"], "best_of_n": 8, "max_new_tokens": 40, "max_length": 128}
    run_cli("evaluate models", given | {"models": models, "seed": seed})


def show(methods: list[str], folders: list[Path]) -> None:
    """Print the means over seeds, and for win rates also the lowest 95% bound of any seed."""
    found = [json.loads((f / "evaluation" / "evaluation.json").read_text())["models"] for f in folders]
    by_name = [{row["name"]: row for row in rows} for rows in found]
    titles = ("method", "gold reward", "win rate over sft", "lowest 95% bound", "KL, nats", "seconds", "peak GB")
    table = Table(*titles, title=f"the café, {len(folders)} seeds: mean (lowest to highest)")
    for name in ("base", "sft", "sft best of 8", *methods):
        rows = [rows[name] for rows in by_name]
        wins = [row["win_rate"] for row in rows if row["win_rate"]]
        costs = [json.loads(file.read_text()) for f in folders if (file := f / name / "cost.json").exists()]
        table.add_row(
            name,
            mean_and_range([row["scores"]["cafe"]["estimate"] for row in rows]),
            mean_and_range([won["estimate"] for won in wins]),
            f"{min(won['low'] for won in wins):.3f}" if wins else "",
            mean_and_range([row["kl"]["estimate"] for row in rows], 2),
            mean_and_range([cost["seconds"] for cost in costs], 0),
            mean_and_range([cost["peak_gb"] for cost in costs], 2),
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
