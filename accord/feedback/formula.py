"""What rewards and judges are called: what a formula refers to, and what sort of thing each of its names stands for.

SPEC = TERM [ + TERM ...]      TERM = [WEIGHT * ]NAME or [WEIGHT * ]mean(NAME, NAME ...) or min(NAME, NAME ...)
NAME = a verifier (exact, number, regex:PATTERN, math, reasoning-gym, constraints, truthful), a Python function
       (module:function or FILE.py:function), a server (http://...), a small world (cafe, counter, sums), whose gold
       reward it is, or a reward model (a folder, or its name on the Hugging Face Hub), or beats:JUDGE, a judge's
       comparison with the row's completion (beats@COLUMN:JUDGE with the row's column of that name)

A judge is named by any of these, by a file of people's comparisons, or as a language model that is asked: ai:MODEL,
ai:MODEL@URL, or a YAML file (`accord.feedback.ai`). Nothing is loaded here; `accord.feedback.named` does that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

from accord.errors import InputError

Kind: TypeAlias = Literal["verifier", "function", "server", "world", "ensemble", "beats", "ai", "model"]

VERIFIERS = ("exact", "number", "regex", "math", "reasoning-gym", "constraints", "truthful")
"""What verifiers are called."""
WORLDS = {
    "cafe": "accord.worlds.cafe:gold",
    "counter": "accord.worlds.counter:gold",
    "sums": "accord.worlds.sums:gold",
}
"""Small worlds with known truth, and where each has its gold reward: a function of a prompt and a completion."""
GUESTS = {"counter": "accord.worlds.counter:guest"}
"""Small worlds whose users go on with conversations, and where each has one."""
TASTES = "accord.worlds.cafe.tastes"
"""Where a small world knows its users: what their choices differ in, and what can be known of them by those."""
AI = "ai:"
"""What the name of a language model that judges begins with."""

_TERM = re.compile(r"(?:(?P<weight>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*\*\s*)?(?P<name>.+)", re.DOTALL)
_ENSEMBLE = re.compile(r"(?P<kind>mean|min)\((?P<members>.*)\)", re.DOTALL)
_BEATS = re.compile(r"beats(?:@(?P<column>[^:]*))?:(?P<judge>.*)", re.DOTALL)
_FUNCTION = re.compile(r"([A-Za-z_][\w.]*|.+\.py):[A-Za-z_]\w*")


def terms(spec: str) -> list[tuple[float | None, str]]:
    """The weights and names of a formula, None for a weight that is not written; a file's name is never a formula.

    Raises InputError where a term is empty.
    """
    parts = [spec] if os.path.exists(spec) else [part.strip() for part in spec.split(" + ")]
    matches = [_TERM.fullmatch(part) for part in parts]
    if not all(matches):
        raise InputError(f"the reward {spec!r} has an empty term; write WEIGHT * NAME + WEIGHT * NAME")
    return [(None if m["weight"] is None else float(m["weight"]), m["name"]) for m in matches if m]


def ensemble_of(name: str) -> tuple[str, list[str]]:
    """How an ensemble combines its members (mean or min), and what they are called.

    Raises InputError where it has fewer than two members, or one of them twice or without a name, and ValueError where
    the name is none of an ensemble.
    """
    match = _ENSEMBLE.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no ensemble")
    members = [member.strip() for member in match["members"].split(", ")]
    if len(members) < 2 or not all(members) or len(set(members)) < len(members):
        raise InputError(f"the ensemble {name!r} needs two or more different rewards, as in {match['kind']}(A, B).")
    return match["kind"], members


def beats_of(name: str) -> tuple[str, str]:
    """The column and the judge of `beats:JUDGE` or `beats@COLUMN:JUDGE`; the column is completion where none is named.

    Raises InputError where the column or the judge has no name, and ValueError where the name is no such reward.
    """
    match = _BEATS.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no reward by a judge")
    column, judge = match["column"], match["judge"].strip()
    if column == "" or not judge:
        raise InputError(f"{name!r} names no {'judge' if column != '' else 'column'}; write beats@COLUMN:JUDGE.")
    return column or "completion", judge


def names_in(spec: str) -> Iterator[str]:
    """All that a formula refers to, an ensemble's members and a reward's judge among them; raises as the others do."""
    for _, term in terms(spec):
        for name in ensemble_of(term)[1] if kind_of(term) == "ensemble" else [term]:
            yield beats_of(name)[1] if kind_of(name) == "beats" else name


def kind_of(name: str) -> Kind:
    """What sort of thing a single name stands for; what looks like nothing else is taken for a model."""
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
