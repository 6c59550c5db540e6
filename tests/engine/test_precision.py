"""Compute precision: names, detection, and a frozen copy that computes what its original computes."""

from __future__ import annotations

import pytest
import torch

from accord.engine.forward import log_probabilities, prepare
from accord.engine.offload import frozen_copy
from accord.engine.precision import autocast, compute_dtype, device_called, has_bfloat16
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from tests.engine.tiny import CONFIGS, random_model

TREES = Trees.of([Tree((1, 2), (Branch((3, 4, 0)), Branch((5, 0))))])


def test_names() -> None:
    assert compute_dtype("float32") == torch.float32
    assert compute_dtype("bfloat16") == torch.bfloat16
    native = has_bfloat16(torch.device("cpu"))
    assert compute_dtype("auto") == (torch.bfloat16 if native else torch.float32)
    with pytest.raises(InputError, match="--dtype half is not a precision accord computes in; choose auto or"):
        compute_dtype("half")
    with pytest.raises(InputError, match="float16 .* unless losses are scaled. Choose auto, which is"):
        compute_dtype("float16")


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_gpus_before_bfloat16_compute_in_float32(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert compute_dtype("auto", "cuda") == dtype


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_called(None) == device_called("cpu") == "cpu"
    with pytest.raises(InputError, match="there is no device cuda:1 here: torch .* sees no CUDA device; choose cpu."):
        device_called("cuda:1")
    with pytest.raises(InputError, match="mps is not a device .*, as Apple's MPS has no float64, .*; choose"):
        device_called("mps")
    with pytest.raises(InputError, match="xpu:0 is not a device that accord computes on; choose cpu or cuda."):
        device_called("xpu:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (device_called(None), device_called("cuda:1"), device_called("cpu")) == ("cuda", "cuda:1", "cpu")


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_copy_computes_the_same_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    model = prepare(random_model(CONFIGS[name](), dtype=torch.float32))
    copy = frozen_copy(model, dtype)
    with torch.no_grad(), autocast(dtype):
        expected, got = log_probabilities(model, TREES)[0], log_probabilities(copy, TREES)[0]
    assert torch.equal(got, expected)
    assert not any(p.requires_grad for p in copy.parameters())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


def test_a_frozen_copy_holds_matrices_in_bfloat16_and_does_not_follow() -> None:
    model = prepare(random_model(CONFIGS["llama"](), dtype=torch.float32))
    copy = frozen_copy(model, torch.bfloat16)
    types = {n: p.dtype for n, p in copy.named_parameters()}
    assert types["model.layers.0.mlp.up_proj.weight"] == torch.bfloat16
    assert types["model.norm.weight"] == types["model.embed_tokens.weight"] == torch.float32
    with torch.no_grad():
        before, _ = log_probabilities(frozen_copy(model, torch.float32), TREES)
        still = frozen_copy(model, torch.float32)
        for parameter in model.parameters():
            parameter.mul_(2)
        assert torch.equal(log_probabilities(still, TREES)[0], before)


def test_weights_updated_between_passes_are_seen_in_bfloat16() -> None:
    # Autocast keeps casts of weights while its context lasts; each pass has a context of its own.
    model = prepare(random_model(CONFIGS["llama"](), dtype=torch.float32))
    with torch.no_grad():
        with autocast(torch.bfloat16):
            log_probabilities(model, TREES)
        for parameter in model.parameters():
            parameter.mul_(0.5)
        with autocast(torch.bfloat16):
            after, _ = log_probabilities(model, TREES)
        exact, _ = log_probabilities(model, TREES)
    torch.testing.assert_close(after, exact, rtol=0, atol=0.05)
