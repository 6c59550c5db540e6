"""A plan of training on many GPUs: memory per rank, communication, and time per step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.box import SIMPLE
from rich.table import Table

from accord.results.base import Evaluation, Record

GB = 10**9


class Figure(Record):
    """A number that the plan is based on, with its source."""

    name: str
    """Its name."""
    value: float
    """Its value in bytes, seconds, operations or bytes per second, or tokens."""
    source: str
    """Its source: given, data sheet, counted, measured, or assumed."""


class RankMemory(Record):
    """Bytes held by a rank; by the fullest rank where shares differ."""

    weights: float
    """Its share of the trained weights."""
    gradients: float
    """Its share of the summed gradients."""
    optimizer: float
    """Its share of the optimizer's states (AdamW or Muon)."""
    copies: float
    """Its share of read-only copies: the reference."""
    reward: float
    """A whole reward model, on the leading rank."""
    gathered: float
    """Weights gathered for a pass: everything outside the layers, and two layers."""
    whole_gradients: float
    """Their gradients before these are reduced and scattered."""
    activations: float
    """Activations of a pass kept for its gradient."""
    activations_again: float
    """The same with recomputed activations (activation_checkpointing)."""
    casts: float
    """bfloat16 casts of weights kept for the gradient: the head, or on one rank the whole model."""
    logits: float
    """A block of logits."""
    cache: float
    """The sampler's keys and values, where ranks sample."""
    program: float
    """The process before any weight is loaded."""
    training: float
    """Peak during a training pass."""
    training_again: float
    """The same with recomputed activations."""
    sampling: float
    """Peak during sampling, with the whole model on every rank; where servers sample, the memory that stays in use."""
    loading: float
    """Peak while each rank reads its share of the model."""

    def peak(self, *, again: bool) -> float:
        """The peak over all phases."""
        return max(self.training_again if again else self.training, self.sampling, self.loading)


class PassPlan(Record):
    """A rank's training pass, and the passes of a step."""

    tokens: int
    """Tokens of the largest pass."""
    each: int
    """Passes per rank and step."""
    idle: int
    """Passes of a step in which a rank has no work, over all ranks."""
    received: float
    """Bytes received by a rank per pass: weights gathered twice, and its share of reduced gradients."""
    compute: float
    """Seconds of computation per pass."""
    wire: float
    """Seconds of communication per pass."""
    hidden_at: float
    """Tokens per pass at which computation and communication take equally long, so that the latter is hidden."""
    hsdp_held: float
    """With shards within a node and replicas across nodes (HSDP, --shard-ranks): bytes of a rank's weights, gradients
    and optimizer states."""
    hsdp_wire: float
    """Seconds of communication per step with HSDP."""


class StepPlan(Record):
    """Seconds of a step, by phase."""

    generation: float
    """Sampling."""
    handing_over: float
    """Sending the weights to external samplers."""
    reward: float
    """Scoring samples by a reward model, on the leading rank."""
    reading: float
    """Log-probabilities before the update: of the reference and the policy itself, and values."""
    training: float
    """Computation of training passes."""
    waiting: float
    """Communication not hidden by computation."""
    updating: float
    """The optimizer's update."""
    seconds: float
    """The total."""
    bound: str
    """The longest phase."""


class GpusPlan(Record):
    """The plan for one number of GPUs."""

    gpus: int
    """GPUs in all."""
    ranks: int
    """GPUs that train."""
    samplers: int
    """GPUs that only sample."""
    together: int
    """Of these, how many hold one model together; 0 without samplers."""
    again: bool
    """Whether activations are recomputed because they do not fit otherwise."""
    lacks: list[str]
    """Phases that exceed a GPU's memory: training, sampling, loading; empty where all fit."""
    memory: RankMemory
    """Memory of a rank."""
    passes: PassPlan
    """Passes of a rank."""
    step: StepPlan
    """Time of a step."""
    tokens: int
    """Tokens that a step trains on or reads."""
    rollouts: float
    """Host memory of samples on every rank, in bytes; 0 without samples."""

    @property
    def rate(self) -> float:
        """Tokens per second and GPU."""
        return self.tokens / self.step.seconds / self.gpus


class PlanResult(Evaluation):
    """A training of a model by a method, on several numbers of GPUs."""

    kind: Literal["plan"] = "plan"
    model: str
    """The model."""
    shape: str
    """Its shape, in words."""
    numbers: int
    """Its number of parameters."""
    method: str
    """The command."""
    batch: str
    """A step's batch, in words."""
    gpu_type: str
    """The GPU."""
    gpu_memory: float
    """Its memory in bytes."""
    figures: list[Figure]
    """The numbers that the plan is based on."""
    rows: list[GpusPlan]
    """One row per number of GPUs."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return self.model_dump(mode="json")["rows"]

    def tables(self) -> Iterator[Table]:
        """Assumptions, memory, communication and time per step."""
        yield self._resting()
        yield self._memory()
        yield self._passing()
        yield self._steps()

    def _resting(self) -> Table:
        title = f"{self.model}: {self.shape}. {self.method}: {self.batch}. Everything below is arithmetic."
        made = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
        for head in ("it rests on", "", "which is"):
            made.add_column(head, justify="left" if head else "right")
        for figure in self.figures:
            made.add_row(figure.name, _scaled(figure.value), figure.source)
        return made

    def _memory(self) -> Table:
        heads = ("share", "copy", "gath", "cast", "act", "or", "train", "or", "draw", "load", "fits")
        title = (
            f"GB of a rank; a GPU has {self.gpu_memory / GB:.0f}. Shares of weights, gradients and optimizer states; "
            "of copies; gathered weights; casts; activations, or if recomputed; peaks in training, or if recomputed, "
            "in sampling and in loading"
        )
        made = _table(title, *heads)
        for row in self.rows:
            m = row.memory
            sizes = [
                m.weights + m.gradients + m.optimizer,
                m.copies + m.reward,
                m.gathered + m.whole_gradients,
                m.casts,
            ]
            sizes += [m.activations, m.activations_again, m.training, m.training_again, m.sampling, m.loading]
            fits = "no" if row.lacks else "again" if row.again else "yes"
            made.add_row(f"{row.gpus:,}", *(_gigabytes(one) for one in sizes), fits)
        return made

    def _passing(self) -> Table:
        heads = ("passes", "idle", "tokens", "hidden", "GB in", "comp", "wire", "HSDP", "wire")
        title = (
            "A training pass: its tokens, how many would hide the communication, GB received by a rank, seconds of "
            "computation and communication. With HSDP (--shard-ranks, a node's): GB held by a rank, and seconds of "
            "communication in a step"
        )
        made = _table(title, *heads)
        for row in self.rows:
            p = row.passes
            hidden = "" if row.ranks == 1 else f"{p.hidden_at:,.0f}"
            spoken = (_gigabytes(p.received), _seconds(p.compute), _seconds(p.wire))
            counts = (f"{p.each:,}", f"{p.idle:,}", f"{p.tokens:,}")
            made.add_row(f"{row.gpus:,}", *counts, hidden, *spoken, _gigabytes(p.hsdp_held), _seconds(p.hsdp_wire))
        return made

    def _steps(self) -> Table:
        heads = ("draw", "hand", "rew", "read", "train", "wait", "adam", "step", "tok/s", "bound by")
        made = _table("Seconds of a step, and tokens a second and GPU", *heads)
        for row in self.rows:
            s = row.step
            spent = (s.generation, s.handing_over, s.reward, s.reading, s.training, s.waiting, s.updating, s.seconds)
            made.add_row(f"{row.gpus:,}", *map(_seconds, spent), f"{row.rate:,.0f}", s.bound)
        return made


def _table(title: str, *heads: str) -> Table:
    made = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for head in ("GPUs", *heads):
        made.add_column(head, justify="left" if head in ("fits", "bound by") else "right", no_wrap=True)
    return made


def _gigabytes(size: float) -> str:
    return f"{size / GB:.1f}" if size < 99.95 * GB else f"{size / GB:,.0f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 9.995 else f"{seconds:.1f}" if seconds < 99.95 else f"{seconds:,.0f}"


def _scaled(value: float) -> str:
    """A number with a metric prefix."""
    for power, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= power:
            return f"{value / power:,.3g} {prefix}"
    return f"{value:,.3g}"
