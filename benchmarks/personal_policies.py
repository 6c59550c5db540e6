"""Personalized policies: pooled IPO against FSPO, which reads k of a user's choices, by win rates that users give.

    python benchmarks/personal_policies.py [--seeds 0] [--tastes opposite] [--out runs/personal-policies]

For each seed and population of tastes, `accord world` writes the choices of training users in the café, and of users
held out of training. A model of width 96 learns the café's language (`accord pretrain`) and to answer (`accord sft`).
From there, `accord ipo` fits a policy to all users' preferences together, and `accord fspo` one that reads a user's
choices. `accord personal` fits a reward model that reads choices, which selects the best of 16 answers of the
fine-tuned model and of the FSPO policy. `accord evaluate users` lets held-out users compare each model's answers with
the fine-tuned model's.

Prints a table for each population with win rates by k: means over seeds with Student's intervals, or one seed's
interval over users. Three seeds take more than an hour of one core; finished runs are reused.
"""

from __future__ import annotations

import json
from pathlib import Path

from personal import by_choices, run, run_study
from rich.table import Table

from accord.results import parse
from accord.results.users import UsersResult

LANGUAGE = ("--batch-size", 32, "--max-length", 128)
COMMON = ("--batch-size", 64, "--learning-rate", "1e-3", "--tokens-per-pass", 16384)
STEPS = {"ipo": 200, "fspo": 60}
"""Optimizer steps of the policies; a step of FSPO takes four times as long."""


def main() -> None:
    """Run what is missing, and print the tables."""
    run_study(__doc__, "runs/personal-policies", run_seed, table, ["opposite"])


def run_seed(folder: Path, tastes: str, seed: int, users: int) -> UsersResult:
    """Train the policies of a population and a seed, and let its held-out users compare them."""
    world, base, sft, pooled, fspo, reads, out = (
        folder / name for name in ("cafe", "base", "sft", "pooled", "fspo", "reads", "evaluation")
    )
    drawn = ("--tastes", tastes, "--users", users, "--width", 96, "--seed", seed)
    if not (world / "init").exists():
        run("world", "--name", "cafe", "--out", world, *drawn)
    pretraining = (*LANGUAGE, "--epochs", 1.5, "--learning-rate", "2e-3")
    train(base, "pretrain", world / "init", world / "corpus.jsonl", seed, *pretraining)
    tuning = (*LANGUAGE, "--epochs", 3, "--learning-rate", "5e-4")
    train(sft, "sft", base / "model", world / "demonstrations.jsonl", seed, *tuning)
    for policy, method in ((pooled, "ipo"), (fspo, "fspo")):
        steps = ("--max-steps", STEPS[method])
        train(policy, method, sft / "model", world / "comparisons.jsonl", seed, *COMMON, *steps)
    reading = ("--max-steps", 80, "--learning-rate", "2e-3", "--tokens-per-pass", 16384)
    train(reads, "personal", world / "init", world / "comparisons.jsonl", seed, *reading)
    if not (out / "evaluation.json").exists():
        models = [word for name in (sft, pooled, fspo) for word in (f"--models.{name.name}", name / "model")]
        asked = ("--questions", 2, "--max-new-tokens", 40, "--best-of-n", 16, "--generators", "sft", "fspo")
        asked += ("--rewards.reads", reads / "model")
        judged = ("--judge", "accord.worlds.cafe.tastes:prefers", "--against", "sft")
        run("evaluate", "users", "--data", world / "comparisons-unseen.jsonl", "--out", out, *models, *judged, *asked)
    result = parse(json.loads((out / "evaluation.json").read_text(encoding="utf-8")))
    assert isinstance(result, UsersResult)
    return result


def train(out: Path, command: str, model: Path, data: Path, seed: int, *options: object) -> None:
    """Train a model into a folder, unless it is there."""
    if not (out / "model").exists():
        run(command, "--model", model, "--data", data, "--out", out, "--seed", seed, *options, "--track", "none")


def table(tastes: str, found: list[UsersResult]) -> Table:
    """The win rate of every model by k, and that of the worst group."""
    title = f"{tastes}, seeds: {len(found)}; wins over {found[0].against}"
    return by_choices(title, [model.name for model in found[0].models], found, "win_rate")


if __name__ == "__main__":
    main()
