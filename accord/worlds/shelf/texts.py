"""The shelf's texts, drawn from a seed, and their models: small Llamas with one token per word."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import chain

from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from accord.data.templates import fill
from accord.records import Demonstration
from accord.worlds import END, PAD, UNKNOWN, fast_tokenizer, four_layers, word_level
from accord.worlds.shelf.operations import Row, Task
from accord.worlds.shelf.tasks import TASKS, lists
from accord.worlds.shelf.things import FACTS, LENGTHS, THINGS, Things, some_things


def _by_cluster(tasks: Mapping[str, Task]) -> dict[str, list[Task]]:
    clusters: dict[str, list[Task]] = {}
    for task in tasks.values():
        clusters.setdefault(task.cluster, []).append(task)
    return clusters


CLUSTERS, _WORDLESS = _by_cluster(TASKS), _by_cluster(lists())

_DRAWN = [*CLUSTERS, "check", "count", "compare", "choose"]
"""Tasks that statements are drawn from; those that tell the least are twice as frequent."""


def corpus(seed: int, n: int) -> list[Demonstration]:
    """`n` raw documents with empty prompts, none about a held-out row of things.

    Most describe a row of things in statements, by any operation. Some state facts, some are lists of rows with one
    operation's answers and no words for it, and some are sheets of questions without answers: a model of this text
    knows what the tasks are about, and that another question follows a question.
    """
    rng = random.Random(f"corpus {seed}")
    kinds = rng.choices([_description, _facts, _lists, _questions], [0.75, 0.05, 0.1, 0.1], k=n)
    return [Demonstration("", document(rng)) for document in kinds]


def _description(rng: random.Random) -> str:
    things = some_things(rng, rng.choice(LENGTHS), held_out=False)
    return " ".join([*things, ".", *(_statement(rng, things) for _ in range(rng.randint(4, 6)))])


def _questions(rng: random.Random) -> str:
    asked = []
    for _ in range(rng.randint(3, 4)):
        task, row = _question(rng, some_things(rng, rng.choice(LENGTHS), held_out=False))
        asked.append(fill(rng.choice(task.prompts), row))
    return " ".join(asked)


def _lists(rng: random.Random) -> str:
    """Rows of things, each with its answer to the same unstated question."""
    task = rng.choice(_WORDLESS[rng.choice(list(_WORDLESS))])
    lines: list[str] = []
    while len(lines) < 6:
        if rows := task.questions(some_things(rng, rng.choice(LENGTHS), held_out=False)):
            lines.append(fill("{things} : {answer} .", rows[0]))
    return " ".join(lines)


def _statement(rng: random.Random, things: Things) -> str:
    """A true statement about the things, one time in four after its reasons."""
    task, row = _question(rng, things)
    reasons = "{rationale} , so " if rng.random() < 0.25 else ""
    return fill(reasons + rng.choice(task.wordings), row)


def _question(rng: random.Random, things: Things) -> tuple[Task, Row]:
    """A question about the things, and its task, of any cluster."""
    while True:
        task = rng.choice(CLUSTERS[rng.choice(_DRAWN)])
        if rows := task.questions(things):
            # Of the answers that these things allow each is as likely, or nearly all that text checks would be false.
            answer = rng.choice(sorted({row["answer"] for row in rows}))
            return task, rng.choice([row for row in rows if row["answer"] == answer])


def _facts(rng: random.Random) -> str:
    forms = ("the {fact} of the {thing} is {value} .", "the {thing} has the {fact} {value} .")
    pairs = [(rng.choice(list(THINGS)), rng.choice(list(FACTS))) for _ in range(rng.randint(5, 8))]
    return " ".join(
        rng.choice(forms).format(fact=fact, thing=thing, value=THINGS[thing][fact]) for thing, fact in pairs
    )


def _words() -> list[str]:
    """Every word that can occur, in alphabetical order."""
    templates = chain.from_iterable((*task.prompts, *task.wordings) for task in TASKS.values())
    fixed = [word for template in templates for word in template.split() if "{" not in word]
    reasons = ["and", "it", "goes", "on", "no", "thing", "new", "its", "is", "comes", "after", "twice", ":", "so", ","]
    formats = ["answer", "ask", "because", "explain", "question"]
    answers = chain.from_iterable(task.answers for task in TASKS.values())
    return sorted({*fixed, *reasons, *formats, *answers, *THINGS, *chain(*FACTS.values()), *FACTS})


VOCABULARY = (PAD, END, UNKNOWN, *_words())
CONTEXT = 256

WIDTH = 96

CHAT_TEMPLATE = """\
{%- for message in messages -%}
  {%- if message.role == "user" -%}
    {{- message.content + " " -}}
  {%- elif message.role == "assistant" -%}
    {{- message.content + " <eos> " -}}
  {%- else -%}
    {{- raise_exception("this model knows the roles user and assistant, not " + message.role) -}}
  {%- endif -%}
{%- endfor -%}"""
"""`ball saw cup . what is the first ? ball <eos>`: a chat has no marks of its own, so it equals the text."""


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over `VOCABULARY`, splitting at white space."""
    words = word_level(VOCABULARY)
    words.pre_tokenizer = WhitespaceSplit()
    made = fast_tokenizer(words, CONTEXT)
    made.chat_template = CHAT_TEMPLATE
    return made


def new_model(seed: int, width: int = WIDTH) -> LlamaForCausalLM:
    """An untrained model of the world, from `four_layers`: 0.5 M parameters at the default width."""
    return four_layers(seed, VOCABULARY, CONTEXT, width, "the shelf's model")
