"""Online DPO: its mean gradient over pairs of the policy's own samples, ties, and steps without a winner."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import logsigmoid

from accord.engine.trees import Trees
from accord.errors import InputError
from accord.methods import OnlineDPO
from accord.methods.pairwise import compare
from examples.worlds.enumerable import END
from tests.data.conftest import word_tokenizer
from tests.methods.enumerated import (
    ONE_TOKEN,
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
from tests.methods.games import COMMON, Table, random_table
from tests.methods.learners import Counting


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
