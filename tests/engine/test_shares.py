"""What each of many ranks holds, against torch's own shares under a process group that does nothing."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, Qwen2Config

from accord.cli.shapes import config_called
from accord.engine import memory
from accord.engine.forward import checkpoint_activations
from accord.engine.models import Policy, prepare_network
from accord.engine.pace import Batch, Passes
from accord.engine.precision import hold_in_bfloat16
from accord.engine.shard import shard
from accord.engine.shares import Groups, held, share, size
from accord.engine.trees import Branch, Tree, Trees, shared
from accord.errors import InputError
from accord.methods import DPO, GRPO, PPO, SFT

SMALL: dict[str, Any] = {
    "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "vocab_size": 515,
}  # fmt: skip


@contextmanager
def pretending(ranks: int) -> Iterator[None]:
    """Within it this process is the first of so many, whose collectives do nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def local_bytes(tensors: list[Tensor]) -> int:
    return sum((t.to_local() if hasattr(t, "to_local") else t).nbytes for t in tensors)


CASES = [
    (LlamaConfig(**SMALL, tie_word_embeddings=False), 2),
    (LlamaConfig(**SMALL, tie_word_embeddings=True), 3),
    (Qwen2Config(**SMALL, tie_word_embeddings=True), 7),
    (LlamaConfig(**SMALL), 64),
    pytest.param(config_called("8B")[0], 64, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("config", "ranks"), CASES, ids=["untied", "tied", "biases", "64", "8B on 64"])
def test_shares_are_those_of_fully_shard_to_the_byte(config: Any, ranks: int, half: bool) -> None:
    with pretending(ranks):
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            network = AutoModelForCausalLM.from_config(config)
            if half:
                hold_in_bfloat16(network)
        shard(network)
        with mode:
            parameters = list(network.parameters())
            for p in parameters:
                p.grad = torch.zeros_like(p)
            like = [nn.Parameter(p.float()) for p in parameters]  # states are of float32 whatever the weights are
            for p in like:
                p.grad = torch.zeros_like(p)
            rule = torch.optim.AdamW(like, fused=True)
            rule.step()
            states = [tensor for state in rule.state.values() for tensor in state.values()]
        found = [local_bytes(parameters), local_bytes([p.grad for p in parameters]), local_bytes(states)]
    method = SFT(batch_size=8, weight_dtype="bfloat16" if half else "float32")
    groups = Groups.of(config).held(method, torch.bfloat16)
    shape = memory.Shape(1, 1, 1, 1, 0, len(groups.layers), 1, 1, 1, 0.0, 0.0)
    parts = held(shape, groups, method, torch.bfloat16, ranks, tokens=1)
    assert [parts["weights"], parts["gradients"], parts["optimizer"]] == found


def test_one_rank_holds_what_doctor_counts() -> None:
    config = LlamaConfig(**SMALL)
    half: dict[str, Any] = {"weight_dtype": "bfloat16"}
    methods = (SFT(), DPO(), GRPO(group_size=4), PPO(), DPO(**half), PPO(**half), DPO(lora_rank=4), PPO(lora_rank=4))
    for method in (*methods, SFT(optimizer="muon")):
        shape = memory.Shape.of(config, method, torch.bfloat16)
        groups = Groups.of(config).held(method, torch.bfloat16)
        doctors = memory.needs(shape, method, torch.bfloat16, "cuda")
        ours = held(shape, groups, method, torch.bfloat16, 1, tokens=memory.tokens_at_once(method))
        same = ("weights", "gradients", "copies", "activations", "casts", "logits", "program")
        vectors = 1e-2 if method.weight_dtype == "bfloat16" else 1e-6  # whose gradients doctor counts as matrices'
        assert {n: ours[n] for n in same} == pytest.approx({n: doctors[n] for n in same}, rel=vectors)
        linear = sum(weight.is_linear for layer in groups.layers for weight in layer)
        stepped = 2 * linear if method.lora_rank else len(groups.all) - linear * (method.optimizer == "muon")
        counts = 4 * stepped * method.trained_networks  # doctor has no counts of steps
        assert ours["optimizer"] == doctors["optimizer"] + counts
        assert ours["gathered"] == ours["whole_gradients"] == 0
        assert ours["training"] == pytest.approx(sum(ours[n] for n in (*same, "optimizer")))


def test_groups_by_hand() -> None:
    # A layer: q and o 96x96, k and v 32x96, gate, up and down 200x96, two norms of 96. Beside: two of 515x96, a norm.
    groups = Groups.of(LlamaConfig(**SMALL, tie_word_embeddings=False))
    layer = 2 * 96 * 96 + 2 * 32 * 96 + 3 * 200 * 96 + 2 * 96
    assert [share(one) for one in groups.layers] == [layer] * 3
    assert share(groups.beside) == 2 * 515 * 96 + 96
    # Of 515 rows each of 2 ranks has 258 at most; all other rows are even.
    assert share(groups.all, 2) == 3 * layer // 2 + 2 * 258 * 96 + 48
    # Held in bfloat16, all but the norms.
    half = groups.held(SFT(weight_dtype="bfloat16"), torch.bfloat16)
    assert size(half.all) == 2 * share(groups.all) + 2 * (3 * 192 + 96)
    # Matrices of linear layers in two bytes: all but the embedding and the norms.
    linear = 3 * (layer - 192) + 515 * 96
    assert size(groups.all, 1, 2) == 2 * linear + 4 * (515 * 96 + 3 * 192 + 96)


class Casts(TorchDispatchMode):
    """Watches casts to bfloat16 of what has the size of a weight: how many bytes of them there are at most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        is_cast = func is torch.ops.aten._to_copy.default and made.dtype == torch.bfloat16
        if is_cast and made.dim() == 2 and min(made.shape) >= 32:
            self.now += made.nbytes
            self.most = max(self.most, self.now)
            weakref.finalize(made.untyped_storage(), self.gone, made.nbytes)
        return made

    def gone(self, size: int) -> None:
        self.now -= size


@pytest.mark.parametrize("again", [False, True])
def test_casts_are_of_the_head_alone(again: bool) -> None:
    config = LlamaConfig(**SMALL | {"num_hidden_layers": 8}, tie_word_embeddings=False)
    shape, groups = memory.Shape.of(config, SFT(), torch.bfloat16), Groups.of(config)
    half = tuple(range(8))
    trees = Trees.of([Tree(half, (Branch(half),))])
    most = []
    for dtype in (torch.bfloat16, torch.float32):  # the second gathers layers in float32, and casts what it gathered
        network = prepare_network(AutoModelForCausalLM.from_config(config).eval())
        if again:
            checkpoint_activations(network)
        with pretending(2):
            policy = Policy(shard(network, dtype), None, "", torch.bfloat16)  # type: ignore[arg-type]
            with Casts() as casts:
                policy.log_probs(trees).sum().backward()
        most.append(casts.most)
    expected = held(shape, groups, SFT(), torch.bfloat16, 2, tokens=16)["casts"]
    assert expected == pytest.approx(2 * shape.head)  # which is cast by blocks
    assert most[0] <= round(expected) < most[1]
    assert again or most[1] >= 2 * (shape.linear - shape.head)


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
def test_a_narrower_trial_finds_the_activations_of_the_whole_width(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = kind(
        hidden_size=2048, intermediate_size=5504, num_hidden_layers=2, num_attention_heads=16, num_key_value_heads=4,
        vocab_size=64,
    )  # fmt: skip
    monkeypatch.setattr(memory, "NARROW", 2048)
    narrow = memory.Shape.of(config, SFT(), torch.bfloat16)
    assert memory._narrowed(config)[0] == 4
    monkeypatch.setattr(memory, "NARROW", 4096)
    whole = memory.Shape.of(config, SFT(), torch.bfloat16)
    assert narrow.activations == pytest.approx(whole.activations, rel=0.01)
    assert narrow.casts == whole.casts


def test_what_ranks_cannot_share_is_said() -> None:
    with pytest.raises(InputError, match="not for mixtures of experts yet"):
        Groups.of(MixtralConfig(num_hidden_layers=1, hidden_size=8, intermediate_size=8, num_attention_heads=2))


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 400), st.integers(1, 9))
def test_passes_are_those_that_a_step_is_packed_into(trees: int, tree: int, budget: int, ranks: int) -> None:
    packs = shared([tree] * trees, budget, ranks)
    passes = Passes.of(Batch(trees, tree, 0, 0), budget, ranks)
    each = -(-len(packs) // ranks)
    assert passes == Passes(each, max(map(len, packs)), ranks * each - len(packs))
