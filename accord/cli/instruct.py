"""`accord instruct`: instructions and answers made by a model from a few seed tasks written by people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from accord import report, synthesis
from accord.console import status
from accord.dates import fixed
from accord.engine.config import require_at_most, require_positive
from accord.errors import InputError, located
from accord.evaluate.options import checked_by, takes
from accord.files import write_text
from accord.locks import alone_in
from accord.outputs import require_folder, save_rows
from accord.prompting.options import outcome_lines
from accord.synthesis.options import FILE, AskerOptions, begun_on, digest, require_same

if TYPE_CHECKING:
    from accord.results.synthesis import SynthesisResult
    from accord.synthesis.questions import Asker
    from accord.synthesis.rounds import Generator
    from accord.synthesis.tasks import Task

LEAVES = ("demonstrations.jsonl", "evaluation.json")
"""The files of the output folder, with the candidates."""


@dataclass(kw_only=True)
class InstructOptions(AskerOptions):
    """How instructions are made, and which are accepted."""

    generator: Literal["self-instruct", "evolve", "backtranslate"] = "self-instruct"
    """self-instruct writes new instructions like the examples it is shown, evolve makes instructions harder or rarer,
    backtranslate writes an instruction for each of --answers."""
    answers: str | None = None
    """For backtranslate, a file of answers without instructions: texts or completions."""
    least_score: int | None = None
    """For backtranslate, keep only pairs that the model scores at least this, from 1 to 5."""
    similar: float = 0.7
    """Instructions with this ROUGE-L or more to a seed or to an accepted instruction are rejected."""
    requests: int = 8
    """Requests per round; if the command is killed, at most one round is lost."""
    patience: int = 20
    """Stop after this many rounds in a row that accept nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(requests=self.requests, patience=self.patience, similar=self.similar)
        require_at_most(100_000, requests=self.requests)
        if (self.generator == "backtranslate") != (self.answers is not None):
            raise InputError(
                "--generator backtranslate needs --answers, a file of texts; the other generators do not take it."
            )
        if self.least_score is not None and not (self.generator == "backtranslate" and 1 <= self.least_score <= 5):
            raise InputError("--least-score needs --generator backtranslate, and must be a whole number from 1 to 5.")

    def made_by(self, ask: Asker, seeds: Sequence[Task], answers: Sequence[str]) -> Generator:
        """The generator named by `generator`."""
        if self.generator == "evolve":
            return synthesis.evolve.Evolve(ask, seeds, self.requests)
        if self.generator == "backtranslate":
            return synthesis.backtranslate.Backtranslate(ask, seeds, answers, self.requests, self.least_score)
        return synthesis.self_instruct.SelfInstruct(ask, seeds, self.requests)


def _check(count: int) -> None:
    require_positive(count=count)


@takes(InstructOptions)
@checked_by(_check)
def instruct(seeds: str, out: str, *, count: int = 200, **options: Any) -> SynthesisResult:
    """Have a model make instructions and answers from seed tasks, and write those that pass the filters.

    The folder gets candidates.jsonl (all proposals, with the filter that rejected each), demonstrations.jsonl
    (instruction, input and output, for `accord sft`), evaluation.json and report.html. If the command is stopped, the
    same command continues, with the same result.

    Args:
        seeds: a file of seed tasks: in the layout of Self-Instruct, with columns instruction, input and output, or
            prompts or demonstrations.
        out: the folder to write.
        count: stop after the round that reaches this many accepted instructions. Run again with a larger number to
            extend a folder.
        options: the fields of `InstructOptions`.

    Raises:
        InputError: the seeds are too few, or not tasks; the folder was made with other settings; the model gives no
            answer.
    """
    _check(count)
    settings = InstructOptions(**options)
    folder = require_folder(out, seeds, options, leaves=LEAVES)
    tasks = synthesis.tasks.load_seeds(seeds)
    answers = synthesis.tasks.load_answers(settings.answers) if settings.answers else []
    with alone_in(folder), fixed(begun_on(folder)):
        result = _run(settings, folder, count, seeds, tasks, answers)
    result.announce()
    return result


def _run(
    settings: InstructOptions, folder: Path, count: int, seeds: str, tasks: Sequence[Task], answers: Sequence[str]
) -> SynthesisResult:
    """Make the instructions, write all files, and return the result."""
    recorded = _settings(settings, seeds, tasks, answers)
    require_same(folder, recorded, places=("seeds", "answers"))
    ask = settings.asker(folder)
    with located(f"{seeds}: "):
        generator = settings.made_by(ask, tasks, answers)
    write_text(folder / FILE, yaml.safe_dump(recorded, sort_keys=False))
    rounds = synthesis.rounds
    growth = rounds.resume(synthesis.filters.Pool(tasks, settings.similar), folder / rounds.FILE)
    if growth.rounds:
        status(f"instruct: {folder} has {len(growth.pool.accepted):,} accepted in {len(growth.rounds):,} rounds")
    ended = rounds.grow(generator, growth, count, settings.patience, lambda line: status(f"instruct: {line}"))
    for line in outcome_lines(ask.model):
        status(line)
    if not growth.pool.accepted:
        raise InputError(f"nothing was accepted, as {ended}: {rounds.reasons(growth)}; {growth.path} has it all.")
    save_rows(folder / "demonstrations.jsonl", (row for task in growth.pool.accepted for row in task.rows()))
    result = synthesis.statistics.summarize(growth, settings.generator, ask.model.name, ended)
    result = result.dated()
    result.save(folder)
    report.refresh_report(folder)
    return result


def _settings(settings: InstructOptions, seeds: str, tasks: Sequence[Task], answers: Sequence[str]) -> dict[str, Any]:
    """The settings and input digests on which the output depends."""
    made_of = {"seeds_sha256": digest(tasks)} | ({"answers_sha256": digest(answers)} if answers else {})
    return {"command": "instruct", "seeds": seeds, **made_of, **settings.settings(but=("patience",))}
