"""What each of several ranks holds: its shares of the numbers, what is gathered for a while, and what stays whole.

Of one rank it is what `memory.needs` counts. What ranks share is counted as `shard` shares it out, what a pass holds
is as there, and what is gathered is by torch's `fully_shard` (FSDP2): the group beside the layers from the beginning
of a pass to its end, of the layers the one that computes and the next. Weights are held in float32, and the linear ones
of layers are gathered in the precision of products, so that none is cast; only the head is. Under adapters, which alone
are trained, they are held in it, and everything is gathered as it is held.

A mixture's experts are a block of a layer, whose rows are the experts: of more ranks than experts the first hold one
each, the others none, and what is gathered has room for as many as there are ranks. They are held, gathered and
multiplied in float32, and every rank reads them whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import transformers
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from accord.console import said
from accord.engine.adapters import adapt
from accord.engine.config import SamplingConfig, TrainingConfig
from accord.engine.memory import Shape, needs, tokens_at_once
from accord.engine.models import Policy, quiet
from accord.engine.precision import linear_weights
from accord.engine.routers import experts_of, has_experts
from accord.errors import InputError

GATHERED = 2
"""Layers that are gathered at once: the one that computes, and the one that follows."""


@dataclass(frozen=True)
class Weight:
    """A parameter: its rows, which are shared out, and the numbers of a row.

    `is_linear` says whether it is of a linear layer, so that it may be gathered in the precision of products; `held`
    are the bytes that a number is held in.
    """

    rows: int
    each: int
    is_linear: bool
    held: int = 4
    is_trained: bool = True
    is_expert: bool = False

    def share(self, ranks: int = 1) -> int:
        """Numbers that a rank holds at most: `fully_shard` deals out rows, ceil(rows / ranks) to the first ranks."""
        return -(-self.rows // ranks) * self.each


def share(weights: Iterable[Weight], ranks: int = 1) -> int:
    """Numbers of several that a rank holds at most."""
    return sum(weight.share(ranks) for weight in weights)


def size(weights: Iterable[Weight], ranks: int = 1, linear: int = 4) -> int:
    """Their bytes, where numbers of linear layers take at most so many bytes, and all others what they are held in."""
    return sum((min(linear, w.held) if w.is_linear else w.held) * w.share(ranks) for w in weights)


def gathered_size(weights: Iterable[Weight], ranks: int, linear: int = 4) -> int:
    """Bytes of what is gathered of them: every rank's share takes as much as the largest."""
    return ranks * size(weights, ranks, linear)


def scattered_size(weights: Iterable[Weight], ranks: int) -> int:
    """Bytes of the gradients that are summed and scattered, in float32 and padded likewise."""
    return 4 * ranks * share(trained(weights), ranks)


def trained(weights: Iterable[Weight]) -> tuple[Weight, ...]:
    """Those that have gradients."""
    return tuple(weight for weight in weights if weight.is_trained)


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

    @property
    def adapters(self) -> tuple[Weight, ...]:
        """What is trained beside frozen weights; nothing where there are none of these."""
        found = trained(self.all)
        return found if len(found) < len(self.all) else ()

    @property
    def is_read_whole(self) -> bool:
        """Whether each rank reads the whole model, as transformers puts a layer's experts together when it reads."""
        return any(weight.is_expert for weight in self.all)

    @staticmethod
    def of(
        config: transformers.PreTrainedConfig,
        method: TrainingConfig | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> Groups:
        """Of an architecture, as `shard` groups it, with the adapters of a method that trains such.

        Raises InputError where it is one that ranks cannot share, or takes no such adapters.
        """
        try:
            with torch.device("meta"), quiet():
                network = transformers.AutoModelForCausalLM.from_config(config)
        except Exception as error:  # architectures that others wrote fail in any manner
            raise InputError(f"a {config.model_type} cannot be planned for: {said(error)}") from error
        layers = [m for m in network.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise InputError(f"a {config.model_type} has no decoder layers that ranks could share.")
        experts = {id(p) for p in experts_of(network)[0]}
        if has_experts(config) and not (experts and network._can_set_experts_implementation()):
            raise InputError(f"a {config.model_type} keeps its experts in a way that is not planned for.")
        if method is not None and method.lora_rank:
            network._prepared_by_accord = True
            adapt(Policy(network, None, "the plan", dtype), method)  # type: ignore[arg-type]
        linear = {id(p) for p in linear_weights(network)}

        def weight(p: nn.Parameter) -> Weight:
            held = p.element_size()
            return Weight(p.shape[0], p[0].numel(), id(p) in linear, held, p.requires_grad, id(p) in experts)

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
    numbers are float32, but for what adapters leave as it is.

        weights              share(all) n         as they are held; n networks are trained, which share what is frozen
        gradients            4 share(trained) n
        optimizer            8 share(trained) n + 4 a parameter, AdamW's count of steps
        copies               of adapters alone, where a copy differs in nothing else
        gathered             beside + 2 layer              of more than one rank, as they are held; of a layer's linear
                             weights 2 each, 4 where products are of float32
        whole gradients      4 (beside + 2 layer)          of what is trained, before they are summed and scattered, one
                             layer's as they are and one's in a buffer
        casts                2 a number of the head, which autograd keeps; on one rank of all linear layers
        training             weights + optimizer + copies + gradients + program + what a pass holds; at its end the
                             group beside the layers is there thrice: gathered, its gradients, and those as one buffer
        sampling             weights + optimizer + copies + program + cache + all, as they are gathered, + casts; the
                             last three not where others sample, and nothing where nobody does
        loading              weights + copies + program + 4 (beside + layer), of which the rank that leads tries how the
                             model computes, where that is not known yet; on one rank, and where each reads the whole,
                             all n times, and a copy

    Args:
        tokens: of a rank's largest pass.
        is_served: whether others sample, on cards of their own.
        reward: bytes of a reward model, which the rank that leads has whole.
    """
    a_rank = replace(method, batch_size=max(1, -(-method.batch_size // ranks)))
    alone, several, networks = needs(shape, a_rank, dtype, device), ranks > 1, method.trained_networks
    per_token = {  # by its settings, whichever method is given
        again: needs(shape, replace(a_rank, activation_checkpointing=again), dtype, device)["activations"]
        / tokens_at_once(a_rank)
        for again in (False, True)
    }
    own, beside, largest = trained(groups.all), groups.beside, groups.largest
    ours, frozen = share(own, ranks), [weight for weight in groups.all if not weight.is_trained]
    is_shared = bool(groups.adapters) and getattr(method, "reference", None) is None
    gathered = gathered_size(beside, ranks) + GATHERED * gathered_size(largest, ranks, dtype.itemsize) if several else 0
    scattered = 4 * share(trained((*beside, *largest))) + scattered_size(largest, ranks) if several else 0
    casts = alone["casts"] * (_of_head(shape) if several else 1.0)

    def weights(ranks: int) -> int:
        return size(frozen, ranks) + 4 * share(own, ranks) * networks

    def copies(ranks: int) -> int:
        one = 4 * share(own, ranks) if is_shared else size(_base(groups), ranks, dtype.itemsize)
        return method.frozen_copies * one

    parts = {
        "weights": weights(ranks),
        "gradients": 4 * ours * networks,
        "optimizer": (8 * ours + 4 * len(own)) * networks,
        "copies": copies(ranks) + method.kept_versions * 4 * ours,
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
    at_end = gathered_size(beside, ranks) + 4 * share(trained(beside)) + scattered_size(beside, ranks) if several else 0
    for name, end in (("training", ""), ("training_again", "_again")):
        going = parts[f"activations{end}"] + casts + parts["logits"] + gathered + scattered
        parts[name] = standing + parts["gradients"] + max(going, at_end)
    layers = sum(gathered_size(layer, ranks, dtype.itemsize) for layer in groups.layers)
    whole = (layers + gathered_size(beside, ranks) if several else 0) + casts / networks
    samples = standing + (0.0 if is_served else whole + parts["cache"])
    parts["sampling"] = samples if isinstance(method, SamplingConfig) else 0.0
    parts["loading"] = parts["program"] + reward
    if several and not groups.is_read_whole:
        parts["loading"] += parts["weights"] + parts["copies"] + 4 * share((*beside, *largest))
    else:
        parts["loading"] += weights(1) + (copies(1) // method.frozen_copies if method.frozen_copies else 0)
    return parts


def _base(groups: Groups) -> list[Weight]:
    """What a model has that is only read: all but adapters."""
    return [weight for weight in groups.all if not (groups.adapters and weight.is_trained)]


def _of_head(shape: Shape) -> float:
    """The head's share of what autocast casts in one process."""
    head = shape.head or shape.width * shape.vocabulary
    return head / (shape.linear - shape.experts - shape.head + head)
