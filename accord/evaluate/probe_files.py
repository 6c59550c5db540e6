"""Files of failure probes: a YAML mapping from kinds to lists of probes.

    facts:
      - prompt: Which city is the capital of Australia?
        right: Canberra.
        wrong: Sydney.                     # or a list of wrong answers
        about: geography                   # a subject, shown separately in the tables
    instructions:
      - prompt: Say good morning in exactly three words.
        constraints: {words: 3}            # accord.feedback.constraints

`KEYS` has the keys of a probe of each kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from accord.errors import InputError, located, nearest
from accord.feedback.constraints import Constraint, parse
from accord.parsing import read_yaml

OWN = "failures"
"""The name of accord's own probes."""
FOLDER = Path(__file__).parents[1] / "data" / "probes" / OWN
"""Their folder, one file per kind."""

_CHOICE = ("prompt", "right", "wrong")
KEYS: dict[str, tuple[str, ...]] = {
    "instructions": ("prompt", "constraints"),
    "facts": _CHOICE,
    "premises": _CHOICE,
    "unknowable": _CHOICE,
    "withheld": _CHOICE,
    "harmful": ("prompt",),
    "harmless": ("prompt",),
    "stereotypes": ("stereotype", "reversed"),
    "sycophancy": (*_CHOICE, "opinion"),
    "knowledge": ("prompt", "right"),
    "style": ("prompt",),
}
"""The required keys of a probe of each kind; `about` is optional in all."""
MAY = {"knowledge": ("wrong",)}
"""Further optional keys by kind."""


@dataclass(frozen=True, slots=True)
class ProbeItem:
    """One probe: its place for messages, its prompt, and what else its kind needs.

    `options` are answers to choose from or to recognize, the right one first; for stereotypes, all sentences, those
    with the stereotype first.
    """

    kind: str
    where: str
    prompt: str = ""
    options: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    opinion: str = ""
    about: str = ""


def read_probes(names: str, kinds: str | None = None, limit: int | None = None) -> dict[str, list[ProbeItem]]:
    """The probes in comma-separated files, by kind; `failures` names accord's own.

    `kinds` are the comma-separated kinds wanted (default: all); of each at most the first `limit` probes are taken.
    Raises InputError where a file cannot be read, a kind or key is unknown, or a probe lacks what its kind needs.
    """
    require_limit(limit)
    wanted = kinds_named(kinds)
    by_kind: dict[str, list[ProbeItem]] = {kind: [] for kind in KEYS if kind in wanted}
    for name in files_named(names):
        for file in sorted(FOLDER.glob("*.yaml")) if name == OWN else [Path(name)]:
            for kind, items in _items(file).items():
                if kind in by_kind:
                    by_kind[kind] += items
    for items in by_kind.values():
        _require_once(items)
    probes = {kind: items[:limit] for kind, items in by_kind.items() if items}
    missing = [kind for kind in by_kind if kind not in probes]
    if not probes or (missing and kinds is not None):
        raise InputError(f"{names} has no probes of the kind {', '.join(missing)}; leave it out of --kinds.")
    return probes


def require_limit(limit: int | None) -> None:
    """Raise InputError where a limit on probes is below 1."""
    if limit is not None and limit < 1:
        raise InputError(f"--limit must be at least 1, not {limit}.")


def kinds_named(kinds: str | None) -> list[str]:
    """The comma-separated kinds, by default all. Raises InputError where one is unknown, or there is none."""
    wanted = [kind.strip() for kind in kinds.split(",") if kind.strip()] if kinds is not None else list(KEYS)
    if not wanted:
        raise InputError(f"--kinds names none; the kinds are {', '.join(KEYS)}.")
    for kind in wanted:
        _require_kind(kind)
    return wanted


def files_named(names: str) -> list[str]:
    """The comma-separated names of files. Raises InputError where one occurs twice."""
    files = [part.strip() for part in names.split(",")]
    for number, name in enumerate(files):
        if name in files[:number]:
            raise InputError(f"--probes names {name} twice; name it once.")
    return files


def _require_once(items: Sequence[ProbeItem]) -> None:
    """Raise InputError where a probe occurs twice and would count twice."""
    seen: dict[ProbeItem, str] = {}
    for item in items:
        first = seen.setdefault(replace(item, where="", about=""), item.where)
        if first != item.where:
            raise InputError(f"{item.where} is the same as {first}: leave one of them out.")


def _require_kind(kind: str) -> None:
    if kind not in KEYS:
        raise InputError(f"there is no kind of probes {kind!r}{nearest(kind, KEYS)}; the kinds are {', '.join(KEYS)}.")


def _items(file: Path) -> dict[str, list[ProbeItem]]:
    contents = read_yaml(file, "the file of probes")
    if not isinstance(contents, Mapping) or not contents:
        raise InputError(
            f"{file} must hold kinds of probes, each with a list of them; the kinds are {', '.join(KEYS)}."
        )
    by_kind: dict[str, list[ProbeItem]] = {}
    for kind, items in contents.items():
        with located(f"{file}: "):
            _require_kind(str(kind))
            if not isinstance(items, list) or not items:
                raise InputError(f"{kind} must hold a list of probes.")
        by_kind[kind] = []
        for number, item in enumerate(items, start=1):
            where = f"{file}, {kind}, probe {number}"
            with located(f"{where}: "):
                by_kind[kind].append(_item(kind, where, item))
    return by_kind


def _item(kind: str, where: str, entry: Any) -> ProbeItem:
    keys, may = KEYS[kind], MAY.get(kind, ())
    if not isinstance(entry, Mapping):
        raise InputError(f"a probe is a mapping with {', '.join(keys)}, not {entry!r}.")
    for key in entry:
        if key not in (*keys, *may, "about"):
            known = ", ".join(keys) + "".join(f", and may have {name}" for name in may)
            raise InputError(f"unknown key {key!r}{nearest(str(key), (*keys, *may))}; a probe of {kind} has {known}.")
    for key in keys:
        if entry.get(key) is None:
            raise InputError(f"the key {key!r} is missing; a probe of {kind} has {', '.join(keys)}.")
    checks = entry.get("constraints")
    empty = [name for name, value in checks.items() if value is None] if isinstance(checks, Mapping) else []
    if empty:  # accord.feedback.constraints skips empty ones, which Parquet files have
        raise InputError(f"the constraint {empty[0]!r} is empty: give its value, or leave it out.")
    options: tuple[str, ...] = ()
    if "right" in keys:
        options = (_text(entry, "right"), *(_texts(entry, "wrong") if "wrong" in entry else ()))
        if len(set(options)) < len(options):
            raise InputError(f"the options must be different texts, not {', '.join(options)}.")
    if "stereotype" in keys:
        stereotype, other = _texts(entry, "stereotype"), _texts(entry, "reversed")
        if len(stereotype) != len(other):
            raise InputError(f"'stereotype' has {len(stereotype)} and 'reversed' {len(other)} sentences: give as many.")
        options = stereotype + other
    return ProbeItem(
        kind=kind,
        where=where,
        prompt=_text(entry, "prompt") if "prompt" in keys else "",
        options=options,
        constraints=parse(entry["constraints"]) if "constraints" in keys else (),
        opinion=_text(entry, "opinion") if "opinion" in keys else "",
        about=_text(entry, "about") if "about" in entry else "",
    )


def _text(entry: Mapping[str, Any], key: str) -> str:
    return _checked(entry[key], key)


def _texts(entry: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The text or texts under a key."""
    values: Sequence[Any] = entry[key] if isinstance(entry[key], list) else [entry[key]]
    if not values:
        raise InputError(f"{key!r} is empty.")
    return tuple(_checked(value, key) for value in values)


def _checked(value: Any, key: str) -> str:
    is_text = isinstance(value, str) and bool(value.strip())
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if not (is_text or is_number):
        raise InputError(f"{key!r} must be text, in quotes where YAML reads it otherwise, not {value!r}.")
    return str(value).strip()
