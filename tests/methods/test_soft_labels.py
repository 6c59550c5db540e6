"""Preferences that may be wrong: every method's loss is the mean over both labels, and rests where it should."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from accord.engine.classifiers import PreferenceNetwork, Scorer
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError, LeftOut
from accord.methods import DPO, IPO, KTO, PreferenceModel, RewardModel
from accord.methods.offline import OfflineMethod
from accord.records import Preference
from examples.worlds.enumerable import Enumerable
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import policy_of
from tests.methods.enumerated import mean_of, minimize

WORLD = Enumerable(vocabulary=4, length=1)
FIRST, SECOND = Branch((1,)), Branch((2,))


def pair(probability: float, first: Branch = FIRST, second: Branch = SECOND, margin: float = 0.0) -> Tree:
    return Tree(WORLD.prompt, (first, second), (0, 1), margin=margin, probability=probability)


def losses(method: OfflineMethod, *trees: Tree) -> Tensor:
    """The loss of each tree in one pack, by a policy that has moved from its reference, or by a head of its own."""
    policy = policy_of(WORLD.new_model(1))
    model = method.start(policy)
    if isinstance(model, Scorer | PreferenceNetwork):
        model.network.score.weight.data.mul_(2)
    objective = method.objective(model)
    if model is policy:
        policy.network.load_state_dict(WORLD.new_model(2).state_dict())
    return objective(Trees.of(trees))[0].detach()


@pytest.mark.parametrize(
    "method",
    [DPO(beta=2.0), DPO(beta=2.0, label_smoothing=0.1), IPO(tau=0.3), RewardModel(), PreferenceModel()],
    ids=lambda method: method.command,
)
def test_the_loss_is_the_mean_over_both_labels(method: OfflineMethod) -> None:
    certain, mirrored = pair(1.0, margin=0.4), pair(1.0, SECOND, FIRST, margin=0.4)
    right, wrong, alone = losses(method, certain, mirrored, pair(1.0)).tolist()
    found = losses(method, pair(0.8, margin=0.4), pair(1.0), pair(0.5, margin=0.4))
    assert found.tolist() == pytest.approx([0.8 * right + 0.2 * wrong, alone, (right + wrong) / 2], rel=1e-6)
    assert abs(right - wrong) > 0.01


def test_a_reward_model_comes_to_rest_at_the_log_odds() -> None:
    # The least of -3/4 log sigmoid(d) - 1/4 log sigmoid(-d) is at d = log 3, and is the entropy of (3/4, 1/4).
    method = RewardModel()
    model = Scorer.on(policy_of(WORLD.new_model(1)))
    trees = Trees.of([pair(0.75)])
    least = minimize(model.network, mean_of(method.objective(model), trees))
    assert least == pytest.approx(0.75 * log(4 / 3) + 0.25 * log(4), abs=1e-8)
    with torch.no_grad():
        first, second = model.rewards(trees).tolist()
    assert first - second == pytest.approx(log(3), abs=1e-3)


def test_rows_keep_their_probability_as_trees() -> None:
    policy = policy_of(WORLD.new_model(1))
    policy.tokenizer = word_tokenizer()
    rows = [Preference("hi", "good day", "bad", probability=0.75), Preference("bye", "hello", "bad", 2.0)]
    trees = DPO().encode(policy, rows, LeftOut())
    assert [(tree.probability, tree.margin) for tree in trees] == [(0.75, 0.0), (1.0, 2.0)]
    with pytest.raises(InputError, match=r"^kto learns from certain labels.*--columns chosen_probability= to take"):
        KTO().encode(policy, rows, LeftOut())
    with pytest.raises(ValueError, match="not 0.25; swap the two"):
        Preference("hi", "good day", "bad", probability=0.25)
