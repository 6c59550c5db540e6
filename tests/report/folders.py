"""Folders as training and evaluation leave them, small and made by formula, for the tests of the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

HOSTILE = "<script>alert('owned')</script> & \"quotes\" <|im_end|>\x1b[31m \u202egnirts\n"


def stage(name: str, command: str, seconds: float, status: str = "ran", **inputs: str | list[str]) -> dict[str, Any]:
    return {"name": name, "command": command, "folder": name, "status": status, "seconds": seconds, "inputs": inputs}


STAGES = [
    stage("base", "pretrain", 0.2, status="skipped"),
    stage("sft", "sft", 30, model="base"),
    stage("samples", "sample", 12, model="sft"),
    stage("pairs", "label", 1, data="samples"),
    stage("rm", "reward", 25, model="sft", data="pairs"),
    stage("dpo", "dpo", 40, model="sft", data="pairs"),
    stage("ppo", "ppo", 110, model="sft", reward="rm"),
    stage("agreement", "evaluate", 4, model="rm", data="held_out.jsonl"),
    stage("verdict", "evaluate", 29, models=["base", "sft", "dpo", "ppo"], reward="rm"),
]
PIPELINE = {
    "name": "cafe",
    "description": "From a raw model to an aligned one.",
    "seconds": 252.0,
    "stages": STAGES,
}


def interval(estimate: float, half: float, n: int = 256, **more: Any) -> dict[str, Any]:
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half, "n": n, **more}


def model(name: str, cafe: float, reward: float, win: float | None, kl: float | None, length: float) -> dict[str, Any]:
    return {
        "name": name,
        "scores": {"cafe": interval(cafe, 0.02), "reward": interval(reward, 0.1)},
        "win_rate": win if win is None else interval(win, 0.05, ties=3, invalid=1),
        "kl": kl if kl is None else interval(kl, 0.2),
        "length": length,
        "ended": 0.975,
    }


VERDICT = {
    "kind": "models",
    "judge": "cafe",
    "against": "sft",
    "reference": "sft",
    "prompts": 256,
    "models": [
        model("base", 0.102, -1.31, 0.125, 9.6, 24.0),
        model("sft", 0.353, 0.02, None, None, 14.5),
        model("dpo", 0.571, 1.62, 0.716, 4.41, 15.2),
        model("ppo", 0.644, 2.25, 0.823, 6.25, 16.75),
    ],
    "side_by_side": [
        {
            "prompt": f"Describe the café in one line, please. ({number})",
            "answers": [
                {"model": "base", "text": HOSTILE, "scores": {"cafe": 0.0}},
                {"model": "sft", "text": "the coffee is warm .", "scores": {"cafe": 0.35}},
                {
                    "model": "dpo",
                    "text": "the coffee is warm and the staff is kind . 咖啡 ☕",
                    "scores": {"cafe": 0.61},
                },
                {"model": "ppo", "text": "", "scores": {"cafe": None}},
            ],
        }
        for number in (1, 2)
    ],
}

AGREEMENT = {
    "kind": "comparisons",
    "name": "reward model",
    "data": "held_out.jsonl",
    "accuracy": interval(0.712, 0.021, n=1800),
    "ceiling": 0.731,
    "ties": 2,
}


def metrics(command: str, n: int) -> list[dict[str, Any]]:
    """`n` rows of what a command measures: a smooth course with a ripple."""
    rows = []
    for step in range(1, n + 1):
        t, ripple = step / n, math.sin(step * 12.9898) * 0.5
        row: dict[str, Any] = {"step": step, "loss": 0.5 + 2 * math.exp(-4 * t) + 0.2 * ripple, "seconds": 0.3}
        row |= {"tokens": 4096, "tokens_per_second": 9000 + 800 * ripple, "gradient_norm": 1 + abs(ripple)}
        row |= {"learning_rate": 1e-4 * min(1.0, 10 * t) * (1 - 0.9 * t)}
        if command in ("reward", "dpo"):
            row |= {"accuracy": 0.5 + 0.25 * (1 - math.exp(-5 * t)) + 0.1 * ripple, "margin": 1.4 * t + 0.3 * ripple}
        if command == "ppo":
            row |= {"loss": 0.02 * ripple, "reward": 2.3 * (1 - math.exp(-3 * t)) + 0.4 * ripple, "kl": 6 * t + 0.5}
            row |= {"length": 14 + 3 * t + ripple, "ended": min(1.0, 0.8 + 0.2 * t), "entropy": 3 - 1.8 * t}
            row |= {"value_loss": 0.4 * math.exp(-3 * t), "clip_fraction": 0.1 + 0.05 * ripple}
        rows.append(row)
    return rows


def write_run(folder: Path, command: str, n: int, seed: int = 0) -> Path:
    """A training run's folder; policy optimization also leaves samples."""
    folder.mkdir(parents=True)
    settings = ["model: ../sft/model", "data: pairs.jsonl", "learning_rate: 0.0001", f"seed: {seed}", "resume: null"]
    (folder / "config.yaml").write_text("\n".join([f"command: {command}", *settings]))
    versions = {"torch": "2.13", "transformers": "5.23"}
    environment = {
        "versions": versions,
        "machine": "2 cores",
        "seed": seed,
        "command": ["accord", command, "--out", "a b"],
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    if n:
        write_rows(folder / "metrics.jsonl", metrics(command, n))
    if command == "ppo":
        rows = [
            {"step": step, "prompt": "How is the tea ?", "completion": f"answer of step {step}", "reward": step / 100}
            for step in (1, 50, 100)
        ]
        write_rows(folder / "samples.jsonl", rows)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_pipeline(folder: Path, n: int = 40) -> Path:
    """The whole pipeline: four training stages of `n` steps each, a base that was skipped, and two evaluations."""
    folder.mkdir(parents=True)
    (folder / "pipeline.json").write_text(json.dumps(PIPELINE))
    for seed, row in enumerate(STAGES):
        trains = row["command"] in ("pretrain", "sft", "reward", "dpo", "ppo")
        write_run(folder / row["folder"], row["command"], n if trains else 0, seed)
    (folder / "verdict" / "evaluation.json").write_text(json.dumps(VERDICT))
    (folder / "agreement" / "evaluation.json").write_text(json.dumps(AGREEMENT))
    return folder
