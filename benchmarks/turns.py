"""Many turns at the counter: single-turn SFT, SFT on conversations, and reinforcement over whole conversations.

    python benchmarks/turns.py [--seeds 0 1 2] [--out runs/turns]

For each seed, `accord world --name counter` draws a world, whose text a model of 0.5 M parameters learns to continue.
It is then fine-tuned on answers to first questions, or on as many answers in conversations; the latter goes on with
GRPO over conversations with the simulated guest, by the gold reward of every turn, or by a reward model of rankings:
four answers to a turn drawn at random of each conversation, ranked by people who know the truth. Then the guest talks
with each, on menus that no stage has seen. Each command runs in a process of its own with one thread; what has been run
is taken up, not run again.

The table has, turn by turn, the share of the conversations whose turn is answered right (one that ended before counts
as wrong there), and the share of those all of whose turns are: means over seeds with Student's 95% intervals.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from cafe import between
from processes import accord, made
from rich.console import Console
from rich.table import Table

SHORT = {"max_length": 128, "track": "none"}
TUNED = SHORT | {"model": "{base}", "epochs": 3, "learning_rate": 5e-4}
ROUND = {"model": "{many}", "data": "{world}/prompts.jsonl", "user": "counter", "max_new_tokens": 12}
POLICY = SHORT | ROUND | {"batch_size": 8, "group_size": 8, "max_steps": 60, "learning_rate": 4e-4}
POLICY |= {"reward_at": "turns"}
RANKED = {"data": "{world}/conversations.jsonl", "turn": "random", "n": 4, "max_new_tokens": 12}

STAGES: dict[str, dict[str, Any]] = {
    "world": {"command": "world", "name": "counter"},
    "base": {
        "command": "pretrain", **SHORT, "model": "{world}/init", "data": "{world}/corpus.jsonl",
        "batch_size": 32, "max_steps": 350, "learning_rate": 1.5e-3, "schedule": "linear",
    },
    "single": {"command": "sft", **TUNED, "data": "{world}/single.jsonl", "batch_size": 24},
    "many": {"command": "sft", **TUNED, "data": "{world}/conversations.jsonl", "batch_size": 8},
    "gold": {"command": "grpo", **POLICY, "reward": "counter"},
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
"""The stages in order; {name} is the model, the folder or the file of an earlier one."""

ARMS = {
    "base": "base model",
    "single": "single-turn SFT",
    "many": "multi-turn SFT",
    "learned": "+ GRPO, learned reward",
    "gold": "+ GRPO, gold reward",
}
"""The models that are talked with, and what the table calls them."""
TURNS = 4


def main() -> None:
    """Run what has not been run, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/turns"))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    options = parser.parse_args()
    table = Table(
        "model", *(f"turn {turn}" for turn in range(1, TURNS + 1)), "all", title=f"seeds: {len(options.seeds)}"
    )
    for arm in options.arms:
        found = [by_turn(options.out / f"seed-{seed}", arm, seed) for seed in options.seeds]
        table.add_row(ARMS[arm], *(between([one[key] for one in found]) for key in found[0]))
    Console(width=140).print(table)


def by_turn(folder: Path, arm: str, seed: int) -> dict[str, float]:
    """The share of conversations that a model answers right at each turn, and at all of them."""
    out = folder / f"talks-{arm}.jsonl"
    if not out.exists():
        model, world = (made(STAGES, folder, name, seed) for name in (arm, "world"))
        asked = ROUND | {"data": world / "heldout.jsonl", "limit": 200, "model": model, "reward": "counter"}
        accord("sample", asked | {"seed": seed, "out": out})
    talks: dict[int, list[float]] = defaultdict(list)
    for line in out.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        talks[row["conversation"]].append(row["reward"])
    right = {
        f"turn {turn}": sum(talk[turn - 1] for talk in talks.values() if len(talk) >= turn) / len(talks)
        for turn in range(1, TURNS + 1)
    }
    return right | {"all": sum(sum(talk) == TURNS for talk in talks.values()) / len(talks)}


if __name__ == "__main__":
    main()
