"""Untrained Llamas: their parameters are as many as is said, a seed draws them, sizes that cannot be are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import accord
from accord.engine.llama import LlamaSizes, untrained_llama
from accord.errors import InputError
from tests.commands.small import accord as command

SIZES = {
    "vocabulary": 300, "layers": 3, "width": 24, "heads": 4, "kv_heads": 2, "inner_width": 40, "context": 64,
}  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_as_many_as_is_said(tied: bool) -> None:
    sizes = LlamaSizes(**SIZES, tie_embeddings=tied)
    network = untrained_llama(0, sizes, pad=1, end=0)
    named = {name: weight.numel() for name, weight in network.named_parameters()}
    kinds = {
        "embed": "embeddings",
        "self_attn": "attention",
        "mlp": "feed-forward",
        "norm": "norms",
        "lm_head": "output head",
    }
    counted = dict.fromkeys(sizes.parameters, 0)
    for name, count in named.items():
        counted[next(kind for part, kind in kinds.items() if part in name)] += count
    assert counted == sizes.parameters
    # By hand: embeddings 300 x 24; of each layer's attention 24 x (24 + 12 + 12 + 24), of its feed-forward 3 x 24 x 40.
    assert list(sizes.parameters.values()) == [7200, 5184, 8640, 168, 0 if tied else 7200]


def test_a_seed_draws_the_weights_and_leaves_the_random_state() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (untrained_llama(s, LlamaSizes(**SIZES), pad=1, end=0).state_dict() for s in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "model.embed_tokens.weight"
    assert not torch.equal(first[name], other[name])
    assert first[name].std().item() == pytest.approx(0.02, rel=0.05) and first[name].dtype is torch.float32


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, not 0."),
        ({"context": -3}, "context must be at least 1, not -3."),
        ({"width": 26}, "width 26 does not divide among 4 heads: take 32 or another multiple of twice the heads."),
        ({"width": 20}, "width 20 with 4 heads gives heads of width 5, which must be even, as rotary embeddings "
                        "rotate pairs: take 24."),
        ({"kv_heads": 3}, "4 heads do not divide among 3 kv_heads: take a number that divides them."),
        ({"layers": 10**9}, "layers must be at most 1,000, not 1,000,000,000."),
        ({"width": 8_000_000}, "the model would have 576,005,336,000,000 parameters, "),
    ],
)  # fmt: skip
def test_sizes_that_cannot_be_are_told_at_once(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        LlamaSizes(**{**SIZES, **changed})
    assert str(caught.value).startswith(message)


def test_from_text_to_a_model_that_others_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("the cat sat on the mat .\n" * 9)
    assert command("tokenizer", "--data", tmp_path / "a.txt", "--vocab-size", 270, "--out", tmp_path / "t") == 0
    sizes = ("--layers", 2, "--width", 16, "--heads", 4, "--kv-heads", 2, "--context", 32, "--no-tie-embeddings")
    given = ("new-model", "--tokenizer", tmp_path / "t", *sizes, "--seed", 3, "--out", tmp_path / "m")
    assert command(*given) == 0
    assert "│ output head  │ 4,320      │" in capsys.readouterr().out  # 270 x 16
    network, reads = AutoModelForCausalLM.from_pretrained(tmp_path / "m"), AutoTokenizer.from_pretrained(tmp_path / "m")
    config = network.config
    assert (config.vocab_size, config.intermediate_size, config.max_position_embeddings) == (270, 48, 32)
    assert (config.eos_token_id, config.pad_token_id, reads.model_max_length) == (0, 1, 32)
    assert json.loads((tmp_path / "m" / "generation_config.json").read_text())["eos_token_id"] == [3, 0]
    assert reads.get_vocab() == AutoTokenizer.from_pretrained(tmp_path / "t").get_vocab()
    assert command(*given) == 2  # another model is there
    assert "holds" in capsys.readouterr().err
    assert accord.load_model(str(tmp_path / "m")).ends == (3, 0)
