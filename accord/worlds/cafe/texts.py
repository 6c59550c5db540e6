"""The café's texts and questions, drawn from a seed, and its model: a small Llama with one token per word."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import accord.worlds.cafe.grammar as grammar
from accord.errors import InputError
from accord.records import Demonstration, Message, Prompt
from accord.worlds import END, PAD, UNKNOWN, fast_tokenizer, in_held_out_fifth, untrained, word_level
from accord.worlds.cafe.grammar import Mood, Topic, answer, question, sentence, some_topic

_QUESTIONS = [
    (question(template, topic, time), topic)
    for template in grammar.QUESTIONS
    for person in (grammar.PERSONS if "PERSON" in template else (None,))
    for topic in (Topic(dish, person) for dish in grammar.DISHES)
    for time in grammar.TIMES
]
"""Every possible question with its topic."""

TRAINING = [(text, topic) for text, topic in _QUESTIONS if not in_held_out_fifth(text)]
HELD_OUT = [(text, topic) for text, topic in _QUESTIONS if in_held_out_fifth(text)]


def prompts(seed: int, n: int) -> list[Prompt]:
    """`n` different training questions as chats, disjoint from `heldout`. ValueError if there are fewer."""
    return [Prompt(chat(text)) for text, _ in random.Random(f"prompts {seed}").sample(TRAINING, n)]


def heldout(seed: int, n: int) -> list[Prompt]:
    """`n` different evaluation questions that no other text contains. ValueError if there are fewer."""
    return [Prompt(chat(text)) for text, _ in _held_out_questions(seed, n)]


def references(seed: int, n: int) -> list[Demonstration]:
    """Answers to `heldout`, as in `demonstrations`, for comparison with models."""
    rng = random.Random(f"references {seed}")
    return [
        Demonstration(chat(text), _reply(rng, topic, some_mood(rng))) for text, topic in _held_out_questions(seed, n)
    ]


def probes(seed: int, n: int) -> dict[str, list[dict[str, Any]]]:
    """The first `n` questions of `heldout` as a file of probes of style and manners.

    Manners are checked by rules (`accord.feedback.constraints`): no unkind word, the dish by its name, and two to four
    sentences, as people's answers have.
    """
    unkind = sorted(grammar.NEGATIVE_WORDS)

    def manners(dish: str) -> dict[str, Any]:
        return {"avoid": [*unkind], "include": dish, "sentences": {"at_least": 2, "at_most": 4}}

    asked = _held_out_questions(seed, n)
    return {
        "instructions": [{"prompt": text, "constraints": manners(topic.dish)} for text, topic in asked],
        "style": [{"prompt": text} for text, _ in asked],
    }


def _held_out_questions(seed: int, n: int) -> list[tuple[str, Topic]]:
    return random.Random(f"held out {seed}").sample(HELD_OUT, n)


def demonstrations(seed: int, n: int) -> list[Demonstration]:
    """`n` answers to training questions: well-formed, on topic, 12 to 24 words, but of any mood."""
    rng = random.Random(f"demonstrations {seed}")
    asked = (rng.choice(TRAINING) for _ in range(n))
    return [Demonstration(chat(text), _reply(rng, topic, some_mood(rng))) for text, topic in asked]


def corpus(seed: int, n: int) -> list[Demonstration]:
    """`n` raw documents with empty prompts, like unfiltered text.

    Reviews and logs of talk teach the language; lists of questions, ramblings, repetitions and shuffled words make a
    model of this text continue anything, and answer questions badly.
    """
    rng = random.Random(f"corpus {seed}")
    return [Demonstration("", document(rng)) for document in rng.choices(*zip(*_DOCUMENTS.items(), strict=True), k=n)]


def chat(text: str) -> tuple[Message, ...]:
    """A chat of one question."""
    return (Message("user", text),)


def some_mood(rng: random.Random) -> Mood:
    """A random mood of answers."""
    return rng.choices((grammar.GLAD, grammar.MIXED, grammar.PLAIN, grammar.SOUR), (0.25, 0.30, 0.20, 0.25))[0]


def _reply(rng: random.Random, topic: Topic, mood: Mood) -> str:
    while True:
        text = answer(rng, topic, mood, rng.randint(2, 4))
        if 12 <= len(text.split()) <= 24:
            return text


def _review(rng: random.Random) -> str:
    return answer(rng, some_topic(rng), some_mood(rng), rng.randint(2, 5))


def _talk(rng: random.Random) -> str:
    """A log of one to three questions and answers without turn ends; one answer in four is about another dish."""
    turns = []
    for _ in range(rng.randint(1, 3)):
        text, topic = rng.choice(TRAINING)
        replied = some_topic(rng) if rng.random() < 0.25 else topic
        turns.append(
            f"{grammar.USER} {text} {grammar.ASSISTANT} {answer(rng, replied, some_mood(rng), rng.randint(1, 3))}"
        )
    return " ".join(turns)


def _unanswered(rng: random.Random) -> str:
    return " ".join(text for text, _ in rng.choices(TRAINING, k=rng.randint(2, 4)))


def _rambling(rng: random.Random) -> str:
    templates = rng.choices((*grammar.OPENINGS, *grammar.FOLLOWINGS), k=rng.randint(5, 9))
    return " ".join(sentence(rng, template, some_topic(rng), some_mood(rng)) for template in templates)


def _repetition(rng: random.Random) -> str:
    again = answer(rng, some_topic(rng), some_mood(rng), 1)
    return " ".join([again] * rng.randint(2, 4)) if rng.random() < 0.5 else " ".join([rng.choice(grammar.WORDS)] * 12)


def _shuffled(rng: random.Random) -> str:
    words = _review(rng).split()
    rng.shuffle(words)
    return " ".join(words)


_DOCUMENTS = {_review: 0.25, _talk: 0.45, _unanswered: 0.10, _rambling: 0.10, _repetition: 0.05, _shuffled: 0.05}

VOCABULARY = (PAD, END, grammar.USER, grammar.ASSISTANT, UNKNOWN, *grammar.WORDS)
CONTEXT, WITH_CHOICES = 128, 512
"""Context length in tokens; with tastes, eight of a guest's choices fit before a question."""

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


def tokenizer(context: int = CONTEXT) -> PreTrainedTokenizerFast:
    """The tokenizer of `VOCABULARY`."""
    return chat_tokenizer(VOCABULARY, context)


def chat_tokenizer(vocabulary: Sequence[str], context: int) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of chats: lower-cases, splits off punctuation, decodes to words and spaces."""
    words = word_level(vocabulary)
    words.normalizer = Lowercase()
    words.pre_tokenizer = Whitespace()
    made = fast_tokenizer(words, context, additional_special_tokens=[grammar.USER, grammar.ASSISTANT])
    made.chat_template = CHAT_TEMPLATE
    return made


def new_model(seed: int, width: int = WIDTH, context: int = CONTEXT) -> LlamaForCausalLM:
    """An untrained float32 Llama; the seed decides its weights: 1.1 M parameters, or at width 48 0.08 M.

    Raises InputError where the width does not divide into heads of even width.
    """
    if width < 1 or width % (2 * HEADS):
        raise InputError(f"the width of the café's model must be a multiple of {2 * HEADS}, not {width}.")
    sizes = {"width": width, "inner_width": width * 7 // 3, "layers": 3, "heads": HEADS, "key_value_heads": 2}
    return untrained(seed, VOCABULARY, context, **sizes)
