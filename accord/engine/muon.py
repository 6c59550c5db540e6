"""Muon: the matrices inside the layers move along the orthogonalized mean of their gradients, all else by AdamW.

    M <- mu M + (1 - mu) G,  O = NS((1 - mu) G + mu M),  W <- (1 - eta lambda) W - eta 0.2 sqrt(max(rows, columns)) O

NS is five Newton-Schulz iterations in bfloat16, which bring every singular value near 1 (Jordan et al. 2024,
kellerjordan.github.io/posts/muon); mu is 0.95. The factor makes the size of an update what AdamW's is, so that both go
by one learning rate (Liu et al. 2025, arXiv:2502.16982, equation 4). Embeddings, the output layer, heads, vectors and
experts that are held as one block are no such matrices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from accord.errors import InputError

MOMENTUM = 0.95


def hidden_matrices(networks: Iterable[nn.Module]) -> list[Tensor]:
    """The trained weights of linear maps inside lists of layers, each once."""
    lists = [part for network in networks for part in network.modules() if isinstance(part, nn.ModuleList)]
    maps = [part for layers in lists for part in layers.modules() if isinstance(part, nn.Linear | Conv1D)]
    return list({id(part.weight): part.weight for part in maps if part.weight.requires_grad}.values())


class MuonAdamW:
    """torch's Muon for `hidden`, torch's AdamW for what else the groups hold, with the groups and states of both.

    Raises InputError where `hidden` is empty: all would go by AdamW.
    """

    def __init__(
        self, groups: Iterable[Mapping[str, Any]], hidden: Iterable[Tensor], lr: float, betas: tuple[float, float]
    ) -> None:
        taken = {id(p) for p in hidden}
        if not taken:
            raise InputError("optimizer muon: this model has no matrices inside layers; train it by adamw.")
        inner: list[dict[str, Any]] = []
        outer: list[dict[str, Any]] = []
        for group in groups:
            inner.append({**group, "params": [p for p in group["params"] if id(p) in taken]})
            outer.append({**group, "params": [p for p in group["params"] if id(p) not in taken]})
        inner = [group for group in inner if group["params"]]
        muon = torch.optim.Muon(inner, lr=lr, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw")
        self.parts: list[torch.optim.Optimizer] = [muon]
        if outer := [group for group in outer if group["params"]]:
            self.parts.append(torch.optim.AdamW(outer, lr=lr, betas=betas, fused=True))
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state: defaultdict[Tensor, Any] = defaultdict(dict)
        for part in self.parts:  # each looks up its own parameters alone, so that one map serves both
            part.state = self.state

    def step(self) -> None:
        """Update every weight that has a gradient."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)
