"""Rewards, which say how good one completion is: the interface, and checks of what functions and servers return.

Raises InputError, naming the row, where a reward's number cannot be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, Protocol

import torch
from torch import Tensor

from accord.engine.models import Model
from accord.errors import InputError, TrainingStopped, named_rows, row_called
from accord.records import Completion, EncodedPrompt, Prompt, Sample, Text, show


class Reward(Protocol):
    """Anything that scores: a learned reward model, a Python function, a served model."""

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """One finite float32 score per sample, (C,), in order; higher is better."""
        ...


def check_prompts(feedback: object, prompts: Iterable[EncodedPrompt]) -> None:
    """Raise InputError where a prompt's row lacks a column that a reward or judge reads, before anything is sampled.

    Parts that read columns have a method `check(prompt, row)`.
    """
    checks = [part.check for part in _parts(feedback) if hasattr(part, "check")]
    for encoded in prompts:
        for check in checks:
            check(encoded.prompt, encoded.row)


def listen(feedback: object, policy: Model) -> None:
    """Tell a reward or judge to expect the samples of one more policy.

    Parts that read tokens have a method `listen(policy)`: where the policy's vocabulary differs from theirs, they read
    all samples by their texts.
    """
    for part in _parts(feedback):
        if hasattr(part, "listen"):
            part.listen(policy)


def at_step(feedback: object, step: int) -> None:
    """Pass the number of finished training steps to functions that take it."""
    for part in _parts(feedback):
        if hasattr(part, "step"):
            part.step = step


def allow(feedback: Sequence[object], seconds: float | None, key: str | None = None, *, insecure: bool = False) -> None:
    """Set the time limit of functions and servers, and send the server the key in an environment variable.

    Raises InputError where the server must not get the key, or there is not exactly one server.
    """
    parts = [part for each in feedback for part in _parts(each)]
    if seconds is not None and not parts:
        raise InputError("--reward-timeout is for your own functions and servers that give rewards; there are none")
    for part in parts:
        if seconds is not None and hasattr(part, "timeout"):
            part.timeout = seconds
    servers = [part for part in parts if hasattr(part, "authorize")]
    if key is not None and (count := len({server.name for server in servers})) != 1:
        raise InputError(f"--reward-key {key} is for a server that gives rewards; there are {count or 'none'}")
    for server in servers:
        server.authorize(key, insecure=insecure)


def logged(feedback: object) -> dict[str, float]:
    """The values that functions logged in their last call, by name."""
    return {name: value for part in _parts(feedback) for name, value in getattr(part, "logged", {}).items()}


def extra(feedback: object) -> dict[str, list[Any]]:
    """The values that functions gave for each sample in their last call, by name."""
    return {name: values for part in _parts(feedback) for name, values in getattr(part, "extra", {}).items()}


def _parts(feedback: object) -> Iterator[Any]:
    """A reward or judge and all its parts, which are in its attribute `made_of`."""
    yield feedback
    for part in getattr(feedback, "made_of", ()):
        yield from _parts(part)


def score_texts(reward: Reward, pairs: Sequence[tuple[Text, Text]]) -> Tensor:
    """The reward of every (prompt, completion), (C,), from the texts alone, without tokens or columns."""
    texts: Callable[[Sequence[tuple[Text, Text]]], Tensor] | None = getattr(reward, "texts", None)
    if texts is not None:
        return texts(pairs)
    return reward([unsampled(prompt, completion) for prompt, completion in pairs])


def unsampled(prompt: Text, completion: Text) -> Sample:
    """A sample made of a completion's text alone; for a chat, the words of the assistant's messages."""
    if not isinstance(completion, str):
        completion = "\n\n".join(message.words for message in completion if message.role == "assistant")
    return Sample(Prompt(prompt), completion, (), Completion((), (), "end"))


@dataclass(frozen=True, slots=True)
class TextReward:
    """A reward from a Python function of one prompt and one completion's text, which must return a finite number."""

    function: Callable[[Text, str], float]

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        return finite([self.function(s.prompt.prompt, s.text) for s in samples], samples, "the reward function")


def number(value: object) -> float | None:
    """The value as a float, from Python, NumPy or a tensor; True is 1, beyond float32 is inf; None if not a number."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        try:
            value = value.item()
        except Exception:  # a tensor without values, or somebody's own class
            return None
    if not isinstance(value, int | float):
        return None
    return inf if abs(value) > torch.finfo(torch.float32).max else float(value)


def finite(values: Sequence[object], samples: Sequence[Sample], source: str) -> Tensor:
    """The values as rewards of the samples, (C,) float32.

    Raises InputError, naming the source and the row, where there is not one finite number for each sample.
    """
    if len(values) != len(samples):
        raise InputError(
            f"{source} returned {len(values)} values for {len(samples)} completions of "
            f"{named_rows(s.row for s in samples)}; let it return one for each"
        )
    numbers = [number(value) for value in values]
    for i, score in enumerate(numbers):
        if score is None or not isfinite(score):
            shown = excerpt_of(values[i])
            raise InputError(f"{source} returned {shown} for {describe(samples, i)}; let it return a finite number")
    return torch.tensor(numbers, dtype=torch.float32)


def describe(samples: Sequence[Sample], i: int) -> str:
    """A sample's name in messages: the row of its prompt, and the beginnings of prompt and completion."""
    sample = samples[i]
    where = row_called(sample.row) if sample.row >= 0 else f"sample {i + 1} of the batch"
    prompt, completion = (repr(excerpt(text)) for text in (show(sample.prompt.prompt), sample.text))
    return f"{where} (prompt {prompt}, completion {completion})"


def finite_scores(reward: Reward, samples: Sequence[Sample], when: str) -> Tensor:
    """The reward of every sample, (C,), NaN where it abstains; TrainingStopped, with `when`, for other NaN or inf."""
    scores = reward(samples)
    if len(scores) != len(samples):
        rows = named_rows(s.row for s in samples)
        raise TrainingStopped(
            f"{when}: the reward gave {len(scores)} scores for {len(samples)} samples of {rows}; "
            "let it give each sample one."
        )
    usable = torch.isfinite(scores) | (scores.isnan() & may_abstain(reward))
    for name, member in getattr(reward, "members", {}).items():  # a sum ignores NaN of any member
        part: Tensor = reward.parts[name]  # type: ignore[attr-defined]
        usable &= torch.isfinite(part) | (part.isnan() & may_abstain(member))
    if not usable.all():
        rows = named_rows(samples[i].row for i in (~usable).nonzero().flatten().tolist())
        raise TrainingStopped(f"{when}: the reward of a sample of {rows} is not finite; look at the reward.")
    return scores


def may_abstain(reward: object) -> bool:
    """Whether NaN among its scores means that it abstains."""
    return bool(getattr(reward, "abstains", False))


def lacking(reader: str, column: str, columns: Iterable[str], row: int) -> InputError:
    """An InputError about a row that lacks a column."""
    where, there = row_named(row), ", ".join(columns) or "none besides the prompt"
    return InputError(f"{where} has no column '{column}', which {reader} reads; the columns there are: {there}")


def row_named(row: int) -> str:
    """A row's name in messages; the index is from 0, and negative where the row is not from a file."""
    return row_called(row) if row >= 0 else "the row"


def excerpt_of(value: object) -> str:
    """The beginning of a value's repr, or its type where repr fails."""
    try:
        return excerpt(repr(value))
    except Exception:  # from the value's own __repr__, or a whole number of too many digits
        return f"a value of type {type(value).__name__}"


def excerpt(text: str, length: int = 60) -> str:
    """The text, cut to `length` characters."""
    return text if len(text) <= length else text[: length - 3] + "..."
