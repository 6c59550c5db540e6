"""Preference games through the real engine: the equilibria that methods reach, or cannot."""

from __future__ import annotations

from itertools import product
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accord.engine.classifiers import Scorer
from accord.engine.decoding import Mixture
from accord.engine.fit import Objective
from accord.engine.models import Policy
from accord.engine.trees import Trees
from accord.methods import IPOMD, NashMD, RewardModel
from accord.methods.pairwise import compare, match
from accord.records import EncodedPrompt
from examples.worlds.enumerable import kl_regularized_optimum
from tests.methods.enumerated import minimize
from tests.methods.games import COMMON, GAME, every_pair, words

TAU = 0.1
NASH = (0.400889, 0.211822, 0.387289)
MIXED = (0.399129, 0.192548, 0.408322)
"""The rest of a policy that plays its mixture of 7 to 1 with the reference."""


@torch.no_grad()
def said_by(network: nn.Module) -> Tensor:
    """How often the model, or mixture, says each word, (3,)."""
    if isinstance(network, Mixture):
        return network.mix(*(said_by(part).log() for part in (network.policy, network.reference))).softmax(0)
    return GAME.distribution(network)


def duels(learner: Any, step: int, prompts: list[EncodedPrompt]) -> tuple[Tensor, list[Trees], Objective]:
    """IPO-MD's pairs of all words with all words: the chance of each, and what there is to minimize."""
    said, chance = words(learner.policy.network), said_by(learner.sampled.network)
    _, judged, _ = compare(learner.judge, prompts, [said[i] for pair in product(range(3), repeat=2) for i in pair])
    return torch.outer(chance, chance).flatten(), [Trees.of(judged)], learner.objective


def matches(learner: Any, step: int, prompts: list[EncodedPrompt]) -> tuple[Tensor, list[Trees], Objective]:
    """The same of Nash-MD: all words against all words of the opponent."""
    learner.done = step
    said = words(learner.policy.network)
    chance = torch.outer(said_by(learner.policy.network), said_by(learner.opponent(step).network))
    rollout, _ = match(GAME.judge(), prompts, [said[i // 3] for i in range(9)], [said[i % 3] for i in range(9)])
    [packs], _ = learner.experience(step, rollout)
    return chance.flatten(), packs, learner.loss


def follow(method: NashMD | IPOMD, steps: int, rate: float) -> tuple[Tensor, Any]:
    """Where plain descent along the method's exact mean gradient leads from the reference, and the learner."""
    policy = GAME.policy(dtype=torch.float64)
    learner: Any = method.learner(policy, GAME.judge())  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(policy.network.parameters(), lr=rate)
    prompts = [EncodedPrompt(GAME.prompt, GAME.tree.prompt, row) for row in range(9)]
    for step in range(steps):
        expect = matches if isinstance(method, NashMD) else duels
        chance, packs, loss = expect(learner, step, prompts)
        optimizer.zero_grad()
        for trees in packs:
            rows = torch.tensor([tree.row for tree in trees.trees])
            (chance[rows] * loss(trees)[0]).sum().backward()
        optimizer.step()
        if isinstance(method, NashMD):
            learner.past.keep(policy, step + 1)
    return said_by(policy.network), learner


def nash_md(**given: Any) -> NashMD:
    """Of one sample against one of the opponent's, so that all pairs are all there is."""
    sizes = {"group_size": 1, "opponents": 1, "max_new_tokens": 1, "mixture": 0.0, "kl_coefficient": TAU}
    return NashMD(**{**sizes, **COMMON, **given})


@pytest.mark.parametrize(("mixture", "rest"), [(0.0, NASH), (0.125, MIXED)])
def test_nash_mds_mean_gradient_leads_to_its_fixed_point(mixture: float, rest: tuple[float, ...]) -> None:
    reached, _ = follow(nash_md(mixture=mixture), steps=60, rate=0.2)
    assert reached.tolist() == pytest.approx(rest, abs=1e-6)


@pytest.mark.parametrize(("mixture", "rest"), [(0.0, NASH), (0.125, MIXED)])
def test_ipo_mds_mean_gradient_leads_to_the_same_fixed_point(mixture: float, rest: tuple[float, ...]) -> None:
    reached, _ = follow(IPOMD(tau=TAU, mixture=mixture, max_new_tokens=1, **COMMON), steps=100, rate=0.06)
    assert reached.tolist() == pytest.approx(rest, abs=1e-4)


def test_against_the_reference_it_is_the_best_response() -> None:
    reference = torch.tensor(GAME.reference, dtype=torch.float64)
    reached, _ = follow(nash_md(mixture=1.0), steps=80, rate=1.0)
    torch.testing.assert_close(reached, GAME.best_response(reference, TAU), rtol=0, atol=1e-6)


def test_online_mirror_descent_leads_to_the_equilibrium_of_the_regularized_game() -> None:
    # The opponent is the policy of one or two steps ago, which holds it back as well.
    reached, learner = follow(nash_md(past=1, snapshot_every=2, mirror=0.3), steps=140, rate=0.2)
    assert reached.tolist() == pytest.approx(NASH, abs=1e-4)
    assert said_by(learner.past.last(140).network).tolist() == pytest.approx(NASH, abs=1e-4)


def test_past_policies_as_opponents_lead_there_as_well() -> None:
    reached, _ = follow(nash_md(past=3, snapshot_every=2), steps=100, rate=0.05)
    assert reached.tolist() == pytest.approx(NASH, abs=3e-4)


def sampled(method: NashMD | IPOMD, out: Path, prompts: int = 64) -> Policy:
    """The policy after a whole run from Python, with the game's judge."""
    policy = GAME.policy()
    method.fit(policy, [GAME.prompt] * prompts, judge=GAME.judge(), out=out)
    return policy


@pytest.mark.slow
def test_sampled_runs_reach_the_fixed_point(tmp_path: Path) -> None:
    # Without a mean of gradients (beta1 = 0) and with a step size that falls to zero.
    common: dict[str, Any] = {"mixture": 0.125, "beta1": 0.0, "batch_size": 64, "max_new_tokens": 1, "dtype": "float32"}
    nash = NashMD(kl_coefficient=TAU, group_size=8, opponents=8, learning_rate=2e-3, max_steps=60, warmup=0.0, **common)
    ipo = IPOMD(tau=TAU, group_size=16, learning_rate=1e-3, max_steps=80, max_grad_norm=1e3, warmup=0.0, **common)
    for method in (nash, ipo):
        reached = said_by(sampled(method, tmp_path / method.command).network)
        assert reached.tolist() == pytest.approx(MIXED, abs=1e-2), method.command


def fitted() -> Tensor:
    """The scores (3,) of a reward model fitted to all pairs of words, each labeled as often as people do; centered."""
    scorer = Scorer.on(GAME.policy(dtype=torch.float64))
    objective, (trees, first, second) = RewardModel(**COMMON).objective(scorer), every_pair(GAME)
    weight = torch.tensor(GAME.preferences, dtype=torch.float64)[first, second]
    minimize(scorer.network, lambda: (weight * objective(trees)[0]).sum())
    with torch.no_grad():
        scores = scorer.rewards(Trees.of([GAME.tree]))
    return scores - scores.mean()


def test_a_reward_cannot_stand_for_the_game_nor_lead_to_its_equilibrium() -> None:
    scores = fitted()
    # The best fit: every word is expected to win as often as it does, 1.1, 0.9 and 1.0 times of the other two.
    odds = scores[:, None] - scores
    wins = torch.tensor(GAME.preferences, dtype=torch.float64)
    torch.testing.assert_close(torch.sigmoid(odds).sum(1), wins.sum(1), rtol=0, atol=1e-6)
    assert scores.tolist() == pytest.approx([0.1339, -0.1339, 0.0], abs=1e-4)
    # Around the circle its log-odds sum to 0, as any scores' do; those of the game to log(9 * 4 * 4). So of some pair
    # every reward is wrong by a third of that: 8 of 10 can only be 4 of 10.
    circle = [(0, 1), (1, 2), (2, 0)]
    assert sum(float(odds[i, j]) for i, j in circle) == pytest.approx(0, abs=1e-12)
    assert sum(float(torch.logit(wins[i, j])) for i, j in circle) == pytest.approx(log(144))
    # What KL-regularized RL makes of these scores is worse than the reference it starts from, which loses by .030 to
    # its best response; and nothing between, whatever the price of divergence, comes near the equilibrium's 0.
    reference = torch.tensor(GAME.reference, dtype=torch.float64).log()
    learned = {beta: kl_regularized_optimum(reference, scores, beta) for beta in (0.02, 0.05, TAU, 0.3, 1.0, 10.0)}
    assert learned[TAU].tolist() == pytest.approx([0.8726, 0.0359, 0.0915], abs=1e-4)
    lost = {beta: GAME.exploitability(pi, TAU) for beta, pi in learned.items()}
    assert GAME.exploitability(reference.exp(), TAU) == pytest.approx(0.0300, abs=1e-4)
    assert lost[TAU] == pytest.approx(0.1407, abs=1e-4)
    assert min(lost.values()) > 0.028
    assert GAME.exploitability(GAME.equilibrium(TAU), TAU) == pytest.approx(0, abs=1e-12)
    assert GAME.exploitability(torch.tensor(MIXED, dtype=torch.float64), TAU) == pytest.approx(6.2e-4, abs=1e-5)
