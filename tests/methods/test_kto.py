"""KTO: the pull of labels, and the baseline of mismatched pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from accord.engine.models import Policy
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError, LeftOut
from accord.methods import KTO
from accord.records import Labeled, Preference
from examples.worlds.enumerable import Enumerable
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import CONFIGS, plain_log_probabilities, policy_of, random_model
from tests.methods.enumerated import TWO_TOKENS, gradient, minimize, network_in, same, sequence_logps
from tests.methods.games import COMMON, GAME


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
            ratios = objective.log_ratios(Trees.of([objective.mismatched(batch[i - 1], batch[i]) for i in range(3)]))
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
    assert objective.mismatched(long, short) == Tree(long.prompt, (Branch((9, 9), (False, False)),))
    assert objective.mismatched(short, long) == Tree(short.prompt, long.branches)
    other = KTO(max_length=8, **COMMON).objective(policy)
    assert other.mismatched(short, Tree((8,), (Branch((9,) * 8),))).branches == (Branch((9,) * 7),)


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
