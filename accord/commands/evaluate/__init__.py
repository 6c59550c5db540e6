"""`accord evaluate QUESTION`: what is measured, a file a question; each leaves evaluation.json in its folder."""

from accord.commands.evaluate.agreement import agreement
from accord.commands.evaluate.comparisons import comparisons
from accord.commands.evaluate.frontier import frontier
from accord.commands.evaluate.models import models
from accord.commands.evaluate.overoptimisation import overoptimisation
from accord.commands.evaluate.tasks import tasks

__all__ = ["agreement", "comparisons", "frontier", "models", "overoptimisation", "tasks"]
