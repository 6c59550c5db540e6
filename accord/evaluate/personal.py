"""`accord evaluate personal`: how well reward and preference models predict a user's choices, given k of them.

Each user's first choices, up to the largest k, may be given to a model; all others are questions, the same for every k.
Users are weighted equally, and intervals are over users, since a user's questions are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from scipy.special import log_expit

from accord import data as rows_of
from accord import engine, feedback, objectives
from accord.errors import InputError
from accord.evaluate.options import ChatOptions, checked_by, takes
from accord.evaluate.own_heads import OwnHeads
from accord.evaluate.statistics import Floats, bootstrap_mean, mean_of
from accord.evaluate.users import by_group, groups_of
from accord.feedback.formula import TASTES
from accord.outputs import require_folder
from accord.records import Preference, Text
from accord.results.base import FILE
from accord.results.personal import GivenChoices, PersonalAccuracy, PersonalResult

if TYPE_CHECKING:
    from torch import Tensor

    from accord.data.judgments import Judgment
    from accord.engine.classifiers import Classifier

Leads: TypeAlias = list[Floats]
"""The lead of the chosen over the rejected answer in every question, (Q,) per user."""


@dataclass(frozen=True)
class Users:
    """Users' choices, (chosen, rejected) per user: the first `most` may be given, the rest are questions."""

    judgments: list[list[Judgment]]
    groups: list[str]
    most: int

    @staticmethod
    def of(judgments: Sequence[Judgment], most: int, data: str) -> Users:
        """The users of all judgments except ties. InputError where a row names no user, or one has too few choices."""
        strict = [j for j in judgments if j.label != 0.5]
        nameless = next((j for j in strict if not j.annotator), None)
        if nameless is not None:
            raise InputError(
                f"{data}, row {nameless.row + 1} does not say whose preference it is: rows need a column user, or one "
                "that --columns user=COLUMN names."
            )
        if not strict:
            raise InputError(f"{data} has only ties, so there is nothing to predict.")
        by_user: dict[str, list[Judgment]] = {}
        for j in strict:
            by_user.setdefault(j.annotator, []).append(j)
        for name, every in by_user.items():
            rows_given = {j.row for j in every[:most]}  # pairs of a given ranking share answers: they are not asked
            by_user[name] = some = every[:most] + [j for j in every[most:] if j.row not in rows_given]
            if len(some) <= most:
                raise InputError(
                    f"{data}: the user {name} has {len(some)} choices, and giving {most} and asking about one more "
                    f"needs {most + 1}: lower --given, or leave the user out."
                )
        groups = groups_of(strict)
        return Users(list(by_user.values()), [groups[name] for name in by_user], most)

    def pairs(self, user: int) -> list[tuple[Text, Text]]:
        """The user's (chosen, rejected) answers."""
        return [(j.first, j.second) if j.label > 0.5 else (j.second, j.first) for j in self.judgments[user]]

    @property
    def rows(self) -> list[Preference]:
        """All choices as rows, user after user."""
        return [
            Preference(j.prompt, *pair)
            for user, some in enumerate(self.judgments)
            for j, pair in zip(some, self.pairs(user), strict=True)
        ]


def numbers_of_choices(given: int | Sequence[int] | None) -> list[int]:
    """The numbers of choices given, in order. Raises InputError where one is negative."""
    ks = [given] if isinstance(given, int) else sorted(set(given or (0, 2, 4, 8)))
    if ks[0] < 0:
        raise InputError(f"--given is numbers of choices, 0 or more, not {ks[0]}.")
    return ks


@takes(ChatOptions)
@checked_by(numbers_of_choices)
def evaluate_personal(
    data: str,
    out: str,
    *,
    models: dict[str, str],
    given: int | list[int] | None = None,
    tastes: Literal["opposite", "overlapping", "groups", "directions"] | None = None,
    max_length: int = 512,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    **options: Any,
) -> PersonalResult:
    """Measure how often reward and preference models choose as users do, given k of each user's choices.

    A model of `accord personal` reads the choices. A plain reward or preference model treats all users alike. Either is
    also measured with a head of each user's own, fitted to the choices: a logistic regression on the states that its
    own head reads, starting from that head.

    Args:
        data: a file or Hub name of preferences or rankings with a column user, of users the models were not trained on.
        out: the folder to write evaluation.json to.
        models: folders of models by name, from `accord personal`, `accord reward` or `accord preference`, as
            --models.pooled runs/pooled/model.
        given: the numbers k of choices given (default: 0 2 4 8). Each user's choices after the first max(k) are what
            the models are asked about.
        tastes: for users of the café, their population: adds the best possible answer from the same choices (Bayes),
            and that of an oracle who knows each user's taste (the rows' `taste`).
        max_length: tokens of prompt and completion together; longer completions are cut.
        dtype: precision of matrix products; auto is bfloat16 where the processor supports it.
        options: the fields of `ChatOptions`.

    Raises:
        InputError: rows name no users, a user has too few choices, or a folder holds no reward or preference model.
    """
    require_folder(out, data, models, options, leaves=(FILE,))
    ks = numbers_of_choices(given)
    settings = ChatOptions(**options)
    users = Users.of(settings.judgments(data), ks[-1], data)
    yardsticks = _yardsticks(tastes, users, ks) if tastes is not None else []
    known: list[PersonalAccuracy] = []
    for name, folder in models.items():
        model = engine.load.load_classifier(folder, dtype=dtype)
        if isinstance(model, engine.encoders.Encoder):
            raise InputError(
                f"{folder} reads more than the last token, so a user's own head cannot be fitted on it: leave it out."
            )
        read = ChoiceStates.of(settings.templated(model), users, max_length)
        if isinstance(model, engine.personal.PersonalModel):
            known.append(measured(name, "reads choices", users, ks, read.leads))
        else:
            known.append(measured(name, "pooled", users, [0], read.leads))
        known.append(measured(name, "own head", users, ks, OwnHeads(read, users).leads))
    questions = sum(len(some) - ks[-1] for some in users.judgments)
    result = PersonalResult(data=data, users=len(users.groups), questions=questions, models=known + yardsticks)
    return result.publish(out)


def measured(
    name: str,
    how: Literal["pooled", "own head", "reads choices", "Bayes", "oracle"],
    users: Users,
    ks: Sequence[int],
    leads: Callable[[int], Leads],
) -> PersonalAccuracy:
    """A model's accuracy for every k, from its leads in log-odds; a lead of 0 counts half."""
    every = []
    for k in ks:
        by_user = leads(k)
        right = np.array([(0.5 + 0.5 * np.sign(lead)).mean() for lead in by_user])
        loss = bootstrap_mean([-log_expit(lead).mean() for lead in by_user])
        groups = by_group(right, users.groups)
        every.append(GivenChoices(k=k, accuracy=mean_of(right.tolist()), log_loss=loss, groups=groups))
    return PersonalAccuracy(name=name, how=how, given=every)


@dataclass(frozen=True)
class ChoiceStates:
    """A model's states of users' choices: of every chosen and rejected answer, (n, 2, d) per user."""

    model: Classifier
    states: list[Tensor]
    most: int

    @staticmethod
    def of(model: Classifier, users: Users, max_length: int) -> ChoiceStates:
        """Computes each answer's state once. InputError where one does not fit within --max-length."""
        import torch

        encoded = rows_of.encoding.encode(
            model.tokenizer, users.rows, max_length=max_length, context=model.context, whole=True
        )
        if encoded.left_out:
            raise InputError(f"{'; '.join(encoded.left_out)}: raise --max-length, or leave these rows out.")
        states: list[Tensor] = []
        with torch.no_grad(), engine.generate.evaluating(model.network):
            for start in range(0, len(encoded.trees), AT_ONCE):  # in the order of the rows
                batch = engine.Trees.of(encoded.trees[start : start + AT_ONCE], model.device)
                states.append(model.states(batch).unflatten(0, (-1, 2)))
        sizes = [len(some) for some in users.judgments]
        return ChoiceStates(model, list(torch.cat(states).split(sizes)), users.most)

    def leads(self, k: int) -> Leads:
        """The leads on the questions, given the first k choices if the model reads choices."""
        import torch

        leads: Leads = []
        with torch.no_grad(), engine.generate.evaluating(self.model.network):
            for states in self.states:
                labels = labels_given(self.model, states[self.most :].flatten(0, 1), states[:k]).unflatten(0, (-1, 2))
                odds = objectives.preference.general_preference(labels[:, 0], labels[:, 1])
                leads.append(odds.double().cpu().numpy())
        return leads


def labels_given(model: Classifier, candidates: Tensor, choices: Tensor) -> Tensor:
    """The outputs (n, L) for candidates (n, d), given choices (k, 2, d) if the model reads choices."""
    if isinstance(model, engine.personal.PersonalModel):
        sees = candidates.new_ones(1, len(candidates), len(choices)).bool()
        return model.outputs_given(candidates[None], choices[None], sees)[0]
    labels: Tensor = model.network.score(candidates)  # type: ignore[operator, union-attr]
    return labels


AT_ONCE = 64
"""Choices computed in one pass."""


def _yardsticks(population: Any, users: Users, ks: Sequence[int]) -> list[PersonalAccuracy]:
    """The best possible accuracy on the café's users given k choices (Bayes), and given the user's taste (oracle)."""
    gaps, bayes, oracle = (feedback.imports.import_function(f"{TASTES}:{name}") for name in ("gaps", "bayes", "oracle"))
    unknown = next((some[0] for some in users.judgments if not some[0].columns.get("taste")), None)
    if unknown is not None:
        raise InputError(f"row {unknown.row + 1} has no 'taste', which --tastes reads: leave it out.")
    every = range(len(users.judgments))
    apart = [gaps([(assistant_text(a), assistant_text(b)) for a, b in users.pairs(user)]) for user in every]
    asked = [d[users.most :] for d in apart]
    names = [str(some[0].columns["taste"]) for some in users.judgments]

    def bayes_leads(k: int) -> Leads:
        return [bayes(population, d[:k], rest) for d, rest in zip(apart, asked, strict=True)]

    def oracle_leads(k: int) -> Leads:
        return [oracle(population, name, rest) for name, rest in zip(names, asked, strict=True)]

    return [
        measured(population, "Bayes", users, ks, bayes_leads),
        measured(population, "oracle", users, [0], oracle_leads),
    ]


def assistant_text(text: Text) -> str:
    """The assistant's part of a completion."""
    return text if isinstance(text, str) else " ".join(m.words for m in text if m.role == "assistant")
