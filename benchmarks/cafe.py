"""What benchmarks of feedback in the café start from, and share.

A fine-tuned model of benchmarks/overoptimization.yaml and its answers, the gold reward's verdicts on them, and reward
models fitted to what others say. What has been run is taken up, not run again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from overoptimization import REWARD

import accord
from accord.data import load_data
from accord.evaluate import evaluate_comparisons
from accord.evaluate.statistics import mean_interval
from accord.methods import RewardModel
from accord.records import Preference

HELD_OUT = 3000
"""The gold reward's verdicts that nothing is trained on."""


def started(out: Path, seed: int) -> Path:
    """The folder of a seed, with the stages that all arms share in `shared`."""
    folder = out / f"seed-{seed}"
    accord.run_pipeline(Path(__file__).with_name("overoptimization.yaml"), folder / "shared", {"seed": seed})
    return folder


def judged(folder: Path) -> list[Preference]:
    """The gold reward's preferences, those held out the last; others of their prompts are left out."""
    file = folder / "gold.jsonl"
    if not file.exists():
        samples = folder / "shared" / "samples" / "samples.jsonl"
        accord.label(str(samples), str(file), judge="cafe", pairs=4)
    rows = load_data(str(file))
    prompts = {row.prompt for row in rows[-HELD_OUT:]}
    return [row for row in rows[:-HELD_OUT] if row.prompt not in prompts] + rows[-HELD_OUT:]


def fitted(folder: Path, data: Path, out: Path, seed: int) -> Path:
    """The reward model of the comparisons in a file, on the fine-tuned model of a seed's folder."""
    if not (out / "model").exists():
        shutil.rmtree(out, ignore_errors=True)
        settings = {name: value for name, value in REWARD.items() if name not in ("command", "model", "data")}
        RewardModel(**settings, seed=seed).fit(str(folder / "shared/sft/model"), str(data), out=out)
    return out / "model"


def on_trial(model: Path, held_out: Path, out: Path, limit: int | None = None) -> dict[str, Any]:
    """What `accord evaluate comparisons` finds of a reward model or a judge on verdicts held out."""
    if not (out / "evaluation.json").exists():
        evaluate_comparisons(str(held_out), str(out), reward=str(model), probes=0, limit=limit)
    found: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    return found


def between(values: list[float]) -> str:
    """The mean with Student's interval, where there are seeds to tell."""
    return f"{mean_interval(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"
