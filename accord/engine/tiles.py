"""Tiles: which queries attend to which keys in the flat layout of trees.

A span is a run of tokens, a prompt or a branch. Its queries see the whole prompt it continues, and itself up to their
own position. Long spans are cut into blocks of queries, so that keys after a block are never scored, and blocks of
similar shape are stacked into one tile, so that many short sequences take few operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

BLOCK = 256
"""Queries per block. Smaller blocks skip more of the future, larger ones use the processor better."""

SLACK = 1.25
"""A tile may be padded up to this multiple of the area (queries x keys) of its blocks,"""

SMALL = 1 << 15
"""or hold any blocks while its area is below this, where the overhead of an operation outweighs the area."""


@dataclass(frozen=True, slots=True)
class Span:
    """A run of tokens in the flat layout, and the span of the prompt it continues."""

    start: int
    length: int
    prompt: Span | None = None


class _Block(NamedTuple):
    """Indices of queries in the flat layout, and of the keys they see; the last keys are the queries themselves."""

    queries: Tensor
    keys: Tensor


@dataclass
class Tile:
    """B stacked blocks: `queries` (B, Lq) and `keys` (B, Lk) index the flat layout, -1 where padded.

    `kept` holds the indices of the B * Lq query rows that are not padding, None if none is.
    """

    queries: Tensor
    keys: Tensor
    kept: Tensor | None
    _hidden: dict[int | None, Tensor] = field(default_factory=dict)

    @cached_property
    def query_index(self) -> Tensor:
        """(B * Lq,) indices of the queries in the flat layout; padding points at the first token."""
        return self.queries.clamp(min=0).flatten()

    @cached_property
    def key_index(self) -> Tensor:
        """(B * Lk,) indices of the keys; padding points at the first token, hidden from real queries."""
        return self.keys.clamp(min=0).flatten()

    @cached_property
    def index(self) -> Tensor:
        """Indices in the flat layout of the query rows that are not padding."""
        return self.query_index if self.kept is None else self.query_index[self.kept]

    def hidden(self, window: int | None) -> Tensor:
        """(B, Lq, Lk) True where a query must not see a key: the future, padding, and keys outside a sliding window.

        Padded queries see all keys, as a softmax over none would be NaN; their results are never read.
        """
        if window not in self._hidden:
            at_query, at_key = (torch.arange(x.shape[1], device=x.device) for x in (self.queries, self.keys))
            first = (self.keys >= 0).sum(1, keepdim=True) - (self.queries >= 0).sum(1, keepdim=True)
            # (B, Lq, Lk) query position - key position, both counted along the keys; negative for later keys, which
            # include the padded ones
            distance = (first + at_query)[:, :, None] - at_key
            hidden = distance < 0
            if window is not None:
                hidden |= distance >= window
            self._hidden[window] = hidden & (self.queries >= 0)[:, :, None]
        return self._hidden[window]


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """Move a tensor made on the CPU to the device; a copy to a CUDA device is asynchronous."""
    if torch.device(device).type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def tiles_of(spans: Sequence[Span], device: torch.device | str) -> list[Tile]:
    """The tiles that together hold every query of the spans once."""
    blocks = [block for span in spans for block in _blocks_of(span)]
    blocks.sort(key=lambda b: (len(b.keys), len(b.queries)), reverse=True)
    tiles: list[list[_Block]] = []
    area = longest = 0
    for block in blocks:
        own = len(block.queries) * len(block.keys)
        widest = max(longest, len(block.queries))
        if tiles and (len(tiles[-1]) + 1) * widest * len(tiles[-1][0].keys) <= max(SLACK * (area + own), SMALL):
            tiles[-1].append(block)
            area, longest = area + own, widest  # `area` is of the tile's blocks without padding
        else:
            tiles.append([block])
            area, longest = own, len(block.queries)

    return [_stacked(tile, device) for tile in tiles]


def _stacked(blocks: list[_Block], device: torch.device | str) -> Tile:
    queries, keys = (pad_sequence(list(rows), batch_first=True, padding_value=-1) for rows in zip(*blocks, strict=True))
    real = queries.flatten() >= 0
    kept = None if bool(real.all()) else to_device(real.nonzero().squeeze(1), device)  # tested while still on the CPU
    return Tile(to_device(queries, device), to_device(keys, device), kept)


def _blocks_of(span: Span) -> Iterator[_Block]:
    runs = [run for run in (span.prompt, span) if run]
    sequence = torch.cat([torch.arange(run.start, run.start + run.length) for run in runs])
    for first in range(len(sequence) - span.length, len(sequence), BLOCK):
        seen = sequence[: first + BLOCK]
        yield _Block(seen[first:], seen)
