"""Which models fit on a GPU, by method and settings: the table of docs/what-fits.md.

    python benchmarks/what_fits.py

A plan, not a measurement: prints for each GPU the first row of `accord doctor` whose expected peak memory fits. No
model is loaded; the architectures are written here as in their published config.json. Takes no options.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config

import accord
from accord.engine.memory import GB


def qwen(width: int, layers: int, heads: int, groups: int, inner: int, rows: int, tied: bool) -> PreTrainedConfig:
    """Qwen2.5 (arXiv:2412.15115, table 1)."""
    return Qwen2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=groups,
        intermediate_size=inner, vocab_size=rows, tie_word_embeddings=tied,
    )  # fmt: skip


MODELS: dict[str, PreTrainedConfig] = {
    "Qwen2.5 0.5B": qwen(896, 24, 14, 2, 4864, 151936, True),
    "Qwen2.5 1.5B": qwen(1536, 28, 12, 2, 8960, 151936, True),
    "Qwen2.5 3B": qwen(2048, 36, 16, 2, 11008, 151936, True),
    "Qwen2.5 7B": qwen(3584, 28, 28, 4, 18944, 152064, False),
    "Llama 3.1 8B": LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        intermediate_size=14336, vocab_size=128256,
    ),
}  # fmt: skip
METHODS = ("sft", "dpo", "grpo", "ppo")
CARDS = (24, 48, 80)


def first_fit(needed: dict[str, dict[str, float]], room: float, *, lora: bool) -> str:
    """The first row of `accord doctor` that fits, with or without adapters, and its gigabytes."""
    for name, parts in needed.items():
        if name.startswith("lora") == lora and parts["at the peak"] <= room:
            return f"{name.removeprefix('lora 16').strip() or 'as it is'} ({parts['at the peak'] / GB:.0f})"
    return "no"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.parse_args()
    print(
        "| model | method | weights | " + " | ".join(f"{card} GB" for card in CARDS) + " |\n|---|---|---|" + "---|" * 3
    )
    with tempfile.TemporaryDirectory() as folder:
        for model, config in MODELS.items():
            where = Path(folder) / model.replace(" ", "-")
            config.save_pretrained(where)
            for method in METHODS:
                with contextlib.redirect_stdout(io.StringIO()):
                    needed: Any = accord.doctor(str(where), method, device="cuda", memory="80GB")
                for lora in (False, True):
                    found = (first_fit(needed, card * GB, lora=lora) for card in CARDS)
                    print(
                        f"| {model} | {method} | {'adapters' if lora else 'all'} | " + " | ".join(found) + " |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
