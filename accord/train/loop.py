"""The main loop of every method: the only place that saves checkpoints and catches a training that stopped itself.

A checkpoint holds weights, optimizer, step, and the state of the `Learner`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from accord import data, engine
from accord.engine.config import TrainingConfig
from accord.errors import InputError, TrainingStopped
from accord.interrupts import Interrupted, requests
from accord.train import inputs
from accord.train.learner import Learner, StepResult
from accord.train.options import RunOptions, SamplingOptions, describe
from accord.train.ranks import open_run, require_alone, say_what_is_whole
from accord.train.resumed import STOP, restore
from accord.train.rows import read_metrics
from accord.train.run import LAST_GOOD, Run

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from accord.engine import Model, Optimizer

OnStep: TypeAlias = Callable[[int, StepResult], object]
"""What a user may have called after every step, counted from 1, with its result."""


@dataclass(frozen=True)
class Result:
    """What a finished run leaves: its folder, a row of numbers for every step, the model, and the report's path."""

    folder: Path
    metrics: list[dict[str, float]] = field(repr=False)
    model: Model = field(repr=False)
    report: Path

    def frame(self) -> pandas.DataFrame:
        """The metrics as a table, a row a step."""
        import pandas

        return pandas.DataFrame(self.metrics).set_index("step")

    def plot(self) -> Figure:
        """The metrics as curves over the steps."""
        from accord.report.figures import plot_metrics

        return plot_metrics(self.metrics)

    def _repr_html_(self) -> str:
        steps = int(self.metrics[-1]["step"]) if self.metrics else 0
        last = self.frame().tail(5).to_html(float_format="{:.4g}".format)
        return f"<p><code>{self.folder}</code>: {steps} steps; report: <code>{self.report}</code></p>{last}"


def train(
    make_learner: Callable[[Run], Learner],
    method: TrainingConfig,
    model: Model,
    out: str | Path,
    options: RunOptions,
    on_step: OnStep | None,
    **given: Any,
) -> Result:
    """A run in the folder `out`, from its beginning or its last checkpoint to its end; then its model and its report.

    `make_learner` makes the method at work, once the folder is known to be the run's; `given` is what else decides the
    result, for the folder.

    Raises InputError where the folder holds something else, or a run with other settings, and TrainingStopped where a
    step stopped itself; a checkpoint holds the last good weights.
    """
    require_alone(method, options)
    say_what_is_whole(model.network)
    settings = describe(method, options, model=model.name, **given)
    team = engine.Team.here()
    with engine.shard.sharing(method), open_run(out, settings, options) as run:
        if run.finished:
            run.print(f"{run.folder} is already finished.")
            return finish(run, model, method)
        run.made_of(**{"model": inputs.digest_of_model(model), **inputs.digests_of_files(run.settings)})
        learner = make_learner(run)
        optimizer = engine.Optimizer(learner.networks, learner.method, learner.total)
        step, watch = restore(run, learner, optimizer), learner.watch
        team.lead(lambda: run.begin(step, learner.total, read_as(learner.items)))
        run.expect(learner.total)  # on every rank
        if watch:
            watch.restore(team.lead(lambda: read_metrics(run.folder)))
        save = Saving(run, learner, optimizer, options, step)
        every = options.sample_every if isinstance(options, SamplingOptions) else 1
        is_whole = team.is_whole if team.size > 1 else None
        with leaving_last_good(run, model, optimizer), requests(is_whole) as request:
            while step < learner.total and not run.stopping:
                with save.before_it_fails():
                    if learner.before(step, run, optimizer):
                        save(step)
                    result = learner.step(step, learner.batch(step), optimizer)
                    step = save.step = step + 1
                    row = {**(learner.sampler.numbers() if learner.sampler else {}), **result.numbers}
                    try:
                        row |= watch.after(step, result.samples) if watch else {}
                    finally:  # the step is done, and its row must not be lost with the measure
                        run.log(step, row, result.tokens)
                if (step - 1) % every == 0 or step == learner.total or run.stopping:
                    run.sample(step, result.shown())
                if on_step:
                    on_step(step, replace(result, numbers=row))
                save.after(step, request.number)
            optimizer.require_finite(step)
        if run.stopping:
            run.print(run.stopping)
        if watch:
            watch.settle(best=run.stopping is not None)
        return finish(run, model, method)


class Saving:
    """When a checkpoint is due, and what is in it: every so many steps, and so many minutes after the last one."""

    def __init__(self, run: Run, learner: Learner, optimizer: Optimizer, options: RunOptions, step: int) -> None:
        self.run, self.learner, self.optimizer, self.step = run, learner, optimizer, step
        self.every, self.seconds = options.save_every, 60 * (options.save_minutes or math.inf)
        self.since = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether one is due after a step, counted from 1."""
        return step % self.every == 0 or time.monotonic() - self.since >= self.seconds

    def after(self, step: int, signal: int) -> None:
        """Save after a step, counted from 1, where due; Interrupted where a signal (else 0) reached any rank."""
        team = engine.Team.here()
        signal, is_due = max(team.all_gather((signal, team.leads and self.is_due(step))))
        goes_on = step < self.learner.total and not self.run.stopping
        if signal or (is_due and goes_on):
            self(step)
        if signal:
            raise Interrupted(signal, f" after step {step} of {self.learner.total}, which is saved")

    def __call__(self, step: int, *, is_stop: bool = False) -> None:
        """Save what there is after so many steps, perhaps as the run stops itself; TrainingStopped if not finite."""
        self.optimizer.require_finite(step)
        if self.learner.watch:
            self.learner.watch.save()
        kept = engine.Team.here().lead(lambda: {"rows": self.run.rows.keep(step)})
        state = self.learner.state() | kept | {STOP: is_stop}
        engine.checkpoint.save(self.run.folder / "checkpoints", step, self.optimizer, state)
        self.since = time.monotonic()

    @contextmanager
    def before_it_fails(self) -> Iterator[None]:
        """A step that stops itself is saved as it was before; TrainingStopped where there is not enough memory."""
        try:
            yield
        except (TrainingStopped, InputError) as error:  # a reward of the user's may fail late too
            with suppress(TrainingStopped):  # there is nothing finite to save, and that is why
                self(self.step, is_stop=isinstance(error, TrainingStopped))
            raise
        except RuntimeError as error:
            if (remedy := engine.plan.out_of_memory(error, self.learner.method)) is None:
                raise
            if (team := engine.Team.here()).size > 1:  # the others are in the step still, and save nothing with it
                raise InputError(f"rank {team.rank} of {team.size}, step {self.step + 1}: {remedy}.") from error
            raise TrainingStopped(f"step {self.step + 1}: {remedy}.") from error


@contextmanager
def leaving_last_good(run: Run, model: Model, optimizer: Optimizer) -> Iterator[None]:
    """Where a run stops itself, leave the model as it was when all was finite last, as a folder that commands read."""
    try:
        yield
    except TrainingStopped as stopped:
        try:
            optimizer.require_finite(0)
        except TrainingStopped:
            folder = run.folder / "checkpoints"
            saved = engine.Team.here().lead(lambda: engine.checkpoint.checkpoints(folder))
            if not saved:
                raise stopped from None
            engine.checkpoint.load(saved[-1], optimizer)
        left = model.save(run.folder / LAST_GOOD, run.save_dtype)
        on = "--resume goes on, from before that with a lower --learning-rate"
        raise TrainingStopped(f"{stopped} The model as it was before is {left}. {on}.") from stopped


def read_as(items: Sequence[Any]) -> str:
    """How many there are to learn from, and what of."""
    kind = "prompts"
    if isinstance(items, data.streams.StreamedRows):
        kind = "rows, each when it is needed"
    elif isinstance(items[0], engine.personal.UserTrees):
        kind = f"users with {sum(len(user.trees) for user in items):,} preferences"
    elif isinstance(items[0], engine.Tree):
        most = max(len(tree.branches) for tree in items)
        ranked = {1: "labeled completions", 2: "preferences"}.get(most, "rankings")
        kind = ranked if items[0].ranks else "completions"
    return f"read as {len(items):,} {kind}"


def finish(run: Run, model: Model, method: TrainingConfig) -> Result:
    """Save the model, its card and the report; checkpoints have served, and what a stop left before it went on."""
    run.close()
    folder = run.folder / "model"
    engine.Team.here().lead(run.seal)
    if run.finished:
        model = engine.load.reload(model, folder)
    else:
        if dtype := run.save_dtype:  # the model is what is saved
            engine.precision.round_weights(model.network, dtype, engine.adapters.own_state(model.network))
        model.save(folder, dtype)
        model.name = str(folder)
    described = sys.modules[type(method).__module__].__doc__ or ""
    metrics, page = engine.Team.here().lead(lambda: run.conclude(described))
    return Result(run.folder, metrics, model, page)
