"""The expected time of a training step, by part: samples, passes (`passes`), and the update of weights."""

from __future__ import annotations

from math import ceil

from accord.engine.config import SamplingConfig, TrainingConfig
from accord.engine.gpus import Machine
from accord.engine.memory import Shape
from accord.engine.passes import Batch, Passes, one_pass
from accord.engine.sampling_time import sampled_elsewhere, sampled_here
from accord.engine.shares import Groups, share, trained

UPDATED = 40
"""Bytes of memory traffic of an update per weight: gradient norm, clipping, AdamW."""
UPDATED_APART = 144
"""The same for bfloat16 weights or 8-bit states, where AdamW's operations are not fused."""
TURNED_BY_MUON = 60
"""The same for matrices updated by Muon, without the orthogonalization."""


def step(
    shape: Shape,
    groups: Groups,
    method: TrainingConfig,
    batch: Batch,
    machine: Machine,
    ranks: int,
    *,
    again: bool,
    sampling_gpus: int = 0,
    reward: Shape | None = None,
    linear: int = 2,
) -> dict[str, float]:
    """Seconds of a step by part, and their sum, "seconds"; sampling and training do not overlap.

    Args:
        again: whether activations are recomputed (activation checkpointing).
        sampling_gpus: GPUs that sample, besides the ranks; 0 if the ranks sample.
        reward: a reward model, which rank 0 alone evaluates.
        linear: bytes per number of linear layers as gathered, and of frozen models as held.

    Returns:
        "generation", "handing_over" (weights to samplers), "reward", "reading" (log-probabilities before the update),
            "training", "waiting" (for communication in both of these), "updating", and "seconds".
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
        if sampling_gpus:
            parts["generation"] = sampled_elsewhere(shape, batch, machine, sampling_gpus)[0]
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
    """Seconds of an update of one network: memory traffic, and for Muon its orthogonalization.

    With bfloat16 weights every rank draws the rounding noise for all ranks' rows. Muon's matrices, m x n with m <= n,
    are distributed over the ranks: each of five Newton-Schulz iterations takes 4 m^2 n + 2 m^3 flops, and rows are
    exchanged in bfloat16 both ways, as many matrices at a time as there are ranks. Experts in one block use AdamW.
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
    """The part of a step that takes longest."""
    spent = {
        "sampling": parts["generation"],
        "computing": parts["reading"] + parts["training"],
        "communication": parts["waiting"],
        "the reward model": parts["reward"],
        "handing weights over": parts["handing_over"],
        "updating": parts["updating"],
    }
    return max(spent, key=lambda name: spent[name])
