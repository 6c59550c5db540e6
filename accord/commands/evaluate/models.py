"""`accord evaluate models`: models beside each other on the same prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from accord.commands.evaluate.shared import require_same_vocabulary, tell, write
from accord.data import load_prompts
from accord.data.prompts import encode_prompts
from accord.engine.models import Comparer, load_model
from accord.engine.precision import compute_dtype
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.evaluate.compare import Answers, answer, best_of, divergence, table
from accord.feedback.functions import FunctionJudge
from accord.feedback.judge import Judge, listen
from accord.feedback.learned import LearnedJudge
from accord.feedback.named import judge_named, reward_named
from accord.records import Prompt, show

SIDE_BY_SIDE = 12
"""Prompts whose answers are kept for people to read."""


def models(
    data: str,
    out: str,
    *,
    models: dict[str, str],
    judge: str,
    against: str | None = None,
    reference: str | None = None,
    reward: str | None = None,
    best_of_n: int = 0,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    max_length: int = 512,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Path:
    """Let every model answer every row's prompt: scores, win rates over one of them, divergence from a reference.

    Each comes with a 95% interval.

    Args:
        data: a file or Hub name of held-out prompts, or of rows that have prompts.
        out: the folder to write evaluation.json to.
        models: models by name, as --models.sft runs/sft/model, or a mapping in YAML.
        judge: a small world (cafe), the folder of a reward or preference model, or anything that can be a reward.
        against: the model, of those named, that the others' answers are judged against.
        reference: the model, of those named, that divergence is measured from.
        reward: a reward whose score of every answer is shown.
        best_of_n: also judge the best of so many answers of the model named by --against, chosen by --reward.
        max_new_tokens: answers are cut after so many tokens.
        temperature: divides the logits that answers are drawn from; 0 always takes the most likely token.
        max_length: rows whose prompts leave no room for an answer within so many tokens are left out.
        split: which rows, such as train, train[:100] or train[-100:].
        limit: only the first so many rows.
        seed: one seed gives the same answers again.
        dtype: precision of the models' matrix products; auto is bfloat16 where the processor has it. Reward models that
            score or judge answers compute in float32.

    Raises:
        InputError: the options do not fit each other or the data.
    """
    rows = load_prompts(data, split=split, limit=limit)
    sampling = Sampling(max_new_tokens, temperature, seed=seed)
    result = _compare(rows, models, judge, against, reference, reward, best_of_n, sampling, max_length, dtype)
    Console().print(as_table(result))
    return write(result, out)


def _compare(
    rows: list[Prompt],
    models: dict[str, str],
    judge: str,
    against: str | None,
    reference: str | None,
    reward: str | None,
    best_of_n: int,
    sampling: Sampling,
    max_length: int,
    dtype: str,
) -> dict[str, Any]:
    for option, value in (("against", against), ("reference", reference)):
        if value is not None and value not in models:
            raise InputError(f"--{option} {value} is none of the models named: {', '.join(models)}.")
    if best_of_n and (reward is None or against is None):
        raise InputError("--best-of-n needs --reward to choose by and --against to choose from.")
    origin = load_model(models[reference]) if reference else None
    preference = judge_named(judge)
    rewards = {} if judge == reward or _only_compares(preference) else {judge: reward_named(judge)}
    if reward:
        rewards["reward"] = reward_named(reward)
    answered: list[Answers] = []
    precision = compute_dtype(dtype)
    longest: int | None = max_length
    for name, folder in models.items():
        policy = load_model(folder)
        require_same_vocabulary(policy, origin)
        for feedback in (*rewards.values(), preference):
            listen(feedback, policy)  # one other vocabulary, and all samples are read by their texts
        prompts, left_out = encode_prompts(
            policy.tokenizer, rows, room=sampling.max_new_tokens, context=policy.context, longest=longest
        )
        tell(left_out)
        rows, longest = [rows[p.row] for p in prompts], None  # the first model decides what is too long
        answers = answer(name, policy, prompts, sampling, precision)
        if origin is not None:
            zero = torch.zeros(len(prompts), dtype=torch.float64)
            kl = zero if name == reference else divergence(answers, policy, origin, sampling, precision)
            answers = Answers(name, answers.samples, kl=kl)
        answered.append(answers)
        if best_of_n and name == against:
            many = answer(name, policy, prompts, sampling, precision, best_of_n)
            answered.append(best_of(many, best_of_n, rewards["reward"](many.samples)))
    return {
        "kind": "models",
        "judge": "reward" if judge == reward else judge,
        "against": against,
        "reference": reference,
        "prompts": len(rows),
        "sampling": {
            "temperature": sampling.temperature,
            "max_new_tokens": sampling.max_new_tokens,
            "seed": sampling.seed,
        },
        "models": table(answered, rewards, preference, against),
        "side_by_side": [_side_by_side(answered, i) for i in range(min(SIDE_BY_SIDE, len(rows)))],
    }


def _only_compares(judge: Judge) -> bool:
    """Whether a judge has no score of a single answer to show: a function of two, or a preference model."""
    return isinstance(judge, FunctionJudge) or (isinstance(judge, LearnedJudge) and isinstance(judge.model, Comparer))


def _side_by_side(answered: list[Answers], i: int) -> dict[str, Any]:
    return {
        "prompt": show(answered[0].samples[i].prompt.prompt),
        "answers": [
            {
                "model": a.name,
                "text": a.samples[i].text,
                "scores": {name: float(s[i]) for name, s in a.scores.items()},
            }
            for a in answered
        ],
    }


def as_table(result: dict[str, Any]) -> Table:
    """The result for the terminal."""
    names = list(result["models"][0]["scores"])
    grid = Table("model", *names, f"win rate over {result['against']}", "KL", "tokens", "ended")
    for m in result["models"]:
        won, kl = m["win_rate"], m["kl"]
        grid.add_row(
            m["name"],
            *(f"{m['scores'][n]['estimate']:.3f}" for n in names),
            f"{won['estimate']:.1%} [{won['low']:.1%}, {won['high']:.1%}]" if won else "",
            "" if kl is None else f"{'<= ' if kl['bound'] else ''}{kl['estimate']:.2f}",
            f"{m['length']:.1f}",
            f"{m['ended']:.0%}",
        )
    return grid
