"""`accord sample`: completions of prompts, a row each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from accord.commands.progress import counting
from accord.data import load_data
from accord.data.prompts import encode_prompts
from accord.engine.generate import generate
from accord.engine.models import load_model
from accord.engine.precision import compute_dtype, computing
from accord.engine.sampling import Sampling
from accord.files import write_rows
from accord.records import text_to_json


def sample(
    model: str,
    data: str,
    out: str,
    *,
    n: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    split: str = "train",
    limit: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Path:
    """Sample completions of prompts and write them as rows of prompt, completion, log-probability and stop reason.

    Args:
        model: a folder, a Hugging Face Hub name, or smollm2.
        data: a file or Hub name whose rows have prompts.
        out: the JSONL file to write.
        n: completions of each prompt.
        max_new_tokens: a completion is cut after so many tokens.
        temperature: divides the logits; 0 always takes the most likely token.
        top_k: draw only from the k most likely tokens (0: all).
        top_p: draw only from the most likely tokens that together have this probability (1: all).
        seed: one seed gives the same completions again.
        split: which rows, such as train, train[:100] or train[-100:].
        limit: only the first so many rows.
        dtype: precision of matrix products; auto is bfloat16 where the processor has it.
    """
    policy = load_model(model)
    rows = load_data(data, split=split, limit=limit)
    prompts, _ = encode_prompts(policy.tokenizer, rows, room=max_new_tokens, context=policy.context)
    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, seed)
    with counting("sample", len(prompts) * n) as done, computing(compute_dtype(dtype, policy.device), policy.device):
        groups = generate(policy.network, [p.tokens for p in prompts], n, sampling, end=policy.end, progress=done)
    write_rows(
        out,
        (
            {
                **p.prompt.columns,
                "prompt": text_to_json(p.prompt.prompt),
                "completion": policy.text(c.tokens),
                "logprob": sum(c.logprobs),
                "tokens": len(c.tokens),
                "stop": c.stop,
            }
            for p, group in zip(prompts, groups, strict=True)
            for c in group
        ),
    )
    return Path(out)
