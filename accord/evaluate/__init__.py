"""Evaluations, one subject per file; `accord evaluate QUESTION` calls the function `evaluate_QUESTION`.

Each function writes evaluation.json, prints its numbers, and returns them as a class of `accord.results`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
