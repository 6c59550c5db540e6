"""Whole conversations through the real engine: their mean gradient is known exactly, and users' words have none."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from accord.engine.trees import Tree, Trees
from accord.errors import InputError
from accord.feedback.functions import FunctionUser
from accord.feedback.users import Dialogue
from accord.methods import GRPO, PPO, REINFORCE, RLOO
from accord.methods.policy_gradient import PolicyGradient
from accord.methods.ppo import PPOLearner
from accord.methods.rollouts import Rollout, sample
from accord.records import EncodedPrompt, Message, Prompt
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.methods.conversations import (
    ANSWERS,
    ASKED,
    EVERY,
    REWARD,
    START,
    conversation_logps,
    learner_of,
    network,
    scripted,
    talks_by,
)


@pytest.mark.parametrize(
    ("method", "size", "price"),
    [
        (REINFORCE(baseline="none", kl_coefficient=0.0, dtype="float32", tokens_per_pass=256), 1, 0.0),
        (RLOO(group_size=2, kl_coefficient=0.0, dtype="float32", tokens_per_pass=256), 2, 0.0),
        (RLOO(group_size=2, kl_coefficient=0.3, dtype="float32", tokens_per_pass=256), 2, 0.3),
    ],
)
def test_the_mean_gradient_is_that_of_the_expected_reward_of_conversations(
    method: PolicyGradient, size: int, price: float
) -> None:
    # E over all groups of conversations of the loss's gradient is that of -(E[r] - price KL), in which a conversation's
    # probability, and its divergence, is that of its answers alone: the user's words are given.
    learner = learner_of(method)
    talks = talks_by(learner.policy.network)
    logp = conversation_logps(learner.policy.network)
    assert float(logp.detach().exp().sum()) == pytest.approx(1, abs=1e-12)
    groups = list(product(range(len(talks)), repeat=size))
    prompts = [EncodedPrompt(ASKED.prompt, START, row) for row in range(len(groups))]
    said = [talks[i] for group in groups for i in group]
    rollout = Rollout.of_conversations(prompts, said, [float(REWARD[i]) for group in groups for i in group])
    chance = torch.stack([logp.detach()[list(group)].sum().exp() for group in groups])
    total = torch.zeros((), dtype=torch.float64)
    for trees in (t for part in learner.experience(0, rollout)[0] for t in part):
        rows = torch.tensor([tree.row for tree in trees.trees])[trees.group]
        total = total + (chance[rows] * learner.loss(trees)[0]).sum() / size
    objective = (logp.exp() * REWARD).sum()
    if learner.reference is not None:
        with torch.no_grad():
            reference = conversation_logps(learner.reference.network)
        objective = objective - price * (logp.exp() * (logp - reference)).sum()
    weights = list(learner.policy.network.parameters())
    ours, exact = torch.autograd.grad(-total, weights), torch.autograd.grad(objective, weights)
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_a_conversation_is_one_branch_in_which_the_user_s_words_are_not_trained_on() -> None:
    rollout = Rollout.of_conversations([ASKED], talks_by(network(1)), REWARD.tolist())
    [tree] = rollout.trees
    assert [b.tokens for b in tree.branches] == [b.tokens for b in EVERY.branches]
    assert [b.trained for b in tree.branches] == [b.trained for b in EVERY.branches]
    assert rollout.rewards == REWARD.tolist() and len(rollout.samples) == len(ANSWERS)
    # answers 2 and 4: a tree's token at 2 is the first answer, then the user's 3 and 0, then the second.
    one = Trees.of([Tree(START, (tree.branches[1 + 5 + 4],))])
    assert one.tokens.tolist() == [3, 1, 2, 3, 0, 4]
    assert one.target.tolist() == [2, 4] and one.source.tolist() == [1, 4]
    assert not one.logprobs.isnan().any()


def test_ppo_has_its_reward_after_the_last_answer_and_no_value_for_the_user() -> None:
    method = PPO(kl_coefficient=0.0, lam=1.0, gamma=1.0, dtype="float32", missing_end_penalty=0.0)
    learner = learner_of(method)
    assert isinstance(learner, PPOLearner)
    learner.value.network.score.weight.data.zero_()  # it expects 0 everywhere
    [[batch]], _ = learner.experience(
        0, Rollout.of_conversations([ASKED], talks_by(learner.policy.network), REWARD.tolist())
    )
    turns = torch.tensor([len(answers) for answers in ANSWERS])
    assert len(batch.target) == int(turns.sum()) == 41
    # With lambda 1 the return of every answer is the whole conversation's reward.
    torch.testing.assert_close(batch.returns.double(), REWARD.repeat_interleave(turns), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("at", "rewards", "totals"),
    [
        ("end", (1.0, 20.0, 300.0), {1: 1.0, 2: 20.0, 3: 300.0}),
        ("turns", (1.0, 20.0, 300.0), {1: 1.0, 2: 21.0, 3: 321.0}),
        ("turns", (1.0, float("nan"), 300.0), {1: 1.0, 2: 1.0, 3: 301.0}),
    ],
)
def test_the_reward_is_of_the_end_or_the_sum_over_turns(
    tmp_path: Path, at: Any, rewards: tuple[float, ...], totals: dict[int, float]
) -> None:
    from accord.engine.load import load_model

    policy = load_model(save_model(tmp_path / "base"), dtype="float32")
    chat = Prompt((Message("user", "hi"),))
    prompts = [EncodedPrompt(chat, (3, 6, 2, 4), row) for row in range(4)]
    dialogue = Dialogue(FunctionUser(lambda messages: "bye"), 3, at)
    method = GRPO(group_size=40, max_new_tokens=4, max_length=48)
    rollout = sample(method, policy, prompts, scripted(*rewards), 0, dialogue)
    branches = [b for tree in rollout.trees for b in tree.branches]
    turns = [1 + sum(m.role == "assistant" for m in s.prompt.prompt) for s in rollout.samples]  # type: ignore[union-attr]
    assert set(turns) == {1, 2, 3}
    assert [b.score for b in branches] == [totals[turn] for turn in turns]
    assert rollout.numbers["turns"] == pytest.approx(sum(turns) / len(turns))
    trained = [len(b.tokens) if b.trained is None else sum(b.trained) for b in branches]
    assert rollout.numbers["length"] == pytest.approx(sum(trained) / len(trained))
    of_turns = {1: 1.0, 2: 20.0, 3: 300.0} if at == "turns" else {}
    named = {int(name[-1]): value for name, value in rollout.numbers.items() if name.startswith("reward of turn")}
    assert named == {turn: value for turn, value in of_turns.items() if rewards[turn - 1] == value}


USERS = """
def greets(messages, name):
    return f"day {name}" if len(messages) < 4 else None

def is_good(completions):
    return [float("good" in said[0]["content"]) for said in completions]
"""


@pytest.mark.parametrize(
    ("command", "at"),
    [
        ("reinforce", "turns-to-go"),
        ("rloo", "turns"),
        ("grpo", "turns"),
        ("grpo", "turns-to-go"),
        ("ppo", "turns"),
        ("ppo", "turns-to-go"),
    ],
)
def test_the_command_line(command: str, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"users_of_{command}.py").write_text(USERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    rows = [{"prompt": [{"role": "user", "content": text}], "name": "bye"} for text in ("hi", "good day")]
    data, out = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "run"
    given = ("--model", save_model(tmp_path / "base"), "--data", data, "--reward", "users_of_" + command + ":is_good")
    talk = ("--user", f"users_of_{command}:greets", "--reward-at", at, "--max-turns", 3)
    sizes = ("--max-steps", 2, "--batch-size", 2, "--group-size", 4, "--max-new-tokens", 4)
    rest = (*sizes, "--out", out, "--sample-every", 1)
    assert accord(command, *given, *talk, *rest) == 0
    steps = read_jsonl(out / "metrics.jsonl")
    assert all(1 <= row["turns"] <= 2 and row["length"] <= 8 for row in steps)
    assert f"user: users_of_{command}:greets" in (out / "config.yaml").read_text()
    shown = [row for row in read_jsonl(out / "samples.jsonl") if len(row["prompt"]) > 1]
    assert all(row["prompt"][2] == {"role": "user", "content": "day bye"} for row in shown)


def test_what_cannot_be_talked_with() -> None:
    with pytest.raises(InputError, match="max_turns must be at least 1, not 0"):
        GRPO(max_turns=0)
    with pytest.raises(InputError, match="reward_at turns is for conversations: give a user"):
        GRPO(reward_at="turns")
    with pytest.raises(InputError, match="reward_at turns-to-go is for conversations: give a user"):
        PPO(reward_at="turns-to-go")
    with pytest.raises(InputError, match="there is no simulated user 'nobody'"):
        GRPO(user="nobody").check(lambda samples: torch.zeros(len(samples)), [ASKED])
