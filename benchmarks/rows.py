"""The inputs of benchmarks/step.py that both libraries share: rows in a fixed order, and initial weights.

    python benchmarks/rows.py FOLDER

Reads the settings in FOLDER/plan.json, and adds the rows and models to it. Rows are plain text with the chat template
applied, in the order of the file. Only rows are taken that fit the length, and whose prompt and completion give the
same tokens together as apart, so that no library cuts a row, drops one, or reads other tokens than the other. GRPO gets
prompts only.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import accord
from accord import load_model
from accord.data import Order, load_data
from accord.data.chat import encode_prompt
from accord.data.encoding import to_tree
from accord.engine.classifiers import Scorer
from accord.engine.models import Policy
from accord.engine.precision import compute_dtype, has_bfloat16
from accord.engine.trees import Tree
from accord.records import Demonstration, Preference, Row

SEED = 0


def main(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    policy = load_model(plan["model"], device="cpu")
    count = plan["batch_size"] * plan["steps"]
    rows = list(islice((_prompts if plan["work"] == "grpo" else _fitting)(policy, plan), count))
    if len(rows) < count:
        raise SystemExit(
            f"{plan['data']} has only {len(rows)} rows that fit, and {count} are needed: ask for fewer steps."
        )
    if plan["work"] == "grpo":
        make_endless(policy, rows[0]["prompt"])
    separate_padding(policy)
    order = Order(count, plan["batch_size"], SEED)
    start = {"accord": str(policy.save(folder / "policy"))}
    start["trl"] = str(Scorer.on(policy, SEED).save(folder / "scorer")) if plan["work"] == "reward" else start["accord"]
    plan |= {
        "rows": rows,
        "order": [row for step in range(plan["steps"]) for row in order.batch(step)],
        "seed": SEED,
        "start": start,
        "dtype": str(compute_dtype(plan["dtype"])).removeprefix("torch."),
        "machine": machine(),
    }
    (folder / "plan.json").write_text(json.dumps(plan))


def make_endless(policy: Policy, prompt: str) -> None:
    """Make the least likely special token the end of turn, so that all samples are cut at the same length.

    The chat template, whose end of turn accord stops at too, is taken out; the rows are texts by now.
    """
    tokenizer, network = policy.tokenizer, policy.network
    with torch.no_grad():
        logits = network(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1]
    end = min(tokenizer.added_tokens_decoder, key=lambda token: float(logits[token]))
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    tokenizer.chat_template = None
    network.generation_config.eos_token_id = end


def separate_padding(policy: Policy) -> None:
    """Pad with another token than the end of turn.

    transformers' classifiers score the last token that is not padding: with the same token for both, they would score
    the one before the end of turn.
    """
    tokenizer = policy.tokenizer
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.pad_token = next(token for token in tokenizer.all_special_tokens if token != tokenizer.eos_token)


def machine() -> dict[str, Any]:
    """The processor and the versions of packages."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "bfloat16": has_bfloat16(torch.device("cpu")),
        "python": platform.python_version(),
        "accord": accord.__version__,
        **{package: metadata.version(package) for package in ("torch", "transformers", "trl")},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _prompts(policy: Policy, plan: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The prompts as text, without those too long for a sample or tokenized differently."""
    for row in load_data(plan["data"]):
        prompt = encode_prompt(policy.tokenizer, row.prompt)
        if len(prompt) + plan["max_new_tokens"] <= plan["max_length"] and _reads_alike(policy, prompt):
            yield {"prompt": _text(policy, prompt)}


def _fitting(policy: Policy, plan: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The rows as columns of text, without those that are too long or tokenized differently."""
    for index, row in enumerate(load_data(plan["data"])):
        tree = to_tree(policy.tokenizer, _for_work(row, plan["work"]), index)
        whole = all(branch.trained is None for branch in tree.branches)
        distinct = len({branch.tokens for branch in tree.branches}) == len(tree.branches)
        alike = all(_reads_alike(policy, tree.prompt, branch.tokens) for branch in tree.branches)
        if whole and distinct and alike and _longest(tree) <= plan["max_length"]:
            names = ("completion",) if len(tree.branches) == 1 else ("chosen", "rejected")
            texts = (_text(policy, branch.tokens) for branch in tree.branches)
            yield {"prompt": _text(policy, tree.prompt), **dict(zip(names, texts, strict=True))}


def _for_work(row: Row, work: str) -> Row:
    """For SFT, a preference becomes a demonstration of its chosen completion."""
    return Demonstration(row.prompt, row.chosen) if work == "sft" and isinstance(row, Preference) else row


def _longest(tree: Tree) -> int:
    return len(tree.prompt) + max(len(branch.tokens) for branch in tree.branches)


def _text(policy: Policy, tokens: Sequence[int]) -> str:
    return str(policy.tokenizer.decode(list(tokens)))


def _reads_alike(policy: Policy, *pieces: Sequence[int]) -> bool:
    """Whether the joined text of the pieces is tokenized to the same tokens."""
    text = "".join(_text(policy, piece) for piece in pieces)
    return list(policy.tokenizer(text)["input_ids"]) == [token for piece in pieces for token in piece]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
