"""Of several answers to a user's question, those that models choose who are given k of the user's choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from accord import data as rows_of
from accord import engine
from accord.errors import InputError
from accord.evaluate.personal import AT_ONCE, ChoiceStates, Users, labels_given
from accord.objectives.preference import general_preference
from accord.records import Message, Ranking, Sample, Text

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine.classifiers import Classifier
    from accord.engine.encoders import Encoder


@dataclass(frozen=True)
class Chooser:
    """A reward or preference model that has read the choices of users; `user` says whose each question is."""

    folder: str
    choices: ChoiceStates
    user: Sequence[int]

    @staticmethod
    def of(folder: str, model: Classifier | Encoder, users: Users, user: Sequence[int]) -> Chooser:
        """Reads all choices once. InputError where the model reads more than the last token, or a text does not fit."""
        if isinstance(model, engine.encoders.Encoder):
            raise InputError(f"{folder} reads more than the last token, and is no model that choices are read by.")
        return Chooser(folder, ChoiceStates.of(model, users, model.context or LONGEST), user)

    @property
    def reads(self) -> bool:
        """Whether it is given choices: else it takes all users to be alike."""
        return isinstance(self.choices.model, engine.personal.PersonalModel)

    def states(self, samples: Sequence[Sample]) -> list[Tensor]:
        """The states of n answers to each question, question after question, (n, d) each.

        InputError where one does not fit.
        """
        model, n = self.choices.model, len(samples) // len(self.user)
        rows = [_ranking(samples[i : i + n]) for i in range(0, len(samples), n)]
        longest = model.context or LONGEST
        encoded = rows_of.encoding.encode(model.tokenizer, rows, max_length=longest, context=model.context, whole=True)
        if encoded.left_out:
            raise InputError(f"{'; '.join(encoded.left_out)}: lower --max-new-tokens, or leave these rows out.")
        states: list[Tensor] = []
        with torch.no_grad(), engine.generate.evaluating(model.network):
            for start in range(0, len(encoded.trees), AT_ONCE):
                batch = engine.Trees.of(encoded.trees[start : start + AT_ONCE], model.device)
                states += model.states(batch).split(n)
        return states

    def best(self, answers: Sequence[Tensor], k: int) -> list[int]:
        """Of the answers to each question, (n, d), which one it likes best, given the first k choices of whose it is.

        That is the one of the highest score, or of the highest mean probability to be preferred to the others.
        """
        model = self.choices.model
        found = []
        with torch.no_grad(), engine.generate.evaluating(model.network):
            for states, user in zip(answers, self.user, strict=True):
                labels = labels_given(model, states, self.choices.states[user][:k])  # (n, L)
                if labels.shape[1] > 1:
                    labels = general_preference(labels[:, None], labels[None]).double().sigmoid().mean(1)
                found.append(int(labels.argmax()))
        return found


LONGEST = 2**20
"""Tokens that are read of a text by a model that does not say how many it reads."""


def _ranking(samples: Sequence[Sample]) -> Ranking:
    """The answers to one question, none above another."""
    prompt: Text = samples[0].prompt.prompt
    texts = [s.text if isinstance(prompt, str) else (Message("assistant", s.text),) for s in samples]
    return Ranking(prompt, tuple(texts), (0,) * len(samples))
