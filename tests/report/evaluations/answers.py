"""What models answer: tasks, passes, failures, and the data that they make."""

from __future__ import annotations

from tests.report.folders import HOSTILE, interval

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
                    "name": "words per answer",
                    "n": 24,
                    "values": {"base": interval(40.0, 5.0), "sft": interval(61.5, 5.0)},
                    "differences": {"sft": interval(21.5, 4.0)},
                }
            ],
            "ended": {"base": 0.9, "sft": 0.8},
        },
    ],
    "warnings": ["harmful has only 3 probes: its intervals are rough; ask 20 or more."],
}

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
