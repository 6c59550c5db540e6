"""Sums and directions of embeddings, by hand."""

from __future__ import annotations

import pytest
import torch

from accord.engine.directions import along, analogy, differences, left_out, toward

ROWS = torch.tensor([[2.0, 0], [2, 1], [0, 1], [0, 3], [1, 4], [-1, 0]])
"""0 and 1, 2 and 3 are pairs: differences (0, 1) and (0, 2)."""


def test_an_analogy_by_hand() -> None:
    # 1 - 0 + 2 is (0, 2). Cosines: of 3 1, of 4 4 / sqrt 17, of 5 0; of its own 0 0, 1 1 / sqrt 5, 2 1.
    ids, cosines = analogy(ROWS, [1, 2], [0], 9)
    assert ids.tolist() == [3, 4, 5]
    torch.testing.assert_close(cosines, torch.tensor([1.0, 4 / 17**0.5, 0.0]))
    own = toward(ROWS, [1, 2], [0])[[0, 1, 2]]
    torch.testing.assert_close(own, torch.tensor([0.0, 1 / 5**0.5, 1.0]))
    assert analogy(ROWS, [1, 2], [0], 1)[0].tolist() == [3]


def test_a_word_taken_twice_counts_twice() -> None:
    # 1 + 1 - 0 is (2, 2).
    assert float(toward(ROWS, [1, 1], [0])[2]) == pytest.approx(0.5**0.5)
    assert analogy(ROWS, [1, 1], [0], 9)[0].tolist()[::3] == [4, 5]


def test_a_direction_by_hand() -> None:
    found = differences(ROWS, [(0, 1), (2, 3)])
    assert found.tolist() == [[0, 1], [0, 2]]
    assert left_out(found).tolist() == [[0, 2], [0, 1]]
    assert left_out(found[:1]).tolist() == [[0, 1]]
    dots, cosines = along(ROWS, [4, 5], found.mean(0))  # along (0, 1.5)
    assert dots.tolist() == [6.0, 0.0]
    torch.testing.assert_close(cosines, torch.tensor([4 / 17**0.5, 0.0]))
