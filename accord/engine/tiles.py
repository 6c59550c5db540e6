"""Which queries attend to which keys, in the flat layout of trees: the plan that attention follows.

A span is a run of tokens, a prompt or a branch. Its queries see the whole prompt it continues and itself up to their
own position. Long spans are cut into blocks of queries, so that what lies in a block's future is never computed, and
blocks of similar shape are stacked into one tile, so that many short sequences cost few operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

BLOCK = 256
"""Queries in a block. Smaller blocks skip more of the future, larger ones use the processor better."""

SLACK = 1.25
"""A tile may be padded to this multiple of the area its blocks need ..."""

SMALL = 1 << 15
"""... or hold any blocks together while its area stays below this: an operation costs more than the area then."""


@dataclass(frozen=True, slots=True)
class Span:
    """A run of tokens in the flat layout, and the prompt it continues."""

    start: int
    length: int
    prompt: Span | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    span: Span
    first: int
    stop: int

    @property
    def queries(self) -> int:
        return self.stop - self.first

    @property
    def keys(self) -> int:
        return self.stop + (self.span.prompt.length if self.span.prompt else 0)


@dataclass
class Tile:
    """B blocks stacked: rows of `queries` (B, Lq) and `keys` (B, Lk) index the flat layout, -1 where padded.

    `query_position` and `key_position` are positions within the sequence, which decide what is visible.
    """

    queries: Tensor
    keys: Tensor
    query_position: Tensor
    key_position: Tensor
    _hidden: dict[int | None, Tensor] = field(default_factory=dict)

    @cached_property
    def query_index(self) -> Tensor:
        """(B * Lq,) where the queries are in the flat layout; padding points at the first token."""
        return self.queries.clamp(min=0).flatten()

    @cached_property
    def key_index(self) -> Tensor:
        """(B * Lk,) where the keys are; padding points at the first token, hidden from real queries."""
        return self.keys.clamp(min=0).flatten()

    @cached_property
    def kept(self) -> Tensor | None:
        """Which of the B * Lq query rows are no padding; None where none is."""
        real = self.queries.flatten() >= 0
        return None if bool(real.all()) else real.nonzero().squeeze(1)

    @cached_property
    def index(self) -> Tensor:
        """Where in the flat layout the query rows that are no padding belong."""
        return self.query_index if self.kept is None else self.query_index[self.kept]

    def hidden(self, window: int | None) -> Tensor:
        """(B, Lq, Lk) True where a query must not see a key: the future, padding, and what left a sliding window.

        Padding among the queries sees all keys, as a softmax over none would be NaN; nothing reads what it gets.
        """
        if window not in self._hidden:
            distance = self.query_position[:, :, None] - self.key_position[:, None, :]
            hidden = (distance < 0) | (self.keys < 0)[:, None, :]
            if window is not None:
                hidden |= distance >= window
            self._hidden[window] = hidden & (self.queries >= 0)[:, :, None]
        return self._hidden[window]


def tiles_of(spans: Sequence[Span], device: torch.device | str) -> list[Tile]:
    """The tiles that together hold every query of the spans once."""
    blocks = [
        _Block(span, first, min(first + BLOCK, span.length)) for span in spans for first in range(0, span.length, BLOCK)
    ]
    blocks.sort(key=lambda b: (b.keys, b.queries), reverse=True)
    tiles: list[list[_Block]] = []
    area = longest = 0
    for block in blocks:
        if tiles:
            widest = max(longest, block.queries)
            padded = (len(tiles[-1]) + 1) * widest * tiles[-1][0].keys
            needed = area + block.queries * block.keys
            if padded <= max(SLACK * needed, SMALL):
                tiles[-1].append(block)
                area, longest = needed, widest
                continue
        tiles.append([block])
        area, longest = block.queries * block.keys, block.queries
    return [_stack(tile, device) for tile in tiles]


def _stack(blocks: Sequence[_Block], device: torch.device | str) -> Tile:
    queries = torch.full((len(blocks), max(b.queries for b in blocks)), -1)
    keys = torch.full((len(blocks), max(b.keys for b in blocks)), -1)
    query_position = torch.zeros_like(queries)
    key_position = torch.zeros_like(keys)
    for row, block in enumerate(blocks):
        span, prompt = block.span, block.span.prompt
        before = prompt.length if prompt else 0
        queries[row, : block.queries] = torch.arange(span.start + block.first, span.start + block.stop)
        query_position[row, : block.queries] = torch.arange(before + block.first, before + block.stop)
        if prompt:
            keys[row, :before] = torch.arange(prompt.start, prompt.start + before)
        keys[row, before : block.keys] = torch.arange(span.start, span.start + block.stop)
        key_position[row, : block.keys] = torch.arange(block.keys)
    return Tile(queries.to(device), keys.to(device), query_position.to(device), key_position.to(device))
