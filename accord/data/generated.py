"""Rows that a program makes up: the data sets of reasoning-gym by name, through the `verify` extra."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl

import yaml

from accord.errors import InputError

GENERATED = "reasoning-gym:"
"""What the name of such a data set begins with."""


def generated(source: str) -> Iterator[Mapping[str, Any]]:
    """The rows of `reasoning-gym:NAME?size=200&seed=1`: a question, its answer, and metadata that its scorer reads.

    What follows the question mark are settings of the data set; `seed` is 0 unless given. Where a question has many
    right answers and the data set names none, its row is a prompt alone.

    Raises InputError where the extra is not installed, and for names, settings and values that the data set refuses.
    """
    name, _, query = source.removeprefix(GENERATED).partition("?")
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError:
        raise InputError(f"{source} needs the verify extra: pip install reasoning-gym") from None
    if name not in DATASETS:
        raise InputError(f"reasoning-gym has no data set {name!r}{_nearest(name, DATASETS)}")
    settings = {"seed": 0} | _settings(source, query, [field.name for field in fields(DATASETS[name][1])])
    try:
        dataset = create_dataset(name, **settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(f"{source} has settings that do not fit: {error}") from None
    return map(_row, dataset)


def _settings(source: str, query: str, known: list[str]) -> dict[str, Any]:
    """The settings after the question mark, their values as YAML reads them."""
    settings = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            raise InputError(f"{source} has no setting {key!r}{_nearest(key, known)}: it has {', '.join(known)}")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"{source} sets {key} to {value!r}, which is no value") from None
    return settings


def _row(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    asked = [{"role": "user", "content": entry["question"]}]
    return entry if isinstance(entry["answer"], str) else {"prompt": asked, **entry}


def _nearest(name: str, names: Any) -> str:
    near = get_close_matches(name, list(names), 1, 0.5)
    return f" (did you mean {near[0]}?)" if near else ""
