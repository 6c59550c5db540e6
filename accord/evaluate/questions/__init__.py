"""`accord evaluate QUESTION`: what is measured, a file a question; each leaves evaluation.json in its folder."""

from __future__ import annotations

from accord.evaluate.questions.agreement import agreement
from accord.evaluate.questions.comparisons import comparisons
from accord.evaluate.questions.frontier import frontier
from accord.evaluate.questions.models import models
from accord.evaluate.questions.overoptimization import overoptimization
from accord.evaluate.questions.tasks import tasks

__all__ = ["agreement", "comparisons", "frontier", "models", "overoptimization", "tasks"]
