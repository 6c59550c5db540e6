"""Nash-MD and IPO-MD: mean gradients over all completions, the opponents they meet, and runs that are killed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accord.engine.decoding import Mixture
from accord.engine.generate import generate
from accord.engine.sampling import Sampling
from accord.engine.trees import Trees
from accord.errors import InputError
from accord.methods import IPOMD, NashMD
from accord.methods.nash_md import Snapshots
from accord.methods.pairwise import compare, match
from accord.records import EncodedPrompt, Sample, Verdict
from accord.train.rows import read_metrics
from examples.worlds.enumerable import Enumerable
from examples.worlds.game import Game, GameJudge
from tests.methods.enumerated import (
    TWO_TOKENS,
    every_group,
    gradient,
    network_in,
    prompts_in,
    rows_of,
    same,
    sequence_logps,
    spoken,
    started,
)
from tests.methods.games import COMMON, GAME, Table, random_table, words


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
        speaker = learner.opponent(0) if isinstance(method, NashMD) else learner.sampled
        assert isinstance(speaker.network, Mixture)
        [said] = generate(speaker.network, [TWO_TOKENS.prompt], 200, Sampling(max_new_tokens=2), end=0)
        mixed = mixed_logps(TWO_TOKENS, policy.network, network_in(TWO_TOKENS, 2), 0.3)
        known = dict(zip(TWO_TOKENS.sequences, mixed.tolist(), strict=True))
        assert {c.tokens for c in said} == set(TWO_TOKENS.sequences)
        assert [sum(c.logprobs) for c in said] == pytest.approx([known[c.tokens] for c in said], abs=1e-12)


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
    method = NashMD(past=2, snapshot_every=3, mirror=0.2, kl_coefficient=0.1, learning_rate=1e-2, max_steps=11, **sizes)

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
