"""`accord world`: the files of a small world with known truth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from accord.engine.config import require_seed
from accord.errors import InputError
from accord.evaluate.options import checked_by
from accord.outputs import require_folder

MOST_CHOICES = 10_000_000
"""The most choices of all users together, a row each."""

WIDEST = 8192
"""The widest model of a small world: with the café's layers it has about ten billion parameters."""


def _check(name: str, seed: int, width: int | None, tastes: str | None, users: int | None, choices: int | None) -> None:
    """Raise InputError where an option is for another world, or too small or large."""
    require_seed(seed)
    if name != "cafe" and tastes is not None:
        raise InputError(f"--tastes is for the world cafe; {name} has no users.")
    given = {option: count for option, count in (("users", users), ("choices", choices)) if count is not None}
    for option, count in given.items():
        if tastes is None:
            raise InputError(f"--{option} is for users with tastes of their own: give --tastes.")
        if count < 1:
            raise InputError(f"--{option} must be at least 1, not {count}.")
    if math.prod(given.values()) > MOST_CHOICES:
        raise InputError(f"--users times --choices must be at most {MOST_CHOICES:,}; give fewer of either.")
    if width is not None and width > WIDEST:
        raise InputError(f"--width must be at most {WIDEST:,}, not {width:,}.")
    if name == "sums" and width is not None:
        raise InputError(f"--width is for the worlds cafe, counter, facts and shelf; the model of {name} has one size.")


@checked_by(_check)
def world(
    out: str,
    *,
    name: Literal["cafe", "counter", "facts", "shelf", "sums"] = "cafe",
    seed: int = 0,
    width: int | None = None,
    tastes: Literal["opposite", "overlapping", "groups", "directions"] | None = None,
    users: int | None = None,
    choices: int | None = None,
) -> Path:
    """Write a small world: demonstrations, prompts to train on and to evaluate on, and an untrained model.

    Args:
        out: the folder to write.
        name: which world: cafe (questions about dishes, with a gold reward), counter (conversations about prices, with
            a gold reward for every turn and a simulated guest), facts (questions about people, half of which no text
            answers, with probes), shelf (92 tasks on tables of things, in 16 clusters) or sums (addition with a
            scratchpad).
        seed: seed of everything drawn at random.
        width: width of the untrained model: for cafe a multiple of 12 (default: 192, 1.1 M parameters), for counter,
            facts and shelf a multiple of 8 (default: 96, 0.5 M parameters).
        tastes: for cafe, also write the choices of users whose tastes differ (comparisons.jsonl) and of a quarter as
            many held-out users (comparisons-unseen.jsonl). Tastes are opposite, overlapping, in four groups, or in all
            directions of three features.
        users: the number of users in comparisons.jsonl (default: 800).
        choices: choices per user (default: 24).

    Raises:
        InputError: no model has that width, or an option is for another world.
    """
    _check(name, seed, width, tastes, users, choices)
    require_folder(out)
    from accord.worlds import cafe, counter, facts, shelf, sums

    if name == "sums":
        sums.write(Path(out), seed)
    elif name == "cafe":
        given = {name: count for name, count in (("users", users), ("choices", choices)) if count is not None}
        guests = cafe.Guests(tastes, **given) if tastes is not None else None
        cafe.write(Path(out), seed, cafe.WIDTH if width is None else width, guests)
    else:
        chosen = {"counter": counter, "facts": facts, "shelf": shelf}[name]
        chosen.write(Path(out), seed, chosen.WIDTH if width is None else width)
    return Path(out)
