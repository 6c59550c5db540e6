"""Methods that learn from a fixed set of rows: passes over them, encoded in advance or as steps need them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from accord import data, engine
from accord.console import status
from accord.data.streams import StreamedRows
from accord.engine.config import TrainingConfig
from accord.errors import InputError, LeftOut, Reason, RowNumber
from accord.methods.method import Method, Per, as_policy, of_kind, require_kind
from accord.records import Row
from accord.train.held_out import PROMPTS, RunData, Tally, Unit
from accord.train.learner import Learner, StepResult
from accord.train.loop import OnStep, Result, train
from accord.train.options import HeldOutOptions, RowsOptions
from accord.train.run import Run
from accord.train.watch import make_watch

if TYPE_CHECKING:
    from torch import Tensor

    from accord.data.load import Source
    from accord.engine import LossTerm, Measures, Model, Optimizer, Policy, Tree, Trees


@dataclass(kw_only=True)
class OfflineMethod(Method, TrainingConfig, ABC):
    """A method that makes passes over rows: the model it trains, the rows it reads, and its loss."""

    reads: ClassVar[tuple[type, ...]]
    """The kinds of rows it learns from."""
    per: ClassVar[Per]
    options: ClassVar[type[HeldOutOptions]] = RowsOptions
    """The further options of `fit`; methods whose model does not write text cannot be watched."""
    unit: ClassVar[Unit] = PROMPTS
    """The unit that is held out as a whole."""

    @abstractmethod
    def objective(self, model: Any) -> Callable[..., tuple[Tensor, Measures]]:
        """The loss of packed trees under the model, created before training."""

    def objective_of(self, model: Any, trees: Sequence[Tree]) -> Callable[..., tuple[Tensor, Measures]]:
        """The objective of a run that sees only these trees."""
        return self.objective(model)

    def terms(self, objective: Any, batch: Sequence[Tree], model: Model) -> LossTerm:
        """The loss term of a step: `objective`, as created by this method, on a batch of trees."""
        return engine.LossTerm(objective, engine.pack(batch, self.tokens_per_pass, model.device), self.per)

    def owners(self, trees: Trees, measures: Measures) -> dict[str, Tensor]:
        """The index in its pack of the tree that each value of a measure belongs to, by the measure's name.

        Covers measures with one value per tree; methods whose measures are per branch or pair override it.
        """
        each = trees.group.unique()
        return {name: each for name, values in measures.items() if values.shape == each.shape}

    def start(self, policy: Policy) -> Model:
        """The model to train, made from the one given."""
        return policy

    def encode(self, model: Model, rows: Sequence[Row], left_out: LeftOut) -> list[Tree]:
        """Encode rows as trees; a classifier reads a chat up to the end that its template writes."""
        whole = isinstance(model, engine.classifiers.Classifier)
        encoded = data.encoding.encode(
            model.tokenizer, rows, max_length=self.max_length, context=model.context, whole=whole, left_out=left_out
        )
        return encoded.trees

    def announce(self, run: Run, rows: RunData[Row], trees: Sequence[Tree]) -> None:
        """Called with the rows and trees to train on, before training; prints or records more about them."""

    def learner(self, model: Model, trees: Sequence[Tree]) -> OfflineLearner:
        """The learner of a run that sees only these trees."""
        return OfflineLearner(self, model, trees)

    def visited(self, trees: Sequence[Tree]) -> list[Tree]:
        """The trees that a run uses, in the order of first use."""
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
        run_options = self.options(**options)
        if self.memory:
            policy = as_policy(model, self)
            return engine.plan.fitting(self, policy).fit(policy, data, out=out, on_step=on_step, **options)
        origin = data  # `read` also gets the held-out data, which is never streamed

        def read(source: Source, split: str) -> tuple[Sequence[Row], LeftOut]:
            left_out = LeftOut(run_options.strict)
            if getattr(run_options, "stream", False) and source is origin and split == run_options.split:
                return StreamedRows(source, split, run_options.columns), left_out
            rows = of_kind(source, split, self.reads, self.command, left_out, run_options.columns)
            left_out.require_few(run_options.max_bad)
            return rows, left_out

        def encode(rows: Sequence[Row], left_out: LeftOut) -> Sequence[Any]:
            if isinstance(rows, StreamedRows):
                left_out.taken += rows.notes(to_train.tokenizer.chat_template)
                return rows
            return self.encode(to_train, rows, left_out)

        rows = RunData(run_options, data, self.seed, read, self.unit)
        to_train = engine.memory.prepare_training(self.start(as_policy(model, self)), self)

        def learner(run: Run) -> Learner:
            trees, held_out = rows.divide(run, encode)
            if isinstance(trees, StreamedRows):
                streaming = StreamLearner(
                    self, to_train, held_out, strict=run_options.strict, max_bad=run_options.max_bad
                )
                watch = rows.hold_out(run, streaming, to_train, held_out) if held_out else None
                return streaming.learn_from(trees, watch)
            self.announce(run, rows, trees)
            made = self.learner(to_train, [*self.visited(trees), *held_out])
            if held_out:
                return made.learn_from(trees, rows.hold_out(run, made, to_train, held_out))
            return made.learn_from(
                trees, make_watch(run, run_options, self, to_train, trained=(t.prompt for t in trees))
            )

        return train(learner, self, to_train, out, run_options, on_step, data=data)


class OfflineLearner(Learner):
    """Passes over the trees of encoded rows."""

    method: OfflineMethod

    def __init__(self, method: OfflineMethod, model: Model, trees: Sequence[Tree]) -> None:
        self.method, self.model, self.networks = method, model, {"model": model.network}
        self.objective = method.objective_of(model, trees)

    def step(self, step: int, items: Sequence[Tree], optimizer: Optimizer) -> StepResult:
        numbers = optimizer.update(step, self.method.terms(self.objective, items, self.model))
        return StepResult(numbers | {"epoch": self.order.epoch(step + 1)}, sum(tree.size for tree in items))

    def measure(self, items: Sequence[Tree], clusters: Sequence[int], when: str) -> Tally:
        """Held-out loss and measures, as in `Learner.measure`, in batches of the training size."""
        import torch

        size, tally = self.method.batch_size, Tally(max(clusters) + 1)
        for start in range(0, len(items), size):
            with torch.no_grad():
                term = self.method.terms(self.objective, items[start : start + size], self.model)
                results = engine.Team.here().map(term.packs, partial(self.values, term))
            for trees, (values, measures) in zip(term.packs, results, strict=True):
                term.require_finite(values, trees, when)
                cluster = trees.group.new_tensor([clusters[tree.row] for tree in trees.trees]).cpu()
                tally.add("loss", values, cluster[term.tree_of(trees).cpu()])
                for name, tree in self.method.owners(trees, measures).items():
                    tally.add(name, measures[name], cluster[tree.cpu()])
        return tally

    def values(self, term: LossTerm, trees: Trees) -> tuple[Tensor, Measures]:
        """A pack's losses, unreduced, and its measures, in host memory."""
        with self.model.autocast():
            values, measures = term.objective(trees)
        return values.cpu(), {name: measured.cpu() for name, measured in measures.items()}


class StreamLearner(OfflineLearner):
    """Passes over rows that are read and encoded when their step comes, each rank reading its share."""

    items: StreamedRows

    def __init__(
        self, method: OfflineMethod, model: Model, held_out: Sequence[Tree], *, strict: bool, max_bad: float
    ) -> None:
        super().__init__(method, model, held_out)
        self.strict, self.max_bad = strict, max_bad
        self.bad = 0  # rows so far that could not be used

    def batch(self, step: int) -> list[Tree]:
        """The trees of a step's rows, in order, on every rank.

        Raises InputError where a row is invalid and `strict`, too many rows cannot be used, or none of a step's can.
        """
        team, rows = engine.Team.here(), self.order.batch(step)
        trees, reasons, fault = self._read(team.share(rows))
        gathered = team.all_gather((reasons, fault))
        if faults := [fault for _, fault in gathered if fault]:
            raise InputError(faults[0])
        left = [reason for reasons, _ in gathered for reason in reasons]
        self.bad += len({reason.row for reason in left if reason.is_bad})
        for reason in left:
            status(f"{reason.where}: {reason.why}; the row is left out.")
        if self.bad > self.max_bad * len(self.items):
            raise InputError(
                f"{self.bad} of {len(self.items)} rows cannot be used, more than the share of {self.max_bad:g} that "
                f"--max-bad allows; the last: {left[-1].where}: {left[-1].why}"
            )
        made = [tree for some in team.collect(trees) for tree in some]
        if not made:
            raise InputError(f"step {step + 1}: none of its {len(rows)} rows can be used: raise --batch-size.")
        return made

    def _read(self, rows: Sequence[int]) -> tuple[list[list[Tree]], list[Reason], str]:
        """The trees of each row, the reasons why rows have none, and the error that ends the run, "" if there is
        none."""
        records: list[Row] = []
        owners: list[int] = []
        left_out = LeftOut(self.strict)
        try:
            for position, row in enumerate(rows):
                of_row, reasons = self.items.read(row, strict=self.strict)
                left_out.reasons += reasons
                for record in of_row:
                    require_kind(record, self.method.reads, self.method.command, f"row {self.items.number(row)}")
                    records.append(record)
                    owners.append(position)
            left_out.numbers = [self.items.number(rows[position]) for position in owners]
            made = self.method.encode(self.model, records, left_out) if records else []
        except InputError as error:
            if self.strict or {reason.row for reason in left_out.reasons} != {row + 1 for row in rows}:
                return [[] for _ in rows], [], str(error)
            made = []  # all were left out
        trees: list[list[Tree]] = [[] for _ in rows]
        for tree in made:
            row = rows[owners[tree.row]]
            trees[owners[tree.row]].append(replace(tree, row=RowNumber(row, str(self.items.number(row)))))
        return trees, left_out.reasons, ""

    def state(self) -> dict[str, Any]:
        return {"bad": self.bad}

    def restore(self, state: Mapping[str, Any], *_: Any) -> None:
        self.bad = int(state.get("bad", 0))
