"""One completion token by token, as it is drawn, and its text as far as it is certain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from accord.engine.cache import decoder
from accord.engine.generate import evaluating
from accord.engine.sampling import Sampling, draw, uniforms


class Drawn(NamedTuple):
    """A token and its log-probability under the distribution it was drawn from."""

    token: int
    logprob: float


@torch.no_grad()
def stream(
    model: nn.Module, prompt: tuple[int, ...], sampling: Sampling | None = None, *, end: int | Sequence[int]
) -> Iterator[Drawn]:
    """The tokens of a completion, each as soon as it is drawn: those that `generate` returns as the prompt's first.

    It stops after the first end-of-turn token, after `sampling.max_new_tokens`, or when it is closed.

    Args:
        model: a causal language model of transformers, or a `Mixture` of two.
        prompt: token ids, at least one.
        end: the token or tokens that end a turn.

    Raises:
        ValueError: the prompt is empty.
    """
    sampling = sampling or Sampling()
    if not prompt:
        raise ValueError("the prompt has no tokens")
    ends = {end} if isinstance(end, int) else set(end)
    device = next(model.parameters()).device
    luck = torch.from_numpy(uniforms([prompt], 1, sampling)[0, 0]).to(device)
    with evaluating(model):
        batch = decoder(model, sampling.max_new_tokens)
        logits = batch.admit([prompt], 1)
        for place in range(sampling.max_new_tokens):
            drawn, logp = draw(logits, luck[place : place + 1], sampling)
            token = int(drawn)
            yield Drawn(token, float(logp))
            if token in ends or place + 1 == sampling.max_new_tokens:
                return
            logits = batch.step(drawn)


class Spelling:
    """The text of tokens that come one by one, in pieces that add up to the text of them all.

    The whole is decoded anew each time, since a token's text may depend on those before it (a space between words, the
    rest of a character). What more tokens may still change waits: half a character, which decodes to U+FFFD, and a
    beginning that a tokenizer's clean-up rewrites.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.said = ""

    def add(self, token: int) -> str:
        """What is certain of the text with one more token, beyond what was certain before."""
        self.tokens.append(token)
        return self._more(self._text().rstrip("\ufffd"))

    def rest(self) -> str:
        """What still waits when no more tokens come."""
        return self._more(self._text())

    def _text(self) -> str:
        return str(self.tokenizer.decode(self.tokens, skip_special_tokens=True))

    def _more(self, text: str) -> str:
        if not text.startswith(self.said):
            return ""
        piece, self.said = text[len(self.said) :], text
        return piece
