"""`accord evaluate models`: models, and answers written before, beside each other on the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from accord.engine.load import load_model
from accord.engine.precision import compute_dtype
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.evaluate.compare import Answers, table
from accord.evaluate.questions.boards import tables
from accord.evaluate.questions.entrants import Answering, Competitors
from accord.evaluate.questions.shared import tell, write
from accord.evaluate.statistics import as_json
from accord.evaluate.wins import Duels, held_against, judged, standings, warnings
from accord.evaluate.written import Written
from accord.feedback.ai import with_progress
from accord.feedback.judge import Judge
from accord.feedback.named import judge_named, only_compares, reward_named
from accord.feedback.reward import Reward, check_prompts
from accord.files import require_folder, write_rows
from accord.records import EncodedPrompt, Prompt, show

SIDE_BY_SIDE = 12
"""Prompts whose answers are kept for people to read."""


def models(
    out: str,
    *,
    judge: str,
    data: str | None = None,
    models: dict[str, str] | None = None,
    samples: dict[str, str] | None = None,
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
    """Judge every two models' answers to the same prompts: scores, win rates, a board, divergence from a reference.

    Each comes with a 95% interval. Every pair is judged in both orders. Beside evaluation.json, wins.jsonl has every
    verdict.

    Args:
        out: the folder to write evaluation.json and wins.jsonl to.
        judge: a small world (cafe), the folder of a reward or preference model, ai:MODEL or the YAML file of an AI
            judge, module:function, a file of preferences that people gave, or anything that can be a reward.
        data: a file or Hub name of held-out prompts, or of rows that have prompts; without it, the prompts of the files
            of answers.
        models: models by name, as --models.sft runs/sft/model, or a mapping in YAML.
        samples: files of prompts and completions by name, whose first completion of every prompt competes, as
            --samples.people answers.jsonl.
        against: the model or file, of those named, that the others' answers are held against in the first table.
        reference: the model, of those named, that divergence is measured from.
        reward: a reward whose score of every answer is shown.
        best_of_n: also judge the best of so many answers of the model named by --against, chosen by --reward.
        max_new_tokens: answers are cut after so many tokens.
        temperature: divides the logits that answers are drawn from; 0 always takes the most likely token.
        max_length: rows whose prompts leave no room for an answer within so many tokens are left out.
        split: which rows of the data, such as train, train[:100] or train[-100:].
        limit: only the first so many rows.
        seed: one seed gives the same answers again.
        dtype: precision of the models' matrix products; auto is bfloat16 where the processor has it. Reward models that
            score or judge answers compute in float32.

    Raises:
        InputError: the options do not fit each other or the data, or files answer different prompts.
    """
    require_folder(out)
    if best_of_n and (reward is None or against is None):
        raise InputError("--best-of-n needs --reward to choose by and --against to choose from.")
    files = {name: Written(path) for name, path in (samples or {}).items()}
    entrants = Competitors(models or {}, files, against, reference, best_of_n)
    sampling = Sampling(max_new_tokens, temperature, seed=seed)
    rows = entrants.prompts(data, split, limit)
    referee, rewards = _feedback(judge, reward, rows)
    origin = load_model(entrants.models[reference]) if reference else None
    answering = Answering(sampling, compute_dtype(dtype), origin, (referee, *rewards.values()), SIDE_BY_SIDE)
    answered = _answers(entrants, answering, rows, max_length, rewards.get("reward"))
    measured = table(answered, rewards)
    duels = judged(referee, answered)
    result = {
        "kind": "models",
        "judge": "reward" if judge == reward else judge,
        "against": against,
        "reference": reference,
        "prompts": len(answered[0].samples),
        "sampling": {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed} if models else None,
        **_results(measured, duels, against),
        "side_by_side": _side_by_side(answered),
    }
    for grid in tables(result):
        Console().print(grid)
    tell(f"evaluate: {line}" for line in result["warnings"])
    write_rows(Path(out) / "wins.jsonl", (row for d in duels for row in d.rows()))
    return write(result, out)


def _feedback(judge: str, reward: str | None, rows: Sequence[Prompt]) -> tuple[Judge, dict[str, Reward]]:
    """The judge, and the rewards whose scores are shown: the judge's own where it has any, and --reward."""
    referee = with_progress(judge_named(judge))
    rewards = {} if judge == reward or only_compares(referee) else {judge: reward_named(judge)}
    if reward:
        rewards["reward"] = reward_named(reward)
    readers: list[Judge | Reward] = [referee, *rewards.values()]
    for reader in readers:
        check_prompts(reader, [EncodedPrompt(row, (), i) for i, row in enumerate(rows)])
    return referee, rewards


def _answers(
    entrants: Competitors, answering: Answering, rows: list[Prompt], max_length: int, reward: Reward | None
) -> list[Answers]:
    """Everybody's answers to the same prompts: models first, each in the order in which it was named."""
    answered: list[Answers] = []
    longest: int | None = max_length
    for name, folder in entrants.models.items():
        policy = answering.prefill(folder)
        prompts = answering.prompts(policy, rows, longest)
        rows, longest = [p.prompt for p in prompts], None  # the first model decides what is too long
        answered.append(answering.measured(answering.answers(name, policy, prompts), policy))
        if entrants.best_of_n and name == entrants.against and reward is not None:
            many = answering.answers(name, policy, prompts, entrants.best_of_n)
            answered.append(answering.best(many, entrants.best_of_n, reward, policy))
    return answered + [file.answers(name, rows) for name, file in entrants.files.items()]


def _results(measured: list[dict[str, Any]], duels: Sequence[Duels], against: str | None) -> dict[str, Any]:
    """The models' rows with their win rates, every pair, the board, and what to beware of."""
    rivals = held_against(duels, against)
    for row in measured:
        row["win_rate"] = rivals[row["name"]].win_rate() if row["name"] in rivals else None
    board = [{"name": s.name, "rating": as_json(s.rating), "elo": as_json(s.elo)} for s in standings(duels)]
    return {
        "models": measured,
        "pairs": [d.as_pair() for d in duels],
        "board": board or None,
        "warnings": warnings(duels),
    }


def _side_by_side(answered: Sequence[Answers]) -> list[dict[str, Any]]:
    """The first prompts with everybody's answers, their scores, and each token's log pi - log ref where it is known."""
    return [
        {
            "prompt": show(first.prompt.prompt),
            "answers": [
                {
                    "model": a.name,
                    "text": a.samples[i].text,
                    "scores": {name: float(scores[i]) for name, scores in a.scores.items()},
                    **({"tokens": a.traced[i]} if a.traced else {}),
                }
                for a in answered
            ],
        }
        for i, first in enumerate(answered[0].samples[:SIDE_BY_SIDE])
    ]
