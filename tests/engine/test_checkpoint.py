"""Checkpoints: bit for bit there and back, damage told in one sentence, and never more than two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from accord.engine import checkpoint
from accord.engine.config import TrainingConfig
from accord.engine.fit import LossTerm, Measures, Optimizer
from accord.engine.forward import log_probabilities, prepare
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from tests.engine.tiny import CONFIGS, random_model

TREES = [Tree((1, 2), (Branch((3, 4, 0)), Branch((5, 0)))), Tree((6,), (Branch((7, 8, 9, 0)),))]


def optimizer(seed: int = 1, names: tuple[str, ...] = ("policy", "value"), kind: str = "gpt2") -> Optimizer:
    """Two float32 networks of their own weights; GPT-2 ties its output layer to its embedding."""
    networks = {n: prepare(random_model(CONFIGS[kind](), seed + i, torch.float32)) for i, n in enumerate(names)}
    return Optimizer(networks, TrainingConfig(learning_rate=1e-2, dtype="float32", warmup=0.0), total=8)


def train(engine: Optimizer, steps: range) -> None:
    def loss(trees: Trees) -> tuple[Tensor, Measures]:
        return -sum(log_probabilities(network, trees)[0] for network in engine.networks.values()), {}

    for step in steps:
        engine.update(step, LossTerm(loss, [Trees.of(TREES)], "token"))


def weights(engine: Optimizer) -> dict[str, Tensor]:
    return {f"{n}.{k}": v for n, network in engine.networks.items() for k, v in network.state_dict().items()}


def moments(engine: Optimizer) -> list[Mapping[str, Tensor]]:
    return [engine.rule.state[p] for p in engine.parameters()]


def test_there_and_back_bit_for_bit(tmp_path: Path) -> None:
    straight = optimizer()
    train(straight, range(3))
    saved = checkpoint.save(tmp_path, 3, straight, {"kl_coefficient": 0.1})
    restored = optimizer(seed=7)
    assert checkpoint.load(saved, restored) == (3, {"kl_coefficient": 0.1})
    for a, b in zip(moments(straight), moments(restored), strict=True):
        assert a.keys() == b.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(a[k], b[k]) for k in a)
    written = {file.name: file.read_bytes() for file in saved.iterdir()}
    train(straight, range(3, 6))
    train(restored, range(3, 6))
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == written  # going on changes nothing on disk
    assert all(torch.equal(weights(restored)[k], v) for k, v in weights(straight).items())


@pytest.mark.parametrize("offload", [False, True])
def test_moments_in_host_memory_are_read_into_it(offload: bool, tmp_path: Path) -> None:
    engine = optimizer(names=("policy",))
    train(engine, range(1))
    saved = checkpoint.save(tmp_path, 1, engine, {})
    engine.config = replace(engine.config, offload_optimizer=offload)
    engine.device = torch.device("meta")  # in place of a GPU
    checkpoint.load(saved, engine)
    assert {tensor.is_meta for state in moments(engine) for tensor in state.values()} == {not offload}


def test_before_the_first_step_there_are_no_moments(tmp_path: Path) -> None:
    engine = optimizer()
    saved = checkpoint.save(tmp_path, 0, engine, {})
    restored = optimizer(seed=7)
    assert checkpoint.load(saved, restored) == (0, {})
    train(engine, range(2))
    train(restored, range(2))
    assert all(torch.equal(weights(restored)[k], v) for k, v in weights(engine).items())


def test_the_last_two_are_kept_and_halves_are_not_found(tmp_path: Path) -> None:
    engine = optimizer(names=("model",))
    for step in (2, 4, 10):
        checkpoint.save(tmp_path, step, engine, {})
    (tmp_path / ".step-0000012").mkdir()
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-0000004", "step-0000010"]
    checkpoint.save(tmp_path, 12, engine, {})
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-0000010", "step-0000012"]
    assert checkpoint.checkpoints(tmp_path / "none") == []


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 2, optimizer(seed=1), {})
    later = optimizer(seed=5)
    restored = optimizer(seed=1)
    checkpoint.load(checkpoint.save(tmp_path, 2, later, {}), restored)
    assert all(torch.equal(weights(restored)[k], v) for k, v in weights(later).items())


def told(saved: Path, engine: Optimizer) -> str:
    before = {k: v.clone() for k, v in weights(engine).items()}
    with pytest.raises(InputError) as raised:
        checkpoint.load(saved, engine)
    assert all(torch.equal(weights(engine)[k], v) for k, v in before.items())
    return str(raised.value)


def test_a_file_that_is_not_as_it_was_written_is_named(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, 3, optimizer(), {})
    file = saved / "policy.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:1000], b"", whole[:-1] + bytes([whole[-1] ^ 1]), bytes([whole[0] ^ 64]) + whole[1:]):
        file.write_bytes(damaged)
        assert told(saved, optimizer()) == f"the checkpoint file {file} is not as it was written"
    file.unlink()
    assert told(saved, optimizer()) == f"the checkpoint {saved} lacks policy.safetensors"
    file.write_bytes(whole)
    assert checkpoint.load(saved, optimizer())[0] == 3


@pytest.mark.parametrize("content", [None, "", '{"step": 3', '{"step": 3, "state": {}}', "[1]", "[" * 100_000])
def test_a_state_that_cannot_be_read_is_named(content: str | None, tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, 3, optimizer(), {})
    (saved / "state.json").unlink()
    if content is not None:
        (saved / "state.json").write_text(content)
    assert told(saved, optimizer()) == f"the checkpoint {saved} has no readable state.json"


def test_a_state_that_somebody_changed_is_named(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, 3, optimizer(), {"kl_coefficient": 0.1, "of": {1: "a"}})
    state = saved / "state.json"
    whole = state.read_text()
    for was, becomes in (('"step": 3', '"step": 4'), ("0.1", "0.2"), (checkpoint.MOMENTS, "moments.safetensors")):
        assert was in whole
        state.write_text(whole.replace(was, becomes))
        assert told(saved, optimizer()) == f"the checkpoint {saved} has a state.json that is not as it was written"
    state.write_text(whole)
    assert checkpoint.load(saved, optimizer()) == (3, {"kl_coefficient": 0.1, "of": {"1": "a"}})


def test_what_is_no_checkpoint_is_not_found_and_a_future_stepped_back_from_goes(tmp_path: Path) -> None:
    engine = optimizer(names=("model",))
    for stray in ("step-old", "step-12", "step-0000003.bak"):
        (tmp_path / stray).mkdir(parents=True)
    (tmp_path / "step-0000004").write_text("a file")
    for step in (2, 10):
        checkpoint.save(tmp_path, step, engine, {})
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-0000002", "step-0000010"]
    checkpoint.save(tmp_path, 5, engine, {})
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-0000002", "step-0000005"]
    assert checkpoint._step(tmp_path / "step-10000000") > checkpoint._step(tmp_path / "step-9999999")


@pytest.mark.parametrize("other", [{"kind": "llama"}, {"names": ("model",)}])
def test_another_model_is_refused(other: dict[str, str], tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, 3, optimizer(), {})
    message = f"{saved} belongs to another model than the one given; give the same --model as before."
    assert told(saved, optimizer(**other)) == message


def test_networks_stay_apart(tmp_path: Path) -> None:
    engine = optimizer()
    train(engine, range(1))
    restored = optimizer(seed=9)
    checkpoint.load(checkpoint.save(tmp_path, 1, engine, {}), restored)
    saved, read = (
        [torch.cat([p.flatten() for p in n.parameters()]) for n in e.networks.values()] for e in (engine, restored)
    )
    assert not torch.equal(*saved) and all(map(torch.equal, read, saved))
