"""A small world with known truth: guests of a café ask an assistant about dishes, and it answers in a few sentences.

Everything is drawn from a documented grammar (`grammar`), so the gold reward is a closed formula on the text (`gold`),
a 1 M parameter model learns the language in under a minute (`texts`), and how far a learned reward has been exploited
can be measured instead of guessed.
"""

from __future__ import annotations

from pathlib import Path

from accord.files import write_rows
from accord.worlds.cafe.grammar import gold
from accord.worlds.cafe.tasks import write_tasks
from accord.worlds.cafe.texts import WIDTH, corpus, demonstrations, heldout, new_model, prompts, tokenizer

__all__ = ["WIDTH", "corpus", "demonstrations", "gold", "heldout", "new_model", "prompts", "tokenizer", "write"]


def write(folder: str | Path, seed: int = 0, width: int = WIDTH) -> None:
    """Write the world as files, so that a pipeline needs nothing but files.

    `corpus.jsonl`, `demonstrations.jsonl`, `prompts.jsonl` (to train on), `heldout.jsonl` (to evaluate on),
    `tasks/` (in clusters), and `init/`, an untrained model with its tokenizer as a Hugging Face folder.
    """
    untrained = new_model(seed, width)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "corpus.jsonl", corpus(seed, 12_000))
    write_rows(folder / "demonstrations.jsonl", demonstrations(seed, 1_000))
    write_rows(folder / "prompts.jsonl", prompts(seed, 2_000))
    write_rows(folder / "heldout.jsonl", heldout(seed, 400))
    write_tasks(folder / "tasks", seed)
    untrained.save_pretrained(folder / "init")
    tokenizer().save_pretrained(folder / "init")
