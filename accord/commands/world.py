"""`accord world`: the files of a small world with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from accord.worlds import cafe, sums


def world(out: str, *, name: Literal["cafe", "sums"] = "cafe", seed: int = 0) -> Path:
    """Write a small world: demonstrations, prompts to train on and to evaluate on, and an untrained model.

    Args:
        out: the folder to write.
        name: which world: cafe (questions about dishes, with a gold reward) or sums (addition on a scratchpad).
        seed: decides everything that is drawn at random.
    """
    {"cafe": cafe.write, "sums": sums.write}[name](Path(out), seed)
    return Path(out)
