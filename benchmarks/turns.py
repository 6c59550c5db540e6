"""Multi-turn dialogue at the counter: single-turn SFT, SFT on conversations, and GRPO over whole conversations.

    python benchmarks/turns.py [--seeds 0 1 2] [--arms many gold to-go] [--pretraining 500] [--out runs/turns]

For each seed, `accord world --name counter` generates a world, whose text a 0.5 M parameter model learns to continue.
It is fine-tuned on answers to first questions, or on as many answers in conversations. From the latter, GRPO trains on
conversations with the simulated guest: with the gold reward of every turn, summed or to go, or with a reward model
fitted to rankings of four answers to a random turn of each conversation, by people who know the truth. The guest then
talks with each model, about held-out menus.

The first table has the share of conversations answered right at each turn (wrong if they ended before) and at all
turns: means over seeds with Student's 95% intervals, and the gain of rewards to go over their sum in the same seed. The
second has, by turn, how often the reward model orders a right and a wrong answer to the same turn correctly, for four
answers each of the model that it was fitted on and of the one trained with it. A seed takes about six minutes on one
core; finished runs are reused.
"""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

from cafe import with_interval
from processes import output_of, run_cli, study_parser
from rich.console import Console
from rich.table import Table

from accord.records import Message
from accord.worlds.counter import gold

SHORT = {"max_length": 128, "track": "none"}
TUNED = SHORT | {"model": "{base}", "epochs": 3, "learning_rate": 5e-4}
CONVERSATION = {"model": "{many}", "data": "{world}/prompts.jsonl", "user": "counter", "max_new_tokens": 12}
POLICY = SHORT | CONVERSATION | {"batch_size": 8, "group_size": 8, "max_steps": 60, "learning_rate": 4e-4}
POLICY |= {"reward_at": "turns"}
RESAMPLED: dict[str, Any] = {"n": 4, "max_new_tokens": 12}
RANKED = RESAMPLED | {"data": "{world}/conversations.jsonl", "turn": "random"}

STAGES: dict[str, dict[str, Any]] = {
    "world": {"command": "world", "name": "counter"},
    "base": {
        "command": "pretrain", **SHORT, "model": "{world}/init", "data": "{world}/corpus.jsonl",
        "batch_size": 32, "max_steps": 500, "learning_rate": 1.5e-3, "schedule": "linear",
    },
    "single": {"command": "sft", **TUNED, "data": "{world}/single.jsonl", "batch_size": 24},
    "many": {"command": "sft", **TUNED, "data": "{world}/conversations.jsonl", "batch_size": 8},
    "gold": {"command": "grpo", **POLICY, "reward": "counter"},
    "to-go": {"command": "grpo", **POLICY, "reward": "counter", "reward_at": "turns-to-go"},
    "answers": {"command": "sample", **RANKED, "model": "{many}", "out": "answers.jsonl"},
    "rankings": {
        "command": "label", "data": "{answers}", "judge": "counter", "rankings": True, "out": "rankings.jsonl",
    },
    "reward": {
        "command": "reward", **SHORT, "model": "{many}", "data": "{rankings}", "batch_size": 32, "epochs": 2,
        "learning_rate": 5e-4,
    },
    "learned": {"command": "grpo", **POLICY, "reward": "{reward}", "watch": "counter"},
}  # fmt: skip
"""The stages in order; {name} is the model, the folder or the file of an earlier stage."""

ARMS = {
    "base": "base model",
    "single": "single-turn SFT",
    "many": "multi-turn SFT",
    "learned": "+ GRPO, learned reward",
    "gold": "+ GRPO, gold reward",
    "to-go": "+ GRPO, gold reward to go",
}
"""The models evaluated, and their names in the table."""
TURNS = 4


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = study_parser(__doc__, "runs/turns")
    parser.add_argument(
        "--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="models to train and evaluate"
    )
    parser.add_argument(
        "--pretraining", type=int, default=500, help="pretraining steps; another number needs another --out"
    )
    options = parser.parse_args()
    STAGES["base"]["max_steps"] = options.pretraining
    folders = {seed: options.out / f"seed-{seed}" for seed in options.seeds}
    # One seed after another, so that an interrupted study leaves complete seeds.
    each = {seed: {arm: by_turn(folders[seed], arm, seed) for arm in options.arms} for seed in options.seeds}
    turns = [f"turn {turn}" for turn in range(1, TURNS + 1)]
    table = Table("model", *turns, "all", title=f"answered right, seeds: {len(options.seeds)}")
    for arm in options.arms:
        table.add_row(ARMS[arm], *(with_interval([each[seed][arm][key] for seed in each]) for key in (*turns, "all")))
    if {"gold", "to-go"} <= {*options.arms}:
        gains = {key: [one["to-go"][key] - one["gold"][key] for one in each.values()] for key in (*turns, "all")}
        table.add_row("to go, above the sum", *map(with_interval, gains.values()))
    Console(width=150).print(table)
    if {"many", "learned"} <= {*options.arms}:
        table = Table("answers by", *turns, title="pairs that the reward model orders right")
        for arm in ("many", "learned"):
            found = [ordered_right(folders[seed], arm, seed) for seed in options.seeds]
            table.add_row(ARMS[arm], *(with_interval([one[key] for one in found]) for key in turns))
        Console(width=150).print(table)


def by_turn(folder: Path, arm: str, seed: int) -> dict[str, float]:
    """The share of conversations that a model answers right at each turn, and at all turns."""
    out = folder / f"talks-{arm}.jsonl"
    if not out.exists():
        model, world = (output_of(STAGES, folder, name, seed) for name in (arm, "world"))
        asked = CONVERSATION | {"data": world / "heldout.jsonl", "limit": 200, "model": model, "reward": "counter"}
        run_cli("sample", asked | {"seed": seed, "out": out})
    talks: dict[int, list[float]] = defaultdict(list)
    for line in out.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        talks[row["conversation"]].append(row["reward"])
    right = {
        f"turn {turn}": sum(talk[turn - 1] for talk in talks.values() if len(talk) >= turn) / len(talks)
        for turn in range(1, TURNS + 1)
    }
    return right | {"all": sum(sum(talk) == TURNS for talk in talks.values()) / len(talks)}


def ordered_right(folder: Path, arm: str, seed: int) -> dict[str, float]:
    """By turn, the share of pairs of a model's right and wrong answers that the reward model orders correctly.

    The turns are from the conversations of `by_turn`. Pairs with equal rewards count half.
    """
    out = folder / f"anew-{arm}.jsonl"
    if not out.exists():
        model, reward = (output_of(STAGES, folder, name, seed) for name in (arm, "reward"))
        asked = RESAMPLED | {"data": folder / f"talks-{arm}.jsonl", "model": model, "reward": reward}
        run_cli("sample", asked | {"seed": seed, "out": out})
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    found: dict[str, list[float]] = {f"turn {turn}": [] for turn in range(1, TURNS + 1)}
    for answers in (rows[i : i + RESAMPLED["n"]] for i in range(0, len(rows), RESAMPLED["n"])):
        asked = tuple(Message(**message) for message in answers[0]["prompt"])
        turn = 1 + sum(message.role == "assistant" for message in asked)
        scored = [(gold(asked, row["completion"]), row["reward"]) for row in answers]
        pairs = [(a, b) for (right, a), (wrong, b) in product(scored, repeat=2) if right > wrong]
        found[f"turn {turn}"] += [float(a > b) + (a == b) / 2 for a, b in pairs]
    return {turn: sum(some) / max(1, len(some)) for turn, some in found.items()}


if __name__ == "__main__":
    main()
