from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from accord.engine.trees import Branch, Tree, Trees
from accord.train.rows import read_metrics
from examples.new_method import SimPO, main
from tests.engine.tiny import CONFIGS, policy_of, random_model


def test_the_loss_of_simpo_by_hand() -> None:
    # A model of zeros gives each of V tokens 1 / V, so both means are -log V whatever the lengths: the rewards are
    # equal, and the loss is -log sigmoid(-gamma) = log(1 + e^gamma).
    policy = policy_of(random_model(CONFIGS["gpt2"]()))
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.zero_()
    pair = Tree((1, 2), (Branch((3,)), Branch((4, 5, 6))), (0, 1))
    values, measures = SimPO(dtype="float32", gamma=0.7).objective(policy)(Trees.of([pair]))
    assert values.tolist() == pytest.approx([math.log(1 + math.exp(0.7))], abs=1e-6)
    assert measures["accuracy"].tolist() == [0.5]


def test_the_loss_of_simpo_is_of_means_over_tokens() -> None:
    policy = policy_of(random_model(CONFIGS["gpt2"]()))
    trees = Trees.of([Tree((1, 2), (Branch((3,)), Branch((4, 5, 6))), (0, 1))])
    logp = policy.log_probs(trees).tolist()  # one token of the chosen, three of the rejected
    lead = 2 * (logp[0] - sum(logp[1:]) / 3) - 1
    values, _ = SimPO(dtype="float32").objective(policy)(trees)
    assert values.tolist() == pytest.approx([math.log(1 + math.exp(-lead))], abs=1e-6)


def test_the_example_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main()
    losses = [row["loss"] for row in read_metrics(tmp_path / "runs" / "simpo")]
    assert len(losses) == 8 and losses[-1] < losses[0]
