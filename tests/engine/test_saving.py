"""Models are written file by file: as transformers would write them whole, by one process and by ranks."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.core_model_loading import Chunk, WeightConverter

from accord.engine import models
from accord.engine.classifiers import PreferenceNetwork, Scorer
from accord.engine.load import load_model
from accord.engine.memory import manage_freed_memory
from accord.engine.models import Model, Policy
from accord.engine.saving import Layout, write_network
from accord.engine.shard import shard
from accord.engine.team import Team
from accord.errors import InputError
from tests.data.conftest import word_tokenizer
from tests.engine.test_ranks_load import MADE, peak, written
from tests.engine.tiny import policy_of
from tests.trust.forked import in_team

KINDS = [("llama", 0), ("llama", 1), ("gpt2", 1), ("mamba", 0), ("mixtral", 0), ("qwen3_moe", 0)]
"""Two with experts, whose files have each by itself."""
SIZES = ("5GB", "5KB", "1KB")
"""Of files: one; several, where experts of one block may lie in two; and one of nearly every tensor."""
HEADS: dict[str, Callable[[Policy], Model]] = {
    "scorer": lambda policy: Scorer.on(policy, 3),
    "preference": lambda policy: PreferenceNetwork.on(policy, 2, 3),
}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def as_transformers_does(network: Any, folder: Path, most: str, dtype: torch.dtype | None) -> dict[str, bytes]:
    """What it writes of a network that is whole, and was rounded whole."""
    twin = copy.deepcopy(network)
    kept = twin._keep_in_fp32_modules or ()
    for name, weight in twin.named_parameters():
        if dtype and not any(part in name for part in kept):
            weight.data = weight.data.to(dtype)
    twin.save_pretrained(folder, max_shard_size=most)
    return contents(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models in folders."""
    home = tmp_path_factory.mktemp("models")
    for kind, tied in KINDS:
        written(home / f"{kind}-{tied}", kind, tied)
    return home


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["as held", "bfloat16"])
@pytest.mark.parametrize("name", [f"{kind}-{tied}" for kind, tied in KINDS])
def test_files_are_those_of_transformers_byte_for_byte(
    name: str, dtype: torch.dtype | None, home: Path, tmp_path: Path
) -> None:
    network = load_model(str(home / name)).network
    counts = []
    for most in SIZES:
        expected = as_transformers_does(network, tmp_path / f"theirs {most}", most, dtype)
        before = {key: weight.clone() for key, weight in network.state_dict().items()}
        (tmp_path / most).mkdir()
        write_network(network, tmp_path / most, most, dtype, team=Team())
        assert contents(tmp_path / most) == expected
        assert all(torch.equal(weight, before[key]) for key, weight in network.state_dict().items())
        counts.append(sum(file.endswith(".safetensors") for file in expected))
    assert counts[0] == 1 < counts[1] < counts[2]


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_written_too(name: str, home: Path, tmp_path: Path) -> None:
    network = HEADS[name](load_model(str(home / "llama-1"))).network
    expected = as_transformers_does(network, tmp_path / "theirs", "9KB", None)
    (tmp_path / "ours").mkdir()
    write_network(network, tmp_path / "ours", "9KB", team=Team())
    assert contents(tmp_path / "ours") == expected


def test_what_its_class_keeps_in_float32_stays_so(home: Path, tmp_path: Path) -> None:
    network: Any = load_model(str(home / "llama-0")).network
    network._keep_in_fp32_modules = ["embed_tokens", "mlp"]
    expected = as_transformers_does(network, tmp_path / "theirs", "9KB", torch.bfloat16)
    (tmp_path / "ours").mkdir()
    write_network(network, tmp_path / "ours", "9KB", torch.bfloat16, team=Team())
    assert contents(tmp_path / "ours") == expected


def test_a_weight_that_several_of_the_networks_make_is_made_of_them(home: Path, tmp_path: Path) -> None:
    """As where a file has queries, keys and values as one weight, which was cut as it was read."""
    names = ["mlp.gate_proj.weight", "mlp.up_proj.weight"]
    network: Any = load_model(str(home / "llama-0")).network
    network._weight_conversions = [WeightConverter(["mlp.both.weight"], names, operations=[Chunk(dim=0)])]
    layout = Layout.of(network, "9KB")
    joined = {f"model.layers.{i}.{name}" for i in range(2) for name in names}
    assert set(layout.made_of["model.layers.1.mlp.both.weight"]) == joined
    assert layout.made_of["model.norm.weight"] == ("model.norm.weight",)
    expected = as_transformers_does(network, tmp_path / "theirs", "9KB", None)
    (tmp_path / "ours").mkdir()
    write_network(network, tmp_path / "ours", "9KB", team=Team())
    assert contents(tmp_path / "ours") == expected


def test_ranks_write_what_one_process_does(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that they share out, adapters too, in several files, as they are held and rounded."""
    monkeypatch.setattr(models, "SHARD", "5KB")
    made: dict[str, tuple[str, Callable[[Policy], Model]]] = {
        "lora": ("llama-1", MADE["lora"]),
        "scorer": ("llama-0", HEADS["scorer"]),
        **{name: (name, MADE["policy"]) for name in ("llama-1", "mixtral-0", "qwen3_moe-0")},
    }

    def write(out: Path) -> None:
        for name, (source, make) in made.items():
            model = make(load_model(str(home / source), in_shares=True))
            shard(model.network)
            for dtype in (None, torch.bfloat16):
                model.save(out / name / str(dtype), dtype)

    write(tmp_path / "alone")
    in_team(2, lambda _: write(tmp_path / "ranks"))
    for name in made:
        for dtype in (None, torch.bfloat16):
            found, expected = (contents(tmp_path / by / name / str(dtype)) for by in ("ranks", "alone"))
            assert found == expected
            assert name == "lora" or "model.safetensors.index.json" in expected


def test_a_number_that_a_precision_does_not_reach_is_said_on_every_rank(home: Path, tmp_path: Path) -> None:
    """Also where another rank than the one that leads has it, and what was there before stays."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "before").write_text("here")

    def refused(_: object) -> None:
        model = load_model(str(home / "llama-0"), in_shares=True)
        model.network.model.norm.weight = torch.nn.Parameter(torch.ones(16))
        shard(model.network)
        with torch.no_grad():
            gain: Any = model.network.model.norm.weight
            gain.to_local()[-1] = 1e5 if Team.here().rank == Team.here().size - 1 else 1.0
        with pytest.raises(InputError, match="norm.weight has a number of size 1e.05, which is out of float16's range"):
            model.save(tmp_path / "out", torch.float16)

    in_team(2, refused)
    assert contents(tmp_path / "out") == {"before": b"here"} and len(list(tmp_path.iterdir())) == 1


FILE = 8_000_000
MANY = LlamaConfig(
    hidden_size=256, intermediate_size=1024, num_hidden_layers=12, num_attention_heads=4, vocab_size=2000
)
"""Of 12 layers of 4.2 MB and an embedding of 2, so in ten files."""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks are Linux's")
def test_the_rank_that_leads_has_one_file_beside_its_share(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "SHARD", FILE)

    def write(_: object) -> None:
        policy = policy_of(LlamaForCausalLM(MANY))
        policy.tokenizer = word_tokenizer()
        policy.save(tmp_path / "model")

    in_team(1, write)  # in another process, whose memory no rank finds ready for it
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 5
    with torch.device("meta"):
        weights = list(LlamaForCausalLM(MANY).parameters())
    whole, largest = (4 * of(p.numel() for p in weights) for of in (sum, max))

    def measure(team: Team) -> None:
        manage_freed_memory(True)  # so that none of what reading let go is there to be taken
        small, policy = (load_model(str(folder), in_shares=True) for folder in (home / "llama-0", tmp_path / "model"))
        shard(small.network), shard(policy.network)
        small.save(tmp_path / "once")  # for what else is made once
        grown = peak(lambda: policy.save(tmp_path / "again"))
        (tmp_path / f"peak-{team.rank}").write_text(str(grown))

    in_team(2, measure)
    leads, follows = (int((tmp_path / f"peak-{rank}").read_text()) for rank in range(2))
    print(f"whole {whole / 1e6}, largest {largest / 1e6}, file {FILE / 1e6}: {leads / 1e6}, {follows / 1e6}")
    assert leads <= FILE + 2 * largest < whole / 2
    assert follows <= 3 * largest
