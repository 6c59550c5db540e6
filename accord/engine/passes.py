"""The expected time of one pass over a sharded model and what bounds it, by arithmetic alone.

A step's rows, or prompts with their samples, are trees in packs, which ranks share (`trees.balanced_bins`). A pass
computes one layer while the next is gathered, so the longer of the two counts. Counted are matrix products, 2 flops per
weight and token, and attention, 4 per position and unit of width (Kaplan et al. 2020, arXiv:2001.08361, section 2.1),
at the given rate of the machine. A backward pass costs two forward passes, and one more with activation checkpointing;
products with frozen weights under adapters cost one. In a mixture of experts a token is multiplied by the weights of
its chosen experts, in the precision they are held in. Not counted: packing, tokenizing, logging, waiting between ranks,
and the inefficiency of experts that get few tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from accord.engine.gpus import Machine
from accord.engine.memory import Shape
from accord.engine.shares import Groups, Weight, gathered_size, scattered_size, share, trained


@dataclass(frozen=True)
class Batch:
    """A step's rows as trees of one size: a prompt and a number of completions that branch from it."""

    trees: int
    prompt: int
    completion: int
    branches: int

    @property
    def tree(self) -> int:
        """Tokens per tree."""
        return self.prompt + self.branches * self.completion

    def forward(self, shape: Shape, machine: Machine) -> float:
        """Seconds of a forward pass over a tree."""
        return self._products(shape, machine) + self._rest(shape, machine)

    def trained(self, shape: Shape, machine: Machine, again: bool) -> float:
        """Seconds of a forward and backward pass over a tree; `again` with activation checkpointing."""
        once = 2 if shape.adapters else 3
        passed = once * self._products(shape, machine) + 3 * self._rest(shape, machine)
        return passed + (self.forward(shape, machine) if again else 0.0)

    def _products(self, shape: Shape, machine: Machine) -> float:
        """Seconds of a tree's products with the model's own weights; logits are computed for completions only."""
        dense = 2 * (shape.linear - shape.experts - shape.head) * self.tree
        dense += 2 * head_of(shape) * self.branches * self.completion
        return (dense + 2 * shape.experts * shape.chosen * self.tree / experts_rate(shape, machine)) / machine.flops

    def _rest(self, shape: Shape, machine: Machine) -> float:
        """Seconds of attention and of products with adapters.

        A position attends to half of its own text on average, and a completion's also to the whole prompt.
        """
        seen = self.prompt * self.prompt / 2
        seen += self.branches * self.completion * (self.prompt + self.completion / 2)
        return (4 * shape.layers * shape.width * seen + 2 * shape.adapters * self.tree) / machine.flops


def experts_rate(shape: Shape, machine: Machine) -> float:
    """The relative rate of products with experts: that of the precision they are held in."""
    return machine.float32 if shape.expert_held == 4 else 1.0


def head_of(shape: Shape) -> int:
    """Number of weights of the output layer: its own, or the embedding's where they are tied."""
    return shape.head or shape.width * shape.vocabulary


@dataclass(frozen=True)
class Passes:
    """A step's passes: how many each rank makes, the trees of the largest, and the idle passes of all ranks."""

    each: int
    trees: int
    idle: int

    @staticmethod
    def of(batch: Batch, budget: int, ranks: int) -> Passes:
        """Mirrors how `trees.pack` packs trees of one size: as few packs as possible, a multiple of the ranks, evenly
        filled."""
        fit = max(1, budget // batch.tree)
        packs = ranks * ceil(ceil(batch.trees / fit) / ranks)
        filled = min(packs, batch.trees)
        each = ceil(filled / ranks)
        return Passes(each, ceil(batch.trees / packs), ranks * each - filled)


@dataclass(frozen=True)
class Pass:
    """One pass: seconds of computation on a rank, seconds of communication, seconds in all, and bytes that a rank
    receives."""

    compute: float
    wire: float
    seconds: float
    received: float


def one_pass(
    groups: Groups, compute: float, machine: Machine, ranks: int, *, trains: bool, linear: int = 4, head: int = 4
) -> Pass:
    """One pass over a sharded model that computes for `compute` seconds.

    The forward pass gathers every group once. With `trains`, the backward pass gathers the layers again, and the
    gradients of every group are reduced and scattered. On machines that overlap communication with computation, it
    counts only where it takes longer, except at the two ends: the first groups, gathered before any computation, and
    the last gradient. Weights are gathered as they are held, but linear layers in at most `linear` bytes per number,
    and the weights outside the decoder layers in `head`; gradients of trained weights are reduced in float32.
    """

    def gather(weights: tuple[Weight, ...], bytes_each: int) -> float:
        return machine.seconds(gathered_size(weights, ranks, bytes_each), ranks)

    def scatter(weights: tuple[Weight, ...]) -> float:
        return machine.seconds(scattered_size(weights, ranks), ranks) if trained(weights) else 0.0

    times = 2 if trains else 1
    wire = times * sum(gather(layer, linear) for layer in groups.layers) + gather(groups.outer, head)
    whole = times * sum(gathered_size(layer, ranks, linear) for layer in groups.layers)
    whole += gathered_size(groups.outer, ranks, head)
    ends = gather(groups.outer, head) + gather(groups.layers[0], linear)
    if trains:
        every = (*groups.layers, groups.outer)
        wire += sum(map(scatter, every))
        whole += sum(scattered_size(weights, ranks) for weights in every)
        ends += scatter(next((weights for weights in reversed(every) if trained(weights)), ()))
    overlapped = max(compute, wire - ends) + ends if ranks > 1 else compute
    return Pass(compute, wire, overlapped if machine.overlaps else compute + wire, whole * (ranks - 1) / ranks)


def hidden_at(
    groups: Groups, shape: Shape, batch: Batch, machine: Machine, ranks: int, again: bool, linear: int = 4
) -> float:
    """Tokens per pass at which computation takes as long as communication, so that it is hidden: T = wire time / time
    per token.

    Without latencies, with numbers gathered in 2 bytes, 8 P / wire rate = 6 P T / flop rate (8 P T with activation
    checkpointing) for any P parameters: T = 4/3 flop rate / wire rate (or 1).
    """
    per_token = batch.trained(shape, machine, again) / batch.tree
    return one_pass(groups, 0.0, machine, ranks, trains=True, linear=linear).wire / per_token


def within_nodes(groups: Groups, machine: Machine, ranks: int, passes: int, linear: int = 4) -> float:
    """Seconds of communication in a step's passes with shards within a node and replicas across nodes (HSDP,
    --shard-ranks), where gradients are summed across nodes once."""
    inside = min(ranks, machine.per_node)
    wire = passes * one_pass(groups, 0.0, machine, inside, trains=True, linear=linear).wire
    nodes, own = ceil(ranks / inside), 4 * share(trained(groups.all), inside)
    if nodes > 1:
        wire += machine.hops[2] + 2 * (nodes - 1) * machine.hops[1] + 2 * own * (nodes - 1) / nodes / machine.between
    return wire
