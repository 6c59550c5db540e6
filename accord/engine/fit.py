"""The optimizer step of every method: unreduced losses in, one division by the global count, one update."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from accord.engine.adam import LeanAdamW
from accord.engine.config import TrainingConfig
from accord.engine.memory import manage_freed_memory
from accord.engine.muon import MuonAdamW, hidden_matrices
from accord.engine.precision import autocast, compute_dtype
from accord.engine.routers import Balance
from accord.engine.shard import is_share, local, shard, shard_coordinates, sum_over_copies
from accord.engine.team import Team
from accord.engine.trees import Trees
from accord.engine.unread import device_of
from accord.errors import TrainingStopped, named_rows

Measures = Mapping[str, Tensor]
"""Named tensors of any number of values; a step reports the mean of each over all its packs."""

Objective = Callable[[Trees], tuple[Tensor, Measures]]
"""A loss: packed trees -> its unreduced values, and measures."""


@dataclass(frozen=True)
class LossTerm:
    """Packs under one objective, which has one value per tree, per trained token, or per branch with trained tokens."""

    objective: Callable[[Any], tuple[Tensor, Measures]]
    packs: Sequence[Trees]
    per: Literal["tree", "branch", "token"]
    weight: float = 1.0

    @cached_property
    def count(self) -> int:
        """The number of values over all packs, on all ranks: the divisor of their sum."""
        return sum(map(self.size, self.packs))

    @cached_property
    def tokens(self) -> int:
        """The number of tokens of all packs, prompts included."""
        return sum(len(trees.tokens) for trees in self.packs)

    def size(self, trees: Trees) -> int:
        """The number of values for a pack."""
        size = {"tree": lambda t: len(t.trees), "branch": lambda t: len(t.learning), "token": lambda t: len(t.target)}
        return size[self.per](trees)

    def tree_of(self, trees: Trees) -> Tensor:
        """The index in the pack of the tree that each value belongs to."""
        if self.per == "tree":
            return torch.arange(len(trees.trees), device=trees.group.device)
        return trees.group[trees.learning if self.per == "branch" else trees.owner]

    def require_finite(self, values: Tensor, trees: Trees, when: str) -> None:
        """Raise TrainingStopped, naming the rows, where a value of a pack's loss is not finite."""
        if rows := self.not_finite(values, trees):
            raise TrainingStopped(_loss_not_finite(when, rows))

    def not_finite(self, values: Tensor, trees: Trees) -> str:
        """The names of the rows where a value of a pack's loss is not finite; "" where all are."""
        if torch.isfinite(values.sum()):
            return ""
        bad = self.tree_of(trees)[~torch.isfinite(values.detach())].tolist()
        return named_rows(trees.trees[i].row for i in bad or range(len(trees.trees)))


class Optimizer:
    """AdamW or Muon over named networks, with a learning-rate schedule and the arithmetic of one step.

    With several ranks the networks, and the optimizer states of their weights, are sharded from here on
    (`accord.engine.shard`).
    """

    def __init__(self, networks: Mapping[str, nn.Module], config: TrainingConfig, total: int) -> None:
        manage_freed_memory(config.return_freed_memory)
        self.device = device_of(next(iter(networks.values())))
        self.dtype = compute_dtype(config.dtype, self.device)
        self.networks = {name: shard(network, self.dtype) for name, network in networks.items()}
        self.config, self.balance = config, Balance(networks, config.router_aux_loss_coefficient)
        self.restart(total)

    def restart(self, total: int) -> None:
        """Start a schedule of `total` steps, with zero moments."""
        self.total = total
        matrices = [p for p in self.parameters() if p.dim() > 1]
        vectors = [p for p in self.parameters() if p.dim() <= 1]
        groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": self.config.weight_decay}]
        groups.append({"params": vectors, "weight_decay": 0.0})
        self.rule = rule([group for group in groups if group["params"]], self.networks.values(), self.config)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Every trained parameter once, in a fixed order, by network and name."""
        return {name: p for name, p in nn.ModuleDict(self.networks).named_parameters() if p.requires_grad}

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, in that order."""
        return list(self.named_parameters().values())

    def require_finite(self, step: int) -> None:
        """Raise TrainingStopped where a weight is not finite after this many steps, so that it is not saved."""
        named = self.named_parameters()
        sums = torch.stack([local(p.detach()).sum(dtype=torch.float64) for p in named.values()])
        for name, is_bad in zip(named, Team.here().all_reduce((~torch.isfinite(sums)).long()).tolist(), strict=True):
            if is_bad:
                raise TrainingStopped(
                    f"step {step}: after its update {name} has numbers that are not finite; lower the learning rate."
                )

    def update(self, step: int, *terms: LossTerm) -> dict[str, float]:
        """One step, counted from 0: gradients of sum(weight * sum(values) / count), clipped, and one update.

        The gradient is that of the mean over all packs together, however trees are divided into packs and packs over
        ranks. Where a network has routers, its balancing loss is added to each term's mean (`accord.engine.routers`).

        Returns:
            the mean of every measure, `loss`, `gradient_norm` and `learning_rate`; with routers `balance_loss`.

        Raises:
            TrainingStopped: a loss or the gradient is not finite; the weights are unchanged.
        """
        totals, team = Totals(), Team.here()
        passed: list[tuple[LossTerm, Tensor, Trees]] = []
        for term in terms:
            passes = team.passes(term.packs)
            for number, (trees, is_counted) in enumerate(passes, start=1):
                # all-reduce over copies in the last pass only; terms may be of different networks, so then in each
                sum_over_copies(self.networks.values(), len(terms) > 1 or number == len(passes))
                # ranks hold gathered weights only briefly: cached casts would be of the whole network
                with autocast(self.dtype, self.device, cached=team.size == 1), self.balance.recording() as balances:
                    values, measures = term.objective(trees)
                if is_counted:
                    passed.append((term, values.detach(), trees))
                    _backward(term, trees, values, balances, totals)
                    for name, measured in measures.items():
                        totals.add(name, measured.detach().double().sum(), measured.numel())
                else:  # an idle pass, only to take part in the other ranks' gathering
                    (values.sum() * 0.0).backward()
                    totals.declare(*(["balance_loss"] if balances else ()), *measures)
        _require_all_values(terms, passed)
        norm = clip(self.parameters(), self.config.max_grad_norm)
        mean_loss, means = totals.over_ranks(self.device)
        if not math.isfinite(norm + mean_loss):
            self.rule.zero_grad(set_to_none=True)
            raise_not_finite(step, passed, terms)
        rate = self.config.rate(step, self.total)
        for group in self.rule.param_groups:
            group["lr"] = rate
        self.rule.step()
        self.rule.zero_grad(set_to_none=True)
        return {"loss": mean_loss, **means, "gradient_norm": norm, "learning_rate": rate}


def _backward(
    term: LossTerm, trees: Trees, values: Tensor, balances: Sequence[tuple[Tensor, float]], totals: Totals
) -> None:
    """Add a pack's share of the gradient, from its values and the balancing losses of its routers, and of the loss."""
    loss = values.sum() * (term.weight / term.count)
    reported = values.detach().sum().double() * term.weight / term.count
    for balance, coefficient in balances:
        share = coefficient * term.weight * (len(trees.tokens) / term.tokens)
        loss = loss + share * balance
        reported += share * balance.detach().double()
        totals.add("balance_loss", len(trees.tokens) * balance.detach().double(), len(trees.tokens))
    loss.backward()
    totals.loss += reported


def _require_all_values(terms: Sequence[LossTerm], passed: Sequence[tuple[LossTerm, Tensor, Trees]]) -> None:
    """Raise ValueError where a term's objective did not give a value for each of its trees, tokens or pairs."""
    for term in terms:
        of_term = [(values, trees) for one, values, trees in passed if one is term]
        seen, due = sum(v.numel() for v, _ in of_term), sum(term.size(trees) for _, trees in of_term)
        if seen != due:
            raise ValueError(f"the objective gave {seen} values for {due} {term.per}s")


@dataclass
class Totals:
    """The sums over a step's passes, kept on the device until all passes are queued, as reading them synchronizes."""

    loss: Tensor | float = 0.0
    sums: dict[str, Tensor | float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, name: str, total: Tensor, count: int) -> None:
        """Add the sum of `count` values of a measure."""
        self.sums[name] += total
        self.counts[name] += count

    def declare(self, *names: str) -> None:
        """Have these measures, as other ranks do, even if this rank adds nothing to them."""
        for name in names:
            self.sums[name] += 0.0

    def over_ranks(self, device: torch.device) -> tuple[float, dict[str, float]]:
        """The loss and the mean of every measure over the passes of all ranks; a step's only synchronization for
        them."""
        summed = [torch.as_tensor(x, dtype=torch.float64, device=device) for x in (self.loss, *self.sums.values())]
        counted = torch.tensor([self.counts[name] for name in self.sums], dtype=torch.float64, device=device)
        loss, *numbers = Team.here().all_reduce(torch.cat([torch.stack(summed), counted])).tolist()
        return float(loss), {
            name: numbers[i] / n for i, name in enumerate(self.sums) if (n := numbers[len(self.sums) + i])
        }


def raise_not_finite(
    step: int, passed: Sequence[tuple[LossTerm, Tensor, Trees]], terms: Sequence[LossTerm]
) -> NoReturn:
    """Raise TrainingStopped on every rank, naming the rows whose loss is not finite, or else those of the step."""
    bad = next((rows for term, values, trees in passed if (rows := term.not_finite(values, trees))), "")
    for rows in filter(None, Team.here().all_gather(bad)):
        raise TrainingStopped(_loss_not_finite(f"step {step + 1}", rows))
    rows = named_rows(t.row for term in terms for trees in term.packs for t in trees.trees)
    raise TrainingStopped(f"step {step + 1}: the gradient is not finite; lower the learning rate ({rows}).")


def rule(
    groups: list[dict[str, Any]], networks: Iterable[nn.Module], config: TrainingConfig
) -> torch.optim.Optimizer | MuonAdamW:
    """The optimizer: torch's AdamW or Muon, or accord's own AdamW for smaller or offloaded states and bfloat16
    weights."""
    betas, host = (config.beta1, 0.999), config.offload_optimizer
    eight_bits = config.optimizer_states == "8bit"
    if config.optimizer == "muon":
        return MuonAdamW(groups, hidden_matrices(networks), config.learning_rate, betas)
    if not (eight_bits or host or any(p.dtype == torch.bfloat16 for group in groups for p in group["params"])):
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)
    return LeanAdamW(groups, config.learning_rate, betas, eight_bits=eight_bits, host=host, seed=config.seed)


@torch.no_grad()
def clip(parameters: Sequence[Tensor], most: float) -> float:
    """Scale gradients, in place, to the Euclidean norm `most` where theirs is larger; returns the norm before.

    With several ranks the norm is over all of them, computed as in torch's `clip_grad_norm_`: a norm of each gradient,
    in its own precision, and the norm of those. torch's own does not support weights in several process groups, such as
    float32 vectors beside bfloat16 matrices.
    """
    team = Team.here()
    if team.size == 1:
        return float(nn.utils.clip_grad_norm_(parameters, most))
    grads = [p.grad for p in parameters if p.grad is not None]
    wide = [torch.promote_types(g.dtype, torch.float32) for g in grads]
    norms = [torch.linalg.vector_norm(local(g), dtype=dtype).double() for g, dtype in zip(grads, wide, strict=True)]
    is_first = [not is_share(g) or shard_coordinates(g)[2] == 0 for g in grads]  # count one copy only (HSDP)
    own = torch.stack([norm * counts for norm, counts in zip(norms, is_first, strict=True)])
    roots = team.all_reduce(own.square()).sqrt()
    norm = torch.linalg.vector_norm(torch.stack([root.to(g.dtype) for g, root in zip(grads, roots, strict=True)]))
    scale = torch.clamp(most / (norm + 1e-6), max=1.0)
    for g in grads:
        local(g).mul_(scale)
    return float(norm)


def _loss_not_finite(when: str, rows: str) -> str:
    return (
        f"{when}: the loss of {rows} is not finite, so the run has stopped with its weights as they were; look at "
        "these rows, or lower the learning rate."
    )
