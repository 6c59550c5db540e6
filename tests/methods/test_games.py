"""Preference games through the real engine: exact mean gradients, and the equilibria that methods reach or cannot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accord.engine.cache import Mixture
from accord.engine.classifiers import Scorer
from accord.engine.fit import Objective
from accord.engine.generate import generate
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.engine.trees import Trees
from accord.errors import InputError
from accord.methods import IPOMD, NashMD, RewardModel
from accord.methods.nash_md import Snapshots
from accord.methods.pairwise import compare, match
from accord.records import Completion, EncodedPrompt, Sample, Verdict
from accord.train.rows import read_metrics
from examples.worlds.enumerable import Enumerable, kl_regularized_optimum
from examples.worlds.game import Game, GameJudge
from tests.methods.enumerated import every_group, gradient, prompts_in, rows_of, spoken, started
from tests.methods.test_direct import Table, every_pair, random_table
from tests.methods.test_offline_oracles import minimize
from tests.methods.test_policy_gradients import TWO_TOKENS, network_in, same, sequence_logps

GAME, TAU = Game(), 0.1
NASH = (0.400889, 0.211822, 0.387289)
MIXED = (0.399129, 0.192548, 0.408322)
"""The rest of a policy that plays its mixture of 7 to 1 with the reference."""
COMMON: dict[str, Any] = {"dtype": "float32", "tokens_per_pass": 256}


# Exact mean gradients, on all completions of two tokens


def mixed_logps(world: Enumerable, policy: Any, reference: Any, weight: float) -> Tensor:
    """log of the mixture's probability of every sequence, (S,), by plain forwards whose distributions are mixed."""
    logps = []
    for sequence in world.sequences:
        tokens = torch.tensor([[*world.prompt, *sequence]])
        with torch.no_grad():
            p, r = (network(input_ids=tokens).logits[0].log_softmax(-1) for network in (policy, reference))
        mixed = ((1 - weight) * p + weight * r).log_softmax(-1)
        places = torch.arange(len(sequence)) + len(world.prompt) - 1
        logps.append(mixed[places, list(sequence)].sum())
    return torch.stack(logps)


def complete(table: list[list[float | None]]) -> Tensor:
    """The table as a tensor, a tie where there was no answer."""
    return torch.tensor([[0.5 if win is None else win for win in row] for row in table], dtype=torch.float64)


@pytest.mark.parametrize("mixture", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("size", "opponents"), [(2, 1), (1, 2)])
def test_nash_md_climbs_its_preference_over_the_opponent(size: int, opponents: int, mixture: float) -> None:
    # E[P(y beats y')] - tau KL(pi, ref), the opponent held fixed: over every group of samples and every group of the
    # opponent's, which come from the token-by-token mixture.
    wins = complete(random_table(TWO_TOKENS))
    judge = Table(TWO_TOKENS, wins.tolist())
    method = NashMD(
        group_size=size, opponents=opponents, mixture=mixture, kl_coefficient=0.2, max_new_tokens=2, **COMMON
    )
    learner, policy = started(TWO_TOKENS, method, judge)
    said = spoken(TWO_TOKENS, policy.network)
    opponent = mixed_logps(TWO_TOKENS, policy.network, network_in(TWO_TOKENS, 2), mixture).exp()
    assert float(opponent.sum()) == pytest.approx(1, abs=1e-12)
    ours, chance = every_group(said, size)
    groups = list(product(range(7), repeat=opponents))
    prompts = prompts_in(TWO_TOKENS, len(chance) * len(groups))
    rows = [(mine, theirs) for mine in range(len(chance)) for theirs in groups]
    rollout, told = match(
        judge,  # type: ignore[arg-type]
        prompts,
        [sample for mine, _ in rows for sample in ours[mine * size : (mine + 1) * size]],
        [said[i] for _, theirs in rows for i in theirs],
    )
    weight = torch.stack([chance[mine] * opponent[list(theirs)].prod() for mine, theirs in rows])
    batches, _ = learner.experience(0, rollout)
    total = torch.zeros((), dtype=torch.float64)
    for trees in (t for part in batches for t in part):
        total = total - (weight[rows_of(trees)] * learner.loss(trees)[0]).sum() / size
    logp = sequence_logps(policy.network, TWO_TOKENS)
    reference = sequence_logps(network_in(TWO_TOKENS, 2), TWO_TOKENS).detach()
    value = (logp.exp() * (wins @ opponent)).sum() - 0.2 * (logp.exp() * (logp - reference)).sum()
    same(gradient(total, policy.network), gradient(value, policy.network))
    assert told == {"invalid": 0.0}


@pytest.mark.parametrize("mixture", [0.0, 0.3, 1.0])
def test_ipo_md_descends_the_distance_to_the_preferences(mixture: float) -> None:
    # Over every pair from the mixture, which has no gradient: that of (h - (p - 1/2) / tau)^2. Pairs without a verdict
    # are left out.
    table = random_table(TWO_TOKENS)
    method = IPOMD(tau=0.2, mixture=mixture, max_new_tokens=2, **COMMON)
    learner, policy = started(TWO_TOKENS, method, Table(TWO_TOKENS, table))
    samples, _ = every_group(spoken(TWO_TOKENS, policy.network), 2)
    opponent = mixed_logps(TWO_TOKENS, policy.network, network_in(TWO_TOKENS, 2), mixture).exp()
    weight = torch.outer(opponent, opponent)
    _, judged, told = compare(learner.judge, prompts_in(TWO_TOKENS, 49), samples)
    pairs = Trees.of(method.pairs(judged))
    values, measures = learner.objective(pairs)
    got = gradient((weight.flatten()[rows_of(pairs)[0::2]] * values).sum(), policy.network)

    ratio = sequence_logps(policy.network, TWO_TOKENS) - sequence_logps(network_in(TWO_TOKENS, 2), TWO_TOKENS).detach()
    known = torch.tensor([[win is not None for win in row] for row in table])
    aim = (complete(table) - 0.5) / 0.2
    exact = (weight * known * (ratio[:, None] - ratio - aim) ** 2).sum()
    same(got, gradient(exact, policy.network))
    assert told == {"ties": 9 / 49, "invalid": 2 / 49} and len(values) == 47
    # The winner comes first, so that the implicit reward is right where its margin is positive.
    assert bool((pairs.rewards[0::2] >= pairs.rewards[1::2]).all())
    assert measures["accuracy"].shape == (47,)


def test_the_opponent_is_drawn_from_the_mixed_logits() -> None:
    for method in (NashMD(mixture=0.3, **COMMON), IPOMD(mixture=0.3, **COMMON)):
        learner, policy = started(TWO_TOKENS, method, None)
        speaker = learner.opponent(0) if isinstance(method, NashMD) else learner.speaker
        assert isinstance(speaker.network, Mixture)
        [said] = generate(speaker.network, [TWO_TOKENS.prompt], 200, Sampling(max_new_tokens=2), end=0)
        mixed = mixed_logps(TWO_TOKENS, policy.network, network_in(TWO_TOKENS, 2), 0.3)
        known = dict(zip(TWO_TOKENS.sequences, mixed.tolist(), strict=True))
        assert {c.tokens for c in said} == set(TWO_TOKENS.sequences)
        assert [sum(c.logprobs) for c in said] == pytest.approx([known[c.tokens] for c in said], abs=1e-12)


# The equilibria of the cyclic game, by following exact mean gradients


def words(network: nn.Module) -> list[Sample]:
    """Every word of the game as a sample of the model."""
    with torch.no_grad():
        logps = GAME.distribution(network).log().tolist()
    return [
        Sample(GAME.prompt, "", GAME.tree.prompt, Completion(branch.tokens, (logp,), "length"))
        for branch, logp in zip(GAME.tree.branches, logps, strict=True)
    ]


@torch.no_grad()
def said_by(network: nn.Module) -> Tensor:
    """How often the model, or mixture, says each word, (3,)."""
    if isinstance(network, Mixture):
        return network.mix(*(said_by(part).log() for part in (network.policy, network.reference))).softmax(0)
    return GAME.distribution(network)


def duels(learner: Any, step: int, prompts: list[EncodedPrompt]) -> tuple[Tensor, list[Trees], Objective]:
    """IPO-MD's pairs of all words with all words: the chance of each, and what there is to minimize."""
    said, chance = words(learner.policy.network), said_by(learner.speaker.network)
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


# Opponents from the past


def test_the_price_of_leaving_the_last_snapshot() -> None:
    # Its gradient is that of - mirror KL(pi, snapshot), beside the preference over the snapshot that is played.
    judge = Table(TWO_TOKENS, complete(random_table(TWO_TOKENS)).tolist())
    sizes = {"group_size": 1, "opponents": 1, "kl_coefficient": 0.2, "max_new_tokens": 2}
    learner, policy = started(TWO_TOKENS, NashMD(past=1, mirror=0.3, **sizes, **COMMON), judge)
    [snapshot] = learner.past.networks.values()
    snapshot.load_state_dict(network_in(TWO_TOKENS, 3).state_dict())
    assert learner.opponent(0).network is snapshot
    said, past = spoken(TWO_TOKENS, policy.network), sequence_logps(snapshot, TWO_TOKENS)
    pairs = list(product(range(7), repeat=2))
    rollout, _ = match(judge, prompts_in(TWO_TOKENS, 49), [said[i] for i, _ in pairs], [said[j] for _, j in pairs])  # type: ignore[arg-type]
    logp = sequence_logps(policy.network, TWO_TOKENS)
    weight = torch.outer(logp.detach().exp(), past.exp()).flatten()
    batches, _ = learner.experience(0, rollout)
    total = sum(-(weight[rows_of(t)] * learner.loss(t)[0]).sum() for part in batches for t in part)
    reference = sequence_logps(network_in(TWO_TOKENS, 2), TWO_TOKENS).detach()
    value = complete(random_table(TWO_TOKENS)) @ past.exp() - 0.2 * (logp - reference) - 0.3 * (logp - past)
    assert isinstance(total, Tensor)
    same(gradient(total, policy.network), gradient((logp.exp() * value).sum(), policy.network))


def test_online_mirror_descent_leads_to_the_equilibrium_of_the_regularized_game() -> None:
    # The opponent is the policy of one or two steps ago, which holds it back as well.
    reached, learner = follow(nash_md(past=1, snapshot_every=2, mirror=0.3), steps=140, rate=0.2)
    assert reached.tolist() == pytest.approx(NASH, abs=1e-4)
    assert said_by(learner.past.last(140).network).tolist() == pytest.approx(NASH, abs=1e-4)


def test_past_policies_as_opponents_lead_there_as_well() -> None:
    reached, _ = follow(nash_md(past=3, snapshot_every=2), steps=100, rate=0.05)
    assert reached.tolist() == pytest.approx(NASH, abs=3e-4)


def test_snapshots_are_the_last_so_many() -> None:
    # After steps 2, 4, 6, 8 the policy is kept, the last three times it was; the weight says after which step.
    def weight(network: nn.Module) -> float:
        return float(next(network.parameters()).flatten()[0])

    policy = GAME.policy()
    next(policy.network.parameters()).data.fill_(0)
    past = Snapshots(policy, count=3, every=2)
    last, held = [], []
    for steps in range(1, 9):
        next(policy.network.parameters()).data.fill_(steps)
        past.keep(policy, steps)
        last.append(weight(past.last(steps).network))
        held.append(sorted(map(weight, past.networks.values())))
    assert last == [0, 2, 2, 4, 4, 6, 6, 8]
    assert held == [[0, 0, 0], *[[0, 0, 2]] * 2, *[[0, 2, 4]] * 2, *[[2, 4, 6]] * 2, [4, 6, 8]]
    assert not any(p.requires_grad for network in past.networks.values() for p in network.parameters())
    drawn = [past.any(0, step).network for step in range(300)]
    assert drawn[:50] == [past.any(0, step).network for step in range(50)]
    assert all(80 <= drawn.count(network) <= 120 for network in past.networks.values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mixture": 1.1}, r"mixture lies in \[0, 1\]"),
        ({"mirror": -0.1}, "mirror from 0 up"),
        ({"opponents": 0}, "opponents and snapshot_every must be at least 1"),
        ({"snapshot_every": 0}, "opponents and snapshot_every must be at least 1"),
        ({"past": -1}, "past must not be negative"),
        ({"kl_coefficient": 0.0}, "a mixture with the reference needs one"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NashMD(**given)


def test_without_a_reference_it_plays_itself() -> None:
    learner: Any = NashMD(kl_coefficient=0.0, mixture=0.0, **COMMON).learner(GAME.policy(), GAME.judge())  # type: ignore[arg-type]
    assert learner.opponent(0) is learner.policy and learner.reference is None


def test_an_invalid_verdict_is_no_tie() -> None:
    # Two prompts, two samples each against two of the opponent's: .9 and none, none and none; .5 and .5 twice. The mean
    # is over those that there are, and a sample without any is not learned from.
    table = [[0.9, None, 0.5], [None, None, 0.5], [0.2, 0.5, 0.5]]

    class Judge:
        def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
            pairs = zip(first, second, strict=True)
            return [Verdict(table[a.completion.tokens[0]][b.completion.tokens[0]]) for a, b in pairs]

    policy = GAME.policy(dtype=torch.float64)
    rock, scissors, paper = words(policy.network)
    prompts = [EncodedPrompt(GAME.prompt, GAME.tree.prompt, row) for row in range(2)]
    ours, theirs = [rock, scissors, rock, paper], [rock, scissors, paper, paper]
    rollout, told = match(Judge(), prompts, ours, theirs)  # type: ignore[arg-type]
    assert rollout.rewards == pytest.approx([0.9, 0.5, 0.5, 0.5])
    assert told == {"invalid": 3 / 8}
    trained = [branch.trained for tree in rollout.trees for branch in tree.branches]
    assert trained == [None, (False,), None, None]
    learner: Any = NashMD(group_size=2, opponents=2, **COMMON).learner(policy, Judge())  # type: ignore[arg-type]
    [packs], _ = learner.experience(0, rollout)
    assert sum(len(learner.loss(trees)[0]) for trees in packs) == 3


# Sampled runs


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


class Interrupted(GameJudge):
    """The game's judge, who leaves in the step of this number; 0 stays."""

    def __init__(self, game: Game, last: int) -> None:
        super().__init__(game)
        self.left = last

    def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().samples(first, second)


def test_a_killed_run_with_snapshots_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    # Snapshots after steps 3, 6 and 9, of which two are kept; checkpoints after 2, 4, 6 ... Killed in step 4 it goes on
    # after 2 and takes the first snapshot again; killed in step 8, it goes on after 6 with two snapshots of its own.
    sizes: dict[str, Any] = {"batch_size": 2, "group_size": 3, "opponents": 2, "max_new_tokens": 1, **COMMON}
    method = NashMD(past=2, snapshot_every=3, mirror=0.2, kl_coefficient=TAU, learning_rate=1e-2, max_steps=11, **sizes)

    def run(name: str, last: int, *, resume: bool = False) -> Path:
        judge, out = Interrupted(GAME, last), tmp_path / name
        method.fit(GAME.policy(), [GAME.prompt] * 5, judge=judge, out=out, resume=resume, save_every=2, sample_every=1)
        return out

    def logged(folder: Path) -> list[dict[str, float]]:
        return [{k: row[k] for k in row.keys() - {"seconds", "tokens_per_second"}} for row in read_metrics(folder)]

    straight = run("straight", 0)
    for last in (4, 8):
        with pytest.raises(KeyboardInterrupt):
            run(f"killed-{last}", last)
        held = {f.name for f in (tmp_path / f"killed-{last}" / "checkpoints").glob("*/*.safetensors")}
        assert held == {"policy.safetensors", "past-0.safetensors", "past-1.safetensors", "optimizer.safetensors"}
        killed = run(f"killed-{last}", 0, resume=True)
        for name in ("model/model.safetensors", "samples.jsonl"):
            assert (killed / name).read_bytes() == (straight / name).read_bytes(), f"{name}, killed in step {last}"
        assert logged(killed) == logged(straight) and len(logged(killed)) == 11
        assert all(row["invalid"] == 0 for row in logged(killed))


# What no reward can do


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
