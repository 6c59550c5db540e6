"""Constitutional AI in the café: does a model that revises and judges by principles improve by the gold reward?

    python benchmarks/constitutional.py [--seeds 0 1 2] [--out runs/constitutional]

For each seed, benchmarks/constitutional.yaml trains a small model of the café to answer, criticize and revise, lets it
revise its answers to 1,000 prompts by the café's constitution, and fine-tunes it on the last revisions (SL-CAI). The
initial model then compares samples of SL-CAI: for each comparison a principle is drawn, and the model rates each answer
by it. A reward model is fitted to these verdicts, and PPO optimizes SL-CAI against it (RL-CAI). No stage sees the gold
reward, which scores all models' answers to 400 held-out prompts.

Prints the gold reward by revision, and of every model. A seed takes about ten minutes on one core; finished runs are
reused.
"""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stdout
from math import exp, log
from pathlib import Path
from typing import Any

from cafe import with_interval
from processes import study_parser
from rich.console import Console
from rich.table import Table

import accord
from accord import feedback, results
from accord.cli.label import comparisons_of
from accord.data.load import load_samples
from accord.evaluate.statistics import bootstrap_mean
from accord.feedback.constitution import draw, read_constitution
from accord.files import write_rows
from accord.methods import PPO, RewardModel
from accord.prompting.local import Local
from accord.prompting.requests import Request
from accord.records import Comparison, Message, Verdict, show
from accord.results.critique import CritiqueResult
from accord.worlds.cafe.virtues import BAD, GOOD

REVISED = ("revised", "direct", "one", "two")
"""The stages of the YAML file that revise answers."""


def main() -> None:
    """Run what is missing, and print the tables."""
    options = study_parser(__doc__, "runs/constitutional").parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    scores = []
    for seed in options.seeds:
        folder = options.out / f"seed-{seed}"
        with redirect_stdout(io.StringIO()):
            accord.run_pipeline(Path(__file__).with_suffix(".yaml"), folder / "shared", {"seed": seed})
            scores.append(gold_rewards(folder, train(folder, seed), seed))
    show_revisions([options.out / f"seed-{seed}" / "shared" for seed in options.seeds])
    show_models(scores)


def train(folder: Path, seed: int) -> dict[str, Path]:
    """Train RL-CAI, and return the models by name: the initial one, SL-CAI and RL-CAI."""
    shared, out = folder / "shared", folder / "rl-cai"
    models = {name: shared / name / "model" for name in ("sft", "sl-cai")}
    labels, start = folder / "labels.jsonl", models["sl-cai"]
    if not labels.exists():
        label(shared, labels, seed)
    if not (folder / "reward" / "model").exists():
        how: dict[str, Any] = {"batch_size": 64, "epochs": 3, "learning_rate": 5e-4, "warmup": 0.1, "max_length": 128}
        RewardModel(**how, seed=seed).fit(str(models["sft"]), str(labels), out=folder / "reward")
    if not (out / "model").exists():
        PPO(
            batch_size=64, max_steps=40, learning_rate=5e-4, max_length=128, max_new_tokens=40, kl_coefficient=0.05,
            inner_epochs=2, minibatches=2, seed=seed,
        ).fit(
            str(start), str(shared / "world" / "prompts.jsonl"), reward=str(folder / "reward" / "model"),
            watch="cafe", out=out,
        )  # fmt: skip
    return {**models, "rl-cai": out / "model"}


def label(shared: Path, out: Path, seed: int) -> None:
    """Let the initial model compare samples of SL-CAI, by a principle drawn for each comparison."""
    pairs = comparisons_of(load_samples(str(shared / "samples" / "samples.jsonl")), 3)
    model = Local(accord.load_model(str(shared / "sft" / "model")))
    principles = read_constitution(str(shared / "world" / "constitution.yaml"))
    requests = []
    for pair in pairs:
        said = [answer if isinstance(answer, str) else answer[-1].content for answer in (pair.first, pair.second)]
        principle = draw(principles, 1, f"{show(pair.prompt)} {said}", seed)[0]
        requests += [request(pair, text, principle.prefer) for text in said]
    replies = iter(model(requests))
    log_odds = [log(reply.choices[GOOD] / reply.choices[BAD]) for reply in replies if reply.choices]
    verdicts = [Verdict(1 / (1 + exp(b - a))) for a, b in zip(log_odds[::2], log_odds[1::2], strict=True)]
    rows, _ = feedback.people.labeled(pairs, verdicts, soft=True)
    write_rows(out, rows)


def request(pair: Comparison, answer: str, principle: str) -> Request:
    """The question whether one answer is good by a principle."""
    assert not isinstance(pair.prompt, str)
    chat = (*pair.prompt, Message("assistant", answer), Message("user", principle))
    return Request(prompt=chat, max_tokens=0, choices=(GOOD, BAD))


def gold_rewards(folder: Path, models: dict[str, Path], seed: int) -> dict[str, list[float]]:
    """The gold reward of every model's answer to each held-out prompt."""
    found = {}
    for name, model in models.items():
        out = folder / f"{name}.jsonl"
        if not out.exists():
            held_out = str(folder / "shared" / "world" / "heldout.jsonl")
            accord.sample(str(model), held_out, str(out), reward="cafe", max_new_tokens=40, seed=seed)
        found[name] = [json.loads(line)["reward"] for line in out.read_text().splitlines()]
    return found


def show_revisions(folders: list[Path]) -> None:
    """The gold reward by revision, for every way to revise: the mean over seeds with Student's interval."""
    found = {stage: [result_of(folder / stage) for folder in folders] for stage in REVISED}
    table: Any = Table("gold by revision", *found)
    for i in range(len(found["revised"][0].revisions)):
        row = []
        for runs in found.values():
            row.append(with_interval([run.revisions[i].scores["cafe"].estimate for run in runs]))
        table.add_row(str(i), *row)
    gains = [[run.revisions[-1].gains["cafe"] for run in runs] for runs in found.values()]
    table.add_row("last over first, by seed", *("\n".join(f"{gain:+.3f}" for gain in runs) for runs in gains))
    Console(width=150).print(table)


def result_of(folder: Path) -> CritiqueResult:
    """The result of a stage that revises."""
    result = results.load(folder)
    assert isinstance(result, CritiqueResult)
    return result


def show_models(scores: list[dict[str, list[float]]]) -> None:
    """Every model's gold reward on held-out prompts, and its gain over the previous model, by seed and over seeds."""
    table: Any = Table("held out", "gold", "over the previous model, by seed", "over seeds")
    before: str | None = None
    for name in scores[0]:
        means = [sum(run[name]) / len(run[name]) for run in scores]
        gains = [[a - b for a, b in zip(run[name], run[before], strict=True)] for run in scores] if before else []
        each = "\n".join(f"{bootstrap_mean(gain):+.3f}" for gain in gains)
        table.add_row(
            name, with_interval(means), each, with_interval([sum(g) / len(g) for g in gains]) if gains else ""
        )
        before = name
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
