"""A small world with known truth: things in a row on a shelf are picked, counted, compared and reordered.

Text describes rows of things by every operation, in statements; tasks (`tasks`) ask for the same operations, in
instructions. A model tuned on some clusters of tasks has seen the others in text only: whether it can do them is the
question of instruction tuning (Wei et al. 2021, arXiv:2109.01652). Every answer follows from a table (`things`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from accord.worlds import save_tasks_file, task_files, write_tasks, write_world
from accord.worlds.shelf.tasks import FORMATS, TASKS, TRAIN_ROWS, chance, described, lists, rows, statements
from accord.worlds.shelf.texts import WIDTH, corpus, new_model, tokenizer

__all__ = ["LISTS", "STATEMENTS", "WIDTH", "chance", "corpus", "new_model", "tokenizer", "write"]

LISTS, STATEMENTS = "tasks/lists.yaml", "tasks/statements.yaml"


def write(folder: str | Path, seed: int = 0, width: int = WIDTH) -> None:
    """Write the world as files for pipelines.

    `corpus.jsonl`, `tasks/` (in clusters, each row with its rationale; `statements.yaml` has the tasks as in text,
    `lists.yaml` as in lists), and `init/`, an untrained model with its tokenizer as a Hugging Face folder.
    """
    further = [*task_files(TASKS), LISTS, STATEMENTS]
    write_world(Path(folder), {"corpus": corpus(seed, 40_000)}, new_model(seed, width), tokenizer(), further)
    write_tasks(Path(folder), TASKS, partial(rows, seed=seed), TRAIN_ROWS, described, FORMATS)
    save_tasks_file(Path(folder) / STATEMENTS, statements(), TRAIN_ROWS)
    save_tasks_file(Path(folder) / LISTS, lists(), TRAIN_ROWS, formats={"separator": FORMATS["separator"]})
