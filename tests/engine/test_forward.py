"""Packed trees through whole models equal a plain forward of every branch alone, values and gradients."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GptOssConfig, LlamaConfig, LlamaForSequenceClassification, Phi3Config

from accord.data import load_data
from accord.data.encoding import encode
from accord.engine.forward import hidden_states, log_probabilities, outputs, prepare, takes_trees
from accord.engine.models import Policy
from accord.engine.networks import smollm2 as smollm2_folder
from accord.engine.trees import Branch, Tree, Trees, pack
from tests.engine.tiny import (
    CONFIGS,
    EXACT,
    SIZES,
    VOCABULARY,
    plain_log_probabilities,
    ragged_trees,
    random_model,
    randomize,
)

HARMLESS = Path(__file__).resolve().parents[3] / "shared" / "data" / "hh_harmless_test.jsonl.gz"


def gradients(network: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(network.parameters())))


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_and_padded_trees_equal_separate_forwards(name: str) -> None:
    trees, plain = ragged_trees(), random_model(CONFIGS[name]())
    network = prepare(copy.deepcopy(plain))
    assert takes_trees(network) == (name not in ("mamba", "bloom"))
    logp, _ = log_probabilities(network, Trees.of(trees))
    expected = plain_log_probabilities(plain, trees)
    tolerance = EXACT.get(name, 1e-6)
    torch.testing.assert_close(logp, expected.double(), rtol=0, atol=tolerance)
    weight = torch.randn(len(logp), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = gradients(plain, (weight * expected).sum())
    scale = max(1.0, *(float(g.abs().max()) for g in wanted))
    for got, want in zip(gradients(network, (weight * logp).sum()), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=tolerance * scale)


def test_a_model_that_was_not_prepared_reads_a_row_a_branch() -> None:
    trees, plain = ragged_trees(), random_model(CONFIGS["gpt2"]())
    logp, _ = log_probabilities(plain, Trees.of(trees))
    assert not takes_trees(plain)
    torch.testing.assert_close(logp, plain_log_probabilities(plain, trees), rtol=0, atol=1e-10)


def test_trees_on_both_sides_of_where_positions_change_are_read_apart() -> None:
    scaled = {"short_factor": [1.0, 1.0], "long_factor": [1.0, 3.0], "original_max_position_embeddings": 12}
    rope = {"rope_type": "longrope", "rope_theta": 100.0, **scaled}
    sizes: dict[str, Any] = {**SIZES, "original_max_position_embeddings": 12, "rope_parameters": rope}
    config = Phi3Config(**sizes, vocab_size=VOCABULARY, max_position_embeddings=64, pad_token_id=None, eos_token_id=0)
    plain = random_model(config)
    network, trees = prepare(copy.deepcopy(plain)), ragged_trees()[:2]
    grown = Tree((1, 2, 3, 4, 5, 6, 7, 8), (Branch((4, 5, 6, 7, 8)), Branch((1, 2, 3, 9, 9, 9, 1))))
    for some in ([trees[0], grown, trees[1]], [grown], trees):
        logp, _ = log_probabilities(network, Trees.of(some))
        torch.testing.assert_close(logp, plain_log_probabilities(plain, some).double(), rtol=0, atol=1e-6)
    together, _ = log_probabilities(network, Trees.of([trees[0], grown]))
    config.rope_parameters["original_max_position_embeddings"] = 64  # as it would be read at once
    network.config.rope_parameters["original_max_position_embeddings"] = 64
    assert float((log_probabilities(network, Trees.of([trees[0], grown]))[0] - together).detach().abs().max()) > 1e-3


def test_attention_sinks_keep_their_own_attention() -> None:
    sizes = SIZES | {"vocab_size": VOCABULARY, "head_dim": 4, "num_local_experts": 2, "num_experts_per_tok": 1}
    config = GptOssConfig(**sizes, sliding_window=4, pad_token_id=None, eos_token_id=0, attn_implementation="eager")
    plain = random_model(config, dtype=torch.float32)
    network = prepare(copy.deepcopy(plain))
    assert not takes_trees(network)
    trees = ragged_trees()[:2]
    with torch.no_grad():
        logp, _ = log_probabilities(network, Trees.of(trees))
        torch.testing.assert_close(logp, plain_log_probabilities(plain, trees), rtol=0, atol=1e-5)


def test_prompts_and_untrained_tokens_get_exactly_zero_gradient() -> None:
    # The loss reads the rows that predict a trained token and no other: d loss / d (any other row of hidden states, and
    # so of logits) is exactly 0. Rows: prompt 0 1 2, branch 3 4 5 6 with targets at 4 and 6, so rows 3 and 5 alone.
    network = prepare(random_model(CONFIGS["llama"]()))
    held = []

    def hold(_module: nn.Module, _inputs: object, output: object) -> None:
        output.last_hidden_state.retain_grad()
        held.append(output.last_hidden_state)

    network.base_model.register_forward_hook(hold)
    trees = Trees.of([Tree((1, 2, 3), (Branch((4, 5, 6, 7), (False, True, False, True)),))])
    logp, _ = log_probabilities(network, trees)
    logp.sum().backward()
    assert (held[0].grad[0] != 0).any(1).tolist() == [False, False, False, True, False, True, False]
    assert trees.target.tolist() == [5, 7]


def test_the_first_response_token_and_the_end_of_turn_are_trained() -> None:
    # Row 2, the prompt's last, predicts the first response token; row 4 predicts the end token 0 at the end.
    network = prepare(random_model(CONFIGS["gpt2"]()))
    trees = Trees.of([Tree((1, 2, 3), (Branch((4, 5, 0)),))])
    hidden = hidden_states(network, trees).detach()
    logits = network.lm_head(hidden)
    expected = torch.stack([logits[row].log_softmax(-1)[token] for row, token in ((2, 4), (3, 5), (4, 0))])
    torch.testing.assert_close(log_probabilities(network, trees)[0], expected, rtol=0, atol=1e-12)


def scorer() -> LlamaForSequenceClassification:
    config = LlamaConfig(**SIZES, vocab_size=VOCABULARY, num_labels=1, pad_token_id=None, attn_implementation="eager")
    return randomize(LlamaForSequenceClassification(config), 2).double().eval()


def test_scores_are_read_at_the_last_token_though_the_end_token_stands_there_twice() -> None:
    # The second branch holds the end token twice; the score is read at its last token all the same.
    plain, trees = scorer(), [Tree((3, 4), (Branch((5, 6, 7)), Branch((5, 0, 0)))), Tree((), (Branch((8,)),))]
    packed = Trees.of(trees)
    got = outputs(prepare(copy.deepcopy(plain)), packed, packed.last).squeeze(-1)
    sequences = [tree.prompt + branch.tokens for tree in trees for branch in tree.branches]
    expected = torch.cat([plain(input_ids=torch.tensor([s])).logits[:, 0] for s in sequences])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_values_stand_before_every_trained_token() -> None:
    # V of a token sees the prompt and the tokens before it: the classifier's score of exactly that prefix.
    plain, trees = scorer(), [Tree((3, 4), (Branch((5, 6, 7), (True, False, True)), Branch((9, 0))))]
    packed = Trees.of(trees)
    got = outputs(prepare(copy.deepcopy(plain)), packed, packed.source).squeeze(-1)
    prefixes = [(3, 4), (3, 4, 5, 6), (3, 4), (3, 4, 9)]
    expected = torch.cat([plain(input_ids=torch.tensor([p])).logits[:, 0] for p in prefixes])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_smollm2_on_real_pairs_in_two_companies(smollm2: Policy) -> None:
    if not HARMLESS.exists():
        pytest.skip("the hh-rlhf harmless test pairs are not here")
    trees = encode(smollm2.tokenizer, load_data(str(HARMLESS))[:6], max_length=192, context=None).trees
    plain = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.float32).eval()
    shuffled = [trees[i] for i in random.Random(0).sample(range(len(trees)), len(trees))]
    with torch.no_grad():
        expected = {tree.row: plain_log_probabilities(plain, [tree]) for tree in trees}
        for packs in ([Trees.of(trees)], pack(shuffled, 600)):
            for packed in packs:
                logp, _ = log_probabilities(smollm2.network, packed)
                wanted = torch.cat([expected[tree.row] for tree in packed.trees])
                torch.testing.assert_close(logp, wanted, rtol=0, atol=1e-4)
