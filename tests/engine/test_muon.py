"""Muon by hand: which weights it moves, how far, and that it goes on as it was."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accord.engine import checkpoint, memory
from accord.engine.fit import LossTerm, Measures, Optimizer
from accord.engine.forward import log_probabilities, prepare
from accord.engine.muon import MuonAdamW, hidden_matrices
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from accord.methods import DPO, SFT
from tests.engine.test_fit import optimizer
from tests.engine.tiny import CONFIGS, random_model

TREES = [Tree((1, 2), (Branch((3, 4, 0)), Branch((5, 0)))), Tree((6,), (Branch((7, 8, 9, 0)),))]


class Layers(nn.Module):
    """One matrix in a list of layers, and one outside, with given gradients."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.inner = nn.ModuleList([nn.Linear(columns, rows, bias=False)])
        self.outer = nn.Linear(columns, rows)

    def moved(self, gradient: Tensor) -> Any:
        """A loss whose gradient is the same for both matrices."""

        def loss(trees: Trees) -> tuple[Tensor, Measures]:
            total = (gradient * self.inner[0].weight).sum() + (gradient * self.outer.weight).sum()  # type: ignore[operator]
            return total.expand(len(trees.target)) + 0 * self.outer.bias.sum(), {}

        return LossTerm(loss, [Trees.of([Tree((1,), (Branch((1,)),))])], "token")


def newton_schulz(matrix: Tensor) -> Tensor:
    """U f(f(f(f(f(S / |S|))))) V^T with f(s) = 3.4445 s - 4.775 s^3 + 2.0315 s^5: the iteration, on singular values."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    return left @ torch.diag(values) @ right


@pytest.mark.parametrize(("rows", "columns"), [(6, 4), (4, 6)])
def test_two_steps_are_those_of_the_paper(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    network = Layers(rows, columns).double()
    before = network.inner[0].weight.detach().clone()
    engine = optimizer(network, optimizer="muon", learning_rate=0.1, weight_decay=0.5)
    gradients = [torch.randn(rows, columns, dtype=torch.float64) for _ in range(2)]
    expected, mean = before, torch.zeros_like(before)
    for step, gradient in enumerate(gradients):
        engine.update(step, network.moved(gradient))
        mean = 0.95 * mean + 0.05 * gradient
        direction = newton_schulz(0.05 * gradient + 0.95 * mean)
        expected = (1 - 0.1 * 0.5) * expected - 0.1 * 0.2 * math.sqrt(6) * direction
    # The iteration is in bfloat16, eight bits, five times over; an update is 0.05 in each singular direction.
    moved = network.inner[0].weight.detach()
    assert (moved - expected).norm() < 0.03 * (expected - before).norm()


def test_what_is_not_inside_a_layer_moves_by_adamw() -> None:
    torch.manual_seed(0)
    muon, adamw = Layers(6, 4), Layers(6, 4)
    adamw.load_state_dict(muon.state_dict())
    gradient = torch.randn(6, 4)
    for name, network in (("muon", muon), ("adamw", adamw)):
        engine = optimizer(network, optimizer=name, weight_decay=0.5)
        for step in range(3):
            engine.update(step, network.moved(gradient))
    assert torch.equal(muon.outer.weight, adamw.outer.weight)
    assert not torch.allclose(muon.inner[0].weight, adamw.inner[0].weight, atol=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "maps"), [("llama", 7), ("gpt2", 4)])
def test_the_hidden_matrices_are_those_of_the_layers(kind: str, maps: int) -> None:
    network = prepare(random_model(CONFIGS[kind]()))
    layers = network.config.num_hidden_layers
    found = {id(p) for p in hidden_matrices([network, network])}
    named = {name: p for name, p in network.named_parameters() if id(p) in found}
    assert len(named) == maps * layers
    assert all(p.dim() == 2 and (".layers." in name or ".h." in name) for name, p in named.items())


def test_the_learning_rate_reaches_both() -> None:
    engine = optimizer(Layers(6, 4), optimizer="muon", schedule="linear", learning_rate=0.4, total=4)
    assert isinstance(engine.rule, MuonAdamW)
    engine.update(3, engine.networks["model"].moved(torch.ones(6, 4)))  # type: ignore[operator]
    assert [group["lr"] for group in engine.rule.param_groups] == pytest.approx([0.1, 0.1, 0.1])
    decays = {tuple(p.shape for p in group["params"]): group["weight_decay"] for group in engine.rule.param_groups}
    assert decays == {((6, 4),): 0.0, ((6,),): 0.0}


def trained(steps: range, engine: Optimizer) -> Optimizer:
    def loss(trees: Trees) -> tuple[Tensor, Measures]:
        return -log_probabilities(engine.networks["model"], trees)[0], {}

    for step in steps:
        engine.update(step, LossTerm(loss, [Trees.of(TREES)], "token"))
    return engine


def test_there_and_back_bit_for_bit(tmp_path: Path) -> None:
    def fresh(seed: int) -> Optimizer:
        network = prepare(random_model(CONFIGS["llama"](), seed, torch.float32))
        return optimizer(network, optimizer="muon", learning_rate=1e-2)

    straight = trained(range(3), fresh(1))
    saved = checkpoint.save(tmp_path, 3, straight, {})
    restored = fresh(7)
    checkpoint.load(saved, restored)
    trained(range(3, 6), straight)
    trained(range(3, 6), restored)
    weights = restored.networks["model"].state_dict()
    assert all(torch.equal(weights[name], w) for name, w in straight.networks["model"].state_dict().items())


def test_it_needs_one_number_a_weight_of_the_layers() -> None:
    shape = memory.Shape.of(CONFIGS["llama"](), SFT(dtype="float32"), torch.float32)
    adamw, muon = (
        memory.training_memory(shape, SFT(dtype="float32", optimizer=name), torch.float32)["optimizer"]  # type: ignore[arg-type]
        for name in ("adamw", "muon")
    )
    network = random_model(CONFIGS["llama"]())
    hidden = sum(p.numel() for p in hidden_matrices([network]))
    everything = sum(p.numel() for p in network.parameters())
    assert (adamw, muon) == (8 * everything, 8 * everything - 4 * hidden)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": 4}, "optimizer muon is for whole weights"),
        ({"optimizer_states": "8bit"}, "float32 weights; optimizer_states is for adamw"),
        ({"weight_dtype": "bfloat16"}, "float32 weights; weight_dtype is for adamw"),
        ({"offload_optimizer": True}, "float32 weights; offload_optimizer is for adamw"),
    ],
)
def test_what_only_adamw_has_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DPO(optimizer="muon", **settings)


def test_a_model_without_such_matrices_is_refused() -> None:
    with pytest.raises(InputError, match="optimizer muon: this model has no matrices inside layers"):
        optimizer(nn.Linear(2, 2), optimizer="muon")
