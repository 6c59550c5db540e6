"""Runs: a sweep, a log of another trainer, a plan, and a run that is watched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.report.folders import metrics, write_rows, write_run

SWEEP = {
    "kind": "sweep",
    "method": "ppo",
    "measure": "watched",
    "loss": 0.1,
    "grid": {"kl_coefficient": [0.75, 0.85], "learning_rate": [1e-4, 1e-3]},
    "cells": [
        {
            "settings": {"kl_coefficient": price, "learning_rate": rate},
            "runs": 2,
            "final": {"estimate": 0.5 + rate, "low": 0.4, "high": 0.7, "n": 2},
            "collapsed": {"estimate": share, "low": 0.1, "high": 0.9, "n": 2},
        }
        for price, rate, share in ((0.75, 1e-4, 0.0), (0.75, 1e-3, 0.5), (0.85, 1e-4, 0.5))
    ],
    "runs": [
        {
            "name": "one",
            "settings": {"kl_coefficient": 0.95, "learning_rate": 1e-3},
            "steps": 4,
            "start": 0.4,
            "final": 0.1,
            "alarms": ["collapse"],
            "stopped": "the loss of <row> 1 is not finite",
            "collapsed": True,
        }
    ],
}

LOG = {
    "kind": "alarms",
    "log": "runs/<log>.jsonl",
    "trainer": "verl",
    "rows": 20,
    "first": 1,
    "last": 20,
    "columns": [
        {"column": "kl", "read": "actor/kl_loss * response_length/mean", "rows": 20},
        {"column": "", "read": "actor/ppo_kl", "rows": 20, "why": "another <divergence>"},
    ],
    "unread": ["perf/<mfu>"],
    "alarms": [{"step": 7, "alarm": "kl-burst", "saw": "the divergence <jumped>", "advice": "a lower rate"}],
    "judged": [
        {"alarm": "kl-burst", "ways": [["kl"]], "lacks": [], "steps": [7]},
        {"alarm": "kl-runaway", "ways": [["kl", "reward"]], "lacks": [], "steps": []},
        {"alarm": "overoptimization", "ways": [], "lacks": ["watched"], "steps": []},
        {"alarm": "loss-rise", "ways": [], "lacks": [], "steps": []},
    ],
}

_BYTES = (
    "weights", "gradients", "optimizer", "copies", "reward", "gathered", "whole_gradients", "activations",
    "activations_again", "casts", "casts_again", "logits", "cache", "program", "training", "training_again", "sampling",
    "loading",
)  # fmt: skip

_SPENT = ("generation", "handing_over", "reward", "reading", "training", "waiting", "updating")

PLANNED = {
    "kind": "plan",
    "model": "models/<8B>",
    "shape": "8.03 billion weights",
    "numbers": 8_030_000_000,
    "method": "grpo",
    "batch": "512 prompts a step",
    "gpu_type": "h100",
    "gpu_memory": 80e9,
    "figures": [{"name": "bytes of a GPU", "value": 80e9, "source": "given"}],
    "rows": [
        {
            "gpus": 1024,
            "ranks": 1024,
            "samplers": 0,
            "together": 0,
            "again": True,
            "lacks": ["loading"],
            "memory": dict.fromkeys(_BYTES, 2.5e9),
            "passes": {
                "tokens": 9216, "each": 1, "idle": 512, "received": 9e10, "compute": 1.5, "wire": 0.75,
                "hidden_at": 4213.0, "hsdp_held": 1.6e10, "hsdp_wire": 0.5,
            },
            "step": {**dict.fromkeys(_SPENT, 0.5), "seconds": 3.5, "bound": "sampling"},
            "tokens": 3_584_000,
            "rollouts": 4e8,
        }
    ],
}  # fmt: skip

ALARMS = [
    {
        "step": 24,
        "alarm": "reward-up-watched-down",
        "saw": "reward rose from 1.2 to 1.9 in 10 steps while the watched score fell from 0.66 to 0.61.",
        "try": "Raise kl_coefficient, or use the model in best/.",
    },
    {"step": 31, "alarm": "length-drift", "saw": "length is 2.1 times that of the start.", "try": "Penalize length."},
    {"step": 33, "alarm": "length-drift", "saw": "length is 2.3 times that of the start.", "try": "Penalize length."},
]


def watched_metrics(n: int) -> list[dict[str, Any]]:
    """PPO's metrics in which every second step was watched: the measure is t (2 - 1.5 t) - 0.2 over 0.66 at t = 2/3."""
    rows = metrics("ppo", n)
    for row in rows[1::2]:
        t = row["step"] / n
        row["watched"] = 0.4 + 0.4 * t * (2 - 1.5 * t)
    return rows


def write_watched(folder: Path, alarms: list[dict[str, Any]], n: int = 40) -> Path:
    """A run under watch: the column `watched`, alarms, and the best model's step."""
    write_run(folder, "ppo", n)
    write_rows(folder / "metrics.jsonl", watched_metrics(n))
    write_rows(folder / "alarms.jsonl", alarms)
    (folder / "best.json").write_text(json.dumps({"step": 26, "watched": 0.667}))
    return folder
