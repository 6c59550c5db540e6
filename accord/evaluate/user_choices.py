"""Of several answers to a user's question, those that reward models choose who are given k of the user's choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from accord import data as rows_of
from accord import engine
from accord.errors import InputError
from accord.evaluate.personal import AT_ONCE, Read, Users
from accord.records import Message, Ranking, Sample, Text

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine.encoders import Encoder


@dataclass(frozen=True)
class Chooser:
    """A reward model that has read the choices of users, and n answers to each of their questions.

    `states` are those of the answers, (n, d) a question, and `user` says whose question each is.
    """

    choices: Read
    states: Sequence[Tensor]
    user: Sequence[int]

    @staticmethod
    def of(
        folder: str, model: engine.Scorer | Encoder, users: Users, user: Sequence[int], samples: Sequence[Sample]
    ) -> Chooser:
        """Reads all of it once. InputError where the model reads more than the last token, or a text does not fit."""
        if not isinstance(model, engine.Scorer):
            raise InputError(f"{folder} reads more than the last token, and is no model that choices are read by.")
        longest = model.context or 2**20
        n = len(samples) // len(user)
        rows = [_ranking(samples[i : i + n]) for i in range(0, len(samples), n)]
        encoded = rows_of.encoding.encode(model.tokenizer, rows, max_length=longest, context=model.context, whole=True)
        if encoded.left_out:
            raise InputError(f"{'; '.join(encoded.left_out)}: lower --max-new-tokens, or leave these rows out.")
        states: list[Tensor] = []
        with torch.no_grad(), engine.generate.evaluating(model.network):
            for start in range(0, len(encoded.trees), AT_ONCE):
                batch = engine.Trees.of(encoded.trees[start : start + AT_ONCE], model.device)
                states += model.states(batch).split(n)
        return Chooser(Read.of(model, users, longest), states, user)

    def best(self, k: int) -> list[int]:
        """Of the answers to each question which one it scores highest, given the first k choices of whose it is."""
        model = self.choices.model
        found = []
        with torch.no_grad(), engine.generate.evaluating(model.network):
            for states, user in zip(self.states, self.user, strict=True):
                if isinstance(model, engine.personal.PersonalScorer):
                    sees = torch.ones(1, len(states), k, dtype=torch.bool, device=states.device)
                    scores = model.score(states[None], self.choices.states[user][None, :k], sees)
                else:
                    scores = model.network.score(states)  # type: ignore[operator, union-attr]
                found.append(int(scores.flatten().argmax()))
        return found


def _ranking(samples: Sequence[Sample]) -> Ranking:
    """The answers to one question, none above another."""
    prompt: Text = samples[0].prompt.prompt
    texts = [s.text if isinstance(prompt, str) else (Message("assistant", s.text),) for s in samples]
    return Ranking(prompt, tuple(texts), (0,) * len(samples))
