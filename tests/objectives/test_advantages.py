from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.objectives.advantages import gae, group, leave_one_out, token_rewards, whiten
from accord.objectives.segments import segment_sum
from tests.objectives.worlds import vector

rewards_of = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=6)


def test_leave_one_out_literal() -> None:
    # 1 - (2 + 6)/2 = -3; 2 - (1 + 6)/2 = -1.5; 6 - (1 + 2)/2 = 4.5. The second prompt knows nothing of the first.
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    assert leave_one_out(rewards).tolist() == [[-3.0, -1.5, 4.5], [-1.5, -1.5, 3.0]]


def test_group_literals() -> None:
    # 0, 2, 4: mean 2, deviation sqrt((4 + 0 + 4) / 2) = 2.
    rewards = torch.tensor([[0.0, 2.0, 4.0]])
    torch.testing.assert_close(group(rewards), torch.tensor([[-1.0, 0.0, 1.0]]))
    assert group(rewards, scale=False).tolist() == [[-2.0, 0.0, 2.0]]


def test_groups_are_rows_and_not_columns() -> None:
    # [a, a, b, b] as two groups of two is all zero; [a, b, a, b] is not.
    apart, mixed = torch.tensor([[1.0, 1.0], [2.0, 2.0]]), torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    assert leave_one_out(apart).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert leave_one_out(mixed).tolist() == [[-1.0, 1.0], [-1.0, 1.0]]


@given(st.floats(-1e4, 1e4, width=32), st.integers(2, 9), st.sampled_from([torch.float32, torch.float64]))
def test_identical_rewards_give_exactly_zero(reward: float, samples: int, dtype: torch.dtype) -> None:
    rewards = torch.full((1, samples), reward, dtype=dtype)
    for advantage in (leave_one_out(rewards), group(rewards), group(rewards, scale=False)):
        assert advantage.tolist() == [[0.0] * samples]


def test_a_reward_of_zero_is_a_reward() -> None:
    # Left out, the 0 would leave a single reward, or a mean of 1.
    assert leave_one_out(torch.tensor([[0.0, 1.0]])).tolist() == [[-1.0, 1.0]]
    assert group(torch.tensor([[0.0, 1.0]]), scale=False).tolist() == [[-0.5, 0.5]]


@pytest.mark.parametrize("advantage", [leave_one_out, group])
def test_one_valid_reward_is_refused_not_turned_into_nan_or_zero(advantage) -> None:
    with pytest.raises(ValueError, match="at least two rewards"):
        advantage(torch.tensor([[1.0]]))
    with pytest.raises(ValueError, match="group 1 holds a reward that is not finite"):
        advantage(torch.tensor([[1.0, 2.0], [1.0, math.nan]]))
    with pytest.raises(ValueError, match=r"shape \(prompts, samples\)"):
        advantage(torch.tensor([1.0, 2.0]))


@given(rewards_of)
def test_group_advantages_are_centered_and_of_unit_deviation(numbers: list[float]) -> None:
    advantages = group(vector(*numbers)[None])
    assert advantages.sum().item() == pytest.approx(0.0, abs=1e-9)
    spread = 1.0 if len(set(numbers)) > 1 else 0.0
    assert advantages.std().item() == pytest.approx(spread, abs=1e-9)


@given(rewards_of)
def test_leave_one_out_is_the_groups_centering_enlarged(numbers: list[float]) -> None:
    rewards, samples = vector(*numbers)[None], len(numbers)
    expected = vector(*(r - (sum(numbers) - r) / (samples - 1) for r in numbers))
    torch.testing.assert_close(leave_one_out(rewards)[0], expected, atol=1e-9, rtol=1e-9)


def test_group_scale_survives_very_small_and_very_large_rewards() -> None:
    for size in (1e-30, 1e30):
        torch.testing.assert_close(group(torch.tensor([[0.0, 2.0, 4.0]]) * size), torch.tensor([[-1.0, 0.0, 1.0]]))


# Generalized advantage estimation


def test_gae_literal() -> None:
    # One completion of three tokens, gamma .9, lam .5, rewards 1 0 2, values .5 1 1.5.
    # delta_3 = 2 - 1.5 = .5; delta_2 = .9 * 1.5 - 1 = .35; delta_1 = 1 + .9 * 1 - .5 = 1.4.
    # A_3 = .5; A_2 = .35 + .45 * .5 = .575; A_1 = 1.4 + .45 * .575 = 1.65875. Returns add the values.
    owner = torch.zeros(3, dtype=torch.long)
    advantages, returns = gae(vector(1, 0, 2), vector(0.5, 1, 1.5), owner, gamma=0.9, lam=0.5)
    torch.testing.assert_close(advantages, vector(1.65875, 0.575, 0.5))
    torch.testing.assert_close(returns, vector(2.15875, 1.575, 2.0))


def test_gae_stops_at_the_end_of_every_completion() -> None:
    # Completions of 2, 1 and 1 tokens, gamma = lam = 1: advantage is the sum of one's own later rewards less the value.
    rewards, values, owner = vector(1, 2, 4, 8), vector(10, 20, 30, 40), torch.tensor([0, 0, 1, 2])
    advantages, returns = gae(rewards, values, owner, gamma=1.0, lam=1.0)
    assert advantages.tolist() == [-7.0, -18.0, -26.0, -32.0]
    assert returns.tolist() == [3.0, 2.0, 4.0, 8.0]


branches_of = st.lists(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=5), min_size=1, max_size=4
)


@given(branches_of, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50)
def test_gae_is_the_sum_of_discounted_residuals(
    branches: list[list[tuple[float, float]]], gamma: float, lam: float
) -> None:
    rewards = vector(*(r for branch in branches for r, _ in branch))
    values = vector(*(v for branch in branches for _, v in branch))
    owner = torch.tensor([c for c, branch in enumerate(branches) for _ in branch])
    expected = []
    for branch in branches:
        following = [v for _, v in branch[1:]] + [0.0]
        deltas = [r + gamma * after - v for (r, v), after in zip(branch, following, strict=True)]
        expected += [sum((gamma * lam) ** k * d for k, d in enumerate(deltas[t:])) for t in range(len(branch))]
    advantages, returns = gae(rewards, values, owner, gamma=gamma, lam=lam)
    torch.testing.assert_close(advantages, vector(*expected))
    torch.testing.assert_close(returns, vector(*expected) + values)


def test_gae_lam_zero_is_the_residual_and_lam_one_the_return_to_go() -> None:
    rewards, values, owner = vector(1, -1, 2, 0.5), vector(0.3, 0.6, -0.2, 1.0), torch.tensor([0, 0, 0, 1])
    residual = rewards + 0.9 * vector(0.6, -0.2, 0, 0) - values
    torch.testing.assert_close(gae(rewards, values, owner, gamma=0.9, lam=0.0)[0], residual)
    to_go = vector(1 + 0.9 * (-1 + 0.9 * 2), -1 + 0.9 * 2, 2, 0.5)
    torch.testing.assert_close(gae(rewards, values, owner, gamma=0.9, lam=1.0)[1], to_go)


def test_gae_keeps_dtype_carries_no_gradient_and_accepts_no_tokens() -> None:
    values = torch.tensor([0.5], dtype=torch.bfloat16, requires_grad=True)
    advantages, returns = gae(values.detach(), values, torch.tensor([0]), gamma=1.0, lam=1.0)
    assert (advantages.dtype, advantages.requires_grad, returns.requires_grad) == (torch.bfloat16, False, False)
    empty = torch.zeros(0)
    assert gae(empty, empty, torch.zeros(0, dtype=torch.long), gamma=1.0, lam=1.0)[0].shape == (0,)


def test_gae_refuses_disorder_and_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="must not decrease"):
        gae(vector(1, 2), vector(1, 2), torch.tensor([1, 0]), gamma=1.0, lam=1.0)
    with pytest.raises(ValueError, match="lam must lie between"):
        gae(vector(1), vector(1), torch.tensor([0]), gamma=1.0, lam=1.5)
    with pytest.raises(ValueError, match="rewards 2, values 1"):
        gae(vector(1, 2), vector(1), torch.tensor([0, 0]), gamma=1.0, lam=1.0)


# Rewards of tokens


def test_the_score_lands_on_the_last_token() -> None:
    # coefficient .5: -.5 kl everywhere, scores 10 and -20 on tokens 1 and 2.
    rewards = token_rewards(vector(1, -2, 4), vector(10, -20), torch.tensor([0, 0, 1]), coefficient=0.5)
    assert rewards.tolist() == [-0.5, 11.0, -22.0]


def test_token_rewards_sum_to_the_regularized_reward() -> None:
    kl, scores, owner = vector(0.3, -0.1, 0.7, 0.2), vector(1.5, -2.5), torch.tensor([0, 1, 1, 1])
    rewards = token_rewards(kl, scores, owner, coefficient=0.05)
    torch.testing.assert_close(segment_sum(rewards, owner, 2), vector(1.5 - 0.05 * 0.3, -2.5 - 0.05 * 0.8))


def test_a_score_without_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match="segment 1 has no elements"):
        token_rewards(vector(1, 2), vector(1, 2, 3), torch.tensor([0, 2]), coefficient=0.1)
    with pytest.raises(ValueError, match="coefficient must lie"):
        token_rewards(vector(1), vector(1), torch.tensor([0]), coefficient=-0.1)


def test_whiten_uses_the_statistics_it_is_given() -> None:
    # (1 - 2) / 4 and (6 - 2) / 4, the same however the values are split.
    assert whiten(vector(1, 6), mean=2.0, std=torch.tensor(4.0)).tolist() == [-0.25, 1.0]
    assert whiten(vector(6), mean=2.0, std=4.0).tolist() == [1.0]
    assert whiten(vector(3, 3), mean=3.0, std=0.0).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="std must lie"):
        whiten(vector(1), mean=0.0, std=-1.0)
