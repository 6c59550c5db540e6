"""Decoding with a KV cache: keys and values of prompts, held once for all of a prompt's samples, and of each sample.

The model's own forward runs over one flat row with one token per live sample; its attention layers call the cache here.
`prefill` reads further prompts, whose samples join the live ones, `decode` appends a token to every live sample, and
`keep` drops finished samples.

Axes: G prompts; S live samples, in the order of their prompts; W the largest number of live samples of one prompt; V
tokens; H query heads, R = H / K of them per key head, K key heads; P the longest prompt; L the longest sample; D and E
the widths of a key and of a value.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from accord.arrays import Tokens
from accord.engine.attention import Scores, TreeAttention
from accord.engine.forward import read_row
from accord.engine.readout import Readout
from accord.engine.tiles import to_device
from accord.engine.trees import Branch, Tree, Trees


class Cache:
    """Decoding with the keys and values of G prompts and of S live samples, each held once.

    A prompt's keys are multiplied with the queries of all its samples at once and never copied: the samples are laid
    out as a grid of G rows and W columns, a prompt's samples in its row, so that all scores are one batched product (G,
    K, W * R, D) x (G, K, D, P). A row with fewer than W samples ends in zeros, which are never read.
    """

    def __init__(self, model: nn.Module, room: int) -> None:
        self.model, self.logits, self.room = model, Readout.of(model).cast().logits, room
        self.device = next(model.parameters()).device
        # Lengths and groups stay on the CPU, where reading them does not synchronize with the device.
        none = torch.zeros(0, dtype=torch.long)
        self.prompt_length, self.group, self.length = none, none, none  # (G,); (S,) ascending; (S,)
        self.prompt_kv: dict[int, list[Tensor]] = {}  # per layer: keys and values (G, K, P, D)
        self.own_kv: dict[int, list[Tensor]] = {}  # per layer: (S, K, room, D), filled up to length

    def prefill(self, prompts: Sequence[Tokens], n: int) -> Tensor:
        """Read each prompt once and start n samples of it; returns the logits (prompts, V) of their first token."""
        trees = rows_of(prompts, self.device)
        attention = TreeAttention(trees)
        lengths = torch.tensor([len(p) for p in prompts])
        # (prompts, longest) indices of each prompt's tokens in the flat row; padding repeats the last token, masked.
        offset = torch.arange(int(lengths.max()))
        index = (lengths.cumsum(0) - lengths)[:, None] + torch.minimum(offset, (lengths - 1)[:, None])
        index = to_device(index, self.device)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor, how: Scores) -> Tensor:
            pages = [x[:, index].transpose(0, 1).contiguous() for x in (key, value)]  # (prompts, K, longest, D)
            own = [x.new_zeros(len(prompts) * n, len(x), self.room, x.shape[2]) for x in (key, value)]
            if layer in self.own_kv:
                pages = [_stack(*kv) for kv in zip(self.prompt_kv[layer], pages, strict=True)]
                own = [torch.cat(kv) for kv in zip(self.own_kv[layer], own, strict=True)]
            self.prompt_kv[layer], self.own_kv[layer] = pages, own
            return attention(layer, query, key, value, how)

        hidden = read_row(self.model, trees.tokens, trees.positions, attend)
        group = torch.arange(len(prompts)) + len(self.prompt_length)
        self.prompt_length = torch.cat([self.prompt_length, lengths])
        self.group = torch.cat([self.group, group.repeat_interleave(n)])
        self.length = nn.functional.pad(self.length, (0, len(prompts) * n))
        self._arrange()
        return self.logits(hidden.index_select(0, trees.last))

    def decode(self, tokens: Tensor) -> Tensor:
        """Append a token (S,) to every live sample; returns the logits (S, V) of the next."""
        position = self.prompt_length[self.group] + self.length  # (S,), of the new token
        position, end = to_device(torch.stack([position, self.length]), self.device)
        self.length = self.length + 1
        return self._read(tokens, position, end, int(self.length.max()))

    def _read(self, tokens: Tensor, position: Tensor, end: Tensor, longest: int) -> Tensor:
        """Read a new token (S,) of each sample, at its position in the text and its number `end` among the sample's.

        Only the first `longest` of each sample's keys are read, L of the axes. Returns the logits (S, V) of the next
        token. Nothing here reads numbers back from the device.
        """
        self._end = torch.arange(len(tokens), device=self.device), end
        # (S, P + L) distance from each key back to the query, negative where there is no key. Past a sample's end it is
        # negative already. Past the end of a prompt shorter than P it is at most the sample's length before this token,
        # which no real prompt key is: those become -1.
        own = end[:, None] - torch.arange(longest, device=self.device)
        prompt = position[:, None] - torch.arange(int(self.prompt_length.max()), device=self.device)
        padding = prompt <= end[:, None]
        self._distance = torch.cat([prompt.masked_fill(padding, -1), own], 1)[:, None, None]  # (S, 1, 1, P + L)
        self._hidden: dict[int | None, Tensor] = {}
        return self.logits(read_row(self.model, tokens, position, self._attend))

    def keep(self, live: Tensor) -> None:
        """Drop the samples where `live` (S,), on the CPU, is False, and prompts without samples."""
        rows = live.nonzero().squeeze(1)
        groups, self.group = torch.unique(self.group[rows], return_inverse=True)
        self.length = self.length[rows]
        kept, used = (to_device(index, self.device) for index in (rows, groups))
        self.own_kv = {layer: [x[kept] for x in kv] for layer, kv in self.own_kv.items()}
        if len(groups) < len(self.prompt_length):
            self.prompt_length = self.prompt_length[groups]
            widest = int(self.prompt_length.max()) if len(groups) else 0
            self.prompt_kv = {layer: [x[used, :, :widest] for x in kv] for layer, kv in self.prompt_kv.items()}
        self._arrange()

    def _arrange(self) -> None:
        """The cell (S,) of each sample in the flattened grid (G * W): its prompt's row, its number among the prompt's
        samples.

        Where every prompt has W samples the grid is full and in sample order, and the cells are None.
        """
        counts = torch.bincount(self.group, minlength=len(self.prompt_length))  # (G,)
        self._width = int(counts.max()) if len(counts) else 0
        within = torch.arange(len(self.group)) - (counts.cumsum(0) - counts)[self.group]
        is_full = len(self.group) == len(counts) * self._width
        self._cell = None if is_full else to_device(self.group * self._width + within, self.device)

    def _attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: Scores) -> Tensor:
        """One query per sample (H, S, D) against its prompt's keys and its own, including the new one: (S, H, E)."""
        prompt_k, prompt_v = self.prompt_kv[layer]
        own_k, own_v = self.own_kv[layer]
        s, (_, heads, p, dim) = len(self.length), prompt_k.shape
        longest = self._distance.shape[-1] - p
        rows, at = self._end
        own_k[rows, :, at], own_v[rows, :, at] = key.transpose(0, 1), value.transpose(0, 1)
        q = (query.transpose(0, 1) * how.scale).reshape(s, heads, -1, dim)  # (S, K, R, D)
        shared = self._to_grid(q) @ prompt_k.transpose(2, 3)  # (G, K, W * R, P)
        scores = torch.cat([self._from_grid(shared), q @ own_k[:, :, :longest].transpose(2, 3)], -1)
        if how.softcap is not None:
            scores = how.softcap * torch.tanh(scores / how.softcap)
        # One softmax over both parts (S, K, R, P + L), which then weigh the prompt's values and the sample's own.
        weights = torch.softmax(scores.masked_fill_(self._hidden_beyond(how.window), float("-inf")), -1)
        from_prompt = self._from_grid(self._to_grid(weights[..., :p]) @ prompt_v)
        return (from_prompt + weights[..., p:] @ own_v[:, :, :longest]).reshape(s, -1, own_v.shape[-1])

    def _hidden_beyond(self, window: int | None) -> Tensor:
        """The mask (S, 1, 1, P + L), True for keys that a layer with this window does not see, computed once per
        token."""
        if window not in self._hidden:
            hidden = self._distance < 0
            self._hidden[window] = hidden if window is None else hidden | (self._distance >= window)
        return self._hidden[window]

    def _to_grid(self, x: Tensor) -> Tensor:
        """(S, K, R, X) -> (G, K, W * R, X), with zeros where a prompt has fewer live samples."""
        _, heads, r, last = x.shape
        if self._cell is not None:
            grid = x.new_zeros(len(self.prompt_length) * self._width, heads, r, last)
            grid[self._cell] = x
            x = grid
        return x.view(-1, self._width, heads, r, last).transpose(1, 2).reshape(-1, heads, self._width * r, last)

    def _from_grid(self, x: Tensor) -> Tensor:
        """The inverse: (G, K, W * R, X) -> (S, K, R, X)."""
        g, heads, _, last = x.shape
        grid = x.view(g, heads, self._width, -1, last).transpose(1, 2).reshape(g * self._width, heads, -1, last)
        return grid if self._cell is None else grid[self._cell]


def rows_of(sequences: Sequence[Tokens], device: torch.device) -> Trees:
    """Every sequence as a tree with one branch and no prompt."""
    return Trees.of([Tree((), (Branch(s),)) for s in sequences], device)


def _stack(old: Tensor, new: Tensor) -> Tensor:
    """Concatenate the cached keys or values of prompts (G, K, P, D), padding the shorter to the longest."""
    widest = max(old.shape[2], new.shape[2])
    return torch.cat([nn.functional.pad(x, (0, 0, 0, widest - x.shape[2])) for x in (old, new)])
