"""How long one pass over a model that ranks share is expected to take, and what bounds it: arithmetic alone.

A step's rows, or prompts with their samples, are trees, dealt out to ranks in packs (`trees.shared`). A pass computes
while the layers of the next are gathered, so that the longer of the two counts. Products of matrices are counted, 2 a
number and token, and attention, 4 a position and number of the width (Kaplan et al. 2020, arXiv:2001.08361, section
2.1), at the rate that the machine is said to have; a backward pass is two forward passes, and one more where
activations are computed again. Products with weights under adapters, which have no gradient, take one in it. A token is
multiplied by those of a mixture's experts that it is sent through, in the precision that they are held in. What is not
counted: packing, tokenizing, logging, what ranks wait for each other, and what a mixture loses where its experts get
few tokens each.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from accord.engine.cards import Machine
from accord.engine.memory import Shape
from accord.engine.shares import Groups, Weight, gathered_size, scattered_size, share, trained


@dataclass(frozen=True)
class Batch:
    """A step's rows as trees of one size: a prompt, and so many completions that branch from it."""

    trees: int
    prompt: int
    completion: int
    branches: int

    @property
    def tree(self) -> int:
        """Tokens of a tree."""
        return self.prompt + self.branches * self.completion

    def forward(self, shape: Shape, machine: Machine) -> float:
        """Seconds of a forward pass over a tree."""
        return self._products(shape, machine) + self._rest(shape, machine)

    def trained(self, shape: Shape, machine: Machine, again: bool) -> float:
        """Seconds of a pass over a tree with its gradient, and once more `again` where activations are computed so."""
        once = 2 if shape.adapters else 3
        passed = once * self._products(shape, machine) + 3 * self._rest(shape, machine)
        return passed + (self.forward(shape, machine) if again else 0.0)

    def _products(self, shape: Shape, machine: Machine) -> float:
        """Seconds of a tree's products with the model's own weights; logits are of completions alone."""
        dense = 2 * (shape.linear - shape.experts - shape.head) * self.tree
        dense += 2 * head_of(shape) * self.branches * self.completion
        return (dense + 2 * shape.experts * shape.chosen * self.tree / experts_rate(shape, machine)) / machine.flops

    def _rest(self, shape: Shape, machine: Machine) -> float:
        """Seconds of attention, and of products with adapters.

        A position attends to half of its own text on average, and a completion's to all of the prompt.
        """
        seen = self.prompt * self.prompt / 2
        seen += self.branches * self.completion * (self.prompt + self.completion / 2)
        return (4 * shape.layers * shape.width * seen + 2 * shape.adapters * self.tree) / machine.flops


def experts_rate(shape: Shape, machine: Machine) -> float:
    """The share of a machine's rate at which experts are multiplied: that of the precision they are held in."""
    return machine.float32 if shape.expert_held == 4 else 1.0


def head_of(shape: Shape) -> int:
    """Numbers of the output layer: its own, or the embedding's."""
    return shape.head or shape.width * shape.vocabulary


@dataclass(frozen=True)
class Passes:
    """A step's passes: how many each rank makes, the trees of the largest, and idle ones of all ranks."""

    each: int
    trees: int
    idle: int

    @staticmethod
    def of(batch: Batch, budget: int, ranks: int) -> Passes:
        """As `trees.shared` packs trees of one size: as few packs as will do, a multiple of the ranks, evenly."""
        fit = max(1, budget // batch.tree)
        packs = ranks * ceil(ceil(batch.trees / fit) / ranks)
        filled = min(packs, batch.trees)
        each = ceil(filled / ranks)
        return Passes(each, ceil(batch.trees / packs), ranks * each - filled)


@dataclass(frozen=True)
class Pass:
    """One pass: seconds that a rank computes and that it is spoken to, seconds in all, and bytes that reach it."""

    compute: float
    wire: float
    seconds: float
    received: float


def one_pass(
    groups: Groups, compute: float, machine: Machine, ranks: int, *, trains: bool, linear: int = 4, head: int = 4
) -> Pass:
    """A pass over a model that ranks share, which computes for so many seconds.

    Forward it gathers every group, once; backward the layers again, and every group's gradient is summed and scattered.
    Where cards speak while they compute, all but the two ends counts as far as it takes longer: the first groups, which
    nothing is computed before, and the last gradient. Weights are gathered as they are held, but linear layers in
    `linear` bytes a number at most, `head` beside the decoder layers; gradients are summed in float32, of what is
    trained.
    """

    def gather(weights: tuple[Weight, ...], bytes_each: int) -> float:
        return machine.seconds(gathered_size(weights, ranks, bytes_each), ranks)

    def scatter(weights: tuple[Weight, ...]) -> float:
        return machine.seconds(scattered_size(weights, ranks), ranks) if trained(weights) else 0.0

    times = 2 if trains else 1
    wire = times * sum(gather(layer, linear) for layer in groups.layers) + gather(groups.beside, head)
    whole = times * sum(gathered_size(layer, ranks, linear) for layer in groups.layers)
    whole += gathered_size(groups.beside, ranks, head)
    ends = gather(groups.beside, head) + gather(groups.layers[0], linear)
    if trains:
        every = (*groups.layers, groups.beside)
        wire += sum(map(scatter, every))
        whole += sum(scattered_size(weights, ranks) for weights in every)
        ends += scatter(next((weights for weights in reversed(every) if trained(weights)), ()))
    overlapped = max(compute, wire - ends) + ends if ranks > 1 else compute
    return Pass(compute, wire, overlapped if machine.overlaps else compute + wire, whole * (ranks - 1) / ranks)


def hidden_at(
    groups: Groups, shape: Shape, batch: Batch, machine: Machine, ranks: int, again: bool, linear: int = 4
) -> float:
    """Tokens of a pass at which it computes as long as ranks speak: T = wire flops a second / flops a token.

    Without latencies, and with gathered numbers of 2 bytes, that is 8 P / wire rate = 6 P T / flop rate (8 P T where
    activations are computed again), whatever the model: T = 4/3 flop rate / wire rate (or 1).
    """
    per_token = batch.trained(shape, machine, again) / batch.tree
    return one_pass(groups, 0.0, machine, ranks, trains=True, linear=linear).wire / per_token


def within_nodes(groups: Groups, machine: Machine, ranks: int, passes: int, linear: int = 4) -> float:
    """Seconds that ranks speak in a step's passes with shards within a node and copies over nodes (HSDP,
    --shard-ranks), gradients summed over nodes once."""
    inside = min(ranks, machine.per_node)
    wire = passes * one_pass(groups, 0.0, machine, inside, trains=True, linear=linear).wire
    nodes, own = ceil(ranks / inside), 4 * share(trained(groups.all), inside)
    if nodes > 1:
        wire += machine.hops[2] + 2 * (nodes - 1) * machine.hops[1] + 2 * own * (nodes - 1) / nodes / machine.between
    return wire
