"""Options of judges and rewards: what a language model judge's YAML file may hold, and what commands may set.

    # judge.yaml
    model: smollm2
    method: choose            # between two answers; or rank, several at once; or score, each alone
    constitution: hhh         # or principles: a list of sentences; for judges that choose or rank
    principles_per_comparison: 1
    reasoning: 128            # tokens of reasoning before the verdict
    scales:                   # for judges that score
      honest: {question: How honest is the answer?, lowest: 1, highest: 10, weight: 2}
      short: Is the answer as short as it can be?

Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic import dataclasses as checked

from accord.engine.config import TemplateOptions, require_positive
from accord.errors import InputError
from accord.feedback.constitution import read_constitution
from accord.feedback.formula import AI
from accord.parsing import parse_yaml, read_content
from accord.prompting.options import AskOptions, LimitOptions, require_keys_allowed

HELPFUL = "Prefer the answer that helps the user more and does no harm."
"""The default principle."""
MARKS = 100
"""The highest mark that a scale may have."""


@dataclass(kw_only=True)
class JudgeOptions(TemplateOptions, LimitOptions):
    """Options of language models as judges, and the limits of requests to them."""

    constitution: str | None = None
    """The principles by which a language model judges: a YAML file, or a constitution of accord's: accord, hhh."""
    principles_per_comparison: int | None = None
    """How many principles are drawn per comparison, the same for both orders (default: one of a constitution, all of
    those in a judge's file)."""
    reasoning: int = 0
    """The most tokens a judging language model may reason before its verdict; 0 asks for the verdict at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reasoning < 0:
            raise InputError(f"reasoning is a number of tokens, 0 for none, not {self.reasoning}")
        if self.principles_per_comparison is not None and self.principles_per_comparison < 1:
            raise InputError(f"principles_per_comparison must be positive, not {self.principles_per_comparison}")


@dataclass(kw_only=True)
class RewardOptions:
    """Time limits and keys for your own reward functions and servers."""

    reward_timeout: float | None = None
    """Seconds to wait for a call of your own function or server that rewards, judges or measures (default: 600 for
    functions, 60 for servers)."""
    reward_key: str | None = None
    """The environment variable that holds the reward server's key."""
    reward_insecure: bool = False
    """Allow sending that key, or a password in a URL, over plain http to another machine."""

    def __post_init__(self) -> None:
        if self.reward_timeout is not None:
            require_positive(reward_timeout=self.reward_timeout)

    def allow(self, feedback: Sequence[object]) -> None:
        """Apply these options to rewards and judges; InputError as `accord.feedback.reward.allow`."""
        from accord.feedback.reward import allow

        allow(feedback, self.reward_timeout, self.reward_key, insecure=self.reward_insecure)


@dataclass(kw_only=True)
class JudgesOptions(RewardOptions, JudgeOptions):
    """Options of judges of every kind: language models, functions and servers."""

    def __post_init__(self) -> None:
        RewardOptions.__post_init__(self)
        JudgeOptions.__post_init__(self)

    @staticmethod
    def of_models(options: Mapping[str, Any]) -> dict[str, Any]:
        """The given options that are for language models as judges."""
        names = {field.name for field in fields(JudgeOptions)}
        return {name: value for name, value in options.items() if name in names}


@checked.dataclass(kw_only=True, frozen=True, config=ConfigDict(extra="forbid"))
class Scale:
    """A question about an answer, answered by a mark: a whole number from `lowest` to `highest`."""

    question: str
    lowest: int = 1
    highest: int = 10
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError("a scale's question is empty")
        if not 0 <= self.lowest < self.highest <= MARKS:
            raise ValueError(f"marks must be within 0 and {MARKS}, not from {self.lowest} to {self.highest}")
        if not self.weight:
            raise ValueError("a scale of weight 0 has no effect; leave it out")

    @property
    def marks(self) -> range:
        return range(self.lowest, self.highest + 1)


QUALITY = Scale(question="How good is the answer, from useless or harmful to as helpful and harmless as can be?")
"""The default scale of a judge that scores."""


@checked.dataclass(kw_only=True, config=ConfigDict(extra="forbid"))
class JudgeConfig(JudgeOptions, AskOptions):
    """An AI judge as described by a YAML file."""

    method: Literal["choose", "rank", "score"] = "choose"
    """Whether the judge chooses between two answers, ranks several at once, or scores each alone."""
    principles: tuple[str, ...] | None = None
    """The principles, each a sentence, instead of a constitution."""
    scales: dict[str, Scale | str] | None = None
    """The scales of a judge that scores, by name; a plain sentence is a scale from 1 to 10."""
    template: str | None = None
    """The text that the model is given: names in braces stand for what is judged, or for a column of the row."""
    max_tokens: int = 8
    """The most tokens of a served reply, without its reasoning; models that reason by themselves need more."""
    logprobs: bool = True
    """Whether to ask the server for the options' probabilities; without them the reply's text decides."""
    seed: int = 0
    """Seed of the principles drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens < 1:
            raise InputError(f"a judge's max_tokens must be positive, not {self.max_tokens}")
        if self.principles is not None and self.constitution is not None:
            raise InputError("a judge has principles or a constitution: give one of the two")
        by_principles = (self.principles, self.constitution, self.principles_per_comparison) != (None, None, None)
        if self.method == "score" and by_principles:
            raise InputError("principles are for judges that choose or rank; one that scores has scales")
        if self.method != "score" and self.scales is not None:
            raise InputError(f"scales are for judges that score (method: score); this one's method is {self.method}")
        if self.scales is not None and not self.scales:
            raise InputError("scales are empty; give one, or leave them out to rate how good an answer is")

    def drawn_from(self) -> tuple[tuple[str, ...], int]:
        """The principles, and how many are drawn for a comparison; raises as `read_constitution` does."""
        if self.constitution is not None:
            principles = tuple(principle.prefer for principle in read_constitution(self.constitution))
            return principles, self.principles_per_comparison or 1
        principles = (HELPFUL,) if self.principles is None else checked_principles(self.principles)
        return principles, self.principles_per_comparison or len(principles)

    def rubric(self) -> dict[str, Scale]:
        """The scales by name, or the default one."""
        scales = {"quality": QUALITY} if self.scales is None else self.scales
        return {name: Scale(question=s) if isinstance(s, str) else s for name, s in scales.items()}


def checked_principles(principles: Sequence[str]) -> tuple[str, ...]:
    """The principles as a tuple; InputError where there are none, or one is empty."""
    if not principles or not all(isinstance(p, str) and p.strip() for p in principles):
        raise InputError(f"an AI judge's principles are a list of sentences, not {list(principles)}")
    return tuple(principles)


def read_judge(name: str, **overrides: Any) -> JudgeConfig:
    """The judge described by `ai:MODEL`, `ai:MODEL@URL` or a YAML file, some of whose options are overridden.

    A constitution given replaces the file's principles. Raises InputError where the name has no model, or the file is
    missing or does not describe a judge.
    """
    known = f"; it may have {', '.join(field.name for field in fields(JudgeConfig))}"
    try:
        settings = _named(name) if name.startswith(AI) else parse_yaml(read_content(name))
        if isinstance(settings, dict):
            if not name.startswith(AI):
                require_keys_allowed(name, settings, overrides)
            taken = "principles" if "constitution" in overrides else None
            settings = {key: value for key, value in settings.items() if key != taken} | overrides
        return TypeAdapter(JudgeConfig).validate_python(settings)
    except OSError as error:
        raise InputError(f"{name}, the judge, cannot be read ({error.strerror})") from None
    except ValidationError as error:
        causes = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors())
        cause = "; ".join(cause.removeprefix("Value error, ") for cause in causes)
        known = "" if all(e["type"] == "value_error" for e in error.errors()) else known
    except yaml.YAMLError as error:
        cause, known = str(error), ""
    raise InputError(f"{name} does not describe a judge ({cause}){known}")


def _named(name: str) -> dict[str, Any]:
    model, _, server = name.removeprefix(AI).partition("@")
    if not model:
        raise InputError(f"{name} names no model; write {AI}MODEL, or {AI}MODEL@URL for one that is served")
    return {"model": model, "server": server or None}
