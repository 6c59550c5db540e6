"""`Learner`, the interface between a method and the main loop: its networks, its training items, and its step.

Which items a step gets is a function of the seed and the step, so besides weights and optimizer only `Learner.state`
must survive a restart.
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
    """The result of a step: numbers to log, tokens computed, and the samples with their rewards, if any.

    `extra` holds further values per sample, by name, such as the parts of a reward.
    """

    numbers: dict[str, float]
    tokens: int
    samples: Sequence[Sample] = ()
    rewards: Sequence[float] = ()
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def shown(self) -> list[dict[str, Any]]:
        """The first samples as rows of samples.jsonl."""
        columns: dict[str, Sequence[Any]] = dict(self.extra) | ({"reward": self.rewards} if self.rewards else {})
        if any(sample.completion.version is not None for sample in self.samples):
            columns["version"] = [sample.completion.version for sample in self.samples]
        texts = [{"prompt": text_to_json(s.prompt.prompt), "completion": s.text} for s in self.samples[:SHOWN]]
        return [text | {name: values[i] for name, values in columns.items()} | text for i, text in enumerate(texts)]


class HasNumbers(Protocol):
    """An object with numbers to log at every step."""

    def numbers(self) -> dict[str, float]: ...


class Learner(ABC):
    """A method in training: what it trains and how it makes a step."""

    method: TrainingConfig
    networks: Mapping[str, nn.Module]
    """The trained networks, by name."""
    held_out_loss: ClassVar[str] = "loss"
    """The held-out measure that should fall; it chooses the best model by default."""
    sampler: HasNumbers | None = None
    """The external sampler, where one draws the samples and has numbers to log."""

    def learn_from(self, items: Sequence[Any], watch: Watch | HeldOut | None) -> Self:
        """Set the training items, `method.batch_size` per step, and what measures the model in training, if any."""
        self.items, self.watch = items, watch
        self.order = data.Order(len(items), self.method.batch_size, self.method.seed)
        return self

    @property
    def total(self) -> int:
        """The run's number of steps, as far as known so far."""
        return self.method.max_steps or self.order.steps(self.method.epochs)

    def batch(self, step: int) -> list[Any]:
        """The items of a step, counted from 0."""
        return [self.items[i] for i in self.order.batch(step)]

    @abstractmethod
    def step(self, step: int, items: Sequence[Any], optimizer: Optimizer) -> StepResult:
        """Update the networks on the items. Raises TrainingStopped, without an update, where a value is not finite."""

    def measure(self, items: Sequence[Any], clusters: Sequence[int], when: str) -> Tally:
        """The measures of held-out items under the current model, grouped by the cluster of each item's row.

        Methods with `HeldOutOptions` implement it. Raises TrainingStopped, with `when` in the message, where a value is
        not finite.
        """
        raise NotImplementedError

    def before(self, step: int, run: Run, optimizer: Optimizer) -> bool:
        """Work due before a step, if any; True where it took so long that it deserves a checkpoint."""
        return False

    def state(self) -> dict[str, Any]:
        """The state to keep in checkpoints besides weights and optimizer."""
        return {}

    def restore(self, state: Mapping[str, Any], run: Run, optimizer: Optimizer) -> None:  # noqa: B027
        """Take over the `state` of a resumed run."""
