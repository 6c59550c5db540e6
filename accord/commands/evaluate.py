"""`accord evaluate`: what the data are decides what is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from accord.commands.names import judge_named, reward_named
from accord.commands.score import score_trees
from accord.data import load_data, load_prompts
from accord.data.encoding import encode
from accord.data.prompts import encode_prompts
from accord.engine.models import Comparer, Model, Policy, load_classifier, load_model
from accord.engine.precision import compute_dtype
from accord.engine.sampling import Sampling
from accord.engine.trees import Tree
from accord.errors import InputError
from accord.evaluate.accuracy import Accuracy, accuracy, pairwise_accuracy
from accord.evaluate.compare import Answers, answer, as_json, best_of, divergence, table
from accord.feedback.functions import FunctionJudge
from accord.feedback.judge import Judge, listen
from accord.feedback.learned import Learned, LearnedJudge
from accord.files import write_text
from accord.objectives.preference import general_preference
from accord.records import Preference, Ranking, Row, show

SIDE_BY_SIDE = 12
"""Prompts whose answers are kept for people to read."""


def evaluate(
    data: str,
    out: str,
    *,
    models: dict[str, str] | None = None,
    judge: str | None = None,
    against: str | None = None,
    reference: str | None = None,
    reward: str | None = None,
    policy: str | None = None,
    best_of_n: int = 0,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    max_length: int = 512,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    name: str | None = None,
    ceiling: float | None = None,
) -> Path:
    """Measure models on held-out data.

    With --models and --judge every model answers every row's prompt: scores, win rates over one of them, divergence
    from a reference, each with a 95% interval. Without, the rows must be comparisons, and --reward measures how often a
    reward or preference model agrees with them, --policy with --reference how often a policy's implicit reward does
    (log pi - log ref).

    Args:
        data: a file or Hub name of held-out comparisons or prompts.
        out: the folder to write evaluation.json to.
        models: models by name, as --models.sft runs/sft/model, or a mapping in YAML.
        judge: a small world (cafe), the folder of a reward or preference model, or anything that can be a reward.
        against: the model, of those named, that the others' answers are judged against.
        reference: the model, of those named, that divergence is measured from; on comparisons, a folder or name, and
            without it log pi alone is measured.
        reward: a reward model's folder; its score of every answer is shown, or its accuracy measured, which may be a
            preference model's too.
        policy: the folder or name of a policy whose implicit reward is measured on comparisons.
        best_of_n: also judge the best of so many answers of the model named by --against, chosen by --reward.
        max_new_tokens: answers are cut after so many tokens.
        temperature: divides the logits that answers are drawn from; 0 always takes the most likely token.
        max_length: tokens of prompt and completion; longer completions are cut, rows with longer prompts left out.
        split: which rows, such as train, train[:100] or train[-100:].
        limit: only the first so many rows.
        seed: one seed gives the same answers again.
        dtype: precision of the measured models' matrix products; auto is bfloat16 where the processor has it. Reward
            models that score or judge answers compute in float32.
        name: what the report calls the measured model of preferences.
        ceiling: the accuracy that noise in the comparisons allows, where it is known.

    Raises:
        InputError: the options do not fit the data.
    """
    unused = {"policy": policy, "ceiling": ceiling} if models else {"judge": judge, "against": against}
    for option, value in unused.items():
        if value is not None:
            raise InputError(f"--{option} is of no use {'with' if models else 'without'} --models; leave it out.")
    rows: list[Row] = [*(load_prompts if models else load_data)(data, split=split, limit=limit)]
    if models:
        if judge is None:
            raise InputError("--models needs --judge to say whose answers are better.")
        sampling = Sampling(max_new_tokens, temperature, seed=seed)
        result = _compare(rows, models, judge, against, reference, reward, best_of_n, sampling, max_length, dtype)
        Console().print(as_table(result))
    else:
        if not all(isinstance(row, Preference | Ranking) for row in rows):
            raise InputError(f"{data} holds no comparisons: give --models and --judge to compare models' answers.")
        if (reward is None) == (policy is None):
            raise InputError(f"{data} holds comparisons: give --reward, or --policy with --reference, to measure it.")
        kind, measured = _accuracy(rows, reward, policy, reference, max_length, dtype)
        result = {
            "kind": "comparisons",
            "name": name or kind,
            "data": data,
            "accuracy": as_json(measured.accuracy),
            "ceiling": ceiling,
            "ties": measured.ties,
        }
        a = measured.accuracy
        line = f"{result['name']}: accuracy {a.estimate:.3f} [{a.low:.3f}, {a.high:.3f}] on {a.n} pairs"
        Console().print(line, highlight=False)
    file = Path(out) / "evaluation.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(result, indent=1, ensure_ascii=False))
    return file


def _accuracy(
    rows: list[Row], reward: str | None, policy: str | None, reference: str | None, max_length: int, dtype: str
) -> tuple[str, Accuracy]:
    """What is measured, and how often it agrees: a reward or preference model, or a policy's implicit reward."""
    if reward is not None:
        model = load_classifier(reward)
        trees = _encoded(model, rows, max_length)
        labels = Learned(model, dtype=compute_dtype(dtype, model.device)).of_trees(trees).double()
        leads = [general_preference(x[:, None], x).tolist() for x in labels.split([len(t.branches) for t in trees])]
        kind = "preference model" if isinstance(model, Comparer) else "reward model"
        return kind, pairwise_accuracy(leads, [t.ranks for t in trees])
    pi, ref = load_model(str(policy)), load_model(reference) if reference else None
    _require_same_vocabulary(pi, ref)
    precision = compute_dtype(dtype, pi.device)
    trees = _encoded(pi, rows, max_length)
    scores = [logps for logps, _ in score_trees(pi, trees, precision)]
    if ref is not None:
        base = [logps for logps, _ in score_trees(ref, trees, precision)]
        scores = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(scores, base, strict=True)]
    return "implicit reward", accuracy(scores, [t.ranks for t in trees])


def _encoded(model: Model, rows: list[Row], max_length: int) -> list[Tree]:
    """The comparisons as trees; what is left out is told."""
    encoded = encode(model.tokenizer, rows, max_length=max_length, context=model.context)
    _tell(encoded.left_out)
    if all(len(set(tree.ranks)) == 1 for tree in encoded.trees):
        raise InputError("no comparison prefers one completion to another, so there is nothing to agree with.")
    return encoded.trees


def _tell(lines: list[str]) -> None:
    for line in lines:
        Console(stderr=True).print(line, markup=False, highlight=False)


def _require_same_vocabulary(policy: Policy, reference: Policy | None) -> None:
    if reference is not None and not policy.same_vocabulary(reference):
        raise InputError(f"{policy.name} and --reference {reference.name} have different vocabularies; choose another.")


def _compare(
    rows: list[Row],
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
        _require_same_vocabulary(policy, origin)
        for feedback in (*rewards.values(), preference):
            listen(feedback, policy)  # one other vocabulary, and all samples are read by their texts
        prompts, left_out = encode_prompts(
            policy.tokenizer, rows, room=sampling.max_new_tokens, context=policy.context, longest=longest
        )
        _tell(left_out)
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
