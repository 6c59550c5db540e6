"""Rankings: Bradley-Terry over all pairs of a prompt, Plackett-Luce, and real orders by both."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from accord.objectives.preference import bradley_terry, centering, plackett_luce, ranking, strict_pairs
from tests.objectives.worlds import ZERO3, minimize, vector

scores_of = st.lists(st.floats(-5, 5), min_size=2, max_size=4)

# 588 people's orders of four films: 1 Mean Girls, 2 Beverly Hills Cop, 3 The Mummy Returns, 4 Mission: Impossible II,
# best first (PrefLib 00004-00000138, from the Netflix prize).
NETFLIX = {
    "2143": 68, "1243": 53, "2134": 49, "1234": 44, "2413": 39, "3214": 37, "2314": 37, "2341": 36,
    "3241": 31, "2431": 29, "1324": 22, "3124": 19, "3421": 17, "4231": 17, "4213": 16, "1423": 14,
    "1342": 10, "4123": 10, "4312": 9, "3412": 8, "1432": 8, "3142": 7, "4321": 7, "4132": 1,
}  # fmt: skip


def netflix() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every distinct order as one group: items, groups, ranks (96,), and how many people gave each order (24,)."""
    items = torch.tensor([int(film) - 1 for order in NETFLIX for film in order])
    groups = torch.arange(24).repeat_interleave(4)
    return items, groups, torch.arange(4).repeat(24), torch.tensor(list(NETFLIX.values()), dtype=torch.float64)


def test_ranking_is_the_mean_over_the_pairs_of_a_prompt() -> None:
    # Ranks 0 < 1 < 2 over scores log 3, 0, 0: pairs (0,1) and (0,2) cost log(4/3) each, (1,2) costs log 2.
    # A second prompt of two costs log 2. Completions of the two prompts are interleaved.
    scores, groups, ranks = vector(0, math.log(3), 5, 0, 5), [0, 0, 1, 0, 1], [2, 0, 1, 1, 0]
    losses = ranking(scores, torch.tensor(groups), torch.tensor(ranks))
    torch.testing.assert_close(losses, vector((2 * math.log(4 / 3) + math.log(2)) / 3, math.log(2)))


def test_ranking_leaves_ties_out_and_a_prompt_of_ties_is_zero_with_zero_gradient() -> None:
    # {0, 1} tie above 2: pairs (0,2) and (1,2). Scores 1, 2, 0: mean of log(1 + 1/e) and log(1 + 1/e^2).
    scores = vector(1, 2, 0, 7, -7).requires_grad_()
    losses = ranking(scores, torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 3, 3]))
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 2
    torch.testing.assert_close(losses.detach(), vector(expected, 0.0))
    losses[1].backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [0.0] * 5


def test_centering_by_hand() -> None:
    # Scores 1 2 of ranks 0 1: (1 + 2)^2. Scores 0 -1 3 of ranks 1 0 1: the strict pairs (-1, 0) and (-1, 3) give 1 and
    # 4. A prompt of ties has no pair.
    groups, ranks = torch.tensor([0, 0, 1, 1, 1, 2, 2]), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    found = centering(vector(1, 2, 0, -1, 3, 7, 7), groups, ranks)
    torch.testing.assert_close(found, vector(9, 2.5, 0))


@given(scores_of, st.floats(0.001, 10))
def test_centering_gives_a_zero_and_keeps_the_differences(scores: list[float], coefficient: float) -> None:
    # Of all shifts of two scores the best has the sum 0, whatever the coefficient: Bradley and Terry's loss ignores it.
    pair, (groups, ranks) = vector(*scores[:2]), (torch.zeros(2, dtype=torch.long), torch.tensor([0, 1]))

    def loss(shift: Tensor) -> Tensor:
        return (ranking(pair + shift, groups, ranks) + coefficient * centering(pair + shift, groups, ranks)).sum()

    best = -pair.mean()
    (slope,) = torch.autograd.grad(loss(best.requires_grad_()), best)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)
    assert loss(best + 0.1) > loss(best) < loss(best - 0.1)


def test_netflix_by_all_pairs_bradley_terry() -> None:
    # Published fit of the all-pairs logits, centered: .0404 .6926 -.2456 -.4874.
    items, groups, ranks, people = netflix()
    scores = minimize(lambda x: (ranking(x[items], groups, ranks) * people).sum(), 4)
    torch.testing.assert_close(scores - scores.mean(), vector(0.0404, 0.6926, -0.2456, -0.4874), atol=6e-5, rtol=0)


def test_netflix_by_plackett_luce() -> None:
    # Published fit of the PlackettLuce package: worths .230601 .451225 .168407 .149766, log-likelihood -1746.7579.
    items, groups, ranks, people = netflix()
    scores = minimize(lambda x: (plackett_luce(x[items], groups, ranks) * people).sum(), 4)
    worths = scores.softmax(0)
    torch.testing.assert_close(worths, vector(0.230601, 0.451225, 0.168407, 0.149766), atol=6e-7, rtol=0)
    loss = (plackett_luce(scores[items], groups, ranks) * people).sum()
    assert loss.item() == pytest.approx(1746.7579, abs=6e-5)


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_two_completions_make_every_ranking_loss_bradley_terry(a: float, b: float) -> None:
    groups, ranks = torch.tensor([0, 0]), torch.tensor([1, 0])
    expected = bradley_terry(vector(b), vector(a))
    torch.testing.assert_close(plackett_luce(vector(a, b), groups, ranks), expected)
    torch.testing.assert_close(ranking(vector(a, b), groups, ranks), expected)


def test_plackett_luce_literal() -> None:
    # Weights 3, 2, 1 in order: P = 3/6 * 2/3 * 1 = 1/3. Given as ranks out of order and with gaps.
    scores = vector(1, 2, 3).log()
    torch.testing.assert_close(plackett_luce(scores, ZERO3, torch.tensor([9, 4, 0])), vector(math.log(3)))


def test_plackett_luce_ties_sum_over_the_orders_they_allow() -> None:
    # Weights 3, 2, 1. {0, 1} above 2 is 0>1>2 or 1>0>2: 3/6 * 2/3 + 2/6 * 3/4 = 7/12. 0 above {1, 2} is 3/6.
    scores = vector(3, 2, 1).log()
    torch.testing.assert_close(plackett_luce(scores, ZERO3, torch.tensor([0, 0, 1])), vector(math.log(12 / 7)))
    torch.testing.assert_close(plackett_luce(scores, ZERO3, torch.tensor([0, 1, 1])), vector(math.log(2)))
    assert plackett_luce(scores, ZERO3, torch.tensor([1, 1, 1])).tolist() == [0.0]


@given(scores_of)
@settings(max_examples=25)
def test_plackett_luce_orders_have_total_probability_one(numbers: list[float]) -> None:
    scores, groups = vector(*numbers), torch.zeros(len(numbers), dtype=torch.long)
    orders = [plackett_luce(scores, groups, torch.tensor(p)).neg().exp() for p in permutations(range(len(numbers)))]
    assert sum(order.item() for order in orders) == pytest.approx(1.0, abs=1e-12)


@given(scores_of, st.data())
@settings(max_examples=25)
def test_plackett_luce_ties_are_their_orders_together(numbers: list[float], data: st.DataObject) -> None:
    count = len(numbers)
    ranks = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    scores, groups = vector(*numbers), torch.zeros(count, dtype=torch.long)
    agreeing = [
        order
        for order in permutations(range(count))
        if all(order[i] < order[j] for i in range(count) for j in range(count) if ranks[i] < ranks[j])
    ]
    total = sum(plackett_luce(scores, groups, torch.tensor(order)).neg().exp().item() for order in agreeing)
    assert plackett_luce(scores, groups, torch.tensor(ranks)).neg().exp().item() == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("loss", [ranking, plackett_luce])
def test_ranking_losses_ignore_a_shift_of_a_prompts_scores(loss) -> None:
    scores, groups, ranks = vector(1, -2, 0.5, 3, 0), torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 1, 1, 0])
    shift = vector(7, 7, 7, -3, -3)
    torch.testing.assert_close(loss(scores + shift, groups, ranks), loss(scores, groups, ranks))


def test_ranking_losses_are_stable_at_huge_margins() -> None:
    # {0, 1} above 2 with scores -1e4, 1e4, 0: the pair (0, 2) costs 1e4 and (1, 2) nothing. The tie is as likely as 2
    # coming last, which is 0 preceding 2: 1e4 as well.
    scores = torch.tensor([-1e4, 1e4, 0.0], requires_grad=True)
    ranks = torch.tensor([0, 0, 1])
    assert ranking(scores, ZERO3, ranks).tolist() == [5e3]
    loss = plackett_luce(scores, ZERO3, ranks)
    loss.sum().backward()
    assert loss.tolist() == [1e4]
    assert scores.grad is not None
    assert scores.grad.tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize("loss", [ranking, plackett_luce])
def test_ranking_losses_refuse_groups_with_gaps(loss) -> None:
    with pytest.raises(ValueError, match="group 1 has no completions"):
        loss(vector(1, 2), torch.tensor([0, 2]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="ranks must be 2 integers"):
        loss(vector(1, 2), torch.tensor([0, 0]), torch.tensor([0.0, 1.0]))


def test_strict_pairs_are_those_of_one_prompt_with_different_ranks() -> None:
    better, worse = strict_pairs(torch.tensor([0, 1, 0, 0, 1]), torch.tensor([2, 0, 0, 2, 1]))
    assert list(zip(better.tolist(), worse.tolist(), strict=True)) == [(1, 4), (2, 0), (2, 3)]
