"""Best of n by reward and preference models that are given k of the user's choices."""

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
    """A reward or preference model with the states of users' choices; `user` is the user of each question."""

    folder: str
    choices: ChoiceStates
    user: Sequence[int]

    @staticmethod
    def of(folder: str, model: Classifier | Encoder, users: Users, user: Sequence[int]) -> Chooser:
        """Computes the states of all choices. InputError where the model reads more than the last token."""
        if isinstance(model, engine.encoders.Encoder):
            raise InputError(f"{folder} reads more than the last token, so it cannot read choices: leave it out.")
        return Chooser(folder, ChoiceStates.of(model, users, model.context or LONGEST), user)

    @property
    def reads(self) -> bool:
        """Whether the model reads choices; else it treats all users alike."""
        return isinstance(self.choices.model, engine.personal.PersonalModel)

    def states(self, samples: Sequence[Sample]) -> list[Tensor]:
        """The states of n answers to each question, in order, (n, d) each.

        Raises InputError where one does not fit.
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
        """The index of the best answer to each question, given states (n, d) and the first k choices of its user.

        The best has the highest score, or the highest mean probability of being preferred to the others.
        """
        model = self.choices.model
        indices = []
        with torch.no_grad(), engine.generate.evaluating(model.network):
            for states, user in zip(answers, self.user, strict=True):
                labels = labels_given(model, states, self.choices.states[user][:k])  # (n, L)
                if labels.shape[1] > 1:
                    labels = general_preference(labels[:, None], labels[None]).double().sigmoid().mean(1)
                indices.append(int(labels.argmax()))
        return indices


LONGEST = 2**20
"""Maximum tokens of a text for a model without a stated context length."""


def _ranking(samples: Sequence[Sample]) -> Ranking:
    """The answers to one question, all tied."""
    prompt: Text = samples[0].prompt.prompt
    texts = [s.text if isinstance(prompt, str) else (Message("assistant", s.text),) for s in samples]
    return Ranking(prompt, tuple(texts), (0,) * len(samples))
