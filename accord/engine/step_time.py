"""How long a step is expected to take, part by part: its samples, its passes (`passes`), and the update of weights."""

from __future__ import annotations

from math import ceil

from accord.engine.cards import Machine
from accord.engine.config import SamplingConfig, TrainingConfig
from accord.engine.memory import Shape
from accord.engine.passes import Batch, Passes, one_pass
from accord.engine.sampling_time import sampled_elsewhere, sampled_here
from accord.engine.shares import Groups, share, trained

UPDATED = 40
"""Bytes of memory that an update reads or writes for each number: the norm of gradients, their scaling, AdamW."""
UPDATED_APART = 144
"""The same of weights in bfloat16, or of states in 8 bits, where each of AdamW's operations reads and writes alone."""
TURNED_BY_MUON = 60
"""The same of matrices that go by Muon, but for what is orthogonalized."""


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
    """Seconds of a step by what they are spent on, and their sum, "seconds": nothing is sampled while ranks train.

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
