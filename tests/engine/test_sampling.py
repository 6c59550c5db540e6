"""Truncation, and drawing by the inverse of the cumulative distribution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from accord.engine.sampling import Sampling, draw, truncate_, uniform_numbers

LOGITS = torch.tensor([[1.0, 5.0, 2.0, 4.0]], dtype=torch.float64).log()  # p = 1/12, 5/12, 2/12, 4/12


def kept(z: Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero().squeeze(1).tolist() for row in z]


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (0, 1.0, [0, 1, 2, 3]),
        (1, 1.0, [1]),
        (3, 1.0, [1, 2, 3]),
        (9, 1.0, [0, 1, 2, 3]),
        (0, 0.41, [1]),  # 5/12 = .4167 reaches .41
        (0, 0.42, [1, 3]),  # and not .42; 9/12 does
        (0, 0.76, [1, 2, 3]),  # 9/12 = .75 does not, 11/12 does
        (0, 0.92, [0, 1, 2, 3]),  # 11/12 = .9167 does not
        (0, 1e-9, [1]),  # the most likely token always stays
        (2, 0.5, [1]),  # of the top 2, renormalized: 5/9 = .5556 reaches .5, though 5/12 would not
        (2, 0.56, [1, 3]),
    ],
)
def test_truncation_by_hand(top_k: int, top_p: float, expected: list[int]) -> None:
    z = LOGITS.clone()
    assert truncate_(z, top_k, top_p) is z
    assert kept(z) == [expected]
    assert torch.equal(z[0, expected], LOGITS[0, expected])


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.floats(-9, 9), min_size=7, max_size=7, unique=True), min_size=1, max_size=3),
    st.floats(0.01, 0.999),
)
def test_the_nucleus_is_the_smallest_set_whose_mass_reaches_top_p(rows: list[list[float]], top_p: float) -> None:
    z = torch.tensor(rows, dtype=torch.float64)
    for row, tokens in zip(z, kept(truncate_(z.clone(), 0, top_p)), strict=True):
        p = torch.softmax(row, -1)
        assert set(tokens) == set(row.argsort(descending=True)[: len(tokens)].tolist())
        assert float(p[tokens].sum()) >= top_p - 1e-12
        assert float(p[tokens].sum() - p[tokens].min()) < top_p + 1e-12


def test_drawing_inverts_the_cumulative_distribution_by_hand() -> None:
    # Cumulative in vocabulary order: 1/12, 6/12, 8/12, 1.
    u = torch.tensor([0.0, 0.08, 0.09, 0.49, 0.51, 0.66, 0.67, 0.999999], dtype=torch.float64)
    tokens, logp = draw(LOGITS.expand(len(u), -1), u, Sampling())
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert logp.exp().tolist() == pytest.approx([1 / 12, 1 / 12, 5 / 12, 5 / 12, 2 / 12, 2 / 12, 4 / 12, 4 / 12])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.5), Sampling(top_k=3), Sampling(top_p=0.7)])
def test_frequencies_over_a_grid_are_the_probabilities(sampling: Sampling, dtype: torch.dtype) -> None:
    grid = 10_000
    u = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    logits = LOGITS.to(dtype).expand(grid, -1)
    tokens, logp = draw(logits, u, sampling)
    p = torch.softmax(truncate_(LOGITS / sampling.temperature, sampling.top_k, sampling.top_p), -1)[0]
    frequency = torch.bincount(tokens, minlength=4) / grid
    torch.testing.assert_close(frequency.double(), p, rtol=0, atol=1 / grid)
    torch.testing.assert_close(logp.exp().double(), p[tokens], rtol=0, atol=1e-6)


def test_a_token_without_probability_is_never_drawn() -> None:
    # The first and the last token are impossible; the ends of [0, 1) lead to their neighbors.
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]]).expand(3, -1)
    edge = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)  # the last rounds to 1 in float32
    assert draw(logits, edge, Sampling())[0].tolist() == [1, 2, 2]


def test_temperature_zero_takes_the_most_likely_for_certain() -> None:
    tokens, logp = draw(LOGITS, torch.tensor([0.999]), Sampling(temperature=0))
    assert (tokens.tolist(), logp.tolist()) == ([1], [0.0])


def test_uniforms_depend_on_seed_prompt_number_and_position_alone() -> None:
    a, b = (3, 1), (4, 1, 5)
    table = uniform_numbers([a, b, a], 2, Sampling(max_new_tokens=6))
    assert table.shape == (3, 2, 6) and (table >= 0).all() and (table < 1).all()
    assert len(set(table.flatten())) == 36
    assert (uniform_numbers([b], 2, Sampling(max_new_tokens=6))[0] == table[1]).all()
    # A repeated prompt goes on counting: samples 0 and 1, then 2 and 3; and shorter samples are the others' beginnings.
    assert (uniform_numbers([a], 4, Sampling(max_new_tokens=4))[0] == table[[0, 2], :, :4].reshape(4, 4)).all()
    assert not (uniform_numbers([a], 2, Sampling(max_new_tokens=6, seed=1))[0] == table[0]).any()
    assert (uniform_numbers([a], 2, Sampling(max_new_tokens=6, seed=(0,)))[0] == table[0]).all()
    assert not (uniform_numbers([a], 2, Sampling(max_new_tokens=6, seed=(0, 1)))[0] == table[0]).any()


def test_uniforms_are_uniform() -> None:
    # 60,000 numbers: each tenth holds 6,000 with a standard deviation of 73.
    table = uniform_numbers([(i,) for i in range(1000)], 6, Sampling(max_new_tokens=10))
    counts = torch.histc(torch.from_numpy(table).flatten(), 10, 0, 1)
    assert float((counts - 6000).abs().max()) < 4 * 73


@pytest.mark.parametrize(
    ("name", "value"), [("max_new_tokens", 0), ("temperature", -0.1), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1)]
)
def test_settings_without_meaning_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Sampling(**{name: value})
