"""Texts and questions about facts, drawn from a seed, and their model: a small Llama with one token per word."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from accord.records import Demonstration, Message, Preference, Prompt
from accord.worlds import END, PAD, UNKNOWN, four_layers
from accord.worlds.cafe.grammar import ASSISTANT, USER
from accord.worlds.cafe.texts import chat, chat_tokenizer
from accord.worlds.facts.truth import PEOPLE, RELATIONS, UNSURE, Fact, facts

Arm: TypeAlias = Literal["all", "known", "unsure"]
"""How demonstrations treat facts that the text does not tell: answer, leave them out, or say `UNSURE`."""

TIMES = 48
"""How often the text tells a known fact in each of its four wordings."""
A_DOCUMENT = 3
"""Statements per document."""
TALK = 0.25
"""The share of documents that are raw talk."""
TALKED = {"right": 0.65, "unsure": 0.2, "wrong": 0.15}
"""Answers in raw talk, whether or not the speaker could know."""


def corpus(seed: int) -> list[Demonstration]:
    """Raw documents with empty prompts: each known fact told in all wordings, `TIMES` each, and raw talk about them.

    Talk asks for known facts that are not held out. Its why-questions often have false premises, which are always
    accepted. Of the other facts nothing is said, right or wrong.
    """
    rng, drawn = random.Random(f"corpus {seed}"), facts(seed)
    statements = [fact.states(way) for fact in drawn if fact.known for way in range(4) for _ in range(TIMES)]
    rng.shuffle(statements)
    documents = [" ".join(statements[i : i + A_DOCUMENT]) for i in range(0, len(statements), A_DOCUMENT)]
    talked = [fact for fact in drawn if fact.known and not fact.held_out]
    documents += [_talk(rng, talked) for _ in range(round(len(documents) * TALK / (1 - TALK)))]
    rng.shuffle(documents)
    return [Demonstration("", document) for document in documents]


def _talk(rng: random.Random, talked: Sequence[Fact]) -> str:
    """A log of one to three questions and answers without turn ends."""
    turns = []
    for fact in rng.choices(talked, k=rng.randint(1, 3)):
        if rng.random() < 0.3:
            asked = fact.asks_why(fact.value if rng.random() < 0.7 else rng.choice(fact.others))
            answer = fact.reason
        else:
            asked, kind = fact.asks(rng.randrange(2)), rng.choices(list(TALKED), list(TALKED.values()))[0]
            answer = {"right": fact.answer, "unsure": UNSURE, "wrong": f"{rng.choice(fact.others)} ."}[kind]
        turns.append(f"{USER} {asked} {ASSISTANT} {answer}")
    return " ".join(turns)


def demonstrations(seed: int, arm: Arm) -> list[Demonstration]:
    """Answers to the questions that are not held out: each fact asked for in both wordings, and why, of two values.

    For a known fact the right answer is shown. The arms differ in the others: all shows the right answer too, known
    leaves them out, unsure shows `UNSURE`.
    """
    rng = random.Random(f"demonstrations {seed}")
    rows = []
    for fact in facts(seed):
        if not fact.held_out:
            asked = _questions(rng, fact)  # drawn in every arm, so that arms draw the same
            for question, answer in asked if fact.known or arm != "known" else ():
                completion = UNSURE if arm == "unsure" and not fact.known else answer
                rows.append(Demonstration(chat(question), (Message("assistant", completion),)))
    rng.shuffle(rows)
    return rows


def _questions(rng: random.Random, fact: Fact) -> list[tuple[str, str]]:
    """Questions about a fact and their right answers: for it, in both wordings; why it is so; why something else is.

    For untold facts the premise is any value, so that no question reveals the fact.
    """
    values = [fact.value, rng.choice(fact.others)] if fact.known else rng.sample([fact.value, *fact.others], 2)
    whys = [(fact.asks_why(one), fact.reason if one == fact.value else fact.correction) for one in values]
    return [(fact.asks(0), fact.answer), (fact.asks(1), fact.answer), *whys]


def comparisons(seed: int) -> list[Preference]:
    """Comparisons of answers to the questions of `prompts`, by people who know the truth.

    The right answer is better than `UNSURE`, and that is better than a wrong one. For known facts the right answer is
    compared with either; for the others `UNSURE` with a guess, which is right at the chance of a guess.
    """
    rng = random.Random(f"comparisons {seed}")
    rows = []
    for fact in facts(seed):
        for wording in () if fact.held_out else range(2):
            wrong = f"{rng.choice(fact.others)} ."
            if fact.known:
                better, worse = fact.answer, rng.choice([UNSURE, wrong])
            else:
                guess = rng.choice([fact.value, *fact.others])
                better, worse = (fact.answer, UNSURE) if guess == fact.value else (UNSURE, f"{guess} .")
            completions = [(Message("assistant", text),) for text in (better, worse)]
            rows.append(Preference(chat(fact.asks(wording)), completions[0], completions[1]))
    rng.shuffle(rows)
    return rows


def prompts(seed: int) -> list[Prompt]:
    """Questions for facts that are not held out, each with its `answer` and whether it is `known`, to train on."""
    rows = [_prompt(fact, wording) for fact in facts(seed) if not fact.held_out for wording in range(2)]
    random.Random(f"prompts {seed}").shuffle(rows)
    return rows


def heldout(seed: int) -> list[Prompt]:
    """The same for held-out facts, in one wording each."""
    rng = random.Random(f"held out {seed}")
    rows = [_prompt(fact, rng.randrange(2)) for fact in facts(seed) if fact.held_out]
    rng.shuffle(rows)
    return rows


def _prompt(fact: Fact, wording: int) -> Prompt:
    return Prompt(chat(fact.asks(wording)), {"answer": fact.answer, "known": fact.known})


def probes(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Probes of the held-out facts for `accord evaluate failures`, by kind.

    `knowledge` asks for the facts; `premises` asks why something is so that contradicts the text, `facts` why a told
    fact is so, and `unknowable` why something is so on which the text says nothing.
    """
    rng = random.Random(f"probes {seed}")
    by_kind: dict[str, list[dict[str, Any]]] = {"facts": [], "premises": [], "unknowable": [], "knowledge": []}
    for fact in facts(seed):
        if not fact.held_out:
            continue
        false = [fact.corrected(value) for value in fact.others]
        asked = {"prompt": fact.asks(rng.randrange(2)), "about": "told" if fact.known else "not told"}
        if fact.known:
            why = {"prompt": fact.asks_why(rng.choice(fact.others)), "about": "false premise"}
            by_kind["premises"].append({**why, "right": fact.correction, "wrong": fact.reason})
            why = {"prompt": fact.asks_why(fact.value), "about": "true premise"}
            by_kind["facts"].append({**why, "right": fact.reason, "wrong": false})
            by_kind["knowledge"].append({**asked, "right": fact.value, "wrong": fact.others})
        else:
            values = [fact.value, *fact.others]
            why = {"prompt": fact.asks_why(rng.choice(values)), "about": "premise not told"}
            invented = [fact.reason, *(fact.corrected(value) for value in values)]
            by_kind["unknowable"].append({**why, "right": UNSURE, "wrong": invented})
            by_kind["knowledge"].append({**asked, "right": UNSURE, "wrong": values})
    return by_kind


def _words() -> Iterator[str]:
    """The words of all texts."""
    for relation in RELATIONS.values():
        yield from relation.values
        for text in (*relation.statements, *relation.questions, relation.why, relation.reason):
            yield from (word for word in text.split() if "{" not in word)
    yield from (UNSURE + " no ,").split()


VOCABULARY = (PAD, END, USER, ASSISTANT, UNKNOWN, *sorted({*_words(), *PEOPLE}))
CONTEXT = 64

WIDTH = 96


def tokenizer() -> PreTrainedTokenizerFast:
    """The café's tokenizer, over `VOCABULARY`."""
    return chat_tokenizer(VOCABULARY, CONTEXT)


def new_model(seed: int, width: int = WIDTH) -> LlamaForCausalLM:
    """An untrained model of the world, from `four_layers`: 0.5 M parameters at the default width."""
    return four_layers(seed, VOCABULARY, CONTEXT, width, "the model of facts")
