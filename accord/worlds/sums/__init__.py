"""A small world with known truth: addition on a scratchpad, column by column from the right.

A 0.4 M parameter model that has seen few demonstrations is right now and then, the less often the longer the sums. That
is where learning from one's own right answers (STaR, GRPO) begins, and whether every step of a rationale is right, and
not only its end, is known (`scratchpad.sound`).
"""

from __future__ import annotations

from pathlib import Path

from accord.files import write_rows
from accord.worlds.sums.model import model_config, new_model, tokenizer
from accord.worlds.sums.problems import demonstrations, heldout, problems
from accord.worlds.sums.scratchpad import HINT, Sum, hinted, sound

__all__ = [
    "HINT",
    "Sum",
    "demonstrations",
    "heldout",
    "hinted",
    "model_config",
    "new_model",
    "problems",
    "sound",
    "tokenizer",
    "write",
]


def write(folder: str | Path, seed: int = 0) -> None:
    """Write the world as files, so that a pipeline needs nothing but files.

    `demonstrations.jsonl`, `train.jsonl` (problems and their answers), `heldout-2.jsonl`, `heldout-3.jsonl` and
    `heldout-4.jsonl` (to evaluate on, by digits), and `init/`, an untrained model with its tokenizer as a Hugging Face
    folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "demonstrations.jsonl", demonstrations(seed, 2_000))
    write_rows(folder / "train.jsonl", problems(seed, 2_000))
    for digits in (2, 3, 4):
        write_rows(folder / f"heldout-{digits}.jsonl", heldout(seed, digits, 300))
    new_model(seed).save_pretrained(folder / "init")
    tokenizer().save_pretrained(folder / "init")
