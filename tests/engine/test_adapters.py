"""Adapters: gradients, copies, folders and merged models against peft and plain forwards."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from accord.engine import adapters
from accord.engine.config import TrainingConfig
from accord.engine.load import load_model, load_reward_model
from accord.engine.models import Policy, Scorer
from accord.engine.trees import Trees
from accord.errors import InputError
from tests.engine.test_forward import EXACT, ragged_trees
from tests.engine.tiny import CONFIGS, plain_log_probabilities, policy_of, random_model

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
    policy = adapters.adapt(policy_of(copy.deepcopy(plain)), RANK_2)
    config = peft.LoraConfig(target_modules=adapters.targets(plain, None), r=2, lora_alpha=3)
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
