"""Muon: matrices inside the layers move along their orthogonalized momentum; everything else is updated by AdamW.

    M <- mu M + (1 - mu) G,  O = NS((1 - mu) G + mu M),  W <- (1 - eta lambda) W - eta 0.2 sqrt(max(rows, columns)) O

NS is five Newton-Schulz iterations in bfloat16, which bring every singular value near 1 (Jordan et al. 2024,
kellerjordan.github.io/posts/muon); mu is 0.95. The factor gives updates the size of AdamW's, so that both share one
learning rate (Liu et al. 2025, arXiv:2502.16982, equation 4). Embeddings, the output layer, heads, vectors and experts
held in one block use AdamW.

Ranks that shard the weights hold their rows of M. NS needs whole matrices: matrices are distributed over the ranks,
each rank receives all rows of its matrices and returns to each rank the rows that it updates. Both are sent in
bfloat16, the precision of NS, so that updates equal those of one process.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from accord.engine.shard import is_share, local, part_of, shard_coordinates
from accord.errors import InputError

MOMENTUM = 0.95


def hidden_matrices(networks: Iterable[nn.Module]) -> list[Tensor]:
    """The trained weights of linear maps inside lists of layers, each once."""
    lists = [part for network in networks for part in network.modules() if isinstance(part, nn.ModuleList)]
    maps = [part for layers in lists for part in layers.modules() if isinstance(part, nn.Linear | Conv1D)]
    return list({id(part.weight): part.weight for part in maps if part.weight.requires_grad}.values())


class SharedMuon(torch.optim.Muon):
    """torch's Muon for sharded matrices, with its groups and states."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every weight that has a gradient; all ranks must call this together."""
        for group in self.param_groups:
            matrices = [p for p in group["params"] if p.grad is not None]
            matrices.sort(key=lambda p: -p.numel())  # similar sizes together, for equal time on all ranks
            parts = shard_coordinates(matrices[0])[1] if matrices else 1
            for first in range(0, len(matrices), parts):
                batch = matrices[first : first + parts]
                directions = _orthogonalize_over_ranks(batch, [self._momentum(p, group) for p in batch])
                for p, direction in zip(batch, directions, strict=True):
                    rate = group["lr"] * 0.2 * math.sqrt(max(p.shape))
                    local(p).mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-rate)

    def _momentum(self, p: Tensor, group: Mapping[str, Any]) -> Tensor:
        """This rank's rows of the Nesterov momentum (1 - mu) G + mu M, in bfloat16; also updates M."""
        state, gradient = self.state[p], p.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean, own = local(state["momentum_buffer"]), local(gradient)
        mean.lerp_(own, 1 - group["momentum"])
        return own.lerp(mean, group["momentum"]).bfloat16()


def _orthogonalize_over_ranks(matrices: Sequence[Any], rows: Sequence[Tensor]) -> list[Tensor]:
    """This rank's rows of some matrices, at most one per rank, after orthogonalization; rank i orthogonalizes matrix i.

    `rows` are this rank's rows of the momentum of each matrix, in bfloat16.
    """
    mesh = matrices[0].device_mesh
    part, parts, _ = shard_coordinates(matrices[0])
    group, own = mesh.get_group(mesh.ndim - 1), matrices[part] if part < len(matrices) else None
    sent = [each.numel() for each in rows] + [0] * (parts - len(matrices))  # numbers for each rank: rows of its matrix
    got = [0] * parts  # numbers from each rank: rows of this rank's matrix
    if own is not None:
        ranges = [part_of(len(own), other, parts) for other in range(parts)]
        got = [(last - first) * own.shape[1] for first, last in ranges]
    whole, back = rows[0].new_empty(sum(got)), rows[0].new_empty(sum(sent))
    dist.all_to_all_single(whole, torch.cat([each.flatten() for each in rows]), got, sent, group)
    if own is not None:
        whole = orthogonalized(whole.view(own.shape)).flatten()
    dist.all_to_all_single(back, whole, sent, got, group)
    return [x.view_as(each) for x, each in zip(back.split(sent[: len(rows)]), rows, strict=True)]


def orthogonalized(matrix: Tensor) -> Tensor:
    """Newton-Schulz orthogonalization of a bfloat16 matrix, with the same operations as torch's Muon.

    X <- a X + (b A + c A^2) X with A = X X^T, five times, starting from the matrix over its norm, transposed to be
    wide.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class MuonAdamW:
    """torch's Muon for `hidden`, torch's AdamW for the rest of the groups, with the groups and states of both.

    Raises InputError where `hidden` is empty.
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
        kind = SharedMuon if is_share(inner[0]["params"][0]) else torch.optim.Muon
        muon = kind(inner, lr=lr, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw")
        self.parts: list[torch.optim.Optimizer] = [muon]
        if outer := [group for group in outer if group["params"]]:
            self.parts.append(torch.optim.AdamW(outer, lr=lr, betas=betas, fused=True))
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state: defaultdict[Tensor, Any] = defaultdict(dict)
        for part in self.parts:  # each uses only its own parameters' entries
            part.state = self.state

    def step(self) -> None:
        """Update every weight that has a gradient."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)
