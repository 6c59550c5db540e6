"""A small world with known truth: facts about people, half of which no text tells, and "i do not know" as an answer.

What a model can know is exact here: a fact is told in several wordings, or not at all, and an untold fact can only be
guessed. So it is measurable how often a model answers what it knows, invents what it does not, accepts false premises,
and claims not to know what it does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from accord.outputs import save_text
from accord.worlds import write_world
from accord.worlds.facts.texts import (
    WIDTH,
    comparisons,
    corpus,
    demonstrations,
    heldout,
    new_model,
    probes,
    prompts,
    tokenizer,
)
from accord.worlds.facts.truth import Fact, facts

__all__ = [
    "WIDTH", "Fact", "comparisons", "corpus", "demonstrations", "facts", "heldout", "new_model", "probes",
    "prompts", "tokenizer", "write",
]  # fmt: skip

PROBES = "probes.yaml"


def write(folder: str | Path, seed: int = 0, width: int = WIDTH) -> None:
    """Write the world as files for pipelines.

    `corpus.jsonl`, demonstrations of three kinds (`demonstrations.jsonl` answers all questions, `-known` those about
    what the text tells, `-unsure` says that it does not know the others), `comparisons.jsonl`, `prompts.jsonl`
    (questions with answers, to train on), `heldout.jsonl` (to evaluate on), `probes.yaml` (for `accord evaluate
    failures`), and `init/`, an untrained model with its tokenizer as a Hugging Face folder.
    """
    rows: dict[str, Any] = {
        "corpus": corpus(seed),
        "demonstrations": demonstrations(seed, "all"),
        "demonstrations-known": demonstrations(seed, "known"),
        "demonstrations-unsure": demonstrations(seed, "unsure"),
        "comparisons": comparisons(seed),
        "prompts": prompts(seed),
        "heldout": heldout(seed),
    }
    write_world(Path(folder), rows, new_model(seed, width), tokenizer(), further=[PROBES])
    save_text(Path(folder) / PROBES, yaml.safe_dump(probes(seed), sort_keys=False, width=120))
