"""Shared by the benchmarks of feedback in the café world.

A fine-tuned model and its samples, from benchmarks/overoptimization.yaml; the gold reward's preferences between these
samples; and reward models fitted to noisier labels of them. Finished stages are reused.
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
"""How many of the gold reward's preferences are held out of all training."""


def prepare_seed(out: Path, seed: int) -> Path:
    """Run the stages that all arms of a seed share, in `shared` of the folder that is returned."""
    folder = out / f"seed-{seed}"
    accord.run_pipeline(Path(__file__).with_name("overoptimization.yaml"), folder / "shared", {"seed": seed})
    return folder


def gold_preferences(folder: Path) -> list[Preference]:
    """The gold reward's preferences; the last `HELD_OUT` are held out, and no other row has one of their prompts."""
    file = folder / "gold.jsonl"
    if not file.exists():
        samples = folder / "shared" / "samples" / "samples.jsonl"
        accord.label(str(samples), str(file), judge="cafe", pairs=4)
    rows = load_data(str(file))
    prompts = {row.prompt for row in rows[-HELD_OUT:]}
    return [row for row in rows[:-HELD_OUT] if row.prompt not in prompts] + rows[-HELD_OUT:]


def fit_reward_model(folder: Path, data: Path, out: Path, seed: int) -> Path:
    """Fit a reward model to a file of comparisons, starting from the seed's fine-tuned model."""
    if not (out / "model").exists():
        shutil.rmtree(out, ignore_errors=True)
        settings = {name: value for name, value in REWARD.items() if name not in ("command", "model", "data")}
        RewardModel(**settings, seed=seed).fit(str(folder / "shared/sft/model"), str(data), out=out)
    return out / "model"


def evaluate_reward(model: Path, held_out: Path, out: Path, limit: int | None = None) -> dict[str, Any]:
    """The result of `accord evaluate comparisons` for a reward model or a judge on held-out comparisons."""
    if not (out / "evaluation.json").exists():
        evaluate_comparisons(str(held_out), str(out), reward=str(model), probes=0, limit=limit)
    found: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    return found


def with_interval(values: list[float]) -> str:
    """The mean over seeds with Student's interval; the value alone for one seed."""
    return f"{mean_interval(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"
