"""Attention over trees, registered with transformers, for any model whose attention function can be replaced.

Each attention layer calls the function registered as "accord" with the queries, keys and values of one flat row of
tokens. The keyword `attend`, passed through the model's forward, is what computes the attention: a `TreeAttention` in
training, the sampler's cache in generation. Without it the model behaves as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from accord.engine import flex
from accord.engine.tiles import Tile

if TYPE_CHECKING:
    from accord.engine.trees import Trees

NAME = "accord"

SHORT = 128
"""Attention probabilities over at most this many keys are kept for the backward pass."""


class Scores(NamedTuple):
    """How a layer scores keys: s = softcap(scale q k^T), over keys less than `window` positions back."""

    scale: float
    window: int | None
    softcap: float | None


Attend = Callable[[int, Tensor, Tensor, Tensor, Scores], Tensor]
"""(layer, query (H, T, D), key (K, T, D), value (K, T, E), scoring rule) -> (T, H, E)"""


def accord_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    attend: Attend | None = None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls in place of its own, for one flat row of tokens (batch 1).

    Raises NotImplementedError where the layer uses attention sinks or position biases, which tree attention lacks.
    """
    if attend is None and softcap is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if kwargs.get("s_aux") is not None or kwargs.get("position_bias") is not None:
        raise NotImplementedError(f"{type(module).__name__} uses attention sinks or biases")
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if attend is None:
        return _capped(query, key, value, attention_mask, scale, softcap), None
    layer: int = getattr(module, "layer_idx", 0)
    return attend(layer, query[0], key[0], value[0], Scores(scale, sliding_window, softcap)).unsqueeze(0), None


def _capped(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, scale: float, softcap: float | None) -> Tensor:
    """Plain attention with soft-capped scores, which scaled_dot_product_attention cannot do: (B, T, H, D)."""
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    scores = q @ k.transpose(2, 3) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if visible is None:
        queries, keys = scores.shape[-2:]  # the queries are the last of the keys' positions
        visible = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)  # finite: a padded row may have no visible key
    return (torch.softmax(scores, -1) @ v).transpose(1, 2).contiguous()


AttentionInterface.register(NAME, accord_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


class TreeAttention:
    """Attention where every query sees its prompt and its own branch up to itself: one FlexAttention kernel where that
    is supported (`flex.serves`), else tile by tile."""

    def __init__(self, trees: Trees) -> None:
        self.trees = trees

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: Scores) -> Tensor:
        # The arguments are cast already. On a GPU, autocast would make of a softmax float32, which the gradient of the
        # other products does not take.
        with torch.autocast(query.device.type, enabled=False):
            out = flex.attend(self.trees.blocks, query, key, value, how) if flex.serves(query, value) else None
            if out is None:
                flat = (x.transpose(0, 1).contiguous() for x in (query, key, value))
                out = _TreeAttention.apply(*flat, self.trees.tiles, how)  # type: ignore[no-untyped-call]
        return out


def _take(x: Tensor, index: Tensor, blocks: int, groups: int) -> Tensor:
    """Rows of x (T, heads, D) as matrices (B * K, heads / K * L, D), one for each of B blocks and K key heads.

    The R = heads / K query heads that share a key head are stacked in one matrix, so that one product serves them all;
    for keys and values R is 1.
    """
    heads, dim = x.shape[1:]
    rows = x.index_select(0, index).view(blocks, -1, groups, heads // groups, dim)  # (B, L, K, heads / K, D)
    return rows.permute(0, 2, 3, 1, 4).reshape(blocks * groups, -1, dim)


def _rows(x: Tensor, blocks: int, length: int, groups: int) -> Tensor:
    """The inverse of `_take`: (B * L, heads, D)."""
    x = x.view(blocks, groups, -1, length, x.shape[-1])
    return x.permute(0, 3, 1, 2, 4).reshape(blocks * length, -1, x.shape[-1])


def _probabilities(query: Tensor, key: Tensor, tile: Tile, how: Scores) -> tuple[Tensor, Tensor | None]:
    """softmax over the visible keys, (B * K, R * Lq, Lk), and the derivative of the soft cap, None without one.

    The cap is s = c tanh(u / c) of the raw scores u, so ds/du = 1 - tanh^2(u / c). Padded query rows see every key.
    """
    scores = torch.bmm(query * how.scale, key.transpose(1, 2))
    slope = None
    if how.softcap is not None:
        scores = torch.tanh(scores / how.softcap)
        slope = 1 - scores * scores
        scores = scores * how.softcap
    hidden = tile.hidden(how.window)
    scores.view(len(hidden), -1, *hidden.shape[1:]).masked_fill_(hidden[:, None], float("-inf"))
    return torch.softmax(scores, -1), slope


def _put(x: Tensor, tile: Tile, rows: Tensor) -> None:
    """Write rows (B * L, heads, D) to their indices in x (T, heads, D), without the padding."""
    x.index_copy_(0, tile.index, rows if tile.kept is None else rows[tile.kept])


def _operands(query: Tensor, key: Tensor, value: Tensor, tile: Tile, groups: int) -> list[Tensor]:
    """The tile's queries (B * K, R * Lq, D), keys (B * K, Lk, D) and values (B * K, Lk, E)."""
    of_tile = ((query, tile.query_index), (key, tile.key_index), (value, tile.key_index))
    return [_take(x, index, len(tile.queries), groups) for x, index in of_tile]


class _TreeAttention(torch.autograd.Function):
    """o = p v with p = softmax(s), s = cap(c q k^T), tile by tile: every query is in one tile, a key may be in several.

    With g = dL/do, c the scale, u = c q k^T the raw scores and q unscaled:

        dv = p^T g                                    summed over the queries that saw the value
        dp = g v^T
        ds = p (dp - sum over keys of p dp)           the softmax's, row by row
        du = ds cap'(u)                               where there is a cap
        dq = c du k          dk = c du^T q            dk summed like dv

    Queries that share a key head are rows of one matrix, so du^T q and p^T g also sum over them. Saved for the backward
    pass: q, k, v, and p of short tiles, which is small; p of long tiles is cheaper to recompute than to hold.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, tiles: Sequence[Tile], how: Scores) -> Tensor:
        """(T, H, D), (T, K, D), (T, K, E) -> (T, H, E)."""
        kept: list[Tensor | None] = []
        groups = key.shape[1]
        out = query.new_empty(*query.shape[:2], value.shape[2])
        for tile in tiles:
            (b, lq), lk = tile.queries.shape, tile.keys.shape[1]
            q, k, v = _operands(query, key, value, tile, groups)
            p, slope = _probabilities(q, k, tile, how)
            _put(out, tile, _rows(torch.bmm(p, v), b, lq, groups))
            kept.append(p if lk <= SHORT and slope is None else None)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.settings = tiles, how
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        tiles, how = ctx.settings
        groups = key.shape[1]
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for tile, p in zip(tiles, kept, strict=True):
            (b, lq), lk = tile.queries.shape, tile.keys.shape[1]
            q, k, v = _operands(query, key, value, tile, groups)
            g = _take(grad, tile.query_index, b, groups)  # (B * K, R * Lq, E)
            if tile.kept is not None:  # padded rows read the first token's gradient: zero it, so keys get none of it
                g.view(b, -1, lq, g.shape[-1]).masked_fill_((tile.queries < 0)[:, None, :, None], 0)
            p, slope = (p, None) if p is not None else _probabilities(q, k, tile, how)  # (B * K, R * Lq, Lk)
            du = torch._softmax_backward_data(torch.bmm(g, v.transpose(1, 2)), p, -1, p.dtype)
            if slope is not None:
                du = du * slope
            _put(grad_query, tile, _rows(torch.bmm(du, k) * how.scale, b, lq, groups))
            grad_key.index_add_(0, tile.key_index, _rows(torch.bmm(du.transpose(1, 2), q) * how.scale, b, lk, groups))
            grad_value.index_add_(0, tile.key_index, _rows(torch.bmm(p.transpose(1, 2), g), b, lk, groups))
        return grad_query, grad_key, grad_value, None, None
