"""What every method is, and those that learn from a fixed set of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from accord import data, engine, objectives
from accord.console import status
from accord.data.streams import StreamedRows
from accord.engine.config import TrainingConfig
from accord.errors import InputError, LeftOut, Reason, RowNumber, row_called
from accord.records import Prompt, Row
from accord.train.held_out import PROMPTS, RunData, Tally, Unit
from accord.train.loop import Learner, OnStep, Result, StepResult, train
from accord.train.options import HeldOutOptions, PolicyOptions, RowsOptions, RunOptions, named
from accord.train.run import Run
from accord.train.watch import make_watch

if TYPE_CHECKING:
    from torch import Tensor

    from accord.data.load import Source
    from accord.engine import LossTerm, Measures, Model, Objective, Optimizer, Policy, Tree, Trees

Per = Literal["tree", "branch", "token"]
"""What a loss has a value for."""


class Method(ABC):
    """Settings, and `fit`, which makes a run of them."""

    command: ClassVar[str]
    options: ClassVar[type[RunOptions]]
    """What `fit` takes besides."""
    on_ranks: ClassVar[bool] = False
    """Whether it was shown to do on several ranks what it does in one process."""

    @abstractmethod
    def fit(self, model: Policy | str | Path, data: Source, *more: Any, **options: Any) -> Result:
        """Train on the rows and leave a finished run in the folder `out`.

        Args:
            model: a folder, a name on the Hugging Face Hub, or smollm2; in Python also a loaded model.
            data: a file or a name on the Hugging Face Hub, or several, each with :WEIGHT for a mix; in Python also a
                `datasets.Dataset`, a list of rows, or a mapping of files to weights.
            out: the run's folder, which must be new, or that of the run to go on with.
            on_step: in Python, called with every step, counted from 1, and its `StepResult`.
            options: the fields of the method's `options` (`accord.train.options`).

        Raises:
            InputError: the data, a model, what scores samples, an option or the folder cannot be used.
            TrainingStopped: a loss, a reward or the watched measure was not finite, or there was nothing to learn from.
        """


@dataclass(kw_only=True)
class OfflineMethod(Method, TrainingConfig, ABC):
    """A method that makes passes over rows: what it trains, on which rows, and with which loss."""

    reads: ClassVar[tuple[type, ...]]
    """The kinds of rows it learns from."""
    per: ClassVar[Per]
    options: ClassVar[type[HeldOutOptions]] = RowsOptions
    """What `fit` takes besides; methods whose model does not write cannot be watched."""
    unit: ClassVar[Unit] = PROMPTS
    """What is held out whole."""

    @abstractmethod
    def objective(self, model: Any) -> Callable[..., tuple[Tensor, Measures]]:
        """The loss of packed trees under the model, made before the model is trained."""

    def objective_of(self, model: Any, trees: Sequence[Tree]) -> Callable[..., tuple[Tensor, Measures]]:
        """The objective of a run that will see these trees and no others."""
        return self.objective(model)

    def terms(self, objective: Any, batch: Sequence[Tree], model: Model) -> LossTerm:
        """What a step minimizes: `objective`, made by the method's own, on a batch of trees."""
        return engine.LossTerm(objective, engine.pack(batch, self.tokens_per_pass, model.device), self.per)

    def owners(self, trees: Trees, measures: Measures) -> dict[str, Tensor]:
        """Of the measures that belong to rows, by name, the tree in its pack that each value is of.

        Those with one value a tree, unless a method says otherwise.
        """
        each = trees.group.unique()
        return {name: each for name, values in measures.items() if values.shape == each.shape}

    def start(self, policy: Policy) -> Model:
        """The model to train, made from the one given."""
        return policy

    def encode(self, model: Model, rows: Sequence[Row], left_out: LeftOut) -> list[Tree]:
        """Rows to trees; what gives labels reads them to the end of what the chat template writes."""
        whole = isinstance(model, engine.classifiers.Classifier)
        encoded = data.encoding.encode(
            model.tokenizer, rows, max_length=self.max_length, context=model.context, whole=whole, left_out=left_out
        )
        return encoded.trees

    def begun(self, run: Run, rows: RunData[Row], trees: Sequence[Tree]) -> None:
        """Called once it is known what of which rows is trained on; there may be more to say of that."""

    def learner(self, model: Model, trees: Sequence[Tree]) -> OfflineLearner:
        """The method at work on a run that will see these trees and no others."""
        return OfflineLearner(self, model, trees)

    def visited(self, trees: Sequence[Tree]) -> list[Tree]:
        """Those trees that a run comes to, in the order in which it does first."""
        order = data.Order(len(trees), self.batch_size, self.seed)
        steps = min(self.max_steps or order.steps(self.epochs), order.steps_per_epoch)
        return [trees[i] for step in range(steps) for i in order.batch(step)]

    def fit(
        self,
        model: Policy | str | Path,
        data: Source,
        *,
        out: str | Path,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Result:
        given = self.options(**options)
        if self.memory:
            policy = as_policy(model, self)
            return engine.plan.fitting(self, policy).fit(policy, data, out=out, on_step=on_step, **options)
        if isinstance(given, PolicyOptions):
            given.check_watch(samples=False)

        origin = data

        def read(source: Source, split: str) -> tuple[Sequence[Row], LeftOut]:
            left_out = LeftOut(given.strict)
            if getattr(given, "stream", False) and source is origin and split == given.split:
                return StreamedRows(source, split, given.columns), left_out
            rows = of_kind(source, split, self.reads, self.command, left_out, given.columns)
            left_out.require_few(given.max_bad)
            return rows, left_out

        def encode(rows: Sequence[Row], left_out: LeftOut) -> Sequence[Any]:
            return rows if isinstance(rows, StreamedRows) else self.encode(trained, rows, left_out)

        rows = RunData(given, data, self.seed, read, self.unit)
        trained = engine.memory.ready(self.start(as_policy(model, self)), self)

        def learner(run: Run) -> Learner:
            trees, held_out = rows.divide(run, encode)
            if isinstance(trees, StreamedRows):
                streaming = StreamLearner(self, trained, held_out)
                streaming.limits = given.strict, given.max_bad
                watch = rows.hold_out(run, streaming, trained, held_out) if held_out else None
                return streaming.learn_from(trees, watch)
            self.begun(run, rows, trees)
            made = self.learner(trained, [*self.visited(trees), *held_out])
            if held_out:
                return made.learn_from(trees, rows.hold_out(run, made, trained, held_out))
            return made.learn_from(trees, make_watch(run, given, self, trained, trained=(t.prompt for t in trees)))

        return train(learner, self, trained, out, given, on_step, data=data)


class OfflineLearner(Learner):
    """Passes over the trees that rows become."""

    method: OfflineMethod

    def __init__(self, method: OfflineMethod, model: Model, trees: Sequence[Tree]) -> None:
        self.method, self.model, self.networks = method, model, {"model": model.network}
        self.objective = method.objective_of(model, trees)

    def step(self, step: int, items: Sequence[Tree], optimizer: Optimizer) -> StepResult:
        numbers = optimizer.update(step, self.method.terms(self.objective, items, self.model))
        return StepResult(numbers | {"epoch": self.order.epoch(step + 1)}, sum(tree.size for tree in items))

    def measure(self, items: Sequence[Tree], clusters: Sequence[int], when: str) -> Tally:
        """As `Learner.measure` says, in batches as they are trained on."""
        import torch

        size, tally = self.method.batch_size, Tally(max(clusters) + 1)
        for start in range(0, len(items), size):
            with torch.no_grad():
                term = self.method.terms(self.objective, items[start : start + size], self.model)
                found = engine.Team.here().each(term.packs, partial(self.values, term))
            for trees, (values, measures) in zip(term.packs, found, strict=True):
                term.require_finite(values, trees, when)
                cluster = trees.group.new_tensor([clusters[tree.row] for tree in trees.trees]).cpu()
                tally.add("loss", values, cluster[term.tree_of(trees).cpu()])
                for name, tree in self.method.owners(trees, measures).items():
                    tally.add(name, measures[name], cluster[tree.cpu()])
        return tally

    def values(self, term: LossTerm, trees: Trees) -> tuple[Tensor, Measures]:
        """What a pack's loss is made of, and its measures, in the memory of the host."""
        with self.model.autocast():
            values, measures = term.objective(trees)
        return values.cpu(), {name: measured.cpu() for name, measured in measures.items()}


class StreamLearner(OfflineLearner):
    """The same over rows that are read and made trees of as their steps come, by the ranks of a team each its share."""

    items: StreamedRows
    limits: tuple[bool, float]
    """Whether a row that cannot be used ends the run, and beyond which share of all rows such rows do."""
    bad = 0
    """Rows that could not be used until now."""

    def batch(self, step: int) -> list[Tree]:
        """The trees of a step's rows, in their order, on every rank.

        Raises InputError where a row holds none, too many rows cannot be used, or none of a step's can.
        """
        team, (strict, most) = engine.Team.here(), self.limits
        rows = self.order.batch(step)
        trees, reasons, fault = self._read(team.mine(rows), strict)
        every = team.every((reasons, fault))
        if faults := [fault for _, fault in every if fault]:
            raise InputError(faults[0])
        left = [reason for reasons, _ in every for reason in reasons]
        self.bad += len({reason.row for reason in left if reason.is_bad})
        for reason in left:
            status(f"{reason.where}: {reason.why}; the row is left out.")
        if self.bad > most * len(self.items):
            raise InputError(
                f"{self.bad} of {len(self.items)} rows cannot be used, more than the share of {most:g} that --max-bad "
                f"allows; the last: {left[-1].where}: {left[-1].why}"
            )
        made = [tree for some in team.same(trees) for tree in some]
        if not made:
            raise InputError(f"step {step + 1}: none of its {len(rows)} rows can be used: raise --batch-size.")
        return made

    def _read(self, rows: Sequence[int], strict: bool) -> tuple[list[list[Tree]], list[Reason], str]:
        """The trees of each row, why rows have none, and what ends the run, if anything does."""
        records: list[Row] = []
        owners: list[int] = []
        left_out = LeftOut(strict)
        try:
            for place, row in enumerate(rows):
                found, reasons = self.items.read(row, strict=strict)
                left_out.reasons += reasons
                for record in found:
                    require_kind(record, self.method.reads, self.method.command, f"row {self.items.number(row)}")
                    records.append(record)
                    owners.append(place)
            left_out.numbers = [self.items.number(rows[place]) for place in owners]
            made = self.method.encode(self.model, records, left_out) if records else []
        except InputError as error:
            if strict or {reason.row for reason in left_out.reasons} != {row + 1 for row in rows}:
                return [[] for _ in rows], [], str(error)
            made = []  # all were left out
        trees: list[list[Tree]] = [[] for _ in rows]
        for tree in made:
            place = owners[tree.row]
            trees[place].append(replace(tree, row=RowNumber(rows[place], str(self.items.number(rows[place])))))
        return trees, left_out.reasons, ""

    def state(self) -> dict[str, Any]:
        return {"bad": self.bad}

    def restore(self, state: Mapping[str, Any], *_: Any) -> None:
        self.bad = int(state.get("bad", 0))


def maximum_likelihood(model: Policy, temperature: float = 1.0) -> Objective:
    """The loss of everything that imitates: - log pi of every trained token."""

    def loss(trees: Trees) -> tuple[Tensor, Measures]:
        return objectives.policy.negative_log_likelihood(model.log_probs(trees, temperature)), {}

    return loss


def as_policy(model: Policy | str | Path, config: TrainingConfig, *, trained: bool = True) -> Policy:
    """The language model that `fit` was given, by name or loaded, with the precision and chat template asked for.

    Raises InputError where it is to be trained and is quantized in a way that cannot be.
    """
    asked = config if trained else None
    loaded = model if isinstance(model, engine.Policy) else None
    loaded = loaded or engine.load.load_model(str(model), trained=asked, in_shares=True)
    if trained:
        engine.folders.check_trainable(loaded.name, loaded.network.config, config.lora_rank)
    return config.templated(loaded.in_dtype(config.dtype))


def reference_for(policy: Policy, config: Any) -> Policy:
    """The frozen model that a method's settings name as its `reference`, in the policy's precision, or the policy as it
    is now.

    Raises InputError where it means other texts by its tokens.
    """
    name = config.reference
    if name is None:
        return engine.offload.reference_copy(policy, config)
    reference = engine.load.load_model(name, in_shares=True)
    if not policy.same_vocabulary(reference):
        raise InputError(f"{policy.name} and --reference {name} have different vocabularies; choose another reference.")
    reference.dtype = policy.dtype
    return engine.offload.reference_copy(reference, config)


def of_kind(
    source: Source,
    split: str,
    kinds: tuple[type, ...],
    command: str,
    left_out: LeftOut | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Row]:
    """The rows of a source; InputError names the first of another kind than these, and the command that reads it."""
    rows = data.load_data(source, split=split, columns=columns, left_out=left_out)
    for i, row in enumerate(rows):
        require_kind(
            row, kinds, command, f"{named(source)}, {row_called(i if left_out is None else left_out.index(i))}"
        )
    return rows


def require_kind(row: Row, kinds: tuple[type, ...], command: str, where: str) -> None:
    """Raise InputError where a row is of another kind than these, which a command reads."""
    if not isinstance(row, kinds):
        wanted = " or ".join(k.__name__.lower() + "s" for k in kinds)
        why = data.verdicts.unjudged(row.columns) if isinstance(row, Prompt) else ""
        raise InputError(
            f"{where}: `{command}` learns from {wanted}, and this is a {type(row).__name__.lower()}"
            f"{f'; {why}' if why else ''}."
        )
