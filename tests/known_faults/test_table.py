"""Faults found in other libraries, and the tests that keep each of them out of this one.

Normalization
    the gradient depends on how a step is split into micro-batches
        methods/test_packing.py::test_any_split_gives_the_same_gradient
        known_faults/test_updates.py::test_a_policy_gradient_is_the_same_for_any_split_into_micro_batches
    accumulation averages the means of micro-batches of different sizes
        engine/test_fit.py::test_packs_of_different_sizes_share_one_count
    the gradient depends on the number of ranks
        engine/test_ranks.py::test_gradients_and_steps_are_those_of_one_process
    padding changes something
        engine/test_forward.py::test_packed_and_padded_trees_equal_separate_forwards
    packing other trees beside a tree changes something
        methods/test_packing.py::test_a_tree_computes_the_same_in_any_company
        engine/test_generate.py::test_samples_are_the_same_whatever_the_company
    masked truncated completions stay in the denominator
        methods/test_policy_gradients.py::test_truncated_samples_that_are_masked_leave_the_denominator
    logged values are scaled twice
        known_faults/test_updates.py::test_the_logged_loss_is_the_mean_over_the_step_however_it_is_split
        methods/test_ppo.py::test_every_pass_goes_through_all_samples_once
Groups
    samples of [a, a, b, b] are grouped as those of [a, b, a, b]
        known_faults/test_updates.py::test_a_group_is_the_samples_of_one_prompt_and_not_one_sample_of_each
        objectives/test_advantages.py::test_groups_are_rows_and_not_columns
    one valid reward in a group gives NaN, or silently nothing
        known_faults/test_updates.py::test_one_valid_reward_in_a_group_stops_the_run_and_names_the_rows
        known_faults/test_updates.py::test_one_valid_verdict_in_a_group_is_learned_from_alone
        objectives/test_advantages.py::test_one_valid_reward_is_refused_not_turned_into_nan_or_zero
        feedback/test_functions.py::test_what_is_no_list_of_finite_numbers_names_function_and_row
    identical rewards have their rounding errors amplified by a tiny deviation
        methods/test_policy_gradients.py::test_identical_rewards_teach_nothing
        known_faults/test_updates.py::test_identical_rewards_teach_nothing_though_the_divergence_is_in_the_reward
        objectives/test_advantages.py::test_identical_rewards_give_exactly_zero
    a reward of 0.0 is taken for none
        methods/test_ppo.py::test_a_reward_of_zero_is_a_reward
        objectives/test_advantages.py::test_a_reward_of_zero_is_a_reward
        known_faults/test_updates.py::test_a_threshold_of_zero_is_a_threshold
Divergence
    its sign is wrong
        objectives/test_kl.py::test_k2_and_k3_are_never_negative_and_k1_has_the_sign_of_the_ratio
        methods/test_ppo.py::test_returns_are_the_score_less_the_price_of_what_is_still_to_come
        methods/test_policy_gradients.py::test_the_divergence_in_the_reward_is_the_regularized_gradient
    it is in the reward and in the loss at once
        known_faults/test_updates.py::test_the_divergence_is_in_the_reward_or_in_the_loss_and_never_in_both
        methods/test_ppo.py::test_the_first_gradient_is_the_plain_policy_gradient
Log-probabilities
    temperature divides the logits in sampling and not in scoring
        known_faults/test_samples.py::test_temperature_divides_the_logits_in_sampling_and_in_scoring_alike
        known_faults/test_samples.py::test_temperature_divides_the_logits_of_pairs_too
        known_faults/test_samples.py::test_temperature_divides_the_logits_of_imitated_samples_too
        engine/test_generate.py::test_sampled_log_probabilities_equal_scored_ones_under_the_same_truncation
    truncation to the top k or top p does not renormalize
        engine/test_generate.py::test_sampled_log_probabilities_equal_scored_ones_under_the_same_truncation
        engine/test_generate.py::test_frequencies_are_the_exact_probabilities
    samples come from weights cached before an update
        known_faults/test_samples.py::test_after_an_update_samples_come_from_the_new_weights
        engine/test_generate.py::test_new_weights_are_sampled_from_at_once
        engine/test_precision.py::test_weights_updated_between_passes_are_seen_in_bfloat16
Masks
    the end of turn is not trained where it is the padding token
        known_faults/test_rows.py::test_the_end_of_turn_is_trained_though_it_is_the_padding_token
        engine/test_models.py::test_the_end_of_turn_learns_though_it_is_padding
        engine/test_trees.py::test_the_end_of_turn_is_trained_whatever_it_is
    the reward lands beside the last real token
        methods/test_ppo.py::test_the_reward_lands_on_the_last_token
        objectives/test_advantages.py::test_the_score_lands_on_the_last_token
    the first response token is not trained
        engine/test_forward.py::test_the_first_response_token_and_the_end_of_turn_are_trained
    a fully masked row gives NaN
        known_faults/test_updates.py::test_a_fully_masked_row_gives_no_nan_and_changes_nothing
        methods/test_policy_gradients.py::test_where_every_sample_is_masked_nothing_is_learned
    the score is read at the wrong end token where there are two
        engine/test_forward.py::test_scores_are_read_at_the_last_token_though_the_end_token_stands_there_twice
        engine/test_models.py::test_transformers_scores_where_accord_does
Preferences
    log-sigmoid overflows at margins of 10,000
        known_faults/test_rows.py::test_a_margin_of_ten_thousand_has_a_finite_loss
        objectives/test_preference.py::test_bradley_terry_is_stable_at_huge_margins
        objectives/test_ranking.py::test_ranking_losses_are_stable_at_huge_margins
        objectives/test_direct.py::test_dpo_is_stable_and_the_reference_gets_no_gradient
    an empty completion is trained on
        known_faults/test_rows.py::test_an_empty_completion_is_refused_by_name
    odd batch sizes tear pairs apart, or drop rows
        known_faults/test_rows.py::test_batches_of_odd_size_hold_whole_pairs_and_every_row
        known_faults/test_updates.py::test_a_sample_that_is_alone_in_its_step_is_learned_from
        data/test_loader.py::test_an_epoch_neither_skips_nor_repeats_a_row
    chosen and rejected begin with different tokens of one prompt
        known_faults/test_rows.py::test_chosen_and_rejected_share_exactly_the_tokens_of_the_prompt
        data/test_chat.py::test_the_boundary_does_not_depend_on_how_the_joined_text_would_be_split
    truncation silently removes a whole completion
        known_faults/test_rows.py::test_a_completion_that_would_be_cut_away_is_told_of
        data/test_encoding.py::test_rows_that_truncation_leaves_nothing_of_are_told_with_their_reason
Reference
    it is not the model before this stage
        known_faults/test_rows.py::test_the_reference_is_the_model_before_this_stage_and_stays_it
        methods/test_offline_oracles.py::test_dpo_starts_from_no_margin
    after an adapter of supervised fine-tuning it is the model below the adapter
        methods/test_adapters.py::test_what_is_trained_on_an_adapter_holds_both
        methods/test_adapters.py::test_adapters_in_memory_are_trained_on_by_their_rank_alone
Resuming
    a batch is replayed
        known_faults/test_rows.py::test_a_resumed_run_neither_replays_nor_skips_a_batch
    a batch is skipped
        known_faults/test_rows.py::test_a_resumed_run_neither_replays_nor_skips_a_batch
    the run differs from the uninterrupted one
        methods/test_resume.py::test_a_killed_run_equals_the_uninterrupted_one_bit_for_bit
        methods/test_ppo_resume.py::test_a_killed_run_equals_the_uninterrupted_one_bit_for_bit
        methods/test_rounds.py::test_killed_and_resumed
Sampling
    one seed gives every rank the same samples
        engine/test_ranks.py::test_a_method_does_what_it_does_in_one_process
        known_faults/test_samples.py::test_one_seed_does_not_repeat_from_step_to_step_nor_between_players
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]


def table() -> Iterator[tuple[str, list[str]]]:
    """Every fault with the tests that stand under it."""
    for block in re.split(r"\n    (?=\S)", __doc__ or "")[1:]:
        fault, *proofs = [line.strip() for line in block.split("\n") if line.strip()]
        yield fault, [line for line in proofs if "::" in line]


@cache
def functions(file: str) -> set[str]:
    """The functions that a file of tests defines."""
    module = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


def test_every_test_in_the_table_exists_and_every_fault_has_one() -> None:
    faults = list(table())
    assert len(faults) == 32
    named = {proof for _, proofs in faults for proof in proofs}
    assert all(proofs for _, proofs in faults)
    assert {name for name in named if name.split("::")[1] not in functions(name.split("::")[0])} == set()


def test_every_test_of_this_room_is_in_the_table() -> None:
    named = {proof for _, proofs in table() for proof in proofs}
    files = [
        f"known_faults/{path.name}" for path in Path(__file__).parent.glob("test_*.py") if path.name != "test_table.py"
    ]
    assert {f"{file}::{name}" for file in files for name in functions(file) if name.startswith("test_")} <= named
