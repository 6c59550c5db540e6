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
from processes import accord
from rich.console import Console
from rich.table import Table

SHORT = {"max_length": 128, "track": "none"}
TUNED = SHORT | {"model": "{base}", "batch_size": 32, "epochs": 3, "learning_rate": 5e-4}
ROUND = {"model": "{many}", "data": "{world}/prompts.jsonl", "user": "counter", "max_new_tokens": 12}
POLICY = (
    SHORT | ROUND | {"batch_size": 16, "group_size": 8, "max_steps": 80, "learning_rate": 3e-4, "reward_at": "turns"}
)
RANKED = {"data": "{world}/conversations.jsonl", "turn": "random", "n": 4, "max_new_tokens": 12}

STAGES: dict[str, dict[str, Any]] = {
    "world": {"command": "world", "name": "counter"},
    "base": {
        "command": "pretrain", **SHORT, "model": "{world}/init", "data": "{world}/corpus.jsonl",
        "batch_size": 32, "epochs": 3, "learning_rate": 2e-3,
    },
    "single": {"command": "sft", **TUNED, "data": "{world}/single.jsonl"},
    "many": {"command": "sft", **TUNED, "data": "{world}/conversations.jsonl"},
    "gold": {"command": "grpo", **POLICY, "reward": "counter"},
    "answers": {"command": "sample", **RANKED, "model": "{many}", "out": "answers.jsonl"},
    "rankings": {"command": "label", "data": "{answers}", "judge": "counter", "rankings": True, "out": "rankings.jsonl"},
    "reward": {
        "command": "reward", **SHORT, "model": "{many}", "data": "{rankings}", "batch_size": 32, "epochs": 3,
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
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for seed in options.seeds:
        known = stages(options.out / f"seed-{seed}", seed)
        for arm in ARMS:
            found[arm].append(by_turn(options.out / f"seed-{seed}", arm, known, seed))
    table = Table(
        "model", *(f"turn {turn}" for turn in range(1, TURNS + 1)), "all four", title=f"seeds: {len(options.seeds)}"
    )
    for arm, name in ARMS.items():
        table.add_row(name, *(between([one[key] for one in found[arm]]) for key in found[arm][0]))
    Console(width=140).print(table)


def stages(folder: Path, seed: int) -> dict[str, str]:
    """What every stage of a seed left, by the stage's name."""
    known: dict[str, str] = {}
    for name, given in STAGES.items():
        settings = {k: v.format(**known) if isinstance(v, str) else v for k, v in given.items() if k != "command"}
        out = folder / settings.get("out", name)
        result = out / "model" if given["command"] in ("pretrain", "sft", "grpo", "reward") else out
        if not result.exists():
            accord(given["command"], settings | {"seed": seed, "out": out})
        known[name] = str(result)
    return known


def by_turn(folder: Path, arm: str, known: dict[str, str], seed: int) -> dict[str, float]:
    """The share of conversations that a model answers right at each turn, and at all of them."""
    out = folder / f"talks-{arm}.jsonl"
    if not out.exists():
        asked = ROUND | {"data": f"{known['world']}/heldout.jsonl", "model": known[arm], "reward": "counter"}
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
