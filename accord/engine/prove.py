"""A network proves itself before it is used: on a few random tokens the fast ways must give what the plain one does.

The plain way is the untouched network of transformers, a sequence at a time. The fast ways are fused norms, the forward
over trees, and the decode cache; each that differs is switched off (unfused, a row a branch, recomputed), and a network
for which nothing agrees is refused by name. Layers of one kind compute alike, so that only the first are tried, up to
where every kind has occurred.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from accord.engine.cache import decoder
from accord.engine.forward import fuse, hidden_states, outputs, prepare, unfuse
from accord.engine.readout import Readout
from accord.engine.team import Team
from accord.engine.trees import Branch, Tree, Trees
from accord.engine.unread import device_of, read_for_now, unread
from accord.errors import InputError
from accord.files import write_text

PROMPT, BRANCHES = 6, (5, 3)
"""Tokens of the prompt and of the two branches that are tried."""

LOGITS = 1024
"""Of the vocabulary, so many logits are compared."""

CLOSE = 3e-4
"""Logits may differ by this share of their standard deviation: rounding stays far below it, another model far above."""

ROUGH = 0.1
"""The same where weights are quantized, as what is multiplied with them may be too, and then rounds otherwise in
another batch."""


class Ways(NamedTuple):
    """The fast ways that a network takes: forwards over trees, fused norms, a decode cache."""

    trees: bool
    fused: bool
    cache: bool

    def switch_on(self, network: PreTrainedModel, attention: str) -> None:
        """Have the network take these and no others; `attention` is its own implementation."""
        if self.trees:
            prepare(network)
        else:
            network.set_attn_implementation(attention)
        if self.fused:
            fuse(network)
        else:
            unfuse(network)
        network._accord_recomputes = not self.cache  # type: ignore[assignment]


ORDER = [Ways(trees, fused, cache) for trees in (True, False) for fused in (True, False) for cache in (trees, False)]
"""What is tried, the fastest first."""


def take_fast_ways(network: PreTrainedModel, name: str = "") -> None:
    """Switch on the fast ways of a network that give what its plain one does.

    What was proved is kept by configuration and versions (in `ACCORD_CACHE`, by default ~/.cache/accord), so that a
    network that passed before is not tried again.

    Raises:
        InputError: no way agrees with the plain one.
    """
    attention = network.config.get_text_config()._attn_implementation
    key = _fingerprint(network)
    if unread(network) is None:
        ways = _read(key) or _tried(network, attention, name, key)
    else:  # the rank that leads reads a few layers of it for that
        ways = Team.here().lead(lambda: _read(key) or _tried(network, attention, name, key))
    (ways or ORDER[0]).switch_on(network, attention)


def _tried(network: PreTrainedModel, attention: str, name: str, key: str) -> Ways | None:
    """What was proved just now, and is kept; None where there are no numbers to compare."""
    with (
        torch.no_grad(), _first_layers(network), read_for_now(network),
        _told_apart(network), _few_logits(network), _in_float32(network),
    ):  # fmt: skip
        ways = _proved(network, attention, name)
    if ways is None:
        with torch.no_grad(), read_for_now(network), _told_apart(network), _in_float32(network):
            ways = _proved(network, attention, name)
    if ways is not None:
        _write(key, ways)
    return ways


def _proved(network: PreTrainedModel, attention: str, name: str) -> Ways | None:
    """The fastest ways that agree with the plain one; None where that gives no numbers to compare."""
    tree = _tree(network)
    close = CLOSE if getattr(network.config, "quantization_config", None) is None else ROUGH
    try:
        plain = _plain(network, tree)
    except (IndexError, RuntimeError, ValueError):  # a network that reads fewer tokens than are tried
        return None
    if not all(bool(torch.isfinite(logits).all()) for logits in plain):
        return None
    for ways in ORDER:
        ways.switch_on(network, attention)
        try:
            agree = equal_logits(plain, _read_as_trees(network, tree), close)
            if agree and not _is_classifier(network):
                agree = equal_logits([logits[: min(BRANCHES)] for logits in plain], _decoded(network, tree), close)
        except Exception:  # an architecture that this way was not made for may fail in any manner
            agree = False
        if agree:
            return ways
    raise InputError(
        f"the model {name} ({type(network).__name__}) computes other numbers here than in transformers, whichever way "
        "it is read: its architecture cannot be used."
    )


@contextmanager
def _told_apart(network: nn.Module) -> Iterator[None]:
    """Weights that are all equal, as of norms and biases that nobody trained yet, have different values meanwhile.

    Otherwise a part that is left out might show no difference, and would be taken for proved when it is trained.
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
def _in_float32(network: nn.Module) -> Iterator[None]:
    """Weights that are held in halves, and would hide a difference by rounding, are float32 meanwhile."""
    before = [(p, p.data) for p in network.parameters() if p.dtype in (torch.bfloat16, torch.float16)]
    for parameter, value in before:
        parameter.data = value.float()
    try:
        yield
    finally:
        for parameter, value in before:
            parameter.data = value


@contextmanager
def _first_layers(network: PreTrainedModel) -> Iterator[None]:
    """The network ends after its first layers meanwhile, which are of all the kinds that it has."""
    count = getattr(network.config.get_text_config(), "num_hidden_layers", None)
    lists = [
        (module, name, part)
        for module in network.modules()
        for name, part in module.named_children()
        if isinstance(part, nn.ModuleList) and len(part) == count
    ]
    if len(lists) != 1:  # no stack of layers, or several that belong together
        yield
        return
    [(module, name, layers)] = lists
    types = getattr(network.config.get_text_config(), "layer_types", None) or [""] * len(layers)
    kinds = [f"{kind} {_kind(layer, i)}" for i, (kind, layer) in enumerate(zip(types, layers, strict=True))]
    setattr(module, name, layers[: max(map(kinds.index, kinds)) + 1])
    try:
        yield
    finally:
        setattr(module, name, layers)


@contextmanager
def _few_logits(network: PreTrainedModel) -> Iterator[None]:
    """The output layer has its first rows alone meanwhile: a vocabulary is most of a small network's work, and what is
    done to logits is done to each alike."""
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
    """What tells a layer from others: its modules, with their settings, and the shapes of its weights."""
    modules = [
        (name, type(module).__name__, {k: v for k, v in vars(module).items() if isinstance(v, int | float | str)})
        for name, module in layer.named_modules()
    ]
    for _, _, settings in modules:
        for key in [key for key, value in settings.items() if (value == index and "layer" in key) or key == "training"]:
            del settings[key]
    return repr((modules, [(name, tuple(weight.shape)) for name, weight in layer.named_parameters()]))


def _tree(network: PreTrainedModel) -> Tree:
    embeddings: nn.Embedding = network.get_input_embeddings()  # type: ignore[assignment]
    vocabulary = min(embeddings.num_embeddings, int(network.config.get_text_config().vocab_size))
    count = PROMPT + sum(BRANCHES)
    drawn = torch.randint(vocabulary, (count,), generator=torch.Generator().manual_seed(0)).tolist()
    pad = network.config.get_text_config().pad_token_id  # which a classifier does not read
    drawn = [(token + 1) % vocabulary if token == pad else token for token in drawn]
    starts = [PROMPT, PROMPT + BRANCHES[0], count]
    branches = tuple(Branch(tuple(drawn[a:b])) for a, b in pairwise(starts))
    return Tree(tuple(drawn[:PROMPT]), branches)


def _is_classifier(network: nn.Module) -> bool:
    return hasattr(network, "score")


def _plain(network: PreTrainedModel, tree: Tree) -> list[Tensor]:
    """Of each branch the logits (n, V) from which its tokens are drawn, or a classifier's labels (1, L)."""
    rows = [torch.tensor([tree.prompt + branch.tokens], device=network.device) for branch in tree.branches]
    every = [network(input_ids=row, use_cache=False).logits[0].float() for row in rows]
    return [logits[None] if _is_classifier(network) else logits[PROMPT - 1 : -1] for logits in every]


def _read_as_trees(network: PreTrainedModel, tree: Tree) -> list[Tensor]:
    trees = Trees.of([tree], network.device)
    if _is_classifier(network):
        return list(outputs(network, trees, trees.last).float().split(1))
    hidden = hidden_states(network, trees).index_select(0, trees.source)
    return list(Readout.of(network).logits(hidden).float().split(BRANCHES))


def _decoded(network: PreTrainedModel, tree: Tree) -> list[Tensor]:
    """The first logits of both, a token at a time."""
    batch = decoder(network, min(BRANCHES))
    steps = [batch.prefill([tree.prompt], 2).expand(2, -1)]
    for step in range(min(BRANCHES) - 1):
        tokens = torch.tensor([branch.tokens[step] for branch in tree.branches], device=network.device)
        steps.append(batch.decode(tokens))
    return list(torch.stack(steps, 1).float())


def equal_logits(plain: list[Tensor], fast: list[Tensor], close: float) -> bool:
    """Whether logits are equal to this share of their standard deviation."""
    return all(
        a.shape == b.shape and bool((a - b).abs().max() <= close * max(float(a.std()) if a.numel() > 1 else 1.0, 1e-6))
        for a, b in zip(plain, fast, strict=True)
    )


def _fingerprint(network: PreTrainedModel) -> str:
    config = json.dumps(network.config.to_dict(), sort_keys=True, default=str)
    versions = (torch.__version__, transformers.__version__, type(network).__name__, device_of(network).type)
    return hashlib.sha256(f"{config} {versions}".encode()).hexdigest()[:32]


def _file() -> Path:
    return Path(os.environ.get("ACCORD_CACHE", "~/.cache/accord")).expanduser() / "proved.json"


def _known() -> dict[str, list[bool]]:
    try:
        known = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _read(key: str) -> Ways | None:
    known = _known().get(key)
    is_whole = isinstance(known, list) and [type(way) for way in known] == [bool] * len(Ways._fields)
    return Ways(*known) if known and is_whole else None


def _write(key: str, ways: Ways) -> None:
    with suppress(OSError):  # a machine without a place to keep it tries again
        write_text(_file(), json.dumps(_known() | {key: ways}))
