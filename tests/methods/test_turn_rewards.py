"""Rewards to go, turn by turn: the expected gradient is exact, its variance smaller, and every number one by hand.

The world of 21 conversations (`test_conversations`), where now each answer earns something: the first by itself, the
second by what was answered first too.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations, product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from accord.engine.trees import Branch, Tree, Trees
from accord.feedback.functions import FunctionUser
from accord.feedback.users import Dialogue
from accord.methods import GRPO, PPO, REINFORCE, RLOO
from accord.methods.policy_gradient import GradientLearner, GroupPolicyGradient
from accord.methods.ppo import PPOLearner
from accord.methods.rollouts import Rollout, penalize, sample
from accord.methods.turn_rewards import TurnRewards
from accord.objectives.advantages import reward_to_go
from accord.records import Completion, EncodedPrompt, Message, Prompt, Sample
from tests.commands.small import save_model
from tests.engine.tiny import plain_log_probabilities
from tests.methods.conversations import (
    ANSWERS,
    ASKED,
    EVERY,
    START,
    TOKENS,
    conversation_logps,
    learner_of,
    scripted,
    talks_by,
)

DRAWN = torch.rand(TOKENS, 1 + TOKENS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
EARNED = [[float(DRAWN[answers[0], 0]), *(float(DRAWN[answers[0], 1 + a]) for a in answers[1:])] for answers in ANSWERS]
"""What every conversation's answers earn."""
OFFSETS = [sum(map(len, ANSWERS[:i])) for i in range(len(ANSWERS))]
PLAIN = {"kl_coefficient": 0.0, "dtype": "float32"}
NAN = float("nan")


def rollout_of(learner: GradientLearner, groups: list[tuple[int, ...]], to_go: bool) -> Rollout:
    """Groups of conversations, by their numbers, rewarded in sum or turn by turn."""
    talks = talks_by(learner.policy.network)
    prompts = [EncodedPrompt(ASKED.prompt, START, row) for row in range(len(groups))]
    said = [i for group in groups for i in group]
    by_turn = [EARNED[i] for i in said] if to_go else None
    return Rollout.of_conversations(prompts, [talks[i] for i in said], [sum(EARNED[i]) for i in said], by_turn)


def weights_of(learner: GradientLearner, groups: list[tuple[int, ...]], to_go: bool) -> Tensor:
    """By how much each group's gradient has that of every answer's log-probability, (groups, 41), from the loss."""
    found = torch.zeros(len(groups), sum(map(len, ANSWERS)), dtype=torch.float64)
    for trees in (t for part in learner.experience(0, rollout_of(learner, groups, to_go))[0] for t in part):
        answer = [OFFSETS[i] + n for tree in trees.trees for i in groups[tree.row] for n in range(len(ANSWERS[i]))]
        logp = torch.zeros(len(trees.target), dtype=torch.float64, requires_grad=True)
        learner.method.loss(logp, trees)[0].sum().backward()
        rows = torch.tensor([tree.row for tree in trees.trees])[trees.group][trees.owner]
        found.index_put_((rows, torch.tensor(answer)), -logp.grad.double(), accumulate=True)  # type: ignore[union-attr]
    return found


@cache
def scores() -> Tensor:
    """The gradient of every answer's log-probability in `learner_of`'s policy, (41, parameters), by transformers."""
    network = learner_of(RLOO(group_size=2, **PLAIN)).policy.network
    logp = plain_log_probabilities(network, [EVERY])
    weights = list(network.parameters())
    each = [torch.autograd.grad(one, weights, retain_graph=True) for one in logp]
    return torch.stack([torch.cat([g.flatten() for g in grads]) for grads in each])


def exact(learner: GradientLearner, price: float) -> Tensor:
    """The gradient of E[rewards] - price KL, (parameters,)."""
    logp = conversation_logps(learner.policy.network)
    objective = (logp.exp() * torch.tensor([sum(earned) for earned in EARNED], dtype=logp.dtype)).sum()
    if learner.reference is not None:
        with torch.no_grad():
            reference = conversation_logps(learner.reference.network)
        objective = objective - price * (logp.exp() * (logp - reference)).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(objective, list(learner.policy.network.parameters()))])


@pytest.mark.parametrize(
    ("method", "size", "price", "ratio"),
    [
        (REINFORCE(baseline="none", tokens_per_pass=256, **PLAIN), 1, 0.0, 0.592),
        (RLOO(group_size=2, tokens_per_pass=256, **PLAIN), 2, 0.0, 0.937),
        (RLOO(group_size=2, kl_coefficient=0.3, dtype="float32", tokens_per_pass=256), 2, 0.3, None),
        (RLOO(group_size=3, **PLAIN), 3, 0.0, 0.994),
    ],
)
def test_rewards_to_go_have_the_exact_gradient_with_less_variance(
    method: GroupPolicyGradient, size: int, price: float, ratio: float | None
) -> None:
    learner = learner_of(method)
    groups = list(product(range(len(ANSWERS)), repeat=size))
    if size == 3:  # 9261 groups are as many as 1771 sets of them, up to their order
        groups = [group for group in groups if group == tuple(sorted(group))]
    logp = conversation_logps(learner.policy.network).detach()
    orders = torch.tensor([len({*permutations(group)}) if size == 3 else 1 for group in groups])
    chance = torch.stack([logp[list(group)].sum().exp() for group in groups]) * orders
    assert float(chance.sum()) == pytest.approx(1, abs=1e-12)
    truth = exact(learner, price)
    variance = []
    for to_go in (True, False):
        weights = weights_of(learner, groups, to_go) / size
        torch.testing.assert_close(chance @ weights @ scores(), truth, rtol=0, atol=1e-10)
        squares = ((weights @ (scores() @ scores().T)) * weights).sum(1)  # of the length of every group's gradient
        variance.append(float(chance @ squares - truth.square().sum()))
    assert 0 < variance[0] < variance[1]
    assert ratio is None or variance[0] / variance[1] == pytest.approx(ratio, abs=1e-3)


def test_comparing_before_summing_would_be_biased() -> None:
    # A_t = sum over k >= t of (r_k less the sibling's r_k, if it has a turn k): there are as many baselines as turns to
    # come, and the first answer decides how many come.
    learner = learner_of(RLOO(group_size=2, **PLAIN))
    groups = list(product(range(len(ANSWERS)), repeat=2))
    logp = conversation_logps(learner.policy.network).detach()
    chance = torch.stack([logp[list(group)].sum().exp() for group in groups])
    weights = torch.zeros(len(groups), sum(map(len, ANSWERS)), dtype=torch.float64)
    for row, group in enumerate(groups):
        for one, sibling in (group, group[::-1]):
            less = [r - (EARNED[sibling][k] if k < len(EARNED[sibling]) else 0) for k, r in enumerate(EARNED[one])]
            for t in range(len(less)):
                weights[row, OFFSETS[one] + t] += sum(less[t:])
    mean, truth = chance @ weights @ scores() / 2, exact(learner, 0.0)
    assert float((mean - truth).norm() / truth.norm()) == pytest.approx(0.70, abs=5e-3)


def talk_of(turns: int, tokens: tuple[int, ...] = START) -> list[Sample]:
    """A conversation of so many answers 1, between which the user says 2 and 0."""
    talk = []
    for _ in range(turns):
        talk.append(Sample(ASKED.prompt, "", tokens, Completion((1,), (-1.0,), "end"), 0))
        tokens = (*tokens, 1, 2, 0)
    return talk


def advantages_of(method: GroupPolicyGradient, *prompts: list[list[float]]) -> list[list[list[float]]]:
    """The advantage of every answer, of conversations that earn so much turn by turn, prompt by prompt."""
    each = [rewards for prompt in prompts for rewards in prompt]
    asked = [EncodedPrompt(ASKED.prompt, START, row) for row in range(len(prompts))]
    said = [sum(r for r in rewards if r == r) for rewards in each]
    rollout = Rollout.of_conversations(asked, [talk_of(len(rewards)) for rewards in each], said, each)
    found: dict[int, list[list[float]]] = {}
    for trees in (t for part in learner_of(method).experience(0, rollout)[0] for t in part):
        rest = iter(trees.advantage.tolist())
        for tree in trees.trees:
            trained = [sum(branch.trained or (True,)) for branch in tree.branches]
            found[tree.row] = [[next(rest) for _ in range(n)] for n in trained]
    return [found[row] for row in range(len(prompts))]


SOME = [[1.0], [2.0, 4.0], [0.0, 1.0]]
"""To go: 1; 6, 4; 1, 1."""


@pytest.mark.parametrize("budget", [8, 4096])
@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        # 1 - (6 + 1)/2, 6 - (1 + 1)/2, and 4 - 1: the one that ended is no sibling of a second turn.
        (RLOO, [[-2.5], [5.0, 3.0], [-2.5, -3.0]]),
        # Less 8/3, and 5/2.
        (lambda **o: GRPO(scale=False, **o), [[-5 / 3], [10 / 3, 1.5], [-5 / 3, -1.5]]),
        # Deviations sqrt((25 + 100 + 25) / 9 / 2) and sqrt(9/2).
        (GRPO, [[-(3**-0.5)], [2 * 3**-0.5, 0.5**0.5], [-(3**-0.5), -(0.5**0.5)]]),
        (lambda **o: REINFORCE(baseline="none", **o), [[1.0], [6.0, 4.0], [1.0, 1.0]]),
    ],
)
def test_turns_of_the_same_number_are_compared(method: Any, wanted: list[list[float]], budget: int) -> None:
    made = method(group_size=3, tokens_per_pass=budget, **PLAIN)
    other = [[7.0], [7.0], [7.0]]
    none = [[7.0]] * 3 if isinstance(made, REINFORCE) else [[0.0]] * 3
    one, two = advantages_of(made, SOME, other)
    assert [pytest.approx(some, abs=1e-6) for some in wanted] == one
    assert two == none


def test_reinforce_compares_with_the_whole_step() -> None:
    # To go: 1; 6, 4 and 0; 1, 1. First turns: 1 - 7/3, 6 - 2/3, 0 - 8/3, 1 - 7/3; second ones: 4 - 1, 1 - 4.
    one, two = advantages_of(REINFORCE(group_size=2, **PLAIN), [[1.0], [2.0, 4.0]], [[0.0], [0.0, 1.0]])
    assert [pytest.approx(some) for some in ([-4 / 3], [16 / 3, 3.0])] == one
    assert [pytest.approx(some) for some in ([-8 / 3], [-4 / 3, -3.0])] == two


def test_a_turn_that_no_sibling_came_to() -> None:
    # To go 1; 6, 4: the second turn is compared with the sibling's latest, the first, and not with its own first.
    assert advantages_of(RLOO(group_size=2, **PLAIN), [[1.0], [2.0, 4.0]]) == [[[-5.0], [5.0, 3.0]]]
    [[_, alone]] = advantages_of(GRPO(group_size=2, **PLAIN), [[1.0], [2.0, 4.0]])
    assert alone == pytest.approx([0.5**0.5, 0.5**0.5])
    # To go 1; 3, 2; 9, 8, 7: the third turn is compared with the one sibling that came to a second.
    found = advantages_of(RLOO(group_size=3, **PLAIN), [[1.0], [1.0, 2.0], [1.0, 1.0, 7.0]])
    assert [pytest.approx(some) for some in ([-5.0], [-2.0, -6.0], [7.0, 6.0, 5.0])] == found[0]
    # With nothing to be compared with it has no advantage; by REINFORCE, alone in its step, no baseline.
    assert advantages_of(RLOO(group_size=2, **PLAIN), [[NAN], [2.0, 4.0]]) == [[[], [0.0, 0.0]]]
    assert advantages_of(REINFORCE(group_size=2, **PLAIN), [[NAN], [2.0, 4.0]]) == [[[], [6.0, 4.0]]]


def test_a_turn_of_which_nothing_is_said_is_passed_over() -> None:
    # To go 1 (then nothing, so that its second turn is not trained on); 6, 4; 5, 5.
    found = advantages_of(RLOO(group_size=3, **PLAIN), [[1.0, NAN], [2.0, 4.0], [NAN, 5.0]])
    assert found == [[[-4.5], [3.0, -1.0], [1.5, 1.0]]]
    # Of a whole conversation nothing: its siblings are compared without it.
    assert advantages_of(RLOO(group_size=3, **PLAIN), [[NAN, NAN], [2.0, 4.0], [5.0]]) == [[[], [1.0, -1.0], [-1.0]]]


def test_a_penalty_is_of_the_last_turn() -> None:
    talk = talk_of(2)
    cut = [talk[0], Sample(ASKED.prompt, "", talk[1].prompt_tokens, Completion((1,), (-1.0,), "length"), 0)]
    rollout = Rollout.of_conversations([ASKED], [talk, cut], [3.0, 3.0], [[1.0, 2.0], [1.0, 2.0]])
    [tree] = penalize(rollout, 0.5)
    assert [[turn.reward for turn in branch.turns] for branch in tree.branches] == [[1.0, 2.0], [1.0, 1.5]]
    assert [branch.reward for branch in tree.branches] == [3.0, 2.5]
    assert [branch.turns[0].end for branch in tree.branches] == [1, 1] and tree.branches[0].turns[1].end == 4
    [masked] = penalize(rollout, 0.5, mask=True)
    turns = TurnRewards.of(Trees.of([masked]))
    assert turns is not None and turns.turn.tolist() == [0, 1] and turns.owner.tolist() == [0, 0, 1, 1]
    assert turns.rewards.tolist() == [1.0, 2.0, 1.0, 1.5]  # its rewards still count for its sibling


def test_ppo_has_a_reward_after_every_answer_and_sees_over_what_the_user_says() -> None:
    gamma, lam = 0.9, 0.5
    options = {"gamma": gamma, "lam": lam, "missing_end_penalty": 0.0, "tokens_per_pass": 4096}
    learner = learner_of(PPO(**options, **PLAIN))  # type: ignore[arg-type]
    assert isinstance(learner, PPOLearner)
    number = ANSWERS.index((2, 4))
    earned = EARNED[number]
    rollout = Rollout.of_conversations([ASKED], [talks_by(learner.policy.network)[number]], [sum(earned)], [earned])
    [[batch]], _ = learner.experience(0, rollout)
    # The value before the second answer is that after all that was said, as if it had been the prompt.
    alone = [Tree(START, (Branch((2,)),)), Tree((*START, 2, 3, 0), (Branch((4,)),))]
    first, second = learner.value.values(Trees.of(alone)).tolist()
    assert batch.values.tolist() == pytest.approx([first, second], abs=1e-6)
    assert abs(first - second) > 1e-3
    last = earned[1] - second
    wanted = [earned[0] + gamma * second - first + gamma * lam * last, last]
    assert batch.returns.tolist() == pytest.approx([first + wanted[0], second + wanted[1]], abs=1e-6)


def test_ppo_s_returns_with_lambda_1_are_the_rewards_to_go() -> None:
    learner = learner_of(PPO(lam=1.0, missing_end_penalty=0.0, **PLAIN))  # type: ignore[arg-type]
    assert isinstance(learner, PPOLearner)
    rollout = Rollout.of_conversations([ASKED], talks_by(learner.policy.network), [*map(sum, EARNED)], EARNED)
    [[batch]], _ = learner.experience(0, rollout)
    to_go = [sum(earned[t:]) for earned in EARNED for t in range(len(earned))]
    torch.testing.assert_close(batch.returns.double(), torch.tensor(to_go, dtype=torch.float64), rtol=0, atol=1e-6)


@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=5), min_size=1, max_size=5))
def test_reward_to_go_is_the_sum_of_what_follows(episodes: list[list[float]]) -> None:
    owner = torch.tensor([i for i, some in enumerate(episodes) for _ in some])
    rewards = torch.tensor([r for some in episodes for r in some], dtype=torch.float64)
    wanted = [sum(some[t:]) for some in episodes for t in range(len(some))]
    assert reward_to_go(rewards, owner).tolist() == pytest.approx(wanted, abs=1e-9)


def test_a_step_in_the_real_engine_keeps_every_turn_s_reward(tmp_path: Any) -> None:
    from accord.engine.load import load_model

    policy = load_model(save_model(tmp_path / "base"), dtype="float32")
    prompts = [EncodedPrompt(Prompt((Message("user", "hi"),)), (3, 6, 2, 4), row) for row in range(4)]
    dialogue = Dialogue(FunctionUser(lambda messages: "bye"), 3, "turns-to-go")
    method = GRPO(group_size=40, max_new_tokens=4, max_length=48)
    rollout = sample(method, policy, prompts, scripted(1.0, NAN, 300.0), 0, dialogue)
    by_turn = {len(b.turns): b for tree in rollout.trees for b in tree.branches}
    assert {n: str([turn.reward for turn in b.turns]) for n, b in by_turn.items()} == {
        1: "[1.0]",
        2: "[1.0, nan]",
        3: "[1.0, nan, 300.0]",
    }
    assert {n: b.score for n, b in by_turn.items()} == {1: 1.0, 2: 1.0, 3: 301.0}
    two = by_turn[2]
    assert two.trained == tuple(i < two.turns[0].end for i in range(len(two.tokens)))
    assert two.turns[1].end == len(two.tokens)


def test_flat_groups_are_those_whose_turns_all_earn_the_same() -> None:
    learner = learner_of(RLOO(group_size=2, **PLAIN))
    talks = [talk_of(2) for _ in range(4)]
    asked = [EncodedPrompt(ASKED.prompt, START, row) for row in range(2)]
    rewards = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
    [*_], numbers = learner.experience(0, Rollout.of_conversations(asked, talks, [1.0, 1.0, 2.0, 2.0], rewards))
    assert numbers["flat_groups"] == 0.5
    [*_], numbers = learner.experience(0, Rollout.of_conversations(asked, talks, [1.0, 1.0, 2.0, 2.0]))
    assert numbers["flat_groups"] == 1.0
