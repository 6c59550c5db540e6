"""A base in few bits lies whole on every rank, read a weight at a time, beneath adapters that ranks share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from accord.engine.load import load_model
from accord.engine.memory import manage_freed_memory, prepare_training
from accord.engine.models import Policy
from accord.engine.quantize import few_bits
from accord.engine.shard import gathered, is_share, local, shard
from accord.engine.team import Team
from accord.engine.unread import unread
from accord.methods import DPO, PPO, SFT
from tests.data.conftest import word_tokenizer
from tests.engine.test_ranks_load import PAIRS, PROMPTS, SAMPLED, SETTINGS, peak, written
from tests.engine.tiny import policy_of
from tests.trust.forked import in_team

pytest.importorskip("bitsandbytes")

KINDS: dict[str, dict[str, Any]] = {
    "llama-1": {"quantize": "int8"},
    "gpt2-1": {"quantize": "nf4"},
    "mixtral-0": {"quantize": "nf4", "lora_dora": True},
    "llama-0": {"quantize": "nf4", "dtype": "bfloat16"},
    "bitsandbytes": {},
}
"""Models in folders, and how each is trained; one is held in 4 bits there, which every rank reads whole."""
RUNS: dict[str, Any] = {
    "dpo": lambda home, out: DPO(**SETTINGS, lora_rank=2, quantize="int8").fit(
        str(home / "llama-1"), PAIRS, out=out, track="none", eval_split=0.3, eval_every=1
    ),
    "ppo": lambda home, out: PPO(**SAMPLED, lora_rank=2, quantize="nf4").fit(
        str(home / "llama-1"), PROMPTS, reward=lengths, out=out, track="none"
    ),
}


def lengths(completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def method_of(name: str) -> SFT:
    return SFT(lora_rank=2, **{"dtype": "float32", **KINDS[name]})


def codes_of(network: nn.Module) -> dict[str, Tensor]:
    """What is held of each layer in few bits: its codes, and the weights that they stand for."""
    layers = {name: layer for name, layer in network.named_modules() if layer in few_bits(network)}
    codes = {f"codes {name}": layer.qweight.clone() for name, layer in layers.items()}  # type: ignore
    return codes | {f"weight {name}": layer.weight.clone() for name, layer in layers.items()}  # type: ignore


def everything(home: Path, out: Path) -> None:
    """What one process makes of the models, or each of several ranks."""
    team = Team.here()
    for name in KINDS:
        method = method_of(name)
        policy = load_model(str(home / name), trained=method, in_shares=True).in_dtype(method.dtype)
        assert (unread(policy.network) is not None) == (team.size > 1 and name != "bitsandbytes")
        policy = prepare_training(policy, method)
        network = shard(policy.network)
        assert all(is_share(p) for p in network.parameters()) == (team.size > 1)
        tensors = {key: gathered(p.detach()).clone().contiguous() for key, p in network.named_parameters()}
        save_file(tensors | codes_of(network), out / f"{name}-{team.rank}.safetensors")
    for name, run in RUNS.items():
        run(home, out / name)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models in folders."""
    home = tmp_path_factory.mktemp("models")
    for name in KINDS:
        if name != "bitsandbytes":
            kind, tied = name.split("-")
            written(home / name, kind, int(tied))
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    inner: Any = LlamaForCausalLM.from_pretrained(home / "llama-0", quantization_config=how, device_map="cpu")
    inner.save_pretrained(home / "bitsandbytes")
    word_tokenizer().save_pretrained(home / "bitsandbytes")
    return home


@pytest.fixture(scope="module")
def folders(home: Path, tmp_path_factory: pytest.TempPathFactory, blank_reports: None) -> tuple[Path, Path]:
    """What one process made, and two ranks."""
    alone, ranks = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("ranks")
    everything(home, alone)
    in_team(2, lambda team: everything(home, ranks))
    return alone, ranks


@pytest.mark.parametrize("name", KINDS)
def test_every_rank_has_the_base_of_one_process_bit_for_bit(name: str, folders: tuple[Path, Path]) -> None:
    expected = load_file(folders[0] / f"{name}-0.safetensors")
    assert sum(key.startswith("codes") for key in expected) >= 8
    for rank in range(2):
        found = load_file(folders[1] / f"{name}-{rank}.safetensors")
        assert {key: tensor.dtype for key, tensor in found.items()} == {key: t.dtype for key, t in expected.items()}
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_that_of_one_process(name: str, folders: tuple[Path, Path]) -> None:
    for model in [kind for kind in ("model", "best") if (folders[0] / name / kind).exists()]:
        expected, found = (load_file(out / name / model / "adapter_model.safetensors") for out in folders)
        assert found.keys() == expected.keys()
        assert all(float((found[key] - tensor).abs().max()) <= 1e-6 for key, tensor in expected.items())
    logged = [[json.loads(line) for line in (out / name / "metrics.jsonl").open()] for out in folders]
    for row, like in zip(*logged, strict=True):
        timed = {"seconds", "tokens_per_second"}
        assert {k: v for k, v in row.items() if k not in timed} == pytest.approx(
            {k: v for k, v in like.items() if k not in timed}, rel=1e-4, abs=1e-5
        )


def test_it_is_said_what_every_rank_holds(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = {**SETTINGS, "max_steps": 1, "lora_rank": 2, "quantize": "int8"}
    in_team(2, lambda _: DPO(**given).fit(str(home / "llama-1"), PAIRS, out=tmp_path / "run", track="none"))
    said = "every rank holds the whole base in int8, 0.00 GB, and its share of all else."
    assert capfd.readouterr().err.count(said) == 1


WIDE = LlamaConfig(hidden_size=512, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=8, vocab_size=2000)
"""Of 8 layers of 17 MB, in 4 bits 2, and an embedding and a head of 4."""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks are Linux's")
def test_no_rank_has_the_base_in_full(home: Path, tmp_path: Path) -> None:
    def write(_: Team) -> None:
        policy = policy_of(LlamaForCausalLM(WIDE))
        policy.tokenizer = word_tokenizer()
        policy.save(tmp_path / "model")

    in_team(1, write)  # in another process, whose memory no rank finds ready for it

    def read(folder: Path) -> Policy:
        method = SFT(lora_rank=2, quantize="nf4", dtype="float32")
        policy = prepare_training(load_model(str(folder), trained=method, in_shares=True), method)
        shard(policy.network)
        return policy

    def measure(team: Team) -> None:
        manage_freed_memory(True)
        read(home / "llama-1")  # for what else is made once
        read(tmp_path / "model")
        held: list[Policy] = []
        grown = peak(lambda: held.append(read(tmp_path / "model")))
        network = held[0].network
        stays = sum(layer.nbytes for layer in few_bits(network)) + sum(local(p).nbytes for p in network.parameters())
        (tmp_path / f"peak-{team.rank}").write_text(json.dumps([grown, stays]))

    in_team(2, measure)
    with torch.device("meta"):
        network = LlamaForCausalLM(WIDE)
    whole, largest = (4 * of(p.numel() for p in network.parameters()) for of in (sum, max))
    for rank in range(2):
        grown, stays = json.loads((tmp_path / f"peak-{rank}").read_text())
        print(f"whole {whole / 1e6}, stays {stays / 1e6}, largest {largest / 1e6}: {grown / 1e6}")
        assert stays < whole / 5 and grown <= stays + 4 * largest < whole / 2
