"""A random little Llama with a token a word in a folder, files of rows it can read, and the command line in process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from accord.cli.main import main
from accord.files import SUMS
from accord.records import Row, row_to_json
from tests.data.conftest import TEMPLATE, WORDS, word_tokenizer
from tests.engine.tiny import SIZES, policy_of

CONTEXT = 48
QUICK = ("--batch-size", "2", "--max-steps", "2", "--dtype", "float32")


def save_model(folder: Path, template: str | None = TEMPLATE) -> str:
    """A Llama of width 16 over the words of the small tokenizer, with weights far from uniform."""
    config = LlamaConfig(
        **SIZES, vocab_size=len(WORDS), pad_token_id=None, max_position_embeddings=CONTEXT, initializer_range=0.3
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = policy_of(LlamaForCausalLM(config))
    policy.tokenizer = word_tokenizer(template=template)
    policy.save(folder)
    (folder / SUMS).unlink()  # tests change it as they please
    return str(folder)


def write_jsonl(path: Path, rows: Iterable[Row | Mapping[str, Any]]) -> str:
    """The rows, one a line."""
    objects = [row if isinstance(row, Mapping) else row_to_json(row) for row in rows]
    path.write_text("".join(json.dumps(o) + "\n" for o in objects), encoding="utf-8")
    return str(path)


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def accord(*arguments: object) -> int:
    """The exit status of a command."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as leaving:  # the parser leaves so after --help
        return int(leaving.code or 0)
