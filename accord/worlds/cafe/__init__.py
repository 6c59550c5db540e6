"""A small world with known truth: guests of a café ask an assistant about dishes, and it answers in a few sentences.

Everything is drawn from a documented grammar (`grammar`), so the gold reward is a closed formula on the text (`gold`),
a 1 M parameter model learns the language in under a minute (`texts`), and how far a learned reward has been exploited
can be measured instead of guessed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import yaml

from accord.outputs import save_text
from accord.worlds import task_files, write_tasks, write_world
from accord.worlds.cafe.grammar import gold
from accord.worlds.cafe.tasks import TASKS, TRAIN_ROWS, rows
from accord.worlds.cafe.texts import WIDTH, corpus, demonstrations, heldout, new_model, prompts, tokenizer
from accord.worlds.cafe.virtues import constitution, critiques

__all__ = [
    "WIDTH", "constitution", "corpus", "critiques", "demonstrations", "gold", "heldout", "new_model", "prompts",
    "tokenizer", "write",
]  # fmt: skip

CONSTITUTION = "constitution.yaml"


def write(folder: str | Path, seed: int = 0, width: int = WIDTH) -> None:
    """Write the world as files, so that a pipeline needs nothing but files.

    `corpus.jsonl`, `demonstrations.jsonl`, `prompts.jsonl` (to train on), `heldout.jsonl` (to evaluate on),
    `critiques.jsonl` (how people criticize, revise and judge by `constitution.yaml`), `tasks/` (in clusters), and
    `init/`, an untrained model with its tokenizer as a Hugging Face folder.
    """
    talk = {"corpus": corpus(seed, 12_000), "demonstrations": demonstrations(seed, 1_000)}
    talk["critiques"] = critiques(seed, 12_000)
    asked = {"prompts": prompts(seed, 2_000), "heldout": heldout(seed, 400)}
    more = [CONSTITUTION, *task_files(TASKS)]
    write_world(Path(folder), {**talk, **asked}, new_model(seed, width), tokenizer(), more)
    save_text(Path(folder) / CONSTITUTION, yaml.safe_dump(constitution(), sort_keys=False))
    write_tasks(Path(folder), TASKS, partial(rows, seed=seed), TRAIN_ROWS)
