"""Small models that read by byte pairs, in the manner of families that llama.cpp knows."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from accord.engine.gguf import SPLITS
from accord.engine.models import Policy, prepare_network
from accord.engine.templates import CHATML
from tests.engine.tiny import SIZES, random_model

TEXTS = ["the cat sat on the mat, and it's 12:30", "We'll see 1984  times", "nice weather\n\n  today, the 3rd"]

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

ROWS = 320

WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def cuts(pre: str) -> tuple[bool, Any]:
    """Whether merges are ignored for whole tokens, and the pre-tokenizer that llama.cpp calls so."""
    [(whole, *parts)] = [key for key, name in SPLITS.items() if name == pre]
    made = {"words": lambda: [WORDS], "digits": lambda: [pre_tokenizers.Digits(individual_digits=True)]}
    steps = [step for part in parts for step in made.get(part, lambda p=part: [split(p), BYTES])()]
    return whole, pre_tokenizers.Sequence(steps)


def split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


@cache
def byte_pairs(pre: str, opening: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 312 tokens in the manner of a family, the last of them a word that is not special."""
    whole, cut = cuts(pre)
    made = Tokenizer(models.BPE(ignore_merges=whole))
    made.pre_tokenizer, made.decoder = cut, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=311, initial_alphabet=alphabet, special_tokens=SPECIAL)
    )
    made.add_tokens(["<think>"])
    if opening:
        made.post_processor = processors.TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=SPECIAL[0], eos_token=SPECIAL[0])
    tokenizer.chat_template = CHATML.replace("END", "'<|im_end|>'")
    return tokenizer


def policy(kind: Any = LlamaConfig, pre: str = "gpt-2", opening: bool = False, **rest: Any) -> Policy:
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = kind(**{**SIZES, "vocab_size": ROWS, "max_position_embeddings": 64, **special, **rest})
    network = prepare_network(random_model(config, dtype=torch.float32))
    return Policy(network, byte_pairs(pre, opening), "a model")


def logits(model: Policy) -> torch.Tensor:
    tokens = torch.arange(0, 300, 7)[None, :32]
    with torch.no_grad():
        return model.network(input_ids=tokens, use_cache=False).logits.log_softmax(-1)
