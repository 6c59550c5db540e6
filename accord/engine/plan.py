"""Choose settings so that training fits in memory (`--memory`), and advise when memory runs out."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

import torch
import transformers

from accord.console import status
from accord.engine.config import TrainingConfig
from accord.engine.gpus import size
from accord.engine.memory import GB, Shape, tokens_at_once, training_memory
from accord.engine.models import Policy
from accord.engine.precision import compute_dtype
from accord.engine.shares import Groups, rank_memory
from accord.engine.team import Team
from accord.errors import InputError, ran_out_of_memory

Config = TypeVar("Config", bound=TrainingConfig)


def savings(method: Config, dtype: torch.dtype, device: str, ranks: int = 1) -> Iterator[tuple[str, Config]]:
    """Settings that need less and less memory, each with the name of the change: first those that cost nothing, last
    those that round.

    With several ranks, only the savings that support them.
    """
    if getattr(method, "precompute_reference", None) is False:
        method = replace(method, precompute_reference=True)  # type: ignore[call-arg]
        yield "precompute_reference", method
    if method.tokens_per_pass > 1024:
        method = replace(method, tokens_per_pass=1024)
        yield "tokens_per_pass", method
    if device == "cpu" and not method.return_freed_memory:
        method = replace(method, return_freed_memory=True)
        yield "return_freed_memory", method
    if not method.activation_checkpointing:
        method = replace(method, activation_checkpointing=True)
        yield "activation_checkpointing", method
    if method.tokens_per_pass > 512:
        method = replace(method, tokens_per_pass=512)
        yield "tokens_per_pass", method
    if method.optimizer == "muon":  # the remaining savings are for AdamW or adapters
        return
    is_alone = ranks == 1
    if method.optimizer_states == "float32" and _has("bitsandbytes") and not method.lora_rank:
        method = replace(method, optimizer_states="8bit")
        yield "optimizer_states", method
    if device != "cpu" and not method.offload_optimizer and not method.lora_rank and is_alone:
        method = replace(method, offload_optimizer=True)
        yield "offload_optimizer", method
    is_copied = method.frozen_copies and not method.offload_reference
    if device != "cpu" and is_copied and not method.lora_rank and is_alone:
        method = replace(method, offload_reference=True)
        yield "offload_reference", method
    if method.weight_dtype == "float32" and dtype == torch.bfloat16:
        method = replace(method, weight_dtype="bfloat16")
        yield "weight_dtype", method


def planned(method: Config, config: transformers.PreTrainedConfig, device: torch.device) -> tuple[Config, str]:
    """The method with memory savings chosen so that it fits in `memory`, and a sentence about them; InputError if it
    cannot.

    Savings are applied in order until the peak on each rank is below `memory`. The choice is a function of the
    settings, the architecture, the number of ranks and whether bitsandbytes is installed, so that a resumed run chooses
    the same.
    """
    limit, dtype, ranks = size(str(method.memory)), compute_dtype(method.dtype, device), Team.here().size
    method = replace(method, memory=None)
    peak = functools.partial(_peak, config, dtype=dtype, device=device.type, ranks=ranks)
    first = now = peak(method)
    chosen: dict[str, str] = {}
    for name, smaller in savings(method, dtype, device.type, ranks):
        if now <= limit:
            break
        method, now = smaller, peak(smaller)
        value = getattr(smaller, name)
        chosen[name] = option(name) + ("" if value is True else f" {value}")
    if now > limit:
        plain = replace(method, weight_dtype="float32", optimizer="adamw", lora_rank=16)
        adapters = peak(plain) if not method.lora_rank else math.inf
        more = f"--lora-rank 16 needs {adapters / GB:.1f} GB" if adapters <= limit else "take a smaller model"
        more += ", or start more ranks" if ranks > 1 else ""
        raise InputError(
            f"memory: this needs {now / GB:.3g} GB even with {', '.join(chosen.values()) or 'the settings given'}, and "
            f"there are {limit / GB:.3g}: {more}."
        )
    each = f" on each of {ranks} ranks" if ranks > 1 else ""
    summary = f"memory: {now / GB:.1f} of {limit / GB:.1f} GB{each} at the peak, "
    if not chosen:
        return method, f"{summary}as the settings are."
    return method, f"{summary}by {', '.join(chosen.values())} (without: {first / GB:.1f} GB)."


def fitting(method: Config, policy: Policy) -> Config:
    """The method as `planned` for the policy's network; prints what was chosen."""
    method, summary = planned(method, policy.network.config, policy.device)
    status(summary)
    return method


def out_of_memory(error: RuntimeError, config: TrainingConfig) -> str | None:
    """Advice where an error says that memory of a GPU or the host ran out; None for other errors."""
    if not ran_out_of_memory(error):
        return None
    fewer = f"--tokens-per-pass {max(1, config.tokens_per_pass // 2)} (it is {config.tokens_per_pass})"
    again = "" if config.activation_checkpointing else " or --activation-checkpointing"
    adapters = "" if config.lora_rank else "--lora-rank 16, or with "
    goes_on = f"memory ran out: go on from the last checkpoint by --resume with {fewer}{again}, or"
    if Team.here().size > 1:
        goes_on += " on more ranks, or"
    return f"{goes_on} begin anew with {adapters}--memory and how much there is, such as --memory 24GB"


def option(field: str) -> str:
    """A setting's name on the command line."""
    return f"--{field.replace('_', '-')}"


def _peak(
    config: transformers.PreTrainedConfig, method: TrainingConfig, *, dtype: torch.dtype, device: str, ranks: int = 1
) -> float:
    shape = Shape.of(config, method, dtype)
    if ranks == 1:
        return training_memory(shape, method, dtype, device)["at the peak"]
    each, sharing = math.ceil(method.batch_size / ranks), method.shard_ranks or ranks
    tokens = tokens_at_once(replace(method, batch_size=each))
    method = replace(method, batch_size=each * sharing)
    parts = rank_memory(shape, Groups.of(config, method, dtype), method, dtype, sharing, tokens=tokens, device=device)
    training = parts["training_again" if method.activation_checkpointing else "training"]
    return max(training, parts["sampling"], parts["loading"])


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
