"""Export a language model as one GGUF file, for llama.cpp, Ollama and others.

It is written by llama.cpp's own `convert_hf_to_gguf.py` if that is on the PATH, else here, by the package gguf: models
of the Llama, Qwen 2 and Qwen 3 architectures with a byte-level BPE tokenizer. Matrices are written in the requested
precision, vectors in float32, under the package's names. With heads of size d, rotary embeddings rotate the pairs (i, i
+ d/2) in transformers, but (2i, 2i + 1) in llama.cpp's Llama, so the rows of its queries and keys are permuted.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from accord.engine.adapters import own_state
from accord.engine.precision import held_in
from accord.errors import InputError
from accord.files import make_folder, sync

if TYPE_CHECKING:
    from accord.engine.models import Policy

CONVERTER = "convert_hf_to_gguf.py"
REMEDY = f"put llama.cpp's {CONVERTER}, which knows more, on the PATH, or export safetensors"

ARCHITECTURES = {"llama": (), "qwen2": ("q_proj.bias", "k_proj.bias", "v_proj.bias"), "qwen3": ()}
"""The model_types written here, with the biases of linear layers that llama.cpp supports for each."""

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
SPLITS = {
    (False, "words"): "gpt-2",
    (False, "digits", "words"): "smollm",
    (False, rf"{_ENDINGS}{_WORDS}|\p{{N}}{_REST}"): "qwen2",
    (False, rf"{_ENDINGS}{_WORDS}|\p{{N}}{{1,3}}{_REST}"): "dbrx",
    (True, rf"{_ENDINGS}{_WORDS}|\p{{N}}{{1,3}}{_REST}"): "llama-bpe",
}
"""llama.cpp's names of pre-tokenizers: by whether a piece that is a token stays whole (ignore_merges), and by the
regular expressions, with "words" for GPT-2's and "digits" for single digits."""


def write_gguf(model: Policy, file: Path, dtype: torch.dtype) -> str:
    """Write the model to a new file, whole or not at all; returns what wrote it.

    Raises InputError where neither way can write this model, or a weight exceeds the range of `dtype`.
    """
    refused = ""
    parent = next(folder for folder in file.absolute().parents if folder.exists())
    with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=parent) as folder:
        written = Path(folder) / file.name
        converter = shutil.which(CONVERTER)
        if converter:
            refused = _convert(model, Path(converter), written, dtype)
        if not converter or refused:
            try:
                _write(model, written, dtype)
            except InputError as error:
                raise InputError(f"{refused}; {error}" if refused else str(error)) from None
        make_folder(file.parent)
        sync(written)
        os.replace(written, file)
        sync(file.parent, inside=False)
    return f"accord, as {refused}" if refused else f"llama.cpp's {CONVERTER}" if converter else "accord"


def _convert(model: Policy, converter: Path, file: Path, dtype: torch.dtype) -> str:
    """Have llama.cpp's script write the file; returns why it did not, or ""."""
    folder = model.save(file.parent / file.stem, dtype)
    kind = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}[dtype]
    words = [sys.executable, str(converter), str(folder), "--outfile", str(file), "--outtype", kind]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0 and file.exists():
        return ""
    last = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
    return f"{CONVERTER} cannot convert it ({last})"


def _write(model: Policy, file: Path, dtype: torch.dtype) -> None:
    try:
        import gguf
    except ImportError:
        raise InputError("writing a GGUF file needs the gguf extra: pip install gguf accelerate.") from None
    config: Any = model.network.config
    _check(model)
    writer = gguf.GGUFWriter(file, config.model_type)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_type("model")
    writer.add_name(file.stem)
    writer.add_vocab_size(config.vocab_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _add_tokens(writer, model, config.vocab_size)
    kinds = {torch.bfloat16: "MOSTLY_BF16", torch.float16: "MOSTLY_F16", torch.float32: "ALL_F32"}
    writer.add_file_type(gguf.LlamaFileType[kinds[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    architecture = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type)
    table = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    matrices = {name for name, weight in model.network.named_parameters() if weight.dim() > 1}
    with held_in(model.network, dtype, matrices):
        for name, weight in own_state(model.network).items():
            gguf_name = table.get_name(name, try_suffixes=(".weight", ".bias"))
            if gguf_name is None:
                raise InputError(f"{model.name} has a weight that GGUF has no name for, {name}: {REMEDY}.")
            rotary = config.model_type == "llama" and {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2])
            weight = _in_pairs(weight, int(rotary)) if rotary else weight
            if weight.dim() == 1:
                weight = weight.float()
            kind = None if weight.dtype != torch.bfloat16 else gguf.GGMLQuantizationType.BF16
            array = weight.cpu().contiguous()  # numpy has no bfloat16
            writer.add_tensor(gguf_name, (array.view(torch.uint8) if kind else array).numpy(), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    writer.close()


def _in_pairs(weight: Tensor, heads: int) -> Tensor:
    """The rows of a projection (heads * d, ...) permuted within each head: row i + j d/2 moves to 2i + j, j = 0 or
    1."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _check(model: Policy) -> None:
    """Raise InputError where the file would describe another model."""
    config: Any = model.network.config
    biases = ARCHITECTURES.get(config.model_type)
    if biases is None:
        raise InputError(
            f"{model.name} is a {config.model_type}, and accord writes GGUF files of {', '.join(ARCHITECTURES)}: "
            f"{REMEDY}."
        )
    rope = config.rope_parameters
    scaled = rope.get("rope_type", "default") != "default" or rope.get("partial_rotary_factor", 1) != 1
    windows = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    further = [n for n, _ in model.network.named_parameters() if n.endswith(".bias") and not n.endswith(biases)]
    for feature, is_present in {
        f"rotary embeddings scaled by {rope.get('rope_type')}": scaled,
        "sliding windows": windows,
        f"the activation {config.hidden_act}": config.hidden_act != "silu",
        f"the bias {further[0] if further else ''}": further,
    }.items():
        if is_present:
            raise InputError(f"{model.name} has {feature}, which accord's GGUF files cannot describe: {REMEDY}.")


def _add_tokens(writer: Any, model: Policy, rows: int) -> None:
    """Write the tokenizer: a token per embedding row, merges, end-of-turn tokens, and the chat template."""
    from gguf import TokenType

    tokenizer: Any = model.tokenizer
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = _split(spec)
    if pre is None:
        kind = spec["model"]["type"]
        raise InputError(
            f"the tokenizer of {model.name} ({kind}) is not a byte-level BPE with one of llama.cpp's pre-tokenizers "
            f"({', '.join(SPLITS.values())}): {REMEDY}."
        )
    named = {index: token for token, index in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    of_added = {i: TokenType.CONTROL if token.special else TokenType.USER_DEFINED for i, token in added.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([named.get(i, f"[PAD{i}]") for i in range(rows)])
    writer.add_token_types([of_added.get(i, TokenType.NORMAL if i in named else TokenType.UNUSED) for i in range(rows)])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]])
    ends = dict.fromkeys((tokenizer.eos_token_id, *model.ends)) if tokenizer.eos_token_id is not None else model.ends
    if len(ends) > 3:
        texts = ", ".join(repr(named.get(end)) for end in ends)
        raise InputError(f"{model.name} stops at {texts}, and a GGUF file names three: {REMEDY}.")
    roles = zip(("eos", "eot", "eom"), ends, strict=False)
    special = {"bos": tokenizer.bos_token_id, "unk": tokenizer.unk_token_id, "pad": tokenizer.pad_token_id}
    for role, token in (special | dict(roles)).items():
        if token is not None:
            getattr(writer, f"add_{role}_token_id")(token)
    begun = tokenizer("a").input_ids
    writer.add_add_bos_token(begun[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(begun[-1] == tokenizer.eos_token_id)
    writer.add_add_space_prefix(False)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    if template:
        writer.add_chat_template(template)


def _split(spec: dict[str, Any]) -> str | None:
    """llama.cpp's name of a tokenizer's pre-tokenizer, by its JSON; None where there is none."""
    bpe, normalizer, pre = spec["model"], spec["normalizer"] or {}, spec["pre_tokenizer"] or {}
    if bpe["type"] != "BPE" or bpe.get("byte_fallback") or normalizer.get("type") not in (None, "NFC"):
        return None
    parts: list[Any] = [bool(bpe.get("ignore_merges"))]
    steps = pre["pretokenizers"] if pre.get("type") == "Sequence" else [pre]
    for step in steps:
        if step.get("type") == "Digits" and step["individual_digits"]:
            parts.append("digits")
        elif step.get("type") == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            parts.append(step["pattern"].get("Regex"))
        elif step.get("type") != "ByteLevel" or step["add_prefix_space"]:
            return None
        elif step["use_regex"]:
            parts.append("words")
    return SPLITS.get(tuple(parts)) if steps[-1].get("type") == "ByteLevel" else None
