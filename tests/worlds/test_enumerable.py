"""The enumerable world: all sequences are there, the model's probabilities over them sum to 1, and the closed forms."""

from __future__ import annotations

from math import log

import pytest
import torch

from examples.worlds.enumerable import END, Enumerable, bradley_terry_preferences, distribution, kl_regularized_optimum
from tests.worlds.sequences import sequence_logps

WORLDS = [Enumerable(3, 2), Enumerable(3, 3), Enumerable(4, 2), Enumerable(4, 3)]


def test_the_smallest_world_by_hand() -> None:
    assert Enumerable(3, 2).sequences == [(0,), (1, 0), (2, 0), (1, 1), (1, 2), (2, 1), (2, 2)]


@pytest.mark.parametrize("world", WORLDS)
def test_sequences_are_all_different_and_end_once(world: Enumerable) -> None:
    a = world.vocabulary - 1
    assert len(set(world.sequences)) == len(world.sequences) == sum(a**n for n in range(world.length)) + a**world.length
    assert all(END not in sequence[:-1] for sequence in world.sequences)
    assert all(len(sequence) == world.length or sequence[-1] == END for sequence in world.sequences)


@pytest.mark.parametrize("world", WORLDS)
def test_a_model_s_probabilities_sum_to_one_and_are_far_from_uniform(world: Enumerable) -> None:
    with torch.no_grad():
        probabilities = distribution(sequence_logps(world, world.new_model(seed=1)))
    assert probabilities.dtype == torch.float64
    uniform = 1 / len(world.sequences)
    assert 0.5 * (probabilities - uniform).abs().sum() > 0.25  # total variation; 0 would be uniform


def test_a_missing_sequence_is_noticed() -> None:
    with pytest.raises(ValueError, match=r"sum to 0\.5"):
        distribution(torch.tensor([0.25, 0.25], dtype=torch.float64).log())


def test_seeds_decide_rewards_and_weights_and_disturb_nothing() -> None:
    state = torch.random.get_rng_state()
    world = Enumerable(4, 3, seed=5)
    assert torch.equal(world.reward, Enumerable(4, 3, seed=5).reward)
    assert not torch.equal(world.reward, Enumerable(4, 3, seed=6).reward)
    first, again, other = (world.new_model(seed).lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert world.reward.shape == (40,)


def test_the_regularized_optimum_by_hand() -> None:
    # pi_ref = (1/4, 3/4), r = (log 9, log 3), beta = 1: 9/4 against 9/4.
    # beta = 2 halves the exponents: 3/4 against 3 sqrt(3)/4.
    reference = torch.tensor([0.25, 0.75], dtype=torch.float64).log()
    reward = torch.tensor([log(9), log(3)], dtype=torch.float64)
    assert kl_regularized_optimum(reference, reward, 1.0).tolist() == pytest.approx([0.5, 0.5])
    assert kl_regularized_optimum(reference, reward, 2.0).tolist() == pytest.approx(
        [1 / (1 + 3**0.5), 1 / (1 + 3**-0.5)]
    )


def test_bradley_terry_by_hand() -> None:
    # Worths 1 and 3: the second beats the first 3 times in 4.
    preferences = bradley_terry_preferences(torch.tensor([0.0, log(3)], dtype=torch.float64))
    assert preferences.tolist() == [pytest.approx([0.5, 0.25]), pytest.approx([0.75, 0.5])]
