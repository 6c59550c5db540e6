"""The expected time of a step's samples, drawn by the training ranks or by a server on GPUs of its own.

As in `passes`, arithmetic only: prompts are read once; then each token of the live samples takes the longest of reading
weights and cache, multiplying, and launching operations.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from accord.engine.generate import CAPACITY
from accord.engine.gpus import Machine
from accord.engine.memory import Shape
from accord.engine.passes import Batch, experts_rate, head_of, one_pass
from accord.engine.shares import Groups

SERVED_ROOM = 0.9
"""Share of a sampling GPU's memory for weights and cache: vLLM's default."""


def sampled_here(shape: Shape, groups: Groups, batch: Batch, machine: Machine, ranks: int, linear: int = 4) -> float:
    """Seconds in which the ranks sample with accord's own sampler, each its own prompts with the whole model gathered.

    Prompts are read once; then every token of the live samples, at most `CAPACITY`, takes the longest of reading all
    weights in bfloat16 and the cache, the products, and launching a layer's operations. All samples are assumed to have
    full length.
    """
    prompts = ceil(batch.trees / ranks)
    together = min(prompts, max(1, CAPACITY // batch.branches))  # prompts decoded at the same time
    waves, live = ceil(prompts / together), together * batch.branches
    gather = one_pass(groups, 0.0, machine, ranks, trains=False, linear=linear).wire
    reading = prompts * Batch(1, batch.prompt, 1, 1).forward(shape, machine)
    token = _decoded(shape, batch, machine, live, together, 1)
    return gather + reading + waves * batch.completion * max(token, shape.layers * machine.launch)


def sampled_elsewhere(shape: Shape, batch: Batch, machine: Machine, gpus: int) -> tuple[float, int]:
    """Seconds in which a server samples on GPUs of its own, and the number of GPUs per engine.

    An engine has as many GPUs as the model needs, leaving half of `SERVED_ROOM` for the cache if possible, and decodes
    as many samples as its cache holds. Only reading weights and cache, products, and two all-reduces per layer across
    its GPUs take time.
    """
    weights, room = 2 * shape.numbers, SERVED_ROOM * machine.memory
    shape = replace(shape, adapters=0, expert_held=2)  # the server holds everything in bfloat16
    together = 1
    while 2 * weights > together * room and 2 * together <= min(gpus, machine.per_node):
        together *= 2
    if weights >= together * room:
        return float("inf"), together
    engines = max(1, gpus // together)
    prompts = ceil(batch.trees / engines)
    of_prompt = 2 * shape.layers * shape.cached * batch.tree
    at_once = max(1, min(prompts, int((together * room - weights) / of_prompt)))
    waves, live = ceil(prompts / at_once), at_once * batch.branches
    reading = prompts * Batch(1, batch.prompt, 1, 1).forward(shape, machine) / together
    sums = 2 * shape.layers * (machine.hops[2] + together * machine.hops[0]) if together > 1 else 0.0
    return reading + waves * batch.completion * (
        _decoded(shape, batch, machine, live, at_once, together) + sums
    ), together


def _decoded(shape: Shape, batch: Batch, machine: Machine, live: int, prompts: int, gpus: int) -> float:
    """Seconds per token of all live samples: memory reads or products, whichever takes longer.

    Of a mixture, those experts are read that any sample is sent through: a share 1 - (1 - k / E)^live where all are
    chosen equally often.
    """
    dense = shape.linear - shape.experts - shape.head + head_of(shape) + shape.adapters
    cached = (prompts * batch.prompt + live * batch.completion / 2) * shape.layers * shape.cached
    hit = shape.experts * (1 - (1 - shape.chosen) ** live)
    read = 2 * (dense + cached) + shape.expert_held * hit
    products = 2 * (dense + shape.experts * shape.chosen / experts_rate(shape, machine)) * live
    return max(read / machine.memory_bandwidth, products / machine.flops) / gpus
