"""Options shared by evaluations: which rows are read, and how models answer them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from accord import data, engine, feedback
from accord.console import status
from accord.dates import fixed
from accord.engine.config import SamplerConfig, TemplateOptions
from accord.errors import LeftOut
from accord.feedback.options import RewardOptions
from accord.results.models import Drawing

if TYPE_CHECKING:
    from accord.data.judgments import Judgment
    from accord.data.load import Source
    from accord.engine import Model, Sampling
    from accord.feedback.reward import Reward
    from accord.records import Prompt, Row

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(kw_only=True)
class RowOptions:
    """Options for reading rows of data."""

    split: str = "train"
    """Which rows to use, such as train, train[:100] or train[-100:]."""
    limit: int | None = None
    """Use only the first N rows."""
    columns: dict[str, str] | None = None
    """Where the data's columns have other names, which is which: prompt=question,chosen=best.text."""

    def __post_init__(self) -> None:
        from accord.data.load import require_limit
        from accord.data.sources import parse_split

        require_limit(self.limit)
        parse_split(self.split)

    def rows(self, source: Source) -> list[Row]:
        """These rows, as `load_data` reads them."""
        return self._read(data.load_data, source)

    def prompts(self, source: Source) -> list[Prompt]:
        """The prompts of these rows, as `load_prompts` reads them."""
        return self._read(data.load_prompts, source)

    def _read(self, load: Callable[..., list[Any]], source: Source) -> list[Any]:
        left_out = LeftOut(strict=True)
        rows = load(source, split=self.split, limit=self.limit, columns=self.columns, left_out=left_out)
        for line in left_out.taken:
            status(line)
        return rows

    def judgments(self, source: Source) -> list[Judgment]:
        """The judgments in these rows, as `load_judgments` reads them."""
        return data.judgments.load_judgments(source, columns=self.columns, split=self.split, limit=self.limit)


@dataclass(kw_only=True)
class ChatOptions(TemplateOptions, RowOptions):
    """Options for reading rows, and the chat template that models read them by."""


@dataclass(kw_only=True)
class ComparisonOptions(RewardOptions, ChatOptions):
    """Options for reading judgments, and for the reward or judge under test."""

    def __post_init__(self) -> None:
        RewardOptions.__post_init__(self)
        ChatOptions.__post_init__(self)


@dataclass(kw_only=True)
class AnswerOptions(SamplerConfig, ChatOptions):
    """Options for reading prompts, and for how models answer them."""

    max_new_tokens: int = 64
    """Longest answer, in tokens; longer ones are cut."""
    temperature: float = 1.0
    """Sampling temperature; 0 always takes the most likely token."""
    seed: int = 0
    """The same seed gives the same answers."""
    min_new_tokens: int = 0
    """Tokens before which a sample cannot end."""
    stop: str | list[str] | None = None
    """A text that ends an answer, such as "</answer>", or several."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the models' matrix products; auto is bfloat16 where the processor supports it. Reward models that
    score or judge answers compute in float32."""

    def __post_init__(self) -> None:
        SamplerConfig.__post_init__(self)
        ChatOptions.__post_init__(self)
        self.sampling()  # which checks its values

    def sampling(self) -> Sampling:
        """The sampling settings."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return engine.Sampling(
            self.max_new_tokens, self.temperature, seed=self.seed, min_new_tokens=self.min_new_tokens, stop=stop
        )

    def drawing(self) -> Drawing:
        """The sampling settings as kept in a result."""
        return Drawing(temperature=self.temperature, max_new_tokens=self.max_new_tokens, seed=self.seed)


@dataclass(kw_only=True)
class ScoredOptions(RewardOptions, AnswerOptions):
    """Options for reading prompts and answering them, and for the rewards and judges that read the answers."""

    max_length: int = 512
    """Rows whose prompt leaves no room for an answer within this many tokens are left out."""

    def __post_init__(self) -> None:
        RewardOptions.__post_init__(self)
        AnswerOptions.__post_init__(self)

    def scorers(self, *names: str, policy: Model | None = None) -> dict[str, Reward]:
        """The rewards of these names, made for a policy; InputError as in `reward_named` and `allow`."""
        rewards = {name: feedback.named.reward_named(name, policy) for name in names}
        self.allow(list(rewards.values()))
        return rewards


def takes(options: type[Any]) -> Callable[[Function], Function]:
    """Decorator for a command's function: records the class of its `**options`, and fixes the date of its chats."""

    def marked(function: Function) -> Function:
        @functools.wraps(function)
        def on_one_day(*given: Any, **named: Any) -> Any:
            with fixed():
                return function(*given, **named)

        on_one_day.options = options  # type: ignore[attr-defined]
        return on_one_day  # type: ignore[return-value]

    return marked


def checked_by(check: Callable[..., object]) -> Callable[[Function], Function]:
    """Decorator for a command's function: records what checks its arguments, for the stages of recipes.

    `check` takes some of the function's arguments and of the fields of its options, by their names, and raises
    InputError where they have a value that the function refuses whatever its files hold.
    """

    def marked(function: Function) -> Function:
        function.check = check  # type: ignore[attr-defined]
        return function

    return marked
