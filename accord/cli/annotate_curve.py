"""`accord annotate curve`: what the labels so far have bought, and what more would buy."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from accord.cli.annotate import opened
from accord.console import counting, show, status
from accord.errors import InputError
from accord.evaluate.options import takes
from accord.files import require_folder
from accord.methods import RewardModel
from accord.records import Comparison, Text, text_to_json

if TYPE_CHECKING:
    from accord.data.judgments import Judgment
    from accord.evaluate.accuracy import Trial
    from accord.results.learning_curve import LearningCurveResult

PARTS = (8, 4, 2, 1)
"""The sizes are the labels divided by these."""

LEAST, HELD = 40, 20
"""Of fewer labels, or fewer prompts held out, no curve is made."""


@takes(RewardModel)
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
    """Measure what the labels so far have bought, and estimate what more would buy.

    Reward models are trained on an eighth of the labels, a quarter, half and all, several times over, and tried on
    prompts held out. A curve a - b n^(-c) through their accuracies says what more labels would buy. It is shown, and
    kept for the owner's page. Labels are rows that prefer an answer: ties teach a reward model nothing.

    Args:
        model: what reward models start from: a folder, a Hugging Face Hub name, or smollm2.
        database: the project whose answers are learned from, a file of SQLite or a postgresql:// URL.
        data: instead, a file or Hub name of preferences or rankings.
        task: of the project, where it has several.
        out: the folder to write evaluation.json to, of which `accord report` makes a page.
        columns: names of the data's columns, as prompt=question,chosen=best.
        held_out: the share of the prompts that is held out: by a digest of their text, so that more labels leave
            prompts where they are.
        repeats: how many models are trained of each size, each on labels of its own and from another start.
        target: the accuracy for which wanted labels are estimated; the next multiple of 5% unless given.
        options: the fields of `RewardModel`.

    Raises:
        InputError: there are too few labels or prompts, the data cannot be learned from, or an option makes no sense.
        TrainingStopped: a training stopped itself.
    """
    if (database is None) == (data is None):
        raise InputError("give --database, a project, or --data, a file of preferences or rankings.")
    if not 0 < held_out < 1:
        raise InputError(f"--held-out is a share of the prompts between 0 and 1, not {held_out:g}.")
    if repeats < 2:
        raise InputError(f"--repeats must be at least 2, not {repeats}: by their scatter a curve is told from chance.")
    if target is not None and not 0.5 < target < 1:
        raise InputError(f"--target is an accuracy between .5, which is chance, and 1, not {target:g}.")
    method = RewardModel(**options)
    if out is not None:
        require_folder(out)
    project = None if database is None else opened(database, is_new=False)
    source: Any = data
    if project is not None:
        with project.database.reading() as session:
            from accord.annotate.export import rows_of

            exported = rows_of(session, task)
        source, task = exported.rows, exported.task
    labels = divided(source, columns, held_out, data or f"the answers in {database}")
    from accord.evaluate import learning_curve as curves

    tried = _tried(labels, model, method, repeats, columns)
    result = curves.learning_curve(tried, target, seed=method.seed)
    name = data or project.database.name  # type: ignore[union-attr]
    result = result.model_copy(update={"data": name, "model": model, "warnings": labels.warnings})
    if out is not None:
        result.save(out)
    if project is not None:
        project.keep_curve(str(task), result)
        project.database.close()
    show(*result.tables(), result.sentence())
    for line in result.warnings:
        status(line)
    return result


@dataclass(frozen=True)
class Labels:
    """Rows to learn from, by prompt, and the judgments of prompts held out."""

    rows: Mapping[Text, Sequence[Mapping[str, Any]]]
    held: Sequence[Judgment]
    warnings: list[str]

    def nested(self, seed: int) -> list[Mapping[str, Any]]:
        """All rows, the first of which are a subset of any size: prompts in random order, those of one together."""
        prompts = list(self.rows)
        random.Random(seed).shuffle(prompts)
        return [row for prompt in prompts for row in self.rows[prompt]]


def is_held_out(prompt: Text, share: float) -> bool:
    """Whether a prompt is among the share that is held out, by the SHA-256 of its text: no other prompt matters."""
    text = json.dumps(text_to_json(prompt), sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") < share * 2**64


def divided(source: Any, columns: Mapping[str, str] | None, share: float, name: str) -> Labels:
    """The rows of a source, those of some prompts held out. Raises InputError where either are too few."""
    from accord.data.judgments import load_judgments
    from accord.data.load import open_rows

    rows = [row for _, _, row in open_rows(source)]
    judgments = load_judgments(source if isinstance(source, str) else rows, columns=columns)
    strict = {j.row: j.prompt for j in judgments if j.label != 0.5}
    held = [j for j in judgments if j.row in strict and is_held_out(j.prompt, share)]
    learned: dict[Text, list[Mapping[str, Any]]] = {}
    for row, prompt in strict.items():
        if not is_held_out(prompt, share):
            learned.setdefault(prompt, []).append(rows[row])
    count, prompts = sum(map(len, learned.values())), len({j.prompt for j in held})
    if count < LEAST or prompts < HELD:
        raise InputError(
            f"{name}: too few to tell anything: {count} labels to learn from and {prompts} prompts held out, where a "
            f"curve needs {LEAST} and {HELD} (of {len({*strict.values()})} prompts a share of {share:g} is held out)."
        )
    ties = len({j.row for j in judgments}) - len(strict)
    return Labels(learned, held, [f"{ties:,} rows that prefer no answer are left out."] if ties else [])


def _tried(labels: Labels, model: str, method: RewardModel, repeats: int, columns: Mapping[str, str] | None) -> Any:
    """What models of each size get right, the largest of the first repeat trained first, and seen to be."""
    import numpy as np

    from accord.evaluate.learning_curve import Tried, by_prompt

    total = sum(map(len, labels.rows.values()))
    sizes = [total // part for part in PARTS]
    right: dict[tuple[int, int], Any] = {}
    weight: Any = None
    with counting("models", repeats * len(sizes)) as done:
        for repeat in range(repeats):
            rows = labels.nested(method.seed + repeat)
            for size in sizes[::-1]:
                is_first = not right
                with nullcontext() if is_first else redirect_stderr(io.StringIO()):
                    trial = _trial(replace(method, seed=method.seed + repeat), model, rows[:size], labels.held, columns)
                right[repeat, size], weight = by_prompt(trial)
                accuracy = right[repeat, size].sum() / weight.sum()
                status(f"annotate: {size:,} labels, repeat {repeat + 1} of {repeats}: accuracy {accuracy:.3f}")
                done(1)
    return Tried(
        np.array(sizes, dtype=np.float64),
        np.array([[right[repeat, size] for size in sizes] for repeat in range(repeats)]),
        weight,
    )


def _trial(
    method: RewardModel, model: str, rows: Sequence[Mapping[str, Any]], held: Sequence[Judgment],
    columns: Mapping[str, str] | None,
) -> Trial:  # fmt: skip
    """A reward model of some rows, tried on what is held out."""
    import numpy as np

    from accord import feedback
    from accord.evaluate.accuracy import Trial
    from accord.evaluate.leads import ModelLeads

    with tempfile.TemporaryDirectory() as folder:
        run = method.fit(model, rows, out=folder, columns=columns, track="none", save_every=10**9)
    scorer: Any = run.model
    leads = ModelLeads(scorer, feedback.learned.Learned(scorer).of_trees, method.max_length)(
        [Comparison(j.prompt, j.first, j.second, j.columns) for j in held]
    )
    return Trial(held, leads.lead).where(~np.isnan(leads.lead))
