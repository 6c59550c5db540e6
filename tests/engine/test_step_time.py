"""How long a step takes by arithmetic, on figures that a head can follow."""

from __future__ import annotations

import pytest

from accord.engine.gpus import Machine, amount, gpu_named, with_figures
from accord.engine.memory import Shape
from accord.engine.passes import Batch, Passes, hidden_at, one_pass, within_nodes
from accord.engine.sampling_time import sampled_elsewhere, sampled_here
from accord.engine.shares import Groups, Weight
from accord.engine.step_time import bound_by, step, update
from accord.errors import InputError
from accord.methods import DPO, GRPO, SFT

LAYER = (Weight(100, 10, True),)  # 1,000 numbers, 4,000 bytes
GROUPS = Groups((LAYER, LAYER), (Weight(50, 10, False), Weight(50, 10, True)))
# 2,000 numbers in layers and a head of 500 (width 10, 50 rows); a token caches 4 numbers in a layer.
SHAPE = Shape(2500, 500, 0, 500, 0, 2, 10, 50, 4, 0.0, 0.0)
PLAIN = Machine("m", 1e6, 1e6, 1e5, 1000.0, 100.0, 2, (0.0, 0.0, 0.0), 0.0)


def test_a_ring_s_seconds() -> None:
    # Two ranks of a node: half of what is gathered reaches each, at 1,000 bytes a second.
    assert PLAIN.seconds(4000, 2) == 2.0
    # Four on two nodes: three quarters, at two GPUs' share of the network, 200 a second.
    assert PLAIN.seconds(4000, 4) == 15.0
    assert PLAIN.seconds(4000, 1) == 0.0
    slow = Machine("m", 1, 1, 1, 1e9, 1e9, 4, (1.0, 10.0, 100.0))
    # Eight ranks on two nodes are a ring of 7 hops, one of them between nodes.
    assert slow.seconds(0, 8) == 100 + 6 * 1 + 1 * 10


def test_seconds_of_a_tree() -> None:
    batch = Batch(3, 4, 2, 5)  # a prompt of 4, five completions of 2: 14 tokens, 10 of which have logits
    products = 2 * 2000 * 14 + 2 * 500 * 10
    attention = 4 * 2 * 10 * (4 * 4 / 2 + 10 * (4 + 2 / 2))
    assert batch.forward(SHAPE, PLAIN) == pytest.approx((products + attention) / 1e6)
    assert batch.trained(SHAPE, PLAIN, again=False) == pytest.approx(3 * (products + attention) / 1e6)
    assert batch.trained(SHAPE, PLAIN, again=True) == pytest.approx(4 * (products + attention) / 1e6)


def test_a_trained_pass_gathers_layers_twice_and_sums_every_gradient() -> None:
    # Two ranks: a layer 2 s, what is beside 2 s. Layers are gathered twice and summed, 12 s; beside once and summed, 4.
    found = one_pass(GROUPS, 10.0, PLAIN, 2, trains=True)
    assert (found.compute, found.wire) == (10.0, 16.0)
    assert found.received == (3 * 8000 + 2 * 4000) / 2
    # The first gathers (beside 2, layer 2) and the last sum (2) are not hidden; of the other 10 s all are.
    assert found.seconds == 10 + 6
    # A pass that is only read, its linear layers in two bytes: layers 1 s each, beside 1.5 s.
    read = one_pass(GROUPS, 0.1, PLAIN, 2, trains=False, linear=2, head=2)
    assert (read.wire, read.seconds) == (3.5, 1.0 + 2.5)
    # Linear layers gathered in two bytes: 1 s each, twice, and summed in four, 8 s in all; beside 4 as before.
    half = one_pass(GROUPS, 10.0, PLAIN, 2, trains=True, linear=2)
    assert (half.wire, half.received) == (12.0, (2 * 4000 + 8000 + 2 * 4000) / 2)
    assert half.seconds == 10 + 2 + 1 + 2
    alone = one_pass(GROUPS, 10.0, PLAIN, 1, trains=True)
    assert (alone.wire, alone.seconds) == (0.0, 10.0)


def test_without_overlap_ranks_compute_and_then_speak() -> None:
    slow = Machine("m", 1e6, 1e6, 1e5, 1000.0, 100.0, 2, (0.0, 0.0, 0.0), 0.0, overlaps=False)
    assert one_pass(GROUPS, 10.0, slow, 2, trains=True).seconds == 26.0


def test_tokens_that_hide_what_is_spoken() -> None:
    batch = Batch(8, 0, 100, 1)
    at = hidden_at(GROUPS, SHAPE, batch, PLAIN, 2, again=False)
    passed = batch.trained(SHAPE, PLAIN, again=False) / 100 * at
    assert one_pass(GROUPS, passed, PLAIN, 2, trains=True).compute == pytest.approx(16.0)
    assert hidden_at(GROUPS, SHAPE, batch, PLAIN, 2, again=True) == pytest.approx(at * 3 / 4)


def test_within_nodes_gradients_are_summed_over_nodes_once() -> None:
    seconds = within_nodes(GROUPS, PLAIN, 4, passes=3)
    # Three passes of 16 s within the node, and a sum of 6,000 bytes over two nodes: 2 (1/2) 6,000 / 100.
    assert seconds == 3 * 16 + 60


def test_an_update_by_hand() -> None:
    # 3,000 numbers on two ranks. In halves all ranks' noise is drawn besides; two layers of 100 x 10 go by Muon.
    assert update(GROUPS, SFT(), PLAIN, 2) == pytest.approx(40 * 1500 / 1e5)
    half = update(GROUPS, SFT(weight_dtype="bfloat16"), PLAIN, 2)
    assert half == pytest.approx((144 * 1500 + 4 * 3000) / 1e5)
    # Each rank has a matrix: five iterations of 4 (10^2) 100 + 2 (10^3), and half of 2,000 bytes comes and goes.
    muon = update(GROUPS, SFT(optimizer="muon"), PLAIN, 2)
    assert muon == pytest.approx((40 * 1500 + 20 * 1000) / 1e5 + 5 * 42_000 / 1e6 + 2 * 1000 / 1000)
    # What is frozen is not updated; experts and a bias go by AdamW beside Muon's matrices.
    frozen = Groups(((*LAYER, Weight(100, 10, True, 2, is_trained=False)), LAYER), GROUPS.outer)
    assert update(frozen, SFT(), PLAIN, 2) == pytest.approx(40 * 1500 / 1e5)
    experts = Groups(((*LAYER, Weight(4, 250, False, is_expert=True), Weight(100, 1, True)), LAYER), GROUPS.outer)
    assert update(experts, SFT(optimizer="muon"), PLAIN, 2) == pytest.approx(muon + 40 * 550 / 1e5)


def test_sampling_here_reads_all_weights_for_every_token() -> None:
    # 4 prompts on 2 ranks: 2 prompts of 3 samples each, at once. Gathering 12,000 bytes takes 6 s.
    batch = Batch(4, 10, 5, 3)
    prompts = 2 * Batch(1, 10, 1, 1).forward(SHAPE, PLAIN)
    memory = 2 * (2500 + (2 * 10 + 6 * 2.5) * 2 * 4) / 1e5
    products = 2 * 2500 * 6 / 1e6
    assert sampled_here(SHAPE, GROUPS, batch, PLAIN, 2) == pytest.approx(6 + prompts + 5 * max(memory, products))
    # Where starting operations takes longest: two layers of 1 s, five tokens.
    slow = Machine("m", 1e6, 1e6, 1e5, 1000.0, 100.0, 2, (0.0, 0.0, 0.0), 1.0)
    assert sampled_here(SHAPE, GROUPS, batch, slow, 2) == pytest.approx(6 + prompts + 10)


def test_a_server_s_gpus_share_a_model_that_is_too_large_for_one() -> None:
    # 6,000 bytes of weights: a GPU of 10,000 bytes is to leave half of 9,000 for the cache, so two hold it together.
    small = Machine("m", 10_000, 1e6, 1e5, 1000.0, 100.0, 2, (0.0, 0.0, 0.0), 0.0)
    assert sampled_elsewhere(SHAPE, Batch(4, 10, 5, 3), small, 4)[1] == 2
    assert sampled_elsewhere(SHAPE, Batch(4, 10, 5, 3), PLAIN, 4)[1] == 1
    tiny = Machine("m", 1_000, 1e6, 1e5, 1000.0, 100.0, 2, (0.0, 0.0, 0.0), 0.0)
    assert sampled_elsewhere(SHAPE, Batch(4, 10, 5, 3), tiny, 4)[0] == float("inf")


def test_a_step_adds_up() -> None:
    dpo = DPO(batch_size=8, tokens_per_pass=60, max_length=20)
    batch = Batch(8, 10, 10, 2)  # trees of 30 tokens: two a pass, four passes on one rank, two on each of two
    assert Passes.of(batch, 60, 2) == Passes(2, 2, 0)
    found = step(SHAPE, GROUPS, dpo, batch, PLAIN, 2, again=False)
    forward = 2 * batch.forward(SHAPE, PLAIN)
    assert found["training"] == pytest.approx(2 * 3 * forward)
    assert found["reading"] == pytest.approx(2 * forward)  # the reference
    trained, read = 12.0, 3.5  # the policy's layers are gathered in two bytes, and summed in four
    waited = 2 * (max(trained - 5 - 3 * forward, 0) + 5) + 2 * (max(read - 2.5 - forward, 0) + 2.5)
    assert found["waiting"] == pytest.approx(waited)
    assert found["updating"] == pytest.approx(40 * 1500 / 1e5)
    assert found["generation"] == found["handing_over"] == found["reward"] == 0
    assert found["seconds"] == pytest.approx(sum(v for name, v in found.items() if name != "seconds"))
    assert bound_by(found) == "communication"


def test_a_step_of_samples_by_a_server_and_a_reward_model() -> None:
    grpo = GRPO(batch_size=4, group_size=3, max_length=15, max_new_tokens=5, tokens_per_pass=100)
    batch = Batch(4, 10, 5, 3)
    found = step(SHAPE, GROUPS, grpo, batch, PLAIN, 2, again=True, sampling_gpus=2, reward=SHAPE)
    assert found["generation"] == sampled_elsewhere(SHAPE, batch, PLAIN, 2)[0]
    assert found["handing_over"] == 4 * 3000 / 1e9
    # The leader reads 12 samples of 15 tokens, without logits.
    assert found["reward"] == pytest.approx(12 * Batch(1, 15, 0, 0).forward(SHAPE, PLAIN))
    assert found["training"] == pytest.approx(4 * 2 * batch.forward(SHAPE, PLAIN))


def test_sft_has_no_reference_and_nothing_to_sample() -> None:
    found = step(SHAPE, GROUPS, SFT(batch_size=8, tokens_per_pass=20), Batch(8, 10, 10, 1), PLAIN, 1, again=False)
    assert found["reading"] == found["waiting"] == found["generation"] == 0
    assert bound_by(found) == "computing"


def test_a_gpu_has_a_share_of_its_data_sheet() -> None:
    gpu = gpu_named("H100")
    assert (gpu.memory, gpu.flops, gpu.within) == (80e9, 0.35 * 989e12, 0.8 * 450e9)
    own, sources = with_figures(gpu, flops=4e14, memory=None, per_node=4)
    assert (own.flops, own.memory, own.per_node) == (4e14, 80e9, 4)
    assert (sources["flops"], sources["within"], sources["memory"]) == (
        "given",
        "80% of the data sheet's",
        "the data sheet's",
    )
    with pytest.raises(InputError, match=r"no data sheet of a GPU 'h1000' is known; did you mean h100\?"):
        gpu_named("h1000")


@pytest.mark.parametrize(
    ("text", "value"), [("400T", 4e14), ("50GB", 5e10), ("1.5e12", 1.5e12), ("2 TB/s", 2e12), (7, 7.0)]
)
def test_amounts(text: str | float, value: float) -> None:
    assert amount(text, "flops", "such as 400T") == value


@pytest.mark.parametrize("text", ["", "fast", "-1T", "0", "1..2T", "inf", "nan"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(InputError, match="flops is such as 400T, not "):
        amount(text, "flops", "such as 400T")
