"""`accord evaluate comparisons`: how often a model of preferences agrees with held-out judgments."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from accord.commands.evaluate.shared import require_same_vocabulary, tell, write
from accord.commands.score import score_trees
from accord.data import load_data
from accord.data.encoding import encode
from accord.engine.models import Comparer, Model, load_classifier, load_model
from accord.engine.precision import compute_dtype
from accord.engine.trees import Tree
from accord.errors import InputError
from accord.evaluate.accuracy import Accuracy, accuracy, pairwise_accuracy
from accord.evaluate.statistics import as_json
from accord.feedback.learned import Learned
from accord.objectives.preference import general_preference
from accord.records import Preference, Ranking, Row


def comparisons(
    data: str,
    out: str,
    *,
    reward: str | None = None,
    policy: str | None = None,
    reference: str | None = None,
    max_length: int = 512,
    split: str = "train",
    limit: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    name: str | None = None,
    ceiling: float | None = None,
) -> Path:
    """Measure how often a reward or preference model, or a policy's implicit reward, agrees with held-out comparisons.

    A policy's implicit reward is log pi - log ref.

    Args:
        data: a file or Hub name of held-out comparisons.
        out: the folder to write evaluation.json to.
        reward: the folder of a reward model or a preference model.
        policy: the folder or name of a policy whose implicit reward is measured.
        reference: the folder or name of its reference; without it log pi alone is measured.
        max_length: tokens of prompt and completion; longer completions are cut, rows with longer prompts left out.
        split: which rows, such as train, train[:100] or train[-100:].
        limit: only the first so many rows.
        dtype: precision of matrix products; auto is bfloat16 where the processor has it.
        name: what the report calls what is measured.
        ceiling: the accuracy that noise in the comparisons allows, where it is known.

    Raises:
        InputError: the options do not fit the data.
    """
    rows = load_data(data, split=split, limit=limit)
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
    return write(result, out)


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
    require_same_vocabulary(pi, ref)
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
    tell(encoded.left_out)
    if all(len(set(tree.ranks)) == 1 for tree in encoded.trees):
        raise InputError("no comparison prefers one completion to another, so there is nothing to agree with.")
    return encoded.trees
