"""The linear layers that get adapters (LoRA): those of the trunk in which an adapter learns.

Some layers are never called, as the code of their architecture reads their weights (`dt_proj` of Mamba) or has no use
for them (cross-attention of a decoder alone), and some only choose positions, through which no gradient passes (the
indexer of sparse attention). Which ones these are is found by a trial: a zero is added to what each layer computes,
where an adapter's part would be, and a backward pass tells which zeros the result depends on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from accord.engine.adapters import peft
from accord.engine.forward import context_of, hidden_states
from accord.engine.proved import fingerprint, found_before, remember
from accord.engine.quantize import FewBits
from accord.engine.team import Team
from accord.engine.trees import Branch, Tree, Trees
from accord.engine.trial import as_tried, random_tokens, stack_of
from accord.engine.unread import device_of, unread
from accord.errors import InputError, nearest

LENGTHS = (16, 512)
"""Numbers of tokens of the trial, of which the second is for layers that the first did not reach: some read only
longer texts (the compressors of DeepSeek V4, up to 128 tokens at a time) or few tokens (experts)."""


class Targets(NamedTuple):
    """The last names of the layers that get adapters, by which peft finds them, and the full names of those so called
    that get none."""

    names: list[str]
    left_out: list[str]


def targets(network: PreTrainedModel, wanted: str | None) -> Targets:
    """The trunk's linear layers that get adapters: all that adapters fit, or those whose last names are in `wanted`,
    separated by commas.

    Raises InputError where a wanted one is no linear layer, is refused by peft, would learn nothing, or has a weight
    that several share, as in Zamba: merging would add the adapters of all to it.
    """
    inside = set(map(id, network.base_model.modules()))
    named = {name: module for name, module in network.named_modules() if id(module) in inside}
    layers = {name: module for name, module in named.items() if isinstance(module, nn.Linear | Conv1D)}
    linear = {_last(name) for name in layers}
    linear -= {_last(name) for name, module in named.items() if name not in layers or _is_special(module)}
    uses = Counter(map(_weight_of, layers.values()))
    shared = linear & {_last(name) for name, layer in layers.items() if uses[_weight_of(layer)] > 1}
    refused = {last for last in linear - shared if _is_refused(network, last)}
    tried = {name: layer for name, layer in layers.items() if _last(name) in linear - shared - refused}
    unreached = without_gradient(network, tried)
    fit = sorted({_last(name) for name in tried.keys() - unreached})
    if not fit:
        raise InputError(f"a {network.config.model_type} has no linear layer that takes adapters: leave lora_rank out.")
    names = fit if wanted is None else [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in linear:
            raise InputError(
                f"lora_targets: adapters go into linear layers of the trunk ({', '.join(fit)}; by default all), and "
                f"{name!r} is not one"
                f"{nearest(name, fit) or '.'}"
            )
        if name not in fit:
            why = "layers share the weights" if name in shared else "no gradient would reach them"
            why = f"peft refuses it in a {network.config.model_type}" if name in refused else why
            raise InputError(f"lora_targets: {name!r} takes no adapters, as {why}: choose among {', '.join(fit)}.")
    return Targets(names, sorted(name for name in unreached if _last(name) in names))


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _weight_of(layer: Any) -> int:
    """The identity of a linear layer's weight."""
    return id(layer.qweight if isinstance(layer, FewBits) else layer.weight)


def _is_special(layer: nn.Module) -> bool:
    """Whether an architecture's own linear layer computes something other than W x, as in DeepSeek V4 and Llama 4's
    router. Falcon's computes the same.
    """
    kind = type(layer)
    is_own = isinstance(layer, nn.Linear) and kind.__module__.startswith("transformers.models.")
    return is_own and kind.forward is not nn.Linear.forward and kind.__name__ != "FalconLinear"


def _is_refused(network: PreTrainedModel, name: str) -> bool:
    """Whether peft refuses layers of this name in this architecture, such as `out_proj` of Mamba, which its fused
    kernels read."""
    check = getattr(peft().tuners.tuners_utils, "_check_lora_target_modules_mamba", None)
    try:
        if check is not None:
            check(peft().LoraConfig(), network, name)
    except ValueError:
        return True
    return False


def without_gradient(network: PreTrainedModel, layers: Mapping[str, nn.Module]) -> set[str]:
    """Those of the layers, by their names, in which adapters would get no gradient.

    Layers of one kind are alike, so only the network's first layers are tried, and a mixture's experts count as reached
    where one is. The result is cached (`accord.engine.proved`).
    """
    if unread(network) is None:
        # without weights anywhere it is only planned for
        return set() if any(p.is_meta for p in network.parameters()) else _without_gradient(network, layers)
    return Team.here().lead(lambda: _without_gradient(network, layers))  # rank 0 reads a few layers for the trial


def _without_gradient(network: PreTrainedModel, layers: Mapping[str, nn.Module]) -> set[str]:
    key = fingerprint(network, {name: type(layer).__name__ for name, layer in sorted(layers.items())})
    known = found_before(key)
    if isinstance(known, list) and set(map(str, known)) <= layers.keys():
        return set(known)
    kinds, left = _kinds(network, layers), set(layers)
    for length in LENGTHS:
        try:
            reached = {kinds[name] for name in _reached(network, layers, length)}
        except Exception as error:
            if length == LENGTHS[0] or isinstance(error, MemoryError | torch.OutOfMemoryError):
                raise
            break  # its context is shorter, and its configuration calls that by another name (Whisper)
        left = {name for name in left if kinds[name] not in reached}
        if not left:
            break
    remember(key, sorted(left))
    return left


def _kinds(network: PreTrainedModel, layers: Mapping[str, nn.Module]) -> dict[str, tuple[int, str]]:
    """By a layer's name, what is the same for those that compute alike: the kind of its decoder layer, and its name
    without numbers."""
    stack, within = stack_of(network), dict[int, int]()
    for layer, kind in zip(stack.layers, stack.kinds, strict=True) if stack else ():
        within |= dict.fromkeys(map(id, layer.modules()), stack.kinds.index(kind) if stack else 0)
    return {name: (within.get(id(layer), -1), re.sub(r"\.\d+(?=\.|$)", ".*", name)) for name, layer in layers.items()}


def _reached(
    network: PreTrainedModel, layers: Mapping[str, nn.Module], length: int, is_whole: bool = False
) -> set[str]:
    """The names of layers on whose output the hidden states of random tokens depend, tried in the network's first
    layers, or where these alone fail in all."""
    try:
        with torch.enable_grad(), as_tried(network, is_whole):
            return _reached_now(network, layers, length)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:
        if is_whole:
            raise
    return _reached(network, layers, length, is_whole=True)


def _reached_now(network: PreTrainedModel, layers: Mapping[str, nn.Module], length: int) -> set[str]:
    device = device_of(network)
    zeros = {name: torch.zeros((), device=device, requires_grad=True) for name in layers}
    tokens = random_tokens(network, min(length, context_of(network.config.get_text_config()) or length))
    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_hook(lambda *call, zero=zeros[name]: call[-1] + zero))
        hidden = hidden_states(network, Trees.of([Tree((), (Branch(tuple(tokens)),))], device))
    if not hidden.requires_grad:
        return set()
    gradients = torch.autograd.grad(hidden.sum(), list(zeros.values()), allow_unused=True)
    return {name for name, gradient in zip(zeros, gradients, strict=True) if gradient is not None}
