"""The driver of every method that learns from a fixed set of rows."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypedDict

import torch
from torch import Tensor

from accord.data import Order, load_data, load_prompts
from accord.data.encoding import Encoded, encode
from accord.data.load import Source
from accord.engine import checkpoint
from accord.engine.fit import LossTerm, Measures, Objective, Optimizer, TrainingConfig
from accord.engine.forward import log_probabilities
from accord.engine.load import load_model, reload
from accord.engine.models import Model, Policy
from accord.engine.precision import compute_dtype
from accord.engine.trees import Tree, Trees, pack
from accord.errors import InputError
from accord.feedback.named import as_measure
from accord.methods.rollouts import SamplingConfig, encoded
from accord.objectives.policy import negative_log_likelihood
from accord.records import Row
from accord.train.loop import Passes
from accord.train.run import Run, read_metrics
from accord.train.watch import NoWatch, Watch, check_held_out

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Result:
    """What a finished run leaves: its folder, a row of numbers for every step, the model, and the report's path."""

    folder: Path
    metrics: list[dict[str, float]]
    model: Model
    report: Path


Looking: TypeAlias = Callable[[Model, Sequence[Tree], Run], Watch]
"""Makes what watches a run, from the model before its training, the trees trained on, and the run."""


class Course(TypedDict, total=False):
    """The arguments of `Offline.run` that every `fit` takes besides its own, and hands on to it."""

    split: str
    resume: bool
    save_every: int
    stop_when: str | None


@dataclass(kw_only=True)
class Offline(TrainingConfig, ABC):
    """A method that makes passes over rows: what it trains, on which rows, and with which loss."""

    command: ClassVar[str]
    reads: ClassVar[tuple[type, ...]]
    per: ClassVar[Literal["tree", "branch", "token"]]

    @abstractmethod
    def objective(self, model: Model) -> Objective:
        """The loss of packed trees under the model."""

    def work(self, objective: Any, batch: Sequence[Tree], device: torch.device) -> LossTerm:
        """An optimizer step's work: the objective, of `objective`, on a batch of trees."""
        return LossTerm(objective, pack(batch, self.tokens_per_pass, device), self.per)

    def start(self, policy: Policy) -> Model:
        """The model to train, made from the one given."""
        return policy

    def encode(self, model: Model, rows: Sequence[Row]) -> Encoded:
        """Rows to trees."""
        return encode(model.tokenizer, rows, max_length=self.max_length, context=model.context)

    def fit(self, model: Policy | str | Path, data: Source, *, out: str | Path, **course: Unpack[Course]) -> Result:
        """Train on the rows and leave a finished run in the folder `out`.

        Args:
            course: the arguments of `run`.

        Raises:
            InputError: the data, the model or the folder cannot be used, or there is no such alarm.
            TrainingStopped: a loss was not finite.
        """
        return self.run(model, data, out, **course)

    def run(
        self,
        model: Policy | str | Path,
        data: Source,
        out: str | Path,
        looking: Looking | None = None,
        watched: Mapping[str, Any] | None = None,
        *,
        split: str = "train",
        resume: bool = False,
        save_every: int = 100,
        stop_when: str | None = None,
    ) -> Result:
        """A run from its beginning or its last checkpoint.

        `looking` makes what watches it, and `watched` says for the run's folder how.

        Args:
            model: a folder, a name on the Hugging Face Hub, or smollm2; in Python also a loaded model.
            data: a file or a name on the Hugging Face Hub; in Python also a `datasets.Dataset` or a list of rows.
            out: the run's folder, which must be new, or that of the run to go on with.
            split: which rows, such as train, train[:100] or train[-100:].
            resume: go on from the last checkpoint in `out`; the result equals the uninterrupted run's bit for bit.
            save_every: steps between checkpoints.
            stop_when: alarms (docs/alarms.md) that end the run, with commas between them; it keeps the model it has, or
                where that is watched the best.
        """
        require_positive(save_every=save_every)
        rows = of_kind(load_data(data, split=split), self.reads, data, self.command)
        policy = model if isinstance(model, Policy) else load_model(str(model))
        settings = describe(self, model=policy.name, data=data, split=split, stop_when=stop_when, **watched or {})
        trained = self.start(policy)

        def work(run: Run) -> None:
            found = self.encode(trained, rows)
            for line in found.left_out:
                run.say(line)
            watch = NoWatch() if looking is None else looking(trained, found.trees, run)
            train(self, trained, found.trees, run, watch, save_every)

        return run_in_folder(out, settings, resume, trained, work)


@dataclass(kw_only=True)
class PolicyMethod(Offline, ABC):
    """A method that makes passes over rows and trains a policy, which can be watched as it learns."""

    def fit(
        self,
        model: Policy | str | Path,
        data: Source,
        *,
        out: str | Path,
        watch: Any = None,
        watch_data: Source | None = None,
        watch_every: int = 5,
        watch_tokens: int = 64,
        **course: Unpack[Course],
    ) -> Result:
        """Train on the rows and leave a finished run in the folder `out`.

        Args:
            watch: an independent measure, never trained on, whose best model is kept in best/: anything that can be a
                reward, or a judge, who compares the answers with those of the starting model.
            watch_data: prompts held out, which are answered for that measure; the two go together.
            watch_every: steps between measurements.
            watch_tokens: an answer is cut after so many tokens.
            course: the arguments of `run`.

        Raises:
            InputError: the data, the model, the measure or the folder cannot be used, or there is no such alarm.
            TrainingStopped: a loss or the measure was not finite.
        """
        require_positive(watch_every=watch_every, watch_tokens=watch_tokens)
        if (watch is None) != (watch_data is None):
            raise InputError("watch and watch_data go together: a measure, and prompts held out to be answered for it.")
        if watch is None or watch_data is None:
            return self.run(model, data, out, **course)
        speaking = SamplingConfig(
            max_new_tokens=watch_tokens, max_length=self.max_length, seed=self.seed, dtype=self.dtype
        )

        def looking(policy: Model, trees: Sequence[Tree], run: Run) -> Watch:
            assert isinstance(policy, Policy)
            measure = as_measure(watch, policy, dtype=compute_dtype(self.dtype, policy.device))
            held_out = encoded(speaking, policy, load_prompts(watch_data), run)
            check_held_out(measure, held_out, (tree.prompt for tree in trees), run)
            return Watch(speaking, policy, run, measure, held_out, every=watch_every)

        given = {"watch": watch, "watch_data": watch_data, "watch_every": watch_every, "watch_tokens": watch_tokens}
        return self.run(model, data, out, looking, given, **course)


def run_in_folder(
    out: str | Path, settings: Mapping[str, Any], resume: bool, model: Model, work: Callable[[Run], None]
) -> Result:
    """A run of any method in the folder `out`: its work, unless that is finished already, then model and report."""
    with Run(out, settings, resume=resume) as run:
        if run.finished:
            run.say(f"{run.folder} is finished already.")
        else:
            work(run)
            if run.stopping:
                run.say(f"The alarm {run.stopping} ended the run, as --stop-when asks.")
        return finish(run, model)


def train(method: Offline, model: Model, trees: Sequence[Tree], run: Run, watch: NoWatch, save_every: int) -> None:
    """All steps of a run, from its last checkpoint or the beginning."""
    order = Order(len(trees), method.batch_size, method.seed)
    objective = method.objective(model)
    passes = Passes(trees, order, lambda batch: method.work(objective, batch, model.device), watch=watch)
    optimizer = Optimizer({"model": model.network}, method, method.max_steps or order.steps(method.epochs))
    first, _ = restore(run, optimizer)
    run.begin(first, optimizer.total)
    watch.restore(read_metrics(run.folder))
    passes.make(optimizer, run, save_every, first)


def maximum_likelihood(model: Model, temperature: float = 1.0) -> Objective:
    """The loss of everything that imitates: - log pi of every trained token."""

    def loss(trees: Trees) -> tuple[Tensor, Measures]:
        logp, _ = log_probabilities(model.network, trees, temperature)
        return negative_log_likelihood(logp), {}

    return loss


def restore(run: Run, optimizer: Optimizer) -> tuple[int, dict[str, Any]]:
    """The step to go on from, and the method's state there; step 0 where there is nothing to go on from."""
    saved = checkpoint.checkpoints(run.folder / "checkpoints") if run.resumed else []
    return checkpoint.load(saved[-1], optimizer) if saved else (0, {})


def finish(run: Run, model: Model) -> Result:
    """Save the model and the report; the checkpoints have served."""
    run.close()
    folder = run.folder / "model"
    if run.finished:
        model = reload(model, folder)
    else:
        model.save(folder)
        model.name = str(folder)
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    return Result(run.folder, read_metrics(run.folder), model, run.report())


def describe(method: TrainingConfig, **given: Any) -> dict[str, Any]:
    """Every setting of a run, for its folder; data given as rows are named by their number and type."""
    settings = {"command": getattr(method, "command", type(method).__name__)}
    for name, value in given.items():
        settings[name] = value if isinstance(value, str | int | float | None) else _named(value)
    return settings | {f.name: getattr(method, f.name) for f in fields(method)}


def _named(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    return f"{len(value)} rows" if hasattr(value, "__len__") else getattr(value, "__name__", type(value).__name__)


def require_positive(**counts: int) -> None:
    """Raise InputError where a number of steps is below 1."""
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name} must be at least 1, not {count}.")


def of_kind(rows: list[Row], kinds: tuple[type, ...], source: Any, command: str) -> list[Row]:
    """The rows, all of them of these kinds.

    Raises:
        InputError: a row is of another kind; the message names it, and the command that wants the rows.
    """
    for number, row in enumerate(rows, 1):
        if not isinstance(row, kinds):
            wanted = " or ".join(k.__name__.lower() + "s" for k in kinds)
            raise InputError(
                f"{_named(source) if not isinstance(source, str) else source}, row {number}: "
                f"`{command}` learns from {wanted}, and this is a {type(row).__name__.lower()}."
            )
    return rows
