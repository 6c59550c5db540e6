from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from accord.objectives.preference import (
    bradley_terry,
    centering,
    dpo,
    general_preference,
    general_ranking,
    ipo,
    kto,
    plackett_luce,
    ranking,
    strict_pairs,
)
from tests.objectives.worlds import CYCLIC, minimize, vector

scores_of = st.lists(st.floats(-5, 5), min_size=2, max_size=4)
ZERO3 = torch.zeros(3, dtype=torch.long)

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


# Bradley-Terry


def test_bradley_terry_literals() -> None:
    # -log sigmoid(0) = log 2; -log sigmoid(log 3) = log(1 + 1/3) = log(4/3); a margin of log 3 takes it back to log 2.
    losses = bradley_terry(vector(1.0, math.log(3)), vector(1.0, 0.0))
    torch.testing.assert_close(losses, vector(math.log(2), math.log(4 / 3)))
    torch.testing.assert_close(bradley_terry(vector(math.log(3)), vector(0.0), math.log(3)), vector(math.log(2)))
    by_pair = bradley_terry(vector(1, 2), vector(0, 0), vector(1, 2))
    torch.testing.assert_close(by_pair, vector(math.log(2), math.log(2)))


def test_bradley_terry_is_logistic_regression_on_score_differences() -> None:
    # Item 0 beats item 1 three times of four, item 1 beats item 2 once of five. On a chain the maximum-likelihood
    # differences are the log odds of each link: log 3 and log(1/4).
    chosen, rejected = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2]), torch.tensor([1, 1, 1, 0, 2, 1, 1, 1, 1])
    scores = minimize(lambda x: bradley_terry(x[chosen], x[rejected]).sum(), 3)
    torch.testing.assert_close(-scores.diff(), vector(math.log(3), -math.log(4)), atol=1e-6, rtol=0)


def test_a_cycle_of_three_teaches_nothing() -> None:
    # 0 > 1 > 2 > 0: the gradient at equal scores is -1/2 + 1/2 for every item, and the loss is convex.
    start = vector(0.3, -1.5, 1.2)
    scores = start + minimize(lambda x: bradley_terry(start + x, (start + x).roll(-1)).sum(), 3)
    torch.testing.assert_close(scores, vector(0, 0, 0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bradley_terry_is_stable_at_huge_margins(dtype: torch.dtype) -> None:
    # -log sigmoid(z) is 0 for z = 1e4 and 1e4 for z = -1e4; the gradients are 0 and -1.
    chosen = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    losses = bradley_terry(chosen, torch.zeros(2, dtype=dtype))
    losses.sum().backward()
    assert losses.tolist() == [0.0, torch.tensor(1e4, dtype=dtype).item()]
    assert chosen.grad is not None
    assert chosen.grad.tolist() == [0.0, -1.0]


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_bradley_terry_gives_both_verdicts_total_probability_one(a: float, b: float) -> None:
    first, second = bradley_terry(vector(a, b), vector(b, a)).neg().exp().tolist()
    assert first + second == pytest.approx(1.0, abs=1e-12)


def test_bradley_terry_refuses_vectors_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="chosen 2, rejected 3"):
        bradley_terry(vector(1, 2), vector(1, 2, 3))
    with pytest.raises(ValueError, match="margin must be one number"):
        bradley_terry(vector(1, 2), vector(1, 2), vector(1, 2, 3))
    with pytest.raises(ValueError, match="floating-point"):
        bradley_terry(torch.tensor([1]), torch.tensor([0]))


# Rankings


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


# Preferences that may run in circles


@st.composite
def two_completions(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    width = 1 + 2 * draw(st.integers(0, 5))
    numbers = st.lists(st.floats(-1e3, 1e3, width=32), min_size=width, max_size=width)
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return torch.tensor([draw(numbers)], dtype=dtype), torch.tensor([draw(numbers)], dtype=dtype)


def test_general_preference_literal() -> None:
    # s 2 - .5; first plane 1 * 4 - 2 * 3 = -2; second plane -1 * .5 - 0 * 7 = -.5: 1.5 - 2.5 = -1.
    first, second = vector(2, 1, 2, -1, 0), vector(0.5, 3, 4, 7, 0.5)
    assert general_preference(first[None], second[None]).tolist() == [-1.0]
    both = torch.stack([first, second])
    assert general_preference(both[:, None], both).tolist() == [[0.0, -1.0], [1.0, 0.0]]


@given(two_completions())
def test_general_preference_is_antisymmetric_to_the_last_bit(pair: tuple[Tensor, Tensor]) -> None:
    first, second = pair
    odds, turned = general_preference(first, second), general_preference(second, first)
    assert torch.equal(odds, -turned)
    assert torch.sigmoid(odds.double()).item() + torch.sigmoid(turned.double()).item() == pytest.approx(1, abs=1e-15)
    assert general_preference(first, first).item() == 0
    assert torch.sigmoid(general_preference(first, first)).item() == 0.5


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_without_planes_it_is_bradley_terry(a: float, b: float) -> None:
    rows = vector(a, b)[:, None]
    groups, ranks = torch.tensor([0, 0]), torch.tensor([1, 0])
    torch.testing.assert_close(general_preference(rows[:1], rows[1:]), vector(a - b))
    torch.testing.assert_close(general_ranking(rows, groups, ranks), bradley_terry(vector(b), vector(a)))


@given(st.lists(st.floats(-5, 5), min_size=5, max_size=5), st.permutations(range(3)))
def test_without_planes_and_ties_the_loss_is_that_of_ranking(scores: list[float], order: list[int]) -> None:
    groups, ranks = torch.tensor([1, 0, 1, 0, 1]), torch.tensor([order[0], 1, order[1], 0, order[2]])
    losses = general_ranking(vector(*scores)[:, None], groups, ranks)
    torch.testing.assert_close(losses, ranking(vector(*scores), groups, ranks))


def test_general_ranking_counts_a_tie_as_half_a_win_for_each() -> None:
    # Scores log 3, 0, 0 of ranks 0 1 1: pairs (0,1), (0,2) cost log(4/3), the tie at even odds log 2. Tied with its
    # ranks equal, log-odds log 3 cost half log(4/3) and half log 4. One completion alone has no pairs.
    rows = vector(math.log(3), 0, 0, math.log(3), 0, 7)[:, None]
    losses = general_ranking(rows, torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 5, 5, 0]))
    expected = vector((2 * math.log(4 / 3) + math.log(2)) / 3, (math.log(4 / 3) + math.log(4)) / 2, 0)
    torch.testing.assert_close(losses, expected)


def test_a_tie_s_optimum_is_even_odds() -> None:
    # Two completions that only ever tie, from unequal scores and points: the least loss is log 2, at log-odds 0.
    start = torch.stack([vector(1, 0.5, -1), vector(-1, 2, 0.3)])
    zeros = torch.zeros(2, dtype=torch.long)

    def loss(x: Tensor) -> Tensor:
        return general_ranking(start + x.view(2, 3), zeros, zeros).sum()

    found = start + minimize(loss, 6).view(2, 3)
    assert general_preference(found[0], found[1]).item() == pytest.approx(0, abs=1e-6)
    assert loss((found - start).flatten()).item() == pytest.approx(math.log(2), abs=1e-12)


def test_one_plane_represents_a_cycle_that_no_scores_do() -> None:
    # CYCLIC has log-odds log 9, log 4, log 4 around 0 > 1 > 2 > 0. Points (log 9, 0), (log 4, 1) and (x, y) with
    # log 9 * 1 - 0 * log 4 = log 9, log 9 * y - 0 = -log 4 (2 beats 0) and log 4 * y - x = log 4 give the three.
    y = -math.log(4) / math.log(9)
    rows = torch.stack([vector(0, math.log(9), 0), vector(0, math.log(4), 1), vector(0, math.log(4) * (y - 1), y)])
    torch.testing.assert_close(torch.sigmoid(general_preference(rows[:, None], rows)), CYCLIC)


def test_a_score_and_one_plane_represent_any_preferences_among_four() -> None:
    # M antisymmetric (4, 4), x with sum 1 and s = M x: M - s 1' + 1 s' takes x to M x - s + (x' M' x) 1 = 0, so it has
    # rank 2 and is a b' - b a' with a its first column and b its second over its entry [0, 1].
    square = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    odds, x = square - square.T, vector(0.1, 0.2, 0.3, 0.4)
    s = odds @ x
    rest = odds - (s[:, None] - s)
    rows = torch.stack([s, rest[:, 0], rest[:, 1] / rest[0, 1]], dim=1)
    torch.testing.assert_close(general_preference(rows[:, None], rows), odds)


def test_general_ranking_is_stable_at_huge_odds() -> None:
    # A cyclic part of 1e4 against the ranks costs 1e4, along with them nothing.
    rows = torch.tensor([[0.0, 100.0, 0.0], [0.0, 0.0, 100.0]], requires_grad=True)
    zeros = torch.zeros(2, dtype=torch.long)
    assert general_ranking(rows, zeros, torch.tensor([0, 1])).tolist() == [0.0]
    loss = general_ranking(rows, zeros, torch.tensor([1, 0]))
    loss.sum().backward()
    assert loss.tolist() == [1e4]
    assert rows.grad is not None
    assert rows.grad.tolist() == [[1.0, 100.0, 0.0], [-1.0, 0.0, 100.0]]


def test_general_preference_refuses_rows_that_are_no_score_and_planes() -> None:
    with pytest.raises(ValueError, match="first must hold rows of 1 \\+ 2k floating-point numbers"):
        general_preference(vector(1, 2)[None], vector(1, 2)[None])
    with pytest.raises(ValueError, match="second must hold rows"):
        general_preference(vector(1), torch.tensor([1]))
    with pytest.raises(ValueError, match="rows of equal length: first 1, second 3"):
        general_preference(vector(1), vector(1, 2, 3))
    with pytest.raises(ValueError, match="one row a completion"):
        general_ranking(vector(1, 2, 3), ZERO3, ZERO3)
    with pytest.raises(ValueError, match="group 0 has no completions"):
        general_ranking(vector(1, 2, 3)[:, None], ZERO3 + 1, ZERO3)


def test_strict_pairs_are_those_of_one_prompt_with_different_ranks() -> None:
    better, worse = strict_pairs(torch.tensor([0, 1, 0, 0, 1]), torch.tensor([2, 0, 0, 2, 1]))
    assert list(zip(better.tolist(), worse.tolist(), strict=True)) == [(1, 4), (2, 0), (2, 3)]


# Direct optimization


def expected_over_pairs(loss, logits: Tensor, reference: Tensor, wins: Tensor, weight: Tensor) -> Tensor:
    """The mean of a margin loss over pairs (i, j) drawn with `weight`, of which i wins with probability wins[i, j]."""
    i, j = torch.ones_like(wins).nonzero(as_tuple=True)
    logp, log_reference = logits.log_softmax(0), reference.log()
    losses = loss(logp[i] - logp[j], log_reference[i] - log_reference[j])
    return (weight[i, j] * wins[i, j] * losses).sum()


def test_dpo_literals() -> None:
    # beta (m - m_ref) = .5 * (2 log 3 - 0) = log 3: -log sigmoid is log(4/3), -log sigmoid of the flip is log 4.
    margins, reference = vector(2 * math.log(3)), vector(0.0)
    torch.testing.assert_close(dpo(margins, reference, beta=0.5), vector(math.log(4 / 3)))
    smoothed = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    torch.testing.assert_close(dpo(margins, reference, beta=0.5, label_smoothing=0.1), vector(smoothed))
    torch.testing.assert_close(dpo(reference, reference, beta=0.1), vector(math.log(2)))


def test_dpo_optimum_is_the_reference_tilted_by_the_reward() -> None:
    reward, reference, beta = vector(1.0, 0.2, -0.5), vector(0.5, 0.3, 0.2), 0.4
    wins = torch.sigmoid(reward[:, None] - reward)
    weight = torch.outer(vector(0.2, 0.5, 0.3), vector(0.2, 0.5, 0.3))

    def loss(policy_margin: Tensor, reference_margin: Tensor) -> Tensor:
        return dpo(policy_margin, reference_margin, beta=beta)

    logits = minimize(lambda x: expected_over_pairs(loss, x, reference, wins, weight), 3)
    torch.testing.assert_close(logits.softmax(0), (reference.log() + reward / beta).softmax(0), atol=1e-6, rtol=0)
    # So the gaps of the implicit reward beta log(pi / pi_ref) are those of the true one: .8 and .7.
    implicit = beta * (logits.log_softmax(0) - reference.log())
    torch.testing.assert_close(-implicit.diff(), vector(0.8, 0.7), atol=1e-6, rtol=0)


def test_dpo_label_smoothing_keeps_the_optimum_finite_where_labels_agree() -> None:
    # Always the same winner, e = .1: the smoothed loss has its minimum at sigmoid(beta z) = .9, so z = log 9 / beta.
    margin = minimize(lambda x: dpo(x, torch.zeros_like(x), beta=0.5, label_smoothing=0.1).sum(), 1)
    assert margin.item() == pytest.approx(math.log(9) / 0.5, abs=1e-6)


def test_dpo_is_stable_and_the_reference_gets_no_gradient() -> None:
    policy = torch.tensor([1e5, -1e5], requires_grad=True)
    reference = torch.zeros(2, requires_grad=True)
    losses = dpo(policy, reference, beta=0.1)
    losses.sum().backward()
    assert losses.tolist() == [0.0, 1e4]
    assert policy.grad is not None
    torch.testing.assert_close(policy.grad, torch.tensor([0.0, -0.1]))
    assert reference.grad is None


def test_dpo_refuses_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="beta must be above 0, not 0"):
        dpo(vector(1), vector(0), beta=0)
    with pytest.raises(ValueError, match=r"label_smoothing must lie between 0\.0 and 0\.5, not 0\.6"):
        dpo(vector(1), vector(0), beta=0.1, label_smoothing=0.6)


def test_ipo_literals() -> None:
    # tau .1 aims at a margin of 5 above the reference: (2 - 1 - 5)^2 = 16, and 0 at the aim.
    assert ipo(vector(2, 6), vector(1, 1), tau=0.1).tolist() == [16.0, 0.0]


def test_ipo_population_optimum() -> None:
    # pi_ref exp(p(y beats mu) / tau) / Z. p(y beats mu) = P mu = (.59, .29, .59); the exponents .59/.1 and .29/.1 give
    # (.5 e^5.9, .3 e^2.9, .2 e^5.9) normalized = (.699363, .020892, .279745).
    mu, reference = vector(0.6, 0.3, 0.1), vector(0.5, 0.3, 0.2)

    def loss(policy_margin: Tensor, reference_margin: Tensor) -> Tensor:
        return ipo(policy_margin, reference_margin, tau=0.1)

    logits = minimize(lambda x: expected_over_pairs(loss, x, reference, CYCLIC, torch.outer(mu, mu)), 3)
    torch.testing.assert_close(logits.softmax(0), vector(0.699363, 0.020892, 0.279745), atol=6e-7, rtol=0)


def test_ipo_stays_near_the_reference_where_dpo_runs_away() -> None:
    # Two actions, the first always wins, uniform reference: IPO's optimum is sigmoid(1 / (2 tau)), and the gradient of
    # DPO never vanishes.
    tau = 0.5
    aim = minimize(lambda x: ipo(x, torch.zeros_like(x), tau=tau).sum(), 1)
    assert torch.sigmoid(aim).item() == pytest.approx(0.7310585786, abs=1e-9)
    far = vector(50.0).requires_grad_()
    dpo(far, vector(0.0), beta=tau).sum().backward()
    assert far.grad is not None
    assert far.grad.item() == pytest.approx(-tau * math.exp(-25), rel=1e-6)


def test_kto_literals() -> None:
    # beta (r - z0) = .5 * (2 log 3) = log 3, sigmoid .75. Desirable: 2 (1 - .75) = .5. Undesirable: 3 (1 - .25) = 2.25.
    log_ratio = vector(2 * math.log(3) + 1, 2 * math.log(3) + 1)
    losses = kto(log_ratio, torch.tensor([True, False]), 1.0, beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    torch.testing.assert_close(losses, vector(0.5, 2.25))


@given(st.floats(-3, 3), st.floats(0, 3), st.floats(0, 1).filter(lambda p: abs(p - 0.5) > 0.01))
def test_kto_follows_the_majority_label_wherever_the_policy_stands(ratio: float, baseline: float, p: float) -> None:
    log_ratio = vector(ratio, ratio).requires_grad_()
    losses = kto(log_ratio, torch.tensor([True, False]), baseline, beta=0.3)
    (losses * vector(p, 1 - p)).sum().backward()
    assert log_ratio.grad is not None
    assert math.copysign(1, log_ratio.grad.sum().item()) == (-1.0 if p > 0.5 else 1.0)


def test_kto_baseline_has_no_gradient_and_extremes_are_finite() -> None:
    baseline = torch.tensor(0.5, requires_grad=True)
    log_ratio = torch.tensor([1e5, -1e5], requires_grad=True)
    losses = kto(log_ratio, torch.tensor([True, True]), baseline, beta=0.1)
    losses.sum().backward()
    assert losses.tolist() == [0.0, 1.0]
    assert baseline.grad is None
    assert log_ratio.grad is not None
    assert log_ratio.grad.tolist() == [0.0, 0.0]


def test_kto_refuses_labels_that_are_not_booleans() -> None:
    with pytest.raises(ValueError, match="desirable must be 2 booleans"):
        kto(vector(1, 2), torch.tensor([1, 0]), 0.0, beta=0.1)


# Labels that may be wrong


def test_smoothed_losses_are_the_mean_over_both_labels() -> None:
    # At a lead of log 3 and e = 1/4: -3/4 log(3/4) - 1/4 log(1/4), the entropy of (3/4, 1/4), which is the least.
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    lead, zero, e = vector(math.log(3)), vector(0.0), vector(0.25)
    assert bradley_terry(lead, zero, 0.0, e).tolist() == pytest.approx([entropy])
    assert dpo(lead, zero, beta=1.0, label_smoothing=e).tolist() == pytest.approx([entropy])
    group = torch.zeros(2, dtype=torch.long)
    scores = vector(0.0, math.log(3))
    assert ranking(scores, group, torch.tensor([1, 0]), 0.0, e).tolist() == pytest.approx([entropy])
    assert general_ranking(scores[:, None], group, torch.tensor([1, 0]), e).tolist() == pytest.approx([entropy])
    # IPO at h = 1, tau = 1/4, so c = 2: 3/4 (1 - 2)^2 + 1/4 (1 + 2)^2 = 3; at rest h = (1 - 2e) c = 1.
    h = vector(1.0).requires_grad_()
    loss = ipo(h, zero, tau=0.25, label_smoothing=e)
    loss.sum().backward()
    assert (loss.tolist(), h.grad.tolist()) == ([3.0], [0.0])  # type: ignore[union-attr]
    # A margin is asked of whichever is better: -3/4 log sigmoid(1 - 2) - 1/4 log sigmoid(-1 - 2).
    asked = 0.75 * math.log1p(math.exp(1)) + 0.25 * math.log1p(math.exp(3))
    assert bradley_terry(vector(1.0), zero, 2.0, e).tolist() == pytest.approx([asked])


@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(0, 0.5))
def test_every_smoothed_loss_is_linear_in_the_label(first: float, second: float, e: float) -> None:
    a, b, doubt = vector(first), vector(second), vector(e)
    losses = (
        lambda x, y, s: bradley_terry(x, y, 0.7, s),
        lambda x, y, s: dpo(x, y, beta=0.3, label_smoothing=s),
        lambda x, y, s: ipo(x, y, tau=0.2, label_smoothing=s),
    )
    for loss, flipped in zip(losses, ((b, a), (-a, -b), (-a, -b)), strict=True):
        mean = (1 - e) * loss(a, b, 0.0) + e * loss(*flipped, 0.0)
        torch.testing.assert_close(loss(a, b, doubt), mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_labels_without_doubt_leave_every_bit_as_it_was(dtype: torch.dtype) -> None:
    x = torch.randn(500, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 10
    y, none = x.roll(1), torch.zeros(500, dtype=dtype)
    plain = -torch.nn.functional.logsigmoid(x - y - 0.3)
    assert torch.equal(bradley_terry(x, y, 0.3), plain) and torch.equal(bradley_terry(x, y, 0.3, none), plain)
    assert torch.equal(ipo(x, y, tau=0.3), (x - y - 1 / 0.6) ** 2)


@pytest.mark.parametrize("e", [-0.1, 0.6, vector(0.1, 0.51), vector(0.1, 0.1, 0.1)])
def test_what_is_no_doubt_is_refused(e: float | Tensor) -> None:
    a, b = vector(1, 2), vector(0, 0)
    for loss in (
        lambda: bradley_terry(a, b, 0.0, e),
        lambda: dpo(a, b, beta=1.0, label_smoothing=e),
        lambda: ipo(a, b, tau=1.0, label_smoothing=e),
    ):
        with pytest.raises(ValueError, match="label_smoothing must"):
            loss()


def test_gradients_against_finite_differences() -> None:
    a, b = vector(0.3, -1.0, 2.0).requires_grad_(), vector(1.0, 0.4, -0.2).requires_grad_()
    fixed, labels = vector(0.1, -0.2, 0.3), torch.tensor([True, False, True])
    ranks = torch.tensor([0, 0, 1])
    assert torch.autograd.gradcheck(bradley_terry, (a, b, fixed))
    assert torch.autograd.gradcheck(lambda x: ranking(x, ZERO3, ranks), (a,))
    assert torch.autograd.gradcheck(lambda x: plackett_luce(x, ZERO3, ranks), (a,))
    rows = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: general_ranking(x, ZERO3, ranks), (rows,))
    assert torch.autograd.gradcheck(lambda x: dpo(x, fixed, beta=0.3, label_smoothing=0.1), (a,))
    assert torch.autograd.gradcheck(lambda x: ipo(x, fixed, tau=0.3), (a,))
    assert torch.autograd.gradcheck(lambda x: kto(x, labels, 0.2, beta=0.3, desirable_weight=1.3), (a,))
