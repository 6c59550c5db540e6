"""The tokenizer of sums, one token a digit or sign, and their small Llama-architecture model."""

from __future__ import annotations

import re

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from accord.worlds.sums.scratchpad import ANSWER, STEP

PAD, END, UNKNOWN = "<pad>", "<eos>", "<unk>"
SIGNS = (*"0123456789+=()", STEP, ANSWER)
VOCABULARY = (PAD, END, UNKNOWN, *SIGNS)
CONTEXT = 96
"""A hinted problem of 4 digits and its scratchpad take 59 tokens; the scratchpad alone, with its end, takes 42."""


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of `SIGNS`, another for any other character; it decodes to exactly what it was given."""
    signs = Tokenizer(WordLevel({sign: i for i, sign in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
    signs.pre_tokenizer = Split(Regex("|".join([*map(re.escape, SIGNS), "."])), "isolated")
    signs.decoder = Fuse()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=signs,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def model_config() -> LlamaConfig:
    """RMSNorm, rotary positions, 2 layers of 4 heads, SwiGLU, tied embeddings: 0.4 M parameters."""
    return LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=VOCABULARY.index(PAD),
        bos_token_id=None,
        eos_token_id=VOCABULARY.index(END),
    )


def new_model(seed: int) -> LlamaForCausalLM:
    """An untrained model in float32; the seed decides its weights, and the caller's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(model_config())
