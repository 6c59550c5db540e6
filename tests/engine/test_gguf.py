"""GGUF files, read back by transformers: the same numbers, tokens, template, ends; what cannot be written is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from accord.engine.gguf import CONVERTER, _in_pairs, write_gguf
from accord.engine.load import load_model
from accord.engine.models import Policy, prepare_network
from accord.errors import InputError
from tests.data.conftest import word_tokenizer
from tests.data.templates import byte_tokenizer
from tests.engine.byte_pairs import TEXTS, byte_pairs, logits, policy
from tests.engine.tiny import CONFIGS, random_model


@pytest.mark.parametrize(
    ("kind", "pre", "rest"),
    [
        (LlamaConfig, "gpt-2", {"tie_word_embeddings": True}),
        (LlamaConfig, "smollm", {"head_dim": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}),
        (LlamaConfig, "llama-bpe", {"opening": True}),
        (LlamaConfig, "dbrx", {"rms_norm_eps": 1e-3}),
        (Qwen2Config, "qwen2", {}),
        (Qwen3Config, "qwen2", {"head_dim": 128}),
    ],
)
def test_a_file_is_read_back_as_the_same_model(kind: Any, pre: str, rest: dict[str, Any], tmp_path: Path) -> None:
    model = policy(kind, pre, **rest)
    assert write_gguf(model, tmp_path / "m.gguf", torch.float32) == "accord"
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
    back = load_model(str(tmp_path / "m.gguf"))
    assert type(back.network) is type(model.network)
    torch.testing.assert_close(logits(back), logits(model), rtol=0, atol=1e-6)
    for text in (*TEXTS, "the <think> <|im_end|>"):
        assert back.tokenizer(text).input_ids == model.tokenizer(text).input_ids, text
    chat = [{"role": "user", "content": "12 cats"}, {"role": "assistant", "content": "nice"}]
    assert back.tokenizer.apply_chat_template(chat) == model.tokenizer.apply_chat_template(chat)
    assert back.tokenizer.chat_template == model.tokenizer.chat_template
    assert (back.end, set(back.ends)) == (model.end, set(model.ends)) == (2, {0, 2})
    assert back.network.config.max_position_embeddings == 64


FACTORS = np.array([1, 1, 7.73088, 32], dtype=np.float32)
"""`rope_freqs.weight` of Llama 3.2 for heads of 8 dimensions and theta 10^6, whose wavelengths are 6.3, 198.7, 6283.2
and 198,691.8. The first two are below 8192 / 4, the last beyond 8192; the third has the share (8192 / 6283.2 - 1) / 3 =
.10127, and 1 / (.89873 / 32 + .10127) = 7.73088."""
LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SCALED: dict[str, tuple[Any, str, dict[str, Any], Callable[[Any], Any], dict[str, Any]]] = {
    "llama 3.2": (
        LlamaConfig, "llama-bpe", {"head_dim": 8}, lambda w: w.add_tensor("rope_freqs.weight", FACTORS),
        {"rope_type": "llama3", "factor": 32.0, **LLAMA_3},
    ),
    "yarn": (
        Qwen2Config, "qwen2", {},
        lambda w: (w.add_rope_scaling_type(gguf.RopeScalingType.YARN), w.add_rope_scaling_factor(4.0),
                   w.add_rope_scaling_orig_ctx_len(32)),
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ),
    "linear": (
        Qwen3Config, "qwen2", {"head_dim": 128}, lambda w: w.add_rope_scaling_factor(8.0),
        {"rope_type": "linear", "factor": 8.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SCALED)
def test_scaled_positions_are_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, pre, sizes, add, scaling = SCALED[kind]
    plain = policy(config, pre, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, **sizes)
    scaled = policy(config, pre, rope_parameters={"rope_theta": 1e6, **scaling}, **sizes)
    monkeypatch.setattr(gguf.GGUFWriter, "add_file_type", lambda writer, _: add(writer))
    write_gguf(plain, tmp_path / "m.gguf", torch.float32)
    rotary = [model.network.model.rotary_emb for model in (plain, scaled, load_model(str(tmp_path / "m.gguf")))]
    assert not torch.allclose(rotary[0].inv_freq, rotary[1].inv_freq, rtol=0.1)
    torch.testing.assert_close(rotary[2].inv_freq, rotary[1].inv_freq, rtol=1e-6, atol=0)
    assert rotary[2].attention_scaling == rotary[1].attention_scaling


@pytest.mark.parametrize(
    ("add", "told"),
    [
        (lambda w: w.add_tensor("rope_freqs.weight", FACTORS[::-1].copy()), "has other rope_freqs than Llama 3's"),
        (lambda w: w.add_tensor("rope_factors_long.weight", FACTORS), "scales its positions in a way that is not read"),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE), "scales its positions in a way that is not"),
        (lambda w: w.add_tensor("blk.0.attn_v.bias", FACTORS), r"holds [\d,]+ weights, and transformers reads only"),
    ],
)
def test_what_transformers_leaves_out_of_a_file_is_told(
    add: Callable[[Any], Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf.GGUFWriter, "add_file_type", lambda writer, _: add(writer))
    write_gguf(policy(LlamaConfig, "llama-bpe"), tmp_path / "m.gguf", torch.float32)
    with pytest.raises(InputError, match=rf"m\.gguf {told}"):
        load_model(str(tmp_path / "m.gguf"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_matrices_are_rounded_and_vectors_are_not(dtype: torch.dtype, tmp_path: Path) -> None:
    model = policy(Qwen2Config, "qwen2")
    before = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    write_gguf(model, tmp_path / "m.gguf", dtype)
    back = load_model(str(tmp_path / "m.gguf")).network.state_dict()
    assert back.keys() == before.keys()
    for name, weight in before.items():
        expected = weight.to(dtype).float() if weight.dim() > 1 else weight
        assert torch.equal(back[name], expected), name
        assert torch.equal(model.network.state_dict()[name], weight)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@settings(max_examples=100, deadline=None)
def test_tokens_of_any_text_are_those_of_the_original(text: str, reread: Any) -> None:
    back, model = reread
    assert back.tokenizer(text).input_ids == model.tokenizer(text).input_ids
    assert back.tokenizer.decode(model.tokenizer(text).input_ids) == text


@pytest.fixture(scope="module")
def reread(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Policy]:
    model, file = policy(pre="qwen2"), tmp_path_factory.mktemp("gguf") / "m.gguf"
    write_gguf(model, file, torch.float32)
    return load_model(str(file)), model


def test_rows_of_a_head_trade_places_in_pairs() -> None:
    # Two heads of 4 rows: halves (0, 1) and (2, 3) become pairs (0, 2), (1, 3).
    assert _in_pairs(torch.arange(8), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_what_cannot_be_written_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    def refused(model: Policy, dtype: torch.dtype = torch.float32) -> str:
        with pytest.raises(InputError) as caught:
            write_gguf(model, tmp_path / "m.gguf", dtype)
        assert not list(tmp_path.iterdir())
        return str(caught.value)

    gpt2 = Policy(prepare_network(random_model(CONFIGS["gpt2"]())), byte_pairs("gpt-2"), "old")
    remedy = f"put llama.cpp's {CONVERTER}, which knows more, on the PATH, or export safetensors"
    assert refused(gpt2) == f"old is a gpt2, and accord writes GGUF files of llama, qwen2, qwen3: {remedy}."
    for rest, what in (
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "scaled by linear"),
        ({"attention_bias": True}, "the bias model.layers.0.self_attn.q_proj.bias"),
        ({"hidden_act": "gelu"}, "the activation gelu"),
    ):
        assert f"{what}, which accord's GGUF files cannot describe: {remedy}." in refused(policy(**rest))
    windows = policy(Qwen2Config, "qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1)
    assert "a model has sliding windows, which" in refused(windows)
    words = policy()
    for tokenizer, kind in ((word_tokenizer(), "WordLevel"), (byte_tokenizer(None), "BPE")):
        words.tokenizer = tokenizer
        assert f"the tokenizer of a model ({kind}) is not a byte-level BPE with one of" in refused(words)
    large = policy()
    large.network.model.layers[0].mlp.up_proj.weight.data[0, 0] = -70_000
    assert refused(large, torch.float16) == (
        "model.layers.0.mlp.up_proj.weight has a number of size 7e+04, which is out of float16's range: use bfloat16."
    )


def on_the_path(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    script = folder / CONVERTER
    script.write_text(f"import sys, pathlib\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_llama_cpps_converter_is_asked_where_it_is_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tools := tmp_path / "tools").mkdir()
    on_the_path(
        tools,
        monkeypatch,
        "source, outfile, file, outtype, kind = sys.argv[1:]\n"
        "names = sorted(path.name for path in pathlib.Path(source).iterdir())\n"
        "pathlib.Path(file).write_text(f'{outfile} {outtype} {kind} {names}')",
    )
    (out := tmp_path / "out").mkdir()
    assert write_gguf(policy(), out / "m.gguf", torch.bfloat16) == f"llama.cpp's {CONVERTER}"
    said = (out / "m.gguf").read_text()
    assert said.startswith("--outfile --outtype bf16 [") and "'model.safetensors'" in said
    assert [path.name for path in out.iterdir()] == ["m.gguf"]


def test_where_the_converter_fails_accord_writes_or_both_reasons_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tools := tmp_path / "tools").mkdir()
    on_the_path(tools, monkeypatch, "sys.exit('no such pre-tokenizer')")
    (out := tmp_path / "out").mkdir()
    reason = f"{CONVERTER} cannot convert it (no such pre-tokenizer)"
    assert write_gguf(policy(), out / "m.gguf", torch.float32) == f"accord, as {reason}"
    torch.testing.assert_close(logits(load_model(str(out / "m.gguf"))), logits(policy()), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match=r"\(no such pre-tokenizer\); a model has rotary embeddings scaled by linear"):
        write_gguf(
            policy(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
            out / "n.gguf",
            torch.float32,
        )
    assert [path.name for path in out.iterdir()] == ["m.gguf"]
