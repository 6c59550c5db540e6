"""The evidence: one subject a question, each with the function that `accord evaluate QUESTION` calls.

Each of these writes evaluation.json, prints its numbers, and returns them as a class of `accord.results`.
"""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "agreement": ["evaluate_agreement"],
        "comparisons": ["evaluate_comparisons"],
        "frontier": ["evaluate_frontier"],
        "models": ["evaluate_models"],
        "overoptimization": ["evaluate_overoptimization"],
        "passes": ["evaluate_passes"],
        "tasks": ["evaluate_tasks"],
    },
)

if TYPE_CHECKING:
    from accord.evaluate.agreement import evaluate_agreement as evaluate_agreement
    from accord.evaluate.comparisons import evaluate_comparisons as evaluate_comparisons
    from accord.evaluate.frontier import evaluate_frontier as evaluate_frontier
    from accord.evaluate.models import evaluate_models as evaluate_models
    from accord.evaluate.overoptimization import evaluate_overoptimization as evaluate_overoptimization
    from accord.evaluate.passes import evaluate_passes as evaluate_passes
    from accord.evaluate.tasks import evaluate_tasks as evaluate_tasks
