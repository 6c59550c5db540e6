"""A small world with known truth: guests at the café's counter ask about prices, in several turns.

The meaning of a later question depends on the turns before, so answering it takes the whole conversation. The right
answer to every turn is known (`gold`), whatever was said before, and a simulated guest (`guest`) continues according to
the answers: single-turn training, training on conversations and multi-turn reinforcement learning can be compared turn
by turn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accord.worlds import write_world
from accord.worlds.counter.talk import gold, guest, right
from accord.worlds.counter.texts import (
    WIDTH,
    conversations,
    corpus,
    heldout,
    new_model,
    prompts,
    single,
    tokenizer,
)

__all__ = [
    "WIDTH", "conversations", "corpus", "gold", "guest", "heldout", "new_model", "prompts", "right", "single",
    "tokenizer", "write",
]  # fmt: skip


def write(folder: str | Path, seed: int = 0, width: int = WIDTH) -> None:
    """Write the world as files for pipelines.

    `corpus.jsonl`, `conversations.jsonl` (demonstrations of 2 to 4 turns), `single.jsonl` (as many answers, to first
    questions), `prompts.jsonl` (first questions and guests' plans, to train on), `heldout.jsonl` (to evaluate on), and
    `init/`, an untrained model with its tokenizer as a Hugging Face folder.
    """
    talks = conversations(seed, 800)
    answers = sum(message["role"] == "assistant" for row in talks for message in row["messages"])
    rows: dict[str, Any] = {
        "corpus": corpus(seed, 10_000),
        "conversations": talks,
        "single": single(seed, answers),
        "prompts": prompts(seed, 2_000),
        "heldout": heldout(seed, 400),
    }
    write_world(Path(folder), rows, new_model(seed, width), tokenizer())
