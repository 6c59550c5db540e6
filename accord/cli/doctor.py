"""`accord doctor`: this machine's hardware, and how much memory training a model takes on it."""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import fields, replace
from importlib import metadata
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from accord import engine, methods
from accord.cli.shapes import architecture
from accord.console import show
from accord.engine.config import TrainingConfig
from accord.errors import InputError, nearest

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "safetensors")


def doctor(
    model: str | None = None,
    method: str = "dpo",
    *,
    batch_size: int | None = None,
    group_size: int | None = None,
    max_length: int | None = None,
    max_new_tokens: int | None = None,
    tokens_per_pass: int | None = None,
    lora_rank: int = 16,
    dtype: str = "auto",
    device: str | None = None,
    memory: str | None = None,
) -> dict[str, dict[str, float]]:
    """Say how much memory training a model takes: weights, gradients, optimizer states, activations, cache.

    The first row is for the method's default settings; each further row adds a setting that needs less memory, as
    --memory of a training would choose them. Only the model's config.json is read, not its weights. Other models, such
    as a reward model, a judge or a teacher, are not counted.

    Args:
        model: a folder, a name on the Hugging Face Hub, or smollm2; without one, only the machine is described.
        method: the training method.
        batch_size: rows or prompts per step (default: the method's).
        group_size: samples per prompt (default: the method's).
        max_length: tokens of prompt and completion together (default: the method's).
        max_new_tokens: tokens of a sample (default: the method's).
        tokens_per_pass: tokens computed at once (default: the method's).
        lora_rank: rank of the adapters in the rows with adapters; 0 leaves these rows out.
        dtype: precision of matrix products: auto, float32 or bfloat16.
        device: the device to train on: cpu, or cuda, which need not be present if --memory is given (default: what this
            machine has).
        memory: memory available, such as 24GB (default: the device's).

    Raises:
        InputError: there is no such model or method, or the method has no such setting.
    """
    import torch

    given = {
        "batch_size": batch_size, "group_size": group_size, "max_length": max_length,
        "max_new_tokens": max_new_tokens, "tokens_per_pass": tokens_per_pass,
    }  # fmt: skip
    chosen = method_of(method, {name: value for name, value in given.items() if value is not None})
    where = torch.device(device if device == "cuda" else engine.precision.device_called(device))
    if where.type == "cuda" and not torch.cuda.is_available() and not memory:
        raise InputError("there is no CUDA device here: give --memory, that of the device you mean, such as 24GB.")
    there = engine.gpus.size(memory) if memory else engine.gpus.available(where)
    for line in machine(where, there):
        print(line)
    if model is None:
        return {}
    is_elsewhere = where.type == "cuda" and not torch.cuda.is_available()
    computed = engine.precision.compute_dtype("bfloat16" if is_elsewhere and dtype == "auto" else dtype, where)
    config, listed = architecture(model), variants(chosen, computed, where.type, lora_rank)
    needed = {name: _needs(config, settings, computed, where.type) for name, settings in listed}
    show(table(f"{model}, {method}, products in {computed}".replace("torch.", ""), needed, there))
    return needed


def _needs(config: Any, settings: TrainingConfig, computed: Any, device: str) -> dict[str, float]:
    """The bytes of each part of memory that a training with these settings takes."""
    shape = engine.memory.Shape.of(config, settings, computed)
    return engine.memory.training_memory(shape, settings, computed, device)


def machine(device: Any, there: float) -> list[str]:
    """Lines for the versions of packages, and for the device and its memory."""
    import torch

    versions = [f"{name} {metadata.version(name)}" for name in PACKAGES if importlib.util.find_spec(name)]
    if device.type == "cuda" and not torch.cuda.is_available():
        return [f"Python {platform.python_version()}, {', '.join(versions)}", "a CUDA device that is not here"]
    threads = torch.get_num_threads()
    cores = f"CPU, {threads} thread{'s' * (threads > 1)}"
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else cores
    halves = "with" if engine.precision.has_bfloat16(device) else "without"
    return [
        f"Python {platform.python_version()}, {', '.join(versions)}",
        f"{named}, {there / engine.memory.GB:.1f} GB, {halves} products in bfloat16",
    ]


def method_of(name: str, settings: dict[str, Any]) -> TrainingConfig:
    """The method of a command with these settings; InputError where there is none, or it lacks a setting."""
    kinds = [getattr(methods, each) for each in dir(methods) if each[0].isupper()]
    known = {kind.command: kind for kind in kinds if issubclass(kind, TrainingConfig)}
    if name not in known:
        others = f"; there are {', '.join(sorted(known))}."
        raise InputError(f"there is no method {name}{nearest(name, known) or others}")
    own = {field.name for field in fields(known[name])}
    for setting in settings:
        if setting not in own:
            raise InputError(f"{name} has no {setting}.")
    return known[name](**settings)  # type: ignore[no-any-return]


def variants(method: TrainingConfig, dtype: Any, device: str, rank: int) -> list[tuple[str, TrainingConfig]]:
    """The method with its settings, then with each saving added, and all again with adapters; labels first."""
    listed: list[tuple[str, TrainingConfig]] = []
    starts = [("as it is", method), *([(f"lora {rank}", replace(method, lora_rank=rank))] if rank else [])]
    for first, start in starts:
        listed.append((first, start))
        for name, smaller in engine.plan.savings(start, dtype, device):
            value = getattr(smaller, name)
            added = ADDED[name] if value is True else f"{value} {ADDED[name]}"
            listed.append((f"{'' if start is method else first + ' '}+ {added}", smaller))
    return listed


ADDED = {
    "precompute_reference": "reference once",
    "tokens_per_pass": "tokens a pass",
    "activation_checkpointing": "checkpointing",
    "return_freed_memory": "freed returned",
    "optimizer_states": "states",
    "offload_optimizer": "offload",
    "offload_reference": "copy offloaded",
    "weight_dtype": "weights",
}
"""The label of each added setting in the table."""

HEADS = {
    "weights": "wts", "copies": "copy", "optimizer": "adam", "gradients": "grad", "activations": "act",
    "program": "prog", "at the peak": "peak",
}  # fmt: skip
"""The column heads of the parts of memory."""


def table(title: str, needed: dict[str, dict[str, float]], there: float) -> Table:
    """Memory in GB, a row for each group of settings."""
    left_out = {"casts", "logits"} | (set() if any(sizes["heap"] for sizes in needed.values()) else {"heap"})
    parts = [part for part in next(iter(needed.values())) if part not in left_out]
    made = Table(title=f"{title}: GB", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    made.add_column("settings", no_wrap=True)
    for part in (*parts, "fits"):
        made.add_column(HEADS.get(part, part), justify="right", no_wrap=True)
    for name, sizes in needed.items():
        each = {**sizes, "activations": sizes["activations"] + sizes["casts"] + sizes["logits"]}
        row = [f"{size:.1f}" if (size := each[part] / engine.memory.GB) < 99.95 else f"{size:.0f}" for part in parts]
        label = f"  {name[name.index('+') :]}" if "+" in name else name
        made.add_row(label, *row, "yes" if sizes["at the peak"] <= there else "no")
    return made
