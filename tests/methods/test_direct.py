"""IPO and DPO through the real engine: optima that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from accord.engine.load import load_model
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError, LeftOut
from accord.methods import DPO, IPO
from accord.records import Preference, Ranking, Row
from tests.commands.small import save_model
from tests.engine.tiny import policy_of
from tests.methods.enumerated import TWO_TOKENS, mean_of, minimize, network_in, sequence_logps
from tests.methods.games import COMMON, GAME, SURE, every_pair


def test_ipo_reaches_its_population_optimum() -> None:
    # Pairs of words drawn from mu, labeled by P: the optimum is ref exp(P(y beats mu) / tau) / Z.
    mu = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    preferences = torch.tensor(GAME.preferences, dtype=torch.float64)
    policy = GAME.policy(dtype=torch.float64)
    objective, (trees, first, second) = IPO(tau=0.1, **COMMON).objective(policy), every_pair(GAME)
    weight = mu[first] * mu[second] * preferences[first, second]
    minimize(policy.network, lambda: (weight * objective(trees)[0]).sum())
    with torch.no_grad():
        learned = GAME.distribution(policy.network)
    assert learned.tolist() == pytest.approx([0.699363, 0.020892, 0.279745], abs=1e-6)
    torch.testing.assert_close(learned, GAME.best_response(mu, 0.1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("tau", [0.25, 0.5])
def test_where_all_labels_agree_ipo_stops_and_dpo_does_not(tau: float) -> None:
    # Two words, the first always preferred, a uniform reference: IPO rests where the first has sigmoid(1 / (2 tau)),
    # and DPO nowhere.
    tree = Trees.of([Tree(SURE.tree.prompt, SURE.tree.branches, (0, 1))])

    def log_odds(method: DPO | IPO, iterations: int) -> float:
        policy = SURE.policy(dtype=torch.float64)
        minimize(policy.network, mean_of(method.objective(policy), tree), iterations)
        with torch.no_grad():
            first, second = SURE.distribution(policy.network).log().tolist()
        return first - second

    assert log_odds(IPO(tau=tau, **COMMON), 20) == pytest.approx(1 / (2 * tau), abs=1e-6)
    assert log_odds(IPO(tau=tau, **COMMON), 100) == pytest.approx(1 / (2 * tau), abs=1e-6)
    early, late = (log_odds(DPO(beta=tau, **COMMON), iterations) for iterations in (5, 20))
    assert 5 < early < late - 5


def test_every_pair_of_different_ranks_of_a_ranking_is_a_preference(tmp_path: Path) -> None:
    policy, left_out = load_model(save_model(tmp_path / "m")), LeftOut()
    rows: list[Row] = [
        Ranking("hi", ("good", "good"), (0, 0)),
        Ranking("hi", ("bad", "good", "day", "bye"), (1, 0, 1, 2)),
        Preference("day", "good", "bad"),
    ]
    trees = DPO().encode(policy, rows, left_out)
    pairs = [("good", "bad"), ("bad", "bye"), ("good", "day"), ("good", "bye"), ("day", "bye")]
    alone = DPO().encode(policy, [*(Preference("hi", *pair) for pair in pairs), rows[2]], LeftOut())
    assert [(t.prompt, t.branches, t.ranks) for t in trees] == [(t.prompt, t.branches, t.ranks) for t in alone]
    assert [int(t.row) for t in trees] == [1, 1, 1, 1, 1, 2]
    assert left_out.lines() == ["1 row left out, as all answers have one rank, so the row states no preference (row 1)"]
    with pytest.raises(InputError, match="every row is a tie, which states no preference"):
        DPO().encode(policy, rows[:1], LeftOut())


@pytest.mark.parametrize("length", ["sum", "mean"])
def test_ipo_by_sums_and_by_means(length: Any) -> None:
    # Sequences of one and of two tokens: their log-probabilities are divided by 1 and 2, or left as they are.
    policy = policy_of(network_in(TWO_TOKENS, 2))
    objective = IPO(tau=0.2, length=length, **COMMON).objective(policy)
    with torch.no_grad():
        reference = sequence_logps(policy.network, TWO_TOKENS)
    policy.network.load_state_dict(network_in(TWO_TOKENS, 1).state_dict())
    pairs = [(0, 3), (4, 0), (1, 5)]
    branches = [Branch(s) for s in TWO_TOKENS.sequences]
    values, measures = objective(Trees.of([Tree(TWO_TOKENS.prompt, (branches[i], branches[j])) for i, j in pairs]))
    sizes = torch.tensor([len(s) if length == "mean" else 1 for s in TWO_TOKENS.sequences])
    ratio = (sequence_logps(policy.network, TWO_TOKENS) - reference) / sizes
    margin = torch.stack([ratio[i] - ratio[j] for i, j in pairs])
    torch.testing.assert_close(values, (margin - 2.5) ** 2, rtol=0, atol=1e-10)
    torch.testing.assert_close(measures["margin"], 0.2 * margin.detach(), rtol=0, atol=1e-10)
