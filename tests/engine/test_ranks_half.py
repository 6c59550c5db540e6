"""Ranks whose weights are bfloat16 make the steps of one process: rounded at random by the same numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.fsdp._fully_shard import _fsdp_common
from torch.distributed.tensor import Shard, distribute_tensor

from accord.engine import adam, checkpoint
from accord.engine.adam import round_stochastically
from accord.engine.fit import Optimizer
from accord.engine.groups import by_precision, mesh_of
from accord.engine.memory import prepare_training
from accord.engine.shard import gathered, local, shard_from_rows
from accord.engine.team import Team
from accord.engine.trees import Branch, Tree
from accord.errors import InputError
from accord.methods import DPO, SFT
from accord.methods.offline import OfflineLearner
from accord.records import Preference
from tests.data.conftest import word_tokenizer
from tests.engine.stepped import states_of, steps, whole
from tests.engine.tiny import CONFIGS, policy_of, random_model
from tests.trust.forked import in_team

STEPS = 3
RUN: dict[str, Any] = {
    "batch_size": 2, "max_steps": 2, "learning_rate": 1e-3, "tokens_per_pass": 1, "dtype": "bfloat16",
    "weight_dtype": "bfloat16", "max_grad_norm": math.inf,
}  # fmt: skip
PAIRS = [Preference("hi", " good day", " bye"), Preference("bye", " good", " hi hi")]
TREES = [Tree((1, 2 + row), tuple(Branch((3, 4 + row, 5 + i, 6)) for i in range(2)), (0, 1), row) for row in range(4)]
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "untied": ("llama", DPO, {}),
    "tied": ("llama", DPO, {"tied": True, "activation_checkpointing": True}),
    "biases": ("gpt2", SFT, {"tied": True}),
    "mamba": ("mamba", SFT, {}),
    "adapters": ("llama", DPO, {"lora_rank": 2}),
    "four passes": ("llama", DPO, {"batch_size": 4}),
}


def learner_of(name: str) -> OfflineLearner:
    """A method at work on weights in bfloat16, each row in a pass of its own, two a step unless it says otherwise."""
    architecture, method, more = CASES[name]
    config = CONFIGS[architecture]()
    config.tie_word_embeddings = more.get("tied", False)
    given = {"batch_size": 2, "max_steps": STEPS, "learning_rate": 1e-3, "tokens_per_pass": 1, "weight_decay": 0.1}
    given |= {name: value for name, value in more.items() if name != "tied"}
    made = method(**given, dtype="bfloat16", weight_dtype="bfloat16", max_grad_norm=math.inf)
    policy = policy_of(random_model(config, dtype=torch.float32)).in_dtype("bfloat16")
    prepare_training(policy, made)
    return OfflineLearner(made, policy, TREES).learn_from(TREES, None)


def work(folder: Path, stopped: Path | None = None) -> None:
    """What one process does, or a rank: all steps, with a checkpoint after two; and the last from another's."""
    found = {}
    for name in CASES:
        learner = learner_of(name)
        optimizer = Optimizer(learner.networks, learner.method, STEPS)
        before = steps(learner, optimizer, 0, 2)
        if name == "tied":
            checkpoint.save(folder / "checkpoints", 2, optimizer, {})
            found["state"] = states_of(optimizer) | whole(optimizer.named_parameters())
        after = steps(learner, optimizer, 2, STEPS)
        found[name] = after | {"numbers": torch.cat([before["numbers"], after["numbers"]])}
        held = [local(p) for p in optimizer.parameters()]
        found[name]["bytes"] = torch.tensor([sum(p.nbytes for p in held), sum(p.numel() for p in held)])
    made = DPO(**RUN, memory="16GB") if Team.here().size > 1 else DPO(**RUN)  # what ranks hold fits, by a plan
    if not (folder / "run").exists():
        made.fit(str(folder.parent / "model"), PAIRS, out=folder / "run", track="none")
    if stopped:
        learner = learner_of("tied")
        optimizer = Optimizer(learner.networks, learner.method, STEPS)
        checkpoint.load(checkpoint.checkpoints(stopped)[-1], optimizer)
        found["read"] = states_of(optimizer) | whole(optimizer.named_parameters())
        found["gone on"] = steps(learner, optimizer, 2, STEPS)
    if Team.here().leads:
        for name, tensors in found.items():
            save_file(tensors, folder / f"{name}.safetensors")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process made, and two ranks, of which each went on from the other's checkpoint."""
    home = tmp_path_factory.mktemp("half")
    alone, ranks = home / "alone", home / "ranks"
    policy = policy_of(random_model(CONFIGS["llama"](), dtype=torch.float32))
    policy.tokenizer = word_tokenizer()
    policy.save(home / "model")
    work(alone)
    in_team(2, lambda team: work(ranks, alone / "checkpoints"))
    work(alone, ranks / "checkpoints")
    return alone, ranks


@pytest.mark.parametrize("name", [name for name in CASES if name != "four passes"])
def test_steps_are_those_of_one_process_bit_for_bit(name: str, folders: tuple[Path, Path]) -> None:
    """With two passes a step: bfloat16 gradients are rounded once, whoever adds them up. Norms are summed otherwise."""
    expected, found = (load_file(folder / f"{name}.safetensors") for folder in folders)
    assert found.keys() == expected.keys()
    assert found["numbers"].tolist() == pytest.approx(expected["numbers"].tolist(), rel=1e-6)
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items() if key not in ("numbers", "bytes"))


def test_a_run_of_a_model_in_a_folder_is_that_of_one_process(folders: tuple[Path, Path]) -> None:
    """Each rank reads its rows, straight into bfloat16, and its plan for memory leaves the settings as they are."""
    weights = [load_file(folder / "run" / "model" / "model.safetensors") for folder in folders]
    start = load_file(folders[0].parent / "model" / "model.safetensors")
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in start)
    assert not torch.equal(weights[0]["model.embed_tokens.weight"].float(), start["model.embed_tokens.weight"])


def test_more_passes_round_their_sum_more_often_in_one_process(folders: tuple[Path, Path]) -> None:
    """Of four bfloat16 gradients one process rounds three sums, and two ranks, which add up two each, one less in a
    row: so an update, of a learning rate or less in each of three steps, differs by its noise and one rounding."""
    expected, found = (load_file(folder / "four passes.safetensors") for folder in folders)
    assert found["numbers"].tolist() == pytest.approx(expected["numbers"].tolist(), rel=2e-2)
    for key, tensor in expected.items():
        if key not in ("numbers", "bytes"):
            spacing = 2.0**-7 * tensor.float().abs().max() if tensor.dtype == torch.bfloat16 else 0.0
            assert float((found[key] - tensor).float().abs().max()) <= STEPS * 1e-3 + spacing, key


@pytest.mark.parametrize(("reader", "writer"), [(0, 1), (1, 0)])
def test_checkpoints_are_read_by_another_number_of_ranks(reader: int, writer: int, folders: tuple[Path, Path]) -> None:
    read, state = load_file(folders[reader] / "read.safetensors"), load_file(folders[writer] / "state.safetensors")
    assert read.keys() == state.keys() and all(torch.equal(read[name], tensor) for name, tensor in state.items())
    went_on = load_file(folders[reader] / "gone on.safetensors")
    whole = load_file(folders[writer] / "tied.safetensors")
    assert all(torch.equal(went_on[key], whole[key]) for key in went_on if key != "numbers")


def test_a_rank_holds_its_share_of_halves(folders: tuple[Path, Path]) -> None:
    held, whole = (load_file(folder / "untied.safetensors")["bytes"].tolist() for folder in (folders[1], folders[0]))
    assert held[0] / held[1] == pytest.approx(whole[0] / whole[1], rel=0.02)
    assert 0.5 <= held[1] / whole[1] < 0.53


SHAPES = [(7, 3), (5,), (2, 3, 4), (1, 9)]


def rounded(shared: bool, drawn: int) -> dict[str, Tensor]:
    """Weights of several shapes rounded one after the other by one generator, or rows of them by ranks."""
    generator, found = torch.Generator().manual_seed(1), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adam, "DRAWN", drawn)
        for i, shape in enumerate(SHAPES):
            weight = torch.randn(shape, generator=torch.Generator().manual_seed(i))
            if shared:
                share = distribute_tensor(weight, mesh_of("cpu", Team.here().size), [Shard(0)], src_data_rank=None)
                rows = round_stochastically(local(share), generator, share)
                found[str(i)] = gathered(shard_from_rows(rows, share, shape)).contiguous()
            else:
                found[str(i)] = round_stochastically(weight, generator)
    return found


@pytest.mark.parametrize(("size", "drawn"), [(2, 6), (3, 10), (3, 1 << 22)])
def test_ranks_round_their_rows_as_those_of_the_whole(size: int, drawn: int, tmp_path: Path) -> None:
    def work(team: Team) -> None:
        found = rounded(True, drawn)
        if team.leads:
            save_file(found, tmp_path / "rounded.safetensors")

    in_team(size, work)
    found, whole = load_file(tmp_path / "rounded.safetensors"), rounded(False, 1 << 22)
    assert all(torch.equal(found[key], tensor) for key, tensor in whole.items())


def test_the_noise_is_what_one_draw_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = torch.zeros(9, 5, dtype=torch.int32)
    whole = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(adam, "DRAWN", 12)
    assert torch.equal(adam._noise(bits, torch.Generator().manual_seed(2), None), whole)


def test_a_torch_without_groups_of_ranks_for_single_weights_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_fsdp_common, "ShardPlacementResult")
    with pytest.raises(InputError, match=r"weight_dtype bfloat16 on several ranks needs torch 2\.12 or later"):
        by_precision("cpu", 2)
