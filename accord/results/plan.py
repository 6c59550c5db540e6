"""A training on many cards before it is begun: what a rank holds, what reaches it, what a step takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.box import SIMPLE
from rich.table import Table

from accord.results.base import Evaluation, Record

GB = 10**9


class Figure(Record):
    """A figure that a plan rests on, and where it is from."""

    name: str
    """What it says."""
    value: float
    """How much, in bytes, seconds, operations or bytes a second, or tokens."""
    source: str
    """Where it is from: given, of a data sheet, counted, measured, assumed."""


class RankMemory(Record):
    """Bytes that a rank holds; the rank of most where shares differ."""

    weights: float
    """Its share of the weights that are trained."""
    gradients: float
    """Its share of their gradients, summed."""
    optimizer: float
    """Its share of AdamW's or Muon's numbers."""
    copies: float
    """Its share of copies that are only read: the reference."""
    reward: float
    """A reward model, whole, on the rank that leads."""
    gathered: float
    """Weights that are gathered for a pass: what is beside the layers, and two layers."""
    whole_gradients: float
    """Gradients of these before they are summed and scattered."""
    activations: float
    """What a pass keeps for its gradient."""
    activations_again: float
    """The same where activations are computed again (activation_checkpointing)."""
    casts: float
    """Weights cast to bfloat16 that are kept for the gradient: the head, or on one rank the whole model."""
    logits: float
    """A block of logits."""
    cache: float
    """The sampler's keys and values, where ranks sample."""
    program: float
    """What is there before any weight."""
    training: float
    """All at once in a pass."""
    training_again: float
    """The same where activations are computed again."""
    sampling: float
    """All at once while prompts are answered, the model whole on every rank, or what stands where servers answer."""
    loading: float
    """All at once while each rank reads its share of the model."""

    def peak(self, *, again: bool) -> float:
        """The most of all moments."""
        return max(self.training_again if again else self.training, self.sampling, self.loading)


class PassPlan(Record):
    """A pass of a rank with its gradient, and the step's passes."""

    tokens: int
    """Tokens of the largest pass."""
    each: int
    """Passes of a rank in a step."""
    idle: int
    """Passes of a step in which a rank does nothing that counts, over all ranks."""
    received: float
    """Bytes that reach a rank in a pass: weights gathered twice, and its share of gradients summed."""
    compute: float
    """Seconds that a pass computes."""
    wire: float
    """Seconds that a pass gathers and scatters."""
    hidden_at: float
    """Tokens a pass at which both take equally long, so that the latter is hidden by the former."""
    hsdp_held: float
    """With shards within a node and copies over nodes (HSDP, --shard-ranks): a rank's weights, gradients and AdamW's
    numbers."""
    hsdp_wire: float
    """Seconds that ranks then speak in all passes of a step."""


class StepPlan(Record):
    """Seconds of a step, by what they are spent on."""

    generation: float
    """Sampling."""
    handing_over: float
    """Giving the weights to those who sample elsewhere."""
    reward: float
    """Reading samples by a reward model, on the rank that leads."""
    reading: float
    """Log-probabilities before the update: the reference's, the policy's own, values."""
    training: float
    """Computing passes with gradients."""
    waiting: float
    """Gathering and scattering that computing does not hide."""
    updating: float
    """AdamW or Muon."""
    seconds: float
    """All of these."""
    bound: str
    """What takes longest."""


class GpusPlan(Record):
    """A number of cards."""

    gpus: int
    """Cards in all."""
    ranks: int
    """Those that train."""
    samplers: int
    """Those that only sample."""
    together: int
    """Of these, how many hold a model together; 0 without any."""
    again: bool
    """Whether activations are computed again, as they do not fit otherwise."""
    lacks: list[str]
    """Moments that a card has not enough memory for: training, sampling, loading; none where all fits."""
    memory: RankMemory
    """What a rank holds."""
    passes: PassPlan
    """Its passes."""
    step: StepPlan
    """A step."""
    tokens: int
    """Tokens that a step trains on or reads."""
    rollouts: float
    """Bytes of host memory that samples take on every rank; 0 without samples."""

    @property
    def rate(self) -> float:
        """Tokens a second and card."""
        return self.tokens / self.step.seconds / self.gpus


class PlanResult(Evaluation):
    """A training of a model by a method, on several numbers of cards."""

    kind: Literal["plan"] = "plan"
    model: str
    """The model."""
    shape: str
    """Its shape, in words."""
    numbers: int
    """Its weights."""
    method: str
    """The command."""
    batch: str
    """What a step is of, in words."""
    card: str
    """The card."""
    card_memory: float
    """Bytes that it has."""
    figures: list[Figure]
    """What the plan rests on."""
    rows: list[GpusPlan]
    """A row a number of cards."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return self.model_dump(mode="json")["rows"]

    def tables(self) -> Iterator[Table]:
        """What it rests on; what a rank holds; what its passes move; and what a step takes."""
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
            f"GB of a rank; a card has {self.card_memory / GB:.0f}. Shares of weights, gradients, AdamW's numbers; of "
            "copies; what is gathered; casts; a pass's activations, or if computed again; all at once as it trains, or "
            "so, draws samples and loads"
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
            "A pass with its gradient: its tokens, how many would hide what is spoken, what reaches a rank, seconds to "
            "compute and to speak. By HSDP (--shard-ranks, a node's): what a rank holds, and seconds spoken in a step"
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
        made = _table("Seconds of a step, and tokens a second and card", *heads)
        for row in self.rows:
            s = row.step
            spent = (s.generation, s.handing_over, s.reward, s.reading, s.training, s.waiting, s.updating, s.seconds)
            made.add_row(f"{row.gpus:,}", *map(_seconds, spent), f"{row.rate:,.0f}", s.bound)
        return made


def _table(title: str, *heads: str) -> Table:
    made = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for head in ("cards", *heads):
        made.add_column(head, justify="left" if head in ("fits", "bound by") else "right", no_wrap=True)
    return made


def _gigabytes(size: float) -> str:
    return f"{size / GB:.1f}" if size < 99.95 * GB else f"{size / GB:,.0f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 9.995 else f"{seconds:.1f}" if seconds < 99.95 else f"{seconds:,.0f}"


def _scaled(value: float) -> str:
    """A figure in units of a thousand."""
    for power, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= power:
            return f"{value / power:,.3g} {prefix}"
    return f"{value:,.3g}"
