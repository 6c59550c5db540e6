from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import product

import gymnasium
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from examples import cat_grid
from examples.cat_grid import GAMMA, MOVES, Cat, CatGrid, Steps, evaluate, optimum, sample, transitions

UP, RIGHT, DOWN, LEFT = range(4)
SQUARE = ("SB", "WM")


def start_value(env: CatGrid, pi: torch.Tensor) -> float:
    return evaluate(env, pi)[env.start].item()


def table(*moves: int) -> torch.Tensor:
    """The policy that takes these moves, one a cell."""
    return torch.nn.functional.one_hot(torch.tensor(moves), len(MOVES)).double()


def test_gymnasium_accepts_the_environment() -> None:
    gymnasium.register("CatGrid-v0", entry_point="examples.cat_grid:CatGrid")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(gymnasium.make("CatGrid-v0", render_mode="ansi").unwrapped)
    finally:
        del gymnasium.registry["CatGrid-v0"]


def test_what_the_tiles_do() -> None:
    env = CatGrid(SQUARE, slip=0.0, max_steps=4, render_mode="ansi")
    assert env.reset() == (0, {})
    assert env.render() == "CB\nWM"
    assert env.step(UP) == (0, 0.0, False, False, {})  # a wall
    assert env.step(DOWN) == (0, -5.0, False, False, {})  # the bath, and back
    assert env.step(RIGHT) == (1, -1.0, False, False, {})  # the broom
    assert env.render() == "SC\nWM"
    assert env.step(DOWN) == (3, 10.0, True, True, {})  # the meat, at the last step there was


def test_a_slip_goes_to_either_side() -> None:
    # To the right, of the start in a corner: up is the wall, down the bath.
    outcomes = CatGrid(SQUARE, slip=0.3).outcomes(0, RIGHT)
    assert outcomes == [(0.7, 1, -1.0, False), (0.15, 0, 0.0, False), (0.15, 0, -5.0, False)]


def test_a_seed_decides_moves_and_slips() -> None:
    env, pi = CatGrid(), Cat(CatGrid()).policy()
    batches = []
    for seed in (3, 3, 4):
        env.reset(seed=seed)
        batches.append(sample(env, pi, 4))
    assert all(torch.equal(a, b) for a, b in zip(batches[0], batches[1], strict=True))
    assert batches[0].cells.tolist() != batches[2].cells.tolist()


def test_sampled_steps_are_flat_with_an_owner() -> None:
    # Without slips, right and down is the only way this policy goes; the second time the same.
    steps = sample(CatGrid(SQUARE, slip=0.0), table(RIGHT, DOWN, UP, UP), 2)
    assert [field.tolist() for field in steps] == [
        [0, 1, 0, 1],
        [RIGHT, DOWN, RIGHT, DOWN],
        [-1.0, 10.0, -1.0, 10.0],
        [0, 0, 1, 1],
        [1.0, GAMMA, 1.0, GAMMA],
    ]


def test_the_optimum_of_two_cells_by_hand() -> None:
    # To the right: .8 reaches the meat, the slips bump into walls. V = 8 + .2 * .9 V = 8 / .82.
    env = CatGrid(("SM",), slip=0.2)
    assert start_value(env, optimum(env)) == pytest.approx(8 / 0.82, abs=1e-12)


def test_the_optimum_of_four_cells_by_hand() -> None:
    # Dry: over the broom to the meat, -1 + .9 * 10.
    dry = CatGrid(SQUARE, slip=0.0)
    assert start_value(dry, optimum(dry)) == pytest.approx(8.0, abs=1e-12)
    # Wet, from the broom b down: .8 meat, .1 back to s, .1 the wall, so again the broom:
    #   V_b = .8 * 10 + .09 V_s + .1 (-1 + .9 V_b), so V_b = (7.9 + .09 V_s) / .91.
    # From s to the right: .8 broom, .1 the wall, .1 bath and back:
    #   V_s = .8 (-1 + .9 V_b) + .09 V_s + .1 (-5 + .9 V_s), so .82 V_s = -1.3 + .72 V_b.
    wet = CatGrid(SQUARE, slip=0.2)
    by_hand = (-1.3 + 0.72 * 7.9 / 0.91) / (0.82 - 0.72 * 0.09 / 0.91)
    assert start_value(wet, optimum(wet)) == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("slip", [0.0, 0.2, 0.6])
def test_the_optimum_is_the_best_of_all_policies(slip: float) -> None:
    env = CatGrid(SQUARE, slip=slip)
    every = torch.stack([evaluate(env, table(*moves, UP, UP)) for moves in product(range(4), repeat=2)])
    best = evaluate(env, optimum(env))
    torch.testing.assert_close(best[:2], every.max(0).values[:2], atol=1e-12, rtol=0)


def test_no_other_move_is_better_anywhere_on_the_board() -> None:
    env = CatGrid()
    onward, rewards = transitions(env)
    values = evaluate(env, optimum(env))
    gains = rewards + GAMMA * onward @ values
    torch.testing.assert_close(gains.max(1).values, values, atol=1e-12, rtol=0)


@pytest.mark.parametrize("best", [True, False])
def test_the_exact_value_is_the_mean_return_of_episodes(best: bool) -> None:
    # Of 100 steps the rest is worth at most 10 * .9^100 = 3e-4.
    env = CatGrid(max_steps=100)
    pi = optimum(env) if best else Cat(env).policy()
    env.reset(seed=0)
    episodes = 2_000 if best else 400
    steps = sample(env, pi, episodes)
    returns = torch.zeros(episodes, dtype=torch.float64).index_add(0, steps.owner, steps.discount * steps.rewards)
    error = returns.std().item() / episodes**0.5
    assert returns.mean().item() == pytest.approx(start_value(env, pi), abs=3.5 * error)


def test_the_cat_walks_round_the_broom_only_where_it_may_slip() -> None:
    dry, wet = CatGrid(slip=0.0), CatGrid(slip=0.2)
    through, round_it = ((5, 6, 7), (RIGHT, RIGHT, RIGHT)), ((5, 10, 11), (DOWN, RIGHT, RIGHT))
    for env, (cells, moves) in ((dry, through), (wet, round_it)):
        assert tuple(optimum(env).argmax(1)[list(cells)].tolist()) == moves
    # Five moves, the second onto the broom: -1 * .9 + 10 * .9^4.
    assert start_value(dry, optimum(dry)) == pytest.approx(-0.9 + 6.561, abs=1e-12)


def trajectories(env: CatGrid, horizon: int) -> Iterator[tuple[float, list[tuple[int, int, float]]]]:
    """Every course of at most `horizon` steps: the slips' probability, and (cell, action, reward) of each step."""

    def onward(cell: int, left: int) -> Iterator[tuple[float, list[tuple[int, int, float]]]]:
        if not left:
            yield 1.0, []
            return
        for action in range(len(MOVES)):
            for probability, reached, reward, ended in env.outcomes(cell, action):
                for later, rest in [(1.0, [])] if ended else onward(reached, left - 1):
                    yield probability * later, [(cell, action, reward), *rest]

    return onward(env.start, horizon)


def expected_value(env: CatGrid, pi: torch.Tensor, horizon: int) -> torch.Tensor:
    """The value of the start with `horizon` steps to go, differentiable in pi (S, A)."""
    onward, rewards = transitions(env)
    values = torch.zeros(len(pi), dtype=torch.float64)
    for _ in range(horizon):
        values = (pi * (rewards + GAMMA * onward @ values)).sum(1)
    return values[env.start]


def test_the_expectation_of_reinforce_is_the_gradient_of_the_starts_value() -> None:
    env, horizon = CatGrid(SQUARE, slip=0.2), 3
    cat, generator = Cat(env), torch.Generator().manual_seed(0)
    for parameter in cat.parameters():  # a policy that is not uniform, a baseline that is not right
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)

    slips, courses = zip(*trajectories(env, horizon), strict=True)
    rows = [(*step, owner, t) for owner, course in enumerate(courses) for t, step in enumerate(course)]
    cells, actions, rewards, owner, times = (torch.tensor(column) for column in zip(*rows, strict=True))
    steps = Steps(cells, actions, rewards.double(), owner, GAMMA ** times.double())
    logp = cat(steps)[0].detach()
    moves = torch.zeros(len(courses), dtype=torch.float64).index_add(0, steps.owner, logp).exp()
    probability = torch.tensor(slips, dtype=torch.float64) * moves  # of each course
    assert probability.sum().item() == pytest.approx(1.0, abs=1e-12)

    (losses,) = cat_grid.reinforce(cat, steps)
    (estimate,) = torch.autograd.grad((probability[steps.owner] * losses).sum(), cat.logits)
    (exact,) = torch.autograd.grad(expected_value(env, cat.logits.softmax(1), horizon), cat.logits)
    assert exact.abs().max().item() > 0.1
    torch.testing.assert_close(-estimate, exact, atol=1e-12, rtol=0)


def test_both_methods_come_within_two_percent_of_the_optimum(capsys: pytest.CaptureFixture[str]) -> None:
    cat_grid.main()
    printed = capsys.readouterr().out
    rows = {name: (float(value), float(best)) for name, value, best in map(str.split, printed.splitlines()[-4:])}
    env = CatGrid()
    best = start_value(env, optimum(env))
    assert rows["untrained"] == pytest.approx((start_value(env, Cat(env).policy()), best), abs=5e-5)
    assert rows["optimum"] == pytest.approx((best, best), abs=5e-5)
    assert rows["REINFORCE"][0] > 0.98 * best
    assert rows["PPO"][0] > 0.98 * best
    # The way over the broom would not do.
    over_the_broom = optimum(env)
    over_the_broom[[5, 6, 7, 8]] = table(RIGHT, RIGHT, RIGHT, RIGHT)
    assert start_value(env, over_the_broom) < 0.97 * best
    assert "optimum\n↓↓W→M\n↓↓→→↑\n→→→→↑\n" in printed
