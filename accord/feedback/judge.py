"""The two seams of feedback: a judge says which of two completions is better, a reward says how good one is.

What rewards from outside return: checked, with the row at fault named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from accord.engine.fit import named_rows
from accord.engine.models import Model
from accord.errors import InputError, TrainingStopped
from accord.records import Comparison, Completion, EncodedPrompt, Prompt, Sample, Text, Verdict, show


class Judge(Protocol):
    """Anything that compares: people, an AI judge, a verifier, a simulated labeler.

    One whose verdict cannot depend on which of the two stands first has the attribute `symmetric`, which is True.
    """

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict per comparison, in order: P(first is better), .5 for a tie, None where there is no answer."""
        ...


class Reward(Protocol):
    """Anything that scores: a learned reward model, a Python function, a served model."""

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """One finite float32 score per sample, (C,), in order; higher is better."""
        ...


def judge_samples(judge: Judge, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
    """The judge's verdicts on pairs of samples of one prompt each.

    A judge that has a method `samples(first, second)` is given them as they are: tokens, columns, and why each stopped.
    Others compare the texts.
    """
    samples = getattr(judge, "samples", None)
    if samples is not None:
        verdicts: list[Verdict] = samples(first, second)
        return verdicts
    return judge([Comparison(a.prompt.prompt, a.text, b.text) for a, b in zip(first, second, strict=True)])


def check_prompts(reward: Reward | Judge, prompts: Iterable[EncodedPrompt]) -> None:
    """Raise InputError where a prompt's row lacks what the reward or judge reads, before anything is sampled.

    Those that read columns have a method `check(prompt, row)` for it.
    """
    check = getattr(reward, "check", None)
    if check is not None:
        for encoded in prompts:
            check(encoded.prompt, encoded.row)


def listen(feedback: object, policy: Model) -> None:
    """Tell a reward or judge of one more policy whose samples it will be given.

    Those that read tokens have a method `listen(policy)` for it: where the policy's vocabulary is another than theirs,
    they read all samples by their texts.
    """
    tell = getattr(feedback, "listen", None)
    if tell is not None:
        tell(policy)


def score_texts(reward: Reward, pairs: Sequence[tuple[Text, Text]]) -> Tensor:
    """The reward of every (prompt, completion) that is known by its text alone, (C,): without tokens or columns."""
    texts = getattr(reward, "texts", None)
    if texts is not None:
        scores: Tensor = texts(pairs)
        return scores
    return reward([unsampled(prompt, completion) for prompt, completion in pairs])


def unsampled(prompt: Text, completion: Text) -> Sample:
    """A completion that is known by its text alone; of a chat, what the assistant says in it."""
    if not isinstance(completion, str):
        completion = "\n\n".join(message.content for message in completion if message.role == "assistant")
    return Sample(Prompt(prompt), completion, (), Completion((), (), "end"))


@dataclass(frozen=True, slots=True)
class ScoreJudge:
    """A judge that always prefers the higher `score(prompt, completion)`, and calls equal scores a tie.

    A score that is not finite makes the verdict invalid.
    """

    score: Callable[[Text, Text], float]
    symmetric: ClassVar[bool] = True

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """1 where the first scores higher, 0 where the second does, .5 where neither."""
        return [self._verdict(comparison) for comparison in comparisons]

    def _verdict(self, comparison: Comparison) -> Verdict:
        gap = score_gap(self.score, comparison)
        return invalid_gap(gap) if not isfinite(gap) else Verdict(0.5 + 0.5 * ((gap > 0) - (gap < 0)))


def score_gap(score: Callable[[Text, Text], float], comparison: Comparison) -> float:
    """score(first) - score(second)."""
    return score(comparison.prompt, comparison.first) - score(comparison.prompt, comparison.second)


def invalid_gap(gap: float) -> Verdict:
    """The verdict on a pair whose scores cannot be compared."""
    return Verdict(None, f"the difference of the two scores is {gap}")


class RewardJudge:
    """A judge that always prefers the completion of higher reward, and calls equal rewards a tie."""

    symmetric = True

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """1 where the first is rewarded more, 0 where the second is, .5 where neither."""
        firsts, seconds = [(c.prompt, c.first) for c in comparisons], [(c.prompt, c.second) for c in comparisons]
        return _higher(score_texts(self.reward, firsts + seconds))

    def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
        """The same of samples, whose rewards may depend on more than their texts; each is rewarded once."""
        samples = {id(s): s for s in (*first, *second)}
        scores = self.reward(list(samples.values()))
        place = {key: i for i, key in enumerate(samples)}
        return _higher(scores[[place[id(s)] for s in (*first, *second)]])

    def listen(self, policy: Model) -> None:
        """Tell the reward of one more policy."""
        listen(self.reward, policy)

    def check(self, prompt: Prompt, row: int) -> None:
        """What the reward asks of a prompt's row."""
        check_prompts(self.reward, [EncodedPrompt(prompt, (), row)])


def _higher(scores: Tensor) -> list[Verdict]:
    """From the rewards (2P,) of all firsts and then all seconds."""
    first, second = scores.tensor_split(2)
    return [Verdict(0.5 + 0.5 * sign) for sign in torch.sign(first - second).tolist()]


@dataclass(frozen=True, slots=True)
class TextReward:
    """A reward from a Python function of one prompt and one completion's text.

    Raises `InputError`, naming the row, where the function does not return a finite number.
    """

    function: Callable[[Text, str], float]

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """function(prompt, text) per sample, (C,) float32."""
        return finite([self.function(s.prompt.prompt, s.text) for s in samples], samples, "the reward function")


LARGEST = torch.finfo(torch.float32).max


def number(value: object) -> float | None:
    """The value as a float where it is a number: Python's, NumPy's, or a tensor without dimensions; true is 1."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, (bool, int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return float("inf")


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
    for i, found in enumerate(numbers):
        if found is None or not isfinite(found) or abs(found) > LARGEST:
            raise InputError(
                f"{source} returned {excerpt(repr(values[i]))} for {place(samples, i)}; let it return a finite number"
            )
    return torch.tensor(numbers, dtype=torch.float32)


def place(samples: Sequence[Sample], i: int) -> str:
    """Which sample it is, for a message: the row of its prompt, and how prompt and completion begin."""
    sample = samples[i]
    where = f"row {sample.row + 1}" if sample.row >= 0 else f"sample {i + 1} of the batch"
    prompt, completion = (repr(excerpt(text)) for text in (show(sample.prompt.prompt), sample.text))
    return f"{where} (prompt {prompt}, completion {completion})"


def lacking(reader: str, column: str, columns: Iterable[str], row: int) -> InputError:
    """What is wrong with a row that lacks a column."""
    where = f"row {row + 1}" if row >= 0 else "the row"
    there = ", ".join(columns) or "none besides the prompt"
    return InputError(f"{where} has no column '{column}', which {reader} reads; the columns there are: {there}")


def excerpt(text: str, length: int = 60) -> str:
    """The beginning of a text that may be long."""
    return text if len(text) <= length else text[: length - 3] + "..."


def finite_scores(reward: Reward, samples: Sequence[Sample], when: str) -> Tensor:
    """The reward of every sample, (C,); `when` opens the message where that fails.

    Raises:
        TrainingStopped: the reward did not give every sample a finite score.
    """
    scores = reward(samples)
    if len(scores) != len(samples):
        rows = named_rows(s.row for s in samples)
        raise TrainingStopped(
            f"{when}: the reward gave {len(scores)} scores for {len(samples)} samples of {rows}; "
            "let it give each sample one."
        )
    if not torch.isfinite(scores).all():
        rows = named_rows(samples[i].row for i in (~torch.isfinite(scores)).nonzero().flatten().tolist())
        raise TrainingStopped(f"{when}: the reward of a sample of {rows} is not finite; look at the reward.")
    return scores
