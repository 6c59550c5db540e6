"""`accord score`: the log-probability a model gives to every completion of every row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from accord.commands.progress import counting
from accord.data import load_data
from accord.data.encoding import to_tree
from accord.engine.forward import log_probabilities
from accord.engine.models import Policy, load_model
from accord.engine.precision import compute_dtype, computing
from accord.engine.trees import Tree, pack
from accord.errors import InputError
from accord.files import write_rows
from accord.objectives.segments import segment_sum
from accord.records import Preference, Prompt, Ranking


def score(
    model: str,
    data: str,
    out: str,
    *,
    split: str = "train",
    limit: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "float32",
    tokens_per_pass: int = 4096,
) -> Path:
    """Write for every row the log-probability of its completions, in nats, summed over tokens, end of turn included.

    Preferences get chosen_logp, chosen_tokens, rejected_logp and rejected_tokens; single completions completion_logp
    and completion_tokens; rankings the lists completions_logp and completions_tokens.

    Args:
        model: a folder, a Hugging Face Hub name, or smollm2.
        data: a file or Hub name of preferences, demonstrations or rankings.
        out: the JSONL file to write, a row for each row of the data.
        split: which rows, such as train, train[:100] or train[-100:].
        limit: only the first so many rows.
        dtype: precision of matrix products; auto is bfloat16 where the processor has it.
        tokens_per_pass: tokens computed at once; fewer need less memory.

    Raises:
        InputError: a row has no completion, or does not fit into the model's context.
    """
    policy = load_model(model)
    rows = load_data(data, split=split, limit=limit)
    trees = []
    for i, row in enumerate(rows):
        if isinstance(row, Prompt):
            raise InputError(f"{data}, row {i + 1}: there is no completion to score.")
        trees.append(to_tree(policy.tokenizer, row, i))
        longest = len(trees[-1].prompt) + max(len(b.tokens) for b in trees[-1].branches)
        if policy.context is not None and longest > policy.context:
            raise InputError(
                f"{data}, row {i + 1}: {longest} tokens do not fit into the model's context of {policy.context}."
            )
    sums = score_trees(policy, trees, compute_dtype(dtype, policy.device), tokens_per_pass)
    write_rows(out, (_row(row, *s) for row, s in zip(rows, sums, strict=True)))
    return Path(out)


@torch.no_grad()
def score_trees(
    policy: Policy, trees: Sequence[Tree], dtype: torch.dtype, tokens_per_pass: int = 4096
) -> list[tuple[list[float], list[int]]]:
    """For every tree its branches' log-probabilities and numbers of tokens."""
    result: list[tuple[list[float], list[int]]] = [([], [])] * len(trees)
    place = {id(tree): i for i, tree in enumerate(trees)}
    with counting("score", len(trees)) as done:
        for batch in pack(trees, tokens_per_pass, policy.device):
            with computing(dtype, policy.device):
                logp, _ = log_probabilities(policy.network, batch)
            sums = segment_sum(logp.double(), batch.owner, batch.branches).tolist()
            counts = torch.bincount(batch.owner, minlength=batch.branches).tolist()
            for tree in batch.trees:
                size = len(tree.branches)
                result[place[id(tree)]] = (sums[:size], counts[:size])
                sums, counts = sums[size:], counts[size:]
            done(len(batch.trees))
    return result


def _row(row: object, logps: list[float], tokens: list[int]) -> dict[str, Any]:
    if isinstance(row, Ranking):
        return {"completions_logp": logps, "completions_tokens": tokens}
    names = ("chosen", "rejected") if isinstance(row, Preference) else ("completion",)
    return {
        f"{n}_{k}": v for n, lp, t in zip(names, logps, tokens, strict=True) for k, v in (("logp", lp), ("tokens", t))
    }
