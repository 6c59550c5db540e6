"""`accord critique`: a model's answers, and its own critiques and revisions of them by a constitution's principles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from accord import feedback, report, synthesis
from accord.console import status
from accord.dates import fixed
from accord.engine.config import require_at_most, require_positive
from accord.errors import InputError
from accord.evaluate.options import RowOptions, takes
from accord.feedback.options import RewardOptions
from accord.files import write_rows, write_text
from accord.locks import alone_in
from accord.outputs import require_folder, save_rows
from accord.prompting.options import outcome_lines
from accord.synthesis.options import FILE, AskerOptions, begun_on, digest, require_same

if TYPE_CHECKING:
    from accord.feedback.constitution import Principle
    from accord.records import Prompt
    from accord.results.critique import CritiqueResult
    from accord.synthesis.critique import Chain, Critic

CHAINS = "critiques.jsonl"
"""The file of all answers, critiques and revisions, in the output folder."""

LEAVES = ("demonstrations.jsonl", "preferences.jsonl", "evaluation.json")
"""The other files of the output folder."""


@dataclass(kw_only=True)
class CritiqueOptions(RewardOptions, RowOptions, AskerOptions):
    """The principles by which answers are revised, the number of revisions, and the scores."""

    constitution: str = "accord"
    """A YAML file of principles, or a constitution that comes with accord: accord, hhh."""
    principles: int | None = None
    """Use only the first N principles of the constitution."""
    rounds: int = 2
    """Revisions of each answer, each by a principle drawn at random."""
    direct: bool = False
    """Ask for revisions directly, without critiques."""
    score: str | list[str] | None = None
    """Scores every answer: any reward (a model's folder, cafe, module:function ...), or a judge such as ai:MODEL, whose
    score is the probability that the answer is better than the first. It may change when a folder is continued."""
    requests: int = 32
    """Prompts per round; if the command is killed, at most one round is lost."""

    def __post_init__(self) -> None:
        RewardOptions.__post_init__(self)
        RowOptions.__post_init__(self)
        AskerOptions.__post_init__(self)
        require_positive(rounds=self.rounds, requests=self.requests)
        require_at_most(1000, rounds=self.rounds)
        if self.principles is not None:
            require_positive(principles=self.principles)
        if len(set(self.scores)) < len(self.scores):
            raise InputError("--score names a score twice.")

    @property
    def scores(self) -> list[str]:
        """The names of the scores."""
        return [self.score] if isinstance(self.score, str) else list(self.score or [])

    def principled(self) -> list[feedback.constitution.Principle]:
        """The principles. Raises InputError where the constitution cannot be read, or has fewer."""
        every = feedback.constitution.read_constitution(self.constitution)
        if self.principles is not None and self.principles > len(every):
            raise InputError(f"--principles {self.principles}: {self.constitution} has only {len(every)}.")
        return list(every[: self.principles])


@takes(CritiqueOptions)
def critique(data: str | list[str], out: str, **options: Any) -> CritiqueResult:
    """Have a model answer prompts, then criticize and revise its answers by the principles of a constitution.

    The folder gets critiques.jsonl (a row per prompt: all answers, critiques and principles, and why a reply could not
    be used), demonstrations.jsonl (the last revisions, for `accord sft`), preferences.jsonl (last revisions over first
    answers, where they differ), evaluation.json and report.html. If the command is stopped, the same command continues,
    with the same result.

    Args:
        data: a file or Hub name of rows that have prompts, or several.
        out: the folder to write.
        options: the fields of `CritiqueOptions`.

    Raises:
        InputError: the data, the constitution or a score cannot be used; the folder was made with other settings; the
            model gives no answer.
    """
    settings = CritiqueOptions(**options)
    folder = require_folder(out, data, options, leaves=LEAVES)
    principles, prompts = settings.principled(), settings.prompts(data)
    with alone_in(folder), fixed(begun_on(folder)):
        result = _run(settings, folder, data, principles, prompts)
    result.announce()
    return result


def _run(
    settings: CritiqueOptions, folder: Path, data: Any, principles: Sequence[Principle], prompts: Sequence[Prompt]
) -> CritiqueResult:
    """Make the critiques and revisions, write all files, and return the result."""
    recorded = _settings(settings, data, principles, prompts)
    require_same(folder, recorded, places=("data", "constitution"))
    scores = [synthesis.revisions.Score(name) for name in settings.scores]
    settings.allow([score.measure for score in scores])
    for score in scores:
        score.check(prompts)
    critic = synthesis.critique.Critic(
        ask=settings.asker(folder), principles=principles, rounds=settings.rounds, is_direct=settings.direct
    )
    write_text(folder / FILE, yaml.safe_dump(recorded, sort_keys=False))
    chains = _chains(critic, prompts, folder / CHAINS, settings.requests)
    for line in outcome_lines(critic.ask.model):
        status(line)
    if not any(chain.is_usable for chain in chains):
        faults = sorted({fault for chain in chains for fault in chain.faults if fault})
        why = next((chain.refused[0] for chain in chains if chain.faults[0] == "no reply"), "")
        raise InputError(f"no answer can be used ({', '.join(faults)}){why and f': {why}'}; {folder / CHAINS} has all.")
    values = {score.name: score(prompts, chains) for score in scores}
    _write(folder, chains, values, settings.requests)
    result = synthesis.revisions.summarize(
        chains, values, model=critic.ask.model.name, constitution=settings.constitution,
        principles=[principle.name for principle in principles], is_direct=settings.direct,
        compared=[score.name for score in scores if score.compares],
    )  # fmt: skip
    result = result.dated()
    result.save(folder)
    report.refresh_report(folder)
    return result


def _chains(critic: Critic, prompts: Sequence[Prompt], file: Path, size: int) -> list[Chain]:
    """The chains of revisions of all prompts: those in the file, and new ones, which are added to it."""
    rounds = synthesis.rounds
    batches = rounds.whole_rounds(file, synthesis.critique.Chain.from_json, "chain of revisions")
    chains = [chain for batch in batches for chain in batch]
    if chains:
        status(f"critique: {file} has {len(chains):,} of {len(prompts):,} prompts")
    begun, before = time.monotonic(), len(chains)
    while len(chains) < len(prompts):
        number = len(chains) // size
        made = critic([prompt.prompt for prompt in prompts[len(chains) : len(chains) + size]], number)
        rounds.append(file, number, [chain.to_json() for chain in made])
        chains += made
        left = rounds.time_left(begun, len(chains) - before, len(prompts) - len(chains))
        status(f"critique: {len(chains):,} of {len(prompts):,} prompts, {left}")
    return chains


def _write(folder: Path, chains: Sequence[Chain], scores: Any, size: int) -> None:
    """Write the training data, and rewrite the chains with their scores."""
    usable = [chain for chain in chains if chain.is_usable]
    pairs = [chain.preference() for chain in usable if synthesis.revisions.is_pair(chain)]
    save_rows(folder / "demonstrations.jsonl", (chain.demonstration() for chain in usable))
    save_rows(folder / "preferences.jsonl", pairs)
    rows = []
    for i, chain in enumerate(chains):
        of = min(size, len(chains) - i // size * size)
        own = {name: values[i] for name, values in scores.items()}
        rows.append({"round": i // size, "of": of, **chain.to_json(), "scores": own})
    write_rows(folder / CHAINS, rows)


def _settings(settings: CritiqueOptions, data: Any, principles: Sequence[object], prompts: Sequence[object]) -> Any:
    """The settings and input digests on which the output depends."""
    made_of = {"data_sha256": digest(prompts), "principles_sha256": digest(principles)}
    others = [field.name for options in (RowOptions, RewardOptions) for field in fields(options)]
    return {"command": "critique", "data": data, **made_of, **settings.settings(but=("score", *others))}
