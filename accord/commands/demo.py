"""`accord demo`: the whole loop in a small world, from random weights to a report."""

from __future__ import annotations

from pathlib import Path

import accord
from accord.pipeline import run_pipeline


def demo(*, out: str = "runs/demo", seed: int = 0) -> Path:
    """From nothing to an aligned model: pretraining, fine-tuning, comparisons, reward model, PPO, DPO, evaluation.

    Everything happens in a small world whose true reward is known, so the table at the end says what was really gained.
    It runs the recipe recipes/cafe.yaml, takes a few minutes on two cores, and skips what it has done before.

    Args:
        out: the folder for everything, the report included.
        seed: decides everything that is drawn at random.
    """
    return run_pipeline(packaged("cafe"), out, {"seed": seed})


def packaged(name: str) -> Path:
    """A recipe that comes with accord: inside the installed package, or beside it in a checkout."""
    home = Path(accord.__file__).parent
    places = [folder / "recipes" / f"{name}.yaml" for folder in (home, home.parent)]
    return next(place for place in places if place.exists())
