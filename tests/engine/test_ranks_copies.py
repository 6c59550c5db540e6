"""Ranks that hold several copies of a model, each shared by some of them (HSDP), make the steps of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from accord.engine import checkpoint
from accord.engine.config import TrainingConfig
from accord.engine.fit import Optimizer
from accord.engine.shard import gathered, local, sharing
from accord.engine.team import Team
from accord.errors import InputError
from accord.methods import DPO
from accord.methods.offline import OfflineLearner
from tests.engine.test_ranks_casts import TREES as FEW
from tests.engine.tiny import CONFIGS, policy_of, random_model
from tests.trust.forked import in_team

TREES = [*FEW, *FEW, FEW[0]]
"""Nine rows, each a pass: two and a bit for each of four ranks."""
STEPS = 3


def made(**given: Any) -> tuple[OfflineLearner, Optimizer]:
    config = CONFIGS["llama"]()
    config.tie_word_embeddings = True
    method = DPO(
        batch_size=9, max_steps=STEPS, learning_rate=1e-3, tokens_per_pass=1, dtype="float32", weight_decay=0.1, **given
    )
    learner = OfflineLearner(method, policy_of(random_model(config)), TREES).learn_from(TREES, None)
    return learner, Optimizer(learner.networks, method, STEPS)


def steps(learner: OfflineLearner, optimizer: Optimizer, first: int = 0, last: int = STEPS) -> dict[str, Tensor]:
    """Losses and gradient norms, and the weights after so many steps."""
    logged = [learner.step(step, learner.batch(step), optimizer).numbers for step in range(first, last)]
    numbers = [numbers[name] for numbers in logged for name in ("loss", "gradient_norm")]
    weights = {name: gathered(p.detach()).clone() for name, p in optimizer.named_parameters().items()}
    return weights | {"numbers": torch.tensor(numbers, dtype=torch.float64)}


def work(team: Team, folder: Path) -> None:
    given: dict[str, Any] = {"shard_ranks": 2} if team.size > 1 else {}
    with sharing(TrainingConfig(**given)):
        learner, optimizer = made(**given)
        found = {"whole": steps(learner, optimizer, 0, 2)}
        checkpoint.save(folder / "checkpoints", 2, optimizer, {})
        found["last"] = steps(learner, optimizer, 2)
        held = sum(local(p).numel() for p in optimizer.parameters()) / sum(p.numel() for p in optimizer.parameters())
        found["share"] = {"share": torch.tensor(held)}
    if team.size > 1:
        kept: dict[str, Any] = {"reshard_after_forward": False}
        with sharing(TrainingConfig(**kept)):
            learner, optimizer = made(**kept)
            found["kept"] = steps(learner, optimizer, 0, 2)
        with sharing(TrainingConfig()):  # all four share what two had written
            learner, optimizer = made()
            checkpoint.load(checkpoint.checkpoints(folder / "checkpoints")[-1], optimizer)
            found["again"] = steps(learner, optimizer, 2)
        with pytest.raises(InputError, match="which does not divide the 4"), sharing(TrainingConfig(shard_ranks=3)):
            pass
    if team.leads:
        for name, tensors in found.items():
            save_file(tensors, folder / f"{name}.safetensors")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    alone, ranks = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("ranks")
    work(Team(), alone)
    in_team(4, lambda team: work(team, ranks))
    return alone, ranks


@pytest.mark.parametrize(
    ("found", "expected"), [("whole", "whole"), ("last", "last"), ("kept", "whole"), ("again", "last")]
)
def test_steps_are_those_of_one_process(found: str, expected: str, folders: tuple[Path, Path]) -> None:
    theirs, mine = load_file(folders[1] / f"{found}.safetensors"), load_file(folders[0] / f"{expected}.safetensors")
    assert theirs.keys() == mine.keys()
    for name, tensor in mine.items():
        assert float((theirs[name] - tensor).abs().max()) <= 1e-10 * float(tensor.abs().max()), name


def test_two_of_four_ranks_hold_a_copy(folders: tuple[Path, Path]) -> None:
    assert float(load_file(folders[1] / "share.safetensors")["share"]) == pytest.approx(0.5, abs=0.03)
    names = {file.name for file in (folders[1] / "checkpoints" / "step-0000002").iterdir()}
    both = {f"{name}-{part}-of-2.safetensors" for name in ("model", "optimizer") for part in (1, 2)}
    assert names == {"state.json", *both}


@pytest.mark.parametrize("given", [{"shard_ranks": 2}, {"reshard_after_forward": False}])
def test_one_process_shares_nothing(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="is for several ranks"), sharing(TrainingConfig(**given)):
        pass


def test_a_copy_is_of_two_ranks_at_least() -> None:
    with pytest.raises(InputError, match="from 2 on, not 1"):
        TrainingConfig(shard_ranks=1)
