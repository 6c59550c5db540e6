"""`accord evaluate users`: win rates of policies' answers to users, given k of each user's choices.

Each user's first choices, up to the largest k, may be given to a policy; the prompts of all others are the questions,
the same for every policy and k. The win rate is the judge's probability that a policy's answer beats the answer of one
opponent, which is given no choices. Users are weighted equally, and intervals are over users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from accord import data as rows_of
from accord import engine, feedback
from accord.console import without_secrets
from accord.errors import InputError
from accord.evaluate.options import AnswerOptions, checked_by, takes
from accord.evaluate.personal import Users, numbers_of_choices
from accord.evaluate.statistics import Floats, mean_of
from accord.evaluate.users import by_group
from accord.feedback.options import RewardOptions
from accord.outputs import require_folder
from accord.records import EncodedPrompt, Preference, Prompt, Sample
from accord.results.base import FILE
from accord.results.users import Answerer, GivenWins, GroupWins, UsersResult

if TYPE_CHECKING:
    from accord.engine import Policy
    from accord.feedback.judge import Judge


@dataclass(kw_only=True)
class UserWinsOptions(RewardOptions, AnswerOptions):
    """Options for reading choices, answering questions, and the judge."""

    def __post_init__(self) -> None:
        RewardOptions.__post_init__(self)
        AnswerOptions.__post_init__(self)


def _check(
    models: Mapping[str, str],
    against: str,
    given: int | Sequence[int] | None,
    questions: int | None,
    best_of_n: int,
    generators: str | Sequence[str] | None,
    rewards: Mapping[str, str] | None,
) -> None:
    """Raise InputError where a number is below its minimum, or an option names an unknown model or needs another."""
    numbers_of_choices(given)
    for name, number, least in (("questions", questions, 1), ("best-of-n", best_of_n, 0)):
        if number is not None and number < least:
            raise InputError(f"--{name} must be at least {least}, not {number}.")
    named = [generators] if isinstance(generators, str) else generators or []
    for option, name in (("against", against), *(("generators", name) for name in named)):
        if name not in models:
            raise InputError(f"--{option} {name} is none of the models named: {', '.join(models)}.")
    for option, several in (("generators", named), ("rewards", rewards)):
        if several and not best_of_n:
            raise InputError(f"--{option} chooses among several answers: give their number by --best-of-n.")


@takes(UserWinsOptions)
@checked_by(_check)
def evaluate_users(
    data: str,
    out: str,
    *,
    models: dict[str, str],
    judge: str,
    against: str,
    given: int | list[int] | None = None,
    questions: int | None = None,
    best_of_n: int = 0,
    generators: str | list[str] | None = None,
    rewards: dict[str, str] | None = None,
    **options: Any,
) -> UsersResult:
    """Measure how often users prefer policies' answers, given k of their choices, to an opponent's answers.

    All policies get the choices in the prompt, as by `accord fspo` (`accord.data.choices`).

    Args:
        data: a file or Hub name of preferences or rankings with a column user, of users no policy was trained on.
        out: the folder to write evaluation.json to.
        models: policies by name, as --models.fspo runs/fspo/model.
        judge: who compares, as in `accord evaluate models`, knowing what the rows' columns say of the user, as
            accord.worlds.cafe.tastes:prefers does.
        against: the named model whose answers, given no choices, all others are compared with.
        given: the numbers k of choices given (default: 0 2 4 8).
        questions: how many questions of each user to ask, the first ones after the choices (default: all).
        best_of_n: also judge, of this many answers, the one the judge likes best: what someone who knew the user could
            reach.
        generators: the named models whose answers these are (default: the opponent, --against). The opponent is given
            no choices, others k.
        rewards: reward or preference models by name, such as --rewards.reads runs/personal/model, whose pick among the
            same answers is judged too; those of `accord personal` are given k choices.
        options: the fields of `UserWinsOptions`.

    Raises:
        InputError: rows name no users, a user has too few choices, or a prompt with choices does not fit.
    """
    require_folder(out, data, models, rewards, options, leaves=(FILE,))
    _check(models, against, given, questions, best_of_n, generators, rewards)
    ks, named = numbers_of_choices(given), [generators] if isinstance(generators, str) else generators or []
    sources = named or [against] if best_of_n else []
    settings = UserWinsOptions(**options)
    served = UserQuestions.of(Users.of(settings.judgments(data), ks[-1], data), questions)
    referee = feedback.asking.with_progress(feedback.named.judge_named(judge))
    settings.allow([referee])
    feedback.reward.check_prompts(referee, served.unread)
    theirs, answerers, several = _answered(served, models, against, sources, ks, best_of_n, settings, referee)
    return UsersResult(
        data=data,
        judge=without_secrets(judge),
        against=against,
        users=len(served.users.groups),
        questions=len(served.prompts),
        models=answerers + _chosen(served, rewards or {}, ks, several, referee, theirs),
        sampling=settings.drawing(),
    ).publish(out)


Several: TypeAlias = dict[str, dict[int, list[Sample]]]
"""n answers to every question, by title and by the number of choices given to the policy: every k, or 0 alone."""


def _answered(
    served: UserQuestions,
    models: dict[str, str],
    against: str,
    generators: Sequence[str],
    ks: Sequence[int],
    n: int,
    settings: UserWinsOptions,
    referee: Judge,
) -> tuple[list[Sample], list[Answerer], Several]:
    """The opponent's answers, the win rates of all models over them, and n answers by each of the `generators`."""
    opponent = _policy(models[against], settings, referee)
    theirs = served.answered(opponent, 0, settings, against)
    answerers: list[Answerer] = []
    several: Several = {}
    for name, folder in models.items():
        is_opponent = name == against
        policy = opponent if is_opponent else _policy(folder, settings, referee)
        answers = {k: theirs if is_opponent and k == 0 else served.answered(policy, k, settings, name) for k in ks}
        wins = [served.wins(k, referee, ours, theirs) for k, ours in answers.items()]
        answerers.append(Answerer(name=name, how="policy", given=wins))
        if name in generators:
            title, read = f"{name}, best of {n}", [0] if is_opponent else ks
            several[title] = {k: served.answered(policy, k, settings, title, n) for k in read}
    return theirs, answerers, several


def _policy(folder: str, settings: UserWinsOptions, referee: Judge) -> Policy:
    policy = settings.templated(engine.load.load_model(folder, dtype=settings.dtype))
    feedback.reward.listen(referee, policy)
    return policy


@dataclass(frozen=True)
class UserQuestions:
    """The questions of users, user by user: each question's user and its row in the data.

    `of` raises InputError where a user has none.
    """

    users: Users
    prompts: list[Prompt]
    user: list[int]
    rows: list[int]

    @staticmethod
    def of(users: Users, most: int | None) -> UserQuestions:
        """The distinct prompts of all choices not given, at most `most` per user."""
        prompts: list[Prompt] = []
        user: list[int] = []
        rows: list[int] = []
        for i, judgments in enumerate(users.judgments):
            given_prompts = {j.prompt for j in judgments[: users.most]}
            first = {j.prompt: j for j in reversed(judgments[users.most :]) if j.prompt not in given_prompts}
            questions = sorted(first.values(), key=lambda j: j.row)[:most]
            if not questions:
                raise InputError(
                    f"the user {judgments[0].annotator} has no question besides the {users.most} choices given: lower "
                    "--given, or leave the user out."
                )
            prompts += [Prompt(j.prompt, j.columns) for j in questions]
            user += [i] * len(questions)
            rows += [j.row for j in questions]
        return UserQuestions(users, prompts, user, rows)

    @property
    def unread(self) -> list[EncodedPrompt]:
        """The prompts without tokens, for checks before a model is loaded."""
        return [EncodedPrompt(prompt, (), row) for prompt, row in zip(self.prompts, self.rows, strict=True)]

    def answered(self, policy: Policy, k: int, settings: UserWinsOptions, name: str, n: int = 1) -> list[Sample]:
        """A policy's n answers to every question, given the first k choices of its user."""
        from accord.evaluate.answers import encoded, sampled

        choices = [
            [Preference(j.prompt, *pair) for j, pair in zip(some[:k], self.users.pairs(i)[:k], strict=True)]
            for i, some in enumerate(self.users.judgments)
        ]
        reads = [
            rows_of.choices.with_choices(p.prompt, choices[u]) for p, u in zip(self.prompts, self.user, strict=True)
        ]
        prompts = encoded(policy, self.prompts, settings, reads=reads)
        sampling = settings.sampling() if n == 1 else replace(settings.sampling(), seed=settings.seed + 1)
        return sampled(policy, prompts, n, sampling, title=f"{name}, k = {k}", by=settings)

    def wins(self, k: int, referee: Judge, ours: list[Sample], theirs: list[Sample]) -> GivenWins:
        """The win rate of `ours` over `theirs`. InputError where a user has no valid verdict."""
        won, user = _verdicts(referee, ours, theirs), np.array(self.user)
        means = []
        for i, judgments in enumerate(self.users.judgments):
            valid = won[(user == i) & ~np.isnan(won)]
            if not len(valid):
                raise InputError(
                    f"the judge has no valid verdict for the user {judgments[0].annotator}; leave them out."
                )
            means.append(float(valid.mean()))
        groups = [
            GroupWins(label=part.label, win_rate=part.accuracy) for part in by_group(np.array(means), self.users.groups)
        ]
        return GivenWins(
            k=k,
            win_rate=mean_of(means),
            groups=groups,
            characters=sum(len(s.text) for s in ours) / len(ours),
            invalid=int(np.isnan(won).sum()),
        )


def _chosen(
    served: UserQuestions,
    rewards: dict[str, str],
    ks: Sequence[int],
    several: Several,
    referee: Judge,
    theirs: list[Sample],
) -> list[Answerer]:
    """Best of n: answers chosen by models that are given k choices, and those that the judge likes best."""
    from accord.evaluate.user_choices import Chooser

    answerers: list[Answerer] = []
    for name, folder in rewards.items():
        chooser = Chooser.of(folder, engine.load.load_classifier(folder), served.users, served.user)
        for title, many in several.items():
            read = {k: chooser.states(answers) for k, answers in many.items()}
            wins = []
            for k in ks if chooser.reads else many:
                at = k if k in many else 0
                wins.append(served.wins(k, referee, _picked(many[at], chooser.best(read[at], k)), theirs))
            answerers.append(Answerer(name=f"{title} by {name}", how="best of n", given=wins))
    for title, many in several.items():
        wins = []
        for k, answers in many.items():
            n = len(answers) // len(theirs)
            liked = _verdicts(referee, answers, [one for one in theirs for _ in range(n)]).reshape(-1, n)
            best = np.nan_to_num(liked, nan=-1.0).argmax(1)
            wins.append(served.wins(k, referee, _picked(answers, best.tolist()), theirs))
        answerers.append(Answerer(name=title, how="best of n", given=wins))
    return answerers


def _picked(answers: Sequence[Sample], best: Sequence[int]) -> list[Sample]:
    """The chosen one of n answers to every question."""
    n = len(answers) // len(best)
    return [answers[i * n + j] for i, j in enumerate(best)]


def _verdicts(referee: Judge, ours: Sequence[Sample], theirs: Sequence[Sample]) -> Floats:
    """P(ours wins) for every pair of answers over both orders, (n,); NaN without a valid verdict."""
    orders = feedback.judge.BothOrders(referee).orders(ours, theirs)
    return np.array([np.nan if o.verdict.first_wins is None else o.verdict.first_wins for o in orders])
