"""Fast paths, each verified before use: on a few random tokens they must give the same logits as the plain network.

The plain path is the unchanged network of transformers, one sequence at a time. The fast paths are fused norms, the
forward over trees, the decode cache, and on a GPU CUDA graphs of its steps. One that differs is switched off (norms
unfused, one row per branch, no graphs, no cache), and a network for which no combination agrees is refused. Layers of
one kind compute alike, so only the first layers are tried, up to where every kind has occurred.
"""

from __future__ import annotations

import warnings
from itertools import pairwise, product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from accord.console import error_text
from accord.engine.decoding import decoder
from accord.engine.forward import context_of, fuse, hidden_states, outputs, prepare, unfuse
from accord.engine.proved import fingerprint, found_before, remember
from accord.engine.readout import Readout
from accord.engine.team import Team
from accord.engine.trees import Branch, Tree, Trees
from accord.engine.trial import WINDOW, as_tried, random_tokens
from accord.engine.unread import unread
from accord.errors import InputError, ran_out_of_memory

PROMPT, BRANCHES = 6, (5, 4)
"""Tokens of the prompt and of the two branches of the trial. In the second branch's length a step is decoded as usual,
one is recorded, and one replayed."""

CLOSE = 3e-4
"""Largest difference, relative to the logits' standard deviation: rounding stays far below it, a wrong result far
above."""

ROUGH = 0.1
"""The same for quantized weights, where activations may be quantized too and then round differently in another
batch."""


class FastPaths(NamedTuple):
    """Which fast paths a network uses: forwards over trees, fused norms, a decode cache, CUDA graphs of its steps.

    `graphs` is None where memory ran out as they were recorded, which says nothing of the network.
    """

    trees: bool
    fused: bool
    cache: bool
    graphs: bool | None

    def switch_on(self, network: PreTrainedModel, attention: str) -> None:
        """Have the network use these paths and no others; `attention` is its original attention implementation."""
        if self.trees:
            prepare(network)
        else:
            network.set_attn_implementation(attention)
        if self.fused:
            fuse(network)
        else:
            unfuse(network)
        network._accord_recomputes = not self.cache  # type: ignore[assignment]
        network._accord_graphs = self.graphs  # type: ignore[assignment]


def candidates(device: torch.device) -> list[FastPaths]:
    """The combinations to try on a device, the fastest first."""
    graphed = device.type == "cuda"
    both = (True, False)
    every = (
        FastPaths(trees, fused, cache, cache and graphs)
        for trees, fused, cache, graphs in product(both, both, both, (graphed, False))
        if trees or not cache
    )
    return list(dict.fromkeys(every))


def enable_fast_paths(network: PreTrainedModel, name: str = "") -> None:
    """Enable the fast paths on which a network gives the same results as on the plain one.

    Results are cached (`accord.engine.proved`), so that a network is tried only once.

    Raises:
        InputError: no combination agrees with the plain network.
    """
    attention = network.config.get_text_config()._attn_implementation
    key = fingerprint(network, WINDOW)
    if unread(network) is None:
        paths = _read(key) or _verify(network, attention, name, key)
    else:  # rank 0 reads a few layers for the trial
        paths = Team.here().lead(lambda: _read(key) or _verify(network, attention, name, key))
    (paths or FastPaths(trees=True, fused=True, cache=True, graphs=False)).switch_on(network, attention)


def _verify(network: PreTrainedModel, attention: str, name: str, key: str) -> FastPaths | None:
    """Try the fast paths now and cache the result; None where there are no numbers to compare."""
    for is_whole in (False, True):
        with torch.no_grad(), as_tried(network, is_whole):
            paths = _fastest_agreeing(network, attention, name, is_whole)
        if paths is not None:
            break
    if paths is not None and paths.graphs is not None:
        remember(key, paths)
    elif paths is not None:
        warnings.warn(
            f"memory ran out as CUDA graphs of the model {name} were recorded: it samples without them until it is "
            "loaded again, which is slower.",
            stacklevel=2,
        )
    return paths


def _fastest_agreeing(network: PreTrainedModel, attention: str, name: str, is_whole: bool) -> FastPaths | None:
    """The fastest paths that agree with the plain network; None where that gives no finite logits, reads too few tokens
    for the trial, or fails because it is not whole."""
    kind = type(network).__name__
    called = f"{name} ({kind})" if name else kind
    tree = _tree(network)
    close = CLOSE if getattr(network.config, "quantization_config", None) is None else ROUGH
    try:
        plain = _plain(network, tree)
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        longest = context_of(network.config.get_text_config())
        if not is_whole or (longest is not None and longest < PROMPT + max(BRANCHES)):
            return None
        raise InputError(f"the model {called} reads no text in transformers: {error_text(error)}.") from error
    if not all(bool(torch.isfinite(logits).all()) for logits in plain):
        return None
    for paths in candidates(network.device):
        paths.switch_on(network, attention)
        try:
            agree = equal_logits(plain, _read_as_trees(network, tree), close)
            if agree and not _is_classifier(network):
                agree = equal_logits([logits[: min(BRANCHES)] for logits in plain], _decoded(network, tree), close)
                agree = agree and network._accord_graphs in (paths.graphs, None)  # recording that fails switches it off
        except Exception as error:  # an unsupported architecture may raise anything
            if ran_out_of_memory(error):
                raise
            agree = False
        if agree:
            return paths._replace(graphs=network._accord_graphs)  # type: ignore[arg-type]
    raise InputError(
        f"the model {called} computes different logits here than in transformers, on every path: its architecture is "
        "not supported."
    )


def _tree(network: PreTrainedModel) -> Tree:
    starts = [PROMPT, PROMPT + BRANCHES[0], PROMPT + sum(BRANCHES)]
    drawn = random_tokens(network, starts[-1])
    branches = tuple(Branch(tuple(drawn[a:b])) for a, b in pairwise(starts))
    return Tree(tuple(drawn[:PROMPT]), branches)


def _is_classifier(network: nn.Module) -> bool:
    return hasattr(network, "score")


def _plain(network: PreTrainedModel, tree: Tree) -> list[Tensor]:
    """For each branch the logits (n, V) from which its tokens are drawn, or a classifier's labels (1, L)."""
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
    """The first logits of both branches, decoded token by token."""
    batch = decoder(network, min(BRANCHES))
    steps = [batch.prefill([tree.prompt], 2).expand(2, -1)]
    for step in range(min(BRANCHES) - 1):
        tokens = torch.tensor([branch.tokens[step] for branch in tree.branches], device=network.device)
        with warnings.catch_warnings(record=True):  # about a failed recording, which shows in the network
            steps.append(batch.decode(tokens))
    return list(torch.stack(steps, 1).float())


def equal_logits(plain: list[Tensor], fast: list[Tensor], close: float) -> bool:
    """Whether logits are equal up to a fraction `close` of their standard deviation."""
    return all(
        a.shape == b.shape and bool((a - b).abs().max() <= close * max(float(a.std()) if a.numel() > 1 else 1.0, 1e-6))
        for a, b in zip(plain, fast, strict=True)
    )


def _read(key: str) -> FastPaths | None:
    known = found_before(key)
    is_whole = isinstance(known, list) and [type(way) for way in known] == [bool] * len(FastPaths._fields)
    return FastPaths(*known) if is_whole else None
