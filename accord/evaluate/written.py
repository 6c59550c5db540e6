"""Answers that were written before: reference answers, or what a model sampled, read from a file by their prompts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from accord.data.load import load_prompted_samples
from accord.errors import InputError
from accord.evaluate.compare import Answers
from accord.feedback.reward import excerpt, unsampled
from accord.records import Completion, Prompt, Sample, Text, show


class Written:
    """The first completion of every prompt in a file of prompts and completions, whatever their order.

    An answer counts as whole unless its row says `"stop": "length"`, as `accord sample` does of those that were cut.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._first: dict[Text, tuple[Prompt, Text]] = {}
        for prompt, completion in load_prompted_samples(path):
            self._first.setdefault(prompt.prompt, (prompt, completion))
        if not self._first:
            raise InputError(f"{self.path} holds no rows.")

    @property
    def prompts(self) -> list[Prompt]:
        """The different prompts, each with its first row's other columns."""
        return [prompt for prompt, _ in self._first.values()]

    def require(self, prompts: Iterable[Text], whence: str) -> None:
        """Raise InputError, naming the first of the prompts that has no completion here."""
        for prompt in prompts:
            if prompt not in self._first:
                raise InputError(
                    f"the prompt {excerpt(show(prompt))!r} is in {whence} and not in {self.path}; give files of "
                    "answers to the same prompts."
                )

    def answers(self, name: str, prompts: Sequence[Prompt]) -> Answers:
        """What the file answers to the prompts, under the name of whoever wrote it."""
        return Answers(name, [self._sample(prompt, i) for i, prompt in enumerate(prompts)])

    def _sample(self, prompt: Prompt, row: int) -> Sample:
        own, completion = self._first[prompt.prompt]
        was_cut = own.columns.get("stop") == "length"
        text = unsampled(prompt.prompt, completion).text
        return Sample(prompt, text, (), Completion((), (), "length" if was_cut else "end"), row)


def require_same_prompts(files: Sequence[Written]) -> None:
    """Raise InputError, naming the first prompt that one of the files has and another has not."""
    for other in files[1:]:
        for one, two in ((files[0], other), (other, files[0])):
            two.require((p.prompt for p in one.prompts), one.path)
