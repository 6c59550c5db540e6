"""The main loop of every method: the only place that saves checkpoints and catches a training that stopped itself.

A checkpoint holds the weights, the optimizer's state, the step, and the state of the `Learner`.
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
from accord.dates import fixed
from accord.engine.config import TrainingConfig
from accord.errors import InputError, TrainingStopped
from accord.interrupts import Interrupted, requests
from accord.train import inputs
from accord.train.learner import Learner, StepResult
from accord.train.options import RunOptions, SamplingOptions, describe
from accord.train.ranks import open_run, report_unsharded, require_alone, require_one_precision
from accord.train.resumed import STOP, restore
from accord.train.rows import read_metrics
from accord.train.run import LAST_GOOD, Run

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from accord.engine import Model, Optimizer

OnStep: TypeAlias = Callable[[int, StepResult], object]
"""A callback of the user, called after every step (counted from 1) with its result."""


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, one row of metrics per step, the trained model, and the path of the report."""

    folder: Path
    metrics: list[dict[str, float]] = field(repr=False)
    model: Model = field(repr=False)
    report: Path

    def frame(self) -> pandas.DataFrame:
        """The metrics as a table, one row per step."""
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
    **sources: Any,
) -> Result:
    """Run `method` in the folder `out`, from the start or the last checkpoint to the end; save the model and report.

    `make_learner` builds the learner once the folder is known to belong to this run. `sources` holds the other settings
    that decide the result; they are written to the folder.

    Raises InputError where the folder holds something else, or a run with other settings, and TrainingStopped where a
    step stopped the training; then a checkpoint holds the last finite weights.
    """
    require_alone(method, options)
    require_one_precision(model)
    report_unsharded(model.network)
    settings = describe(method, options, model=model.name, **sources)
    team = engine.Team.here()
    with (
        engine.shard.sharing(method),
        open_run(out, settings, options) as run,
        fixed(team.lead(run.record_date)),
    ):
        if run.finished:
            run.print(f"{run.folder} is already finished.")
            return finish(run, model, method)
        record_inputs(run, model)
        learner = make_learner(run)
        optimizer = engine.Optimizer(learner.networks, learner.method, learner.total)
        step, watch = begin(run, learner, optimizer), learner.watch
        save = Checkpointer(run, learner, optimizer, options, step)
        every = options.sample_every if isinstance(options, SamplingOptions) else 1
        is_whole = team.is_whole if team.size > 1 else None
        with saving_last_good(run, model, optimizer), requests(is_whole) as request:
            while step < learner.total and not run.stopping:
                with save.on_failure():
                    if learner.before(step, run, optimizer):
                        save(step)
                    result = learner.step(step, learner.batch(step), optimizer)
                    step = save.step = step + 1
                    row = {**(learner.sampler.numbers() if learner.sampler else {}), **result.numbers}
                    try:
                        row |= watch.after(step, result.samples) if watch else {}
                    finally:  # the step is done: a failing measurement must not lose its row
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


def begin(run: Run, learner: Learner, optimizer: Optimizer) -> int:
    """Restore the last checkpoint, if any, and open the run's files; returns the number of steps taken."""
    team, step = engine.Team.here(), restore(run, learner, optimizer)
    team.lead(lambda: run.begin(step, learner.total, describe_items(learner.items)))
    run.expect(learner.total)  # on every rank
    if learner.watch:
        learner.watch.restore(team.lead(lambda: read_metrics(run.folder)))
    return step


def record_inputs(run: Run, model: Model) -> None:
    """Record the digests of the run's data, models and other files, which must be the same when it is resumed."""
    digests = inputs.digests_of_files(run.settings)
    if "model" not in digests:
        digests["model"] = inputs.digest_of_model(model)
    run.record_digests(**digests)


class Checkpointer:
    """Saves checkpoints: every `save_every` steps, and whenever `save_minutes` have passed since the last one."""

    def __init__(self, run: Run, learner: Learner, optimizer: Optimizer, options: RunOptions, step: int) -> None:
        self.run, self.learner, self.optimizer, self.step = run, learner, optimizer, step
        self.every, self.seconds = options.save_every, 60 * (options.save_minutes or math.inf)
        self.since = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` (counted from 1)."""
        return step % self.every == 0 or time.monotonic() - self.since >= self.seconds

    def after(self, step: int, signal: int) -> None:
        """Save after `step` (counted from 1) if due. Raises Interrupted where a signal (0: none) reached any rank."""
        team = engine.Team.here()
        signal, is_due = max(team.all_gather((signal, team.leads and self.is_due(step))))
        goes_on = step < self.learner.total and not self.run.stopping
        if signal or (is_due and goes_on):
            self(step)
        if signal:
            raise Interrupted(signal, f" after step {step} of {self.learner.total}, which is saved")

    def __call__(self, step: int, *, is_stop: bool = False) -> None:
        """Save the state after `step` steps; `is_stop`: the run stopped itself. TrainingStopped if not finite."""
        self.optimizer.require_finite(step)
        if self.learner.watch:
            self.learner.watch.save()
        kept = engine.Team.here().lead(lambda: {"rows": self.run.rows.keep(step)})
        state = self.learner.state() | kept | {STOP: is_stop}
        engine.checkpoint.save(self.run.folder / "checkpoints", step, self.optimizer, state)
        self.since = time.monotonic()

    @contextmanager
    def on_failure(self) -> Iterator[None]:
        """Save the state before a step that stops the run. Raises TrainingStopped where memory runs out."""
        try:
            yield
        except (TrainingStopped, InputError) as error:  # a user's reward function may fail late too
            with suppress(TrainingStopped):  # the weights may not be finite: then nothing is saved
                self(self.step, is_stop=isinstance(error, TrainingStopped))
            raise
        except RuntimeError as error:
            if (remedy := engine.plan.out_of_memory(error, self.learner.method)) is None:
                raise
            if (team := engine.Team.here()).size > 1:  # other ranks are still in the step: a joint save would hang
                raise InputError(f"rank {team.rank} of {team.size}, step {self.step + 1}: {remedy}.") from error
            raise TrainingStopped(f"step {self.step + 1}: {remedy}.") from error


@contextmanager
def saving_last_good(run: Run, model: Model, optimizer: Optimizer) -> Iterator[None]:
    """Where a run stops itself, save the last finite model as a folder that commands can read."""
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
        remedy = "--resume continues; with a lower --learning-rate, from before the failure"
        raise TrainingStopped(f"{stopped} The last finite model is in {left}. {remedy}.") from stopped


def describe_items(items: Sequence[Any]) -> str:
    """The number of training items and their kind, as a phrase for the model card."""
    kind = "prompts"
    if isinstance(items, data.streams.StreamedRows):
        kind = "rows, streamed"
    elif isinstance(items[0], engine.personal.UserTrees):
        kind = f"users with {sum(len(user.trees) for user in items):,} preferences"
    elif isinstance(items[0], engine.Tree):
        most = max(len(tree.branches) for tree in items)
        ranked = {1: "labeled completions", 2: "preferences"}.get(most, "rankings")
        kind = ranked if items[0].ranks else "completions"
    return f"read as {len(items):,} {kind}"


def finish(run: Run, model: Model, method: TrainingConfig) -> Result:
    """Save the model, its card and the report, and delete the checkpoints and the last-good model."""
    run.close()
    folder = run.folder / "model"
    engine.Team.here().lead(run.seal)
    if run.finished:
        model = engine.load.reload(model, folder)
    else:
        if dtype := run.save_dtype:  # the returned model equals the saved one
            engine.precision.round_weights(model.network, dtype, engine.adapters.own_state(model.network))
        model.save(folder, dtype)
        model.name = str(folder)
    described = sys.modules[type(method).__module__].__doc__ or ""
    metrics, page = engine.Team.here().lead(lambda: run.conclude(described))
    return Result(run.folder, metrics, model, page)
