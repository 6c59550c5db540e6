"""Adapters: gradients, copies, folders and merged models against peft and plain forwards."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from accord.engine import adapters, lora
from accord.engine.classifiers import Scorer
from accord.engine.config import TrainingConfig
from accord.engine.trees import Trees
from accord.errors import InputError
from tests.engine.tiny import CONFIGS, EXACT, plain_log_probabilities, policy_of, ragged_trees, random_model

TAKE_ADAPTERS = [name for name in CONFIGS if name != "mamba"]
RANK_2 = TrainingConfig(lora_rank=2, lora_alpha=3)


def trained(network: Any, seed: int = 7) -> Any:
    """The network with adapters as they may be after training: drawn from N(0, .2^2), in the order of their names."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(network.named_parameters()):
        if "lora_" in name or name.startswith("score"):
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return network


def gradients(network: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    wanted = {name.removeprefix(adapters.PREFIX): p for name, p in network.named_parameters() if p.requires_grad}
    return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))


@pytest.mark.parametrize("name", TAKE_ADAPTERS)
def test_gradients_with_trees_equal_those_of_peft_on_plain_forwards(name: str) -> None:
    trees, plain = ragged_trees(), random_model(CONFIGS[name]())
    policy = lora.adapt(policy_of(copy.deepcopy(plain)), RANK_2)
    config = peft.LoraConfig(target_modules=lora.targets(plain, None), r=2, lora_alpha=3)
    theirs = trained(peft.get_peft_model(plain, config, autocast_adapter_dtype=False))
    trained(policy.network)
    logp, expected = policy.log_probs(Trees.of(trees)), plain_log_probabilities(theirs, trees)
    tolerance = EXACT.get(name, 1e-6)
    torch.testing.assert_close(logp, expected.double(), rtol=0, atol=tolerance)
    weight = torch.randn(len(logp), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, wanted = gradients(policy.network, (weight * logp).sum()), gradients(theirs, (weight * expected).sum())
    assert ours.keys() == wanted.keys()
    scale = max(1.0, *(float(g.abs().max()) for g in wanted.values()))
    for key in wanted:
        torch.testing.assert_close(ours[key], wanted[key], rtol=0, atol=tolerance * scale)


def test_the_reference_is_the_start_whatever_the_adapters_learn() -> None:
    plain = random_model(CONFIGS["gpt2"]())
    policy = lora.adapt(policy_of(copy.deepcopy(plain)), RANK_2)
    reference = policy.frozen_copy()
    trained(policy.network)
    trees = ragged_trees()
    expected = plain_log_probabilities(plain, trees)
    torch.testing.assert_close(reference.log_probs(Trees.of(trees)), expected, rtol=0, atol=1e-10)
    with torch.no_grad():
        assert float((policy.log_probs(Trees.of(trees)) - expected).abs().max()) > 0.1
    assert not any(p.requires_grad for p in reference.network.parameters())


def test_copies_share_what_is_frozen_and_hold_adapters_of_their_own() -> None:
    policy = lora.adapt(policy_of(random_model(CONFIGS["llama"]())), RANK_2)
    theirs = dict(adapters.copy_sharing_base(policy.network).named_parameters())
    for name, parameter in policy.network.named_parameters():
        assert (parameter is theirs[name]) == ("lora_" not in name), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_that_learned_nothing_change_nothing_bit_for_bit(dtype: torch.dtype) -> None:
    policy = policy_of(random_model(CONFIGS["llama"](), dtype=torch.float32))
    policy.dtype = dtype
    before = policy.log_probs(Trees.of(ragged_trees()))
    adapted = lora.adapt(policy, RANK_2)
    assert torch.equal(adapted.log_probs(Trees.of(ragged_trees())), before)
    frozen = next(m for name, m in policy.network.named_modules() if name.endswith("q_proj.base_layer"))
    assert frozen.weight.dtype == dtype
    assert {p.dtype for p in policy.network.parameters() if p.requires_grad} == {torch.float32}


def test_a_value_model_shares_the_trunk_and_starts_as_one_without_adapters() -> None:
    plain = policy_of(random_model(CONFIGS["llama"]()))
    expected = Scorer.on(plain, seed=3).values(Trees.of(ragged_trees()))
    policy = lora.adapt(plain, RANK_2)
    value = Scorer.on(policy, seed=3)
    torch.testing.assert_close(value.values(Trees.of(ragged_trees())), expected, rtol=0, atol=1e-12)
    trained(policy.network)
    torch.testing.assert_close(value.values(Trees.of(ragged_trees())), expected, rtol=0, atol=1e-12)
    learning = {name for name, p in value.network.named_parameters() if p.requires_grad}
    assert learning == set(adapters.own_state(value.network))
    ours = dict(policy.network.named_parameters())
    assert all(p is ours[n] for n, p in value.network.named_parameters() if n not in learning)


@pytest.mark.parametrize("rest", [{}, {"lora_rslora": True}, {"lora_dora": True}])
def test_a_folder_is_read_by_peft_as_the_network_computes(rest: dict[str, Any], tmp_path: Path) -> None:
    plain, config = random_model(CONFIGS["llama"](), dtype=torch.float32), TrainingConfig(lora_rank=4, **rest)
    policy = lora.adapt(policy_of(copy.deepcopy(plain)), config)
    trained(policy.network)
    adapters.save_adapters(policy.network, tmp_path)
    tokens = torch.tensor([[1, 5, 3, 2, 9, 12]])
    theirs = peft.PeftModel.from_pretrained(plain, str(tmp_path))
    with torch.no_grad():
        ours = policy.network(input_ids=tokens).logits
        torch.testing.assert_close(theirs(input_ids=tokens).logits, ours, rtol=0, atol=1e-5)
        torch.testing.assert_close(theirs.merge_and_unload()(input_ids=tokens).logits, ours, rtol=0, atol=1e-5)
    again = lora.adapt(policy_of(random_model(CONFIGS["llama"](), dtype=torch.float32)), config)
    adapters.read_adapters(again.network, tmp_path)
    for name, tensor in adapters.own_state(policy.network).items():
        assert torch.equal(adapters.own_state(again.network)[name], tensor)


def test_layers_that_are_not_there_are_told() -> None:
    policy = policy_of(random_model(CONFIGS["llama"]()))
    for asked in ("lm_head", "q_proj,embed_tokens"):
        with pytest.raises(InputError, match=rf"adapters go into linear layers of the trunk .down_.*{asked[-7:]}"):
            lora.adapt(policy, TrainingConfig(lora_rank=2, lora_targets=asked))
    lora.adapt(policy, TrainingConfig(lora_rank=2, lora_targets="q_proj, v_proj"))
    assert {name.split(".")[-4] for name in adapters.own_state(policy.network)} == {"q_proj", "v_proj"}
