"""A tiny model, and tasks that it is asked, as the tests of their commands need them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoModelForCausalLM

from accord.data.encoding import to_tree
from accord.data.formats import dialogue
from accord.engine.trees import Tree
from accord.records import Prompt, Ranking
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import plain_log_probabilities

TEXTS = ["hi", "good day", "bye bye", "hello bad day", "bad", "day day hi", "hello", "good good"]
OPTIONS = ["good day", "bye", "bad bad hi"]
PROMPTS = ["{text} hello", "bye {text}"]


def write_home(folder: Path) -> Path:
    """Two random models, two clusters of tasks, and what the first model says greedily as one task's right answers."""
    base = save_model(folder / "base")
    save_model(folder / "plain", template=None)
    prompts = [Prompt(dialogue(f"{text} hello", "", "chat").prompt) for text in TEXTS]
    data, out = write_jsonl(folder / "prompts.jsonl", prompts), folder / "said.jsonl"
    sampled = ("--model", base, "--data", data, "--out", out, "--temperature", "0", "--max-new-tokens", "5")
    assert accord("sample", *sampled, "--dtype", "float32") == 0
    said = [row["completion"].strip() or "good" for row in read_jsonl(out)]
    rows = [
        {"text": text, "mood": OPTIONS[i % 3], "said": said[i], "other": f"{said[i]} hi"}
        for i, text in enumerate(TEXTS)
    ]
    write_jsonl(folder / "rows.jsonl", rows)
    shared = {"data": "rows.jsonl", "split": "train[2:]", "train_split": "train[:2]"}
    written = shared | {"metric": "exact", "prompt": PROMPTS[0]}
    clusters = {
        "mood": {"which": shared | {"metric": "options", "prompt": PROMPTS, "output": "mood", "options": OPTIONS}},
        "words": {"own": written | {"output": "said"}, "others": written | {"output": "other"}},
    }
    (folder / "tasks.yaml").write_text(yaml.safe_dump({"clusters": clusters}, sort_keys=False))
    return folder


def evaluated(home: Path, out: Path, *options: object) -> dict[str, Any]:
    given = ("--tasks", home / "tasks.yaml", "--models.base", home / "base", "--out", out, "--max-new-tokens", "5")
    assert accord("evaluate", "tasks", *given, "--dtype", "float32", *options) == 0
    return json.loads((out / "evaluation.json").read_text())


def exactly(home: Path, prompt: str, form: str) -> tuple[list[float], list[int]]:
    """log pi of every option after the prompt, each by a plain forward of its own, and how many tokens it has."""
    rows = [dialogue(prompt, option, form) for option in OPTIONS]  # type: ignore[arg-type]
    tokenizer = word_tokenizer()
    tree = to_tree(tokenizer, Ranking(rows[0].prompt, tuple(r.completion for r in rows), (0, 1, 2)))
    network = AutoModelForCausalLM.from_pretrained(home / "base", attn_implementation="eager").double()
    alone = [Tree(tree.prompt, (branch,)) for branch in tree.branches]
    sums = [plain_log_probabilities(network, [one]).sum().item() for one in alone]
    return sums, [len(branch.tokens) for branch in tree.branches]
