"""What a training needs of memory, part by part, and which settings make it fit.

Weights, gradients and AdamW's states are counted. Activations are measured: two layers of the model's own widths, with
random weights, read a few tokens, and what autograd keeps of them is added up; they grow as tokens and layers do.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import re
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
import transformers
from torch import Tensor, nn

from accord.console import status
from accord.engine.adapters import adapt, adapted
from accord.engine.config import MemoryConfig, SamplingConfig, TrainingConfig
from accord.engine.forward import checkpoint_activations, log_probabilities
from accord.engine.generate import CAPACITY
from accord.engine.models import AnyModel, Policy, prepare_network, quiet
from accord.engine.precision import compute_dtype, hold_in_bfloat16
from accord.engine.readout import BLOCK
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError

Config = TypeVar("Config", bound=TrainingConfig)

GB = 10**9
IN_FEW_BITS = {"nf4": 4.13 / 8, "int8": 1.0}
"""Bytes of a weight in few bits, its share of scales included."""
LAYERS, TOKENS = 2, (16, 32)
"""Layers and tokens of the trial that measures activations."""
MATTERS = ("lora_", "weight_dtype", "quantize")
"""Settings that decide what a layer keeps."""
OPTIONS = {
    "precompute_reference": "--precompute-reference",
    "tokens_per_pass": "--tokens-per-pass",
    "activation_checkpointing": "--activation-checkpointing",
    "optimizer_states": "--optimizer-states",
    "weight_dtype": "--weight-dtype",
    "offload_optimizer": "--offload-optimizer",
}


def ready(model: AnyModel, config: TrainingConfig) -> AnyModel:
    """The model as the settings have it trained: with adapters, in bfloat16, computing activations again; in place.

    Raises InputError where it cannot be.
    """
    if config.offload_optimizer and model.device.type == "cpu":
        raise InputError("offload_optimizer is for a model on a GPU: this one trains in the memory of the host.")
    if config.weight_dtype == "bfloat16":
        if model.dtype != torch.bfloat16:
            raise InputError("weight_dtype bfloat16 needs products in it too: give --dtype bfloat16.")
        hold_in_bfloat16(model.network)
    model = adapt(model, config)
    if config.activation_checkpointing:
        checkpoint_activations(model.network)
    return model


@dataclass(frozen=True)
class Shape:
    """What of a model decides its memory: how many numbers it holds, and bytes of activations.

    Attributes:
        linear, embedding, vectors: numbers in linear layers, in embeddings (and what is tied to them), and in the rest.
        head: those of the linear ones that an output layer of its own has.
        adapters: numbers that adapters have, 0 without.
        layers, width, vocabulary: decoder layers, numbers in a hidden state, rows of the output layer.
        cached: numbers of keys and values that a token has in a layer.
        activations: bytes that a token leaves in a layer for the backward pass.
        casts: bytes of weights cast to the precision of products, kept for the backward pass.
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

    @property
    def numbers(self) -> int:
        """All weights that are the model's own."""
        return self.linear + self.embedding + self.vectors

    @staticmethod
    def of(config: transformers.PreTrainedConfig, method: TrainingConfig, dtype: torch.dtype) -> Shape:
        """Of an architecture, as a method trains it with products in `dtype`."""
        with torch.device("meta"), quiet():
            whole = transformers.AutoModelForCausalLM.from_config(config)
        linear, embedding, vectors = _numbers(whole)
        text = whole.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        own = tuple((f.name, getattr(method, f.name)) for f in fields(MemoryConfig) if f.name.startswith(MATTERS))
        adapters, per_token, fixed = _trial(type(config), config.to_json_string(), own, dtype)  # type: ignore[arg-type]
        layers, tied = text.num_hidden_layers, whole.get_output_embeddings().weight.numel()
        in_layers = linear - (0 if _is_tied(whole) else tied)
        return Shape(
            linear=linear,
            embedding=embedding,
            vectors=vectors,
            head=linear - in_layers,
            adapters=adapters * layers // LAYERS,
            layers=layers,
            width=text.hidden_size,
            vocabulary=len(whole.get_output_embeddings().weight),
            cached=2 * heads * head,
            activations=per_token / LAYERS,
            casts=dtype.itemsize * (in_layers + tied) if fixed > dtype.itemsize * in_layers / layers else 0,
        )


def needs(shape: Shape, method: TrainingConfig, dtype: torch.dtype, device: str = "cpu") -> dict[str, float]:
    """Bytes that a training holds at once, by what they are; "at the peak" is what it comes to.

    Samples are drawn when no activations are held, so of those and the sampler's cache the greater counts.
    """
    small = method.weight_dtype == "bfloat16"
    linear = dtype.itemsize if small or shape.adapters else 4
    in_layers = IN_FEW_BITS.get(method.quantize or "", linear) * (shape.linear - shape.head)
    weights = (
        in_layers + linear * shape.head + (2 if small else 4) * shape.embedding + 4 * (shape.vectors + shape.adapters)
    )
    trained = shape.adapters or shape.numbers
    states = 2 + 8 / 256 if method.optimizer_states == "8bit" else 8
    ppo = hasattr(method, "value_coefficient")
    networks = 2 if ppo else 1
    copies = 0.0 if shape.adapters or not has_reference(method) else dtype.itemsize * shape.linear
    copies += 0 if shape.adapters or not copies else (2 if small else 4) * (shape.embedding + shape.vectors)
    tokens = tokens_at_once(method)
    layer = shape.activations
    kept = shape.width * (2 if small else 4) * shape.layers + layer
    parts: dict[str, float] = {
        "weights": weights * (1 if shape.adapters else networks) + (4 * shape.adapters if ppo else 0),
        "reference": copies,
        "optimizer": 0 if method.offload_optimizer else states * trained * networks,
        "gradients": trained * networks * (2 if small and not shape.adapters else 4),
        "activations": tokens * (kept if method.activation_checkpointing else layer * shape.layers) * networks,
        "casts": shape.casts * networks,
        "logits": min(tokens * shape.vocabulary, BLOCK) * (dtype.itemsize + (8 if device != "cpu" else 1)),
    }
    if isinstance(method, SamplingConfig):
        live = min(CAPACITY, method.batch_size * method.group_size)
        prompts = min(CAPACITY // method.group_size or 1, method.batch_size) * (
            method.max_length - method.max_new_tokens
        )
        parts["cache"] = (live * method.max_new_tokens + prompts) * shape.layers * shape.cached * dtype.itemsize
    parts["program"] = program(device)
    passing = ("gradients", "activations", "casts", "logits")
    held = sum(size for name, size in parts.items() if name not in (*passing, "cache"))
    parts["at the peak"] = held + max(sum(parts[name] for name in passing), parts.get("cache", 0.0))
    return parts


def has_reference(method: TrainingConfig) -> bool:
    """Whether a frozen copy of the start is held beside what is trained."""
    given = getattr(method, "kl_coefficient", None)
    compared = given is not None and given > 0 if given is not None else hasattr(method, "reference")
    return bool(compared) and not getattr(method, "precompute_reference", False)


def tokens_at_once(method: TrainingConfig) -> int:
    """The most tokens of one pass: `tokens_per_pass`, or those of the largest tree, but no more than a step has."""
    if isinstance(method, SamplingConfig):
        tree = method.max_length - method.max_new_tokens + method.group_size * method.max_new_tokens
    else:
        tree = method.max_length
    return min(max(method.tokens_per_pass, tree), 2 * method.batch_size * tree)


def program(device: str) -> float:
    """What is there before any weight: of this process, or on a GPU about what CUDA and its libraries take."""
    if device != "cpu":
        return 0.6 * GB
    unit = 1 if sys.platform == "darwin" else 1024
    return min(float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit), 0.6 * GB)


def available(device: torch.device) -> float:
    """Bytes that there are: of a GPU, or of this machine."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def size(text: str) -> float:
    """Bytes of what is written "24GB", "900MB" or "16 GiB"; InputError where it is none of these."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT])(i?)B?\s*", text, re.IGNORECASE)
    try:
        amount = float(found[1]) if found else 0.0
    except ValueError:
        amount = 0.0
    if not found or not amount > 0:
        raise InputError(f"memory is a size such as 24GB or 900MB, not {text!r}.")
    return amount * (1024 if found[3] else 1000) ** ("KMGT".index(found[2].upper()) + 1)


def savings(method: Config, dtype: torch.dtype, device: str) -> Iterator[tuple[str, Config]]:
    """Settings that need less and less, each with what it changes: first what costs nothing, last what rounds."""
    if getattr(method, "precompute_reference", None) is False:
        method = replace(method, precompute_reference=True)  # type: ignore[call-arg]
        yield "precompute_reference", method
    if method.tokens_per_pass > 1024:
        method = replace(method, tokens_per_pass=1024)
        yield "tokens_per_pass", method
    if not method.activation_checkpointing:
        method = replace(method, activation_checkpointing=True)
        yield "activation_checkpointing", method
    if method.tokens_per_pass > 512:
        method = replace(method, tokens_per_pass=512)
        yield "tokens_per_pass", method
    if method.optimizer_states == "float32" and _has("bitsandbytes") and not method.lora_rank:
        method = replace(method, optimizer_states="8bit")
        yield "optimizer_states", method
    if device != "cpu" and not method.offload_optimizer and not method.lora_rank:
        method = replace(method, offload_optimizer=True)
        yield "offload_optimizer", method
    if method.weight_dtype == "float32" and dtype == torch.bfloat16:
        method = replace(method, weight_dtype="bfloat16")
        yield "weight_dtype", method


def planned(method: Config, config: transformers.PreTrainedConfig, device: torch.device) -> tuple[Config, str]:
    """The method with what `memory` needs chosen, and a sentence that says so; the settings come to fit, or InputError.

    They are taken up one after the other until the peak is below what there is. What is chosen is a function of the
    settings and the architecture alone, so that a run that goes on chooses the same.
    """
    there, dtype = size(str(method.memory)), compute_dtype(method.dtype, device)
    method = replace(method, memory=None)
    peak = functools.partial(_peak, config, dtype=dtype, device=device.type)
    first = now = peak(method)
    chosen: dict[str, str] = {}
    for name, smaller in savings(method, dtype, device.type):
        if now <= there:
            break
        method, now = smaller, peak(smaller)
        value = getattr(smaller, name)
        chosen[name] = OPTIONS[name] + ("" if value is True else f" {value}")
    if now > there:
        adapters = peak(replace(method, weight_dtype="float32", lora_rank=16)) if not method.lora_rank else math.inf
        more = f"--lora-rank 16 needs {adapters / GB:.1f} GB" if adapters <= there else "take a smaller model"
        raise InputError(
            f"memory: this needs {now / GB:.1f} GB even with {', '.join(chosen.values()) or 'the settings given'}, and "
            f"there are {there / GB:.1f}: {more}."
        )
    if not chosen:
        return method, f"memory: {now / GB:.1f} of {there / GB:.1f} GB at the peak, as the settings are."
    return method, (
        f"memory: {now / GB:.1f} of {there / GB:.1f} GB at the peak, by {', '.join(chosen.values())} "
        f"(without: {first / GB:.1f} GB)."
    )


def fitting(method: Config, policy: Policy) -> Config:
    """The method as `planned` has it for the network of a policy, once a line has said what was chosen."""
    method, said = planned(method, policy.network.config, policy.device)
    status(said)
    return method


def out_of_memory(error: RuntimeError, config: TrainingConfig) -> str | None:
    """What to do where an error says that memory ran out, of a GPU or of the host; None where it says another thing."""
    if not isinstance(error, torch.OutOfMemoryError) and "not enough memory" not in str(error):
        return None
    remedies = [f"--tokens-per-pass {config.tokens_per_pass // 2} (it is {config.tokens_per_pass})"]
    remedies += [] if config.activation_checkpointing else ["--activation-checkpointing"]
    remedies += [] if config.lora_rank else ["--lora-rank 16"]
    return f"memory ran out: try {', '.join(remedies)}, or --memory with what there is, such as --memory 24GB"


def _peak(config: transformers.PreTrainedConfig, method: TrainingConfig, *, dtype: torch.dtype, device: str) -> float:
    return needs(Shape.of(config, method, dtype), method, dtype, device)["at the peak"]


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _is_tied(network: Any) -> bool:
    return network.get_output_embeddings().weight is network.get_input_embeddings().weight


def _numbers(network: nn.Module) -> tuple[int, int, int]:
    """How many numbers are in linear layers, in embeddings, and in vectors; weights that are shared count once."""
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
    kind: type[transformers.PreTrainedConfig], said: str, settings: tuple[tuple[str, Any], ...], dtype: torch.dtype
) -> tuple[int, float, float]:
    """Of a few layers: the numbers of adapters, bytes kept of each token, and bytes kept whatever the tokens."""
    config = kind.from_dict(json.loads(said))
    text = config.get_text_config()
    text.num_hidden_layers, text.vocab_size = LAYERS, 64
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, None)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:LAYERS]
    with quiet():
        network = prepare_network(transformers.AutoModelForCausalLM.from_config(config).float().eval())
    model = ready(Policy(network, None, "the trial", dtype), TrainingConfig(**dict(settings)))  # type: ignore[arg-type]
    few, many = (_kept(model, tokens) for tokens in TOKENS)
    adapters = sum(p.numel() for p in network.parameters() if p.requires_grad) if adapted(network) else 0
    slope = (many - few) / (TOKENS[1] - TOKENS[0])
    return adapters, slope, few - slope * TOKENS[0]


def _kept(model: Policy, tokens: int) -> float:
    """Bytes that autograd keeps of a pass over so many tokens, beside the weights themselves."""
    half = tuple(i % 64 for i in range(tokens // 2))
    trees = Trees.of([Tree(half, (Branch(half),))], model.device)
    held = (*model.network.parameters(), *model.network.buffers())
    own = {tensor.untyped_storage().data_ptr() for tensor in held}
    seen: dict[int, Tensor] = {}

    def see(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            seen[address] = tensor  # held, so that its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor), model.autocast():
        log_probabilities(model.network, trees)
    return float(sum(tensor.untyped_storage().nbytes() for tensor in seen.values()))
