"""The configuration of a model to be planned for, from its size, folder, file or name, without reading its weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from accord import engine
from accord.console import error_text
from accord.errors import InputError, located, nearest

LLAMAS: dict[str, tuple[str, int, int, int, int, int, int, bool]] = {
    "1B": ("Llama 3.2 1B", 2048, 16, 32, 8, 8192, 128256, True),
    "3B": ("Llama 3.2 3B", 3072, 28, 24, 8, 8192, 128256, True),
    "7B": ("Llama 2 7B", 4096, 32, 32, 32, 11008, 32000, False),
    "8B": ("Llama 3.1 8B", 4096, 32, 32, 8, 14336, 128256, False),
    "13B": ("Llama 2 13B", 5120, 40, 40, 40, 13824, 32000, False),
    "32B": ("Qwen2.5 32B", 5120, 64, 40, 8, 27648, 152064, False),
    "70B": ("Llama 3.1 70B", 8192, 80, 64, 8, 28672, 128256, False),
    "405B": ("Llama 3.1 405B", 16384, 126, 128, 8, 53248, 128256, False),
}
"""Typical shapes by size: the model's name; width, layers, heads, key heads, inner width, vocabulary, tied embeddings.
From Dubey et al. 2024 (arXiv:2407.21783, table 3), Touvron et al. 2023 (arXiv:2307.09288), Qwen2.5 (arXiv:2412.15115),
and config.json of the smaller models."""


def config_called(name: str) -> tuple[Any, str]:
    """The configuration of a model by size, folder, file or name, and, for a size, the model whose shape it is.

    Raises InputError where there is none.
    """
    import transformers

    if re.fullmatch(r"[0-9.]+[BM]", name, re.IGNORECASE) and not Path(name).exists():
        if name.upper() not in LLAMAS:
            near = nearest(name.upper(), LLAMAS)
            known = f"; there are {', '.join(LLAMAS)}; of others give a folder with their config.json."
            raise InputError(f"no standard shape of {name} is known{near or known}")
        whose, width, layers, heads, keys, inner, rows, tied = LLAMAS[name.upper()]
        config = transformers.LlamaConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=keys,
            intermediate_size=inner, vocab_size=rows, tie_word_embeddings=tied,
        )  # fmt: skip
        return config, f"the shape of {whose}"
    folder = Path(name).parent if Path(name).name == "config.json" else name
    return architecture(str(folder)), ""


def architecture(model: str) -> Any:
    """The configuration of a model, without its weights."""
    import transformers

    name = engine.networks.source_of(model)
    is_plain = (Path(name) / "config.json").is_file()  # then no other file is needed
    source, gguf_file, base = (name, None, None) if is_plain else engine.folders.locate(name)
    if base is not None:
        engine.folders.require_base(name, Path(source), base)
        return architecture(base)
    if not gguf_file:
        engine.folders.require_plausible(name, Path(source))
    arguments = {"trust_remote_code": False, **({"gguf_file": gguf_file} if gguf_file else {})}
    try:
        config = transformers.AutoConfig.from_pretrained(Path(source) if Path(source).exists() else source, **arguments)
        with located(f"it is a {config.model_type}, which "):
            return engine.wrappers.text_config(config)
    except Exception as error:
        why = engine.reading.cause(error) if "custom code" in str(error) else error_text(error)
        raise InputError(f"the configuration of {model} cannot be read: {why}") from error
