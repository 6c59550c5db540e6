"""The gradient of a step does not depend on how its trees are shared among packs, nor on what lies beside what."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from accord.engine.config import TrainingConfig
from accord.engine.fit import LossTerm, Objective, Optimizer
from accord.engine.models import Model
from accord.engine.trees import Branch, Tree, Trees, pack
from accord.methods import DPO, SFT, PreferenceModel, RewardModel
from accord.methods.offline import OfflineMethod
from tests.engine.tiny import CONFIGS, policy_of, random_model, randomize, tree_lists

METHODS: dict[str, OfflineMethod] = {
    "sft": SFT(dtype="float32"),
    "reward": RewardModel(dtype="float32"),
    "preference": PreferenceModel(dtype="float32", planes=2),
    "dpo": DPO(dtype="float32", beta=0.3, label_smoothing=0.1),
}


@dataclass
class Learning:
    """A method's loss on a GPT-2 of random float64 weights, which computes nothing in less than float64."""

    method: OfflineMethod
    model: Model
    objective: Objective

    @staticmethod
    def of(name: str) -> Learning:
        method = METHODS[name]
        model = method.start(policy_of(random_model(CONFIGS["gpt2"]())))
        objective = method.objective(model)
        randomize(model.network, 2)  # the policy leaves the reference that DPO has just taken
        return Learning(method, model, objective)

    def step(self, packs: Sequence[Trees]) -> tuple[dict[str, float], list[Tensor]]:
        """The row of one step and the gradient it applied: gradient descent of rate 1 subtracts just that."""
        network = copy.deepcopy(self.model.network.state_dict())
        training = TrainingConfig(
            learning_rate=1.0, schedule="constant", warmup=0.0, max_grad_norm=1e9, dtype="float32"
        )
        optimizer = Optimizer({"model": self.model.network}, training, 1)
        optimizer.rule = torch.optim.SGD(optimizer.parameters(), lr=1.0)
        before = [p.detach().clone() for p in optimizer.parameters()]
        row = optimizer.update(0, LossTerm(self.objective, packs, self.method.per))
        gradient = [a - p.detach() for a, p in zip(before, optimizer.parameters(), strict=True)]
        self.model.network.load_state_dict(network)
        return row, gradient


COMPANY = [
    Tree((1, 2, 3), (Branch((4, 5, 0)), Branch((6, 0))), ranks=(0, 1)),
    Tree((7,), (Branch((8, 9, 10, 11, 0), (True, False, True, True, True)), Branch((0,))), ranks=(0, 1)),
    Tree((1, 2, 3), (Branch((12,)), Branch((4, 5, 0))), ranks=(0, 1)),
]
LEARNING = {name: Learning.of(name) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=25)
@given(st.data())
def test_any_split_gives_the_same_gradient(name: str, data: st.DataObject) -> None:
    learning = LEARNING[name]
    trees = data.draw(tree_lists(least=2, most=6, branches=2))
    assume(len(Trees.of(trees).target) > 0)
    row, gradient = learning.step([Trees.of(trees)])
    shuffled = data.draw(st.permutations(trees))
    budget = data.draw(st.integers(1, 40))
    cut = data.draw(st.integers(0, len(trees)))
    parts = [Trees.of(part) for part in (shuffled[:cut], shuffled[cut:]) if part]
    for packs in (pack(shuffled, budget), parts):
        other_row, other = learning.step(packs)
        for measure in row.keys() - {"accuracy"}:  # rounding decides which of two equal completions is ahead
            assert other_row[measure] == pytest.approx(row[measure], abs=1e-10), measure
        torch.testing.assert_close(other, gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_a_tree_computes_the_same_in_any_company(name: str) -> None:
    # The unreduced values of 3 trees together are those of each alone.
    learning = LEARNING[name]
    together, _ = learning.objective(Trees.of(COMPANY))
    alone = torch.cat([learning.objective(Trees.of([tree]))[0] for tree in COMPANY])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
