"""How a judge that is a language model is described: what a YAML file may say, and what commands may give.

    # judge.yaml
    model: smollm2
    method: choose            # between two answers; or rank, several at once; or score, each alone
    constitution: hhh         # or principles: a list of sentences; of judges that choose or rank
    principles_per_comparison: 1
    reasoning: 128            # tokens of reasoning before the verdict
    scales:                   # of judges that score
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
"""The principle of a judge that is given none."""
MARKS = 100
"""A scale's highest mark, at most."""


@dataclass(kw_only=True)
class JudgeOptions(TemplateOptions, LimitOptions):
    """What may be said of a language model that judges, and within which limits it is asked."""

    constitution: str | None = None
    """The principles by which a language model judges: a YAML file, or one that comes with accord: accord, hhh."""
    principles_per_comparison: int | None = None
    """How many principles are drawn per comparison, the same for both orders (default: one of a constitution, all of
    those in a judge's file)."""
    reasoning: int = 0
    """The most tokens a judging language model may reason before its verdict; 0 asks for the verdict at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reasoning < 0:
            raise InputError(f"a judge's reasoning is so many tokens, 0 for none, not {self.reasoning}")
        if self.principles_per_comparison is not None and self.principles_per_comparison < 1:
            raise InputError(f"principles_per_comparison must be positive, not {self.principles_per_comparison}")


@dataclass(kw_only=True)
class RewardOptions:
    """What functions of one's own and servers that give rewards may take, and be sent."""

    reward_timeout: float | None = None
    """Seconds to wait for a call of your own function, or of a server, that rewards, judges or measures (default: 600
    for functions, 60 for servers)."""
    reward_key: str | None = None
    """The environment variable that holds the reward server's key."""
    reward_insecure: bool = False
    """Allow sending that key, or a password in a URL, over plain http to another machine."""

    def __post_init__(self) -> None:
        if self.reward_timeout is not None:
            require_positive(reward_timeout=self.reward_timeout)

    def allow(self, feedback: Sequence[object]) -> None:
        """Let rewards and judges take that long, and be sent that key; InputError as `accord.feedback.reward.allow`."""
        from accord.feedback.reward import allow

        allow(feedback, self.reward_timeout, self.reward_key, insecure=self.reward_insecure)


@dataclass(kw_only=True)
class JudgesOptions(RewardOptions, JudgeOptions):
    """What may be said of judges of every kind: language models, functions and servers."""

    def __post_init__(self) -> None:
        RewardOptions.__post_init__(self)
        JudgeOptions.__post_init__(self)

    @staticmethod
    def of_models(given: Mapping[str, Any]) -> dict[str, Any]:
        """Of the options that are given those of language models that judge."""
        names = {field.name for field in fields(JudgeOptions)}
        return {name: value for name, value in given.items() if name in names}


@checked.dataclass(kw_only=True, frozen=True, config=ConfigDict(extra="forbid"))
class Scale:
    """What an answer gets a mark for: whole numbers from `lowest` to `highest`."""

    question: str
    lowest: int = 1
    highest: int = 10
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError("a scale's question is empty")
        if not 0 <= self.lowest < self.highest <= MARKS:
            raise ValueError(f"marks go from 0 or more up to {MARKS} or less, not from {self.lowest} to {self.highest}")
        if not self.weight:
            raise ValueError("a scale of weight 0 says nothing; leave it out")

    @property
    def marks(self) -> range:
        return range(self.lowest, self.highest + 1)


QUALITY = Scale(question="How good is the answer, from useless or harmful to as helpful and harmless as can be?")
"""The scale of a judge that scores, and is given none."""


@checked.dataclass(kw_only=True, config=ConfigDict(extra="forbid"))
class JudgeConfig(JudgeOptions, AskOptions):
    """An AI judge as a YAML file describes it."""

    method: Literal["choose", "rank", "score"] = "choose"
    """Whether it chooses between two answers, ranks several at once, or gives each alone a score."""
    principles: tuple[str, ...] | None = None
    """The principles themselves, each a sentence, in place of a constitution."""
    scales: dict[str, Scale | str] | None = None
    """What a judge that scores is asked of each answer, by name; a sentence alone is a scale from 1 to 10."""
    template: str | None = None
    """What the model is asked: names in braces stand for what is judged, and any other for the row's column."""
    max_tokens: int = 8
    """Of a served reply, beside its reasoning; models that reason by themselves need more."""
    logprobs: bool = True
    """Whether the server is asked for the options' probabilities; without them what it says counts."""
    seed: int = 0
    """Decides which principles are drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens < 1:
            raise InputError(f"a judge's max_tokens must be positive, not {self.max_tokens}")
        if self.principles is not None and self.constitution is not None:
            raise InputError("a judge has principles or a constitution, which lists them: give one of the two")
        by_principles = (self.principles, self.constitution, self.principles_per_comparison) != (None, None, None)
        if self.method == "score" and by_principles:
            raise InputError("principles are for judges that choose or rank; one that scores has scales")
        if self.method != "score" and self.scales is not None:
            raise InputError(f"scales are of judges that score (method: score), and this one's method is {self.method}")
        if self.scales is not None and not self.scales:
            raise InputError("a judge that scores needs a scale; without any it rates how good an answer is")

    def told(self) -> tuple[tuple[str, ...], int]:
        """The principles, and how many of them are drawn for a comparison; raises as `read_constitution` does."""
        if self.constitution is not None:
            told = tuple(principle.prefer for principle in read_constitution(self.constitution))
            return told, self.principles_per_comparison or 1
        told = (HELPFUL,) if self.principles is None else checked_principles(self.principles)
        return told, self.principles_per_comparison or len(told)

    def rubric(self) -> dict[str, Scale]:
        """The scales by name."""
        scales = {"quality": QUALITY} if self.scales is None else self.scales
        return {name: Scale(question=s) if isinstance(s, str) else s for name, s in scales.items()}


def checked_principles(principles: Sequence[str]) -> tuple[str, ...]:
    """The principles; InputError where there are none, or one says nothing."""
    if not principles or not all(isinstance(p, str) and p.strip() for p in principles):
        raise InputError(f"an AI judge's principles are a list of sentences, not {list(principles)}")
    return tuple(principles)


def read_judge(name: str, **given: Any) -> JudgeConfig:
    """The judge that `ai:MODEL`, `ai:MODEL@URL` or a YAML file describes; what is given goes before what a file says.

    A constitution that is given takes the place of the file's principles. Raises InputError where the name names no
    model, or the file is not there or describes no judge.
    """
    known = f"; it may have {', '.join(field.name for field in fields(JudgeConfig))}"
    try:
        said = _named(name) if name.startswith(AI) else parse_yaml(read_content(name))
        if isinstance(said, dict):
            if not name.startswith(AI):
                require_keys_allowed(name, said, given)
            taken = "principles" if "constitution" in given else None
            said = {key: value for key, value in said.items() if key != taken} | given
        return TypeAdapter(JudgeConfig).validate_python(said)
    except OSError as error:
        raise InputError(f"{name}, the judge, cannot be read ({error.strerror})") from None
    except ValidationError as error:
        causes = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors())
        cause = "; ".join(cause.removeprefix("Value error, ") for cause in causes)
        known = "" if all(e["type"] == "value_error" for e in error.errors()) else known
    except yaml.YAMLError as error:
        cause, known = str(error), ""
    raise InputError(f"{name} describes no judge ({cause}){known}")


def _named(name: str) -> dict[str, Any]:
    model, _, server = name.removeprefix(AI).partition("@")
    if not model:
        raise InputError(f"{name} names no model; write {AI}MODEL, or {AI}MODEL@URL for one that is served")
    return {"model": model, "server": server or None}
