"""A method at work: the networks it trains, the items that its steps are made of, and what it does with them.

Which items a step has is a function of the seed and the step, so what must survive a restart besides weights and
optimizer is `Learner.state`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from accord import data
from accord.engine.config import TrainingConfig
from accord.records import Sample, text_to_json

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Self

    from accord.engine import Optimizer
    from accord.train.held_out import HeldOut, Tally
    from accord.train.run import Run
    from accord.train.watch import Watch

SHOWN = 4
"""Samples written to the run's folder each time."""


@dataclass(frozen=True)
class StepResult:
    """What a step gave: the numbers to log, the tokens it computed, and its samples with their rewards, if any.

    `extra` holds what rewards said of each sample, by name.
    """

    numbers: dict[str, float]
    tokens: int
    samples: Sequence[Sample] = ()
    rewards: Sequence[float] = ()
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def shown(self) -> list[dict[str, Any]]:
        """A few samples for people to read."""
        said: dict[str, Sequence[Any]] = dict(self.extra) | ({"reward": self.rewards} if self.rewards else {})
        if any(sample.completion.version is not None for sample in self.samples):
            said["version"] = [sample.completion.version for sample in self.samples]
        texts = [{"prompt": text_to_json(s.prompt.prompt), "completion": s.text} for s in self.samples[:SHOWN]]
        return [text | {name: values[i] for name, values in said.items()} | text for i, text in enumerate(texts)]


class HasNumbers(Protocol):
    """What has numbers to log of every step."""

    def numbers(self) -> dict[str, float]: ...


class Learner(ABC):
    """A method at work: what it trains, and what it does at a step."""

    method: TrainingConfig
    networks: Mapping[str, nn.Module]
    """What is trained, by name."""
    held_out_loss: ClassVar[str] = "loss"
    """What of rows held out should fall."""
    sampler: HasNumbers | None = None
    """What draws the samples, where it is not this process, and has numbers to log of that."""

    def learn_from(self, items: Sequence[Any], watch: Watch | HeldOut | None) -> Self:
        """The learner, told what to learn from, `method.batch_size` items a step, and what watches it, if anything."""
        self.items, self.watch = items, watch
        self.order = data.Order(len(items), self.method.batch_size, self.method.seed)
        return self

    @property
    def total(self) -> int:
        """The run's steps, as far as is known by now."""
        return self.method.max_steps or self.order.steps(self.method.epochs)

    def batch(self, step: int) -> list[Any]:
        """The items of a step, counted from 0."""
        return [self.items[i] for i in self.order.batch(step)]

    @abstractmethod
    def step(self, step: int, items: Sequence[Any], optimizer: Optimizer) -> StepResult:
        """Update the networks by what the items teach; TrainingStopped, and no update, where one is not finite."""

    def measure(self, items: Sequence[Any], clusters: Sequence[int], when: str) -> Tally:
        """What items held out, none of them trained on, cost the model as it is, by the cluster of each item's row.

        Methods with `HeldOutOptions` have it. TrainingStopped, which says when, where a value is not finite.
        """
        raise NotImplementedError

    def before(self, step: int, run: Run, optimizer: Optimizer) -> bool:
        """What is to be done before a step, if anything; True where that was so long that it deserves a checkpoint."""
        return False

    def state(self) -> dict[str, Any]:
        """What must survive a restart besides weights and optimizer."""
        return {}

    def restore(self, state: Mapping[str, Any], run: Run, optimizer: Optimizer) -> None:  # noqa: B027
        """Take over what `state` returned, of a run that goes on."""
