"""Evaluations of every kind as `accord evaluate` writes them, small and made by formula, to test the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tests.report.folders import HOSTILE, VERDICT, interval, metrics, model, write_rows, write_run


def pair(first: str, second: str, rate: float, half: float, controlled: float | None) -> dict[str, Any]:
    return {
        "model": first,
        "against": second,
        **interval(rate, half, ties=3, invalid=1),
        "length_controlled": None if controlled is None else interval(controlled, half),
        "sign_test": {"wins": 180, "losses": 71, "p": 4.2e-12},
        "first_wins": 0.53,
        "inconsistent": 0.12,
    }


TOKENS = [["the", 0.02], [" coffee", 1.2], [" is", -0.3], [" warm", 4.6], [" .", -2.5], ["<|im_end|>", 0.0]]

MODELS = {
    **VERDICT,
    "models": [
        model("sft", 0.353, 0.02, None, None, 14.5),
        {**model("dpo", 0.571, 1.62, 0.716, 4.41, 15.2)},
        {**model("ppo", 0.644, 2.25, 0.823, 6.25, 16.75)},
    ],
    "pairs": [
        pair("dpo", "sft", 0.716, 0.05, 0.702),
        pair("ppo", "sft", 0.823, 0.05, 0.731),
        pair("ppo", "dpo", 0.53, 0.06, 0.44),
    ],
    "board": [
        {"name": "ppo", "rating": interval(0.61, 0.12), "elo": interval(106.0, 21.0)},
        {"name": "dpo", "rating": interval(0.22, 0.12), "elo": interval(38.0, 21.0)},
        {"name": "sft", "rating": interval(-0.83, 0.13), "elo": interval(-144.0, 22.0)},
    ],
    "warnings": ["cafe answered 12% of pairs differently when their order was changed."],
    "side_by_side": [
        {
            "prompt": "How is the coffee ?",
            "answers": [
                {"model": "sft", "text": "the tea is cold .", "scores": {"cafe": 0.2}},
                {
                    "model": "dpo",
                    "text": "the coffee is warm .",
                    "scores": {"cafe": 0.61, "reward": 1.9},
                    "tokens": TOKENS,
                },
                {
                    "model": "ppo",
                    "text": HOSTILE,
                    "scores": {"cafe": 0.0},
                    "tokens": [
                        ["<script>", 2.0],
                        ["alert('owned')", -0.7],
                        ["</script>\x1b[31m ", 0.2],
                        ["\u202e\n", 0.6],
                    ],
                },
            ],
        }
    ],
}
MODELS["models"][2]["win_rate"] = {**MODELS["models"][2]["win_rate"], "length_controlled": interval(0.731, 0.05)}

TRIAL = {
    "kind": "comparisons",
    "name": "reward model",
    "data": "held_out.jsonl",
    "accuracy": interval(0.712, 0.021, n=1800),
    "ceiling": 0.731,
    "ties": 2,
    "labeled_ties": 40,
    "rows": 1840,
    "by_margin": [
        {"label": "least certain third", "accuracy": interval(0.54, 0.04, n=600)},
        {"label": "middle third", "accuracy": interval(0.70, 0.04, n=600)},
        {"label": "most certain third", "accuracy": interval(0.90, 0.02, n=600)},
    ],
    "by_length": [
        {"label": "chosen shorter", "accuracy": interval(0.41, 0.03, n=800)},
        {"label": "chosen longer", "accuracy": interval(0.86, 0.03, n=1000)},
    ],
    "by_source": [{"label": "people", "accuracy": interval(0.71, 0.02, n=1800)}],
    "calibration": {
        "bins": [
            {"confidence": 0.55, "frequency": interval(0.54, 0.05, n=500)},
            {"confidence": 0.65, "frequency": interval(0.63, 0.05, n=500)},
            {"confidence": 0.75, "frequency": interval(0.70, 0.04, n=400)},
            {"confidence": 0.95, "frequency": interval(0.81, 0.04, n=400)},
        ],
        "ece": interval(0.061, 0.012, n=1800),
    },
    "probes": [
        {
            "name": "longer",
            "what": "two more sentences",
            "preferred": interval(0.83, 0.04),
            "shift": interval(0.9, 0.1),
            "n": 256,
        },
        {
            "name": "repeated",
            "what": "said twice",
            "preferred": interval(0.22, 0.05),
            "shift": interval(-0.6, 0.1),
            "n": 256,
        },
        {
            "name": "position",
            "what": "the two exchanged",
            "preferred": interval(0.50, 0.06),
            "shift": interval(0.0, 0.1),
            "n": 256,
        },
    ],
    "warnings": [],
}

AGREEMENT = {
    "kind": "agreement",
    "data": "labels.jsonl",
    "annotators": ["ann", "bob", "cyd"],
    "items": 200,
    "pairs": [
        {"a": "ann", "b": "bob", "items": 200, "agreement": interval(0.8, 0.05), "kappa": interval(0.6, 0.1)},
        {"a": "ann", "b": "cyd", "items": 180, "agreement": interval(0.7, 0.06), "kappa": interval(0.4, 0.12)},
    ],
    "fleiss": interval(0.52, 0.08),
    "krippendorff": interval(0.53, 0.08),
    "agreement": interval(0.76, 0.04),
    "ceiling": interval(0.861, 0.03),
    "warnings": ["bob has labeled fewer than 20 items with cyd."],
}

JUDGE = {
    "kind": "judge",
    "name": "ai:smollm2",
    "data": "held_out.jsonl",
    "pairs": 200,
    "agreement": interval(0.62, 0.07, n=196),
    "by_source": [{"label": "<b>web", "accuracy": interval(0.7, 0.1, n=90)}],
    "by_length": [{"label": "-40 to -3", "accuracy": interval(0.41, 0.12, n=49)}],
    "invalid": interval(0.02, 0.015, n=200),
    "faults": {"no letter": 4},
    "first_wins": interval(0.91, 0.04),
    "order_bias": interval(1.75, 0.3),
    "inconsistent": interval(0.82, 0.06),
    "longer": interval(0.66, 0.07),
    "people_longer": interval(0.53, 0.07),
    "longer_more": interval(0.13, 0.08),
    "length_slope": interval(0.22, 0.1),
    "warnings": ["It prefers the longer answer more often than people do."],
}


def _point(coefficient: float, kl: float, score: float) -> dict[str, Any]:
    return {
        "name": str(coefficient),
        "coefficient": coefficient,
        "kl": interval(kl, 0.1),
        "score": interval(score, 0.02),
    }


FRONTIER = {
    "kind": "frontier",
    "judge": "cafe",
    "reference": "sft",
    "prompts": 256,
    "families": [
        {"name": "ppo", "points": [_point(0.2, 1.0, 0.5), _point(0.05, 4.0, 0.7), _point(0.0, 16.0, 0.6)]},
        {"name": "dpo", "points": [_point(0.5, 0.49, 0.45), _point(0.1, 2.25, 0.6)]},
    ],
    "best_of_n": [
        {"n": n, "kl_bound": math.log(n) - (n - 1) / n, "kl": None, "score": interval(0.35 + 0.1 * math.log2(n), 0.02)}
        for n in (1, 2, 4, 8)
    ],
    "warnings": [],
}


def _curve(name: str, source: str, reach: float, a: float, b: float, form: str) -> dict[str, Any]:
    """Gold exactly on its fitted curve from 0.4 on; the proxy rises by a half a step of distance."""
    points = []
    for step in range(25):
        d = reach * step / 24
        slope = a - b * (d if form == "best of n" else math.log(d) if d else 0.0)
        points.append({"distance": d, "at": step, "proxy": 1.0 + 0.5 * d, "gold": 0.4 + d * slope})
    turn = a / (2 * b) if form == "best of n" else math.exp(a / b - 1)
    peak = a * a / (4 * b) if form == "best of n" else b * turn
    fit = {"form": form, "a": interval(a, 0.01), "b": interval(b, 0.01), "turn": interval(turn, 0.2), "start": 0.4}
    return {"name": name, "source": source, "points": points, "fit": {**fit, "peak": interval(peak, 0.01), "r2": 1.0}}


OVEROPTIMIZATION = {
    "kind": "overoptimization",
    "proxy": "reward",
    "gold": "cafe",
    "curves": [
        _curve("ppo, seed 0", "training", 3.0, 0.3, 0.2, "rl"),
        _curve("best of n", "best of n", 2.0, 0.4, 0.1, "best of n"),
    ],
    "warnings": ["two seeds are few."],
}

TASKS = {
    "kind": "tasks",
    "settings": {"temperature": 0.0, "max_new_tokens": 16},
    "clusters": [
        {
            "name": "arithmetic",
            "held_out": False,
            "tasks": [
                {
                    "name": "sums",
                    "metric": "exact match",
                    "n": 200,
                    "scores": {"base": interval(0.1, 0.04), "flan": interval(0.8, 0.05)},
                }
            ],
            "mean": {"base": interval(0.1, 0.04), "flan": interval(0.8, 0.05)},
        },
        {
            "name": "sorting",
            "held_out": True,
            "tasks": [
                {
                    "name": "letters",
                    "metric": "rank classification",
                    "n": 150,
                    "chance": 0.25,
                    "scores": {"base": interval(0.2, 0.04), "flan": interval(0.4, 0.05)},
                    "normalized": {"base": interval(-0.0667, 0.0533), "flan": interval(0.2, 0.0667)},
                }
            ],
            "mean": {"base": interval(0.2, 0.04), "flan": interval(0.4, 0.05)},
            "normalized": {"base": interval(-0.0667, 0.0533), "flan": interval(0.2, 0.0667)},
        },
    ],
    "averages": [
        {
            "name": "held out",
            "clusters": 1,
            "mean": {"base": interval(0.2, 0.04), "flan": interval(0.4, 0.05)},
            "normalized": {"base": interval(-0.0667, 0.0533), "flan": interval(0.2, 0.0667)},
        },
        {"name": "held in", "clusters": 1, "mean": {"base": interval(0.1, 0.04), "flan": interval(0.8, 0.05)}},
    ],
}

PASSES = {
    "kind": "passes",
    "data": "data/test.jsonl",
    "verifier": "number",
    "prompts": 200,
    "samples": 4,
    "sampling": {"temperature": 0.7, "max_new_tokens": 64, "seed": 0},
    "models": [
        {"name": "base", "pass": {"1": interval(0.1, 0.04), "4": interval(0.3, 0.05)}, "length": 20.0, "ended": 0.5},
        {
            "name": "star",
            "pass": {"1": interval(0.4, 0.05), "4": interval(0.62, 0.05)},
            "majority": interval(0.51, 0.05),
            "length": 12.2,
            "ended": 0.98,
        },
    ],
}

FAILURES = {
    "kind": "failures",
    "settings": {"probes": "failures", "form": "chat"},
    "models": ["base", "sft"],
    "failures": [
        {
            "kind": "facts",
            "name": "false fact preferred",
            "n": 40,
            "chance": 0.5,
            "values": {"base": interval(0.3, 0.1), "sft": interval(0.05, 0.04)},
            "differences": {"sft": interval(-0.25, 0.125)},
            "parts": [
                {"name": "space <b>", "n": 10, "values": {"base": interval(0.4, 0.2), "sft": interval(0.1, 0.1)}},
                {"name": "body", "n": 30, "values": {"base": interval(0.2, 0.1)}},
            ],
        },
        {
            "kind": "style",
            "name": "list-like",
            "n": 24,
            "values": {"sft": interval(0.96, 0.04)},
            "measures": [
                {
                    "name": "words of an answer",
                    "n": 24,
                    "values": {"base": interval(40.0, 5.0), "sft": interval(61.5, 5.0)},
                    "differences": {"sft": interval(21.5, 4.0)},
                }
            ],
            "ended": {"base": 0.9, "sft": 0.8},
        },
    ],
    "warnings": ["harmful has 3 probes: its intervals are rough, ask 20 or more."],
}

PERSONAL = {
    "kind": "personal",
    "data": "unseen.jsonl",
    "users": 200,
    "questions": 3200,
    "models": [
        {"name": "pooled", "how": "pooled", "given": [{"k": 0, "accuracy": interval(0.489, 0.02, n=200)}]},
        {
            "name": "reads",
            "how": "reads choices",
            "given": [
                {"k": 0, "accuracy": interval(0.56, 0.06, n=200)},
                {
                    "k": 4,
                    "accuracy": interval(0.97, 0.006, n=200),
                    "log_loss": interval(0.08, 0.01, n=200),
                    "groups": [
                        {"label": "<b>kind", "accuracy": interval(0.967, 0.01, n=110)},
                        {"label": "stern", "accuracy": interval(0.974, 0.01, n=90)},
                    ],
                },
            ],
        },
    ],
}

USERS = {
    "kind": "users",
    "data": "unseen.jsonl",
    "judge": "accord.worlds.cafe.tastes:prefers",
    "against": "sft",
    "users": 200,
    "questions": 800,
    "models": [
        {
            "name": "fspo",
            "how": "policy",
            "given": [
                {"k": 0, "win_rate": interval(0.51, 0.02, n=200), "characters": 60.0},
                {
                    "k": 4,
                    "win_rate": interval(0.83, 0.02, n=200),
                    "characters": 62.5,
                    "groups": [
                        {"label": "stern", "win_rate": interval(0.81, 0.03, n=90)},
                        {"label": "<b>kind", "win_rate": interval(0.85, 0.03, n=110)},
                    ],
                },
            ],
        },
        {
            "name": "sft, best of 16",
            "how": "best of n",
            "given": [{"k": 0, "win_rate": interval(0.95, 0.01, n=200), "characters": 70.0}],
        },
    ],
}

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
    "card": "h100",
    "card_memory": 80e9,
    "figures": [{"name": "bytes of a card", "value": 80e9, "source": "given"}],
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

SYNTHESIS = {
    "kind": "synthesis",
    "generator": "self-instruct",
    "model": "base/model",
    "seeds": 175,
    "proposed": 400,
    "accepted": 3,
    "rounds": 4,
    "instances": 4,
    "without_input": 1,
    "classification": 2,
    "similar": 0.7,
    "filters": [
        {"name": "length", "what": "too short", "instructions": 97, "share": interval(0.2425, 0.04), "instances": 0},
        {"name": "echo", "what": "all the same", "instructions": 0, "share": interval(0.0, 0.01), "instances": 5},
        {"name": "empty", "what": "nothing", "instructions": 0, "share": interval(0.0, 0.01), "instances": 0},
    ],
    "lengths": {"instruction": {"mean": 11.25, "low": 6, "median": 10, "high": 18}},
    "novelty": [0, 0, 1, 1, 0, 0, 1, 0, 0, 0],
    "novelty_mean": interval(0.412, 0.1),
    "highest": 0.667,
    "openings": [{"word": "write", "count": 2, "objects": {"story": 1, "$x$<b>": 1}}, {"word": "name", "count": 1}],
    "different_openings": 2,
    "examples": [{"instruction": HOSTILE, "input": "", "output": HOSTILE, "novelty": 0.25}],
    "warnings": ["3 rounds in a row accepted nothing: 3 instructions are accepted, fewer than were asked for."],
}

LEARNING = {
    "kind": "learning_curve",
    "model": "runs/sft/model",
    "verdict": "rises",
    "labels": 400,
    "prompts": 256,
    "repeats": 2,
    "points": [
        {"labels": 100, "accuracy": interval(0.65, 0.04), "runs": [0.64, 0.66]},
        {"labels": 200, "accuracy": interval(0.68, 0.03), "runs": [0.67, 0.69]},
        {"labels": 400, "accuracy": interval(0.7, 0.03), "runs": [0.7, 0.7]},
    ],
    "bought": interval(0.02, 0.01),
    "fit": {"a": interval(0.75, 0.04), "b": interval(1.0, 0.2), "c": interval(0.5, 0.2)},
    "line": [
        {"labels": 100, "accuracy": interval(0.65, 0.03)},
        {"labels": 800, "accuracy": interval(0.714645, 0.04)},
    ],
    "buys": [{"more": 400, "gain": interval(0.014, 0.008)}, {"more": 200, "gain": interval(0.009, 0.004)}],
    "reached": {"accuracy": 0.72, "labels": 1111, "low": 612, "high": None, "farthest": 4000},
    "warnings": ["3 rows that prefer no answer are left out."],
}

CRITIQUE = {
    "kind": "critique",
    "model": "base/model",
    "constitution": "mine.yaml",
    "principles": [
        {"name": "harmless <b>", "drawn": 60, "gains": {"cafe": interval(0.12, 0.04)}},
        {"name": "honest", "drawn": 40},
    ],
    "prompts": 100,
    "demonstrations": 90,
    "pairs": 70,
    "revisions": [
        {"number": 0, "faults": {"cut": 2}, "words": interval(21.5, 2.0), "scores": {"cafe": interval(0.4, 0.05)}},
        {
            "number": 1,
            "changed": 70,
            "unchanged": 8,
            "faults": {"cut": 20, "echo": 2},
            "cut_critiques": 3,
            "words": interval(30.2, 2.0),
            "scores": {"cafe": interval(0.55, 0.05)},
            "gains": {"cafe": interval(0.15, 0.04)},
        },
    ],
    "examples": [
        {
            "prompt": HOSTILE,
            "answers": [HOSTILE, HOSTILE],
            "principles": ["harmless <b>"],
            "critiques": [HOSTILE],
            "faults": ["", ""],
        }
    ],
}

EVERYTHING = {
    "verdict": MODELS,
    "trial": TRIAL,
    "labels": AGREEMENT,
    "beside": JUDGE,
    "frontier": FRONTIER,
    "turn": OVEROPTIMIZATION,
    "clusters": TASKS,
    "passes": PASSES,
    "failing": FAILURES,
    "users": PERSONAL,
    "served": USERS,
    "grid": SWEEP,
    "log": LOG,
    "plan": PLANNED,
    "made": SYNTHESIS,
    "learned": LEARNING,
    "revised": CRITIQUE,
}

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


def write_everything(folder: Path) -> Path:
    """A pipeline with a watched run and an evaluation of every kind."""
    write_watched(folder / "ppo", ALARMS)
    stages = [{"name": "ppo", "command": "ppo", "seconds": 110.0, "inputs": {"model": "smollm2"}}]
    for name, evaluation in EVERYTHING.items():
        (folder / name).mkdir()
        (folder / name / "evaluation.json").write_text(json.dumps(evaluation))
        stages.append(
            {"name": name, "command": f"evaluate {evaluation['kind']}", "seconds": 3.0, "inputs": {"models": ["ppo"]}}
        )
    (folder / "pipeline.json").write_text(json.dumps({"name": "everything", "seconds": 130.0, "stages": stages}))
    return folder
