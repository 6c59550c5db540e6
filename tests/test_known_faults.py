"""Faults found in other libraries, and the tests that keep each of them out of this one.

Normalization
    the gradient depends on how a step is split into micro-batches
        methods/test_packing.py::test_any_split_gives_the_same_gradient
        test_known_faults.py::test_a_policy_gradient_is_the_same_for_any_split_into_micro_batches
    accumulation averages the means of micro-batches of different sizes
        engine/test_fit.py::test_packs_of_different_sizes_share_one_count
    the gradient depends on the number of ranks
        not built yet: a step has one rank
    padding changes something
        engine/test_forward.py::test_packed_and_padded_trees_equal_separate_forwards
    packing other trees beside a tree changes something
        methods/test_packing.py::test_a_tree_computes_the_same_in_any_company
        engine/test_generate.py::test_samples_are_the_same_whatever_the_company
    masked truncated completions stay in the denominator
        methods/test_policy_gradients.py::test_truncated_samples_that_are_masked_leave_the_denominator
    logged values are scaled twice
        test_known_faults.py::test_the_logged_loss_is_the_mean_over_the_step_however_it_is_split
        methods/test_ppo.py::test_every_pass_goes_through_all_samples_once
Groups
    samples of [a, a, b, b] are grouped as those of [a, b, a, b]
        test_known_faults.py::test_a_group_is_the_samples_of_one_prompt_and_not_one_sample_of_each
        objectives/test_advantages.py::test_groups_are_rows_and_not_columns
    one valid reward in a group gives NaN, or silently nothing
        test_known_faults.py::test_one_valid_reward_in_a_group_stops_the_run_and_names_the_rows
        test_known_faults.py::test_one_valid_verdict_in_a_group_is_learned_from_alone
        objectives/test_advantages.py::test_one_valid_reward_is_refused_not_turned_into_nan_or_zero
        feedback/test_functions.py::test_what_is_no_list_of_finite_numbers_names_function_and_row
    identical rewards have their rounding errors amplified by a tiny deviation
        methods/test_policy_gradients.py::test_identical_rewards_teach_nothing
        test_known_faults.py::test_identical_rewards_teach_nothing_though_the_divergence_is_in_the_reward
        objectives/test_advantages.py::test_identical_rewards_give_exactly_zero
    a reward of 0.0 is taken for none
        methods/test_ppo.py::test_a_reward_of_zero_is_a_reward
        objectives/test_advantages.py::test_a_reward_of_zero_is_a_reward
        test_known_faults.py::test_a_threshold_of_zero_is_a_threshold
Divergence
    its sign is wrong
        objectives/test_kl.py::test_k2_and_k3_are_never_negative_and_k1_has_the_sign_of_the_ratio
        methods/test_ppo.py::test_returns_are_the_score_less_the_price_of_what_is_still_to_come
        methods/test_policy_gradients.py::test_the_divergence_in_the_reward_is_the_regularized_gradient
    it is in the reward and in the loss at once
        test_known_faults.py::test_the_divergence_is_in_the_reward_or_in_the_loss_and_never_in_both
        methods/test_ppo.py::test_the_first_gradient_is_the_plain_policy_gradient
Log-probabilities
    temperature divides the logits in sampling and not in scoring
        test_known_faults.py::test_temperature_divides_the_logits_in_sampling_and_in_scoring_alike
        test_known_faults.py::test_temperature_divides_the_logits_of_pairs_too
        test_known_faults.py::test_temperature_divides_the_logits_of_imitated_samples_too
        engine/test_generate.py::test_sampled_log_probabilities_equal_scored_ones_under_the_same_truncation
    truncation to the top k or top p does not renormalize
        engine/test_generate.py::test_sampled_log_probabilities_equal_scored_ones_under_the_same_truncation
        engine/test_generate.py::test_frequencies_are_the_exact_probabilities
    samples come from weights cached before an update
        test_known_faults.py::test_after_an_update_samples_come_from_the_new_weights
        engine/test_generate.py::test_new_weights_are_sampled_from_at_once
        engine/test_precision.py::test_weights_updated_between_passes_are_seen_in_bfloat16
Masks
    the end of turn is not trained where it is the padding token
        test_known_faults.py::test_the_end_of_turn_is_trained_though_it_is_the_padding_token
        engine/test_models.py::test_the_end_of_turn_learns_though_it_is_padding
        engine/test_trees.py::test_the_end_of_turn_is_trained_whatever_it_is
    the reward lands beside the last real token
        methods/test_ppo.py::test_the_reward_lands_on_the_last_token
        objectives/test_advantages.py::test_the_score_lands_on_the_last_token
    the first response token is not trained
        engine/test_forward.py::test_the_first_response_token_and_the_end_of_turn_are_trained
    a fully masked row gives NaN
        test_known_faults.py::test_a_fully_masked_row_gives_no_nan_and_changes_nothing
        methods/test_policy_gradients.py::test_where_every_sample_is_masked_nothing_is_learned
    the score is read at the wrong end token where there are two
        engine/test_forward.py::test_scores_are_read_at_the_last_token_though_the_end_token_stands_there_twice
        engine/test_models.py::test_transformers_scores_where_accord_does
Preferences
    log-sigmoid overflows at margins of 10,000
        test_known_faults.py::test_a_margin_of_ten_thousand_has_a_finite_loss
        objectives/test_preference.py::test_bradley_terry_is_stable_at_huge_margins
        objectives/test_preference.py::test_ranking_losses_are_stable_at_huge_margins
        objectives/test_preference.py::test_dpo_is_stable_and_the_reference_gets_no_gradient
    an empty completion is trained on
        test_known_faults.py::test_an_empty_completion_is_refused_by_name
    odd batch sizes tear pairs apart, or drop rows
        test_known_faults.py::test_batches_of_odd_size_hold_whole_pairs_and_every_row
        test_known_faults.py::test_a_sample_that_is_alone_in_its_step_is_learned_from
        data/test_loader.py::test_an_epoch_neither_skips_nor_repeats_a_row
    chosen and rejected begin with different tokens of one prompt
        test_known_faults.py::test_chosen_and_rejected_share_exactly_the_tokens_of_the_prompt
        data/test_chat.py::test_the_boundary_does_not_depend_on_how_the_joined_text_would_be_split
    truncation silently removes a whole completion
        test_known_faults.py::test_a_completion_that_would_be_cut_away_is_told_of
        data/test_encoding.py::test_rows_that_truncation_leaves_nothing_of_are_told_with_their_reason
Reference
    it is not the model before this stage
        test_known_faults.py::test_the_reference_is_the_model_before_this_stage_and_stays_it
        methods/test_offline_oracles.py::test_dpo_starts_from_no_margin
    after an adapter of supervised fine-tuning it is the model below the adapter
        not built yet: there are no adapters
Resuming
    a batch is replayed
        test_known_faults.py::test_a_resumed_run_neither_replays_nor_skips_a_batch
    a batch is skipped
        test_known_faults.py::test_a_resumed_run_neither_replays_nor_skips_a_batch
    the run differs from the uninterrupted one
        methods/test_resume.py::test_a_killed_run_equals_the_uninterrupted_one_bit_for_bit
        methods/test_ppo_resume.py::test_a_killed_run_equals_the_uninterrupted_one_bit_for_bit
        methods/test_rounds.py::test_killed_and_resumed
Sampling
    one seed gives every rank the same samples
        not built yet: there is one rank
        test_known_faults.py::test_one_seed_does_not_repeat_from_step_to_step_nor_between_players
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accord.data import Order
from accord.data.encoding import encode
from accord.engine import samplers
from accord.engine.classifiers import Scorer
from accord.engine.config import TrainingConfig
from accord.engine.fit import LossTerm, Optimizer
from accord.engine.forward import log_probabilities
from accord.engine.models import Policy
from accord.engine.precision import autocast
from accord.engine.sampling import Sampling, uniform_numbers
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError, LeftOut, TrainingStopped
from accord.feedback.judge import ScoreJudge
from accord.methods import (
    DPO,
    GRPO,
    IPOMD,
    PPO,
    RAFT,
    REINFORCE,
    RLOO,
    SFT,
    Distill,
    NashMD,
    OnlineDPO,
    RewardModel,
)
from accord.methods.online import JudgeMethod, OnlineMethod
from accord.methods.rollouts import Rollout, sample
from accord.objectives import advantages, kl
from accord.objectives.segments import segment_sum
from accord.records import Demonstration, Preference, Prompt, Verdict
from accord.train.rows import read_metrics
from tests.commands.small import write_jsonl
from tests.data.conftest import BAD, BYE, DAY, EOS, GOOD, UNK, word_tokenizer
from tests.engine.tiny import CONFIGS, plain_log_probabilities, random_model, randomize
from tests.methods.test_ppo import LENGTH, PROMPTS, Counting, policy_at

TESTS = Path(__file__).parent
DEMONSTRATIONS = [Demonstration("hi", "good"), Demonstration("hello day", "good day bye"), Demonstration("bye", "bad")]
PAIRS = [
    Preference("hi", "day", "bad"),
    Preference("hello", "bye", "bad day"),
    Preference("good", "hi", "bye"),
    Preference("day", "good", "hi hi hi"),
    Preference("bad", "hi", "good day"),
]
JUDGE = ScoreJudge(lambda prompt, text: float(len(text)))


# The table above


def table() -> Iterator[tuple[str, list[str]]]:
    """Every fault with the tests that stand under it."""
    for block in re.split(r"\n    (?=\S)", __doc__ or "")[1:]:
        fault, *proofs = [line.strip() for line in block.split("\n") if line.strip()]
        yield fault, [line for line in proofs if "::" in line or line.startswith("not built yet")]


@cache
def functions(file: str) -> set[str]:
    """The functions that a file of tests defines."""
    module = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


def test_every_test_in_the_table_exists_and_every_fault_has_one() -> None:
    faults = list(table())
    assert len(faults) == 32
    named = {proof for _, proofs in faults for proof in proofs if "::" in proof}
    assert all(proofs for _, proofs in faults)
    assert {name for name in named if name.split("::")[1] not in functions(name.split("::")[0])} == set()
    own = {f"{Path(__file__).name}::{name}" for name in functions(Path(__file__).name) if name.startswith("test_")}
    assert own - named == {"test_known_faults.py::test_every_test_in_the_table_exists_and_every_fault_has_one"}


# What the tests share


def settings(**given: Any) -> dict[str, Any]:
    return {"dtype": "float32", "group_size": 2, "max_new_tokens": 5, "tokens_per_pass": 4096, **given}


def at_work(method: OnlineMethod, kind: str = "gpt2", weights: torch.dtype = torch.float64) -> tuple[Any, Policy]:
    """An online method at work on a random policy (GPT-2 in float64 computes nothing in less), and that policy."""
    policy = policy_at(kind, weights).in_dtype(method.dtype)
    judged = JUDGE if isinstance(method, JudgeMethod) else LENGTH
    return method.learner(policy, policy if isinstance(method, Distill) else judged), policy


def learned(learner: Any, rollout: Rollout) -> tuple[dict[str, float], list[Tensor]]:
    """The row of one update and the gradient it applied: gradient descent of rate 1 subtracts just that."""
    training = TrainingConfig(learning_rate=1.0, schedule="constant", warmup=0.0, max_grad_norm=1e9, dtype="float32")
    optimizer = Optimizer(learner.networks, training, 1)
    optimizer.rule = torch.optim.SGD(optimizer.parameters(), lr=1.0)  # type: ignore[assignment]
    before = [p.detach().clone() for p in optimizer.parameters()]
    row = learner.learn(0, rollout, optimizer)
    return row, [a - p.detach() for a, p in zip(before, optimizer.parameters(), strict=True)]


def noted(monkeypatch: pytest.MonkeyPatch, stop: int | None = None) -> list[tuple[int, list[Any]]]:
    """A list that fills with what every update learns from, (step, rows with their tokens); `stop` is interrupted."""
    seen: list[tuple[int, list[Any]]] = []
    update = Optimizer.update

    def noting(self: Optimizer, step: int, *work: LossTerm) -> dict[str, float]:
        if step == stop:
            raise KeyboardInterrupt
        trees = sorted((t for job in work for trees in job.packs for t in trees.trees), key=lambda tree: tree.row)
        seen.append((step, [(tree.row, [branch.tokens for branch in tree.branches]) for tree in trees]))
        return update(self, step, *work)

    monkeypatch.setattr(Optimizer, "update", noting)
    return seen


# Normalization

GRADIENTS: dict[str, Any] = {
    "reinforce": lambda **more: REINFORCE(**settings(**more)),
    "rloo": lambda **more: RLOO(**settings(**more)),
    "ppo": lambda **more: PPO(**settings(inner_epochs=1, missing_end_penalty=0.0, **more)),
    "grpo by tokens": lambda **more: GRPO(**settings(normalize="token", **more)),
    "grpo by sequences": lambda **more: GRPO(**settings(normalize="sequence", **more)),
    "grpo by a constant": lambda **more: GRPO(**settings(normalize="constant", **more)),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_policy_gradient_is_the_same_for_any_split_into_micro_batches(name: str) -> None:
    results, packs = [], []
    for budget in (1, 40, 4096):
        method = GRADIENTS[name](group_size=3, mask_truncated=True, tokens_per_pass=budget)
        learner, policy = at_work(method)
        randomize(learner.reference.network, 5)
        rollout = sample(method, policy, PROMPTS, LENGTH, step=0)
        assert {s.completion.stop for s in rollout.samples} == {"end", "length"}
        packs.append(len(learner.experience(0, rollout)[0][0]))
        results.append(learned(learner, rollout))
    assert packs == [3, 2, 1]
    for row, gradient in results[1:]:
        assert row == pytest.approx(results[0][0], abs=1e-10)
        torch.testing.assert_close(gradient, results[0][1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("budget", [1, 4096])
def test_the_logged_loss_is_the_mean_over_the_step_however_it_is_split(budget: int, tmp_path: Path) -> None:
    # 2 + 4 + 2 tokens with their ends: the loss is their mean by plain forwards, its gradient's norm that of the mean.
    sft = SFT(batch_size=3, tokens_per_pass=budget, dtype="float32")
    [row] = sft.fit(policy_at(), DEMONSTRATIONS, out=tmp_path / "run").metrics
    plain, trees = random_model(CONFIGS["gpt2"]()), sft.encode(policy_at(), DEMONSTRATIONS, LeftOut())
    loss = -plain_log_probabilities(plain, trees).mean()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(plain.parameters()))])
    assert [row["loss"], row["gradient_norm"]] == pytest.approx([loss.item(), gradient.norm().item()], abs=1e-10)
    assert row["tokens"] == 3 + 6 + 3


# Groups


@pytest.mark.parametrize("method", [RLOO, GRPO])
def test_a_group_is_the_samples_of_one_prompt_and_not_one_sample_of_each(method: Any) -> None:
    # A reward that the prompt alone decides leaves nothing to choose between its samples; one that is 0 for the first
    # of a prompt and 1 for the second puts them at -1 and 1 against each other, or at half of that from their mean.
    given: dict[str, Any] = settings(kl_coefficient=0.0) | ({"scale": False} if method is GRPO else {})
    learner, policy = at_work(method(**given))
    half = 0.5 if method is GRPO else 1.0
    by_prompt = lambda samples: torch.tensor([float(len(s.prompt.prompt)) for s in samples])  # noqa: E731
    by_place = lambda samples: torch.tensor([0.0, 1.0] * (len(samples) // 2))  # noqa: E731
    for reward, expected, flat in ((by_prompt, [0.0, 0.0], 1.0), (by_place, [-half, half], 0.0)):
        [[trees]], row = learner.experience(0, sample(learner.method, policy, PROMPTS, reward, step=0))
        each = [trees.advantage[trees.owner == branch].unique().tolist() for branch in range(6)]
        assert each == [[x] for x in expected * 3]
        assert row == {"flat_groups": flat}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_identical_rewards_teach_nothing_though_the_divergence_is_in_the_reward(dtype: Any) -> None:
    # Before the first update the policy is its reference; sampler and trainer differ by rounding alone.
    method = GRPO(**settings(group_size=4, kl="reward", dtype=dtype))
    learner, policy = at_work(method, "llama", torch.float32)
    rollout = sample(method, policy, PROMPTS, lambda samples: torch.ones(len(samples)), step=0)
    [[trees]], row = learner.experience(0, rollout)
    assert set(trees.advantage.tolist()) == {0.0}
    assert row == {"flat_groups": 1.0, "kl": 0.0}


@pytest.mark.parametrize("missing", [float("nan"), float("-inf")])
@pytest.mark.parametrize("method", [RLOO, GRPO])
def test_one_valid_reward_in_a_group_stops_the_run_and_names_the_rows(method: Any, missing: float) -> None:
    learner, _ = at_work(method(**settings()))
    learner.reward = lambda samples: torch.tensor([1.0, missing, 1.0, 2.0, missing, 0.0])
    optimizer = Counting()
    with pytest.raises(TrainingStopped, match="^step 1: the reward of a sample of rows 1, 3 is not finite; look at"):
        learner.step(0, PROMPTS, optimizer)
    assert optimizer.work == []


def test_one_valid_verdict_in_a_group_is_learned_from_alone() -> None:
    # Without a verdict two of the three stand at 1/2, and the third, which won, is 1 - 1/2 better than they.
    learner, _ = at_work(NashMD(**settings(group_size=3, opponents=1)))
    learner.judge = lambda comparisons: [Verdict(None), Verdict(None), Verdict(1.0)]
    optimizer = Counting()
    result = learner.step(0, PROMPTS[:1], optimizer)
    [[work]] = optimizer.work
    assert (work.count, result.numbers["invalid"], result.rewards) == (1, pytest.approx(2 / 3), [0.5, 0.5, 1.0])
    values, _ = work.objective(work.packs[0])
    assert values.tolist() == pytest.approx([-0.5 * sum(result.samples[2].completion.logprobs)], abs=1e-10)


def test_a_threshold_of_zero_is_a_threshold() -> None:
    tree = Tree((6,), (Branch((7, EOS), reward=-1.0), Branch((8, EOS), reward=0.0), Branch((9, EOS), reward=-0.5)))
    method = RAFT(**settings(group_size=3, keep=3))
    assert [b.reward for b in method.best(tree, (EOS,))] == [0.0, -0.5, -1.0]
    method.at_least = 0.0
    assert [b.reward for b in method.best(tree, (EOS,))] == [0.0]


# Divergence


@pytest.mark.parametrize("kind", ["reward", "k2", "k3"])
def test_the_divergence_is_in_the_reward_or_in_the_loss_and_never_in_both(kind: Any) -> None:
    # By plain forwards: A of r - .3 d(y) and a loss of -A a token, or A of r and a loss of -A + .3 k.
    learner, policy = at_work(GRPO(**settings(kl=kind, kl_coefficient=0.3, scale=False)))
    reference = randomize(random_model(CONFIGS["gpt2"]()), 5)
    learner.reference.network.load_state_dict(reference.state_dict())
    [[trees]], _ = learner.experience(0, sample(learner.method, policy, PROMPTS, LENGTH, step=0))
    with torch.no_grad():
        logp, ref = (plain_log_probabilities(n, trees.trees) for n in (random_model(CONFIGS["gpt2"]()), reference))
    price = 0.3 * segment_sum(logp - ref, trees.owner, trees.branches) if kind == "reward" else 0.0
    added = 0.3 * {"k2": kl.k2, "k3": kl.k3}[kind](logp, ref) if kind != "reward" else 0.0
    advantage = advantages.group((trees.rewards - price).view(-1, 2), scale=False).flatten()[trees.owner]
    torch.testing.assert_close(trees.advantage, advantage, rtol=0, atol=1e-10)
    torch.testing.assert_close(learner.loss(trees)[0].detach(), added - advantage, rtol=0, atol=1e-10)


# Log-probabilities


@pytest.mark.parametrize("kind", [REINFORCE, RLOO, GRPO, PPO, NashMD, Distill])
def test_temperature_divides_the_logits_in_sampling_and_in_scoring_alike(kind: Any) -> None:
    method = kind(**settings(temperature=0.5))
    learner, _ = at_work(method)
    row = learner.step(0, PROMPTS, Optimizer(learner.networks, method, 1)).numbers
    assert row["sampler_drift"] < 1e-12
    assert abs(row.get("kl", row.get("teacher_kl", 1.0))) < 1e-12  # the policy is still its own reference and teacher


@pytest.mark.parametrize("kind", [OnlineDPO, IPOMD])
def test_temperature_divides_the_logits_of_pairs_too(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, loss = [], kind.loss

    def hearing(self: Any, policy: Tensor, reference: Tensor, pairs: Trees) -> Tensor:
        said = segment_sum(pairs.logprobs, pairs.owner, pairs.branches)
        heard.extend([policy.detach() - (said[0::2] - said[1::2]), reference - (said[0::2] - said[1::2])])
        result: Tensor = loss(self, policy, reference, pairs)
        return result

    monkeypatch.setattr(kind, "loss", hearing)
    learner, _ = at_work(kind(**settings(temperature=0.5, **({"mixture": 0.0} if kind is IPOMD else {}))))
    learner.step(0, PROMPTS, Optimizer(learner.networks, learner.method, 1))
    assert len(heard) == 2 and all(float(gap.abs().max()) < 1e-12 for gap in heard)


def test_temperature_divides_the_logits_of_imitated_samples_too() -> None:
    method = RAFT(**settings(temperature=0.5, keep=2, keep_truncated=True))
    learner, _ = at_work(method)
    result = learner.step(0, PROMPTS, Optimizer(learner.networks, method, 1))
    trees = Rollout.of(PROMPTS, list(result.samples), list(result.rewards)).trees
    kept = [x for tree in trees for branch in method.best(tree, (EOS,)) for x in branch.logprobs or ()]
    assert result.numbers["loss"] == pytest.approx(-sum(kept) / len(kept), abs=1e-12)


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-5), ("bfloat16", 0.1)])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # an output layer of its own, and one shared with the embedding
def test_after_an_update_samples_come_from_the_new_weights(kind: str, dtype: Any, rounding: float) -> None:
    method = RLOO(**settings(dtype=dtype, learning_rate=0.05))
    learner, policy = at_work(method, kind, torch.float32)
    optimizer = Optimizer(learner.networks, method, 2)
    drifts = [learner.step(step, PROMPTS, optimizer).numbers["sampler_drift"] for step in range(2)]
    assert max(drifts) < rounding
    fresh, start = (policy_at(kind, torch.float32).in_dtype(dtype) for _ in range(2))
    fresh.network.load_state_dict(policy.network.state_dict())
    said, same, other = (p.sample(PROMPTS, method.group_size, method.sampling(2)) for p in (policy, fresh, start))
    assert said == same and said != other


# Masks


def test_the_end_of_turn_is_trained_though_it_is_the_padding_token() -> None:
    policy, plain = policy_at(), random_model(CONFIGS["gpt2"]())
    policy.tokenizer = word_tokenizer(pad_token="</s>")
    policy.network.config.pad_token_id = EOS
    sft = SFT(dtype="float32")
    trees = Trees.of(sft.encode(policy, DEMONSTRATIONS, LeftOut()))
    assert trees.target.tolist() == [GOOD, EOS, GOOD, DAY, BYE, EOS, BAD, EOS]
    values, _ = sft.objective(policy)(trees)
    expected = -plain_log_probabilities(plain, trees.trees)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-10)
    ends = trees.target == EOS
    got, wanted = (
        torch.autograd.grad(v[ends].sum(), list(n.parameters()))
        for v, n in ((values, policy.network), (expected, plain))
    )
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    assert max(float(g.abs().max()) for g in got) > 0.1


@pytest.mark.parametrize("name", sorted(GRADIENTS.keys() - {"reinforce"}))  # whose baseline is over the whole step
def test_a_fully_masked_row_gives_no_nan_and_changes_nothing(name: str) -> None:
    results = []
    for count in (1, 2):
        learner, policy = at_work(GRADIENTS[name](mask_truncated=True))
        randomize(learner.reference.network, 5)
        rollout = sample(learner.method, policy, PROMPTS[:2], LENGTH, step=0)
        samples = [
            replace(s, completion=replace(s.completion, stop=stop))
            for s, stop in zip(rollout.samples, ("end", "end", "length", "length"), strict=True)
        ][: 2 * count]
        results.append(learned(learner, Rollout(rollout.trees[:count], samples)))
    (alone, gradient), (beside, same) = results
    assert [beside[n] for n in ("loss", "kl")] == pytest.approx([alone[n] for n in ("loss", "kl")], abs=1e-12)
    torch.testing.assert_close(same, gradient, rtol=0, atol=1e-12)
    assert all(bool(g.isfinite().all()) for g in same)


# Preferences


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_margin_of_ten_thousand_has_a_finite_loss(dtype: Any) -> None:
    # -log sigmoid of 10,000 is 0 and of -10,000 it is 10,000; their mean is 5,000.
    scorer, method = Scorer.on(policy_at("gpt2", torch.float32)), RewardModel(dtype=dtype)
    good, bad = Branch((7, EOS)), Branch((9, 10, EOS))
    trees = Trees.of([Tree((6,), (good, bad), ranks=(0, 1)), Tree((6,), (good, bad), ranks=(1, 0))])
    with torch.no_grad(), autocast(getattr(torch, dtype)):
        first, second, *_ = scorer.rewards(trees).tolist()
        head: nn.Linear = scorer.network.score  # type: ignore[assignment]
        head.weight.mul_(1e4 / (first - second))
    row = Optimizer({"model": scorer.network}, method, 1).update(0, LossTerm(method.objective(scorer), [trees], "tree"))
    assert row["loss"] == pytest.approx(5000, rel=1e-4)
    assert row["accuracy"] == 0.5


def test_an_empty_completion_is_refused_by_name(tmp_path: Path) -> None:
    pair = {"prompt": "hi", "chosen": "good", "rejected": "bad"}
    data = write_jsonl(tmp_path / "pairs.jsonl", [pair, {**pair, "rejected": ""}])
    with pytest.raises(InputError, match=r"pairs\.jsonl, line 2: 'rejected' is empty"):
        DPO().fit(policy_at(), data, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_batches_of_odd_size_hold_whole_pairs_and_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 5 pairs, 3 at a time: 3 and 2. At a rate of nothing each step's loss is the mean of its pairs' alone.
    seen = noted(monkeypatch)
    method = RewardModel(batch_size=3, tokens_per_pass=8, learning_rate=1e-30, dtype="float32")
    rows = method.fit(policy_at(), PAIRS, out=tmp_path / "run").metrics
    scorer = Scorer.on(policy_at(), method.seed)
    trees, loss = method.encode(scorer, PAIRS, LeftOut()), method.objective(scorer)
    alone = [loss(Trees.of([tree]))[0].item() for tree in trees]
    batches = [Order(5, 3, method.seed).batch(step) for step in range(2)]
    assert [len(b) for b in batches] == [3, 2] and sorted(batches[0] + batches[1]) == [0, 1, 2, 3, 4]
    for step, batch in enumerate(batches):
        whole = [(row, [branch.tokens for branch in trees[row].branches]) for row in sorted(batch)]
        assert seen[step] == (step, whole) and all(len(branches) == 2 for _, branches in whole)
        assert rows[step]["loss"] == pytest.approx(sum(alone[row] for row in batch) / len(batch), abs=1e-10)


def test_a_sample_that_is_alone_in_its_step_is_learned_from() -> None:
    # As the last prompt of an epoch may be: without others there is no baseline, and -r log pi remains.
    learner, _ = at_work(REINFORCE(**settings(group_size=1, batch_size=2, kl_coefficient=0.0)))
    learner.reward = lambda samples: torch.tensor([2.0])
    optimizer = Counting()
    result = learner.step(0, PROMPTS[:1], optimizer)
    [[work]] = optimizer.work
    said = sum(result.samples[0].completion.logprobs)
    assert work.objective(work.packs[0])[0].tolist() == pytest.approx([-2 * said], abs=1e-10)


def test_chosen_and_rejected_share_exactly_the_tokens_of_the_prompt() -> None:
    # As one text "good" and "bye" are the unknown word "goodbye", which would leave nothing of the prompt.
    tokenizer = word_tokenizer()
    assert tokenizer("goodbye", add_special_tokens=False)["input_ids"] == [UNK]
    [tree] = encode(tokenizer, [Preference("good", "bye", "day")], max_length=9, context=None).trees
    assert tree == Tree((GOOD,), (Branch((BYE, EOS)), Branch((DAY, EOS))), (0, 1), 0)


def test_a_completion_that_would_be_cut_away_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Demonstration("hi", "good day bye"), Demonstration("hi hello good", "bad"), Demonstration("bye", "bad")]
    seen = noted(monkeypatch)
    SFT(max_length=3, batch_size=3, dtype="float32").fit(policy_at(), rows, out=tmp_path / "run")
    assert seen == [(0, [(0, [(GOOD, DAY)]), (2, [(BAD, EOS)])])]
    told = " ".join(capsys.readouterr().err.split())
    assert "1 row left out, as the prompt leaves no room for a completion within 3 tokens (row 2)" in told


# The reference, resuming, sampling


def test_the_reference_is_the_model_before_this_stage_and_stays_it(tmp_path: Path) -> None:
    sft = SFT(learning_rate=0.05, max_steps=2, batch_size=3, dtype="float32")
    tuned: Any = sft.fit(policy_at(), DEMONSTRATIONS, out=tmp_path / "sft").model
    trees = Trees.of(encode(tuned.tokenizer, PAIRS[:2], max_length=9, context=None).trees)
    with torch.no_grad():
        base, before = (log_probabilities(n, trees)[0] for n in (policy_at().network, tuned.network))
        learner: Any = RLOO(**settings()).learner(tuned, LENGTH)
        dpo = DPO(beta=0.3, dtype="float32").objective(tuned)
        randomize(tuned.network, 7)  # the stage moves the policy
        now, _ = log_probabilities(tuned.network, trees)
        assert torch.equal(learner.reference.log_probs(trees), before)
        assert float((before - base).abs().min()) > 1e-3
        margins = 0.3 * segment_sum(now - before, trees.owner, trees.branches)
        torch.testing.assert_close(dpo(trees)[1]["chosen_reward"], margins[0::2], rtol=0, atol=1e-10)
        torch.testing.assert_close(dpo(trees)[1]["rejected_reward"], margins[1::2], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [SFT, RLOO])
def test_a_resumed_run_neither_replays_nor_skips_a_batch(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 5 rows, 2 at a time, are passes of 3 steps. The run ends in its sixth step, past a checkpoint of four.
    online = kind is RLOO
    given: dict[str, Any] = {"reward": LENGTH} if online else {}
    rows: Sequence[Any] = (
        [Prompt(pair.prompt) for pair in PAIRS] if online else [Demonstration(p.prompt, p.chosen) for p in PAIRS]
    )
    common: dict[str, Any] = {"batch_size": 2, "max_steps": 8, "learning_rate": 1e-2}
    method = kind(**(settings(**common) if online else {"dtype": "float32", **common}))

    def session(out: str, stop: int | None = None, resume: bool = False) -> list[tuple[int, list[Any]]]:
        with monkeypatch.context() as patch:
            seen = noted(patch, stop)
            try:
                method.fit(policy_at(), rows, out=tmp_path / out, save_every=2, resume=resume, **given)
            except KeyboardInterrupt:
                assert stop is not None
            return seen

    straight, begun, ended = session("straight"), session("stopped", stop=5), session("stopped", resume=True)
    assert [step for step, _ in straight] == list(range(8))
    assert begun == straight[:5] and ended == straight[4:]
    assert [row["step"] for row in read_metrics(tmp_path / "stopped")] == list(range(1, 9))


def test_one_seed_does_not_repeat_from_step_to_step_nor_between_players(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every token is drawn by a number of 53 random bits: two equal ones among hundreds are a fault, not chance.
    seeds, generate = [], samplers.generate

    def noting(network: Any, prompts: Any, n: int, sampling: Sampling, **more: Any) -> Any:
        seeds.append(sampling.seed)
        return generate(network, prompts, n, sampling, **more)

    monkeypatch.setattr(samplers, "generate", noting)
    learner, _ = at_work(NashMD(**settings(opponents=2)))
    for step in range(3):
        learner.step(step, PROMPTS, Counting())
    assert len(seeds) == 6
    drawn = [uniform_numbers([p.tokens for p in PROMPTS], 2, Sampling(5, seed=seed)).ravel().tolist() for seed in seeds]
    assert len({x for numbers in drawn for x in numbers}) == 6 * 3 * 2 * 5
