"""Runs on bases in few bits: every kind of model, resuming, what the folders hold, and folders that are in 4 bits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

import accord
from accord.engine.quantize import few_bits
from accord.errors import InputError
from accord.methods import DPO, PPO, SFT, RewardModel
from tests.commands.small import accord as command
from tests.interrupted import interrupt_at
from tests.methods.test_adapters import ADAPTERS, PAIRS, TREES, base, length

__all__ = ["base"]


def test_a_stopped_run_goes_on_bit_for_bit_and_its_adapters_are_of_the_whole_model(base: str, tmp_path: Path) -> None:
    method = DPO(**ADAPTERS, quantize="int8")
    whole = method.fit(base, PAIRS, out=tmp_path / "whole")
    assert whole.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    with pytest.raises(KeyboardInterrupt):
        method.fit(base, PAIRS, out=tmp_path / "cut", save_every=1, on_step=interrupt_at(2))
    saved = load_file(max((tmp_path / "cut/checkpoints").iterdir()) / "model.safetensors")
    assert saved and all("lora_" in name for name in saved)
    method.fit(base, PAIRS, out=tmp_path / "cut", save_every=1, resume=True)
    ours, theirs = (load_file(tmp_path / run / "model/adapter_model.safetensors") for run in ("whole", "cut"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    config = json.loads((tmp_path / "whole/model/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base
    plain = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "whole/model"))
    tokens = torch.tensor([[6, 7, 8, 9, 10, 11]])
    with torch.no_grad():
        logp = plain(input_ids=tokens).logits.log_softmax(-1)[0, 2:5].gather(1, tokens[0, 3:, None]).squeeze(1)
        read = accord.load_model(str(tmp_path / "whole/model")).log_probs(TREES)[:3]
        torch.testing.assert_close(read, logp, rtol=0, atol=1e-5)
        assert 1e-6 < float((whole.model.log_probs(TREES)[:3] - logp).abs().max()) < 0.2  # what rounding costs


def test_reward_models_and_values_and_what_starts_from_adapters(base: str, tmp_path: Path) -> None:
    few: dict[str, Any] = ADAPTERS | {"quantize": "int8"}
    SFT(**few).fit(base, PAIRS, out=tmp_path / "sft")
    start = str(tmp_path / "sft/model")
    result = RewardModel(**few).fit(start, PAIRS, out=tmp_path / "rm")
    config = json.loads((tmp_path / "rm/model/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (base, 4)
    again = accord.load_reward_model(str(tmp_path / "rm/model"))
    with torch.no_grad():
        torch.testing.assert_close(again.rewards(TREES), result.model.rewards(TREES), rtol=0, atol=0.05)  # type: ignore
    run = PPO(**few, max_new_tokens=3).fit(start, PAIRS, reward=str(tmp_path / "rm/model"), out=tmp_path / "ppo")
    assert run.metrics[0]["kl"] == pytest.approx(0, abs=1e-5) and len(few_bits(run.model.network)) == 14
    PPO(**few, max_new_tokens=3).fit(base, PAIRS, reward=length, out=tmp_path / "ppo2")


def test_a_reward_model_that_starts_from_adapters_keeps_them(base: str, tmp_path: Path) -> None:
    SFT(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "sft")
    result = RewardModel(**ADAPTERS).fit(str(tmp_path / "sft/model"), PAIRS, out=tmp_path / "rm")
    again = accord.load_reward_model(str(tmp_path / "rm/model"))
    with torch.no_grad():
        torch.testing.assert_close(again.rewards(TREES), result.model.rewards(TREES), rtol=0, atol=1e-5)  # type: ignore


def test_adapters_of_a_folder_in_4_bits(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bitsandbytes")
    four, out = str(tmp_path / "four"), tmp_path / "run"
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    AutoModelForCausalLM.from_pretrained(base, quantization_config=how, device_map="cpu").save_pretrained(four)
    AutoTokenizer.from_pretrained(base).save_pretrained(four)
    for more, said in (
        ({"lora_rank": 0}, r"is quantized \(bitsandbytes\).*, or adapters on this one \(--lora-rank\)"),
        ({"quantize": "int8"}, r"four is held in nf4: leave quantize out, or give the model it was made from"),
    ):
        with pytest.raises(InputError, match=said):
            DPO(**ADAPTERS | more).fit(four, PAIRS, out=out)
    with torch.no_grad():
        before = accord.load_model(four).log_probs(TREES)
    result = DPO(**ADAPTERS).fit(four, PAIRS, out=out)
    assert result.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert {layer.kind for layer in few_bits(result.model.network)} == {"nf4"}
    assert json.loads((out / "model/adapter_config.json").read_text())["base_model_name_or_path"] == four
    assert command("merge", out / "model", "--out", tmp_path / "merged") == 0
    with torch.no_grad():
        ours = result.model.log_probs(TREES)
        assert float((ours - before).abs().max()) > 1e-3
        for folder in (out / "model", tmp_path / "merged"):
            torch.testing.assert_close(accord.load_model(str(folder)).log_probs(TREES), ours, rtol=0, atol=1e-5)
