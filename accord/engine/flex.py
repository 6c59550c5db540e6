"""Attention over trees on a CUDA device by torch's FlexAttention, whose kernel skips blocks that no query sees.

A query sees two runs of tokens: all of its prompt, and its own span up to itself. Both follow from the layout, so the
mask is three numbers per query, and the blocks of keys that a block of queries needs are counted without ever building
a T x T matrix.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from accord.engine.precision import has_bfloat16
from accord.engine.tiles import Span, to_device

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from accord.engine.attention import Scores

BLOCK = 128
"""Queries, and keys, per block of the kernel; the flat layout is padded to a multiple of it."""

LEAST = 1024
"""Least number of tokens for which FlexAttention is used; below it there are few tiles anyway."""

_OFF: list[str] = []
"""The error that kept FlexAttention from compiling in this process, if any."""


class Blocks:
    """The block mask of T queries, padded to whole blocks, over the flat layout, in FlexAttention's format."""

    def __init__(self, spans: Sequence[Span], device: torch.device) -> None:
        """The spans lie end to end, in order."""
        of_spans = [(s.start, s.prompt.start, s.prompt.length) if s.prompt else (s.start, 0, 0) for s in spans]
        rows = torch.tensor(of_spans).repeat_interleave(torch.tensor([span.length for span in spans]), 0)
        self.size = -(-len(rows) // BLOCK) * BLOCK
        padding = torch.arange(len(rows), self.size)  # each padded query sees only itself
        rows = torch.cat([rows, torch.stack([padding, padding * 0, padding * 0], 1)])
        self.own, self.prompt, self.prompt_length = to_device(rows.T.int().contiguous(), device)
        self._masks: dict[int | None, BlockMask] = {}

    def mask(self, window: int | None) -> BlockMask:
        """The mask of layers with this sliding window, built once."""
        if window not in self._masks:
            self._masks[window] = self._mask(window)
        return self._masks[window]

    def _mask(self, window: int | None) -> BlockMask:
        from torch.nn.attention.flex_attention import BlockMask

        query = torch.arange(self.size, dtype=torch.int32, device=self.own.device)
        own, prompt, end = self.own, self.prompt, self.prompt + self.prompt_length
        # A query's position is prompt_length + query - own, a prompt key's is key - prompt: their distance is below the
        # window from key = end + query - own - window + 1 on.
        if window is not None:
            prompt = torch.minimum(torch.maximum(prompt, end + query - own - window + 1), end)
            own = torch.maximum(own, query - window + 1)

        def sees(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return ((k >= prompt[q]) & (k < end[q])) | ((k >= own[q]) & (k <= q))

        # seen (T, T / BLOCK): keys of each block that a query sees; pairs (T / BLOCK, T / BLOCK): visible pairs.
        first = torch.arange(0, self.size, BLOCK, dtype=torch.int32, device=self.own.device)
        runs = ((prompt, end), (own, query + 1))
        seen = sum((_overlap(start[:, None], stop[:, None], first) for start, stop in runs), torch.zeros_like(first))
        pairs = seen.view(-1, BLOCK, len(first)).sum(1)
        full = pairs == BLOCK * BLOCK
        return BlockMask.from_kv_blocks(*_listed((pairs > 0) & ~full), *_listed(full), BLOCK, sees)


def _overlap(start: Tensor, stop: Tensor, first: Tensor) -> Tensor:
    """How many of the indices [start, stop) lie in the block that begins at `first`."""
    return (torch.minimum(stop, first + BLOCK) - torch.maximum(start, first)).clamp(min=0)


def _listed(needed: Tensor) -> tuple[Tensor, Tensor]:
    """For every block of queries: how many blocks of keys it needs (1, 1, B), and their indices first (1, 1, B, B)."""
    order = needed.int().argsort(dim=-1, descending=True, stable=True)
    return needed.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]


def serves(query: Tensor, value: Tensor) -> bool:
    """Whether to use FlexAttention: on CUDA, in bfloat16 that the device supports, for enough tokens.

    float32 and float64 stay with tiles, which are exact. FlexAttention takes no heads narrower than 16.
    """
    wide = query.dtype == torch.bfloat16 and query.shape[1] >= LEAST and min(query.shape[2], value.shape[2]) >= 16
    return wide and query.device.type == "cuda" and not _OFF and has_bfloat16(query.device)


def attend(blocks: Blocks, query: Tensor, key: Tensor, value: Tensor, how: Scores) -> Tensor | None:
    """(H, T, D), (K, T, D), (K, T, E) -> (T, H, E); None, after a warning, where FlexAttention cannot be compiled."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    try:
        return flex(compiled(), blocks, query, key, value, how)
    except (TorchDynamoException, FailOnRecompileLimitHit) as error:
        _OFF.append(f"{type(error).__name__}: {error}".splitlines()[0])
        warnings.warn(
            f"FlexAttention cannot be compiled here ({_OFF[0]}), so attention is computed in tiles, more slowly.",
            stacklevel=2,
        )
        return None


def flex(kernel: Callable[..., Any], blocks: Blocks, query: Tensor, key: Tensor, value: Tensor, how: Scores) -> Tensor:
    """The same by torch's `flex_attention`, compiled or not; queries, keys and values are padded to whole blocks."""
    tokens = query.shape[1]
    padded = (nn.functional.pad(x, (0, 0, 0, blocks.size - tokens))[None] for x in (query, key, value))
    wide = torch.promote_types(query.dtype, torch.float32)
    cap = None if how.softcap is None else _capped(how.softcap, wide, query.device)
    settings = {"block_mask": blocks.mask(how.window), "scale": how.scale, "enable_gqa": len(key) < len(query)}
    out: Tensor = kernel(*padded, score_mod=cap, **settings)
    return out[0, :, :tokens].transpose(0, 1)


@functools.cache
def _capped(softcap: float, dtype: torch.dtype, device: torch.device) -> Callable[..., Tensor]:
    """The soft cap s = c tanh(u / c) of a raw score u; c is a tensor, as one kernel for all lengths captures no Python
    number."""
    cap = torch.full((), softcap, dtype=dtype, device=device)

    def capped(score: Tensor, *_where: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return capped


@functools.cache
def compiled() -> Callable[..., Any]:
    """`flex_attention` compiled into one kernel for all lengths; uncompiled it would hold all T x T scores."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True, fullgraph=True)  # type: ignore[no-any-return]
