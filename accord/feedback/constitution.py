"""A constitution: the principles by which a language model judges, criticizes and revises (Bai et al. 2022).

    # principles.yaml
    principles:
      - name: honest
        prefer: Prefer the answer that says what is true, and says when it does not know.
        critique: Point out what the answer claims that is false or cannot be known.
        revision: Rewrite the answer without these claims.

Only `prefer` is needed, and a plain sentence is a principle with it. In Constitutional AI (arXiv:2212.08073, sections
3.1 and 4.1) a principle is drawn for every critique and for every comparison; `draw` does so from the texts alone.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from accord.errors import InputError, nearest
from accord.parsing import read_yaml
from accord.records import Text, text_to_json

AnyPrinciple = TypeVar("AnyPrinciple")

FOLDER = Path(__file__).parent / "constitutions"
"""The constitutions that come with accord, a file each, named by the file."""


@dataclass(frozen=True, slots=True)
class Principle:
    """One principle, worded for a judge, a critic and a reviser."""

    name: str
    prefer: str
    """For a judge of two answers."""
    critique: str
    """For a critic of one answer."""
    revision: str
    """For the model that rewrites an answer after its critique."""


def read_constitution(name: str) -> tuple[Principle, ...]:
    """The principles in a YAML file, or in a constitution that comes with accord: accord, or hhh.

    Raises InputError where there is no such file, it has no principles, or one is malformed.
    """
    own = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    path = own.get(name, Path(name))
    if not path.exists():
        raise InputError(
            f"there is no constitution {name}: name a YAML file, or {' or '.join(own)}{nearest(name, own) or '.'}"
        )
    contents = read_yaml(path, "the constitution")
    listed = contents.get("principles") if isinstance(contents, dict) else contents
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{name} has no principles; a constitution is a list of them, under the key principles.")
    principles = tuple(_principle(name, number, one) for number, one in enumerate(listed, start=1))
    names = [principle.name for principle in principles]
    twice = next((one for i, one in enumerate(names) if one in names[:i]), None)
    if twice is not None:
        raise InputError(f"{name} has two principles named {twice}; give each its own name.")
    return principles


def _principle(file: str, number: int, entry: Any) -> Principle:
    where, known = f"{file}, principle {number}", [field.name for field in fields(Principle)]
    parts = {"prefer": entry} if isinstance(entry, str) else entry
    if not isinstance(parts, dict):
        raise InputError(f"{where}: it is neither a sentence nor a mapping with {', '.join(known)}.")
    for key, value in parts.items():
        if key not in known:
            raise InputError(f"{where} has {key}, which is none of {', '.join(known)}{nearest(str(key), known)}.")
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{where}: {key} must be a sentence, not {value!r}.")
    if "prefer" not in parts:
        raise InputError(f"{where} lacks prefer: the sentence by which a judge prefers one of two answers.")
    prefer = parts["prefer"].strip()
    about = f"A judge of answers is told: {prefer}"
    return Principle(
        name=parts.get("name", str(number)).strip(),
        prefer=prefer,
        critique=parts.get("critique", f"{about} Point out every way in which the answer falls short of this.").strip(),
        revision=parts.get("revision", f"{about} Rewrite the answer so that it does not fall short of this.").strip(),
    )


def draw(principles: Sequence[AnyPrinciple], count: int, key: str, seed: int = 0) -> list[AnyPrinciple]:
    """`count` different principles, all sets of them equally likely, decided by the seed and the key.

    The key describes what they are drawn for, such as the prompt and the answers to compare. Where there are no more
    than `count`, all are returned, in order.
    """
    if count >= len(principles):
        return list(principles)
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    return random.Random(digest).sample(list(principles), count)


def key_of(prompt: Text, answers: Sequence[str]) -> str:
    """The key of `draw` for a prompt and answers, independent of their order."""
    return json.dumps([text_to_json(prompt), *sorted(answers)])
