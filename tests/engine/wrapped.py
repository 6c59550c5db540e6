"""Tiny random models that read images or sounds around a language model, as transformers has them, in folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as T
from safetensors.torch import load_file, save_file

from tests.data.templates import CHATML, byte_tokenizer

ROWS = 340
"""Of the embedding; the tokenizer has fewer tokens, and one of some kinds more than another."""
TEXT: dict[str, Any] = {
    "vocab_size": ROWS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "initializer_range": 0.15,
}  # fmt: skip
SEEN: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
QWEN_SEEN = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32}
MARKS = {"image_token_id": 338, "video_token_id": 337, "vision_start_token_id": 336, "vision_end_token_id": 335}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}


def rope(*section: int, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(section), **more}}


INTERLEAVED = rope(2, 1, 1, mrope_interleaved=True)
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WRAPPERS: dict[str, Callable[[], Any]] = {
    "gemma3": lambda: T.Gemma3Config(
        text_config={**TEXT, "sliding_window": 4, "query_pre_attn_scalar": 8}, vision_config=SEEN,
        mm_tokens_per_image=4, image_token_index=338,
    ),
    "gemma4": lambda: T.Gemma4Config(
        text_config={
            **TEXT, "vocab_size_per_layer_input": ROWS, "hidden_size_per_layer_input": 8, "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0, "global_head_dim": 8,
            "pad_token_id": 1,
        },
        vision_config={**SEEN, "num_key_value_heads": 2, "head_dim": 8}, audio_config=None, image_token_id=338,
    ),
    "mistral3": lambda: T.Mistral3Config(
        text_config={**TEXT, "model_type": "mistral", "sliding_window": None}, image_token_index=338,
        vision_config={**SEEN, "model_type": "pixtral", "head_dim": 8}, tie_word_embeddings=False,
    ),
    "qwen2_5_vl": lambda: T.Qwen2_5_VLConfig(text_config={**TEXT, **rope(1, 1, 2)}, vision_config=QWEN_SEEN, **MARKS),
    "qwen3_vl": lambda: T.Qwen3VLConfig(
        text_config={**TEXT, **INTERLEAVED}, tie_word_embeddings=True, **MARKS,
        vision_config={**QWEN_SEEN, "deepstack_visual_indexes": [0, 1]},
    ),
    "qwen3_vl_moe": lambda: T.Qwen3VLMoeConfig(
        text_config={**TEXT, **INTERLEAVED, **MIXTURE}, **MARKS,
        vision_config={**QWEN_SEEN, "deepstack_visual_indexes": [0, 1]},
    ),
    "qwen3_5": lambda: T.Qwen3_5Config(
        text_config={
            **TEXT, **LINEAR, **rope(1, 0, 0, mrope_interleaved=True, partial_rotary_factor=0.25),
            "num_hidden_layers": 4,
        },
        vision_config=QWEN_SEEN, **MARKS,
    ),
    "llama4": lambda: T.Llama4Config(
        text_config={
            **TEXT, "num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 48,
            "attention_chunk_size": 64,
        },
        vision_config={
            **SEEN, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16,
            "pixel_shuffle_ratio": 0.5, "intermediate_size": 64,
        },
        image_token_index=338,
    ),
    "smolvlm": lambda: T.SmolVLMConfig(
        text_config={**TEXT, "model_type": "llama"}, vision_config=SEEN, image_token_id=338, scale_factor=2,
    ),
    "voxtral": lambda: T.VoxtralConfig(
        text_config={**TEXT, "model_type": "llama"}, audio_token_id=338,
        audio_config={
            "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "max_source_positions": 8, "num_mel_bins": 8,
        },
    ),
}  # fmt: skip
"""Configurations by their kind."""


def save_wrapper(folder: Path, kind: str, rename: Callable[[str], str] | None = None, template: str = CHATML) -> str:
    """A random model of a kind in a folder, with a tokenizer of bytes, its weights called otherwise where asked for."""
    tokenizer = byte_tokenizer(template, "<|im_end|>")
    config = WRAPPERS[kind]()
    for part in (config, config.text_config):
        part.eos_token_id, part.bos_token_id = tokenizer.eos_token_id, 0
        part.tie_word_embeddings = getattr(part, "tie_word_embeddings", False)
    torch.manual_seed(0)
    T.AutoModelForMultimodalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if rename:
        file = folder / "model.safetensors"
        save_file({rename(name): weight for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})
    return str(folder)


def whole_of(folder: Path | str) -> Any:
    """What plain transformers reads in a folder."""
    return T.AutoModelForMultimodalLM.from_pretrained(folder).eval()
