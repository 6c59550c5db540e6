"""The cat that learns from preferences: the gradient by hand, rewards known again, and their optima."""

from __future__ import annotations

import math

import pytest
import torch

from examples.cat_grid import GAMMA, MOVES, Cat, CatGrid, Steps, evaluate, optimum, sample, transitions
from examples.cat_preferences import (
    Comparisons,
    Stretches,
    asked_before,
    asked_meanwhile,
    by_moves,
    by_outcomes,
    compared,
    comparison_losses,
    fitted,
    learn_from,
    nearer,
    nearness,
    shaped,
    stretches_of,
    value,
)

UP, RIGHT, DOWN, LEFT = range(4)
SQUARE = ("SB", "WM")


def test_episodes_are_cut_into_stretches() -> None:
    owner = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])
    steps = Steps(torch.arange(8), torch.arange(8), torch.arange(8.0), owner, torch.ones(8))
    assert stretches_of(steps, 2).owner.tolist() == [0, 0, 1, 2, 3, 3, 4, 4]
    assert stretches_of(steps, 9).owner.tolist() == owner.tolist()


def test_what_labelers_go_by() -> None:
    # Dry, right onto the broom and down to the meat, then a wall: -1 + 10, and 0; moves and outcomes are the same.
    steps = Stretches(
        torch.tensor([0, 1, 0]), torch.tensor([RIGHT, DOWN, UP]), torch.tensor([-1.0, 10, 0]), torch.tensor([0, 0, 1])
    )
    for label in (by_moves, by_outcomes):
        assert label(CatGrid(SQUARE, slip=0.0), steps).tolist() == [9.0, 0.0]
    # Wet: right is .8 broom, .1 the wall, .1 bath, so -.8 - .5; down from there .8 meat, .1 wall, .1 the start.
    # Up is .8 the wall, .1 the broom, .1 the wall to the left.
    assert by_moves(CatGrid(SQUARE, slip=0.2), steps).tolist() == pytest.approx([-1.3 + 8 - 0.1, -0.1])


def test_the_gradient_of_a_comparison_by_hand() -> None:
    # Stretch 1 has (0, right) twice and (1, down), stretch 2 (0, right) once: d loss / d r = -(1 - p)(n_1 - n_2).
    moves = torch.zeros(1, 4, len(MOVES), dtype=torch.float64)
    moves[0, 0, RIGHT], moves[0, 1, DOWN] = 2 - 1, 1
    rewards = torch.zeros(4, len(MOVES), dtype=torch.float64)
    rewards[0, RIGHT], rewards[1, DOWN], rewards[3, UP] = 0.5, -1.5, 7.0
    rewards.requires_grad_()
    (loss,) = comparison_losses(rewards, Comparisons(moves.flatten(1)))
    loss.backward()
    p = 1 / (1 + math.exp(1.0))  # the sums differ by .5 - 1.5
    assert loss.item() == pytest.approx(-math.log(p), abs=1e-12)
    assert rewards.grad is not None
    torch.testing.assert_close(rewards.grad, -(1 - p) * moves[0], rtol=0, atol=1e-12)


def test_comparisons_count_the_moves_of_the_preferred_stretch() -> None:
    # A labeler who goes by worths a thousand apart always prefers the same stretch.
    env = CatGrid(SQUARE)
    stretches = Stretches(
        torch.tensor([0, 0, 1]), torch.tensor([UP, UP, DOWN]), torch.zeros(3), torch.tensor([0, 0, 1])
    )
    generator = torch.Generator().manual_seed(0)
    found = compared(env, stretches, 50, lambda env, s: torch.tensor([0.0, 1e3]), generator).moves
    expected = torch.zeros(16, dtype=torch.float64)
    expected[0 * 4 + UP], expected[1 * 4 + DOWN] = -2, 1
    different = found[found.any(1)]
    assert 10 < len(different) < 40 and bool((different == expected).all())


def test_many_comparisons_tell_the_reward_and_so_the_optimum() -> None:
    env = CatGrid()
    env.reset(seed=0)
    stretches = stretches_of(sample(env, Cat(env).policy(), 200), 1)
    rewards = fitted(env, compared(env, stretches, 100_000, by_moves, torch.Generator().manual_seed(0)))
    truth = transitions(env)[1]
    seen = torch.zeros_like(truth)
    seen.index_put_((stretches.cells, stretches.actions), torch.ones(1, dtype=torch.float64), accumulate=True)
    known = (seen > 20) & (
        truth.abs() < 3
    )  # beyond that hardly a verdict is in doubt, and all large rewards look alike
    shift = (rewards - truth)[known].mean()  # of stretches of one length all rewards may be higher alike
    assert float(((rewards - truth)[known] - shift).abs().max()) < 0.6
    assert value(env, optimum(env, rewards - shift)) == pytest.approx(value(env, optimum(env)), abs=0.05)


def test_the_optimum_of_the_truth_is_unchanged_by_a_potential_and_by_scale() -> None:
    env = CatGrid()
    best = evaluate(env, optimum(env))
    for rewards in (shaped(env), 7 * transitions(env)[1]):
        torch.testing.assert_close(evaluate(env, optimum(env, rewards)), best, rtol=0, atol=1e-12)
    # By the shaped reward a policy's value is the true one less the potential of the cell: the sum telescopes.
    pi = Cat(env).policy()
    torch.testing.assert_close(evaluate(env, pi, shaped(env)), evaluate(env, pi) - nearness(env), rtol=0, atol=1e-10)


def test_the_best_for_nearer_never_eats() -> None:
    # Dry, S.M: a step to the middle is worth 1, and back and forth 1 every other step, 1 / (1 - .81); eating 1 once.
    env = CatGrid(("S.M",), slip=0.0)
    pi = optimum(env, nearer(env))
    assert value(env, pi, nearer(env)) == pytest.approx(1 / (1 - GAMMA**2), abs=1e-9)
    assert value(env, pi) == pytest.approx(0.0, abs=1e-12)
    assert value(env, optimum(env)) == pytest.approx(10 * GAMMA, abs=1e-12)


def test_ppo_by_a_reward_finds_its_optimum() -> None:
    env = CatGrid(("S.M",), slip=0.0, max_steps=20)
    rewards = nearer(env)
    *_, (cat, last) = learn_from(env, lambda update, steps: rewards, updates=60, seed=0)
    assert torch.equal(last, rewards)
    assert value(env, cat.policy(), rewards) == pytest.approx(1 / (1 - GAMMA**2), rel=0.05)


def test_asked_before_and_meanwhile_come_to_the_best_of_a_small_grid() -> None:
    env = CatGrid(("S.M",), slip=0.2, max_steps=20)
    best = value(env, optimum(env))
    assert value(env, optimum(env, asked_before(env, 400, by_moves, 0))) == pytest.approx(best, abs=1e-9)
    policy, rewards = asked_meanwhile(env, 400, by_moves, 0)
    assert value(env, optimum(env, rewards)) == pytest.approx(best, abs=1e-9)
    assert value(env, policy) == pytest.approx(best, rel=0.03)
