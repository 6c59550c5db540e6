"""Networks are verified at load: what differs from plain transformers is switched off, or the network refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from accord.engine import fast_paths, proved
from accord.engine.decoding import decoder
from accord.engine.forward import hidden_states, takes_trees
from accord.engine.models import prepare_network
from accord.engine.readout import Readout
from accord.engine.trees import Branch, Tree, Trees
from accord.engine.trial import first_layers
from accord.errors import InputError

SMALL = {
    "vocab_size": 53, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2, "n_routed_experts": 4}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SMALL),
    "nemotron": lambda: transformers.NemotronConfig(**SMALL),
    "recurrent gemma": lambda: transformers.RecurrentGemmaConfig(
        **SMALL, lru_width=32, attention_window_size=16, head_dim=8
    ),
    "diffllama": lambda: transformers.DiffLlamaConfig(**SMALL),
    "gemma 2": lambda: transformers.Gemma2Config(**SMALL, head_dim=8, query_pre_attn_scalar=8, sliding_window=16),
    "xlstm": lambda: transformers.xLSTMConfig(
        vocab_size=53, embedding_dim=32, hidden_size=32, num_blocks=2, num_hidden_layers=2, num_heads=4, chunk_size=16,
        output_logit_soft_cap=0.1,
    ),
    "inkling": lambda: transformers.InklingTextConfig(
        **SMALL, **EXPERTS, unpadded_vocab_size=50, layer_types=["hybrid_sliding", "hybrid"], sliding_window_size=16,
        swa_num_attention_heads=4, swa_num_key_value_heads=2, head_dim=8, swa_head_dim=8, d_rel=4, rel_extent=16,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path))
    return tmp_path / "proved"


def made(family: str) -> Any:
    torch.manual_seed(1)
    return transformers.AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_what_is_left_on_equals_plain_transformers(family: str) -> None:
    network = made(family)
    generator = torch.Generator().manual_seed(5)
    prompt, *branches = (torch.randint(50, (n,), generator=generator).tolist() for n in (7, 4, 6))
    plain = [network(input_ids=torch.tensor([prompt + b]), use_cache=False).logits[0].clone() for b in branches]
    prepare_network(network)
    trees = Trees.of([Tree(tuple(prompt), tuple(Branch(tuple(b)) for b in branches))])
    read = Readout.of(network).logits(hidden_states(network, trees).index_select(0, trees.source)).split([4, 6])
    for mine, theirs in zip(read, plain, strict=True):
        assert torch.allclose(mine, theirs[6:-1], atol=1e-4)
    batch = decoder(network, 4)
    steps = [batch.prefill([tuple(prompt)], 2).expand(2, -1)]
    steps += [batch.decode(torch.tensor([b[i] for b in branches])) for i in range(3)]
    for i, theirs in enumerate(plain):
        assert torch.allclose(torch.stack(steps, 1)[i], theirs[6:10], atol=1e-4)


MOE: dict[str, Any] = {**SMALL, "num_experts_per_tok": 2, "sliding_window": 16}
WINDOWS: dict[str, tuple[Callable[[], Any], bool]] = {
    "mistral": (lambda: transformers.MistralConfig(**SMALL, sliding_window=16), True),
    "phimoe": (lambda: transformers.PhimoeConfig(**MOE, num_local_experts=4), False),
    "phimoe of no window": (lambda: transformers.PhimoeConfig(**{**MOE, "sliding_window": 64}), True),
    "qwen 2 moe": (
        lambda: transformers.Qwen2MoeConfig(
            **MOE, num_experts=4, moe_intermediate_size=16, use_sliding_window=True, max_window_layers=1
        ),
        False,
    ),
}
"""Architectures with windows longer than the trial's texts, and whether their attention is told of the window, and not
only its mask, so that trees stay on. A window as long as the context hides nothing."""


@pytest.mark.parametrize("family", WINDOWS)
@torch.no_grad()
def test_windows_longer_than_the_trial_are_kept(family: str) -> None:
    torch.manual_seed(1)
    config, reads_trees = WINDOWS[family]
    network = transformers.AutoModelForCausalLM.from_config(config()).eval()
    for layer in network.model.layers:
        layer.self_attn.v_proj.weight.mul_(20)
    window = network.config.sliding_window
    tokens = tuple(torch.randint(53, (50,), generator=torch.Generator().manual_seed(5)).tolist())
    plain = network(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].clone()
    prepare_network(network)
    assert takes_trees(network) is reads_trees and network.config.sliding_window == window
    trees = Trees.of([Tree(tokens[:30], (Branch(tokens[30:]), Branch(tokens[:9])))])
    read = Readout.of(network).logits(hidden_states(network, trees).index_select(0, trees.source))
    assert torch.allclose(read[:20], plain[29:-1], atol=1e-4)


def test_fast_paths_stay_on_where_they_agree_and_are_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert takes_trees(prepare_network(made("llama"))) and cache.exists()
    monkeypatch.setattr(fast_paths, "_fastest_agreeing", lambda *_: pytest.fail("it was verified before"))
    copied = made("llama")
    copied.config._name_or_path = "in/another/folder"
    assert takes_trees(prepare_network(copied))
    monkeypatch.setattr(proved, "_engine", lambda: "another version of accord")
    with pytest.raises(pytest.fail.Exception, match="it was verified before"):
        prepare_network(made("llama"))


def test_a_part_that_training_has_not_touched_yet_is_tried_as_if_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    network = made("llama")
    weights = {name: p.detach().clone() for name, p in network.named_parameters()}
    seen: list[float] = []
    plain = fast_paths._plain

    def noted(network: Any, tree: Tree) -> list[Tensor]:
        seen.append(float(network.model.norm.weight.std()))
        return plain(network, tree)

    monkeypatch.setattr(fast_paths, "_plain", noted)
    prepare_network(network)
    assert seen[0] > 0.1 and all(torch.equal(p, weights[name]) for name, p in network.named_parameters())


def test_a_network_that_nothing_agrees_with_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    network = made("llama")
    monkeypatch.setattr(Readout, "of", staticmethod(lambda model: Readout(model.lm_head.weight.flip(0), None)))
    with pytest.raises(InputError, match=r"the model odd \(LlamaForCausalLM\) computes different logits here than in"):
        prepare_network(network, "odd")


def test_a_network_that_fails_in_transformers_too_is_refused_by_name() -> None:
    network = made("llama")
    network.model.layers[1].self_attn.head_dim = 5
    with pytest.raises(InputError, match=r"the model odd \(LlamaForCausalLM\) reads no text in transformers: shape "):
        prepare_network(network, "odd")


@pytest.mark.parametrize("part", ["_plain", "_read_as_trees"])
def test_memory_that_runs_out_says_nothing_of_a_network(
    part: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fast_paths, part, full)
    with pytest.raises(torch.OutOfMemoryError):
        prepare_network(made("llama"), "large")
    assert not cache.exists()


def test_attention_that_differs_is_switched_off_and_rows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from accord.engine import forward

    network, read_row = made("llama"), forward.read_row
    monkeypatch.setattr(forward, "read_row", lambda *given: read_row(*given) * 1.5)
    prepare_network(network)
    assert not takes_trees(network)


def test_of_layers_that_are_alike_only_the_first_is_tried() -> None:
    tried = {}
    for family, layers in (("llama", 4), ("gemma 2", 4), ("diffllama", 3)):
        config = FAMILIES[family]()
        config.num_hidden_layers = layers
        if family == "gemma 2":
            config.layer_types = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
        network = transformers.AutoModelForCausalLM.from_config(config)
        before = network.model.layers
        with first_layers(network):
            tried[family] = len(network.model.layers)
        assert network.model.layers is before and len(before) == layers
    # DiffLlama's layers differ by a number that grows with their depth.
    assert tried == {"llama": 1, "gemma 2": 3, "diffllama": 3}


def test_a_layer_unlike_the_others_is_tried_too() -> None:
    network = transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(**{**SMALL, "num_hidden_layers": 4})
    )
    network.model.layers[2].self_attn.scaling *= 2
    with first_layers(network):
        assert len(network.model.layers) == 3
