"""Rows held out while training: the same loss on rows that are never trained on, and the best model by it.

What a step's batch costs falls as long as a model learns its rows, by heart too; what rows held out cost falls as long
as it learns from them. They are measured before the first step, every so many steps and after the last, without
gradients, in the run's precision, by the objective that is trained with: of N values of the loss over all rows held
out, per tree, branch or token as the method has them,

    eval_loss = sum of the values / N

and in the same manner every measure of the method that belongs to rows (`accuracy`, `margin`, `chosen_reward` ...).

Values of one prompt hang together: the tokens of a demonstration, the pairs of a ranking, rows with the same prompt. So
the 95% intervals, `eval_loss_low` to `eval_loss_high`, are over prompts, those of a mean by `cluster_mean`, those of an
accuracy by `cluster_rate` (accord.results.base). They say how far another draw of rows might be from this one; two
measurements of one run are of the same rows, and closer than that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from accord.errors import InputError, TrainingStopped
from accord.records import Prompt, Row, Sample
from accord.train.loop import Learner
from accord.train.options import HeldOutOptions
from accord.train.run import Run
from accord.train.watch import BestModel

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine import Model
    from accord.results.base import Floats


class Tally:
    """Sums and numbers of named values by the cluster that each value is of, counted from 0: what means are made of."""

    def __init__(self, clusters: int) -> None:
        self.clusters = clusters
        self.sums: dict[str, Floats] = {}
        self.counts: dict[str, Floats] = {}

    def add(self, name: str, values: Tensor, cluster: Tensor) -> None:
        """More values (n,), each of a cluster (n,)."""
        where, given = cluster.cpu().numpy(), values.detach().double().cpu().numpy()
        for so_far, weights in ((self.sums, given), (self.counts, np.ones(len(given)))):
            so_far[name] = so_far.get(name, np.zeros(self.clusters)) + np.bincount(where, weights, self.clusters)

    def row(self) -> dict[str, float]:
        """For every name that has values, `eval_` and it: the mean, and the ends of its interval where it has one."""
        from accord.results.base import cluster_mean, cluster_rate

        found: dict[str, float] = {}
        for name, sums in self.sums.items():
            if not (there := self.counts[name] > 0).any():
                continue
            interval = (cluster_rate if name == "accuracy" else cluster_mean)(sums[there], self.counts[name][there])
            ends = {"": interval.estimate, "_low": interval.low, "_high": interval.high}
            found |= {f"eval_{name}{end}": value for end, value in ends.items() if isfinite(value)}
        return found


class HeldOut(BestModel):
    """Rows held out of a run, measured as it goes on, and the best model by them so far.

    Args:
        run: whose folder gets `best/` and `best.json`, and which ends where patience does.
        name: what messages call the rows.
        measure: what the model as it is makes of the rows; it is told when, for messages.
        loss: the measure that should fall.

    Raises InputError where the rows do not give what the best model is chosen by.
    """

    def __init__(
        self,
        model: Model,
        run: Run,
        options: HeldOutOptions,
        name: str,
        measure: Callable[[str], Tally],
        loss: str = "loss",
    ) -> None:
        super().__init__(model, run)
        self.options, self.name, self.measure = options, name, measure
        self.by = loss if options.best_by == "loss" else options.best_by
        self.column, self.sign = f"eval_{self.by}", -1 if options.best_by == "loss" else 1
        self.waited = 0
        self.start = {} if run.resumed else self._measured(0)

    def restore(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take over the rows of a run that goes on; of one that begins, write what was measured before it."""
        for row in rows:
            if self.column in row:
                self._is_best(int(row["step"]), row)
        self.written = self.best  # it is in the run's folder
        if not rows:
            self.start = self.start or self._measured(0)
            self._is_best(0, self.start)
            self.run.log(0, self.start, 0)

    def after(self, step: int, samples: Sequence[Sample] = ()) -> dict[str, float]:
        """What is measured after a step, counted from 1; TrainingStopped where it is not finite."""
        every = self.options.eval_every or max(1, self.run.total // 10)
        if step % every and step != self.run.total:
            return {}
        row = self._measured(step)
        if self._is_best(step, row):
            self.keep()
        if self.options.patience and self.waited >= self.options.patience and self.run.stopping is None:
            times = "1 measurement was" if self.waited == 1 else f"{self.waited} measurements on end were"
            self.run.stopping = f"{times} no better than the best, so that the run ends as --patience asks."
        return row

    def settle(self, *, best: bool) -> None:
        super().settle(best=best)
        step, value = self.best["step"], self.best[self.column]
        low, high = (self.best.get(f"{self.column}_{end}") for end in ("low", "high"))
        ends = "" if low is None else f", 95% interval {low:.4g} to {high:.4g}"
        kept = "it is best/ and model/" if best or step == self.run.total else "it is best/, and model/ is the last"
        self.run.print(
            f"On {self.name} the model after step {step} is the best ({self.column} {value:.4g}{ends}): {kept}."
        )

    def _measured(self, step: int) -> dict[str, float]:
        row = self.measure(f"step {step}, {self.name}").row()
        if self.column not in row and self.options.best_by != "loss":
            raise InputError(
                f"best_by {self.by}: on {self.name} `{self.run.settings['command']}` measures "
                f"{', '.join(sorted(row))}, and no {self.column}; leave best_by out."
            )
        if self.column not in row:
            raise TrainingStopped(f"step {step}, {self.name}: {self.column} is not finite; lower the learning rate.")
        return row

    def _is_best(self, step: int, row: Mapping[str, float]) -> bool:
        """Whether this measurement is better than all before; else it is one more that patience has waited."""
        if self.best and self.sign * row[self.column] <= self.sign * self.best[self.column]:
            self.waited += 1
            return False
        self.waited = 0
        self.best = {"step": step} | {name: value for name, value in row.items() if name.startswith("eval_")}
        return True


def hold_out(
    run: Run,
    options: HeldOutOptions,
    learner: Learner,
    model: Model,
    name: str,
    *,
    items: Sequence[Any],
    rows: Sequence[Row],
    trained: Iterable[Row],
) -> HeldOut:
    """What is held out of a run: `items`, made of `rows`; the run says how many of their prompts are `trained` on."""
    from accord.results.base import numbered

    subjects = [subject(row) for row in rows]
    if both := {*subjects}.intersection(map(subject, trained)):
        run.print(
            f"{len(both)} of the {len({*subjects})} prompts of {name} are trained on too: there the loss is not held "
            "out."
        )
    measure = partial(learner.measure, items, numbered(subjects).tolist())
    return HeldOut(model, run, options, name, measure, learner.held_out_loss)


def subject(row: Row) -> Hashable:
    """What rows share that are no two draws: the prompt, or where there is none the row."""
    return row.prompt or (row if not isinstance(row, Prompt) else "")
