"""The memory that training needs, by part, and preparing a model as the settings hold it.

Weights, gradients and optimizer states are computed; activations are measured (`activations`).
"""

from __future__ import annotations

import ctypes
import functools
import json
import sys
from dataclasses import dataclass, fields
from typing import Any

import torch
import transformers
from torch import nn

from accord.console import error_text
from accord.engine.activations import LAYERS, TURNED, kept_by, make_small, narrowed, require_room
from accord.engine.adapters import adapted
from accord.engine.config import MemoryConfig, SamplingConfig, TrainingConfig
from accord.engine.forward import checkpoint_activations
from accord.engine.generate import CAPACITY
from accord.engine.lora import adapt
from accord.engine.models import AnyModel, Policy, prepare_network, quiet
from accord.engine.precision import compute_dtype, hold_in_bfloat16, linear_weights, matrices
from accord.engine.quantize import few_bits
from accord.engine.readout import BLOCK
from accord.engine.routers import experts_of
from accord.errors import InputError

GB = 10**9
PROGRAM = 0.6 * GB
"""Bytes in use before any weight: Python and its libraries, or on a GPU, roughly, the CUDA context and its
libraries."""
HEAP = 0.7
"""Heap fragmentation, as a share of what a step allocates: measured with glibc 2.36 (with 2.41 about half of that)."""
IN_FEW_BITS = {"nf4": 4.13 / 8, "int8": 1.0}
"""Bytes per weight in few bits, including its share of the scales."""
MATTERS = ("lora_", "weight_dtype", "quantize")
"""Prefixes of the settings that change what a layer keeps for the backward pass."""


def prepare_training(model: AnyModel, config: TrainingConfig) -> AnyModel:
    """Prepare a model for training by the settings, in place: adapters, bfloat16 weights, activation checkpointing.

    Raises InputError where the settings do not suit the model.
    """
    if config.offload_optimizer and model.device.type == "cpu":
        raise InputError("offload_optimizer is for a model on a GPU: this one is in host memory already.")
    if config.offload_reference and not config.frozen_copies:
        raise InputError("offload_reference: with these settings there is no reference model; leave it out.")
    if config.offload_reference and model.device.type == "cpu":
        raise InputError("offload_reference is for a model on a GPU: this one is in host memory already.")
    if config.weight_dtype == "bfloat16":
        if model.dtype != torch.bfloat16:
            raise InputError("weight_dtype bfloat16 needs matrix products in bfloat16 too: give --dtype bfloat16.")
        hold_in_bfloat16(model.network)
    model = adapt(model, config)
    if config.activation_checkpointing:
        checkpoint_activations(model.network)
    return model


def holds_few_bits(trained: TrainingConfig, target: str) -> bool:
    """Whether training holds the weights of the model's layers in fewer bits than float32."""
    is_half = compute_dtype(trained.dtype, target) == torch.bfloat16
    return bool(trained.quantize) or (is_half and (trained.lora_rank > 0 or trained.weight_dtype == "bfloat16"))


def hold_for(network: nn.Module, trained: TrainingConfig, target: str) -> None:
    """Move a network, read in its file's precision, to a device, each weight in the precision it will be trained in."""
    is_half = compute_dtype(trained.dtype, target) == torch.bfloat16
    halves = matrices(network) if trained.weight_dtype == "bfloat16" else linear_weights(network)
    in_bfloat16 = {id(parameter) for parameter in halves if is_half}
    for parameter in network.parameters():
        dtype = torch.bfloat16 if id(parameter) in in_bfloat16 else torch.float32
        # a copy, so that the memory-mapped file is released
        parameter.data = parameter.data.to(target, dtype, copy=True)
    for buffer in network.buffers():
        buffer.data = buffer.data.to(target, torch.float32 if buffer.is_floating_point() else buffer.dtype)
    for layer in few_bits(network):
        layer.move_state()


@dataclass(frozen=True)
class Shape:
    """The properties of a model that determine its memory and time: numbers of weights, and bytes of activations.

    Attributes:
        linear, embedding, vectors: weights in linear layers, in embeddings (and tied to them), and in the rest.
        head: the part of `linear` in an untied output layer.
        adapters: weights of adapters, 0 without.
        layers, width, vocabulary: decoder layers, hidden size, rows of the output layer.
        cached: numbers in the keys and values of a token in a layer.
        activations: bytes per token and layer kept for the backward pass.
        casts: bytes of weights cast to the precision of products, kept for the backward pass.
        experts: the part of `linear` in a mixture's experts, which are never cast: torch's grouped products use the
            precision of the weights, whatever autocast says.
        chosen: the share of the experts that a token is sent through.
        expert_held: bytes per weight of an expert, as held and multiplied.
    """

    linear: int
    embedding: int
    vectors: int
    head: int
    adapters: int
    layers: int
    width: int
    vocabulary: int
    cached: int
    activations: float
    casts: float
    experts: int = 0
    chosen: float = 1.0
    expert_held: int = 4

    @property
    def numbers(self) -> int:
        """All of the model's own weights."""
        return self.linear + self.embedding + self.vectors

    @staticmethod
    def of(config: transformers.PreTrainedConfig, method: TrainingConfig, dtype: torch.dtype) -> Shape:
        """The shape of an architecture as a method trains it, with products in `dtype`.

        Raises InputError where the architecture cannot be measured.
        """
        try:
            return Shape._of(config, method, dtype)
        except InputError:
            raise
        except Exception as error:  # an unknown architecture may raise anything
            raise InputError(f"the memory that a {config.model_type} needs is unknown: {error_text(error)}") from error

    @staticmethod
    def _of(config: transformers.PreTrainedConfig, method: TrainingConfig, dtype: torch.dtype) -> Shape:
        with torch.device("meta"), quiet():
            whole = transformers.AutoModelForCausalLM.from_config(config)
        linear, embedding, vectors = _numbers(whole)
        text = whole.config.get_text_config()
        every = getattr(text, "num_attention_heads", 0)  # a state-space model has no heads and no KV cache
        heads = getattr(text, "num_key_value_heads", None) or every
        head = getattr(text, "head_dim", None) or (text.hidden_size // every if every else 0)
        own = tuple((f.name, getattr(method, f.name)) for f in fields(MemoryConfig) if f.name.startswith(MATTERS))
        # the trial model has LAYERS layers and widths divided by `times`: scale back, but the rotary part (TURNED)
        times, small = narrowed(config)
        adapters, per_token, fixed = _trial(type(config), small.to_json_string(), own, dtype)  # type: ignore[arg-type]
        layers, tied = text.num_hidden_layers, whole.get_output_embeddings().weight.numel()
        in_layers = linear - (0 if _is_tied(whole) else tied)
        blocks, chosen = experts_of(whole)
        experts = sum(p.numel() for p in blocks)
        cast = in_layers - experts
        return Shape(
            linear=linear,
            embedding=embedding,
            vectors=vectors,
            head=linear - in_layers,
            adapters=times * adapters * layers // LAYERS,
            layers=layers,
            width=text.hidden_size,
            vocabulary=len(whole.get_output_embeddings().weight),
            cached=2 * heads * head,
            activations=(per_token + (times - 1) * (per_token - TURNED * head)) / LAYERS,
            casts=dtype.itemsize * (cast + tied) if times**2 * fixed > dtype.itemsize * cast / layers else 0,
            experts=experts,
            chosen=chosen,
            expert_held=2 if method.weight_dtype == "bfloat16" else 4,
        )


def training_memory(shape: Shape, method: TrainingConfig, dtype: torch.dtype, device: str = "cpu") -> dict[str, float]:
    """Bytes that training holds on one rank, by part; "at the peak" is the peak of their sum.

    Samples are drawn while no activations are held, so the larger of activations and KV cache counts. Not included are
    other models (a reward model, judge, teacher or monitor) and short-lived temporaries. "heap" is freed memory that
    the C library of a CPU host does not return.
    """
    plain = shape.linear - shape.experts
    trained = shape.adapters or shape.numbers
    states = (2 + 8 / 256 if method.optimizer_states == "8bit" else 8) * trained  # two moments, with scales if 8-bit
    if method.optimizer == "muon":  # Muon holds one number per weight of the layers, AdamW two
        states -= 4 * (plain - shape.head)
    is_half = method.weight_dtype == "bfloat16"
    own = trained * (2 if is_half and not shape.adapters else 4)
    networks, weights = method.trained_networks, _weights(shape, method, dtype)
    tokens = tokens_at_once(method)
    # bytes per token in all layers; with checkpointing each layer's input, and one layer's activations at a time
    kept = shape.activations * shape.layers
    if method.activation_checkpointing:
        kept = shape.width * (2 if is_half else 4) * shape.layers + shape.activations
    logits = dtype.itemsize + (8 if device != "cpu" else 1)  # on a GPU chunks in float32 are as large as blocks
    parts: dict[str, float] = {
        "weights": weights + (networks - 1) * (4 * shape.adapters or weights),  # adapted networks share the base
        "copies": method.frozen_copies * _frozen_copy(shape, method, dtype) + method.kept_versions * own,
        "optimizer": 0 if method.offload_optimizer else states * networks,
        "gradients": own * networks,
        "activations": tokens * kept * networks,
        "casts": shape.casts * networks,
        "logits": min(tokens * shape.vocabulary, BLOCK) * logits,
    }
    if isinstance(method, SamplingConfig):
        live = min(CAPACITY, method.batch_size * method.group_size)
        groups, prompt = max(1, live // method.group_size), max(0, method.max_length - method.max_new_tokens)
        parts["cache"] = (live * method.max_new_tokens + groups * prompt) * shape.layers * shape.cached * dtype.itemsize
    parts["program"] = PROGRAM
    passing = ("gradients", "activations", "casts", "logits")
    resident = sum(size for name, size in parts.items() if name not in (*passing, "cache"))
    parts["heap"] = 0.0 if device != "cpu" or method.return_freed_memory else HEAP * sum(parts[n] for n in passing)
    parts["at the peak"] = resident + max(sum(parts[name] for name in (*passing, "heap")), parts.get("cache", 0.0))
    return parts


def _weights(shape: Shape, method: TrainingConfig, dtype: torch.dtype) -> float:
    """Bytes of one trained network's weights: under adapters or in bfloat16, linear layers are held in `dtype`."""
    matrix = 2 if method.weight_dtype == "bfloat16" else 4  # bytes per weight of embeddings and experts
    linear = dtype.itemsize if matrix == 2 or shape.adapters else 4
    in_layers = IN_FEW_BITS.get(method.quantize or "", linear) * (shape.linear - shape.experts - shape.head)
    outer = linear * shape.head + matrix * shape.embedding + 4 * (shape.vectors + shape.adapters)
    return in_layers + matrix * shape.experts + outer


def _frozen_copy(shape: Shape, method: TrainingConfig, dtype: torch.dtype) -> float:
    """Bytes of a frozen copy, linear layers in `dtype`: its own adapters only, or if offloaded one layer at a time."""
    if shape.adapters and getattr(method, "reference", None) is None:
        return 4 * shape.adapters
    matrix = 2 if method.weight_dtype == "bfloat16" else 4
    plain, experts = shape.linear - shape.experts, matrix * shape.experts
    whole = dtype.itemsize * plain + experts + matrix * shape.embedding + 4 * shape.vectors
    on_host = (dtype.itemsize * (plain - shape.head) + experts) * (1 - 1 / shape.layers)
    return whole - (on_host if method.offload_reference else 0)


def tokens_at_once(method: TrainingConfig) -> int:
    """The most tokens in one pass: `tokens_per_pass`, or the largest tree if that is larger, but at most a step's
    tokens."""
    if isinstance(method, SamplingConfig):
        tree = max(0, method.max_length - method.max_new_tokens) + method.group_size * method.max_new_tokens
    else:
        tree = method.max_length
    return min(max(method.tokens_per_pass, tree), 2 * method.batch_size * tree)


def _is_tied(network: Any) -> bool:
    return network.get_output_embeddings().weight is network.get_input_embeddings().weight


def _numbers(network: nn.Module) -> tuple[int, int, int]:
    """The numbers of weights in linear layers, in embeddings, and in vectors; tied weights count once."""
    embedded = {id(p) for m in network.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    linear = embedding = vectors = 0
    for p in network.parameters():
        if id(p) in embedded:
            embedding += p.numel()
        elif p.dim() > 1:
            linear += p.numel()
        else:
            vectors += p.numel()
    return linear, embedding, vectors


@functools.lru_cache(maxsize=16)
def _trial(
    kind: type[transformers.PreTrainedConfig], written: str, settings: tuple[tuple[str, Any], ...], dtype: torch.dtype
) -> tuple[int, float, float]:
    """Measured on a few layers: weights of adapters, bytes kept per token, and bytes kept regardless of tokens."""
    config = kind.from_dict(json.loads(written))
    make_small(config)
    with quiet(), torch.random.fork_rng(devices=[]):  # leaves the run's random state unchanged
        require_room(config)
        network = prepare_network(transformers.AutoModelForCausalLM.from_config(config).float().eval())
    model = prepare_training(Policy(network, None, "the trial", dtype), TrainingConfig(**dict(settings)))  # type: ignore[arg-type]
    adapters = sum(p.numel() for p in network.parameters() if p.requires_grad) if adapted(network) else 0
    return adapters, *kept_by(model)


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # mallopt parameters, from malloc.h


def manage_freed_memory(returned: bool) -> None:
    """Set how glibc serves blocks of over 128 KB: from a heap that it never trims, or if `returned` by mapping each.

    A training step allocates and frees gigabytes in such blocks. Mapped anew each time, their pages are faulted in one
    by one, a fifth of a step's time; on the heap they leave holes that glibc before 2.38 never reuses for an aligned
    block of the same size, adding some two thirds of what a step allocates. No effect except on Linux.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, 65536 if returned else 0)
        mallopt(_MMAP_THRESHOLD, 2**17)
        mallopt(_TRIM_THRESHOLD, 2**17 if returned else 2**31 - 1)
