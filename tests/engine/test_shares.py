"""What each of many ranks holds, against torch's own shares under a process group that does nothing."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
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
from transformers import AutoModelForCausalLM, Llama4TextConfig, LlamaConfig, MixtralConfig, Qwen2Config, Qwen3MoeConfig

from accord.cli.shapes import config_called
from accord.engine import activations, memory
from accord.engine.forward import checkpoint_activations
from accord.engine.gpus import Machine
from accord.engine.models import Policy, prepare_network
from accord.engine.passes import Batch, Passes, one_pass
from accord.engine.quantize import few_bits
from accord.engine.shard import shard
from accord.engine.shares import Groups, gathered_size, rank_memory, scattered_size, share, size
from accord.engine.trees import Branch, Tree, Trees, balanced_bins
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


MACHINE = Machine("m", 1e6, 1e6, 1e5, 1000.0, 100.0, 8, (0.0, 0.0, 0.0), 0.0)
MIXTRAL = MixtralConfig(**SMALL, num_local_experts=5, num_experts_per_tok=2)
QWEN = Qwen3MoeConfig(**SMALL, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=40, head_dim=16)
HALF: dict[str, Any] = {"weight_dtype": "bfloat16"}
LORA: dict[str, Any] = {"lora_rank": 3}
DORA: dict[str, Any] = {"lora_rank": 2, "lora_dora": True, "lora_targets": "q_proj,down_proj"}
CASES: list[Any] = [
    pytest.param(LlamaConfig(**SMALL, tie_word_embeddings=False), 2, {}, id="untied"),
    pytest.param(LlamaConfig(**SMALL, tie_word_embeddings=True), 3, {}, id="tied"),
    pytest.param(Qwen2Config(**SMALL, tie_word_embeddings=True), 7, {}, id="biases"),
    pytest.param(LlamaConfig(**SMALL), 64, {}, id="64"),
    pytest.param(LlamaConfig(**SMALL, tie_word_embeddings=False), 2, HALF, id="half, untied"),
    pytest.param(LlamaConfig(**SMALL, tie_word_embeddings=True), 3, HALF, id="half, tied"),
    pytest.param(Qwen2Config(**SMALL, tie_word_embeddings=True), 7, HALF, id="half, biases"),
    pytest.param(LlamaConfig(**SMALL), 64, HALF, id="half, 64"),
    pytest.param(LlamaConfig(**SMALL, tie_word_embeddings=False), 3, LORA, id="lora"),
    pytest.param(Qwen2Config(**SMALL, tie_word_embeddings=True), 64, LORA, id="lora on 64, tied with biases"),
    pytest.param(LlamaConfig(**SMALL), 2, DORA, id="dora of some"),
    pytest.param(Qwen2Config(**SMALL), 3, {**LORA, "quantize": "int8"}, id="few bits"),
    pytest.param(MIXTRAL, 8, {**LORA, "quantize": "nf4"}, id="four bits beside experts"),
    pytest.param(MIXTRAL, 2, {}, id="experts"),
    pytest.param(QWEN, 64, {}, id="fewer experts than ranks"),
    pytest.param(QWEN, 16, {}, id="rows of each expert"),
    pytest.param(QWEN, 32, {}, id="rows of some experts"),
    pytest.param(MIXTRAL, 3, LORA, id="experts beside lora"),
    pytest.param(MIXTRAL, 8, LORA, id="rows of each expert beside lora"),
    pytest.param(MIXTRAL, 2, HALF, id="half, experts"),
    pytest.param(QWEN, 64, HALF, id="half, fewer experts than ranks"),
    pytest.param(QWEN, 16, HALF, id="half, rows of each expert"),
    pytest.param(config_called("8B")[0], 64, {}, id="8B on 64", marks=pytest.mark.slow),
    pytest.param(config_called("8B")[0], 64, HALF, id="half, 8B on 64", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("config", "ranks", "more"), CASES)
def test_shares_are_those_of_fully_shard_to_the_byte(config: Any, ranks: int, more: dict[str, Any]) -> None:
    method = SFT(batch_size=8, **more)
    with pretending(ranks):
        fake: Any = FakeTensorMode(allow_non_fake_inputs=True) if not method.lora_rank else nullcontext()
        with fake:  # which peft does not take
            network: Any = AutoModelForCausalLM.from_config(config)
            network._prepared_by_accord = True  # what preparing does leaves weights as they are
            memory.prepare_training(Policy(network, None, "", torch.bfloat16), method)  # type: ignore[arg-type]
        shard(network, torch.bfloat16)
        with fake:
            every = list(network.parameters())
            parameters = [p for p in every if p.requires_grad]
            for p in parameters:
                p.grad = torch.zeros_like(p)
            like = [nn.Parameter(p.float()) for p in parameters]  # states are of float32 whatever the weights are
            for p in like:
                p.grad = torch.zeros_like(p)
            rule = torch.optim.AdamW(like, fused=True)
            rule.step()
            states = [tensor for state in rule.state.values() for tensor in state.values()]
        whole = sum(layer.nbytes for layer in few_bits(network))
        found = [local_bytes(every) + whole, local_bytes([p.grad for p in parameters]), local_bytes(states)]
    groups = Groups.of(config, method)
    shape = memory.Shape(1, 1, 1, 1, 0, len(groups.layers), 1, 1, 1, 0.0, 0.0)
    parts = rank_memory(shape, groups, method, torch.bfloat16, ranks, tokens=1)
    assert [parts["weights"], parts["gradients"], parts["optimizer"]] == found


METHODS: list[Any] = [
    pytest.param({}, id="whole"), pytest.param(LORA, id="lora"), pytest.param(HALF, id="half"),
    pytest.param({"optimizer": "muon"}, id="muon"), pytest.param({**LORA, "quantize": "int8"}, id="few bits"),
]  # fmt: skip


@pytest.mark.parametrize("config", [LlamaConfig(**SMALL), MIXTRAL], ids=["llama", "mixtral"])
@pytest.mark.parametrize("more", METHODS)
def test_one_rank_holds_what_doctor_counts(config: Any, more: dict[str, Any]) -> None:
    for method in (SFT(**more), DPO(**more), GRPO(group_size=4, **more), PPO(**more)):
        shape, groups = memory.Shape.of(config, method, torch.bfloat16), Groups.of(config, method)
        doctors = memory.training_memory(shape, method, torch.bfloat16, "cuda")
        ours = rank_memory(shape, groups, method, torch.bfloat16, 1, tokens=memory.tokens_at_once(method))
        same = ("weights", "gradients", "copies", "activations", "casts", "logits", "program")
        # Doctor has routers as linear layers, and gradients of vectors in the precision of those of matrices.
        near = 1e-2 if more == HALF else 2e-3 if shape.experts else 1e-6
        if method.quantize:  # of which doctor counts no scales, here 4 bytes of 96 and more, and routers in few bits
            near = 4e-2
        assert {n: ours[n] for n in same} == pytest.approx({n: doctors[n] for n in same}, rel=near)
        stepped = groups.adapters or groups.all
        if method.optimizer == "muon":
            assert len(groups.inner) == 3 * (4 if shape.experts else 7)  # of three layers q, k, v, o; gate, up, down
            stepped = tuple(weight for weight in stepped if weight not in groups.inner)
        counts = 4 * len(stepped) * method.trained_networks  # doctor has no counts of steps
        routers = 4 * 3 * 5 * 96 * method.trained_networks if method.optimizer == "muon" and shape.experts else 0
        counts += routers  # which go by AdamW
        assert ours["optimizer"] == doctors["optimizer"] + counts
        assert ours["gathered"] == ours["whole_gradients"] == 0
        assert ours["training"] == pytest.approx(sum(ours[n] for n in (*same, "optimizer")))


def test_groups_by_hand() -> None:
    # A layer: q and o 96x96, k and v 32x96, gate, up and down 200x96, two norms of 96. Beside: two of 515x96, a norm.
    groups = Groups.of(LlamaConfig(**SMALL, tie_word_embeddings=False))
    layer = 2 * 96 * 96 + 2 * 32 * 96 + 3 * 200 * 96 + 2 * 96
    assert [share(one) for one in groups.layers] == [layer] * 3
    assert share(groups.outer) == 2 * 515 * 96 + 96
    # Of 515 rows each of 2 ranks has 258 at most; all other rows are even.
    assert share(groups.all, 2) == 3 * layer // 2 + 2 * 258 * 96 + 48
    # Held in bfloat16, all but the norms.
    half = Groups.of(LlamaConfig(**SMALL, tie_word_embeddings=False), SFT(**HALF))
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


def test_a_trial_of_as_many_experts_as_a_token_takes_finds_what_all_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    few = memory.Shape.of(QWEN, SFT(), torch.bfloat16)
    monkeypatch.setattr(activations, "MIXTURES", ())
    every = memory.Shape.of(QWEN, SFT(), torch.bfloat16)
    # but for the router's numbers, a few bytes an expert
    assert few.activations == pytest.approx(every.activations, rel=0.01) and few.casts == every.casts


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
    expected = rank_memory(shape, groups, SFT(), torch.bfloat16, 2, tokens=16)["casts"]
    assert expected == pytest.approx(2 * shape.head)  # which is cast by blocks
    assert most[0] <= round(expected) < most[1]
    assert again or most[1] >= 2 * (shape.linear - shape.head)


EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    ("kind", "more"),
    [(LlamaConfig, {}), (Qwen2Config, {}), (MixtralConfig, EXPERTS)],
    ids=["llama", "qwen2", "mixtral"],
)
def test_a_narrower_trial_finds_the_activations_of_the_whole_width(
    kind: Any, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = kind(
        hidden_size=2048, intermediate_size=5504, num_hidden_layers=2, num_attention_heads=16, num_key_value_heads=4,
        vocab_size=64, **more,
    )  # fmt: skip
    monkeypatch.setattr(activations, "NARROW", 2048)
    narrow = memory.Shape.of(config, SFT(), torch.bfloat16)
    assert activations.narrowed(config)[0] == 4
    monkeypatch.setattr(activations, "NARROW", 4096)
    whole = memory.Shape.of(config, SFT(), torch.bfloat16)
    assert narrow.activations == pytest.approx(whole.activations, rel=0.01)
    assert narrow.casts == whole.casts


def test_experts_by_hand() -> None:
    groups, shape = Groups.of(MIXTRAL), memory.Shape.of(MIXTRAL, SFT(), torch.bfloat16)
    expert = 3 * 200 * 96
    assert (shape.experts, shape.chosen) == (3 * 5 * expert, 2 / 5)
    # On 7 ranks, which 400 and 96 rows are no multiple of, the first five hold an expert each of every layer, and what
    # is gathered has room for seven; on 8 each holds an eighth of every expert.
    experts = [w for w in groups.largest if w.is_expert]
    assert share(experts, 7) == expert and share(experts, 2) == 3 * expert
    assert gathered_size(experts, 7, 2) == 4 * 7 * expert  # in float32
    assert share(experts, 8) == 5 * expert // 8 and gathered_size(experts, 8, 2) == 4 * 5 * expert
    batch, slow = Batch(1, 10, 0, 0), replace(MACHINE, float32=0.1)
    more = batch.forward(shape, slow) - batch.forward(shape, MACHINE)
    assert more == pytest.approx(9 * 2 * 10 * shape.experts * 2 / 5 / MACHINE.flops)
    # A rank reads its own experts, and the one that leads tries a layer with all.
    parts = rank_memory(shape, groups, SFT(), torch.bfloat16, 8, tokens=1)
    plain = [w for w in groups.largest if not w.is_expert]
    thrice = 2 * gathered_size(plain, 8, 2) + 3 * 4 * 5 * expert  # two layers, and a copy of one's experts
    assert parts["gathered"] == thrice + gathered_size(groups.outer, 8)
    assert parts["loading"] == parts["weights"] + parts["program"] + 4 * share((*groups.outer, *groups.largest))
    # Held in bfloat16 they are gathered and multiplied in it.
    half, small = Groups.of(MIXTRAL, SFT(**HALF)), memory.Shape.of(MIXTRAL, SFT(**HALF), torch.bfloat16)
    assert gathered_size([w for w in half.largest if w.is_expert], 7, 2) == 2 * 7 * expert
    assert batch.forward(small, slow) == batch.forward(small, MACHINE) == batch.forward(shape, MACHINE)


def test_adapters_by_hand() -> None:
    config, method = LlamaConfig(**SMALL, tie_word_embeddings=False), DPO(**LORA, batch_size=8)
    groups, shape = Groups.of(config, method), memory.Shape.of(config, method, torch.bfloat16)
    # q and o 96 by 96, k and v 96 by 32, gate, up and down 96 by 200, of rank 3.
    own = 3 * 3 * (2 * 192 + 2 * 128 + 3 * 296)
    assert share(groups.adapters) == shape.adapters == own
    linear = shape.linear
    assert size(groups.all) == 2 * linear + 4 * (shape.embedding + shape.vectors + own)
    parts = rank_memory(shape, groups, method, torch.bfloat16, 4, tokens=10)
    ours = share(groups.adapters, 4)
    assert (parts["gradients"], parts["copies"]) == (4 * ours, 4 * ours)  # the reference is adapters of its own
    # Weights under adapters have no gradients: of their products two passes in place of three.
    batch = Batch(1, 0, 10, 1)
    attention = 4 * 3 * 96 * 50 + 2 * own * 10
    assert batch.forward(shape, MACHINE) * 1e6 == pytest.approx(2 * linear * 10 + attention)
    assert batch.trained(shape, MACHINE, again=False) * 1e6 == pytest.approx(2 * 2 * linear * 10 + 3 * attention)
    # All is gathered as it is held, layers twice; of adapters alone gradients are scattered.
    found = one_pass(groups, 0.0, MACHINE, 2, trains=True, linear=2).received
    layers = 3 * 2 * gathered_size(groups.layers[0], 2) + gathered_size(groups.outer, 2)
    assert found == (layers + scattered_size(groups.adapters, 2)) / 2


def test_what_ranks_cannot_share_is_said() -> None:
    with pytest.raises(InputError, match="keeps its experts in an unknown form"):
        Groups.of(Llama4TextConfig(**SMALL, intermediate_size_mlp=8, num_local_experts=2, head_dim=16))


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 400), st.integers(1, 9))
def test_passes_are_those_that_a_step_is_packed_into(trees: int, tree: int, budget: int, ranks: int) -> None:
    packs = balanced_bins([tree] * trees, budget, ranks)
    passes = Passes.of(Batch(trees, tree, 0, 0), budget, ranks)
    each = -(-len(packs) // ranks)
    assert passes == Passes(each, max(map(len, packs)), ranks * each - len(packs))
