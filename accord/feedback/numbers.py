"""What rewards from outside return: checked, with the row at fault named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite

import torch
from torch import Tensor

from accord.engine.fit import named_rows
from accord.errors import InputError
from accord.records import Sample, show

LARGEST = torch.finfo(torch.float32).max


def number(value: object) -> float | None:
    """The value as a float where it is a number: Python's, NumPy's, or a tensor without dimensions; true is 1."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, (bool, int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def finite(values: Sequence[object], samples: Sequence[Sample], source: str) -> Tensor:
    """The values as rewards of the samples, (C,) float32.

    Raises InputError, naming the source and the row, where there is not one finite number for each sample.
    """
    if len(values) != len(samples):
        raise InputError(
            f"{source} returned {len(values)} values for {len(samples)} completions of "
            f"{named_rows(s.row for s in samples)}; let it return one for each"
        )
    numbers = [number(value) for value in values]
    for i, found in enumerate(numbers):
        if found is None or not isfinite(found) or abs(found) > LARGEST:
            raise InputError(
                f"{source} returned {excerpt(repr(values[i]))} for {place(samples, i)}; let it return a finite number"
            )
    return torch.tensor(numbers, dtype=torch.float32)


def place(samples: Sequence[Sample], i: int) -> str:
    """Which sample it is, for a message: the row of its prompt, and how prompt and completion begin."""
    sample = samples[i]
    where = f"row {sample.row + 1}" if sample.row >= 0 else f"sample {i + 1} of the batch"
    prompt, completion = (repr(excerpt(text)) for text in (show(sample.prompt.prompt), sample.text))
    return f"{where} (prompt {prompt}, completion {completion})"


def lacking(reader: str, column: str, columns: Iterable[str], row: int) -> InputError:
    """What is wrong with a row that lacks a column."""
    where = f"row {row + 1}" if row >= 0 else "the row"
    there = ", ".join(columns) or "none besides the prompt"
    return InputError(f"{where} has no column '{column}', which {reader} reads; the columns there are: {there}")


def excerpt(text: str, length: int = 60) -> str:
    """The beginning of a text that may be long."""
    return text if len(text) <= length else text[: length - 3] + "..."
