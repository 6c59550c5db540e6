"""Muon on ranks: each orthogonalizes whole matrices that are dealt out, and the steps are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim._muon import _zeropower_via_newtonschulz

from accord.engine import checkpoint
from accord.engine.config import TrainingConfig
from accord.engine.fit import Optimizer
from accord.engine.muon import orthogonalized
from accord.engine.shard import local, part_of, sharing
from accord.engine.team import Team
from accord.methods import DPO, SFT
from accord.methods.offline import OfflineLearner
from tests.engine.stepped import states_of, steps
from tests.engine.test_ranks_casts import TREES
from tests.engine.tiny import CONFIGS, policy_of, random_model
from tests.trust.forked import in_team

STEPS = 3
CASES: dict[str, tuple[str, Any]] = {
    "llama": ("llama", DPO), "qwen3": ("qwen3", DPO), "gpt2": ("gpt2", SFT), "mamba": ("mamba", SFT)
}  # fmt: skip
"""With 14 matrices, which 3 and 4 ranks cannot deal out evenly; with weights that lie on their side; with few."""


def made(name: str, **given: Any) -> tuple[OfflineLearner, Optimizer]:
    """A method at work with Muon, in float64 where the architecture computes in it."""
    architecture, kind = CASES[name]
    method = kind(
        batch_size=4, max_steps=STEPS, learning_rate=1e-2, tokens_per_pass=12, dtype="float32", weight_decay=0.1,
        max_grad_norm=0.5, optimizer="muon", **given,
    )  # fmt: skip
    dtype = torch.float32 if name == "mamba" else torch.float64
    policy = policy_of(random_model(CONFIGS[architecture](), dtype=dtype))
    learner = OfflineLearner(method, policy, TREES).learn_from(TREES, None)
    return learner, Optimizer(learner.networks, method, STEPS)


def work(folder: Path, stopped: Path | None = None, **given: Any) -> None:
    """What one process does, or a rank: all steps, with a checkpoint after two; and the last from another's."""
    found = {}
    with sharing(TrainingConfig(**given)):
        for name in CASES:
            learner, optimizer = made(name, **given)
            steps(learner, optimizer, 0, 2)
            if name == "llama":
                checkpoint.save(folder / "checkpoints", 2, optimizer, {})
                found["state"] = states_of(optimizer)
                buffers = [t for state in optimizer.rule.state.values() for t in state.values() if t.dim() == 2]
                found["held"] = {"numbers": torch.tensor(sum(local(t).numel() for t in buffers))}
            found[name] = steps(learner, optimizer, 2, STEPS)
        if stopped:
            learner, optimizer = made("llama", **given)
            checkpoint.load(checkpoint.checkpoints(stopped)[-1], optimizer)
            found["read"] = states_of(optimizer)
            found["gone on"] = steps(learner, optimizer, 2, STEPS)
    if Team.here().leads:
        for name, tensors in found.items():
            save_file(tensors, folder / f"{name}.safetensors")


RANKS: dict[int, dict[str, Any]] = {2: {}, 3: {}, 4: {"shard_ranks": 2}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """What one process made, and so many ranks, four of them with two copies of the model."""
    found = {size: tmp_path_factory.mktemp(f"ranks-{size}") for size in (1, *RANKS)}
    work(found[1])
    for size, given_ in RANKS.items():
        in_team(size, lambda team, size=size, given_=given_: work(found[size], found[1] / "checkpoints", **given_))  # type: ignore[misc]
    work(found[1], found[3] / "checkpoints")
    return found


def tensors(folder: Path, name: str) -> dict[str, Tensor]:
    return load_file(folder / f"{name}.safetensors")


@pytest.mark.parametrize("size", RANKS)
@pytest.mark.parametrize("name", [*CASES, "gone on"])
def test_steps_are_those_of_one_process(name: str, size: int, folders: dict[int, Path]) -> None:
    """In float64 to rounding, which the iteration in bfloat16 does not see. Gradients of float32 may round otherwise in
    bfloat16: then an update, of 2e-3 a number, differs by some hundredths."""
    found, expected = tensors(folders[size], name), tensors(folders[1], "llama" if name == "gone on" else name)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        far = float((found[key] - tensor).abs().max())
        assert far <= (1e-4 if name == "mamba" else 1e-10) * float(tensor.abs().max()), key


@pytest.mark.parametrize(("reader", "writer"), [(2, 1), (3, 1), (4, 1), (1, 3)])
def test_checkpoints_are_read_by_another_number_of_ranks(reader: int, writer: int, folders: dict[int, Path]) -> None:
    read, state = tensors(folders[reader], "read"), tensors(folders[writer], "state")
    assert read.keys() == state.keys() and all(torch.equal(read[name], tensor) for name, tensor in state.items())


def test_a_rank_holds_its_rows_of_the_mean_gradients(folders: dict[int, Path]) -> None:
    held = {size: int(tensors(folder, "held")["numbers"]) for size, folder in folders.items()}
    assert held[2] == held[4] and held[1] / 2 <= held[2] <= 0.53 * held[1]


@pytest.mark.parametrize("shape", [(16, 24), (24, 16), (7, 3), (1, 5)])
def test_what_is_orthogonalized_is_what_torch_s_muon_has(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = _zeropower_via_newtonschulz(matrix, (3.4445, -4.775, 2.0315), 5, 1e-7)
    assert torch.equal(orthogonalized(matrix.bfloat16()), expected)


@given(st.integers(0, 40), st.integers(1, 9))
def test_parts_are_consecutive_and_all(rows: int, parts: int) -> None:
    ranges = [part_of(rows, part, parts) for part in range(parts)]
    assert [row for first, last in ranges for row in range(first, last)] == list(range(rows))
