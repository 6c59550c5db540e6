"""Who says what is better, and how far: rewards on trial, annotators, judges, users, and what more labels would buy."""

from __future__ import annotations

from tests.report.folders import interval

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
    "warnings": ["The judge prefers the longer answer more often than people do."],
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
