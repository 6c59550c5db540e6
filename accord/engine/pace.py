"""How long a step of several ranks is expected to take, and what bounds it. All of it is arithmetic.

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

from dataclasses import dataclass, replace
from math import ceil

from accord.engine.cards import Machine
from accord.engine.config import SamplingConfig, TrainingConfig
from accord.engine.generate import CAPACITY
from accord.engine.memory import Shape
from accord.engine.shares import Groups, Weight, gathered_size, scattered_size, share, trained

SERVED_ROOM = 0.9
"""Of a card that samples, the share that weights and cache may take: what vLLM takes unless told otherwise."""
UPDATED = 40
"""Bytes of memory that an update reads or writes for each number: the norm of gradients, their scaling, AdamW."""
UPDATED_APART = 144
"""The same of weights in bfloat16, or of states in 8 bits, where each of AdamW's operations reads and writes alone."""
TURNED_BY_MUON = 60
"""The same of matrices that go by Muon, but for what is orthogonalized."""


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
        dense += 2 * _head(shape) * self.branches * self.completion
        return (dense + 2 * shape.experts * shape.chosen * self.tree / _of_experts(shape, machine)) / machine.flops

    def _rest(self, shape: Shape, machine: Machine) -> float:
        """Seconds of attention, and of products with adapters.

        A position attends to half of its own text on average, and a completion's to all of the prompt.
        """
        seen = self.prompt * self.prompt / 2
        seen += self.branches * self.completion * (self.prompt + self.completion / 2)
        return (4 * shape.layers * shape.width * seen + 2 * shape.adapters * self.tree) / machine.flops


def _of_experts(shape: Shape, machine: Machine) -> float:
    """The share of a machine's rate at which experts are multiplied."""
    return machine.float32 if shape.expert_held == 4 else 1.0


def _head(shape: Shape) -> int:
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


def sampled_here(shape: Shape, groups: Groups, batch: Batch, machine: Machine, ranks: int, linear: int = 4) -> float:
    """Seconds in which ranks sample, each its own prompts with the whole model gathered, by accord's own sampler.

    Prompts are read once; then every token of the live samples, `CAPACITY` at most, takes a reading of all weights in
    bfloat16 and of their cache, or the products, or starting a layer's operations, whichever is longest. All samples
    are as long as they may be.
    """
    prompts = ceil(batch.trees / ranks)
    together = min(prompts, max(1, CAPACITY // batch.branches))  # prompts whose samples are decoded side by side
    waves, live = ceil(prompts / together), together * batch.branches
    gather = one_pass(groups, 0.0, machine, ranks, trains=False, linear=linear).wire
    reading = prompts * Batch(1, batch.prompt, 1, 1).forward(shape, machine)
    token = _decoded(shape, batch, machine, live, together, 1)
    return gather + reading + waves * batch.completion * max(token, shape.layers * machine.launch)


def sampled_elsewhere(shape: Shape, batch: Batch, machine: Machine, cards: int) -> tuple[float, int]:
    """Seconds in which a server samples on cards of its own, and how many cards hold the model together.

    As many cards share a model as it needs, and half of `SERVED_ROOM` is left for the cache where it can be. Each such
    engine decodes as many samples as its cache has room for; nothing but reading weights and cache, products and two
    sums a layer over the cards takes time.
    """
    weights, room = 2 * shape.numbers, SERVED_ROOM * machine.memory
    shape = replace(shape, adapters=0, expert_held=2)  # it holds all in bfloat16
    together = 1
    while 2 * weights > together * room and 2 * together <= min(cards, machine.per_node):
        together *= 2
    if weights >= together * room:
        return float("inf"), together
    engines = max(1, cards // together)
    prompts = ceil(batch.trees / engines)
    of_prompt = 2 * shape.layers * shape.cached * batch.tree
    at_once = max(1, min(prompts, int((together * room - weights) / of_prompt)))
    waves, live = ceil(prompts / at_once), at_once * batch.branches
    reading = prompts * Batch(1, batch.prompt, 1, 1).forward(shape, machine) / together
    sums = 2 * shape.layers * (machine.hops[2] + together * machine.hops[0]) if together > 1 else 0.0
    return reading + waves * batch.completion * (
        _decoded(shape, batch, machine, live, at_once, together) + sums
    ), together


def _decoded(shape: Shape, batch: Batch, machine: Machine, live: int, prompts: int, cards: int) -> float:
    """Seconds of a token of each live sample: memory that is read, or products, whichever takes longer.

    Of a mixture those experts are read that any of the samples is sent through, 1 - (1 - k / E)^live of them where all
    are chosen alike; as many bytes as they are held in.
    """
    dense = shape.linear - shape.experts - shape.head + _head(shape) + shape.adapters
    cached = (prompts * batch.prompt + live * batch.completion / 2) * shape.layers * shape.cached
    hit = shape.experts * (1 - (1 - shape.chosen) ** live)
    read = 2 * (dense + cached) + shape.expert_held * hit
    products = 2 * (dense + shape.experts * shape.chosen / _of_experts(shape, machine)) * live
    return max(read / machine.memory_bandwidth, products / machine.flops) / cards


def step(
    shape: Shape,
    groups: Groups,
    method: TrainingConfig,
    batch: Batch,
    machine: Machine,
    ranks: int,
    *,
    again: bool,
    sampling_cards: int = 0,
    reward: Shape | None = None,
    linear: int = 2,
) -> dict[str, float]:
    """Seconds of a step by what they are spent on, which add up to "seconds"; what they are spent on one after the
    other, as accord has it: nothing is sampled while ranks train.

    Args:
        again: whether activations are computed again.
        sampling_cards: cards that sample, beside the ranks; without any the ranks do.
        reward: a reward model, which the rank that leads reads alone.
        linear: bytes of a number in the linear layers as they are gathered, and as a model that is only read has them.

    Returns:
        "generation", "handing_over", "reward", "reading" (log-probabilities before the update), "training", "waiting"
        (for what is gathered and scattered, in both of these), "updating", and "seconds".
    """
    passes = Passes.of(batch, method.tokens_per_pass, ranks)
    forward = passes.trees * batch.forward(shape, machine)
    read = one_pass(groups, forward, machine, ranks, trains=False, linear=linear, head=linear)
    reread = one_pass(groups, forward, machine, ranks, trains=False, linear=linear)
    passed = passes.trees * batch.trained(shape, machine, again)
    learned = one_pass(groups, passed, machine, ranks, trains=True, linear=linear)
    networks, epochs = method.trained_networks, getattr(method, "updates", (1, 1))[0]
    own = int(getattr(method, "scores_itself", False)) + networks - 1
    parts = dict.fromkeys(("generation", "handing_over", "reward"), 0.0)
    if isinstance(method, SamplingConfig):
        if sampling_cards:
            parts["generation"] = sampled_elsewhere(shape, batch, machine, sampling_cards)[0]
            parts["handing_over"] = 4 * (shape.adapters or shape.numbers) / machine.folder
        else:
            parts["generation"] = sampled_here(shape, groups, batch, machine, ranks, linear)
        if reward is not None:
            alone = Batch(1, batch.prompt + batch.completion, 0, 0)
            parts["reward"] = batch.trees * batch.branches * alone.forward(reward, machine)
    counted = ((read, passes.each * method.frozen_copies), (reread, passes.each * own))
    parts["reading"] = sum(one.compute * times for one, times in counted)
    updates = passes.each * epochs * networks
    parts["training"] = learned.compute * updates
    waited = (*counted, (learned, updates))
    parts["waiting"] = sum((one.seconds - one.compute) * times for one, times in waited)
    parts["updating"] = epochs * networks * update(groups, method, machine, ranks)
    parts["seconds"] = sum(parts.values())
    return parts


def update(groups: Groups, method: TrainingConfig, machine: Machine, ranks: int) -> float:
    """Seconds of an update of one network's weights: memory that is read and written, and of Muon more.

    In bfloat16 every rank draws the noise of all ranks' rows. Muon's matrices, m x n with m <= n, are dealt out: each
    of five iterations takes 4 m^2 n + 2 m^3 operations, and the rows go to and fro in bfloat16, as many matrices at a
    time as there are ranks. Experts in one block go by AdamW.
    """
    whole, is_half = trained(groups.all), method.weight_dtype == "bfloat16"
    own = share(whole, ranks)
    if is_half or method.optimizer_states == "8bit":
        return (UPDATED_APART * own + 4 * is_half * share(whole)) / machine.memory_bandwidth
    if method.optimizer != "muon":
        return UPDATED * own / machine.memory_bandwidth
    inner = groups.inner
    rounds, numbers = ceil(len(inner) / ranks), share(inner)
    sides = [sorted((weight.rows, weight.each)) for weight in inner]
    flops = 5 * sum(4 * m * m * n + 2 * m**3 for m, n in sides) * rounds / len(inner)
    moved = UPDATED * own + (TURNED_BY_MUON - UPDATED) * share(inner, ranks)
    sent = 2 * rounds * machine.seconds(2 * numbers / ranks / rounds, ranks)
    return moved / machine.memory_bandwidth + flops / machine.flops + sent


def bound_by(parts: dict[str, float]) -> str:
    """What of a step takes longest."""
    spent = {
        "sampling": parts["generation"],
        "computing": parts["reading"] + parts["training"],
        "communication": parts["waiting"],
        "the reward model": parts["reward"],
        "handing weights over": parts["handing_over"],
        "updating": parts["updating"],
    }
    return max(spent, key=lambda name: spent[name])
