"""Models compared, the frontier, and overoptimization."""

from __future__ import annotations

import math
from typing import Any

from tests.report.folders import HOSTILE, VERDICT, interval, model


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
