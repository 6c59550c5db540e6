"""What each of several ranks holds: its shares of the numbers, what is gathered for a while, and what stays whole.

Of one rank it is what `memory.needs` counts. What ranks share is counted as `shard` shares it out, what a pass holds
is as there, and what is gathered is by torch's `fully_shard` (FSDP2): the group beside the layers from the beginning
of a pass to its end, of the layers the one that computes and the next. Weights are held in float32, and the linear ones
of layers are gathered in the precision of products, so that none is cast; only the head is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import transformers
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from accord.console import said
from accord.engine.config import SamplingConfig, TrainingConfig
from accord.engine.memory import Shape, needs, tokens_at_once
from accord.engine.models import quiet
from accord.errors import InputError

GATHERED = 2
"""Layers that are gathered at once: the one that computes, and the one that follows."""


@dataclass(frozen=True)
class Weight:
    """A parameter: its rows, which are shared out, the numbers of a row, and whether it is a linear layer's matrix."""

    rows: int
    each: int
    is_linear: bool

    def share(self, ranks: int = 1) -> int:
        """Numbers that a rank holds at most: `fully_shard` deals out rows, ceil(rows / ranks) to the first ranks."""
        return -(-self.rows // ranks) * self.each


def share(weights: Sequence[Weight], ranks: int = 1) -> int:
    """Numbers of several that a rank holds at most."""
    return sum(weight.share(ranks) for weight in weights)


def size(weights: Sequence[Weight], ranks: int = 1, linear: int = 4) -> int:
    """Their bytes, where matrices of linear layers take so many bytes a number, and all others 4."""
    return sum((linear if weight.is_linear else 4) * weight.share(ranks) for weight in weights)


@dataclass(frozen=True)
class Groups:
    """A model's parameters in the groups that are gathered at once: each decoder layer, and what is beside them."""

    layers: tuple[tuple[Weight, ...], ...]
    beside: tuple[Weight, ...]

    @property
    def all(self) -> tuple[Weight, ...]:
        """Every parameter."""
        return (*(weight for layer in self.layers for weight in layer), *self.beside)

    @property
    def largest(self) -> tuple[Weight, ...]:
        """The layer of most numbers."""
        return max(self.layers, key=share)

    @staticmethod
    def of(config: transformers.PreTrainedConfig) -> Groups:
        """Of an architecture, as `shard` groups it. Raises InputError where it is one that ranks cannot share."""
        names = ("num_experts", "num_local_experts", "n_routed_experts")
        if any(getattr(config.get_text_config(), name, 0) for name in names):
            raise InputError("a plan is not for mixtures of experts, which several ranks cannot train yet.")
        try:
            with torch.device("meta"), quiet():
                network = transformers.AutoModelForCausalLM.from_config(config)
        except Exception as error:  # architectures that others wrote fail in any manner
            raise InputError(f"a {config.model_type} cannot be planned for: {said(error)}") from error
        layers = [m for m in network.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise InputError(f"a {config.model_type} has no decoder layers that ranks could share.")
        embedded = {id(p) for m in network.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}

        def weight(p: nn.Parameter) -> Weight:
            return Weight(p.shape[0], p[0].numel(), p.dim() > 1 and id(p) not in embedded)

        inside = {id(p) for layer in layers for p in layer.parameters()}
        return Groups(
            tuple(tuple(map(weight, layer.parameters())) for layer in layers),
            tuple(weight(p) for p in network.parameters() if id(p) not in inside),
        )


def held(
    shape: Shape,
    groups: Groups,
    method: TrainingConfig,
    dtype: torch.dtype,
    ranks: int,
    *,
    tokens: int,
    is_served: bool = False,
    reward: float = 0.0,
    device: str = "cuda",
) -> dict[str, float]:
    """Bytes that a rank holds, by what they are, and what they come to in each of three moments.

    "training" is a pass with its gradients, "sampling" is when prompts are answered, "loading" is when ranks read their
    shares. The method is as one process would train it, its batch that of all ranks; weights, gradients and AdamW's
    numbers are float32.

        weights, gradients   4 share(all) n       n networks are trained
        optimizer            8 share(all) n + 4 a parameter, AdamW's count of steps
        gathered             4 beside + 2 layer            of more than one rank; of a layer's linear weights 2 each,
                             4 where products are of float32
        whole gradients      4 (beside + 2 layer)          before they are summed and scattered
        casts                2 a number of the head, which autograd keeps; on one rank of all linear layers
        training             weights + optimizer + copies + gradients + program + what a pass holds; at its end the
                             group beside the layers is there thrice: gathered, its gradients, and those as one buffer
        sampling             weights + optimizer + copies + program + cache + all, as they are gathered, + casts; the
                             last three not where others sample, and nothing where nobody does
        loading              weights + copies + program + 4 (beside + layer), of which the rank that leads tries how the
                             model computes, where that is not known yet; on one rank all n times, and a copy

    Args:
        tokens: of a rank's largest pass.
        is_served: whether others sample, on cards of their own.
        reward: bytes of a reward model, which the rank that leads has whole.
    """
    own = replace(method, batch_size=max(1, -(-method.batch_size // ranks)))
    alone, several, networks = needs(shape, own, dtype, device), ranks > 1, method.trained_networks
    per_token = {  # by its settings, whichever method is given
        again: needs(shape, replace(own, activation_checkpointing=again), dtype, device)["activations"]
        / tokens_at_once(own)
        for again in (False, True)
    }
    copy = size(groups.all, ranks, dtype.itemsize)
    gathered = size(groups.beside) + GATHERED * size(groups.largest, linear=dtype.itemsize) if several else 0
    scattered = 4 * (share(groups.beside) + GATHERED * share(groups.largest)) if several else 0
    casts = alone["casts"] * (_of_head(shape) if several else 1.0)
    parts = {
        "weights": 4 * share(groups.all, ranks) * networks,
        "gradients": 4 * share(groups.all, ranks) * networks,
        "optimizer": (8 * share(groups.all, ranks) + 4 * len(groups.all)) * networks,
        "copies": method.frozen_copies * copy + method.kept_versions * 4 * share(groups.all, ranks),
        "reward": reward,
        "gathered": gathered,
        "whole_gradients": scattered,
        "activations": per_token[False] * tokens,
        "activations_again": per_token[True] * tokens,
        "casts": casts,
        "logits": alone["logits"],
        "cache": 0.0 if is_served else alone.get("cache", 0.0),
        "program": alone["program"],
    }
    standing = sum(parts[name] for name in ("weights", "optimizer", "copies", "reward", "program"))
    at_end = 3 * 4 * share(groups.beside) if several else 0
    for name, end in (("training", ""), ("training_again", "_again")):
        going = parts[f"activations{end}"] + casts + parts["logits"] + gathered + scattered
        parts[name] = standing + parts["gradients"] + max(going, at_end)
    layers = sum(size(layer, linear=dtype.itemsize) for layer in groups.layers)
    whole = (layers + size(groups.beside) if several else 0) + casts / networks
    samples = standing + (0.0 if is_served else whole + parts["cache"])
    parts["sampling"] = samples if isinstance(method, SamplingConfig) else 0.0
    parts["loading"] = parts["program"] + reward + parts["weights"]
    if several:
        parts["loading"] += parts["copies"] + 4 * (share(groups.beside) + share(groups.largest))
    elif method.frozen_copies:
        parts["loading"] += size(groups.all, 1, dtype.itemsize)
    return parts


def _of_head(shape: Shape) -> float:
    """The head's share of what autocast casts in one process."""
    head = shape.head or shape.width * shape.vocabulary
    return head / (shape.linear - shape.head + head)
