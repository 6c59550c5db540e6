"""Rows held out while training: the same loss on rows that are never trained on, and the best model by it.

What a step's batch costs falls as long as a model learns its rows, by heart too; what rows held out cost falls as long
as it learns from them. They are measured before the first step, every so many steps and after the last, without
gradients, in the run's precision, by the objective that is trained with: of N values of the loss over all rows held
out, per tree, branch or token as the method has them,

    eval_loss = sum of the values / N

and in the same manner every measure of the method that belongs to rows (`accuracy`, `margin`, `chosen_reward` ...).

Values of one prompt hang together: the tokens of a demonstration, the pairs of a ranking, rows with the same prompt. So
a share of the data is held out by prompts, and the 95% intervals, `eval_loss_low` to `eval_loss_high`, are over
prompts, those of a mean by `cluster_mean`, those of an accuracy by `cluster_rate` (accord.results.base). They say how
far another draw of rows might be from this one; two measurements of one run are of the same rows, and closer than that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from accord.data.mix import IN_MEMORY, called
from accord.data.streams import StreamedRows
from accord.errors import InputError, LeftOut, TrainingStopped, located
from accord.records import Prompt, Row, Sample
from accord.train import inputs
from accord.train.learner import Learner
from accord.train.options import HeldOutOptions, RunOptions
from accord.train.run import Run
from accord.train.watch import BestModel

if TYPE_CHECKING:
    from torch import Tensor

    from accord.data.load import Source
    from accord.engine import Model
    from accord.results.base import Floats

AnyRow = TypeVar("AnyRow", bound=Row)

FALLS = ("loss", "teacher_kl", "rejected_reward")
"""Measures of which less is better."""


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
        by = (options.best_by or loss).removeprefix("eval_")
        self.column, self.sign = f"eval_{by}", -1 if by in FALLS else 1
        self.waited = 0
        self.start = {} if run.resumed else self._measured(0)

    def restore(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take over the rows of a run that goes on; of one that begins, write what was measured before it."""
        for row in rows:
            if self.column in row:
                self._is_best(int(row["step"]), row)
        if not rows:
            self.start = self.start or self._measured(0)
            self._is_best(0, self.start)
            self.run.log(0, self.start, 0)
        elif rows[-1]["step"]:
            self.found_saved()

    def after(self, step: int, samples: Sequence[Sample] = ()) -> dict[str, float]:
        """What is measured after a step, counted from 1; TrainingStopped where it is not finite."""
        every = self.options.eval_every or max(1, self.run.total // 10)
        if step % every and step != self.run.total:
            return {}
        row = self._measured(step)
        if self._is_best(step, row):
            self.keep()
        if self.options.patience and self.waited >= self.options.patience and self.run.stopping is None:
            times = "1 measurement was" if self.waited == 1 else f"{self.waited} measurements in a row were"
            self.run.stopping = f"{times} no better than the best; the run ends, as --patience asks."
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
        known = [name for name in row if not name.endswith(("_low", "_high"))]
        if self.options.best_by and self.column not in known:
            raise InputError(
                f"best_by {self.options.best_by}: of {self.name} `{self.run.settings['command']}` measures "
                f"{', '.join(known)}; name one of these, or leave best_by out."
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
        self.best = {"step": step} | {name: row[name] for name in row if name.startswith(self.column)}
        return True


class RunData(Generic[AnyRow]):
    """The rows of a run, read before anything is computed: those that are trained on, and those held out, if any.

    Args:
        source: the data of the run; its options say which of it, and where rows held out are.
        seed: draws the prompts where a share of them is held out.
        read: gives the rows of a source and a split, and what is left out of them.
        unit: what is held out whole, and what intervals are over.

    Raises InputError where rows cannot be read, or a share leaves no prompt to hold out or to train on.
    """

    def __init__(
        self,
        options: RunOptions,
        source: Source,
        seed: int,
        read: Callable[[Source, str], tuple[Sequence[AnyRow], LeftOut]],
        unit: Unit | None = None,
    ) -> None:
        self.options, self.name, self.unit = options, "", unit or PROMPTS
        self.rows, self.left_out = read(source, options.split)
        self.held: Sequence[AnyRow] = ()
        self.drawn: frozenset[int] = frozenset()
        if not (isinstance(options, HeldOutOptions) and options.holds_out):
            return
        origin = source if options.eval_data is None else options.eval_data
        named = called(origin)
        self.name = "eval_data" if named == IN_MEMORY else named
        if options.eval_share is not None:
            self.name = "the rows held out"
            self.held, self.drawn = self.rows, drawn(self.rows, options.eval_share, seed, self.unit)
            return
        split = options.eval_split or "train"
        self.name += "" if split == "train" else f", {split}"
        with located("eval_split: " if options.eval_split else ""):
            self.held, self.held_back = read(origin, str(split))

    def divide(
        self, run: Run, encode: Callable[[Sequence[AnyRow], LeftOut], Sequence[Any]]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """What `encode` makes of the rows trained on, and of those held out; the run is told of rows left out.

        What it makes has a `row`, its row's number among those given. Raises InputError where no row of either is left.
        """
        run.made_of(data=inputs.digest_of_rows(self.rows))
        if self.held and not self.drawn:
            run.made_of(eval_data=inputs.digest_of_rows(self.held))
        items, most = encode(self.rows, self.left_out), self.options.max_bad
        run.leave_out(self.left_out, most)
        if not self.held:
            return items, []
        if not self.drawn:
            with located(f"{self.name}: "):
                held = encode(self.held, self.held_back)
                run.leave_out(self.held_back, most, self.name)
            return items, held
        held = [item for item in items if item.row in self.drawn]
        items = [item for item in items if item.row not in self.drawn]
        if not (held and items):
            raise InputError("eval_split: the rows held out, or all others, cannot be used; take another share.")
        units = len({self.unit.of(self.held[item.row]) for item in held})
        run.print(f"{len(self.drawn)} of {len(self.rows)} rows are held out, those of {units} {self.unit.called}.")
        return items, held

    def hold_out(self, run: Run, learner: Learner, model: Model, items: Sequence[Any]) -> HeldOut:
        """What measures the rows held out, `items`; the run says how many of their prompts are trained on too."""
        from accord.results.base import numbered

        assert isinstance(self.options, HeldOutOptions)
        subjects = [self.unit.of(row) for row in self.held]
        is_known = not (self.drawn or isinstance(self.rows, StreamedRows))
        both = set() if not is_known else {*subjects}.intersection(map(self.unit.of, self.rows))
        if both:
            run.print(
                f"{len(both)} of the {len({*subjects})} {self.unit.called} of {self.name} are trained on too: there "
                "the loss is not held out."
            )
        measure = partial(learner.measure, items, numbered(subjects).tolist())
        return HeldOut(model, run, self.options, self.name, measure, learner.held_out_loss)


def drawn(rows: Sequence[Row], share: float, seed: int, unit: Unit | None = None) -> frozenset[int]:
    """The numbers of the rows of a share of all prompts, drawn by the seed; InputError where that is none, or all."""
    from accord.results.base import numbered

    unit = unit or PROMPTS
    prompt = numbered([unit.of(row) for row in rows])
    prompts = int(prompt.max()) + 1
    count = round(share * prompts)
    if not 0 < count < prompts:
        raise InputError(
            f"eval_split {share:g} of {prompts} different {unit.called} holds out {count or 'none'}; take another "
            "share, or give rows by eval_data."
        )
    chosen = np.random.default_rng(seed).permutation(prompts)[:count]
    return frozenset(np.flatnonzero(np.isin(prompt, chosen)).tolist())


def subject(row: Row) -> Hashable:
    """What rows share that are no two draws: the prompt, or where there is none the row."""
    return row.prompt or (row if not isinstance(row, Prompt) else "")


@dataclass(frozen=True)
class Unit:
    """What rows share that are no two draws, so that it is held out whole: what it is of a row, and its plural."""

    called: str
    of: Callable[[Row], Hashable]


PROMPTS = Unit("prompts", subject)
USERS = Unit("users", lambda row: getattr(row, "user", ""))
