"""Ranks that hold AdamW's numbers in 8 bits hold what one process does, of their rows; and read what it wrote."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig

from accord.engine import checkpoint
from accord.engine.adam import LeanAdamW
from accord.engine.fit import Optimizer
from accord.engine.memory import Shape
from accord.engine.shard import gathered, local, shard_from_rows
from accord.engine.shares import Groups, rank_memory
from accord.engine.team import Team
from accord.methods import SFT
from accord.methods.offline import OfflineLearner
from tests.engine.test_ranks_half import TREES
from tests.engine.tiny import VOCABULARY, policy_of, random_model
from tests.trust.forked import in_team

pytest.importorskip("bitsandbytes")

STEPS = 3
INNER = {"even": 256, "odd": 200}
"""Numbers of a row of `down_proj`: a block of 256, or less, across whose rows one process's blocks go."""


def config_of(name: str) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=256, intermediate_size=INNER[name], num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=1, vocab_size=VOCABULARY, eos_token_id=0, attn_implementation="eager",
    )  # fmt: skip


def made(name: str) -> tuple[OfflineLearner, Optimizer]:
    """A method at work with two passes a step, whose gradients add up to the same in any order."""
    method = SFT(
        batch_size=2, max_steps=STEPS, learning_rate=1e-2, tokens_per_pass=1, dtype="float32", optimizer_states="8bit",
        max_grad_norm=math.inf,
    )  # fmt: skip
    policy = policy_of(random_model(config_of(name), dtype=torch.float32))
    learner = OfflineLearner(method, policy, TREES).learn_from(TREES, None)
    return learner, Optimizer(learner.networks, method, STEPS)


def steps(learner: OfflineLearner, optimizer: Optimizer, first: int, last: int) -> dict[str, Tensor]:
    """The weights after so many steps."""
    for step in range(first, last):
        learner.step(step, learner.batch(step), optimizer)
    return {name: gathered(p.detach()).clone().contiguous() for name, p in optimizer.named_parameters().items()}


def moments(optimizer: Optimizer) -> dict[str, Tensor]:
    """What AdamW reads of every weight, whole."""
    rule = optimizer.rule
    assert isinstance(rule, LeanAdamW)
    return {
        f"{key} of {name}": gathered(shard_from_rows(rule.read(rule.state[p], key, p), p, tuple(p.shape)))
        .clone()
        .contiguous()
        for name, p in optimizer.named_parameters().items()
        for key in ("exp_avg", "exp_avg_sq_root")
    }


def work(folder: Path, stopped: Path | None = None) -> None:
    """What one process does, or a rank: all steps, with a checkpoint after two; and the last from another's."""
    found: dict[str, dict[str, Tensor]] = {}
    for name in INNER:
        learner, optimizer = made(name)
        steps(learner, optimizer, 0, 2)
        checkpoint.save(folder / name, 2, optimizer, {})
        found[f"{name} moments"] = moments(optimizer)
        states = [local(t) for state in optimizer.rule.state.values() for t in state.values()]
        found[f"{name} bytes"] = {"bytes": torch.tensor(sum(t.nbytes for t in states))}
        found[f"{name} whole"] = steps(learner, optimizer, 2, STEPS)
        if stopped:
            learner, optimizer = made(name)
            checkpoint.load(checkpoint.checkpoints(stopped / name)[-1], optimizer)
            found[f"{name} read"] = moments(optimizer)
            found[f"{name} gone on"] = steps(learner, optimizer, 2, STEPS)
    if Team.here().leads:
        for name, tensors in found.items():
            save_file(tensors, folder / f"{name}.safetensors")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """What one process made, and two and three ranks, each of which went on from another's checkpoint."""
    found = {size: tmp_path_factory.mktemp(f"ranks-{size}") for size in (1, 2, 3)}
    work(found[1])
    in_team(2, lambda team: work(found[2], found[1]))
    in_team(3, lambda team: work(found[3], found[2]))
    work(found[1], found[3])
    return found


def same(found: Path, expected: Path, name: str, like: str) -> bool:
    one, other = load_file(found / f"{name}.safetensors"), load_file(expected / f"{like}.safetensors")
    return one.keys() == other.keys() and all(torch.equal(one[key], tensor) for key, tensor in other.items())


@pytest.mark.parametrize("size", [2, 3])
def test_steps_are_those_of_one_process_bit_for_bit(size: int, folders: dict[int, Path]) -> None:
    """Where rows are whole blocks, which three ranks share unevenly."""
    assert same(folders[size], folders[1], "even moments", "even moments")
    assert same(folders[size], folders[1], "even whole", "even whole")


@pytest.mark.parametrize(("reader", "writer"), [(2, 1), (3, 2), (1, 3)])
@pytest.mark.parametrize("name", INNER)
def test_states_are_read_by_another_number_of_ranks(
    name: str, reader: int, writer: int, folders: dict[int, Path]
) -> None:
    if (name, reader) == ("odd", 1):  # one process holds in 8 bits what it read in float32 once it has updated it
        assert same(folders[1], folders[3], "odd read", "odd moments")
    else:
        assert same(folders[reader], folders[writer], f"{name} read", f"{name} moments")
    if name == "even" or writer > 1 < reader:
        assert same(folders[reader], folders[writer], f"{name} gone on", f"{name} whole")


@pytest.mark.parametrize("name", INNER)
def test_what_a_rank_holds_is_what_is_planned(name: str, folders: dict[int, Path]) -> None:
    config, method = config_of(name), SFT(batch_size=2, optimizer_states="8bit")
    groups = Groups.of(config, method, torch.float32)
    shape = Shape(1, 1, 1, 1, 0, 1, 1, 1, 1, 0.0, 0.0)
    for size in (2, 3):
        found = int(load_file(folders[size] / f"{name} bytes.safetensors")["bytes"])
        assert rank_memory(shape, groups, method, torch.float32, size, tokens=1)["optimizer"] == found
