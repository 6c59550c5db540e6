"""The counter's texts, drawn from a seed, and its model: a small Llama with one token per word."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain
from typing import Any

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from accord.records import Demonstration, Message, Prompt, text_to_json
from accord.worlds import END, PAD, UNKNOWN, four_layers, in_held_out_fifth
from accord.worlds.cafe.grammar import ASSISTANT, USER
from accord.worlds.cafe.texts import chat, chat_tokenizer
from accord.worlds.counter.talk import (
    AGAIN,
    COUNTS,
    DISHES,
    FIRST,
    LATER,
    MOST_TURNS,
    NUMBERS,
    Answer,
    Menu,
    guest,
    menu_text,
    opening,
    read_menu,
    right,
    some_menu,
    some_plan,
)

SLIPS = 0.15
"""The share of demonstrated answers that are wrong."""
TALK_SLIPS = 0.3
"""The same in raw talk."""


def conversations(seed: int, n: int) -> list[dict[str, Any]]:
    """`n` rows of `messages`, 2 to 4 turns per side, in which people at the counter answer guests."""
    rng = random.Random(f"conversations {seed}")
    return [{"messages": text_to_json(_talk(rng, rng.randint(2, MOST_TURNS), SLIPS))} for _ in range(n)]


def single(seed: int, n: int) -> list[dict[str, Any]]:
    """`n` rows of `messages` with one turn per side: a first question and its answer."""
    rng = random.Random(f"single {seed}")
    return [{"messages": text_to_json(_talk(rng, 1, SLIPS))} for _ in range(n)]


def prompts(seed: int, n: int) -> list[Prompt]:
    """`n` first questions to train on, each with the guest's `plan`, the later questions of 2 to 4 turns."""
    rng = random.Random(f"prompts {seed}")
    return [_prompt(rng, rng.randint(2, MOST_TURNS), held_out=False) for _ in range(n)]


def heldout(seed: int, n: int) -> list[Prompt]:
    """`n` first questions about menus that no other text has, with plans of `MOST_TURNS` turns."""
    rng = random.Random(f"held out {seed}")
    return [_prompt(rng, MOST_TURNS, held_out=True) for _ in range(n)]


def corpus(seed: int, n: int) -> list[Demonstration]:
    """`n` raw documents with empty prompts: menus with statements that are true of them, and talk that is often wrong.

    A model of this text knows prices and the form of talk, and answers as badly as the talk.
    """
    rng = random.Random(f"corpus {seed}")
    kinds = rng.choices([_statements, _raw_talk], [0.8, 0.2], k=n)
    return [Demonstration("", document(rng)) for document in kinds]


def drawn_menu(rng: random.Random, *, held_out: bool) -> Menu:
    """A menu of the held-out fifth, or of the others."""
    while True:
        menu = some_menu(rng)
        if in_held_out_fifth(menu_text(menu)) == held_out:
            return menu


def _prompt(rng: random.Random, turns: int, *, held_out: bool) -> Prompt:
    question, asked = opening(rng, drawn_menu(rng, held_out=held_out))
    return Prompt(chat(question), {"plan": some_plan(rng, asked, turns)})


def _talk(rng: random.Random, turns: int, slips: float) -> tuple[Message, ...]:
    """A conversation about a training menu with this many turns per side, in which some answers are wrong."""
    question, asked = opening(rng, drawn_menu(rng, held_out=False))
    plan = some_plan(rng, asked, turns)
    so_far = [*chat(question)]
    while True:
        so_far.append(Message("assistant", rng.choice(_answer(rng, so_far, slips).ways())))
        more = guest([{"role": m.role, "content": m.content} for m in so_far], plan)
        if more is None:
            return tuple(so_far)
        so_far.append(Message("user", more))


def _answer(rng: random.Random, so_far: list[Message], slips: float) -> Answer:
    answer, menu = rng.choice(right(so_far)), read_menu(so_far[0].content)
    assert menu is not None
    return answer.slipped(rng, menu) if rng.random() < slips else answer


def _statements(rng: random.Random) -> str:
    """A menu and all statements that are true of it, in random order."""
    menu = drawn_menu(rng, held_out=False)
    true = [Answer("each", coins=sum(menu.values())), Answer("advice", rng.choice(list(menu)))]
    for dish, coins in menu.items():
        count = rng.choice(COUNTS)
        true += [Answer("price", dish, coins), Answer("count", dish, count * coins, count)]
    return " ".join([menu_text(menu), *(one.ways()[0] for one in rng.sample(true, len(true)))])


def _raw_talk(rng: random.Random) -> str:
    """A log of one to four questions and answers without turn ends."""
    roles = {"user": USER, "assistant": ASSISTANT}
    return " ".join(f"{roles[m.role]} {m.content}" for m in _talk(rng, rng.randint(1, MOST_TURNS), TALK_SLIPS))


def _words() -> Iterator[str]:
    """The words of templates and answers."""
    answers = (Answer("price"), Answer("count"), Answer("each"), Answer("advice"))
    ways = (way for answer in answers for way in answer.ways())
    for text in chain(FIRST.values(), LATER.values(), AGAIN, ways, (":",)):
        yield from (word for word in text.split() if "{" not in word)


VOCABULARY = (PAD, END, USER, ASSISTANT, UNKNOWN, *sorted({*_words(), *NUMBERS, *DISHES}))
CONTEXT = 128

WIDTH = 96


def tokenizer() -> PreTrainedTokenizerFast:
    """The café's tokenizer, over `VOCABULARY`."""
    return chat_tokenizer(VOCABULARY, CONTEXT)


def new_model(seed: int, width: int = WIDTH) -> LlamaForCausalLM:
    """An untrained model of the world, from `four_layers`: 0.5 M parameters at the default width."""
    return four_layers(seed, VOCABULARY, CONTEXT, width, "the counter's model")
