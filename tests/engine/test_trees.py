"""The flat layout by hand, and packing."""

from __future__ import annotations

import math
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.engine.tiles import Span
from accord.engine.trees import Branch, Tree, Trees, pack, spans_of
from tests.engine.tiny import tree_lists

# Tokens      5 6 | 7 8 9 | 10 11 | 12 13        the second tree has no prompt
# Flat index  0 1 | 2 3 4 |  5  6 |  7  8
FIRST = Tree((5, 6), (Branch((7, 8, 9), (True, False, True), reward=0.5), Branch((10, 11))), ranks=(1, 0), row=0)
SECOND = Tree((), (Branch((12, 13), logprobs=(-1.0, -2.0)),), row=1)


def test_the_layout_by_hand() -> None:
    trees = Trees.of([FIRST, SECOND])
    assert trees.tokens.tolist() == [5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert trees.positions.tolist() == [0, 1, 2, 3, 4, 2, 3, 0, 1]
    # 7 and 10 are both predicted at the prompt's end; 8 is untrained; nothing precedes 12, so nothing predicts it.
    assert trees.target.tolist() == [7, 9, 10, 11, 13]
    assert trees.source.tolist() == [1, 3, 1, 5, 7]
    assert trees.owner.tolist() == [0, 0, 1, 1, 2]
    assert trees.group.tolist() == [0, 0, 1]
    assert trees.last.tolist() == [4, 6, 8]
    assert trees.ranks.tolist() == [1, 0, 0]
    assert trees.branches == 3
    assert [math.isnan(x) for x in trees.logprobs.tolist()] == [True, True, True, True, False]
    assert trees.logprobs.tolist()[4] == -2.0
    assert trees.rewards.tolist()[0] == 0.5 and math.isnan(trees.rewards.tolist()[1])
    assert (FIRST.size, SECOND.size) == (7, 2)


def test_spans_by_hand() -> None:
    prompt = Span(0, 2)
    assert spans_of([FIRST, SECOND]) == [prompt, Span(2, 3, prompt), Span(5, 2, prompt), Span(7, 2, Span(7, 0))]


def test_the_end_of_turn_is_trained_whatever_it_is() -> None:
    # The end token 0 stands twice, once in the middle; both are targets, the last at the branch's end.
    trees = Trees.of([Tree((3,), (Branch((0, 4, 0)),))])
    assert trees.target.tolist() == [0, 4, 0]
    assert trees.last.tolist() == [3]


def test_packing_by_hand() -> None:
    # Sizes 5 3 2 2 and room for 6: 12 tokens need two batches. The longest first to the emptiest: 5 | 3, 2, then 2
    # would make 7 in either, so there are three: 5 | 3 | 2 2.
    trees = [Tree((), (Branch((1,) * size),), row=row) for row, size in enumerate((5, 3, 2, 2))]
    assert [[t.row for t in p.trees] for p in pack(trees, 6)] == [[0], [1], [2, 3]]
    assert [[t.row for t in p.trees] for p in pack(trees, 7)] == [[0, 3], [1, 2]]
    assert [[t.row for t in p.trees] for p in pack(trees, 4)] == [[0], [1], [2, 3]]  # 5 has a batch to itself


@settings(max_examples=100)
@given(tree_lists(most=8), st.integers(1, 40))
def test_packs_hold_every_tree_once_in_order_and_within_budget(trees: list[Tree], budget: int) -> None:
    packs = pack(trees, budget)
    rows = [[t.row for t in p.trees] for p in packs]
    assert sorted(chain(*rows)) == [t.row for t in trees]
    assert all(r == sorted(r) for r in rows)
    assert all(len(p.tokens) <= budget or len(p.trees) == 1 for p in packs)
    assert sum(len(p.target) for p in packs) == len(Trees.of(trees).target)


def test_a_batch_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="room for at least one token, not 0"):
        pack([FIRST], 0)
