"""accord aligns language models with human preferences, end to end."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accord.commands.label import label
    from accord.commands.sample import sample
    from accord.commands.score import score
    from accord.data import load_data
    from accord.engine.models import load_comparer, load_model, load_scorer
    from accord.pipeline import run_pipeline
    from accord.report import write_report

__version__ = "0.1.0"

_PLACES = {
    "label": "accord.commands.label",
    "load_comparer": "accord.engine.models",
    "load_data": "accord.data",
    "load_model": "accord.engine.models",
    "load_scorer": "accord.engine.models",
    "run_pipeline": "accord.pipeline",
    "sample": "accord.commands.sample",
    "score": "accord.commands.score",
    "write_report": "accord.report",
}

__all__ = [
    "label",
    "load_comparer",
    "load_data",
    "load_model",
    "load_scorer",
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
