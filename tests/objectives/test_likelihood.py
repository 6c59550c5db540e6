from __future__ import annotations

import pytest
import torch

from accord.objectives.policy import negative_log_likelihood
from tests.objectives.worlds import minimize, vector


def test_is_the_negated_log_probability() -> None:
    assert negative_log_likelihood(vector(-0.5, -2.0, 0.0)).tolist() == [0.5, 2.0, 0.0]


def test_its_minimum_is_the_empirical_distribution() -> None:
    # Three tokens seen 5, 2 and 1 times: maximum likelihood is (5, 2, 1) / 8.
    tokens = torch.tensor([0, 0, 1, 0, 2, 0, 1, 0])
    logits = minimize(lambda x: negative_log_likelihood(x.log_softmax(0)[tokens]).sum(), 3)
    torch.testing.assert_close(logits.softmax(0), vector(0.625, 0.25, 0.125), atol=1e-6, rtol=0)


def test_refuses_anything_but_a_flat_vector() -> None:
    with pytest.raises(ValueError, match="flat vector"):
        negative_log_likelihood(torch.zeros(2, 3))
