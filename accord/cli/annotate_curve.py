"""`accord annotate curve`: reward-model accuracy against the number of labels, and its extrapolation."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accord.cli.annotate import opened
from accord.console import progress_bar, show, status
from accord.errors import InputError, located
from accord.evaluate.options import checked_by, takes
from accord.methods import RewardModel
from accord.outputs import require_folder
from accord.records import Comparison, Preference, Ranking, Row, Text, text_to_json
from accord.results.base import FILE

if TYPE_CHECKING:
    from accord.annotate.project import Project
    from accord.data.judgments import Judgment
    from accord.evaluate.accuracy import Predictions
    from accord.evaluate.learning_curve import HeldOutOutcomes
    from accord.results.learning_curve import LearningCurveResult

PARTS = (8, 4, 2, 1)
"""The sizes of the training sets are all labels divided by these."""

LEAST, HELD = 40, 20
"""The fewest labels, and the fewest held-out prompts, for which a curve is fitted."""


def _check(database: str | None, data: str | None, held_out: float, repeats: int, target: float | None) -> None:
    if (database is None) == (data is None):
        raise InputError("give --database, a project, or --data, a file of preferences or rankings.")
    if not 0 < held_out < 1:
        raise InputError(f"--held-out must be a share of the prompts between 0 and 1, not {held_out:g}.")
    if repeats < 2:
        raise InputError(
            f"--repeats must be at least 2, not {repeats}: their spread is needed to tell a curve from chance."
        )
    if target is not None and not 0.5 < target < 1:
        raise InputError(f"--target must be an accuracy between .5 (chance) and 1, not {target:g}.")


@takes(RewardModel)
@checked_by(_check)
def learning_curve(
    model: str,
    *,
    database: str | None = None,
    data: str | None = None,
    task: str | None = None,
    out: str | None = None,
    columns: dict[str, str] | None = None,
    held_out: float = 0.25,
    repeats: int = 4,
    target: float | None = None,
    **options: Any,
) -> LearningCurveResult:
    """Measure how accuracy grew with the labels so far, and estimate what more labels would gain.

    Reward models are trained on an eighth, a quarter, half and all of the labels, several times each, and tested on
    held-out prompts. A curve a - b n^(-c) fitted to their accuracies says what more labels would gain. It is printed
    and kept for the owner's page. Labels are rows that prefer an answer: a reward model learns nothing from ties.

    Args:
        model: the model that reward models are trained from: a folder, a Hugging Face Hub name, or smollm2.
        database: the project whose answers are the labels: an SQLite file or a postgresql:// URL.
        data: instead of --database, a file or Hub name of preferences or rankings.
        task: the project's task, where it has several.
        out: the folder to write evaluation.json to; `accord report` makes a page of it.
        columns: the data's own names for accord's columns: prompt=question,chosen=best.
        held_out: the share of prompts to hold out, chosen by a digest of their text, so that prompts stay where they
            are as labels are added.
        repeats: how many models are trained for each number of labels, each on its own draw of labels and with its own
            initialization.
        target: the accuracy for which to estimate the labels needed (default: the next multiple of 5%).
        options: the fields of `RewardModel`.

    Raises:
        InputError: there are too few labels or prompts, the data cannot be learned from, or an option makes no sense.
        TrainingStopped: a training stopped itself.
    """
    _check(database, data, held_out, repeats, target)
    method = RewardModel(**options)
    if out is not None:
        require_folder(out, model, data, options, leaves=(FILE,))
    project = None if database is None else opened(database, is_new=False)
    if project is not None:
        project.database.require_writable()  # where the curve is kept
    source, asked = (data, "") if project is None else _answers(project, task)
    name = data if project is None else project.database.name
    labels = divided(source, columns, held_out, str(name))
    from accord.evaluate import learning_curve as curves

    tried = _outcomes(labels, model, method, repeats)
    result = curves.learning_curve(tried, target, seed=method.seed)
    result = result.model_copy(update={"data": name, "model": model, "warnings": labels.warnings}).dated()
    if out is not None:
        result.save(out)
    if project is not None:
        project.keep_curve(asked, result)
        project.database.close()
    show(*result.tables(), result.sentence())
    for line in result.warnings:
        status(line)
    return result


def _answers(project: Project, task: str | None) -> tuple[list[dict[str, Any]], str]:
    """The rows of a project's answers to a task, and the task's name."""
    from accord.annotate.export import rows_of

    with project.database.reading() as session:
        exported = rows_of(session, task)
    if not {"chosen", "completions"} & exported.rows[0].keys():
        raise InputError(f"the answers to {exported.task} compare nothing, so that no reward model learns from them.")
    return exported.rows, exported.task


@dataclass(frozen=True)
class Labels:
    """Training rows by prompt, and the judgments of held-out prompts."""

    rows: Mapping[Text, Sequence[Row]]
    held: Sequence[Judgment]
    warnings: list[str]

    def nested(self, seed: int) -> list[Row]:
        """All rows, such that the first n are the training set of size n: prompts shuffled, rows of one together."""
        prompts = list(self.rows)
        random.Random(seed).shuffle(prompts)
        return [row for prompt in prompts for row in self.rows[prompt]]


def is_held_out(prompt: Text, share: float) -> bool:
    """Whether a prompt is held out; decided by the SHA-256 of its text alone, independent of other prompts."""
    text = json.dumps(text_to_json(prompt), sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") < share * 2**64


def divided(source: Any, columns: Mapping[str, str] | None, share: float, name: str) -> Labels:
    """The rows of a source, divided into training and held-out prompts. Raises InputError where either are too few."""
    from accord.data.judgments import Judgment, compared, weight_of
    from accord.data.load import read_rows

    held: list[Judgment] = []
    learned: dict[Text, list[Row]] = {}
    ties = 0
    for number, (row, cells, _) in enumerate(read_rows(source, "train", None, columns=columns, keep=True)):
        pairs = [pair for pair in compared(row) if pair[2] != 0.5]
        ties += isinstance(row, Preference | Ranking) and not pairs
        if not is_held_out(row.prompt, share):
            learned.setdefault(row.prompt, []).extend([row] if pairs else [])
            continue
        with located(f"{name}, row {number + 1}: "):
            held += [Judgment(row.prompt, *pair, number, weight=weight_of(cells)) for pair in pairs]
    count, prompts = sum(map(len, learned.values())), len({judgment.prompt for judgment in held})
    if not (held or count or ties):
        raise InputError(f"{name} holds no comparisons: rows need chosen and rejected, or completions and ranks.")
    if count < LEAST or prompts < HELD:
        raise InputError(
            f"{name}: too few to tell anything: {count} labels to learn from and {prompts} prompts held out, where a "
            f"curve needs {LEAST} and {HELD} (a share of {share:g} of the prompts is held out)."
        )
    status(
        f"annotate: {count:,} labels to learn from, in random order; held out are {len(held):,} comparisons of "
        f"{prompts:,} prompts"
    )
    return Labels(learned, held, [f"{ties:,} rows that prefer no answer are left out."] if ties else [])


def _outcomes(labels: Labels, model: str, method: RewardModel, repeats: int) -> HeldOutOutcomes:
    """Correct held-out comparisons of models trained on each size; only the first training shows its progress."""
    import numpy as np

    from accord.evaluate.learning_curve import HeldOutOutcomes, by_prompt

    total = sum(map(len, labels.rows.values()))
    sizes = [total // part for part in PARTS]
    right: dict[tuple[int, int], Any] = {}
    weight: Any = None
    with progress_bar("models", repeats * len(sizes)) as done:
        for repeat, size in product(range(repeats), sizes[::-1]):
            trained, rows = replace(method, seed=method.seed + repeat), labels.nested(method.seed + repeat)
            with redirect_stderr(io.StringIO()) if right else nullcontext():
                trial, left_out = _trial(trained, model, rows[:size], labels.held)
            if not right:
                _warn(labels, trial, left_out, total)
            right[repeat, size], weight = by_prompt(trial)
            accuracy = right[repeat, size].sum() / weight.sum()
            status(f"annotate: {size:,} labels, repeat {repeat + 1} of {repeats}: accuracy {accuracy:.3f}")
            done(1)
    outcomes = np.array([[right[repeat, size] for size in sizes] for repeat in range(repeats)])
    return HeldOutOutcomes(np.array(sizes, dtype=np.float64), outcomes, weight)


def _trial(method: RewardModel, model: str, rows: list[Row], held: Sequence[Judgment]) -> tuple[Predictions, list[str]]:
    """A reward model trained on some rows and tested on the held-out ones; and why rows were left out, a line each."""
    from accord import feedback
    from accord.evaluate.accuracy import Predictions
    from accord.evaluate.leads import ModelLeads

    with tempfile.TemporaryDirectory() as folder:
        run = method.fit(model, rows, out=folder, track="none", save_every=10**9)
        file = Path(folder) / "left_out.jsonl"
        left_out = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    scorer: Any = run.model
    leads = ModelLeads(scorer, feedback.learned.Learned(scorer).of_trees, method.max_length)(
        [Comparison(j.prompt, j.first, j.second, j.columns) for j in held]
    )
    return Predictions(held, leads.lead).where(leads.read), [json.loads(line)["why"] for line in left_out]


def _warn(labels: Labels, trial: Predictions, left_out: Sequence[str], total: int) -> None:
    """Add warnings about unread rows. Raises InputError where too few held-out prompts are left."""
    prompts = len({judgment.prompt for judgment in trial.judgments})
    if prompts < HELD:
        raise InputError(
            f"only {prompts} of the prompts held out leave room for an answer within --max-length and the model's "
            f"context, and a curve needs {HELD}."
        )
    if left_out:
        labels.warnings.append(
            f"{len(left_out):,} of {total:,} labels are counted, and were not learned from: {left_out[0]}."
        )
    if unread := len(labels.held) - len(trial.lead):
        labels.warnings.append(
            f"{unread:,} of {len(labels.held):,} comparisons held out could not be read: their prompts leave no room "
            "for an answer, or both answers begin alike."
        )
