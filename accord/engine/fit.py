"""The optimizer step under every method: unreduced losses in, one division by a global count, one update out.

Freed memory is kept for the next step instead of being handed back to the system.

A training step allocates and frees gigabytes in blocks that the C library, left alone, maps afresh each time; the pages
are then faulted in one by one, which was a sixth of a step's time. Peak memory grows by a few per cent.
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from accord.engine.precision import autocast, compute_dtype
from accord.engine.trees import Trees
from accord.errors import InputError, TrainingStopped


@dataclass(kw_only=True)
class TrainingConfig:
    """Settings that every method which trains has."""

    learning_rate: float = 1e-5
    """Peak step size of AdamW."""
    batch_size: int = 8
    """Rows (or prompts) in one optimizer step."""
    epochs: float = 1.0
    """Passes over the data, unless max_steps says otherwise."""
    max_steps: int | None = None
    """Optimizer steps, in place of epochs."""
    max_length: int = 512
    """Tokens of prompt and completion together; longer completions are cut, rows with longer prompts left out."""
    seed: int = 0
    """Decides the order of the data, new weights and all sampling."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products; auto is bfloat16 where the processor has it. Weights stay float32."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls to zero after warming up, or that it does not."""
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = 0.0
    """Decoupled weight decay, of matrices only."""
    beta1: float = 0.9
    """AdamW's decay of its mean gradient; 0 keeps none, which settles where preferences go in circles."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this Euclidean norm where it is longer."""
    tokens_per_pass: int = 2048
    """Tokens computed at once; fewer need less memory and change nothing else."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "batch_size", "epochs", "max_length", "max_grad_norm", "tokens_per_pass"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, not {getattr(self, name)}.")
        if self.max_steps is not None and self.max_steps < 1:
            raise InputError(f"max_steps must be at least 1, not {self.max_steps}.")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"warmup is a share of the steps in [0, 1], not {self.warmup}.")
        if not 0 <= self.beta1 < 1:
            raise InputError(f"beta1 lies in [0, 1), not {self.beta1}.")
        for name in ("seed", "weight_decay"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, but is {getattr(self, name)}.")

    def rate(self, step: int, total: int) -> float:
        """The learning rate of a step counted from 0."""
        warm = math.ceil(self.warmup * total)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, total - warm)
        falls = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
        return self.learning_rate * falls[self.schedule]


Measures = Mapping[str, Tensor]
"""Named values to report, any number of them; the report is their mean over the whole step."""

Objective = Callable[[Trees], tuple[Tensor, Measures]]
"""A loss: packed trees -> its unreduced values, and measures."""


@dataclass(frozen=True)
class LossTerm:
    """Packs under one objective, which has one value for every tree, trained token, or branch with trained tokens."""

    objective: Objective
    packs: Sequence[Trees]
    per: Literal["tree", "branch", "token"]
    weight: float = 1.0

    @property
    def count(self) -> int:
        """How many values the loss has over all packs: what divides their sum."""
        size = {"tree": lambda t: len(t.trees), "branch": lambda t: len(t.learning), "token": lambda t: len(t.target)}
        return sum(size[self.per](trees) for trees in self.packs)


class Optimizer:
    """AdamW over named networks, a learning-rate schedule, and the arithmetic of one step."""

    def __init__(self, networks: Mapping[str, nn.Module], training: TrainingConfig, total: int) -> None:
        keep_freed_memory()
        self.networks, self.training, self.total = dict(networks), training, total
        matrices = [p for p in self.parameters() if p.dim() > 1]
        vectors = [p for p in self.parameters() if p.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        given, betas = [g for g in groups if g["params"]], (training.beta1, 0.999)
        self.adam = torch.optim.AdamW(given, lr=training.learning_rate, betas=betas, fused=True)
        self.device = next(iter(self.parameters())).device
        self.dtype = compute_dtype(training.dtype, self.device)

    def parameters(self) -> list[nn.Parameter]:
        """Every trained parameter once, in a fixed order."""
        return [p for network in self.networks.values() for p in network.parameters() if p.requires_grad]

    def update(self, step: int, *work: LossTerm) -> dict[str, float]:
        """One step, counted from 0: gradients of sum(weight * sum(values) / count), clipped, and AdamW's update.

        The gradient is that of the mean over all packs together, however the trees were shared among them.

        Returns:
            the mean of every measure, `loss`, `gradient_norm` and `learning_rate`.

        Raises:
            TrainingStopped: a loss or the gradient is not finite; the weights are as they were.
        """
        sums: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        loss = 0.0
        for job in work:
            seen, count = 0, job.count
            for trees in job.packs:
                with autocast(self.dtype, self.device):
                    values, measures = job.objective(trees)
                total = values.sum()
                if not torch.isfinite(total):
                    self.adam.zero_grad(set_to_none=True)
                    raise TrainingStopped(_not_finite(step, values.detach(), trees, job.per))
                (total * (job.weight / count)).backward()
                seen += values.numel()
                loss += float(total.detach()) * job.weight / count
                for name, measured in measures.items():
                    sums[name] += float(measured.detach().double().sum())
                    counts[name] += measured.numel()
            if seen != count:
                raise ValueError(f"the objective gave {seen} values for {count} {job.per}s")
        norm = float(nn.utils.clip_grad_norm_(self.parameters(), self.training.max_grad_norm))
        if not math.isfinite(norm):
            self.adam.zero_grad(set_to_none=True)
            rows = named_rows(t.row for job in work for trees in job.packs for t in trees.trees)
            raise TrainingStopped(f"step {step + 1}: the gradient is not finite; lower the learning rate ({rows}).")
        rate = self.training.rate(step, self.total)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        means = {name: total / counts[name] for name, total in sums.items() if counts[name]}
        return {"loss": loss, **means, "gradient_norm": norm, "learning_rate": rate}


def named_rows(rows: Iterable[int]) -> str:
    """Rows of the data, counted from 0, as a message names them: counted from 1, the first eight."""
    known = sorted({r + 1 for r in rows if r >= 0})
    if not known:
        return "rows that came from no file"
    return f"row{'s' if len(known) > 1 else ''} {', '.join(map(str, known[:8]))}{' ...' if len(known) > 8 else ''}"


def _not_finite(step: int, values: Tensor, trees: Trees, per: str) -> str:
    each = torch.arange(len(trees.trees))
    tree = {"tree": each, "branch": trees.group[trees.learning].cpu(), "token": trees.group[trees.owner].cpu()}[per]
    bad = tree[~torch.isfinite(values.cpu())]
    rows = named_rows(trees.trees[i].row for i in (bad if len(bad) else each).tolist())
    return (
        f"step {step + 1}: the loss of {rows} is not finite, so the run has stopped with its weights as they were; "
        "look at these rows, or lower the learning rate."
    )


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt's names for them, from malloc.h


@functools.cache
def keep_freed_memory() -> None:
    """Tell glibc to serve large blocks from the heap and never to trim it; elsewhere nothing happens."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
