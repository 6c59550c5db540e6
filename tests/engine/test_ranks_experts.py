"""Of more ranks than experts each has some rows of every expert, and makes the steps of one process with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MixtralConfig

from accord.engine import adam, checkpoint
from accord.engine.adam import round_stochastically
from accord.engine.checkpoint import RankFiles
from accord.engine.config import TrainingConfig
from accord.engine.fit import Optimizer
from accord.engine.groups import axis_of, mesh_of
from accord.engine.load import load_model
from accord.engine.memory import prepare_training
from accord.engine.shard import gathered, local, shard, shard_from_rows, sharing
from accord.engine.team import Team
from accord.methods import SFT
from accord.methods.offline import OfflineLearner
from tests.data.conftest import word_tokenizer
from tests.engine.stepped import states_of, steps, whole
from tests.engine.test_ranks_half import TREES
from tests.engine.tiny import VOCABULARY, policy_of, random_model
from tests.trust.forked import in_team

STEPS = 3
WIDTHS = {"double": (24, 12), "mixed": (16, 12), "half": (24, 12), "eight": (768, 96)}
"""Hidden and inner: of (2, 2 inner, hidden) and (2, hidden, inner) three ranks share the second axis, of mixed of the
first block alone. Rows of the last are whole blocks of 256."""
MORE: dict[str, dict[str, Any]] = {
    "half": {"dtype": "bfloat16", "weight_dtype": "bfloat16"}, "eight": {"optimizer_states": "8bit"},
}  # fmt: skip


def config_of(name: str, experts: int = 2) -> MixtralConfig:
    hidden, inner = WIDTHS[name]
    return MixtralConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=VOCABULARY, num_local_experts=experts, num_experts_per_tok=experts, eos_token_id=0,
        attn_implementation="eager", experts_implementation="eager",
    )  # fmt: skip


def made(name: str, experts: int = 2) -> tuple[OfflineLearner, Optimizer]:
    """A method at work, each of two rows a step a pass of its own."""
    given = {"batch_size": 2, "max_steps": STEPS, "learning_rate": 1e-3, "tokens_per_pass": 1, "dtype": "float32"}
    method = SFT(**{**given, **MORE.get(name, {})}, max_grad_norm=math.inf, router_aux_loss_coefficient=0.0)
    policy = policy_of(random_model(config_of(name, experts), dtype=torch.float32 if name in MORE else torch.float64))
    prepare_training(policy.in_dtype(method.dtype), method)
    learner = OfflineLearner(method, policy.in_dtype(method.dtype), TREES).learn_from(TREES, None)
    return learner, Optimizer(learner.networks, method, STEPS)


def work(folder: Path, stopped: Path | None = None) -> None:
    """What one process does, or a rank: all steps, with a checkpoint after two; and the last from another's."""
    found = {}
    for name in WIDTHS:
        learner, optimizer = made(name)
        steps(learner, optimizer, 0, 2)
        checkpoint.save(folder / name, 2, optimizer, {})
        found[f"{name} state"] = states_of(optimizer) | whole(optimizer.named_parameters())
        found[name] = steps(learner, optimizer, 2, STEPS)
        held = {key: local(p).numel() / p.numel() for key, p in optimizer.named_parameters().items() if p.dim() == 3}
        found[f"{name} share"] = {key: torch.tensor(share) for key, share in held.items()}
        if stopped:
            learner, optimizer = made(name)
            checkpoint.load(checkpoint.checkpoints(stopped / name)[-1], optimizer)
            found[f"{name} read"] = states_of(optimizer) | whole(optimizer.named_parameters())
            found[f"{name} gone on"] = steps(learner, optimizer, 2, STEPS)
    policy = load_model(str(folder.parent / "model"), in_shares=True)
    found["loaded"] = whole(dict(shard(policy.network).named_parameters()))
    policy.save(folder / "saved")
    if Team.here().leads:
        for name, tensors in found.items():
            save_file(tensors, folder / f"{name}.safetensors")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """What one process made, and two and three ranks, each of which went on from another's checkpoint."""
    pytest.importorskip("bitsandbytes")
    home = tmp_path_factory.mktemp("experts")
    found = {size: home / f"ranks-{size}" for size in (1, 2, 3)}
    policy = policy_of(random_model(config_of("double"), dtype=torch.float32))
    policy.tokenizer = word_tokenizer()
    policy.save(home / "model")
    work(found[1])
    in_team(3, lambda team: work(found[3], found[1]))
    in_team(2, lambda team: work(found[2], found[3]))
    work(found[1], found[3])
    return found


def read(folder: Path, name: str) -> dict[str, Tensor]:
    return load_file(folder / f"{name}.safetensors")


def near(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(
        float((found[k] - tensor).abs().max()) <= 1e-10 * float(tensor.abs().max()) for k, tensor in expected.items()
    )


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Bit for bit, but for what is logged, of which norms are summed otherwise."""
    assert found.keys() == expected.keys()
    return all(torch.equal(found[key], tensor) for key, tensor in expected.items() if key != "numbers")


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ["double", "mixed"])
def test_steps_are_those_of_one_process(name: str, size: int, folders: dict[int, Path]) -> None:
    assert near(read(folders[size], f"{name} state"), read(folders[1], f"{name} state"))
    assert near(read(folders[size], name), read(folders[1], name))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", MORE)
def test_bits_are_those_of_one_process(name: str, size: int, folders: dict[int, Path]) -> None:
    """Weights in bfloat16, rounded at random, and states in 8 bits."""
    assert same(read(folders[size], f"{name} state"), read(folders[1], f"{name} state"))
    assert same(read(folders[size], name), read(folders[1], name))


@pytest.mark.parametrize(("reader", "writer"), [(3, 1), (2, 3), (1, 3)])
@pytest.mark.parametrize("name", WIDTHS)
def test_checkpoints_are_read_by_another_number_of_ranks(
    name: str, reader: int, writer: int, folders: dict[int, Path]
) -> None:
    assert same(read(folders[reader], f"{name} read"), read(folders[writer], f"{name} state"))
    compare = same if name in MORE else near
    assert compare(
        read(folders[reader], f"{name} gone on"),
        read(folders[writer], name) | {"numbers": read(folders[reader], f"{name} gone on")["numbers"]},
    )


def test_a_rank_holds_its_part_of_every_expert(folders: dict[int, Path]) -> None:
    shares = {name: read(folders[3], f"{name} share") for name in WIDTHS}
    assert all(
        float(share) == pytest.approx(1 / 3) for name in WIDTHS if name != "mixed" for share in shares[name].values()
    )
    mixed = {key.rsplit(".", 1)[-1]: float(share) for key, share in shares["mixed"].items()}
    assert mixed == {"gate_up_proj": pytest.approx(1 / 3), "down_proj": 0.5}  # of which the third rank has nothing
    assert {float(share) for share in read(folders[2], "double share").values()} == {0.5}


def test_files_say_by_which_axis_they_are_put_together(folders: dict[int, Path]) -> None:
    [folder] = (folders[3] / "mixed").iterdir()
    parts = RankFiles(folder, "model", [file.name for file in folder.iterdir()])
    axes = {key.rsplit(".", 1)[-1]: axis for key, axis in parts._axes.items()}
    assert axes == {"gate_up_proj": 1}


def test_rows_of_experts_are_read_and_written(folders: dict[int, Path]) -> None:
    expected = dict(load_model(str(folders[1].parent / "model")).network.named_parameters())
    for size in (2, 3):
        assert same(read(folders[size], "loaded"), {name: p.detach() for name, p in expected.items()})
        assert (folders[size] / "saved" / "model.safetensors").read_bytes() == (
            folders[1].parent / "model" / "model.safetensors"
        ).read_bytes()


def test_two_of_four_ranks_share_the_rows_of_one_expert(tmp_path: Path) -> None:
    """Copies of a model, of two ranks each (HSDP)."""

    def work(team: Team) -> None:
        with sharing(TrainingConfig(shard_ranks=2)):
            learner, optimizer = made("mixed", experts=1)
            found = steps(learner, optimizer, 0, STEPS)
            held = {local(p).numel() / p.numel() for p in optimizer.parameters() if p.dim() == 3}
        if team.leads:
            assert held == {0.5}
            save_file(found, tmp_path / "found.safetensors")

    in_team(4, work)
    assert near(read(tmp_path, "found"), steps(*made("mixed", experts=1), 0, STEPS))


@given(st.integers(1, 9), st.integers(1, 60), st.integers(1, 12))
def test_the_second_axis_is_taken_where_it_serves(experts: int, rows: int, ranks: int) -> None:
    is_second = experts < ranks and rows % ranks == 0
    assert axis_of((experts, rows, 5), ranks) == int(is_second)
    assert axis_of((experts, rows), ranks) == 0


def test_ranks_round_their_rows_of_every_expert_as_those_of_the_whole(tmp_path: Path) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    weight = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))

    def work(team: Team) -> None:
        share = distribute_tensor(weight, mesh_of("cpu", team.size), [Shard(1)], src_data_rank=None)
        rows = round_stochastically(local(share), torch.Generator().manual_seed(1), share)
        found = gathered(shard_from_rows(rows, share, tuple(weight.shape))).contiguous()
        if team.leads:
            save_file({"rounded": found}, tmp_path / "rounded.safetensors")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adam, "DRAWN", 30)  # an expert at a time
        in_team(3, work)
    expected = round_stochastically(weight, torch.Generator().manual_seed(1))
    assert torch.equal(read(tmp_path, "rounded")["rounded"], expected)
