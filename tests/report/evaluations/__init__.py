"""Evaluations of every kind as `accord evaluate` writes them, small and made by formula, to test the report."""

from __future__ import annotations

import json
from pathlib import Path

from tests.report.evaluations.answers import CRITIQUE, FAILURES, PASSES, SYNTHESIS, TASKS
from tests.report.evaluations.feedback import AGREEMENT, JUDGE, LEARNING, PERSONAL, TRIAL, USERS
from tests.report.evaluations.models import FRONTIER, MODELS, OVEROPTIMIZATION
from tests.report.evaluations.runs import ALARMS, LOG, PLANNED, SWEEP, write_watched

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
