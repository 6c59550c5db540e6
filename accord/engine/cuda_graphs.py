"""Decoding by CUDA graphs: the kernels of a step are recorded once, and started together for each step after it.

A step for few samples launches hundreds of kernels that each compute for microseconds, less than the CPU takes to
launch one. A graph starts them all at once. But it repeats what was recorded, on the same addresses and shapes, so
here shapes change rarely, and each time they do a new graph is recorded.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from accord.arrays import Tokens
from accord.console import error_text
from accord.engine.cache import Cache
from accord.engine.shard import is_sharded
from accord.engine.tiles import to_device
from accord.errors import ran_out_of_memory

BLOCK = 128
"""A sample's keys are read up to a multiple of this many, so that the shapes stay for as many steps."""

FULL = 0.75
"""Ended samples stay in the batch, and are computed in vain, until less than this share of it is live."""


class GraphedCache(Cache):
    """A `Cache` on a CUDA device whose steps replay a graph for as long as the batch keeps its shape.

    The first step of a shape runs as usual, which lets kernels allocate what they allocate once; the second is
    recorded. If recording fails, a warning says why, and this model's steps run as usual from then on; where memory ran
    out, only until it is loaded again.
    """

    def __init__(self, model: nn.Module, room: int) -> None:
        super().__init__(model, room)
        self._live = torch.zeros(0, dtype=torch.long)  # the batch's row of each live sample, on the CPU
        self._longest = 0  # keys of a sample that the steps of this shape read, 0 before its first step
        self._replay: Callable[[], Tensor] | None = None

    def prefill(self, prompts: Sequence[Tokens], n: int) -> Tensor:
        """As `Cache.prefill`."""
        self._reshape()
        logits = super().prefill(prompts, n)
        self._live = torch.arange(len(self.length))
        return logits

    def keep(self, live: Tensor) -> None:
        """As `Cache.keep`, of the live samples."""
        self._live = self._live[live]
        if len(self._live) < FULL * len(self.length):
            self._reshape()

    def decode(self, tokens: Tensor) -> Tensor:
        """As `Cache.decode`, for the live samples."""
        if is_first := self._keys() != self._longest:
            self._reshape()
            self._longest = self._keys()
            self._inputs = torch.zeros(3, len(self.length), dtype=torch.long, device=self.device)
        # A sample that has ended and reached the end of its room overwrites its last key from then on.
        length = self.length.clamp(max=self.room - 1)
        self.length = length + 1
        position = self.prompt_length[self.group] + length
        self._inputs[1:].copy_(to_device(torch.stack([position, length]), self.device))
        live = to_device(self._live, self.device)
        self._inputs[0].index_copy_(0, live, tokens)
        if not is_first and self._replay is None and can_be_graphed(self.model):
            self._replay = self._recorded()
        logits = self._replay() if self._replay else self._step()
        return logits.index_select(0, live)  # a copy: the next replay overwrites the logits

    def _keys(self) -> int:
        """How many keys of each sample the next step reads: all, up to a multiple of BLOCK."""
        return min((int(self.length.max()) // BLOCK + 1) * BLOCK, self.room)

    def _step(self) -> Tensor:
        tokens, position, end = self._inputs
        return self._read(tokens, position, end, self._longest)

    def _recorded(self) -> Callable[[], Tensor] | None:
        try:
            return record(self._step)
        except RuntimeError as error:
            # Memory that runs out says nothing of the model. The end of the recording, which fails too, may hide it.
            is_full = any(ran_out_of_memory(one) for one in (error, error.__context__) if one is not None)
            self.model._accord_graphs = None if is_full else False  # type: ignore[assignment]
            warnings.warn(f"no CUDA graphs in sampling, which is slower without: {error_text(error)}", stacklevel=2)
            return None

    def _reshape(self) -> None:
        """Drop the samples that have ended, and the graph."""
        self._longest, self._replay = 0, None
        if len(self._live) < len(self.length):
            super().keep(torch.isin(torch.arange(len(self.length)), self._live))
            self._live = torch.arange(len(self.length))


def can_be_graphed(model: nn.Module) -> bool:
    """Whether a model's steps may be recorded: a trial has allowed it (`accord.engine.fast_paths`), all weights stay
    where they are on a GPU, and the environment does not say ACCORD_CUDA_GRAPHS=0."""
    is_allowed = getattr(model, "_accord_graphs", False) and os.environ.get("ACCORD_CUDA_GRAPHS") != "0"
    return is_allowed and not is_sharded(model) and all(p.is_cuda for p in model.parameters())


def record(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record the kernels that `step` launches, without running them.

    The function returned runs them again, on the same addresses, and returns the same tensor every time.
    """
    graph = torch.cuda.CUDAGraph()
    # Should the end of recording fail too, torch.cuda.graph leaves its own stream current; the outer context does not.
    # Other threads may go on using the GPU while this one records.
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = step()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
