"""A small world with known truth: guests of a café ask an assistant about dishes, and it answers in a few sentences.

All text comes from a documented grammar (`grammar`), so the gold reward is a closed formula on the text (`gold`), a 1 M
parameter model learns the language in under a minute (`texts`), and the exploitation of a learned reward can be
measured exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from accord.outputs import save_text
from accord.worlds import task_files, write_tasks, write_world
from accord.worlds.cafe.grammar import gold
from accord.worlds.cafe.tasks import TASKS, TRAIN_ROWS, rows
from accord.worlds.cafe.tastes import Population, comparisons
from accord.worlds.cafe.texts import (
    CONTEXT,
    WIDTH,
    WITH_CHOICES,
    corpus,
    demonstrations,
    heldout,
    new_model,
    probes,
    prompts,
    references,
    tokenizer,
)
from accord.worlds.cafe.virtues import constitution, critiques

__all__ = [
    "WIDTH", "Guests", "constitution", "corpus", "critiques", "demonstrations", "gold", "heldout", "new_model",
    "probes", "prompts", "references", "tokenizer", "write",
]  # fmt: skip

CONSTITUTION = "constitution.yaml"
PROBES = "probes.yaml"


@dataclass(frozen=True, slots=True)
class Guests:
    """Users with individual tastes: their population, the number of training users, and of choices per user."""

    tastes: Population
    users: int = 800
    choices: int = 24


def write(folder: str | Path, seed: int = 0, width: int = WIDTH, guests: Guests | None = None) -> None:
    """Write the world as files for pipelines.

    `corpus.jsonl`, `demonstrations.jsonl`, `prompts.jsonl` (to train on), `heldout.jsonl` (to evaluate on),
    `references.jsonl` (people's answers to these), `probes.yaml` (probes of style and manners), `critiques.jsonl`
    (people's critiques, revisions and verdicts by `constitution.yaml`), `tasks/` (in clusters), and `init/`, an
    untrained model with its tokenizer as a Hugging Face folder. With guests, `comparisons.jsonl` has their choices and
    `comparisons-unseen.jsonl` those of a quarter as many others, and the model's context is `WITH_CHOICES` tokens.
    """
    texts = {"corpus": corpus(seed, 12_000), "demonstrations": demonstrations(seed, 1_000)}
    texts |= {"critiques": critiques(seed, 12_000), "references": references(seed, 400)}
    questions: dict[str, Any] = {"prompts": prompts(seed, 2_000), "heldout": heldout(seed, 400)}
    if guests is not None:
        each, unseen = guests.choices, -(-guests.users // 4)
        questions["comparisons"] = comparisons(seed, guests.tastes, guests.users, each, unseen=False)
        questions["comparisons-unseen"] = comparisons(seed, guests.tastes, unseen, each, unseen=True)
    more = [CONSTITUTION, PROBES, *task_files(TASKS)]
    context = CONTEXT if guests is None else WITH_CHOICES
    made = new_model(seed, width, context), tokenizer(context)
    write_world(Path(folder), {**texts, **questions}, *made, more)
    for file, content in ((CONSTITUTION, constitution()), (PROBES, probes(seed, 100))):
        save_text(Path(folder) / file, yaml.safe_dump(content, sort_keys=False))
    write_tasks(Path(folder), TASKS, partial(rows, seed=seed), TRAIN_ROWS)
