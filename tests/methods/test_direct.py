"""Direct methods, distillation and selection through the real engine: optima and mean gradients that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from accord.engine.fit import LossTerm
from accord.engine.models import Policy
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError, LeftOut
from accord.methods import DPO, IPO, KTO, RAFT, Distill, OnlineDPO
from accord.methods.pairwise import compare
from accord.methods.rollouts import Rollout
from accord.objectives.selection import best_of_n
from accord.records import EncodedPrompt, Labeled, Preference, Prompt, Sample, Verdict
from examples.worlds.enumerable import END, Enumerable
from examples.worlds.game import Game
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import CONFIGS, plain_log_probabilities, policy_of, random_model
from tests.methods.enumerated import chances, every_group, gradient, prompts_in, rows_of, spoken, started
from tests.methods.test_offline_oracles import mean_of, minimize
from tests.methods.test_policy_gradients import ONE_TOKEN, TWO_TOKENS, network_in, same, sequence_logps

COMMON: dict[str, Any] = {"dtype": "float32", "tokens_per_pass": 64}
GAME = Game()
SURE = Game(words=("yes", "no"), preferences=((0.5, 1.0), (0.0, 0.5)), reference=(0.5, 0.5))


# IPO


def every_pair(game: Game) -> tuple[Trees, Tensor, Tensor]:
    """A tree for every ordered pair of different words, the first preferred; the places of the first and the second."""
    words, branches = range(len(game.words)), game.tree.branches
    first, second = torch.tensor([(i, j) for i in words for j in words if i != j]).T
    trees = [Tree(game.tree.prompt, (branches[i], branches[j]), (0, 1)) for i, j in zip(first, second, strict=True)]
    return Trees.of(trees), first, second


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


# KTO


def labeled(world: Enumerable) -> Trees:
    """Every sequence twice, as desirable and as undesirable, each a tree of its own."""
    return Trees.of(
        [Tree(world.prompt, (Branch(s),), (rank,), row) for row, s in enumerate(world.sequences) for rank in (0, 1)]
    )


@pytest.mark.parametrize(("desirable", "undesirable"), [(1.0, 1.0), (1.5, 1.0), (1.0, 1.2)])
def test_the_sign_of_ktos_pull_depends_on_the_share_of_labels_alone(desirable: float, undesirable: float) -> None:
    # With q = P(desirable | y) the gradient is - sum over y of (w_d q - w_u (1 - q)) beta s (1 - s) grad r(y), where
    # s = sigmoid(beta (r - z0)): wherever the policy stands, y is pulled up if and only if w_d q > w_u (1 - q).
    method = KTO(beta=0.3, desirable_weight=desirable, undesirable_weight=undesirable, **COMMON)
    policy = policy_of(network_in(TWO_TOKENS, 2))
    objective = method.objective(policy)
    with torch.no_grad():
        reference = sequence_logps(policy.network, TWO_TOKENS)
    policy.network.load_state_dict(network_in(TWO_TOKENS, 1).state_dict())
    shares = torch.linspace(0.05, 0.95, len(TWO_TOKENS.sequences), dtype=torch.float64)
    ratio = sequence_logps(policy.network, TWO_TOKENS) - reference
    values, measures = objective(labeled(TWO_TOKENS), baseline=0.1)
    weight = torch.stack([shares, 1 - shares], 1).flatten()
    total = (weight * values).sum()
    assert not measures["baseline"].requires_grad
    s = torch.sigmoid(0.3 * (ratio - 0.1)).detach()
    pull = (desirable * shares - undesirable * (1 - shares)) * 0.3 * s * (1 - s)
    same(gradient(total, policy.network), gradient(-(pull * ratio).sum(), policy.network))
    assert set(measures) == {"baseline", "chosen_reward", "rejected_reward"}
    torch.testing.assert_close(measures["chosen_reward"], 0.3 * ratio.detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("shares", "weights", "first"),
    [((0.55, 0.4, 0.3), (1.0, 1.0), 1.0), ((0.45, 0.6, 0.6), (1.0, 1.0), 0.0), ((0.55, 0.7, 0.7), (1.0, 1.4), 0.0)],
)
def test_at_equal_weights_the_majority_label_wins(
    shares: tuple[float, ...], weights: tuple[float, float], first: float
) -> None:
    # The first word is liked by 55% and alone in that: it is all that is said in the end. Liked by 45% it is not said
    # at all; nor where a dislike weighs 1.4 times as much as a like: .55 < 1.4 * .45.
    policy = GAME.policy(dtype=torch.float64)
    method = KTO(beta=0.1, desirable_weight=weights[0], undesirable_weight=weights[1], **COMMON)
    objective = method.objective(policy)
    trees = Trees.of([Tree(GAME.tree.prompt, (b,), (rank,)) for b in GAME.tree.branches for rank in (0, 1)])
    weight = torch.tensor([p for share in shares for p in (share, 1 - share)], dtype=torch.float64)
    batch = [Tree(GAME.tree.prompt, (branch,), (0,)) for branch in GAME.tree.branches]
    for _ in range(8):  # z0 follows the policy
        z0 = objective.divergence(batch)
        minimize(policy.network, lambda z0=z0: (weight * objective(trees, baseline=z0)[0]).sum(), iterations=20)
    with torch.no_grad():
        assert float(GAME.distribution(policy.network)[0]) == pytest.approx(first, abs=0.02)


def kto_batch(model: Policy, **given: Any) -> tuple[list[Tree], Any, KTO]:
    """Three labeled rows of different lengths, the policy moved away from the reference."""
    tokens = [((6, 7), (8, 9, 2)), ((10,), (11, 2)), ((9, 9, 6), (7, 7, 8, 6, 2))]
    batch = [Tree(p, (Branch(c),), (i % 2,), i) for i, (p, c) in enumerate(tokens)]
    method = KTO(beta=0.3, **{**COMMON, **given})
    objective = method.objective(model)
    with torch.no_grad():
        model.network.lm_head.weight.mul_(0.5)
    return batch, objective, method


def gpt2() -> Policy:
    return policy_of(random_model(CONFIGS["gpt2"]()))


def test_the_baseline_is_of_mismatched_pairs_whatever_the_packing() -> None:
    # Row i's prompt with row i + 1's completion, the last row's with the first's.
    results = []
    for budget in (8, 4096):
        policy = gpt2()
        batch, objective, method = kto_batch(policy, tokens_per_pass=budget)
        work = method.terms(objective, batch, policy)
        assert len(work.packs) == {8: 2, 4096: 1}[budget] and work.count == 3
        outputs = [work.objective(trees) for trees in work.packs]
        loss = sum(values.sum() for values, _ in outputs) / work.count
        swapped = [Tree(batch[i].prompt, batch[(i + 1) % 3].branches) for i in range(3)]
        with torch.no_grad():
            gap = plain_log_probabilities(policy.network, swapped) - plain_log_probabilities(gpt2().network, swapped)
        expected = max(0.0, float(gap.sum()) / 3)
        assert expected > 0.01
        assert all(float(m["baseline"]) == pytest.approx(expected, abs=1e-10) for _, m in outputs)
        results.append((loss, gradient(loss, policy.network)))
    (loss, slope), (other, other_slope) = results
    torch.testing.assert_close(loss, other, rtol=0, atol=1e-10)
    same(slope, other_slope)


def test_the_baseline_is_not_negative_and_0_of_a_row_alone() -> None:
    policy = gpt2()
    batch, objective, _ = kto_batch(policy)
    assert objective.divergence(batch[:1]) == 0
    for sign in (1, -1):  # the two roles exchanged: what was above the reference is below it
        with torch.no_grad():
            ratios = objective.log_ratios(Trees.of([objective.swapped(batch[i - 1], batch[i]) for i in range(3)]))
        assert objective.divergence(batch) == pytest.approx(max(0.0, float(ratios.mean())), abs=1e-12)
        assert sign * float(ratios.mean()) > 0.01
        objective.reference, objective.policy = objective.policy, objective.reference


def test_mismatched_pairs_are_no_longer_than_rows() -> None:
    # Rows of at most 9 tokens: a prompt of 7 and one of 1, whose completions have 2 and 8. The first prompt has room
    # for 2 tokens of the other's 8. More than the context would make the model fail.
    policy = gpt2()
    policy.network.config.n_positions = 9
    assert policy.context == 9
    _, objective, _ = kto_batch(policy)
    long = Tree((6,) * 7, (Branch((7, 2)),), (0,))
    short = Tree((8,), (Branch((9,) * 8, (False,) * 2 + (True,) * 6),), (1,))
    assert objective.swapped(long, short) == Tree(long.prompt, (Branch((9, 9), (False, False)),))
    assert objective.swapped(short, long) == Tree(short.prompt, long.branches)
    other = KTO(max_length=8, **COMMON).objective(policy)
    assert other.swapped(short, Tree((8,), (Branch((9,) * 8),))).branches == (Branch((9,) * 7),)


def test_kto_takes_preferences_apart_and_wants_both_labels() -> None:
    policy = gpt2()
    policy.tokenizer = word_tokenizer()
    trees = KTO().encode(policy, [Preference("hi", "good day", "bad"), Labeled("bye", "hello", False)], LeftOut())
    assert [(t.prompt, t.branches[0].tokens, t.ranks) for t in trees] == [
        ((6,), (8, 10, 2), (0,)),
        ((6,), (9, 2), (1,)),
        ((11,), (7, 2), (1,)),
    ]
    for label, name in ((True, "desirable"), (False, "undesirable")):
        with pytest.raises(InputError, match=f"every label is {name}, and KTO learns from both kinds"):
            KTO().encode(policy, [Labeled("hi", "good", label), Labeled("bye", "bad", label)], LeftOut())
    with pytest.raises(InputError, match="batch_size must be at least 2"):
        KTO(batch_size=1)


# Online DPO


class Table:
    """A judge of the samples of a world by a table, whose entries may be None."""

    def __init__(self, world: Enumerable, table: Sequence[Sequence[float | None]]) -> None:
        self.place, self.table = {s: i for i, s in enumerate(world.sequences)}, table

    def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
        pairs = zip(first, second, strict=True)
        return [Verdict(self.table[self.place[a.completion.tokens]][self.place[b.completion.tokens]]) for a, b in pairs]


def random_table(world: Enumerable) -> list[list[float | None]]:
    """Any preferences: ties on the diagonal and in one more place, one pair without an answer."""
    size = len(world.sequences)
    wins = torch.rand(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    table: list[list[float | None]] = [
        [0.5 if i == j else float(wins[i, j] if i < j else 1 - wins[j, i]) for j in range(size)] for i in range(size)
    ]
    table[1][2] = table[2][1] = 0.5
    table[0][3] = table[3][0] = None
    return table


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_online_dpo_descends_its_loss_on_pairs_of_the_policys_own(smoothing: float) -> None:
    # Every pair (y, y') with probability pi(y) pi(y'), the more probable winner chosen; the drawing has no gradient.
    table = random_table(TWO_TOKENS)
    method = OnlineDPO(beta=0.3, label_smoothing=smoothing, max_new_tokens=2, **COMMON)
    learner, policy = started(TWO_TOKENS, method, Table(TWO_TOKENS, table))
    samples, chance = every_group(spoken(TWO_TOKENS, policy.network), 2)
    rollout, judged, told = compare(learner.judge, prompts_in(TWO_TOKENS, len(chance)), samples)
    pairs = Trees.of(method.pairs(judged))
    values, measures = learner.objective(pairs)
    got = gradient((chance[rows_of(pairs)[0::2]] * values).sum(), policy.network)

    reference = sequence_logps(network_in(TWO_TOKENS, 2), TWO_TOKENS).detach()
    ratio = sequence_logps(policy.network, TWO_TOKENS) - reference
    p, exact = (ratio.detach() + reference).exp(), ratio.new_zeros(())
    for i in range(7):
        for j in range(7):
            win = table[i][j]
            if win is not None and win != 0.5:
                z = 0.3 * (ratio[i] - ratio[j]) * (1 if win > 0.5 else -1)
                exact = exact - p[i] * p[j] * ((1 - smoothing) * logsigmoid(z) + smoothing * logsigmoid(-z))
    same(got, gradient(exact, policy.network))
    # 7 pairs of equals and two more tie, two are invalid; their samples stand at 1/2.
    assert told == {"ties": 9 / 49, "invalid": 2 / 49}
    assert len(judged) == 47 and len(values) == 38
    assert torch.tensor(rollout.rewards).view(-1, 2).sum(1).tolist() == pytest.approx([1.0] * 49)
    assert rollout.rewards[2 * 3] == rollout.rewards[2 * 3 + 1] == 0.5
    assert bool((pairs.rewards[0::2] > pairs.rewards[1::2]).all())
    torch.testing.assert_close(measures["margin"], measures["chosen_reward"] - measures["rejected_reward"])


@pytest.mark.parametrize("win", [0.5 + 2**-53, 0.5 - 2**-54, 0.5, 0.0, 1.0])
def test_a_verdict_next_to_one_half_has_a_winner_and_one_half_has_none(win: float) -> None:
    method = OnlineDPO(max_new_tokens=1, **COMMON)
    learner, policy = started(ONE_TOKEN, method, Table(ONE_TOKEN, [[win] * 4] * 4))
    samples = spoken(ONE_TOKEN, policy.network)[:2]
    _, judged, told = compare(learner.judge, prompts_in(ONE_TOKEN, 1), samples)
    pairs = method.pairs(judged)
    assert told == {"ties": float(win == 0.5), "invalid": 0.0}
    chosen = [pair.branches[0].tokens for pair in pairs]
    assert chosen == ([] if win == 0.5 else [samples[0 if win > 0.5 else 1].completion.tokens])


class Counting:
    """In an optimizer's place: notes the work of every update and moves nothing."""

    def __init__(self) -> None:
        self.work: list[LossTerm] = []

    def update(self, step: int, *work: LossTerm) -> dict[str, float]:
        self.work += work
        return {"loss": 0.0}


def test_a_step_of_ties_alone_has_no_update() -> None:
    method = OnlineDPO(max_new_tokens=2, group_size=4, **COMMON)
    learner, _ = started(TWO_TOKENS, method, Table(TWO_TOKENS, [[0.5] * 7] * 7))
    learner.policy.tokenizer = word_tokenizer(template=None)
    learner.policy.tokenizer.eos_token_id = END
    optimizer = Counting()
    result = learner.step(0, prompts_in(TWO_TOKENS, 3), optimizer)
    assert (optimizer.work, len(result.samples)) == ([], 12)
    assert (result.numbers["ties"], result.numbers["invalid"]) == (1.0, 0.0) and "loss" not in result.numbers


def test_more_samples_of_a_prompt_make_more_pairs() -> None:
    # The first is judged against the second, the third against the fourth.
    method = OnlineDPO(max_new_tokens=1, group_size=4, **COMMON)
    learner, policy = started(ONE_TOKEN, method, Table(ONE_TOKEN, [[0.9] * 4] * 4))
    said = spoken(ONE_TOKEN, policy.network)
    _, judged, _ = compare(learner.judge, prompts_in(ONE_TOKEN, 2), [*said, *reversed(said)])
    found = [(t.row, *(b.tokens[0] for b in t.branches)) for t in judged]
    assert found == [(0, 0, 1), (0, 2, 3), (1, 3, 2), (1, 1, 0)]
    with pytest.raises(InputError, match="group_size must be even"):
        OnlineDPO(group_size=3)


# Distillation


def distilled(gamma: float, teacher: Any) -> tuple[Tensor, Policy, Trees]:
    """The mean gradient over all sequences, the student, and the scored pack."""
    policy = policy_of(network_in(TWO_TOKENS, 1))
    learner: Any = Distill(gamma=gamma, max_new_tokens=2, **COMMON).learner(policy, policy_of(teacher))
    samples = spoken(TWO_TOKENS, policy.network)
    rollout = Rollout.of(prompts_in(TWO_TOKENS, len(samples)), samples, [0.0] * len(samples))
    trees = learner.score(Trees.of(rollout.trees))
    values, _ = learner.loss(trees)
    return gradient((chances(samples) * values).sum(), policy.network), policy, trees


def test_undiscounted_distillation_is_the_exact_gradient_of_the_divergence() -> None:
    got, policy, trees = distilled(1.0, network_in(TWO_TOKENS, 2))
    teacher = sequence_logps(network_in(TWO_TOKENS, 2), TWO_TOKENS).detach()
    logp = sequence_logps(policy.network, TWO_TOKENS)
    divergence = (logp.exp() * (logp - teacher)).sum()
    same(got, gradient(divergence, policy.network))
    per_token = logp.detach().exp()[trees.owner] * trees.kl
    assert float(per_token.sum()) == pytest.approx(divergence.item(), abs=1e-10)


def test_distillation_token_by_token_is_the_gradient_at_every_prefix() -> None:
    # Sum over prefixes of pi(prefix) grad KL(pi(. | prefix), teacher(. | prefix)); how often a prefix comes is given.
    got, policy, _ = distilled(0.0, network_in(TWO_TOKENS, 2))
    teacher, exact = network_in(TWO_TOKENS, 2), torch.zeros((), dtype=torch.float64)
    for prefix in ((), (1,), (2,)):
        tokens = torch.tensor([[*TWO_TOKENS.prompt, *prefix]])
        logp = policy.network(input_ids=tokens).logits[0].log_softmax(-1)
        with torch.no_grad():
            theirs = teacher(input_ids=tokens).logits[0].log_softmax(-1)[-1]
        reached = logp.detach()[1, prefix[0]].exp() if prefix else 1.0  # the prompt has two tokens
        exact = exact + reached * (logp[-1].exp() * (logp[-1] - theirs)).sum()
    same(got, gradient(exact, policy.network))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_a_student_that_is_its_teacher_learns_nothing(gamma: float) -> None:
    got, _, trees = distilled(gamma, network_in(TWO_TOKENS, 1))
    assert float(trees.kl.abs().max()) < 1e-14
    assert float(got.abs().max()) < 1e-13


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    student, teacher = Game().policy(), SURE.policy()
    student.name, teacher.name = "small", "large"
    with pytest.raises(InputError, match="the teacher large and the student small have different vocabularies"):
        Distill(max_steps=1, max_new_tokens=1).fit(student, [GAME.prompt], teacher=teacher, out=tmp_path / "run")


# RAFT

REWARDS = torch.tensor([0.0, 1.0, 2.0, 1.0, 3.0, 3.0, -1.0], dtype=torch.float64)
"""Of the sequences (0) (1 0) (2 0) (1 1) (1 2) (2 1) (2 2), two pairs of which tie."""


def kept(method: RAFT, chance: Tensor, rewards: Tensor) -> Tensor:
    """How often each sequence is what is learned from, (S,), where samples are drawn with these chances."""
    places = range(len(TWO_TOKENS.sequences))
    branches = [Branch(s, reward=r) for s, r in zip(TWO_TOKENS.sequences, rewards.tolist(), strict=True)]
    share = torch.zeros(len(places), dtype=torch.float64)
    for group in product(places, repeat=method.group_size):
        best = method.best(Tree(TWO_TOKENS.prompt, tuple(branches[i] for i in group)), (END,))
        assert len(best) <= 1
        for branch in best:
            share[branches.index(branch)] += chance[list(group)].prod()
    return share


def test_rounds_of_raft_are_best_of_k_to_the_power_of_rounds() -> None:
    p = chances(spoken(TWO_TOKENS, network_in(TWO_TOKENS, 1)))
    once = kept(RAFT(group_size=3, keep_truncated=True, **COMMON), p, REWARDS)
    torch.testing.assert_close(once, best_of_n(p, REWARDS, 3), rtol=0, atol=1e-12)
    twice = kept(RAFT(group_size=2, keep_truncated=True, **COMMON), once, REWARDS)
    torch.testing.assert_close(twice, best_of_n(p, REWARDS, 6), rtol=0, atol=1e-12)


@pytest.mark.parametrize("truncated", [False, True])
def test_a_threshold_is_the_conditional_distribution(truncated: bool) -> None:
    # A verifier says 1 or 0. The first good sample is kept: as likely as under the policy, given that it is good. Of
    # groups of 3, 1 - P(bad)^3 have one. Samples that were cut are not good unless asked for.
    p, verified = chances(spoken(TWO_TOKENS, network_in(TWO_TOKENS, 1))), (REWARDS >= 1).double()
    ended = torch.tensor([s[-1] == END or truncated for s in TWO_TOKENS.sequences])
    share = kept(RAFT(group_size=3, at_least=1.0, keep_truncated=truncated, **COMMON), p, verified)
    good = p * verified * ended
    torch.testing.assert_close(share, good / good.sum() * (1 - (1 - good.sum()) ** 3), rtol=0, atol=1e-12)


def test_which_samples_raft_learns_from() -> None:
    a, b, c, d = (Branch(t, reward=r) for t, r in (((1, 0), 2.0), ((2, 0), 2.0), ((1, 1, 0), 1.0), ((2, 1), 3.0)))
    tree = Tree((1, 2), (b, a, b, c, a, d))

    def best(**given: Any) -> list[Branch]:
        return RAFT(**{"group_size": 6, **given}).best(tree, (END,))

    assert best() == [b]  # the first of the two best that ended
    assert best(keep=2) == [b, a]
    assert best(keep=6) == [b, a, c]  # equal samples once
    assert best(keep=6, at_least=2.0) == [b, a]
    assert best(keep=2, keep_truncated=True) == [d, b]
    assert best(at_least=2.5) == []
    with pytest.raises(InputError, match=r"keep must lie between 1 and group_size \(2\), not 3"):
        RAFT(group_size=2, keep=3)


def test_rafts_mean_gradient_imitates_the_best_of_n() -> None:
    # Over all pairs of samples of one token: that of - sum over y of q(y) log pi(y), q the best of 2.
    method = RAFT(group_size=2, max_new_tokens=1, keep_truncated=True, **COMMON)
    policy = policy_of(network_in(ONE_TOKEN, 1))
    learner: Any = method.learner(policy, lambda samples: torch.zeros(len(samples)))
    samples, chance = every_group(spoken(ONE_TOKEN, policy.network), 2)
    scores = [float(ONE_TOKEN.reward[s.completion.tokens[0]]) for s in samples]  # the sequences are (0) (1) (2) (3)
    rollout = Rollout.of(prompts_in(ONE_TOKEN, len(chance)), samples, scores)
    trees = Trees.of([replace(tree, branches=tuple(method.best(tree, (END,)))) for tree in rollout.trees])
    values, _ = learner.objective(trees)
    logp = sequence_logps(policy.network, ONE_TOKEN)
    q = best_of_n(logp.detach().exp(), ONE_TOKEN.reward, 2)
    same(gradient((chance * values).sum(), policy.network), gradient(-(q * logp).sum(), policy.network))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_step_of_raft_is_the_mean_over_the_tokens_it_keeps(temperature: float) -> None:
    policy = policy_of(random_model(CONFIGS["gpt2"]()))
    policy.tokenizer = word_tokenizer()
    prompts = [EncodedPrompt(Prompt("hi"), (6,), 0), EncodedPrompt(Prompt("bye"), (11, 9), 1)]
    method = RAFT(group_size=16, keep=2, max_new_tokens=8, temperature=temperature, at_least=1.0, **COMMON)

    def long(samples: Sequence[Sample]) -> Tensor:
        return torch.tensor([float(len(s.completion.tokens)) for s in samples])

    learner, optimizer = method.learner(policy, long), Counting()
    nothing: Any = optimizer
    result = learner.step(0, prompts, nothing)
    whole = [result.samples[:16], result.samples[16:]]
    [work], row = optimizer.work, result.numbers
    trees = [tree for pack in work.packs for tree in pack.trees]
    for tree, group in zip(sorted(trees, key=lambda tree: tree.row), whole, strict=True):
        ended = [s.completion.tokens for s in group if s.completion.tokens[-1] in policy.ends]
        assert len(tree.branches[0].tokens) == max(map(len, ended))
        assert all(b.tokens in ended for b in tree.branches)
    branches = [b for tree in trees for b in tree.branches]
    assert row["kept"] == len(branches) / 32
    assert row["kept_reward"] == sum(len(b.tokens) for b in branches) / len(branches)
    loss = sum(work.objective(pack)[0].sum() for pack in work.packs) / work.count
    logps = []
    for tree in trees:
        for branch in tree.branches:
            logits = policy.network(input_ids=torch.tensor([tree.prompt + branch.tokens])).logits[0] / temperature
            places = torch.arange(len(branch.tokens)) + len(tree.prompt) - 1
            logps.append(logits.log_softmax(-1)[places, list(branch.tokens)])
    plain = -torch.cat(logps).mean()
    assert work.count == sum(len(b.tokens) for b in branches)
    torch.testing.assert_close(loss, plain, rtol=0, atol=1e-10)
    same(gradient(loss, policy.network), gradient(plain, policy.network))
