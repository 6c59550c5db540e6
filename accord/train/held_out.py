"""Held-out rows: the training loss on rows that are never trained on, and the best model by it.

The loss of training batches falls even while the model only memorizes its rows; the loss on held-out rows falls as long
as the model learns something general. It is measured before the first step, every `eval_every` steps and after the
last, without gradients, in the run's precision, by the training objective: over the N values of the loss (per tree,
branch or token, as the method has them) of all held-out rows,

    eval_loss = sum of the values / N

and likewise for the method's other per-row measures (`accuracy`, `margin`, `chosen_reward` ...).

Values that share a prompt are correlated: the tokens of a demonstration, the pairs of a ranking, rows with the same
prompt. So whole prompts are held out, and the 95% intervals, `eval_loss_low` to `eval_loss_high`, are clustered by
prompt: `cluster_mean` for a mean, `cluster_rate` for an accuracy (accord.results.intervals). They cover the variation
between draws of rows; two measurements of one run use the same rows and are closer than that.
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
    from accord.results.intervals import Floats

AnyRow = TypeVar("AnyRow", bound=Row)

FALLS = ("loss", "teacher_kl", "rejected_reward")
"""Measures for which lower is better."""


class Tally:
    """Sums and counts of named values per cluster (numbered from 0), from which means and intervals are computed."""

    def __init__(self, clusters: int) -> None:
        self.clusters = clusters
        self.sums: dict[str, Floats] = {}
        self.counts: dict[str, Floats] = {}

    def add(self, name: str, values: Tensor, cluster: Tensor) -> None:
        """Add values (n,), each with its cluster (n,)."""
        where, numbers = cluster.cpu().numpy(), values.detach().double().cpu().numpy()
        for so_far, weights in ((self.sums, numbers), (self.counts, np.ones(len(numbers)))):
            so_far[name] = so_far.get(name, np.zeros(self.clusters)) + np.bincount(where, weights, self.clusters)

    def row(self) -> dict[str, float]:
        """`eval_NAME` for every name with values: the mean, and `_low` and `_high`, the ends of its 95% interval."""
        from accord.results.intervals import cluster_mean, cluster_rate

        row: dict[str, float] = {}
        for name, sums in self.sums.items():
            if not (there := self.counts[name] > 0).any():
                continue
            interval = (cluster_rate if name == "accuracy" else cluster_mean)(sums[there], self.counts[name][there])
            ends = {"": interval.estimate, "_low": interval.low, "_high": interval.high}
            row |= {f"eval_{name}{end}": value for end, value in ends.items() if isfinite(value)}
        return row


class HeldOut(BestModel):
    """The held-out rows of a run, measured as it trains, and the best model by them.

    Args:
        run: the run whose folder gets `best/` and `best.json`, and which ends when patience runs out.
        name: what messages call the rows.
        measure: measures the held-out rows under the current model; its argument says when, for messages.
        loss: the measure that should fall.

    Raises InputError where the rows lack the measure that chooses the best model.
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
        """Take over the rows of a resumed run; for a new one, write the measurement before training."""
        for row in rows:
            if self.column in row:
                self._is_best(int(row["step"]), row)
        if not rows:
            self.start = self.start or self._measured(0)
            self._is_best(0, self.start)
            self.run.log(0, self.start, 0)
        elif rows[-1]["step"]:
            self.confirm_saved()

    def after(self, step: int, samples: Sequence[Sample] = ()) -> dict[str, float]:
        """The measurement after `step` (counted from 1); TrainingStopped where it is not finite."""
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
        kept = "saved as best/ and model/" if best or step == self.run.total else "saved as best/; model/ is the last"
        self.run.print(
            f"On {self.name} the model after step {step} is the best ({self.column} {value:.4g}{ends}): {kept}."
        )

    def _measured(self, step: int) -> dict[str, float]:
        row = self.measure(f"step {step}, {self.name}").row()
        known = [name for name in row if not name.endswith(("_low", "_high"))]
        if self.options.best_by and self.column not in known:
            raise InputError(
                f"best_by {self.options.best_by}: on {self.name} `{self.run.settings['command']}` measures "
                f"{', '.join(known)}; name one of these, or leave best_by out."
            )
        if self.column not in row:
            raise TrainingStopped(f"step {step}, {self.name}: {self.column} is not finite; lower the learning rate.")
        return row

    def _is_best(self, step: int, row: Mapping[str, float]) -> bool:
        """Whether this measurement is the best so far; if not, it counts against patience."""
        if self.best and self.sign * row[self.column] <= self.sign * self.best[self.column]:
            self.waited += 1
            return False
        self.waited = 0
        self.best = {"step": step} | {name: row[name] for name in row if name.startswith(self.column)}
        return True


class RunData(Generic[AnyRow]):
    """The training rows and the held-out rows of a run, read before anything is computed.

    Args:
        options: say which rows of the data are used, and where held-out rows come from.
        source: the data of the run.
        seed: draws the prompts to hold out where a share is held out.
        read: returns the rows of a source and a split, and a record of the rows it left out.
        unit: what is held out as a whole, and what intervals are clustered by.

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
            self.held, self.drawn = self.rows, draw_share(self.rows, options.eval_share, seed, self.unit)
            return
        split = options.eval_split or "train"
        self.name += "" if split == "train" else f", {split}"
        with located("eval_split: " if options.eval_split else ""):
            self.held, self.held_back = read(origin, str(split))

    def divide(
        self, run: Run, encode: Callable[[Sequence[AnyRow], LeftOut], Sequence[Any]]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """The encoded training items and held-out items; the run prints which rows are left out.

        Each item that `encode` returns has a `row`, its row's index among those given. Raises InputError where either
        set ends up empty.
        """
        run.record_digests(data=inputs.digest_of_rows(self.rows))
        if self.held and not self.drawn:
            run.record_digests(eval_data=inputs.digest_of_rows(self.held))
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
            raise InputError("eval_split: no held-out row, or no other row, can be used; take another share.")
        units = len({self.unit.of(self.held[item.row]) for item in held})
        run.print(f"{len(self.drawn)} of {len(self.rows)} rows are held out, those of {units} {self.unit.called}.")
        return items, held

    def hold_out(self, run: Run, learner: Learner, model: Model, items: Sequence[Any]) -> HeldOut:
        """The `HeldOut` of the held-out `items`; the run prints how many of their prompts are also trained on."""
        from accord.results.intervals import numbered

        assert isinstance(self.options, HeldOutOptions)
        subjects = [self.unit.of(row) for row in self.held]
        is_known = not (self.drawn or isinstance(self.rows, StreamedRows))
        both = set() if not is_known else {*subjects}.intersection(map(self.unit.of, self.rows))
        if both:
            run.print(
                f"{len(both)} of the {len({*subjects})} {self.unit.called} of {self.name} are trained on too: on "
                "these the loss is not held out."
            )
        measure = partial(learner.measure, items, numbered(subjects).tolist())
        return HeldOut(model, run, self.options, self.name, measure, learner.held_out_loss)


def draw_share(rows: Sequence[Row], share: float, seed: int, unit: Unit | None = None) -> frozenset[int]:
    """The indices of the rows of a random share of the prompts; InputError where that is none, or all."""
    from accord.results.intervals import numbered

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
    """The value that dependent rows share: the prompt, or, for a row without one, the row itself."""
    return row.prompt or (row if not isinstance(row, Prompt) else "")


@dataclass(frozen=True)
class Unit:
    """The unit that is held out as a whole: `of` gives its value for a row, `called` is its plural in messages."""

    called: str
    of: Callable[[Row], Hashable]


PROMPTS = Unit("prompts", subject)
USERS = Unit("users", lambda row: getattr(row, "user", ""))
