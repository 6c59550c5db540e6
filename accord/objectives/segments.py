"""Reductions over the ragged parts of a flat vector."""

from __future__ import annotations

import torch
from torch import Tensor

from accord.objectives._checks import require_index, require_vectors


def segment_sum(values: Tensor, owner: Tensor, size: int) -> Tensor:
    """The sum of every owner's values: `out[c] = sum of values[n] over the n with owner[n] = c`.

    Args:
        values: (N,), one value a token (or any other element).
        owner: (N,) integers in [0, size), in any order.
        size: how many owners there are, C; an owner without values sums to 0.

    Returns:
        (C,), differentiable in `values`.
    """
    require_vectors(values=values)
    require_index("owner", owner, len(values))
    if len(values) and int(owner.max()) >= size:
        raise ValueError(f"owner names segment {int(owner.max())} of only {size}")
    return torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, owner, values)


def last_index(owner: Tensor, size: int) -> Tensor:
    """Where every segment's last element stands in the flat vector.

    Args:
        owner: (N,) integers in [0, size), non-decreasing: segments are contiguous and in order.
        size: how many segments there are, C.

    Returns:
        (C,) indices into the vector.

    Raises:
        ValueError: a segment is empty, so it has no last element.
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
