"""Adapters: gradients, copies, folders and merged models against peft and plain forwards."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LagunaConfig

from accord.engine import adapters, lora
from accord.engine.classifiers import Scorer
from accord.engine.config import TrainingConfig
from accord.engine.load import load_model
from accord.engine.targets import targets
from accord.engine.trees import Trees
from accord.errors import InputError
from tests.commands.small import save_model
from tests.data.conftest import WORDS
from tests.engine.test_targets import zamba
from tests.engine.tiny import CONFIGS, EXACT, plain_log_probabilities, policy_of, ragged_trees, random_model

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
    found = torch.autograd.grad(loss, list(wanted.values()), retain_graph=True)
    return dict(zip(wanted, found, strict=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_with_trees_equal_those_of_peft_on_plain_forwards(name: str) -> None:
    trees, plain = ragged_trees(), random_model(CONFIGS[name]())
    policy = lora.adapt(policy_of(copy.deepcopy(plain)), RANK_2)
    config = peft.LoraConfig(target_modules=targets(plain, None).names, r=2, lora_alpha=3)
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
    config = peft.LoraConfig(target_modules=targets(plain, None).names, r=2, lora_alpha=3)
    theirs = trained(peft.get_peft_model(plain, config, autocast_adapter_dtype=False))
    torch.testing.assert_close(reference.log_probs(Trees.of(trees)), expected, rtol=0, atol=1e-10)
    with torch.no_grad():
        learned = plain_log_probabilities(theirs, trees)
        torch.testing.assert_close(policy.log_probs(Trees.of(trees)), learned, rtol=0, atol=1e-10)
        assert float((learned - expected).abs().max()) > 0.1
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


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters_of_others_on_a_weight_that_layers_share_are_refused(tmp_path: Path) -> None:
    both = peft.get_peft_model(zamba(), peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    both.save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"the adapter it does not fit its base model: it has several adapters for one"
    ):
        adapters.merged(zamba(), tmp_path, "it")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters_whose_names_peft_changes_are_read(tmp_path: Path) -> None:
    config = LagunaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, head_dim=4,
        num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8,
        shared_expert_intermediate_size=8, layer_types=["full_attention", "sliding_attention"], sliding_window=8,
        mlp_layer_types=["dense", "sparse"], num_attention_heads_per_layer=[4, 4], bos_token_id=None, eos_token_id=0,
        pad_token_id=None,
    )  # fmt: skip
    policy = lora.adapt(policy_of(random_model(config, dtype=torch.float32)), RANK_2)
    trained(policy.network)
    adapters.save_adapters(policy.network, tmp_path)
    assert any("shared_experts.gate_proj" in name for name in load_file(tmp_path / adapters.WEIGHTS))
    merged = adapters.merged(random_model(config, dtype=torch.float32), tmp_path, "laguna")
    with torch.no_grad():
        expected = policy.network(input_ids=TOKENS).logits
        torch.testing.assert_close(merged(input_ids=TOKENS).logits, expected, rtol=0, atol=1e-5)


TOKENS = torch.tensor([[1, 5, 3, 2, 6, 4]])
ROWS = len(WORDS)
LAYERS = ("embed_tokens", "lm_head")


def of_others(
    tmp_path: Path, *, tied: bool = False, padded: int = 0, added: int = 0, **given: Any
) -> tuple[Path, Tensor]:
    """A folder with an adapter that peft trained on a base of ours, and the logits that peft computes with it."""
    network = AutoModelForCausalLM.from_pretrained(save_model(tmp_path / "base"))
    if tied:
        network.lm_head.weight, network.config.tie_word_embeddings = network.get_input_embeddings().weight, True
        network.save_pretrained(tmp_path / "base")
    if padded:
        network.resize_token_embeddings(ROWS + padded)
        network.save_pretrained(tmp_path / "base")
    if added:
        network.resize_token_embeddings(network.config.vocab_size + added)
    both = peft.get_peft_model(network, peft.LoraConfig(r=2, lora_alpha=3, task_type="CAUSAL_LM", **given)).eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in both.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    both.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        return tmp_path / "adapter", both(input_ids=TOKENS).logits


@pytest.mark.parametrize(
    "given",
    [
        {"tied": True, "target_modules": ["embed_tokens", "q_proj"]},
        {"tied": True, "target_modules": ["lm_head", "q_proj"]},
        {"tied": True, "target_modules": ["embed_tokens", "lm_head"]},
        {"tied": True, "target_modules": ["q_proj"], "trainable_token_indices": [3, 5]},
        {"tied": True, "added": 2, "target_modules": ["q_proj"], "trainable_token_indices": [3, ROWS, ROWS + 1]},
        {"added": 1, "target_modules": ["q_proj"], "trainable_token_indices": {layer: [ROWS] for layer in LAYERS}},
        {"padded": 3, "added": -2, "target_modules": ["q_proj"]},
        {"added": 3, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        {"added": 3, "target_modules": ["q_proj"]},  # peft keeps the embeddings where they have grown
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters_beside_tied_or_grown_embeddings_are_merged_as_peft_computes(
    given: dict[str, Any], tmp_path: Path
) -> None:
    folder, expected = of_others(tmp_path, **given)
    model = load_model(str(folder))
    with torch.no_grad():
        torch.testing.assert_close(model.network(input_ids=TOKENS).logits, expected, rtol=0, atol=1e-5)
        model.save(tmp_path / "whole")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
        torch.testing.assert_close(plain(input_ids=TOKENS).logits, expected, rtol=0, atol=1e-5)


def test_adapters_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    folder, _ = of_others(tmp_path, target_modules=["q_proj"])
    tensors = load_file(folder / adapters.WEIGHTS)
    name = min(tensors)
    for changed, told in (
        ({key: value for key, value in tensors.items() if key != name}, f"it lacks {name}"),
        ({}, f"it lacks {name}"),
        (
            tensors | {name: torch.full_like(tensors[name], torch.nan)},
            r"makes model\.layers\.0\.self_attn\.q_proj\.weight not finite: copy it anew",
        ),
    ):
        save_file(changed, folder / adapters.WEIGHTS)
        with pytest.raises(InputError, match=told):
            load_model(str(folder))


def test_settings_and_tokens_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    folder, _ = of_others(tmp_path, added=2, target_modules=["q_proj"], trainable_token_indices=[ROWS + 1])
    told = f"that has {ROWS} rows of tokens, and the adapter, which trains token {ROWS + 1}, lacks rows that were added"
    config = json.loads((folder / adapters.CONFIG).read_text())
    plain = {**config, "trainable_token_indices": None}
    for given, message in (
        (config, told),
        ({**plain, "lora_alpha": None}, r"a setting of its adapter_config\.json cannot be used \(unsupported operand"),
        ({**plain, "peft_type": "NEW"}, r"adapter_config\.json names the peft_type 'NEW', which peft .* does not know"),
    ):
        (folder / adapters.CONFIG).write_text(json.dumps(given))
        with pytest.raises(InputError, match=message):
            load_model(str(folder))


def test_an_adapter_with_a_scale_or_a_place_of_its_own_is_not_joined_to(tmp_path: Path) -> None:
    folder, _ = of_others(tmp_path, target_modules=["q_proj", "v_proj"])
    config = json.loads((folder / adapters.CONFIG).read_text())
    for given in ({"alpha_pattern": {"q_proj": 32}}, {"target_parameters": ["experts.down_proj"]}):
        (folder / adapters.CONFIG).write_text(json.dumps(config | given))
        with pytest.raises(InputError, match=r"holds an adapter that cannot be combined with others: merge it"):
            adapters.read_lora(folder)


def test_the_base_of_an_adapter_is_told_where_it_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder, _ = of_others(tmp_path, target_modules=["q_proj"])
    config = (folder / adapters.CONFIG).read_text()
    for base, told in (("../gone", "there is no such folder"), (str(folder), "that is the adapter's own folder")):
        (folder / adapters.CONFIG).write_text(config.replace(str(tmp_path / "base"), base))
        with pytest.raises(InputError, match=rf"holds an adapter of {base}, and {told}: name the model it is for"):
            load_model(str(folder))
    (folder / adapters.CONFIG).write_text(config.replace(str(tmp_path / "base"), "no-one/no-model"))
    with pytest.raises(InputError, match=f"^the adapter {folder} is for no-one/no-model, and that cannot be read: "):
        load_model(str(folder))
    monkeypatch.setattr("accord.engine.networks.smollm2", lambda: tmp_path / "base")
    (folder / adapters.CONFIG).write_text(config.replace(str(tmp_path / "base"), "smollm2"))
    assert load_model(str(folder)).name == str(folder)
    beside = os.path.relpath(tmp_path / "base", folder)  # a path from the adapter's folder
    (folder / adapters.CONFIG).write_text(config.replace(str(tmp_path / "base"), beside))
    assert beside.startswith("..") and load_model(str(folder)).name == str(folder)
