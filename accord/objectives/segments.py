"""Reductions over the segments of a flat vector, and the preconditions that objectives share.

Every precondition raises ValueError with one sentence.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, owner: Tensor, size: int) -> Tensor:
    """The sum of every owner's values: `out[c] = sum of values[n] over the n with owner[n] = c`.

    Args:
        values: (N,), one value per token (or any other element).
        owner: (N,) integers in [0, size), in any order.
        size: the number of owners, C; an owner without values sums to 0.

    Returns:
        (C,), differentiable in `values`.
    """
    require_vectors(values=values)
    require_index("owner", owner, len(values))
    if len(values) and int(owner.max()) >= size:
        raise ValueError(f"owner names segment {int(owner.max())} of only {size}")
    return torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, owner, values)


def segment_mean(values: Tensor, owner: Tensor, size: int) -> Tensor:
    """The mean of every owner's values, 0 for an owner without any; args and returns as for `segment_sum`."""
    counts = torch.bincount(owner, minlength=size)
    return segment_sum(values, owner, size) / counts.clamp(min=1)


def last_index(owner: Tensor, size: int) -> Tensor:
    """The index in the flat vector of the last element of each of `size` segments, (C,).

    The owners (N,) in [0, size) are non-decreasing: segments are contiguous and in order.

    Raises ValueError where a segment is empty, so it has no last element.
    """
    require_index("owner", owner, len(owner))
    require_sorted(owner)
    counts = torch.bincount(owner, minlength=size)
    if len(counts) > size:
        raise ValueError(f"owner names segment {len(counts) - 1} of only {size}")
    if size and int(counts.min()) == 0:
        raise ValueError(f"segment {int(counts.argmin())} has no elements")
    return counts.cumsum(0) - 1


def require_sorted(owner: Tensor) -> None:
    """Raises ValueError unless the owners are in non-decreasing order."""
    if bool((owner.diff() < 0).any()):
        raise ValueError("owner must not decrease: a completion's tokens are contiguous and completions are in order")


def require_vectors(**values: Tensor) -> None:
    """Every tensor is one-dimensional, floating, and as long as the others."""
    for name, value in values.items():
        if value.dim() != 1:
            raise ValueError(f"{name} must be a flat vector, not of shape {tuple(value.shape)}")
        if not value.is_floating_point():
            raise ValueError(f"{name} must hold floating-point numbers, not {value.dtype}")
    if len({len(value) for value in values.values()}) > 1:
        lengths = ", ".join(f"{name} {len(value)}" for name, value in values.items())
        raise ValueError(f"these must have equal lengths: {lengths}")


def require_broadcastable(name: str, value: Tensor | float, length: int) -> None:
    """The value is one number, or a vector of one number per element."""
    if isinstance(value, Tensor) and value.shape not in {torch.Size([]), torch.Size([length])}:
        raise ValueError(f"{name} must be one number or a vector of {length}, not of shape {tuple(value.shape)}")


def require_index(name: str, index: Tensor, length: int) -> None:
    """The index is a vector of integers, one per element, none negative."""
    if index.shape != (length,) or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"{name} must be {length} integers, not {index.dtype} of shape {tuple(index.shape)}")
    if length and int(index.min()) < 0:
        raise ValueError(f"{name} must not be negative")


def require_ranked(groups: Tensor, ranks: Tensor, length: int) -> int:
    """Each of the completions has a group and a rank, and no group is empty; returns the number of groups."""
    require_index("groups", groups, length)
    require_index("ranks", ranks, length)
    counts = torch.bincount(groups)
    if len(counts) and int(counts.min()) == 0:
        raise ValueError(f"group {int(counts.argmin())} has no completions: groups are numbered from 0 without gaps")
    return len(counts)


def require_positive(**numbers: float) -> None:
    """Every number is above 0."""
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} must be above 0, not {number}")


def require_between(low: float, high: float, **numbers: Tensor | float) -> None:
    """Every number, and every one in a tensor, lies in [low, high]."""
    for name, values in numbers.items():
        for number in torch.as_tensor(values, dtype=torch.float64).flatten().tolist():
            if not low <= number <= high:
                raise ValueError(f"{name} must lie between {low} and {high}, not {number}")
