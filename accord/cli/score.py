"""`accord score`: the log-probabilities that a model gives to completions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from accord import engine
from accord.engine.config import require_positive
from accord.errors import InputError
from accord.evaluate.options import ChatOptions, checked_by, takes
from accord.outputs import require_file, save_rows
from accord.records import Preference, Prompt, Ranking


def _check(tokens_per_pass: int) -> None:
    require_positive(tokens_per_pass=tokens_per_pass)


@takes(ChatOptions)
@checked_by(_check)
def score(
    model: str,
    data: str | list[str],
    out: str,
    *,
    dtype: Literal["auto", "float32", "bfloat16"] = "float32",
    tokens_per_pass: int = 4096,
    **options: Any,
) -> Path:
    """Write each row's completion log-probabilities, in nats, summed over tokens, the end of turn included.

    Preferences get chosen_logp, chosen_tokens, rejected_logp and rejected_tokens; single completions completion_logp
    and completion_tokens; rankings the lists completions_logp and completions_tokens.

    Args:
        model: a folder, a Hugging Face Hub name, or smollm2.
        data: a file or Hub name of preferences, demonstrations or rankings, or several.
        out: the JSONL file to write, a row for each row of the data.
        dtype: precision of matrix products; auto is bfloat16 where the processor supports it.
        tokens_per_pass: tokens computed at once; fewer take less memory.
        options: the fields of `ChatOptions`.

    Raises:
        InputError: a row has no completion, or does not fit into the model's context.
    """
    from accord.data.encoding import to_tree
    from accord.data.mix import called
    from accord.evaluate.answers import branch_log_probs

    _check(tokens_per_pass)
    require_file(out, model, data, options)
    settings = ChatOptions(**options)
    policy = settings.templated(engine.load.load_model(model).in_dtype(dtype))
    rows = settings.rows(data)
    trees = []
    for i, row in enumerate(rows):
        if isinstance(row, Prompt):
            raise InputError(f"{called(data)}, row {i + 1}: there is no completion to score.")
        trees.append(to_tree(policy.tokenizer, row, i))
        longest = len(trees[-1].prompt) + max(len(b.tokens) for b in trees[-1].branches)
        if policy.context is not None and longest > policy.context:
            raise InputError(
                f"{called(data)}, row {i + 1}: {longest} tokens do not fit into the model's context of "
                f"{policy.context}."
            )
    sums = branch_log_probs(policy, trees, tokens_per_pass)
    counts = [[len(b.tokens) if b.trained is None else sum(b.trained) for b in tree.branches] for tree in trees]
    save_rows(out, map(_row, rows, sums, counts))
    return Path(out)


def _row(row: object, logps: list[float], tokens: list[int]) -> dict[str, Any]:
    if isinstance(row, Ranking):
        return {"completions_logp": logps, "completions_tokens": tokens}
    names = ("chosen", "rejected") if isinstance(row, Preference) else ("completion",)
    return {
        f"{n}_{k}": v for n, lp, t in zip(names, logps, tokens, strict=True) for k, v in (("logp", lp), ("tokens", t))
    }
