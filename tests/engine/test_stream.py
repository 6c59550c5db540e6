"""Streaming: token by token what `generate` returns at once, and pieces of text that add up to the whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from accord.engine.forward import prepare
from accord.engine.generate import Spelling, generate, stream
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from tests.data.conftest import BYE, DAY, EOS, GOOD, word_tokenizer
from tests.engine.tiny import CONFIGS, END, random_model

PROMPTS = [(3, 1, 4, 1, 5), (2,), (9, 9, 9)]


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "mamba"])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=7, temperature=1.3, top_k=11, top_p=0.97, seed=5),
        Sampling(max_new_tokens=7, temperature=0),
        Sampling(max_new_tokens=1, seed=(2, 3)),
    ],
)
def test_a_stream_is_the_first_sample_of_generate(name: str, sampling: Sampling) -> None:
    model, ends = prepare(random_model(CONFIGS[name]())), (END, 5)
    for prompt in PROMPTS:
        [[expected]] = generate(model, [prompt], 1, sampling, end=ends)
        drawn = list(stream(model, prompt, sampling, end=ends))
        assert tuple(token for token, _ in drawn) == expected.tokens
        assert tuple(logprob for _, logprob in drawn) == expected.logprobs


def test_a_stream_that_is_closed_early_leaves_the_model_as_it_was() -> None:
    model = prepare(random_model(CONFIGS["llama"]()))
    model.train()
    drawing = stream(model, PROMPTS[0], Sampling(max_new_tokens=7), end=99)
    next(drawing)
    assert not model.training and torch.is_grad_enabled()
    drawing.close()
    assert model.training and all(module.training for module in model.modules())


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="the prompt has no tokens"):
        next(stream(prepare(random_model(CONFIGS["llama"]())), (), end=END))


class Bytes:
    """A tokenizer whose tokens are bytes; half characters decode to U+FFFD, as in byte-level vocabularies."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return bytes(tokens).decode("utf-8", errors="replace")


def spelled(tokenizer: Any, tokens: list[int]) -> list[str]:
    spelling = Spelling(tokenizer)
    return [*(spelling.add(token) for token in tokens), spelling.rest()]


def test_a_character_of_several_tokens_waits_until_it_is_whole() -> None:
    # é is C3 A9, the rocket F0 9F 9A 80.
    assert spelled(Bytes(), list("é🚀!".encode())) == ["", "é", "", "", "", "🚀", "!", ""]
    assert spelled(Bytes(), [0x61, 0xF0, 0x9F]) == ["a", "", "", "\ufffd"]  # cut within a character: told at the end
    assert spelled(Bytes(), [0x61, 0xF0, 0x62]) == ["a", "", "\ufffdb", ""]  # no character after all


@given(st.binary(max_size=12))
def test_pieces_add_up_to_the_whole(tokens: bytes) -> None:
    assert "".join(spelled(Bytes(), list(tokens))) == tokens.decode("utf-8", errors="replace")


def test_words_come_with_their_spaces_and_special_tokens_say_nothing() -> None:
    assert spelled(word_tokenizer(), [GOOD, DAY, BYE, EOS]) == ["good", " day", " bye", "", ""]


def test_what_a_clean_up_rewrites_is_not_said_twice() -> None:
    # The second text does not continue the first; the third continues what was said.
    texts = {1: "do n", 2: "don't", 3: "do not"}
    tokenizer: Any = SimpleNamespace(decode=lambda tokens, skip_special_tokens: texts[len(tokens)])
    assert spelled(tokenizer, [7, 7, 7]) == ["do n", "", "ot", ""]


def test_a_real_tokenizer_s_pieces_add_up(smollm2_tokenizer: PreTrainedTokenizerBase) -> None:
    text = "Fish: 🐟, naïve café — «да» 你好\n  two spaces"
    tokens = list(smollm2_tokenizer(text)["input_ids"])
    pieces = spelled(smollm2_tokenizer, tokens)
    assert "".join(pieces) == text and all("\ufffd" not in piece for piece in pieces)


def test_a_real_model_streams_what_it_generates(smollm2: Policy) -> None:
    prompt = tuple(smollm2.tokenizer("The capital of France is")["input_ids"])
    sampling = Sampling(max_new_tokens=6, temperature=0.8, seed=1)
    [[expected]] = generate(smollm2.network, [prompt], 1, sampling, end=smollm2.end)
    assert tuple(token for token, _ in stream(smollm2.network, prompt, sampling, end=smollm2.end)) == expected.tokens
