"""What the questions of `accord evaluate` share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from accord.engine.models import Policy
from accord.errors import InputError
from accord.files import write_text


def write(result: Mapping[str, Any], out: str | Path) -> Path:
    """Write the result as evaluation.json into the folder `out`, from which reports take it; the file's path."""
    file = Path(out) / "evaluation.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(result, indent=1, ensure_ascii=False))
    return file


def tell(lines: Iterable[str]) -> None:
    """Lines for the person watching, on standard error."""
    for line in lines:
        Console(stderr=True).print(line, markup=False, highlight=False)


def require_same_vocabulary(policy: Policy, reference: Policy | None) -> None:
    """Raise InputError where log-probabilities of the two cannot be compared."""
    if reference is not None and not policy.same_vocabulary(reference):
        raise InputError(f"{policy.name} and --reference {reference.name} have different vocabularies; choose another.")
