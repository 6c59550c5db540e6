"""Which linear layers get adapters: those in which one learns, found by a trial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, CTRLConfig, Llama4TextConfig, Zamba2Config

from accord.engine import lora
from accord.engine import targets as trial
from accord.engine.classifiers import Scorer
from accord.engine.config import TrainingConfig
from accord.engine.quantize import quantize
from accord.engine.targets import Targets, targets
from accord.errors import InputError
from tests.engine.tiny import CONFIGS, policy_of, random_model

TOKENS: dict[str, Any] = {"vocab_size": 16, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
SMALL: dict[str, Any] = {
    **TOKENS, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
LATENT: dict[str, Any] = {
    **SMALL, "num_key_value_heads": 4, "head_dim": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4, "v_head_dim": 6, "n_routed_experts": 4,
}  # fmt: skip
MAMBA: dict[str, Any] = {**TOKENS, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}
MIXED: dict[str, Any] = {**SMALL, "head_dim": 4, "num_hidden_layers": 4}

NO_ADAPTERS: dict[str, tuple[Callable[[], Any], set[str]]] = {
    "falcon_h1": (
        lambda: transformers.FalconH1Config(
            **SMALL, num_hidden_layers=2, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=4,
            mamba_chunk_size=8,
        ),
        {"out_proj"},
    ),
    "falcon_mamba": (lambda: transformers.FalconMambaConfig(**MAMBA), {"dt_proj", "out_proj"}),
    "jamba": (
        lambda: transformers.JambaConfig(
            **SMALL, num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1, num_experts=4, mamba_d_state=4,
            use_mamba_kernels=False,
        ),
        {"dt_proj"},
    ),
    "longcat_flash": (
        lambda: transformers.LongcatFlashConfig(
            **{n: v for n, v in LATENT.items() if n != "intermediate_size"}, num_layers=1, ffn_hidden_size=24,
            expert_ffn_hidden_size=8, moe_topk=2, zero_expert_num=2,
        ),
        {"classifier"},
    ),
    "mamba": (lambda: transformers.MambaConfig(**MAMBA), {"dt_proj", "out_proj"}),
    "mamba2": (
        lambda: transformers.Mamba2Config(**MAMBA, num_heads=4, head_dim=8, n_groups=2, chunk_size=8), {"out_proj"},
    ),
    "nemotron_h": (
        lambda: transformers.NemotronHConfig(
            **{n: v for n, v in MIXED.items() if n != "num_hidden_layers"}, n_groups=2, mamba_num_heads=4,
            mamba_head_dim=8, ssm_state_size=4, chunk_size=8, layers_block_type=["mamba", "attention", "mlp"],
        ),
        {"out_proj"},
    ),
    "llama": (CONFIGS["llama"], set()),
    "gpt2": (CONFIGS["gpt2"], set()),
}  # fmt: skip
"""Architectures, and the linear layers of their trunk that get no adapters: peft refuses `out_proj`, and the others'
weights are read by the code without a call of the layer."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path))
    return tmp_path / "proved"


def linear_names(network: Any) -> set[str]:
    kinds = torch.nn.Linear | transformers.pytorch_utils.Conv1D
    return {name.rsplit(".", 1)[-1] for name, m in network.base_model.named_modules() if isinstance(m, kinds)}


@pytest.mark.parametrize("kind", [None, "int8"])
@pytest.mark.parametrize("architecture", NO_ADAPTERS)
def test_layers_get_adapters_that_a_gradient_reaches_and_peft_takes(architecture: str, kind: Any) -> None:
    make, without = NO_ADAPTERS[architecture]
    network = random_model(make(), dtype=torch.float32)
    quantize(network, kind)
    assert targets(network, None) == Targets(sorted(linear_names(network) - without), [])
    for name in without:
        why = f"peft refuses it in a {architecture}" if name == "out_proj" else "no gradient would reach them"
        with pytest.raises(InputError, match=f"lora_targets: '{name}' takes no adapters, as {why}: choose among "):
            targets(network, name)


def test_a_classifier_s_trunk_gets_the_same_adapters() -> None:
    config = transformers.JambaConfig(
        **SMALL, num_hidden_layers=2, attn_layer_period=2, attn_layer_offset=1, num_experts=1, mamba_d_state=4,
        use_mamba_kernels=False,
    )  # fmt: skip
    scorer = Scorer.on(policy_of(random_model(config, dtype=torch.float32)), seed=3)
    found = targets(scorer.network, None)
    assert found == Targets(sorted(linear_names(scorer.network) - {"dt_proj", "router"}), [])


def test_layers_of_one_name_get_adapters_only_where_one_learns() -> None:
    config = transformers.BartConfig(
        **TOKENS, d_model=16, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=24, decoder_start_token_id=0,
        forced_eos_token_id=0, is_decoder=True, is_encoder_decoder=False,
    )  # fmt: skip
    policy = lora.adapt(policy_of(random_model(config, dtype=torch.float32)), TrainingConfig(lora_rank=2))
    got = {n.split(".lora_")[0].split("layers.")[1] for n, _ in policy.network.named_parameters() if ".lora_" in n}
    own = {"self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"}
    assert got == {f"{layer}.{name}" for layer in range(2) for name in own}  # and no encoder's
    chosen = targets(random_model(config, dtype=torch.float32), "q_proj, fc1")
    left_out = [f"model.decoder.layers.{layer}.encoder_attn.q_proj" for layer in range(2)]
    assert chosen == Targets(["q_proj", "fc1"], left_out)


def test_a_layer_that_only_longer_texts_use_gets_adapters() -> None:
    config = transformers.DeepseekV4Config(
        **TOKENS, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, head_dim=8, q_lora_rank=8,
        partial_rotary_factor=0.5, sliding_window=8, o_groups=2, o_lora_rank=4, hc_mult=2, moe_intermediate_size=8,
        n_routed_experts=4, num_experts_per_tok=2, layer_types=["heavily_compressed_attention"],
        mlp_layer_types=["moe"], max_position_embeddings=512,
    )  # fmt: skip
    network = random_model(config, dtype=torch.float32)
    compressed = {n for n, _ in network.named_modules() if n.endswith(("compressor.kv_proj", "compressor.gate_proj"))}
    assert len(compressed) == 2
    assert not trial._reached(network, {name: network.get_submodule(name) for name in compressed}, 16)
    assert targets(network, "kv_proj,gate_proj").left_out == []


def test_experts_that_no_token_was_sent_to_get_adapters_like_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_model(CONFIGS["llama"]())
    for layer in network.model.layers:
        layer.mlp.experts = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(3))
    experts = {name: m for name, m in network.named_modules() if ".experts." in name}
    monkeypatch.setattr(trial, "_reached", lambda *_: {"model.layers.0.mlp.experts.1"})
    assert len(experts) == 6 and trial.without_gradient(network, experts) == set()


def test_a_trial_is_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_model(CONFIGS["mamba"]())
    assert targets(network, None).names == ["in_proj", "x_proj"] and cache.exists()
    monkeypatch.setattr(trial, "_reached", lambda *_: pytest.fail("it was tried before"))
    assert targets(network, None).names == ["in_proj", "x_proj"]


def test_layers_get_adapters_that_compute_no_more_than_a_product_and_have_a_name_of_their_own() -> None:
    small: Any = {"vocab_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    ctrl = AutoModelForCausalLM.from_config(CTRLConfig(vocab_size=16, n_embd=8, dff=8, n_layer=3, n_head=2))
    assert targets(ctrl, None).names == ["Wk", "Wq", "Wv", "dense"]  # its others are called 0 and 2, as layers are
    llama = Llama4TextConfig(
        **small, hidden_size=8, head_dim=4, num_key_value_heads=2, num_local_experts=2, intermediate_size_mlp=8
    )
    linear = targets(AutoModelForCausalLM.from_config(llama).model, None).names
    assert linear == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]  # and no router
    mamba = random_model(CONFIGS["mamba"]())
    assert targets(mamba, None).names == ["in_proj", "x_proj"]
    with pytest.raises(
        InputError, match=r"'dt_proj' takes no adapters, as no gradient would reach them: choose among in_proj, x_pr"
    ):
        targets(mamba, "dt_proj")


@pytest.mark.parametrize("quantized", [None, "int8"])
def test_weights_that_layers_share_get_no_adapters(quantized: Any) -> None:
    network = zamba()
    quantize(network, quantized)
    assert targets(network, None).names == ["in_proj", "linear", "out_proj"]
    with pytest.raises(
        InputError, match=r"'q_proj' takes no adapters, as layers share the weights: .* in_proj, linear, out"
    ):
        targets(network, "in_proj, q_proj")


def zamba() -> Any:
    """A Zamba 2, whose two attention layers are one."""
    config = Zamba2Config(
        vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=4, hybrid_layer_ids=[1, 3],
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"], num_attention_heads=4, num_key_value_heads=4,
        attention_hidden_size=32, attention_head_dim=8, num_query_groups=4, adapter_rank=2, num_mem_blocks=1,
        mamba_headdim=8, n_mamba_heads=4, mamba_ngroups=1, mamba_d_state=4, chunk_size=8, bos_token_id=None,
        eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    return random_model(config, dtype=torch.float32)
