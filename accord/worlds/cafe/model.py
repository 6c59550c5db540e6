"""The café's tokenizer, one token a word, and its small Llama-architecture model."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from accord.errors import InputError
from accord.worlds.cafe.grammar import ASSISTANT, USER, WORDS

PAD, END, UNKNOWN = "<pad>", "<eos>", "<unk>"
VOCABULARY = (PAD, END, USER, ASSISTANT, UNKNOWN, *WORDS)
CONTEXT = 128

WIDTH, HEADS = 192, 6

CHAT_TEMPLATE = """\
{%- for message in messages -%}
  {%- if message.role == "user" -%}
    {{- "<user> " + message.content + " " -}}
  {%- elif message.role == "assistant" -%}
    {{- "<assistant> " + message.content + " <eos> " -}}
  {%- else -%}
    {{- raise_exception("this model knows the roles user and assistant, not " + message.role) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<assistant> " -}}{%- endif -%}"""
"""`<user> how is the soup ? <assistant> the soup is fresh . <eos>`: an assistant's turn ends with the end token."""


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over `VOCABULARY`: lower-cases, splits off punctuation, decodes to words and spaces."""
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
    words.normalizer = Lowercase()
    words.pre_tokenizer = Whitespace()
    made = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def model_config(width: int = WIDTH) -> LlamaConfig:
    """RMSNorm, rotary positions, 6 query heads over 2 key-value heads, SwiGLU, tied embeddings: 1.1 M parameters.

    That is at the usual width; at 48 there are 0.08 M.

    Raises:
        InputError: the width does not divide into heads of an even width.
    """
    if width < 1 or width % (2 * HEADS):
        raise InputError(f"the width of the café's model must be a multiple of {2 * HEADS}, not {width}.")
    return LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        intermediate_size=width * 7 // 3,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=width // HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=VOCABULARY.index(PAD),
        bos_token_id=None,
        eos_token_id=VOCABULARY.index(END),
    )


def new_model(seed: int, width: int = WIDTH) -> LlamaForCausalLM:
    """An untrained model in float32; the seed decides its weights, and the caller's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(model_config(width))
