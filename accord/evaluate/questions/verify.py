"""`accord verify`: how often a model's samples are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from accord.cli.sample import draw
from accord.data import load_prompts
from accord.data.encoding import encode_prompts
from accord.engine.load import load_model
from accord.engine.precision import compute_dtype
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.evaluate.passes import passes
from accord.evaluate.statistics import as_json
from accord.feedback.named import reward_named
from accord.feedback.reward import check_prompts
from accord.feedback.verifiers import Verifier
from accord.files import require_folder, write_text
from accord.methods.rollouts import lengths
from accord.records import Prompt


def verify(
    data: str,
    out: str,
    verifier: str,
    *,
    model: str | None = None,
    models: dict[str, str] | None = None,
    n: int = 8,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Path:
    """Measure how often models answer prompts rightly, by a verifier, and write it to verification.json.

    pass@k is the chance that one of k samples is right, estimated without bias from all n; majority@n how often the
    answer that most of the n samples give is right, several that lead sharing the credit. Each is a mean over prompts
    with a 95% interval.

    Args:
        data: a file, Hub name or reasoning-gym:NAME whose rows have prompts and answers.
        out: the folder to write verification.json to.
        verifier: what checks answers: exact, number, math, regex:PATTERN or reasoning-gym, each with @COLUMN where the
            answer stands in another column than `answer`; or any reward, 1 or more being right.
        model: a folder, a Hugging Face Hub name, or smollm2.
        models: several models by name, as --models.before base --models.after runs/star/model, or a mapping in YAML.
        n: samples of each prompt.
        max_new_tokens: a sample is cut after so many tokens.
        temperature: divides the logits; 0 always takes the most likely token.
        split: which rows, such as train, train[:100] or train[-100:].
        limit: only the first so many rows.
        seed: one seed gives the same samples again.
        dtype: precision of matrix products; auto is bfloat16 where the processor has it.

    Raises:
        InputError: no model is given, or a row lacks what the verifier reads.
    """
    require_folder(out)
    if (model is None) == (models is None):
        raise InputError("`accord verify` needs --model, or several by --models.NAME, and not both.")
    if n < 1:
        raise InputError(f"--n must be at least 1, not {n}.")
    if n > 1 and temperature == 0:
        raise InputError("--temperature 0 gives the same sample every time; let --n be 1.")
    rows = load_prompts(data, split=split, limit=limit)
    named = models or {str(model): str(model)}
    sampling = Sampling(max_new_tokens, temperature, seed=seed)
    result = {
        "kind": "verification",
        "data": data,
        "verifier": verifier,
        "prompts": len(rows),
        "samples": n,
        "sampling": {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed},
        "models": [measured(name, source, rows, verifier, n, sampling, dtype) for name, source in named.items()],
    }
    Console().print(as_table(result))
    file = Path(out) / "verification.json"
    write_text(file, json.dumps(result, indent=1, ensure_ascii=False))
    return file


def measured(
    name: str, source: str, rows: list[Prompt], verifier: str, n: int, sampling: Sampling, dtype: str
) -> dict[str, Any]:
    """One model's samples of every prompt in numbers."""
    policy = load_model(source)
    prompts, _ = encode_prompts(policy.tokenizer, rows, room=sampling.max_new_tokens, context=policy.context)
    precision = compute_dtype(dtype, policy.device)
    reward = reward_named(verifier, policy.in_dtype(dtype))
    check_prompts(reward, prompts)
    samples = draw(policy, prompts, n, sampling, precision)
    right = in_groups([score >= 1 for score in reward(samples).tolist()], n)
    answers = in_groups([reward.answer(s.text) for s in samples], n) if isinstance(reward, Verifier) else None
    found = passes(right, answers)
    return {
        "name": name,
        "model": source,
        "pass": {str(k): as_json(interval) for k, interval in found.at.items()},
        "majority": found.majority and as_json(found.majority),
        **lengths(samples),
    }


def in_groups(values: list[Any], n: int) -> list[list[Any]]:
    """The values of n samples each, prompt after prompt, as a list a prompt."""
    return [values[i : i + n] for i in range(0, len(values), n)]


def as_table(result: dict[str, Any]) -> Table:
    """The result for the terminal."""
    last = str(result["samples"])
    ks = list(dict.fromkeys(["1", last]))
    grid = Table("model", *(f"pass@{k}" for k in ks), f"majority@{last}", "tokens", "ended")
    for m in result["models"]:
        rates = [*(m["pass"][k] for k in ks), m["majority"]]
        shown = [f"{r['estimate']:.1%} [{r['low']:.1%}, {r['high']:.1%}]" if r else "" for r in rates]
        grid.add_row(m["name"], *shown, f"{m['length']:.1f}", f"{m['ended']:.0%}")
    return grid
