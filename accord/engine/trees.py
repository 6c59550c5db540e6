"""A prompt and the completions that branch from it: the one shape every method trains on.

`Tree` is one prompt with its branches, outside of torch. `Trees` is a batch of them laid end to end in flat tensors,
with no padding and no masks: tree after tree, each its prompt and then its branches, where positions restart at the
prompt's end for every branch. The prompt is therefore computed once for all of its branches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accord.arrays import Bools, Doubles, Flags, Ints, LogProbs, Numbers, T, Tokens
from accord.engine.flex import Blocks
from accord.engine.team import Team
from accord.engine.tiles import Span, Tile, tiles_of, to_device


@dataclass(frozen=True, slots=True)
class Turn:
    """One of the policy's turns in a conversation: `end` is the number of the branch's tokens up to the turn's end,
    `reward` is NaN where the turn has none."""

    end: int
    reward: float


@dataclass(frozen=True, slots=True)
class Branch:
    """One completion's tokens; the last is the end-of-turn token unless the completion was cut.

    `trained` flags the tokens that the loss includes (None: all). A sampled branch has the sampler's `logprobs`, a
    scored one its `reward`; `turns` holds each turn's reward where a conversation is learned turn by turn.
    """

    tokens: Tokens
    trained: Flags | None = None
    logprobs: LogProbs | None = None
    reward: float | None = None
    turns: tuple[Turn, ...] = ()

    def __post_init__(self) -> None:
        for kind, values in (("flags", self.trained), ("log-probabilities", self.logprobs)):
            if values is not None and len(values) != len(self.tokens):
                raise ValueError(f"{len(self.tokens)} tokens but {len(values)} {kind}")

    @property
    def score(self) -> float:
        """The branch's reward. Raises ValueError if it has none."""
        if self.reward is None:
            raise ValueError("the branch has no reward")
        return self.reward


@dataclass(frozen=True, slots=True)
class Tree:
    """A prompt's tokens and its branches.

    `ranks` orders the branches (0 is best, equal ranks tie), empty where nobody ranked them. `row` is the index of the
    data row the tree came from, for error messages. Of a pair, `margin` is the least reward difference wanted,
    `probability` that the preferred branch is really better; `user` is whose preference it is.
    """

    prompt: Tokens
    branches: tuple[Branch, ...]
    ranks: tuple[int, ...] = ()
    row: int = -1
    margin: float = 0.0
    probability: float = 1.0
    user: str = ""

    @property
    def size(self) -> int:
        """Number of tokens the engine computes for this tree: the prompt once, plus every branch."""
        return len(self.prompt) + sum(len(b.tokens) for b in self.branches)


@dataclass(frozen=True)
class Trees:
    """A packed batch: G trees of T tokens in all, with C branches and N trained tokens.

    Attributes:
        tokens, positions: (T,) token ids and positions; positions restart at the prompt's end for each branch.
        source: (N,) index into T of the position that predicts each trained token.
        target: (N,) the trained tokens, branch after branch in order.
        owner: (N,) the branch each trained token belongs to, non-decreasing.
        learning: (L,) the branches that have trained tokens, in order.
        group: (C,) the tree each branch belongs to, non-decreasing.
        last: (C,) index into T of each branch's last token.
        ranks: (C,) the branches' ranks, 0 where the tree has none.
        rewards: (C,) the branches' rewards, NaN where they have none.
        logprobs: (N,) the sampler's log-probabilities, NaN where there are none.
        trees: the trees themselves, in order.
    """

    tokens: Tensor
    positions: Tensor
    source: Tensor
    target: Tensor
    owner: Tensor
    learning: Tensor
    group: Tensor
    last: Tensor
    ranks: Tensor
    rewards: Tensor
    logprobs: Tensor
    trees: tuple[Tree, ...]

    @cached_property
    def tiles(self) -> list[Tile]:
        """The attention tiles of this batch."""
        return tiles_of(spans_of(self.trees), self.tokens.device)

    @cached_property
    def blocks(self) -> Blocks:
        """The same attention pattern as a block mask for FlexAttention."""
        return Blocks(spans_of(self.trees), self.tokens.device)

    @property
    def branches(self) -> int:
        """C, the number of branches."""
        return len(self.group)

    @staticmethod
    def of(trees: Sequence[Tree], device: torch.device | str = "cpu") -> Trees:
        """Pack the trees end to end: each prompt, then its branches."""
        branches = [branch for tree in trees for branch in tree.branches]
        parts = [part for tree in trees for part in (tree.prompt, *(branch.tokens for branch in tree.branches))]
        length = np.array([len(part) for part in parts], np.int64)  # (S,) for S prompts and branches in layout order
        start = length.cumsum() - length
        end = np.where(length > 0, start + length - 1, -1)
        count = np.array([1 + len(tree.branches) for tree in trees], np.int64)
        root = np.repeat(count.cumsum() - count, count)  # (S,) index of each part's prompt; a prompt's own index
        is_branch = root != np.arange(len(parts))
        tokens = _joined(Ints, parts)
        begins = np.where(is_branch, length[root], 0)  # (S,) position of each part's first token
        source = np.arange(-1, len(tokens) - 1)  # (T,) index of the token that predicts each, -1 where none does
        begun = is_branch & (length > 0)
        source[start[begun]] = end[root[begun]]  # the prompt's last token predicts the first of every branch

        index = np.flatnonzero(np.repeat(is_branch, length))  # indices into T of the branches' tokens
        flags = _joined(Bools, (branch.trained or Bools.of(b"\1" * len(branch.tokens)) for branch in branches))
        trained = flags & (source[index] >= 0)
        logprobs = _joined(Doubles, (branch.logprobs or Doubles.of(NAN * len(branch.tokens)) for branch in branches))
        owner = np.repeat(np.arange(len(branches)), length[is_branch])[trained]
        ranks = [tree.ranks[b] if tree.ranks else 0 for tree in trees for b in range(len(tree.branches))]
        ints = {
            "tokens": tokens,
            "positions": np.arange(len(tokens)) - np.repeat(start - begins, length),
            "source": source[index[trained]],
            "target": tokens[index[trained]],
            "owner": owner,
            "learning": np.unique(owner),
            "group": np.repeat(np.arange(len(trees)), count - 1),
            "last": (start + length - 1)[is_branch],
            "ranks": np.array(ranks, np.int64),
        }
        rewards = np.array([math.nan if branch.reward is None else branch.reward for branch in branches])
        floats = {"rewards": rewards, "logprobs": logprobs[trained]}
        return Trees(**_tensors(ints, np.int64, device), **_tensors(floats, np.float64, device), trees=tuple(trees))


NAN = Doubles((math.nan,)).raw


def _joined(kind: type[Numbers[T]], parts: Iterable[Numbers[T] | tuple[T, ...]]) -> np.ndarray:
    """Concatenate the numbers of all parts into one array."""
    return np.frombuffer(b"".join(kind(part).raw for part in parts), kind.kind)


def _tensors(arrays: Mapping[str, np.ndarray], dtype: type, device: torch.device | str) -> dict[str, Tensor]:
    """Convert arrays to tensors of one dtype with a single copy to the device."""
    together: np.ndarray = np.concatenate([*arrays.values()], dtype=dtype)
    parts = to_device(torch.from_numpy(together), device).split([len(values) for values in arrays.values()])
    return dict(zip(arrays, parts, strict=True))


NOT_COMPUTED = torch.zeros(0)


@dataclass(frozen=True)
class Experience(Trees):
    """Packed samples with the per-token quantities that are fixed before the update.

    Attributes:
        reference: (N,) log-probabilities under the reference, None without one.
        old: (N,) log pi before the first update, computed as in training; None where there is only one update, whose
            own detached log pi serves.
        kl: (N,) log pi - log reference of every token, with log pi from the sampler or from `old`.
        advantage: (N,) the advantage of every token.
        values, returns: (N,) from a value model, where there is one.
        past: (N,) log-probabilities under an earlier version of the policy that it is regularized toward, None without
            one.
    """

    reference: Tensor | None = None
    old: Tensor | None = None
    kl: Tensor = NOT_COMPUTED
    advantage: Tensor = NOT_COMPUTED
    values: Tensor = NOT_COMPUTED
    returns: Tensor = NOT_COMPUTED
    past: Tensor | None = None

    @staticmethod
    def of_samples(trees: Trees) -> Experience:
        """The pack as an `Experience` with nothing computed yet."""
        return Experience(**{field.name: getattr(trees, field.name) for field in fields(Trees)})


def spans_of(trees: Sequence[Tree]) -> list[Span]:
    """The span of each prompt and branch in the flat layout; a branch's span names its prompt's."""
    spans: list[Span] = []
    start = 0
    for tree in trees:
        root = Span(start, len(tree.prompt))
        start += len(tree.prompt)
        if root.length:
            spans.append(root)
        for branch in tree.branches:
            spans.append(Span(start, len(branch.tokens), root))
            start += len(branch.tokens)
    return spans


def pack(trees: Sequence[Tree], budget: int, device: torch.device | str = "cpu") -> list[Trees]:
    """Distribute the trees evenly over as few batches of at most `budget` tokens as possible.

    Trees keep their order within a batch. Packing changes no result (up to rounding), only speed and memory. With
    several ranks, the number of batches is a multiple of the ranks where there are enough trees.
    """
    sizes, ranks = [tree.size for tree in trees], Team.here().size
    return [Trees.of([trees[i] for i in indices], device) for indices in balanced_bins(sizes, budget, ranks)]


def balanced_bins(sizes: Sequence[int], budget: int, multiple: int = 1) -> list[list[int]]:
    """Indices of the items in each bin: as few bins of at most `budget` as possible, evenly filled, indices ascending.

    The number of bins is a multiple of `multiple`, less any that would be empty. Items are placed largest first into
    the emptiest bin, so bins are of nearly equal size and peak memory is low. An item larger than the budget gets its
    own bin.
    """
    if budget < 1:
        raise ValueError(f"a batch needs room for at least one token, not {budget}")
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    for needed in count(multiple * max(1, -(-sum(sizes) // (multiple * budget))), multiple):
        bins: list[list[int]] = [[] for _ in range(needed)]
        totals = [0] * needed
        for i in order:
            k = totals.index(min(totals))
            bins[k].append(i)
            totals[k] += sizes[i]
        if all(total <= budget or len(items) == 1 for items, total in zip(bins, totals, strict=True)):
            break
    return [sorted(items) for items in bins if items]


def on_every_rank(packs: Sequence[Trees], value: Callable[[Trees], Experience]) -> list[Experience]:
    """The experience of every pack, in order; with several ranks each pack is computed on one and sent to all."""
    team = Team.here()
    if team.size == 1:
        return [value(trees) for trees in packs]
    names = {field.name for field in fields(Experience)} - {field.name for field in fields(Trees)}

    def computed(trees: Trees) -> dict[str, Any]:
        batch = value(trees)
        tensors = {name: getattr(batch, name) for name in names}
        return {name: tensor.cpu() for name, tensor in tensors.items() if tensor is not None}

    gathered = team.map(packs, computed)
    return [
        replace(Experience.of_samples(trees), **{name: x.to(trees.tokens.device) for name, x in tensors.items()})
        for trees, tensors in zip(packs, gathered, strict=True)
    ]
