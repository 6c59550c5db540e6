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
    """One of the policy's turns in a conversation: how many of the branch's tokens there are up to its end, and its
    reward, NaN where nothing is said of it."""

    end: int
    reward: float


@dataclass(frozen=True, slots=True)
class Branch:
    """One completion's tokens, the last of them the end-of-turn token unless it was cut.

    `trained` flags the tokens the loss sees (None: all of them). Where it was sampled, `logprobs` are the sampler's;
    where it was scored, `reward` says how good it is. Of a conversation whose turns are learned from each by what
    followed it, `turns` says how good each was.
    """

    tokens: Tokens
    trained: Flags | None = None
    logprobs: LogProbs | None = None
    reward: float | None = None
    turns: tuple[Turn, ...] = ()

    def __post_init__(self) -> None:
        for what, values in (("flags", self.trained), ("log-probabilities", self.logprobs)):
            if values is not None and len(values) != len(self.tokens):
                raise ValueError(f"{len(self.tokens)} tokens but {len(values)} {what}")

    @property
    def score(self) -> float:
        """The reward of a branch that has one; ValueError where it has none."""
        if self.reward is None:
            raise ValueError("the branch has no reward")
        return self.reward


@dataclass(frozen=True, slots=True)
class Tree:
    """A prompt's tokens and its branches.

    `ranks` orders the branches where people did (0 is best, equal ranks tie); `row` is the row of the data the tree
    came from, counted from 0, so that messages can name it; `margin` is by how much the better of two should lead,
    `probability` how likely it is the better one, and `user` whose order it is.
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
        """Tokens the engine computes for this tree: the prompt once, and every branch."""
        return len(self.prompt) + sum(len(b.tokens) for b in self.branches)


@dataclass(frozen=True)
class Trees:
    """A packed batch: T tokens of G trees with C branches, of which N tokens are trained.

    Attributes:
        tokens, positions: (T,) token ids and their positions, restarting at the prompt's end for each branch.
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
        """The blocks of attention this batch needs."""
        return tiles_of(spans_of(self.trees), self.tokens.device)

    @cached_property
    def blocks(self) -> Blocks:
        """The same for FlexAttention."""
        return Blocks(spans_of(self.trees), self.tokens.device)

    @property
    def branches(self) -> int:
        """C, the number of branches."""
        return len(self.group)

    @staticmethod
    def of(trees: Sequence[Tree], device: torch.device | str = "cpu") -> Trees:
        """Lay the trees end to end."""
        branches = [branch for tree in trees for branch in tree.branches]
        parts = [part for tree in trees for part in (tree.prompt, *(branch.tokens for branch in tree.branches))]
        length = np.array([len(part) for part in parts], np.int64)  # (S,) of prompts and branches, as they follow
        start = length.cumsum() - length
        end = np.where(length > 0, start + length - 1, -1)
        count = np.array([1 + len(tree.branches) for tree in trees], np.int64)
        root = np.repeat(count.cumsum() - count, count)  # (S,) which of them each continues; of a prompt it is itself
        is_branch = root != np.arange(len(parts))
        tokens = _joined(Ints, parts)
        begins = np.where(is_branch, length[root], 0)  # (S,) the position of the first token
        source = np.arange(-1, len(tokens) - 1)  # (T,) what predicts each token, -1 where nothing does
        begun = is_branch & (length > 0)
        source[start[begun]] = end[root[begun]]

        place = np.flatnonzero(np.repeat(is_branch, length))  # where in T the branches' tokens are
        flags = _joined(Bools, (branch.trained or Bools.of(b"\1" * len(branch.tokens)) for branch in branches))
        trained = flags & (source[place] >= 0)
        logprobs = _joined(Doubles, (branch.logprobs or Doubles.of(NAN * len(branch.tokens)) for branch in branches))
        owner = np.repeat(np.arange(len(branches)), length[is_branch])[trained]
        ranks = [tree.ranks[b] if tree.ranks else 0 for tree in trees for b in range(len(tree.branches))]
        ints = {
            "tokens": tokens,
            "positions": np.arange(len(tokens)) - np.repeat(start - begins, length),
            "source": source[place[trained]],
            "target": tokens[place[trained]],
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
    """The numbers of all parts in one array."""
    return np.frombuffer(b"".join(kind(part).raw for part in parts), kind.kind)


def _tensors(arrays: Mapping[str, np.ndarray], dtype: type, device: torch.device | str) -> dict[str, Tensor]:
    """Arrays as tensors of one type, which reach the device in one copy."""
    together: np.ndarray = np.concatenate([*arrays.values()], dtype=dtype)
    parts = to_device(torch.from_numpy(together), device).split([len(values) for values in arrays.values()])
    return dict(zip(arrays, parts, strict=True))


NOT_COMPUTED = torch.zeros(0)


@dataclass(frozen=True)
class Experience(Trees):
    """Packed samples, and what was computed of them before the update that learns from them.

    Attributes:
        reference: (N,) log-probabilities under the reference, None without one.
        old: (N,) log pi before the first update as an update computes it; None where there is but one update, whose
            own log pi it is.
        kl: (N,) log pi - log reference of every token, by the sampler's log-probabilities or by `old`.
        advantage: (N,) how much better each token was than expected.
        values, returns: (N,) of a value model, where there is one.
        past: (N,) log-probabilities under an earlier self that the policy is held to, None without one.
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
        """The pack, of which nothing is computed yet."""
        return Experience(**{field.name: getattr(trees, field.name) for field in fields(Trees)})


def spans_of(trees: Sequence[Tree]) -> list[Span]:
    """Where each prompt and each branch lies in the flat layout, and which prompt a branch continues."""
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
    """Share the trees among as few batches of at most `budget` tokens as will do, evenly.

    Within a batch the trees keep their order. No result depends on how trees are packed (up to rounding), only speed
    and memory do. In a team there are as many for each rank, where there are trees enough.
    """
    sizes, ranks = [tree.size for tree in trees], Team.here().size
    return [Trees.of([trees[i] for i in held], device) for held in shared(sizes, budget, ranks)]


def shared(sizes: Sequence[int], budget: int, times: int = 1) -> list[list[int]]:
    """Which of what has these sizes goes together: as few shares of at most `budget` as will do, evenly, each in order.

    There are a multiple of `times`, but for those that would be empty.

    The largest goes first, always to the emptiest share, so shares are of nearly equal size and memory peaks low. What
    is larger than the budget has a share to itself.
    """
    if budget < 1:
        raise ValueError(f"a batch needs room for at least one token, not {budget}")
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    for needed in count(times * max(1, -(-sum(sizes) // (times * budget))), times):
        bins: list[list[int]] = [[] for _ in range(needed)]
        totals = [0] * needed
        for i in order:
            k = totals.index(min(totals))
            bins[k].append(i)
            totals[k] += sizes[i]
        if all(total <= budget or len(held) == 1 for held, total in zip(bins, totals, strict=True)):
            break
    return [sorted(held) for held in bins if held]


def on_every_rank(packs: Sequence[Trees], value: Callable[[Trees], Experience]) -> list[Experience]:
    """The experience of every pack, in their order: in a team each is computed on one rank, and told to all."""
    team = Team.here()
    if team.size == 1:
        return [value(trees) for trees in packs]
    names = {field.name for field in fields(Experience)} - {field.name for field in fields(Trees)}

    def computed(trees: Trees) -> dict[str, Any]:
        batch = value(trees)
        found = {name: getattr(batch, name) for name in names}
        return {name: tensor.cpu() for name, tensor in found.items() if tensor is not None}

    told = team.each(packs, computed)
    return [
        replace(Experience.of_samples(trees), **{name: tensor.to(trees.tokens.device) for name, tensor in of.items()})
        for trees, of in zip(packs, told, strict=True)
    ]
