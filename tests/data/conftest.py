"""A tokenizer small enough to know by heart: a token a word, and a template with a header and an end to each turn."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["<unk>", "<s>", "</s>", "<user>", "<assistant>", "<system>", "hi", "hello", "good", "bad", "day", "bye"]
UNK, BOS, EOS, USER, ASSISTANT, SYSTEM, HI, HELLO, GOOD, BAD, DAY, BYE = range(12)

TEMPLATE = (
    "{% if messages[0].role != 'system' %}<system>good</s>{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def word_tokenizer(
    opening: str = "", closing: str = "", template: str | None = TEMPLATE, **special: str | None
) -> PreTrainedTokenizerFast:
    """The tokenizer, which adds the tokens `opening` and `closing` to a text where asked for special tokens."""
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if opening or closing:
        added = [(word, WORDS.index(word)) for word in (opening, closing) if word]
        tokenizer.post_processor = processors.TemplateProcessing(
            f"{opening} $A {closing}".strip(), special_tokens=added
        )
    tokenizer.add_special_tokens(WORDS[1:6])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", **special}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{k: v for k, v in names.items() if v is not None})
    fast.chat_template = template
    return fast


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


@pytest.fixture(scope="session")
def harmless() -> Path:
    path = REAL_DATA / "hh_harmless_test.jsonl.gz"
    if not path.exists():
        pytest.skip("the hh-rlhf harmless test pairs are not here")
    return path
