"""Leads: of scores, and of models that read tokens, where completions may be cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from accord.engine.models import Policy
from accord.engine.trees import Tree
from accord.errors import InputError
from accord.evaluate.leads import BRANCHES, ModelLeads, ScoreLeads
from accord.records import Comparison
from tests.data.conftest import word_tokenizer


class Reader:
    """Stands for a model: a tokenizer of a token a word, an end of turn, and a context."""

    def __init__(self, context: int | None = None) -> None:
        self.tokenizer = word_tokenizer(template=None)
        self.end, self.ends, self.context = 2, (2,), context


def summed(trees: Sequence[Tree]) -> Tensor:
    """The sum of a completion's tokens as its score."""
    return torch.tensor([[float(sum(b.tokens))] for t in trees for b in t.branches])


def led(comparisons: Sequence[Comparison], max_length: int = 99, context: int | None = None):  # type: ignore[no-untyped-def]
    reader: Policy = Reader(context)  # type: ignore[assignment]
    return ModelLeads(reader, summed, max_length)(comparisons)


def test_scores_are_asked_for_once_a_text() -> None:
    asked: list[object] = []

    def score(texts: Sequence[tuple[object, object]]) -> Tensor:
        asked.extend(texts)
        return torch.tensor([float(len(str(text))) for _, text in texts])

    found = ScoreLeads(score)([Comparison("p", "aaa", "b"), Comparison("p", "b", "aaa"), Comparison("q", "b", "b")])
    assert found.lead.tolist() == [2.0, -2.0, 0.0]
    assert asked == [("p", "aaa"), ("p", "b"), ("q", "b")]


def test_the_lead_is_the_difference_of_outputs() -> None:
    # hi hello good bad day bye are the tokens 6 to 11, and the end of turn cancels.
    pairs = [Comparison("hi", "good day", "bad"), Comparison("bye", "bad", "bye bye"), Comparison("hi", "bad", "bad")]
    found = led(pairs)
    assert found.lead.tolist() == [8 + 10 - 9, 9 - 22, 0.0]
    assert found.read.all() and found.whole.all()


def test_planes_enter_the_lead() -> None:
    # Outputs (s, a, b) = (0, 1, 2) and (5, 3, 4): 0 - 5 + 1 * 4 - 2 * 3 = -7, and with the two swapped 7.
    rows = torch.tensor([[0.0, 1.0, 2.0], [5.0, 3.0, 4.0]])
    reader: Policy = Reader()  # type: ignore[assignment]
    found = ModelLeads(reader, lambda trees: rows, 99)(
        [Comparison("hi", "good", "bad"), Comparison("hi", "bad", "good")]
    )
    assert found.lead.tolist() == [-7.0, 7.0]


@pytest.mark.parametrize("limits", [{"max_length": 4}, {"context": 4}])
def test_what_is_cut_is_told(limits: dict[str, int]) -> None:
    # Four tokens: a prompt of one and three of the completion. Whole: good + end. Cut: good day bye (+ end), of which
    # good day good differs within the room, good day bye hi does not. A prompt of four words leaves no room.
    long = "hi hi hi hi"
    pairs = [
        Comparison("hi", "good", "bad"),
        Comparison("hi", "good day bye", "good day good"),
        Comparison("hi", "good day bye", "good day bye hi"),
        Comparison("hi", "good day bye", "good"),
        Comparison(long, "good", "bad"),
    ]
    found = led(pairs, **limits)
    assert found.lead == pytest.approx([-1.0, 3.0, np.nan, 8 + 10 + 11 - 8 - 2, np.nan], nan_ok=True)
    assert found.read.tolist() == [True, True, False, True, False]
    assert found.whole.tolist() == [True, False, False, False, False]


def test_where_no_prompt_leaves_room_nothing_can_be_measured() -> None:
    with pytest.raises(InputError, match="no row is left"):
        led([Comparison("hi hi hi", "good", "bad")], max_length=3)


def test_many_completions_of_one_prompt_share_several_trees() -> None:
    words = ["hi", "hello", "good", "bad", "day", "bye"]
    texts = [f"{a} {b}" for a in words for b in words]
    trees: list[Tree] = []

    def outputs(given: Sequence[Tree]) -> Tensor:
        trees.extend(given)
        return summed(given)

    reader: Policy = Reader()  # type: ignore[assignment]
    found = ModelLeads(reader, outputs, 99)([Comparison("hi", a, b) for a in texts for b in texts])
    tokens = np.array([6.0, 7, 8, 9, 10, 11])
    sums = (tokens[:, None] + tokens).ravel()
    assert found.lead.tolist() == (sums[:, None] - sums).ravel().tolist()
    assert [len(t.branches) for t in trees] == [BRANCHES] * 4 + [4]
