"""A network as it is tried (`accord.engine.fast_paths`, `accord.engine.targets`): changed, for the trial, so that it is
quick and its few tokens show every difference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from accord.engine.forward import context_of
from accord.engine.unread import read_for_now

WINDOW = 4
"""The length of sliding windows in the trial."""

LOGITS = 1024
"""Number of vocabulary entries whose logits are compared."""


def random_tokens(network: PreTrainedModel, count: int) -> list[int]:
    """Tokens of the trial, always the same ones, without padding, which a classifier skips."""
    embeddings: nn.Embedding = network.get_input_embeddings()  # type: ignore[assignment]
    config = network.config.get_text_config()
    vocabulary = min(embeddings.num_embeddings, int(config.vocab_size))
    drawn = torch.randint(vocabulary, (count,), generator=torch.Generator().manual_seed(0)).tolist()
    return [(token + 1) % vocabulary if token == config.pad_token_id else token for token in drawn]


@contextmanager
def as_tried(network: PreTrainedModel, is_whole: bool) -> Iterator[None]:
    """Within the context, the network has the values, precision and windows of the trial, and unless `is_whole` only
    its first layers and logits."""
    with ExitStack() as changes:
        if not is_whole:
            changes.enter_context(first_layers(network))
        changes.enter_context(read_for_now(network))
        changes.enter_context(_distinct_values(network))
        changes.enter_context(_short_windows(network))
        if not is_whole:
            changes.enter_context(_few_logits(network))
        changes.enter_context(_in_float32(network))
        yield


@contextmanager
def _distinct_values(network: nn.Module) -> Iterator[None]:
    """Within the context, vectors of equal values, such as untrained norms and biases, get distinct values.

    Otherwise leaving such a part out might make no difference, and would pass although it matters after training.
    """
    generator = torch.Generator().manual_seed(0)
    before = [(p, p.detach().clone()) for p in network.parameters() if p.dim() == 1 and bool((p == p[0]).all())]
    for parameter, value in before:
        parameter.data.add_(0.3 * torch.randn(value.shape, generator=generator).to(value))
    try:
        yield
    finally:
        for parameter, value in before:
            parameter.data.copy_(value)


@contextmanager
def _short_windows(network: PreTrainedModel) -> Iterator[None]:
    """Within the context, sliding windows that a text can exceed are shorter than the trial's texts.

    Otherwise attention that gets its window only through the mask, which trees replace, would pass without one.
    """
    config = network.config.get_text_config()
    window, longest = getattr(config, "sliding_window", None), context_of(config)
    owners: list[Any] = []
    if isinstance(window, int) and (longest is None or window < longest):
        owners = [owner for owner in (config, *network.modules()) if vars(owner).get("sliding_window") == window]
    for owner in owners:
        owner.sliding_window = min(owner.sliding_window, WINDOW)
    try:
        yield
    finally:
        for owner in owners:
            owner.sliding_window = window


@contextmanager
def _in_float32(network: nn.Module) -> Iterator[None]:
    """Within the context, 16-bit weights, whose rounding would hide a difference, are float32."""
    before = [(p, p.data) for p in network.parameters() if p.dtype in (torch.bfloat16, torch.float16)]
    for parameter, value in before:
        parameter.data = value.float()
    try:
        yield
    finally:
        for parameter, value in before:
            parameter.data = value


@contextmanager
def first_layers(network: PreTrainedModel) -> Iterator[None]:
    """Within the context, the network ends after its first layers, which include all its kinds of layers."""
    stack = stack_of(network)
    if stack is None:
        yield
        return
    layers = stack.layers
    setattr(stack.owner, stack.name, layers[: max(map(stack.kinds.index, stack.kinds)) + 1])
    try:
        yield
    finally:
        setattr(stack.owner, stack.name, layers)


class Stack(NamedTuple):
    """The list of a network's decoder layers: the module that holds it, its name there, and a description of each
    layer's kind."""

    owner: nn.Module
    name: str
    layers: nn.ModuleList
    kinds: list[str]


def stack_of(network: PreTrainedModel) -> Stack | None:
    """The decoder layers of a network; None where there is no list of them, or several."""
    count = getattr(network.config.get_text_config(), "num_hidden_layers", None)
    lists = [
        (module, name, part)
        for module in network.modules()
        for name, part in module.named_children()
        if isinstance(part, nn.ModuleList) and len(part) == count
    ]
    if len(lists) != 1:
        return None
    [(owner, name, layers)] = lists
    types = getattr(network.config.get_text_config(), "layer_types", None) or [""] * len(layers)
    kinds = [f"{kind} {_kind(layer, i)}" for i, (kind, layer) in enumerate(zip(types, layers, strict=True))]
    return Stack(owner, name, layers, kinds)


@contextmanager
def _few_logits(network: PreTrainedModel) -> Iterator[None]:
    """Within the context, the output layer has only its first rows: the vocabulary is most of a small network's work,
    and all logits are transformed alike."""
    layer = network.get_output_embeddings()
    whole: Any = getattr(layer, "weight", None)
    if type(layer) is not nn.Linear or type(whole.data) is not Tensor:
        yield
        return
    bias = layer.bias
    layer.weight = nn.Parameter(whole.data[:LOGITS], requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.data[:LOGITS], requires_grad=False)
    try:
        yield
    finally:
        layer.weight, layer.bias = whole, bias


def _kind(layer: nn.Module, index: int) -> str:
    """A description of a layer's kind: its modules with their settings, and the shapes of its weights."""
    modules = [
        (name, type(module).__name__, {k: v for k, v in vars(module).items() if isinstance(v, int | float | str)})
        for name, module in layer.named_modules()
    ]
    for _, _, settings in modules:
        for key in [key for key, value in settings.items() if (value == index and "layer" in key) or key == "training"]:
            del settings[key]
    return repr((modules, [(name, tuple(weight.shape)) for name, weight in layer.named_parameters()]))
