"""`accord evaluate models`: models, and files of answers, compared side by side on the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accord import engine, feedback
from accord.console import without_secrets
from accord.errors import InputError
from accord.evaluate.options import ScoredOptions, checked_by, takes
from accord.evaluate.statistics import bootstrap_mean
from accord.evaluate.wins import Duels, held_against, judged, standings, warnings
from accord.outputs import require_folder, save_rows
from accord.records import EncodedPrompt, Prompt, show
from accord.results.base import FILE
from accord.results.models import Answer, AtTemperature, Divergence, ModelRow, ModelsResult, SideBySide

if TYPE_CHECKING:
    from accord.engine import Policy
    from accord.evaluate.answers import AnswerFile, Answering, Answers
    from accord.feedback.judge import Judge
    from accord.feedback.reward import Reward

SIDE_BY_SIDE = 12
"""Number of prompts whose answers are kept for reading."""


def _check(
    models: Mapping[str, str] | None,
    samples: Mapping[str, str] | None,
    data: str | None,
    against: str | None,
    reference: str | None,
    reward: str | None,
    best_of_n: int,
    temperatures: float | Sequence[float] | None,
    labels: Mapping[str, int] | None,
) -> None:
    """Raise InputError where a name is missing, unknown or used twice, or a number makes no sense."""
    from accord.evaluate.temperatures import require_temperatures

    models, samples = models or {}, samples or {}
    if best_of_n > 0 and not (reward and against):
        raise InputError("--best-of-n needs --reward to choose by and --against to choose from.")
    named = [*models, *samples]
    if not named:
        raise InputError("nothing to compare: give models by --models.NAME, files of answers by --samples.NAME.")
    if twice := set(models) & set(samples):
        raise InputError(f"{min(twice)} names both a model and a file of answers; give each its own name.")
    if best_of_n < 0:
        raise InputError(f"--best-of-n must be at least 0, not {best_of_n}.")
    if against is not None and against not in named:
        raise InputError(f"--against {against} is none of the models and files named: {', '.join(named)}.")
    for option, name in (("reference", reference), ("against", against if best_of_n else None)):
        if name is not None and name not in models:
            raise InputError(f"--{option} {name} is none of the models named: {', '.join(models) or 'none'}.")
    for name, count in (labels or {}).items():
        if name not in named:
            raise InputError(f"--labels.{name} is of none of the models and files named: {', '.join(named)}.")
        if count < 0:
            raise InputError(f"--labels.{name} must be at least 0, not {count}.")
    require_temperatures([temperatures] if isinstance(temperatures, float | int) else temperatures, models, against)
    if data is None and not samples:
        raise InputError("models need prompts to answer: give --data.")


@takes(ScoredOptions)
@checked_by(_check)
def evaluate_models(
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
    temperatures: float | list[float] | None = None,
    labels: dict[str, int] | None = None,
    **options: Any,
) -> ModelsResult:
    """Judge every two models' answers to the same prompts: scores, win rates, a leaderboard, divergence.

    Each has a 95% interval. Every pair is judged in both orders; wins.jsonl has every verdict.

    Args:
        out: the folder to write evaluation.json and wins.jsonl to.
        judge: who compares the answers: a small world (cafe), the folder of a reward or preference model, ai:MODEL or
            the YAML file of an AI judge, module:function, a file of people's preferences, or any reward.
        data: a file or Hub name of held-out prompts, or of rows that have prompts (default: the prompts of --samples).
        models: models by name, as --models.sft runs/sft/model, or a mapping in YAML.
        samples: files of prompts and (first) completions by name, as --samples.people answers.jsonl.
        against: the named model or file whose answers the others are compared with in the first table.
        reference: the named model from which divergence is measured.
        reward: a reward that also scores every answer.
        best_of_n: also judge the best of this many answers of --against, chosen by --reward.
        temperatures: also judge answers at each of these temperatures, as 0 0.5 1, against those of --against at
            --temperature.
        labels: how many labels of people each model was made with, as --labels.dpo 1000. The report plots wins over
            --against (or else scores) by it, with one line for names that differ only in a final number.
        options: the fields of `ScoredOptions`.

    Raises:
        InputError: the options do not fit each other or the data, or files answer different prompts.
    """
    from accord.evaluate.answers import AnswerFile, Answering

    require_folder(out, data, models, samples, options, leaves=(FILE, "wins.jsonl"))
    settings = ScoredOptions(**options)
    _check(models, samples, data, against, reference, reward, best_of_n, temperatures, labels)
    files = {name: AnswerFile(path) for name, path in (samples or {}).items()}
    competitors = Competitors(models or {}, files, against, reference, best_of_n)
    every = [temperatures] if isinstance(temperatures, float | int) else temperatures
    rows = competitors.prompts(data, settings)
    referee, rewards = _feedback(judge, reward, rows, settings)
    answering = Answering(settings, competitors.origin(settings), (referee, *rewards.values()), SIDE_BY_SIDE)
    answered = competitors.answers(answering, rows, rewards)
    duels = judged(referee, answered)
    save_rows(Path(out) / "wins.jsonl", (row for d in duels for row in d.rows()))
    result = _result("reward" if judge == reward else judge, competitors, answered, duels, labels or {})
    at = _at_temperatures(every, competitors, answering, answered, referee, rewards) if every is not None else None
    drawing = settings.drawing() if models else None
    return result.model_copy(update={"sampling": drawing, "temperatures": at}).publish(out)


def _at_temperatures(
    temperatures: Sequence[float],
    competitors: Competitors,
    answering: Answering,
    answered: Sequence[Answers],
    referee: Judge,
    rewards: Mapping[str, Reward],
) -> list[AtTemperature]:
    """The models' table at each temperature, judged against the answers of --against."""
    from accord.evaluate.temperatures import against_rival, answers_at

    rival = next(answers for answers in answered if answers.name == competitors.against)
    others = {name: folder for name, folder in competitors.models.items() if name != competitors.against}
    drawn = answers_at(temperatures, answering, others, [s.prompt for s in rival.samples], rewards)
    return [
        AtTemperature(temperature=at, models=table(drawn[at], over, competitors.against))
        for at, over in against_rival(drawn, rival, referee).items()
    ]


def _result(
    judge: str,
    competitors: Competitors,
    answered: Sequence[Answers],
    duels: Sequence[Duels],
    labels: Mapping[str, int],
) -> ModelsResult:
    rows = table(answered, duels, competitors.against)
    if labels:
        rows = [row.model_copy(update={"labels": labels.get(row.name)}) for row in rows]
    return ModelsResult(
        judge=judge,
        against=competitors.against,
        reference=competitors.reference,
        prompts=len(answered[0].samples),
        models=rows,
        pairs=[d.pair() for d in duels],
        board=standings(duels) or None,
        side_by_side=_side_by_side(answered),
        warnings=warnings(duels),
    )


@dataclass(frozen=True)
class Competitors:
    """The competing models and files by name, the baseline, and the reference for divergence."""

    models: Mapping[str, str]
    files: Mapping[str, AnswerFile]
    against: str | None
    reference: str | None
    best_of_n: int = 0

    def prompts(self, data: str | None, settings: ScoredOptions) -> list[Prompt]:
        """The prompts that all answer: those of the data, or else those of the files.

        Raises InputError where a file lacks one of them.
        """
        from accord.evaluate.answers import require_same_prompts

        files = list(self.files.values())
        if data is not None:
            rows = settings.prompts(data)
            for file in files:
                file.require((row.prompt for row in rows), data)
            return rows
        require_same_prompts(files)
        return files[0].prompts[: settings.limit]

    def origin(self, settings: ScoredOptions) -> Policy | None:
        """The model from which divergence is measured, if any."""
        return engine.load.load_model(self.models[self.reference], dtype=settings.dtype) if self.reference else None

    def answers(self, answering: Answering, rows: Sequence[Prompt], rewards: Mapping[str, Reward]) -> list[Answers]:
        """All answers to the same prompts with their scores: models first, each in the order given."""
        from accord.evaluate.answers import encoded

        answered: list[Answers] = []
        longest: int | None = answering.options.max_length
        for name, folder in self.models.items():
            policy = answering.load(folder)
            prompts = encoded(policy, rows, answering.options, longest)
            rows, longest = [p.prompt for p in prompts], None  # the first model decides which prompts are too long
            answered.append(answering.measured(answering.answers(name, policy, prompts), policy))
            if self.best_of_n and name == self.against:
                many = answering.answers(name, policy, prompts, self.best_of_n)
                answered.append(answering.best(many, self.best_of_n, rewards["reward"], policy))
        answered += [file.answers(name, rows) for name, file in self.files.items()]
        for answers in answered:
            answers.scores.update((name, score(answers.samples)) for name, score in rewards.items())
        return answered


def _feedback(
    judge: str, reward: str | None, rows: Sequence[Prompt], settings: ScoredOptions
) -> tuple[Judge, dict[str, Reward]]:
    """The judge, and the rewards whose scores are shown: the judge's own scores, if any, and --reward."""
    referee = feedback.asking.with_progress(feedback.named.judge_named(judge))
    rewards = (
        {}
        if judge == reward or feedback.named.only_compares(referee)
        else {without_secrets(judge): feedback.named.reward_named(judge)}
    )
    if reward:
        rewards["reward"] = feedback.named.reward_named(reward)
    readers: list[Judge | Reward] = [referee, *rewards.values()]
    settings.allow(readers)
    for reader in readers:
        feedback.reward.check_prompts(reader, [EncodedPrompt(row, (), i) for i, row in enumerate(rows)])
    return referee, rewards


def table(answered: Sequence[Answers], duels: Sequence[Duels], against: str | None = None) -> list[ModelRow]:
    """One row per model: scores and divergence with their intervals, lengths, and the win rate over `against`."""
    rivals = held_against(duels, against)
    return [
        ModelRow(
            name=a.name,
            scores={name: bootstrap_mean(s.tolist()) for name, s in a.scores.items()},
            kl=_divergence(a),
            characters=sum(a.characters) / len(a.samples),
            length=a.length,
            ended=a.ended,
            win_rate=rivals[a.name].win_rate() if a.name in rivals else None,
        )
        for a in answered
    ]


def _divergence(answers: Answers) -> Divergence | None:
    kl = answers.kl
    if kl is None:
        return None
    mean = bootstrap_mean([kl] if isinstance(kl, float) else kl.tolist())
    return Divergence(mean.estimate, mean.low, mean.high, mean.n, isinstance(kl, float))


def _side_by_side(answered: Sequence[Answers]) -> list[SideBySide]:
    """The first prompts with all answers, their scores, and each token's log pi - log ref where known."""
    return [
        SideBySide(
            prompt=show(first.prompt.prompt),
            answers=[
                Answer(
                    model=a.name,
                    text=a.samples[i].text,
                    scores={name: float(scores[i]) for name, scores in a.scores.items()},
                    tokens=a.traced[i] if a.traced else None,
                )
                for a in answered
            ],
        )
        for i, first in enumerate(answered[0].samples[:SIDE_BY_SIDE])
    ]
