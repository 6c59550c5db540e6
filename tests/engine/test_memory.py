"""How less is held in memory: weights in bfloat16, activations computed again, a reference computed once or brought."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Gemma3TextConfig, LlamaConfig

from accord.data import Order
from accord.engine import activations, memory, offload
from accord.engine.forward import checkpoint_activations, log_probabilities
from accord.engine.load import load_model
from accord.engine.models import prepare_network
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from accord.methods import DPO, IPO, SFT
from tests.commands.small import save_model
from tests.data.templates import CHATML, byte_tokenizer
from tests.engine.tiny import CONFIGS, SIZES, policy_of, ragged_trees, random_model

PAIRS = [{"prompt": a, "chosen": f"{b} good", "rejected": f"{b} bye"} for a in ("hi", "hello") for b in ("day", "bad")]
QUICK: dict[str, Any] = {"dtype": "float32", "batch_size": 2, "max_steps": 3, "learning_rate": 1e-2}


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "deepseek_v3", "gpt2", "mamba"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_computed_again_change_no_gradient_bit_for_bit(architecture: str, dtype: torch.dtype) -> None:
    plain = prepare_network(random_model(CONFIGS[architecture](), dtype=torch.float32))
    again = copy.deepcopy(plain)
    checkpoint_activations(again)
    trees = Trees.of(ragged_trees())
    for network in (plain, again):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
            log_probabilities(network, trees)[0].sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), again.named_parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad), name  # type: ignore[arg-type]


def test_what_is_kept_without_and_with_activations_computed_again() -> None:
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, vocab_size=64
    )
    policy = policy_of(prepare_network(random_model(config, dtype=torch.float32)))
    plain = activations._kept(policy, 128) - activations._kept(policy, 64)
    checkpoint_activations(policy.network)
    again = activations._kept(policy, 128) - activations._kept(policy, 64)
    # of each layer its input alone, float32; beside the layers the last norm and what the readout keeps
    assert 64 * 4 * 32 * 4 <= again <= 64 * 4 * 32 * (4 + 5)
    assert again < 0.3 * plain


def test_layers_that_cannot_be_computed_again_are_refused() -> None:
    with pytest.raises(InputError, match="activation_checkpointing: Linear has no layers"):
        checkpoint_activations(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "more",
    [
        {"activation_checkpointing": True},
        {"optimizer_states": "8bit"},
        {"weight_dtype": "bfloat16", "dtype": "bfloat16"},
        {"precompute_reference": True, "epochs": 3.0, "max_steps": None},
    ],
    ids=lambda more: "-".join(map(str, more)),
)
def test_a_run_that_is_killed_goes_on_bit_for_bit(more: dict[str, Any], tmp_path: Path) -> None:
    if more.get("optimizer_states") == "8bit":
        pytest.importorskip("bitsandbytes")
    base, method = save_model(tmp_path / "base"), DPO(**{**QUICK, **more})
    whole = method.fit(base, PAIRS, out=tmp_path / "whole", save_every=1)

    class Killed(Exception):
        pass

    def kill(step: int, _: object) -> None:
        if step == 2:
            raise Killed

    with pytest.raises(Killed):
        method.fit(base, PAIRS, out=tmp_path / "cut", save_every=1, on_step=kill)
    resumed = method.fit(base, PAIRS, out=tmp_path / "cut", save_every=1, resume=True)
    left, right = (result.model.network.state_dict() for result in (whole, resumed))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert [row["loss"] for row in whole.metrics] == [row["loss"] for row in resumed.metrics]


@pytest.mark.parametrize("method", [DPO(beta=0.3, **QUICK), IPO(length="mean", **QUICK)], ids=["dpo", "ipo"])
def test_a_reference_computed_once_gives_the_same_run(method: Any, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    held_out = {"eval_split": 0.5, "eval_every": 1}
    each = method.fit(base, PAIRS, out=tmp_path / "each", **held_out)
    once = replace(method, precompute_reference=True).fit(base, PAIRS, out=tmp_path / "once", **held_out)
    for a, b in zip(each.metrics, once.metrics, strict=True):
        assert a.get("loss") == pytest.approx(b.get("loss"), abs=1e-5)
        assert a.get("eval_loss") == pytest.approx(b.get("eval_loss"), abs=1e-5)


@pytest.mark.parametrize(("max_steps", "visited"), [(1, 2), (2, 3), (9, 3), (None, 3)])
def test_a_reference_is_computed_of_the_rows_that_are_visited_alone(max_steps: int | None, visited: int) -> None:
    method = DPO(**{**QUICK, "max_steps": max_steps})
    trees = [Tree((i,), (Branch((1,)), Branch((2,)))) for i in range(3)]
    assert method.visited(trees) == [trees[i] for i in Order(3, 2, 0).batch(0) + Order(3, 2, 0).batch(1)][:visited]


def test_a_run_may_go_on_with_fewer_tokens_a_pass(tmp_path: Path) -> None:
    base, method = save_model(tmp_path / "base"), DPO(**QUICK)

    def kill(step: int, _: object) -> None:
        if step == 2:
            raise KeyError

    with pytest.raises(KeyError):
        method.fit(base, PAIRS, out=tmp_path / "run", save_every=1, on_step=kill)
    less = replace(method, tokens_per_pass=32, activation_checkpointing=True)
    assert len(less.fit(base, PAIRS, out=tmp_path / "run", save_every=1, resume=True).metrics) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"offload_optimizer": True}, "offload_optimizer is for a model on a GPU"),
        ({"offload_reference": True}, "offload_reference is for a model on a GPU"),
        ({"offload_reference": True, "precompute_reference": True}, "with these settings there is no reference model"),
        ({"weight_dtype": "bfloat16"}, "weight_dtype bfloat16 needs matrix products in bfloat16 too"),
    ],
)
def test_what_cannot_be_is_refused_before_training(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        DPO(**{**QUICK, **settings}).fit(save_model(tmp_path / "base"), PAIRS, out=tmp_path / "run")


@pytest.mark.parametrize("held", [{"lora_rank": 2}, {"weight_dtype": "bfloat16"}], ids=str)
@pytest.mark.parametrize("architecture", [*CONFIGS, "gemma3"])
def test_weights_read_as_they_will_be_held_are_those_that_are_cast_later(
    architecture: str, held: dict[str, Any], tmp_path: Path
) -> None:
    if "lora_rank" in held:
        pytest.importorskip("peft")
    # the square root of 24, by which Gemma 3 multiplies its embedding, is rounded in bfloat16
    make = CONFIGS.get(architecture, lambda: Gemma3TextConfig(**SIZES | {"hidden_size": 24}, head_dim=4))
    network, tokenizer = random_model(make(), dtype=torch.bfloat16), byte_tokenizer(CHATML)
    network.resize_token_embeddings(len(tokenizer))
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    method = SFT(**held, dtype="bfloat16")
    before, after = (
        memory.prepare_training(load_model(str(tmp_path), dtype="bfloat16", trained=asked), method).network
        for asked in (method, None)
    )
    for kind in ("named_parameters", "named_buffers"):
        expected = dict(getattr(after, kind)())
        found = dict(getattr(before, kind)())
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_adapters_that_peft_refuses_are_told(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    policy = policy_of(prepare_network(random_model(CONFIGS["mamba"]())))
    with pytest.raises(
        InputError, match="'out_proj' takes no adapters, as peft refuses it in a mamba: choose among in"
    ):
        memory.prepare_training(policy, SFT(lora_rank=2, lora_targets="in_proj,out_proj"))


def test_layers_brought_for_as_long_as_they_compute_give_the_same_numbers() -> None:
    policy = policy_of(prepare_network(random_model(CONFIGS["llama"](), dtype=torch.float32)))
    trees = Trees.of(ragged_trees())
    with torch.no_grad():
        expected, _ = log_probabilities(policy.network, trees)
        host = offload.frozen_copy(policy.network, torch.float32, torch.device("cpu"))
        offload.bring_layers(host, torch.device("cpu"))
        layer, seen = host.model.layers[0], []
        before = layer.mlp.up_proj.weight
        moved = layer.register_forward_pre_hook(lambda *_: seen.append(layer.mlp.up_proj.weight is before))
        assert torch.equal(log_probabilities(host, trees)[0], expected)
    assert seen == [False] and layer.mlp.up_proj.weight is before
    moved.remove()
    own = {p.data_ptr() for p in policy.network.parameters()}
    assert not own & {p.data_ptr() for p in host.parameters()}
    with pytest.raises(InputError, match="Linear has no layers that can be moved"):
        offload.bring_layers(nn.Linear(2, 2), torch.device("cpu"))  # type: ignore[arg-type]
