"""One optimizer step by hand: the global count, clipping, decay, schedules, and stopping before harm is done."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accord.engine.config import TrainingConfig
from accord.engine.fit import LossTerm, Measures, Objective, Optimizer
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError, TrainingStopped


class Weight(nn.Module):
    """One matrix entry w and one vector entry b; what a loss needs to have a known gradient."""

    def __init__(self, w: float = 2.0, b: float = 2.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[w]], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([b], dtype=torch.float64))


def targets_times_w(network: Weight) -> Objective:
    """One value a trained token: w times the token."""

    def loss(trees: Trees) -> tuple[Tensor, Measures]:
        return network.w[0, 0] * trees.target.double() + 0 * network.b, {"token": trees.target}

    return loss


def packed(*tokens: Sequence[int]) -> Trees:
    """A tree for every list of tokens, all of them trained; rows count from 0."""
    return Trees.of([Tree((1,), (Branch(tuple(t)),), row=row) for row, t in enumerate(tokens)])


def optimizer(network: nn.Module, total: int = 10, **settings: Any) -> Optimizer:
    quiet = {"schedule": "constant", "warmup": 0.0, "max_grad_norm": 1e9, "dtype": "float32", "learning_rate": 0.1}
    return Optimizer({"model": network}, TrainingConfig(**{**quiet, **settings}), total)


def test_packs_of_different_sizes_share_one_count() -> None:
    # Tokens 1 | 2, 3, 6: the loss is 2 * (1 + 2 + 3 + 6) / 4 = 6 and the gradient 12 / 4 = 3; a mean of means would be
    # (1 + 11/3) / 2 = 2.33.
    network = Weight()
    row = optimizer(network).update(0, LossTerm(targets_times_w(network), [packed([1]), packed([2, 3, 6])], "token"))
    assert row == pytest.approx({"loss": 6, "token": 3, "gradient_norm": 3, "learning_rate": 0.1})
    # AdamW's first step is the learning rate times the gradient's sign: m / sqrt(v) = g / |g|.
    assert network.w.item() == pytest.approx(1.9)


def test_works_are_weighted_and_counted_apart() -> None:
    # 1 * (1 + 3) / 2 + 0.5 * 6 / 1 = 5 is the gradient, and the loss is twice that.
    network = Weight()
    objective = targets_times_w(network)
    works = LossTerm(objective, [packed([1, 3])], "token"), LossTerm(objective, [packed([6])], "token", weight=0.5)
    row = optimizer(network).update(0, *works)
    assert (row["gradient_norm"], row["loss"]) == pytest.approx((5, 10))


def test_what_is_counted_is_what_the_loss_is_per() -> None:
    packs = [packed([1, 2, 3], [4]), packed([5])]
    network = Weight()
    counts = [LossTerm(targets_times_w(network), packs, per).count for per in ("tree", "branch", "token")]
    assert counts == [3, 3, 5]
    with pytest.raises(ValueError, match="gave 5 values for 3 trees"):
        optimizer(network).update(0, LossTerm(targets_times_w(network), packs, "tree"))


def test_long_gradients_are_scaled_to_the_norm() -> None:
    # Gradient 4 is scaled to 1, so AdamW's first moment is (1 - .9) * 1.
    network = Weight()
    engine = optimizer(network, max_grad_norm=1.0)
    row = engine.update(0, LossTerm(targets_times_w(network), [packed([4])], "token"))
    assert row["gradient_norm"] == pytest.approx(4)
    assert engine.rule.state[network.w]["exp_avg"].item() == pytest.approx(0.1, rel=1e-5)


def test_only_matrices_decay() -> None:
    # Without a gradient AdamW still multiplies by 1 - lr * decay = 1 - .1 * .5.
    network = Weight()

    def nothing(trees: Trees) -> tuple[Tensor, Measures]:
        return 0 * (network.w[0, 0] + network.b) * trees.target, {}

    optimizer(network, weight_decay=0.5).update(0, LossTerm(nothing, [packed([1])], "token"))
    assert network.w.item() == pytest.approx(1.9)
    assert network.b.item() == 2.0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        # (1 + cos(pi k / 8)) / 2 for k = 0 ... 7
        ("cosine", [0.5, 1, 1, 0.96194, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.03806]),
    ],
)
def test_the_learning_rate_by_hand(schedule: Any, expected: list[float]) -> None:
    # 10 steps of which ceil(.15 * 10) = 2 warm up, then 8 steps from 1 toward 0, which would come an 11th.
    training = TrainingConfig(learning_rate=2.0, schedule=schedule, warmup=0.15)
    assert [training.rate(step, 10) / 2 for step in range(10)] == pytest.approx(expected, abs=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_harms_nothing() -> None:
    network = Weight()
    engine = optimizer(network)
    good = targets_times_w(network)
    engine.update(0, LossTerm(good, [packed([1, 2])], "token"))
    before = copy.deepcopy(network.state_dict())

    def bad(trees: Trees) -> tuple[Tensor, Measures]:
        values, measures = good(trees)
        return values / (trees.target != 7), measures

    packs = [packed([3], [4, 5]), packed([6], [8], [9, 7], [7])]
    with pytest.raises(TrainingStopped, match="step 4: the loss of rows 3, 4 is not finite"):
        engine.update(3, LossTerm(bad, packs, "token"))
    assert all(torch.equal(network.state_dict()[k], v) for k, v in before.items())


def test_a_gradient_that_is_not_finite_stops_the_run_and_harms_nothing() -> None:
    # sqrt has value 0 and slope infinity at 0.
    network = Weight()

    def steep(trees: Trees) -> tuple[Tensor, Measures]:
        return torch.sqrt(network.w[0, 0] - 2) * trees.target, {}

    before = copy.deepcopy(network.state_dict())
    engine = optimizer(network)
    with pytest.raises(TrainingStopped, match=r"step 1: the gradient is not finite; lower the learning rate \(row 1\)"):
        engine.update(0, LossTerm(steep, [packed([3])], "token"))
    assert all(torch.equal(network.state_dict()[k], v) for k, v in before.items())
    row = engine.update(0, LossTerm(targets_times_w(network), [packed([3])], "token"))
    assert row["gradient_norm"] == pytest.approx(3)  # nothing is left of the gradient that was refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive, not 0.0"),
        ({"batch_size": 0}, "batch_size must be positive, not 0"),
        ({"max_steps": 0}, "max_steps must be at least 1, not 0"),
        ({"warmup": 1.5}, "warmup is a share of the steps in [0, 1], not 1.5"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        TrainingConfig(**settings)
    assert str(raised.value).startswith(message)
