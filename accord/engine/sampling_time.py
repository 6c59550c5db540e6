"""How long a step's samples are expected to take, drawn by the ranks that train or by a server on GPUs of its own.

As in `passes`, only arithmetic: prompts are read once, and then each token of the live samples takes what is longest of
reading weights and cache, multiplying, and starting the operations.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from accord.engine.cards import Machine
from accord.engine.generate import CAPACITY
from accord.engine.memory import Shape
from accord.engine.passes import Batch, experts_rate, head_of, one_pass
from accord.engine.shares import Groups

SERVED_ROOM = 0.9
"""Of a card that samples, the share that weights and cache may take: what vLLM takes unless told otherwise."""


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
    dense = shape.linear - shape.experts - shape.head + head_of(shape) + shape.adapters
    cached = (prompts * batch.prompt + live * batch.completion / 2) * shape.layers * shape.cached
    hit = shape.experts * (1 - (1 - shape.chosen) ** live)
    read = 2 * (dense + cached) + shape.expert_held * hit
    products = 2 * (dense + shape.experts * shape.chosen / experts_rate(shape, machine)) * live
    return max(read / machine.memory_bandwidth, products / machine.flops) / cards
