"""Passes over trees, as steps of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accord.data import Order
from accord.engine import checkpoint
from accord.engine.fit import LossTerm, Optimizer
from accord.engine.trees import Tree
from accord.errors import TrainingStopped
from accord.train.run import Run
from accord.train.watch import NoWatch


@dataclass(frozen=True)
class Passes:
    """Passes over trees as steps of a run: they come after `before` others, and their rows say `numbers` besides."""

    trees: Sequence[Tree]
    order: Order
    work: Callable[[Sequence[Tree]], LossTerm]
    before: int = 0
    numbers: Mapping[str, float] = field(default_factory=dict)
    watch: NoWatch = field(default_factory=NoWatch)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of them besides weights and optimizer."""
        return {"before": self.before, "numbers": dict(self.numbers)}

    def make(self, optimizer: Optimizer, run: Run, save_every: int, first: int = 0) -> None:
        """The main loop: batches of trees, one optimizer step each, from the pass's step `first` to the last."""
        folder = run.folder / "checkpoints"
        for step in range(first, optimizer.total):
            batch = [self.trees[i] for i in self.order.batch(step)]
            done = self.before + step + 1
            try:
                row = optimizer.update(step, self.work(batch))
            except TrainingStopped:
                checkpoint.save(folder, done - 1, optimizer, self.state)
                raise
            row |= {"epoch": self.order.epoch(step + 1), **self.numbers, **self.watch.after(done)}
            run.log(done, row, sum(t.size for t in batch))
            if run.stopping:
                self.watch.settle()
                return
            if done % save_every == 0 and step + 1 < optimizer.total:
                self.watch.save()
                checkpoint.save(folder, done, optimizer, self.state)
        self.watch.save()
