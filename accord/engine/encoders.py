"""Encoders that score texts, such as DeBERTa, RoBERTa and ModernBERT, computed by their own forward in transformers.

Their attention is bidirectional and their head reads more than the last token, so they use neither trees nor a cache:
batches are padded, with a mask. They are frozen, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from accord.engine.models import Model
from accord.errors import InputError


def reads_last_token(network: nn.Module) -> bool:
    """Whether a classifier's labels are a linear layer `score` of the last token's hidden state."""
    return isinstance(getattr(network, "score", None), nn.Linear)


class Encoder(Model):
    """A sequence classifier that reads a text, or a pair of texts, at once: a frozen reward model.

    Its network is unchanged from transformers.
    """

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)

    @cached_property
    def _takes(self) -> frozenset[str]:
        """The arguments of its forward; tokenizers may return more."""
        return frozenset(signature(self.network.forward).parameters)

    @property
    def context(self) -> int | None:
        """The most tokens it can read, by its position embeddings and its tokenizer; None without a limit."""
        named = self.network.named_modules()
        tables: list[Any] = [
            m for name, m in named if name.endswith("position_embeddings") and isinstance(m, nn.Embedding)
        ]
        limits = [m.num_embeddings - (0 if m.padding_idx is None else m.padding_idx + 1) for m in tables]
        return min((limit for limit in (*limits, self.tokenizer.model_max_length) if limit < 10**9), default=None)

    @torch.no_grad()
    def outputs(self, texts: Sequence[Mapping[str, Any]], tokens_per_pass: int = 2048) -> Tensor:
        """The L labels of texts, given as keyword arguments of the tokenizer: (C, L) float32, batched by length.

        Raises InputError where a text has more tokens than the model can read.
        """
        encoded = [self.tokenizer(**text) for text in texts]
        lengths = [len(one["input_ids"]) for one in encoded]
        if self.context is not None and max(lengths, default=0) > self.context:
            raise InputError(
                f"{self.name} reads {self.context} tokens, and a prompt with its completion has {max(lengths)}: "
                "give shorter ones, such as by a lower --max-new-tokens."
            )
        labels = torch.empty(len(texts), len(self.network.config.id2label or ()))
        order = sorted(range(len(texts)), key=lambda i: -lengths[i])
        while order:
            room = max(1, tokens_per_pass // max(1, lengths[order[0]])) if self.tokenizer.pad_token is not None else 1
            some, order = order[:room], order[room:]
            padded = self.tokenizer.pad([encoded[i] for i in some], return_tensors="pt").to(self.network.device)
            batch = {name: value for name, value in padded.items() if name in self._takes}
            labels[some] = self.network(**batch).logits.float().cpu()
        return labels
