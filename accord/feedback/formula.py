"""Names of rewards and judges: the formulas they are written in, and the kind of thing that each name stands for.

SPEC = TERM [ + TERM ...]      TERM = [WEIGHT * ]NAME or [WEIGHT * ]mean(NAME, NAME ...) or min(NAME, NAME ...)
NAME = a verifier (exact, number, regex:PATTERN, math, reasoning-gym, constraints, truthful), a Python function
       (module:function or FILE.py:function), a server (http://...), a small world (cafe, counter, sums), for its gold
       reward, a reward model (a folder, or its name on the Hugging Face Hub), or beats:JUDGE, a judge's comparison with
       the row's completion (beats@COLUMN:JUDGE: with that column of the row)

A judge is named by any of these, by a file of people's comparisons, or as a language model: ai:MODEL, ai:MODEL@URL, or
a YAML file (`accord.feedback.ai`). Nothing is loaded here; `accord.feedback.named` does that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

from accord.errors import InputError, nearest

Kind: TypeAlias = Literal["verifier", "function", "server", "world", "ensemble", "beats", "ai", "model"]

VERIFIERS = ("exact", "number", "regex", "math", "reasoning-gym", "constraints", "truthful")
"""Names of verifiers."""
WORLDS = {
    "cafe": "accord.worlds.cafe:gold",
    "counter": "accord.worlds.counter:gold",
    "sums": "accord.worlds.sums:gold",
}
"""Small worlds with known truth, and the gold reward of each: a function of a prompt and a completion."""
GUESTS = {"counter": "accord.worlds.counter:guest"}
"""Small worlds with a simulated user, and that user's function."""
TASTES = "accord.worlds.cafe.tastes"
"""The module of a small world's users: the features their choices depend on, and how to infer them."""
AI = "ai:"
"""The prefix of a language model's name as a judge."""

_TERM = re.compile(r"(?:(?P<weight>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*\*\s*)?(?P<name>.+)", re.DOTALL)
_ENSEMBLE = re.compile(r"(?P<kind>mean|min)\((?P<members>.*)\)", re.DOTALL)
_BEATS = re.compile(r"beats(?:@(?P<column>[^:]*))?:(?P<judge>.*)", re.DOTALL)
_FUNCTION = re.compile(r"([A-Za-z_][\w.]*|.+\.py):[A-Za-z_]\w*")


def terms(spec: str) -> list[tuple[float | None, str]]:
    """The weights and names of a formula, None for a weight not written; an existing file's name is not a formula.

    Raises InputError where a term is empty.
    """
    parts = [spec] if os.path.exists(spec) else [part.strip() for part in spec.split(" + ")]
    matches = [_TERM.fullmatch(part) for part in parts]
    if not all(matches):
        raise InputError(f"the reward {spec!r} has an empty term; write WEIGHT * NAME + WEIGHT * NAME")
    return [(None if m["weight"] is None else float(m["weight"]), m["name"]) for m in matches if m]


def ensemble_of(name: str) -> tuple[str, list[str]]:
    """How an ensemble combines its members (mean or min), and the members' names.

    Raises InputError where it has fewer than two members, or one is repeated or has no name, and ValueError where the
    name is not an ensemble's.
    """
    match = _ENSEMBLE.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not an ensemble")
    members = [member.strip() for member in match["members"].split(", ")]
    if len(members) < 2 or not all(members) or len(set(members)) < len(members):
        raise InputError(f"the ensemble {name!r} needs two or more different rewards, as in {match['kind']}(A, B).")
    return match["kind"], members


def beats_of(name: str) -> tuple[str, str]:
    """The column and the judge of `beats:JUDGE` or `beats@COLUMN:JUDGE`; the default column is completion.

    Raises InputError where the column or the judge is missing, and ValueError where the name is not such a reward.
    """
    match = _BEATS.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not a reward by a judge")
    column, judge = match["column"], match["judge"].strip()
    if column == "" or not judge:
        raise InputError(f"{name!r} names no {'judge' if column != '' else 'column'}; write beats@COLUMN:JUDGE.")
    return column or "completion", judge


def names_in(spec: str) -> Iterator[str]:
    """All names in a formula, with an ensemble's members and a reward's judge; raises as the functions above do."""
    for _, term in terms(spec):
        for name in ensemble_of(term)[1] if kind_of(term) == "ensemble" else [term]:
            yield beats_of(name)[1] if kind_of(name) == "beats" else name


def kind_of(name: str) -> Kind:
    """The kind of thing that a single name stands for; a model where nothing else fits."""
    if _ENSEMBLE.fullmatch(name):
        return "ensemble"
    if _BEATS.fullmatch(name) and not os.path.exists(name):
        return "beats"
    if name.startswith(AI) or Path(name).suffix in {".yaml", ".yml"}:
        return "ai"
    if name in WORLDS:
        return "world"
    if re.match(r"\w+://", name):
        return "server"
    if re.split("[@:]", name)[0] in VERIFIERS:
        return "verifier"
    return "function" if _FUNCTION.fullmatch(name) and not os.path.exists(name) else "model"


def require_model(name: str) -> None:
    """Raise InputError, with a similar name, where a name of kind "model" cannot be a model's."""
    if "/" in name or name == "smollm2" or os.path.exists(name):
        return
    hint = nearest(name, [*VERIFIERS, *WORLDS]) or f"; the verifiers are {', '.join(VERIFIERS)}"
    if " - " in name:
        hint = "; for a difference write a negative weight, as A + -0.5 * B"
    raise InputError(f"{name!r} is neither a verifier, nor module:function, nor a URL, nor the folder of a model{hint}")


def function_of_user(user: str) -> str:
    """The module:function of a simulated user's name. Raises InputError where the name is unknown."""
    if user not in GUESTS and ":" not in user:
        raise InputError(f"there is no simulated user {user!r}: give module:function, or {' or '.join(GUESTS)}.")
    return GUESTS.get(user, user)
