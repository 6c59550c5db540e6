"""accord aligns language models with human preferences, end to end."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accord.cli.label import label, score
    from accord.cli.pipeline import run_pipeline
    from accord.cli.sample import sample
    from accord.data import load_data
    from accord.engine.load import load_model, load_preference_model, load_reward_model
    from accord.report import write_report

__version__ = "0.1.0"

_PLACES = {
    "label": "accord.cli.label",
    "load_preference_model": "accord.engine.load",
    "load_data": "accord.data",
    "load_model": "accord.engine.load",
    "load_reward_model": "accord.engine.load",
    "run_pipeline": "accord.cli.pipeline",
    "sample": "accord.cli.sample",
    "score": "accord.cli.label",
    "write_report": "accord.report",
}

__all__ = [
    "label",
    "load_data",
    "load_model",
    "load_preference_model",
    "load_reward_model",
    "run_pipeline",
    "sample",
    "score",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Names are imported when first used: `accord --help` need not wait for torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'accord' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
