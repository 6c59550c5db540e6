"""An untrained Llama: its sizes, their numbers of parameters, and its weights, drawn by a seed."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from accord.engine.folders import MANY_LAYERS
from accord.engine.gpus import available
from accord.errors import InputError

BYTES = 4
"""Bytes per parameter in float32."""


@dataclass(frozen=True, kw_only=True)
class LlamaSizes:
    """The sizes of a Llama. Raises InputError for sizes that no model has, or that exceed this machine's memory."""

    vocabulary: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    inner_width: int
    context: int
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type != "bool" and getattr(self, field.name) < 1:
                raise InputError(f"{field.name} must be at least 1, not {getattr(self, field.name)}.")
        if self.width % self.heads:
            raise InputError(
                f"width {self.width} does not divide among {self.heads} heads: take {self.heads * self._even} or "
                "another multiple of twice the heads."
            )
        if self.head_width % 2:
            raise InputError(
                f"width {self.width} with {self.heads} heads gives heads of width {self.head_width}, which must be "
                f"even, as rotary embeddings rotate pairs: take {self.heads * self._even}."
            )
        if self.heads % self.kv_heads:
            raise InputError(
                f"{self.heads} heads do not divide among {self.kv_heads} kv_heads: take a number that divides them."
            )
        if self.layers > MANY_LAYERS:
            raise InputError(f"layers must be at most {MANY_LAYERS:,}, not {self.layers:,}.")
        needed, memory = BYTES * sum(self.parameters.values()), available(torch.device("cpu"))
        if needed > memory:
            raise InputError(
                f"the model would have {sum(self.parameters.values()):,} parameters, {needed / 1e9:,.0f} GB, and this "
                f"machine has {memory / 1e9:,.0f} GB of memory: take a smaller width or fewer layers."
            )

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def _even(self) -> int:
        """The smallest even head width that is at least width / heads."""
        return 2 * -(-self.width // (2 * self.heads))

    @property
    def parameters(self) -> dict[str, int]:
        """The number of parameters of each part."""
        keys = self.kv_heads * self.head_width
        return {
            "embeddings": self.vocabulary * self.width,
            "attention": self.layers * 2 * self.width * (self.width + keys),
            "feed-forward": self.layers * 3 * self.width * self.inner_width,
            "norms": (2 * self.layers + 1) * self.width,
            "output head": 0 if self.tie_embeddings else self.vocabulary * self.width,
        }


def untrained_llama(
    seed: int, sizes: LlamaSizes, *, pad: int | None, end: int, deviation: float = 0.02
) -> LlamaForCausalLM:
    """A Llama in float32 with normal weights of this standard deviation; the caller's random state is unchanged."""
    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.inner_width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_width,
        max_position_embeddings=sizes.context,
        tie_word_embeddings=sizes.tie_embeddings,
        initializer_range=deviation,
        pad_token_id=pad,
        bos_token_id=None,
        eos_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
