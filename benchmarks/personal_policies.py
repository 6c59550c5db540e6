"""Whose preferences a policy follows: pooled, and reading k of a user's choices, by the win rates that users give.

    python benchmarks/personal_policies.py [--seeds 0] [--tastes opposite] [--out runs/personal-policies]

For each seed and population `accord world` writes the choices of users of the café and of others whom no model is
trained on. A model of width 96 learns the café's language (`accord pretrain`) and to answer (`accord sft`), and from
there `accord ipo` fits a policy to all users' preferences alike, and `accord fspo` one that reads choices; `accord
personal` fits a reward model that reads choices, by which the best of 16 answers is chosen, of the fine-tuned model
and of the one that reads choices itself. `accord evaluate users` lets the other users compare the answers of each with
those of the fine-tuned model. What has been run is taken up, not run again. Prints a table a population: means over the
seeds, or with one its interval over users.
"""

from __future__ import annotations

import json
from pathlib import Path

from personal import by_choices, run, study
from rich.table import Table

from accord.results import parse
from accord.results.users import UsersResult

LANGUAGE = ("--batch-size", 32, "--max-length", 128)
COMMON = ("--batch-size", 64, "--learning-rate", "1e-3", "--tokens-per-pass", 16384)
STEPS = {"ipo": 200, "fspo": 60}
"""Optimizer steps of the policies; those of the one that reads choices are four times as long."""


def main() -> None:
    """Run what has not been run, and print the tables."""
    study(__doc__ or "", "runs/personal-policies", tried, table, ["opposite"])


def tried(folder: Path, tastes: str, seed: int, users: int) -> UsersResult:
    """The policies of a population and a seed among its unseen users."""
    world, base, sft, pooled, fspo, reads, out = (
        folder / name for name in ("cafe", "base", "sft", "pooled", "fspo", "reads", "evaluation")
    )
    drawn = ("--tastes", tastes, "--users", users, "--width", 96, "--seed", seed)
    if not (world / "init").exists():
        run("world", "--name", "cafe", "--out", world, *drawn)
    trained(
        base,
        "pretrain",
        world / "init",
        world / "corpus.jsonl",
        seed,
        *LANGUAGE,
        "--epochs",
        1.5,
        "--learning-rate",
        "2e-3",
    )
    trained(
        sft,
        "sft",
        base / "model",
        world / "demonstrations.jsonl",
        seed,
        *LANGUAGE,
        "--epochs",
        3,
        "--learning-rate",
        "5e-4",
    )
    for policy, method in ((pooled, "ipo"), (fspo, "fspo")):
        steps = ("--max-steps", STEPS[method])
        trained(policy, method, sft / "model", world / "comparisons.jsonl", seed, *COMMON, *steps)
    reading = ("--max-steps", 80, "--learning-rate", "2e-3", "--tokens-per-pass", 16384)
    trained(reads, "personal", world / "init", world / "comparisons.jsonl", seed, *reading)
    if not (out / "evaluation.json").exists():
        models = [word for name in (sft, pooled, fspo) for word in (f"--models.{name.name}", name / "model")]
        asked = ("--questions", 2, "--max-new-tokens", 40, "--best-of-n", 16, "--generators", "sft", "fspo")
        asked += ("--rewards.reads", reads / "model")
        judged = ("--judge", "accord.worlds.cafe.tastes:prefers", "--against", "sft")
        run("evaluate", "users", "--data", world / "comparisons-unseen.jsonl", "--out", out, *models, *judged, *asked)
    result = parse(json.loads((out / "evaluation.json").read_text(encoding="utf-8")))
    assert isinstance(result, UsersResult)
    return result


def trained(out: Path, command: str, model: Path, data: Path, seed: int, *options: object) -> None:
    """A training that leaves its model in a folder, unless it is there."""
    if not (out / "model").exists():
        run(command, "--model", model, "--data", data, "--out", out, "--seed", seed, *options, "--track", "none")


def table(tastes: str, found: list[UsersResult]) -> Table:
    """The win rate of every model by k, and beside it the lowest of any group."""
    title = f"{tastes}, seeds: {len(found)}; wins over {found[0].against}"
    return by_choices(title, [model.name for model in found[0].models], found, "win_rate")


if __name__ == "__main__":
    main()
