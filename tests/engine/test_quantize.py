"""Bases in few bits: numbers by hand, gradients against peft on bitsandbytes and plain layers, starts bit for bit."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor, nn

from accord.engine import adapters, lora, memory, quantize
from accord.engine.classifiers import Scorer
from accord.engine.config import TrainingConfig
from accord.engine.targets import targets
from accord.engine.trees import Trees
from accord.errors import InputError
from tests.engine.test_adapters import gradients, trained
from tests.engine.tiny import CONFIGS, plain_log_probabilities, policy_of, ragged_trees, random_model

KINDS = ["int8", "nf4"]
NF4 = [
    *(-1, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0),
    *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1),
]
"""Dettmers et al. 2023, appendix E."""


@pytest.fixture(autouse=True)
def needs(request: pytest.FixtureRequest) -> None:
    if "nf4" in request.node.name:
        pytest.importorskip("bitsandbytes")


def held(weight: Tensor, kind: str) -> quantize.FewBits:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    network: Any = nn.Module()
    network.base_model = nn.ModuleDict({"layer": layer})
    quantize.quantize(network, kind)
    return network.base_model.layer


def test_int8_by_hand() -> None:
    # s = 254 / 127 = 2 and 12.7 / 127 = 0.1: 5 / 2 rounds to the even 2, -0.34 / 0.1 to -3; a row of zeros stays.
    layer = held(torch.tensor([[254.0, 5.0, -7.0], [-0.34, 12.7, 0.04], [0.0, 0.0, 0.0]]), "int8")
    assert layer.qweight.tolist() == [[127, 2, -4], [-3, 127, 0], [0, 0, 0]]
    expected = torch.tensor([[254.0, 4.0, -8.0], [-0.3, 12.7, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(layer.weight, expected)
    x = torch.tensor([[1.0, 10.0, 100.0]], requires_grad=True)
    out = layer(x)
    torch.testing.assert_close(out, torch.tensor([[254 + 40 - 800, 126.7, 0.0]]))
    (gradient,) = torch.autograd.grad(out, x, torch.tensor([[1.0, 10.0, 3.0]]))
    torch.testing.assert_close(gradient, torch.tensor([[251.0, 131.0, -8.0]]))


def test_nf4_is_16_numbers_times_the_largest_of_a_block() -> None:
    weight = torch.tensor(NF4 * 4 * 64).reshape(64, 64) * torch.arange(1, 65)[:, None]
    layer = held(weight, "nf4")
    assert layer.qweight.numel() == weight.numel() / 2 and layer.state.absmax.numel() == 64
    assert layer.state.absmax.dtype == torch.uint8  # the second quantization
    # The scales 1 to 64, less their mean, are in turn held in 8 bits: their error stays below 1/64 of the largest.
    torch.testing.assert_close(layer.weight / weight[:, -1:], weight / weight[:, -1:], rtol=0, atol=0.5)
    found = layer.weight / layer.weight[:, -1:]
    torch.testing.assert_close(found, torch.tensor(NF4 * 4).expand(64, 64), rtol=0, atol=1e-6)
    torch.testing.assert_close(layer.weight[:, -1], torch.arange(1.0, 65), rtol=0, atol=0.5)


def test_gradients_with_trees_equal_those_of_peft_on_bitsandbytes_nf4(tmp_path: Path) -> None:
    plain = random_model(CONFIGS["llama"](), dtype=torch.float32)
    plain.save_pretrained(tmp_path)
    policy = policy_of(plain)
    how = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="float32"
    )
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=how, device_map="cpu", dtype=torch.float32
    )
    compare(policy, "nf4", theirs.train())


def test_gradients_with_trees_equal_those_of_peft_on_rounded_int8_weights() -> None:
    policy = policy_of(random_model(CONFIGS["gpt2"](), dtype=torch.float32))
    theirs = random_model(CONFIGS["gpt2"](), dtype=torch.float32)
    for block in theirs.transformer.h:
        for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            scale = layer.weight.data.abs().amax(0) / 127  # these layers of GPT-2 hold (d_in, d_out)
            layer.weight.data = (layer.weight.data / scale).round() * scale
    compare(policy, "int8", theirs)


def compare(policy: Any, kind: Any, theirs: Any) -> None:
    """The log-probabilities and the gradients of adapters, of accord's trees and of plain forwards."""
    trees = ragged_trees()
    lora.adapt(policy, TrainingConfig(lora_rank=2, lora_alpha=3, quantize=kind))
    config = peft.LoraConfig(target_modules=targets(theirs, None).names, r=2, lora_alpha=3)
    theirs = trained(peft.get_peft_model(theirs, config, autocast_adapter_dtype=False))
    trained(policy.network)
    logp, expected = policy.log_probs(Trees.of(trees)), plain_log_probabilities(theirs, trees)
    torch.testing.assert_close(logp, expected, rtol=0, atol=1e-5)
    ours, wanted = gradients(policy.network, logp.sum()), gradients(theirs, expected.sum())
    assert ours.keys() == wanted.keys() and len(ours) > 8
    scale = max(float(g.abs().max()) for g in wanted.values())
    for key in wanted:
        torch.testing.assert_close(ours[key], wanted[key], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_the_start_and_the_reference_are_the_base_bit_for_bit(kind: Any, dtype: torch.dtype, dora: bool) -> None:
    policy, trees = policy_of(random_model(CONFIGS["gemma2"](), dtype=torch.float32)), Trees.of(ragged_trees())
    policy.dtype = dtype
    quantize.quantize(policy.network, kind)
    before = policy.log_probs(trees)
    lora.adapt(policy, TrainingConfig(lora_rank=2, quantize=kind, lora_dora=dora))
    reference = policy.frozen_copy()
    assert torch.equal(policy.log_probs(trees), before)
    trained(policy.network)
    assert torch.equal(reference.log_probs(trees), before)
    ours, theirs = quantize.few_bits(policy.network), quantize.few_bits(reference.network)
    assert len(ours) == (14 if kind else 0)
    assert all(a.qweight is b.qweight and a.state is b.state for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_on_few_bits_has_their_trunk(kind: Any) -> None:
    policy = policy_of(random_model(CONFIGS["llama"](), dtype=torch.float32))
    quantize.quantize(policy.network, kind)
    plain = policy_of(copy.deepcopy(policy.network))
    for name, layer in list(plain.network.named_modules()):
        if isinstance(layer, quantize.FewBits):
            whole = nn.Linear(layer.in_features, layer.out_features, bias=False)
            whole.weight.data = layer.weight
            plain.network.set_submodule(name, whole)
    trees = Trees.of(ragged_trees())
    scorer = lora.adapt(Scorer.on(policy, seed=3), TrainingConfig(lora_rank=2, quantize=kind))
    torch.testing.assert_close(scorer.rewards(trees), Scorer.on(plain, seed=3).rewards(trees), rtol=0, atol=1e-5)
    learning = {name for name, p in scorer.network.named_parameters() if p.requires_grad}
    assert learning == set(adapters.own_state(scorer.network)) and "score.weight" in learning


def test_gaussian_adapters_have_a_deviation_of_1_over_the_rank_and_begin_at_0() -> None:
    policy = policy_of(random_model(CONFIGS["llama"](), dtype=torch.float32))
    lora.adapt(policy, TrainingConfig(lora_rank=64, lora_init="gaussian"))
    own = adapters.own_state(policy.network)
    drawn = torch.cat([tensor.flatten() for name, tensor in own.items() if "lora_A" in name])
    assert float(drawn.std()) == pytest.approx(1 / 64, rel=0.02)  # of some 15,000: a standard error of 0.6%
    assert all(not tensor.any() for name, tensor in own.items() if "lora_B" in name)


def test_what_cannot_be_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"quantize is for adapters: give lora_rank"):
        TrainingConfig(quantize="int8")
    policy = lora.adapt(policy_of(random_model(CONFIGS["llama"]())), TrainingConfig(lora_rank=2))
    with pytest.raises(InputError, match=r"random is held in full: leave quantize out, or give the model it was made"):
        lora.adapt(policy, TrainingConfig(lora_rank=2, quantize="int8"))
    monkeypatch.setattr(quantize, "_codes", lambda *_: 1 / 0)
    with pytest.raises(InputError, match=r"--quantize int8 does not run on this machine's c[a-z]*: division by zero"):
        TrainingConfig(lora_rank=2, quantize="int8")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"--quantize nf4 needs the quantize extra: pip install bitsandbytes; int8"):
        TrainingConfig(lora_rank=2, quantize="nf4")


def test_codes_that_are_moved_take_their_state_along() -> None:
    class State:
        """As bitsandbytes', which moves in place and returns nothing."""

        def to(self, device: torch.device) -> None:
            self.device = device

    layer = held(torch.eye(4), "int8")
    layer.state = state = State()
    network = nn.Module()
    network.layer = layer
    memory.hold_for(network, TrainingConfig(dtype="float32"), "cpu")
    assert layer.state is state and state.device == layer.qweight.device
    network.to(torch.float64)
    assert layer.state is state


def test_layers_that_an_architecture_keeps_in_float32_are_not_quantized() -> None:
    plain = random_model(CONFIGS["llama"](), dtype=torch.float32)
    plain._keep_in_fp32_modules = ["self_attn.o_proj"]
    quantize.quantize(plain, "int8")
    full = [name for name, module in plain.model.named_modules() if type(module) is nn.Linear]
    assert full == ["layers.0.self_attn.o_proj", "layers.1.self_attn.o_proj"] and len(quantize.few_bits(plain)) == 12


def test_bitsandbytes_does_not_warn_of_a_kernel_that_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    log.warning("Failed to load CPU gemm_4bit_forward")
    log.error("no library")
    assert caplog.messages == ["no library"]
