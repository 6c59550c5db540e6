"""What is written and asked in the café, drawn from a seed, and who reads it.

Raw text, questions, and demonstrations of answers; a tokenizer of one token a word, and a small model of the Llama
architecture.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from accord.errors import InputError
from accord.records import Demonstration, Message, Prompt
from accord.worlds.cafe.grammar import (
    ASSISTANT,
    DISHES,
    FOLLOWINGS,
    GLAD,
    MIXED,
    OPENINGS,
    PERSONS,
    PLAIN,
    QUESTIONS,
    SOUR,
    TIMES,
    USER,
    WORDS,
    Mood,
    Topic,
    answer,
    question,
    sentence,
)


def _questions() -> list[tuple[str, Topic]]:
    """Every question that can be asked, with what it is about."""
    return [
        (question(template, topic, time), topic)
        for template in QUESTIONS
        for person in (PERSONS if "PERSON" in template else (None,))
        for topic in (Topic(dish, person) for dish in DISHES)
        for time in TIMES
    ]


def _is_held_out(text: str) -> bool:
    """One question in five, by a digest of its words, so the split never moves."""
    return hashlib.sha256(text.encode()).digest()[0] % 5 == 0


TRAINING = [(text, topic) for text, topic in _questions() if not _is_held_out(text)]
HELD_OUT = [(text, topic) for text, topic in _questions() if _is_held_out(text)]


def prompts(seed: int, n: int) -> list[Prompt]:
    """`n` different questions to train on, as chats; none is ever in `heldout`. ValueError if there are fewer."""
    return [Prompt(_chat(text)) for text, _ in random.Random(f"prompts {seed}").sample(TRAINING, n)]


def heldout(seed: int, n: int) -> list[Prompt]:
    """`n` different questions to evaluate on, which no other text contains. ValueError if there are fewer."""
    return [Prompt(_chat(text)) for text, _ in random.Random(f"held out {seed}").sample(HELD_OUT, n)]


def demonstrations(seed: int, n: int) -> list[Demonstration]:
    """`n` answers to training questions: well-formed, on topic, 12 to 24 words, but of any mood."""
    rng = random.Random(f"demonstrations {seed}")
    rows = []
    for _ in range(n):
        text, topic = rng.choice(TRAINING)
        rows.append(Demonstration(_chat(text), _reply(rng, topic, _mood(rng))))
    return rows


def corpus(seed: int, n: int) -> list[Demonstration]:
    """`n` raw documents with empty prompts: what a model would find lying around.

    Reviews and logs of talk teach the language; lists of questions, ramblings, repetitions and shuffled words are
    there so that a model of this text continues anything, and answers questions badly.
    """
    rng = random.Random(f"corpus {seed}")
    return [Demonstration("", document(rng)) for document in rng.choices(*zip(*_DOCUMENTS, strict=True), k=n)]


def _chat(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def _mood(rng: random.Random) -> Mood:
    return rng.choices((GLAD, MIXED, PLAIN, SOUR), (0.25, 0.30, 0.20, 0.25))[0]


def _reply(rng: random.Random, topic: Topic, mood: Mood) -> str:
    while True:
        text = answer(rng, topic, mood, rng.randint(2, 4))
        if 12 <= len(text.split()) <= 24:
            return text


def _about(rng: random.Random) -> Topic:
    return Topic(rng.choice(DISHES), rng.choice(PERSONS))


def _review(rng: random.Random) -> str:
    return answer(rng, _about(rng), _mood(rng), rng.randint(2, 5))


def _talk(rng: random.Random) -> str:
    """A log of one to three questions and answers, its turns never ended; one answer in four is about another dish."""
    turns = []
    for _ in range(rng.randint(1, 3)):
        text, topic = rng.choice(TRAINING)
        replied = _about(rng) if rng.random() < 0.25 else topic
        turns.append(f"{USER} {text} {ASSISTANT} {answer(rng, replied, _mood(rng), rng.randint(1, 3))}")
    return " ".join(turns)


def _unanswered(rng: random.Random) -> str:
    return " ".join(text for text, _ in rng.choices(TRAINING, k=rng.randint(2, 4)))


def _rambling(rng: random.Random) -> str:
    templates = rng.choices((*OPENINGS, *FOLLOWINGS), k=rng.randint(5, 9))
    return " ".join(sentence(rng, template, _about(rng), _mood(rng)) for template in templates)


def _repetition(rng: random.Random) -> str:
    again = answer(rng, _about(rng), _mood(rng), 1)
    return " ".join([again] * rng.randint(2, 4)) if rng.random() < 0.5 else " ".join([rng.choice(WORDS)] * 12)


def _shuffled(rng: random.Random) -> str:
    words = _review(rng).split()
    rng.shuffle(words)
    return " ".join(words)


_DOCUMENTS: list[tuple[Callable[[random.Random], str], float]] = [
    (_review, 0.25),
    (_talk, 0.45),
    (_unanswered, 0.10),
    (_rambling, 0.10),
    (_repetition, 0.05),
    (_shuffled, 0.05),
]


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
