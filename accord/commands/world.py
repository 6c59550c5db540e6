"""`accord world`: the files of a small world with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from accord.errors import InputError
from accord.worlds import cafe, sums


def world(out: str, *, name: Literal["cafe", "sums"] = "cafe", seed: int = 0, width: int | None = None) -> Path:
    """Write a small world: demonstrations, prompts to train on and to evaluate on, and an untrained model.

    Args:
        out: the folder to write.
        name: which world: cafe (questions about dishes, with a gold reward) or sums (addition on a scratchpad).
        seed: decides everything that is drawn at random.
        width: of the café's untrained model, a multiple of 12; 192 (1.1 M parameters) unless given.

    Raises:
        InputError: no model has that width.
    """
    if name == "cafe":
        cafe.write(Path(out), seed, cafe.WIDTH if width is None else width)
    elif width is not None:
        raise InputError(f"--width is for the world cafe; the model of {name} has one size.")
    else:
        sums.write(Path(out), seed)
    return Path(out)
