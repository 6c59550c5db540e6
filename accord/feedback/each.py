"""Rewards from Python functions of a single completion, the signature of verl and verifiers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accord.errors import InputError
from accord.feedback.functions import FunctionReward, run_coroutine
from accord.feedback.imports import signature_of
from accord.feedback.reward import lacking
from accord.records import Prompt

ONE = ("completion", "solution_str")
"""Argument names that mark a function of one completion: the completion, or its text (verl)."""
TRUTH = "ground_truth"


class EachReward(FunctionReward):
    """A reward from a function of one completion: `compute_score(data_source, solution_str, ground_truth, extra_info)`.

    The function gets the arguments it names, or all with `**kwargs`: `prompt`, `completion` and the columns of one
    sample. `ground_truth` is the row's, or its `reward_model`'s. The function returns a number, or a mapping with
    a `score`.

    Raises InputError as `FunctionReward` does, and for a mapping without a `score`.
    """

    provided = (*FunctionReward.provided, *ONE, "prompt", TRUTH)

    def __init__(self, function: Callable[..., Any], name: str = "") -> None:
        super().__init__(function, name)
        self._named, self._takes_all = self.names, self.takes_all
        truth = signature_of(function, str(self)).get(TRUTH)
        self._needs_truth = truth is not None and truth.default is truth.empty
        self.score_one, self.function, self.takes_all = function, self._score_all, True

    def check(self, prompt: Prompt, row: int) -> None:
        super().check(prompt, row)
        if self._needs_truth and _truth(prompt.columns) is None:
            raise lacking(str(self), TRUTH, prompt.columns, row)

    def _score_all(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[Any]:
        lists = {name: values for name, values in columns.items() if isinstance(values, list)}
        values = []
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            row = {name: column[i] for name, column in lists.items()}
            text = completion if isinstance(completion, str) else completion[-1]["content"]
            known = row | {"prompt": prompt, "completion": completion, "solution_str": text}
            if (truth := _truth(row)) is not None:
                known[TRUTH] = truth
            value = self.score_one(**{name: v for name, v in known.items() if self._takes_all or name in self._named})
            value = run_coroutine(value, self.timeout) if inspect.iscoroutine(value) else value
            if isinstance(value, Mapping) and "score" not in value:
                raise InputError(f"{self} returned an object without a score ({', '.join(map(str, value))})")
            values.append(value["score"] if isinstance(value, Mapping) else value)
        return values


def _truth(columns: Mapping[str, Any]) -> Any:
    """The row's `ground_truth`, or that of its `reward_model`."""
    held = columns.get("reward_model")
    return columns.get(TRUTH, held.get(TRUTH) if isinstance(held, Mapping) else None)


def function_reward(function: Callable[..., Any], name: str = "") -> FunctionReward:
    """A reward from a function of all completions or of one, decided by its argument names."""
    names = signature_of(function, f"the function {name or getattr(function, '__name__', function)}")
    is_of_one = "completions" not in names and any(one in names for one in ONE)
    return (EachReward if is_of_one else FunctionReward)(function, name)
