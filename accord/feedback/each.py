"""Python functions of one completion as rewards, as verl and verifiers have them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accord.feedback.functions import FunctionReward, awaited, signature_of
from accord.feedback.reward import lacking
from accord.records import Prompt

ONE = ("completion", "solution_str")
"""Arguments by which a function says that it takes one completion: as `completions` has it, or its text (verl's)."""
TRUTH = "ground_truth"


class EachReward(FunctionReward):
    """A reward from a function of one completion: `compute_score(data_source, solution_str, ground_truth, extra_info)`.

    It gets the arguments it names, or all where it takes `**kwargs`: `prompt`, `completion` and the row's columns, each
    of that one sample. `ground_truth` is the row's own, or what its `reward_model` holds of that name. It returns a
    number, or an object that has it as `score`.

    Raises InputError as `FunctionReward` does.
    """

    given = (*FunctionReward.given, *ONE, "prompt", "data_source", "extra_info", TRUTH)

    def __init__(self, function: Callable[..., Any], name: str = "") -> None:
        super().__init__(function, name)
        self._named, self._takes_all = self.names, self.takes_all
        self.one, self.function, self.takes_all = function, self._each, True

    def check(self, prompt: Prompt, row: int) -> None:
        super().check(prompt, row)
        if TRUTH in self._named and _truth(prompt.columns) is None:
            raise lacking(str(self), TRUTH, prompt.columns, row)

    def _each(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[Any]:
        lists = {name: values for name, values in columns.items() if isinstance(values, list)}
        values = []
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            row = {name: held[i] for name, held in lists.items()}
            text = completion if isinstance(completion, str) else completion[-1]["content"]
            known = {"data_source": "", **row, "extra_info": row.get("extra_info") or {}, TRUTH: _truth(row)}
            known |= {"prompt": prompt, "completion": completion, "solution_str": text}
            value = self.one(**{name: v for name, v in known.items() if self._takes_all or name in self._named})
            value = awaited(value, self.timeout) if inspect.iscoroutine(value) else value
            values.append(value.get("score") if isinstance(value, Mapping) else value)
        return values


def _truth(columns: Mapping[str, Any]) -> Any:
    """The right answer as a row has it for verl's functions."""
    held = columns.get("reward_model")
    return columns.get(TRUTH, held.get(TRUTH) if isinstance(held, Mapping) else None)


def function_reward(function: Callable[..., Any], name: str = "") -> FunctionReward:
    """The reward of a function, of all completions at once or of one, by the arguments it names."""
    names = signature_of(function, f"the function {name or getattr(function, '__name__', function)}")
    is_of_one = "completions" not in names and any(one in names for one in ONE)
    return (EachReward if is_of_one else FunctionReward)(function, name)
