"""What tests of preference games share: the games, judges by a table, and pairs of all words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from accord.engine.trees import Tree, Trees
from accord.records import Completion, Sample, Verdict
from examples.worlds.enumerable import Enumerable
from examples.worlds.game import Game

COMMON: dict[str, Any] = {"dtype": "float32", "tokens_per_pass": 256}
GAME = Game()
SURE = Game(words=("yes", "no"), preferences=((0.5, 1.0), (0.0, 0.5)), reference=(0.5, 0.5))


def every_pair(game: Game) -> tuple[Trees, Tensor, Tensor]:
    """A tree for every ordered pair of different words, the first preferred; the places of the first and the second."""
    words, branches = range(len(game.words)), game.tree.branches
    first, second = torch.tensor([(i, j) for i in words for j in words if i != j]).T
    trees = [Tree(game.tree.prompt, (branches[i], branches[j]), (0, 1)) for i, j in zip(first, second, strict=True)]
    return Trees.of(trees), first, second


class Table:
    """A judge of the samples of a world by a table, whose entries may be None."""

    def __init__(self, world: Enumerable, table: Sequence[Sequence[float | None]]) -> None:
        self.place, self.table = {s: i for i, s in enumerate(world.sequences)}, table

    def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
        pairs = zip(first, second, strict=True)
        return [Verdict(self.table[self.place[a.completion.tokens]][self.place[b.completion.tokens]]) for a, b in pairs]


def random_table(world: Enumerable) -> list[list[float | None]]:
    """Any preferences: ties on the diagonal and in one more place, one pair without an answer."""
    size = len(world.sequences)
    wins = torch.rand(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    table: list[list[float | None]] = [
        [0.5 if i == j else float(wins[i, j] if i < j else 1 - wins[j, i]) for j in range(size)] for i in range(size)
    ]
    table[1][2] = table[2][1] = 0.5
    table[0][3] = table[3][0] = None
    return table


def words(network: nn.Module) -> list[Sample]:
    """Every word of the game as a sample of the model."""
    with torch.no_grad():
        logps = GAME.distribution(network).log().tolist()
    return [
        Sample(GAME.prompt, "", GAME.tree.prompt, Completion(branch.tokens, (logp,), "length"))
        for branch, logp in zip(GAME.tree.branches, logps, strict=True)
    ]
