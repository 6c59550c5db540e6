"""What is held in memory: small optimizer states, weights in bfloat16, activations computed again, plans and sizes."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import Gemma3TextConfig, LlamaConfig, MixtralConfig, T5Config

from accord.data import Order
from accord.engine import adam, memory, offload, plan
from accord.engine.adam import LeanAdamW, round_stochastically
from accord.engine.forward import checkpoint_activations, log_probabilities
from accord.engine.load import load_model
from accord.engine.models import Policy, prepare_network
from accord.engine.team import Team
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError, TrainingStopped
from accord.feedback.judge import ScoreJudge
from accord.methods import DPO, GRPO, IPO, KTO, PPO, SFT, NashMD, OnlineDPO
from accord.methods.offline import OfflineMethod
from tests.commands.small import accord as command
from tests.commands.small import save_model, write_jsonl
from tests.data.templates import CHATML, byte_tokenizer
from tests.engine.test_forward import ragged_trees
from tests.engine.tiny import CONFIGS, SIZES, policy_of, random_model

PAIRS = [{"prompt": a, "chosen": f"{b} good", "rejected": f"{b} bye"} for a in ("hi", "hello") for b in ("day", "bad")]
LONGER = ScoreJudge(lambda _, text: float(len(str(text))))
QUICK: dict[str, Any] = {"dtype": "float32", "batch_size": 2, "max_steps": 3, "learning_rate": 1e-2}


def both_after(steps: int, **lean: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """One matrix after so many steps of torch's AdamW and of accord's, with the same gradients."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(80, 64, generator=generator)
    theirs, ours = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    groups = [[{"params": [p], "weight_decay": 0.1}] for p in (theirs, ours)]
    torch_adam = torch.optim.AdamW(groups[0], lr=0.01, betas=(0.9, 0.999))
    lean_adam = LeanAdamW(groups[1], 0.01, (0.9, 0.999), **lean)
    for _ in range(steps):
        grad = torch.randn(80, 64, generator=generator)
        theirs.grad, ours.grad = grad, grad.clone()
        torch_adam.step()
        lean_adam.step()
    return theirs, ours


def test_lean_adam_with_whole_states_is_torch_s() -> None:
    theirs, ours = both_after(5, host=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_states_in_8_bits_move_weights_nearly_as_those_in_32_do() -> None:
    pytest.importorskip("bitsandbytes")
    theirs, ours = both_after(20, eight_bits=True)
    moved = (theirs - both_after(0)[0]).abs().mean()
    assert float((ours - theirs).detach().abs().mean() / moved.detach()) < 0.05


def test_states_in_8_bits_take_a_quarter_of_the_room() -> None:
    pytest.importorskip("bitsandbytes")
    weight = nn.Parameter(torch.zeros(64, 64))
    optimizer = LeanAdamW([{"params": [weight], "weight_decay": 0.0}], 0.1, (0.9, 0.999), eight_bits=True)
    weight.grad = torch.ones(64, 64)
    optimizer.step()
    held = sum(t.nbytes for name, t in optimizer.state[weight].items() if name != "step")
    assert held == 2 * (4096 + 4 * 4096 // adam.BLOCK)


def test_8_bits_without_their_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(InputError, match="optimizer_states 8bit needs bitsandbytes"):
        LeanAdamW([{"params": [nn.Parameter(torch.zeros(1))], "weight_decay": 0.0}], 0.1, (0.9, 0.9), eight_bits=True)


@given(st.floats(-(2.0**90), 2.0**90, width=32).filter(lambda x: abs(x) > 1e-30), st.integers(0, 9))
@settings(deadline=None, max_examples=50)
def test_rounding_goes_to_a_neighbor_and_is_right_on_average(x: float, seed: int) -> None:
    many = torch.full((4000,), x, dtype=torch.float32)
    rounded = round_stochastically(many, torch.Generator().manual_seed(seed)).double()
    gap = 2.0 ** (math.frexp(abs(float(many[0])))[1] - 8)  # between neighbors in bfloat16, of 8 significant bits
    assert float((rounded - many.double()).abs().max()) < gap
    # The standard error of the mean of a coin between two neighbors is at most gap / 2 / sqrt(4000).
    assert abs(float(rounded.mean() - many.double().mean())) <= 6 * gap / 2 / 4000**0.5


def test_updates_smaller_than_bfloat16_can_show_are_made_on_average() -> None:
    # From 1 bfloat16 sees steps of 2^-7 up and 2^-8 down: 100 steps of 1e-3 to nearest would never leave 1.
    weight = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    optimizer = LeanAdamW([{"params": [weight], "weight_decay": 0.0}], 1e-3, (0.9, 0.999), seed=3)
    for _ in range(100):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert float(weight.detach().double().mean()) == pytest.approx(0.9, abs=2e-3)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "deepseek_v3", "gpt2", "mamba"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_computed_again_change_no_gradient_bit_for_bit(architecture: str, dtype: torch.dtype) -> None:
    plain = prepare_network(random_model(CONFIGS[architecture](), dtype=torch.float32))
    again = copy.deepcopy(plain)
    checkpoint_activations(again)
    trees = Trees.of(ragged_trees())
    for network in (plain, again):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
            log_probabilities(network, trees)[0].sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), again.named_parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad), name  # type: ignore[arg-type]


def test_what_is_kept_without_and_with_activations_computed_again() -> None:
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, vocab_size=64
    )
    policy = policy_of(prepare_network(random_model(config, dtype=torch.float32)))
    plain = memory._kept(policy, 128) - memory._kept(policy, 64)
    checkpoint_activations(policy.network)
    again = memory._kept(policy, 128) - memory._kept(policy, 64)
    # of each layer its input alone, float32; beside the layers the last norm and what the readout keeps
    assert 64 * 4 * 32 * 4 <= again <= 64 * 4 * 32 * (4 + 5)
    assert again < 0.3 * plain


def test_layers_that_cannot_be_computed_again_are_refused() -> None:
    with pytest.raises(InputError, match="activation_checkpointing: Linear has no layers"):
        checkpoint_activations(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "more",
    [
        {"activation_checkpointing": True},
        {"optimizer_states": "8bit"},
        {"weight_dtype": "bfloat16", "dtype": "bfloat16"},
        {"precompute_reference": True, "epochs": 3.0, "max_steps": None},
    ],
    ids=lambda more: "-".join(map(str, more)),
)
def test_a_run_that_is_killed_goes_on_bit_for_bit(more: dict[str, Any], tmp_path: Path) -> None:
    if more.get("optimizer_states") == "8bit":
        pytest.importorskip("bitsandbytes")
    base, method = save_model(tmp_path / "base"), DPO(**{**QUICK, **more})
    whole = method.fit(base, PAIRS, out=tmp_path / "whole", save_every=1)

    class Killed(Exception):
        pass

    def kill(step: int, _: object) -> None:
        if step == 2:
            raise Killed

    with pytest.raises(Killed):
        method.fit(base, PAIRS, out=tmp_path / "cut", save_every=1, on_step=kill)
    resumed = method.fit(base, PAIRS, out=tmp_path / "cut", save_every=1, resume=True)
    left, right = (result.model.network.state_dict() for result in (whole, resumed))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert [row["loss"] for row in whole.metrics] == [row["loss"] for row in resumed.metrics]


@pytest.mark.parametrize("method", [DPO(beta=0.3, **QUICK), IPO(length="mean", **QUICK)], ids=["dpo", "ipo"])
def test_a_reference_computed_once_gives_the_same_run(method: Any, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    held_out = {"eval_split": 0.5, "eval_every": 1}
    each = method.fit(base, PAIRS, out=tmp_path / "each", **held_out)
    once = replace(method, precompute_reference=True).fit(base, PAIRS, out=tmp_path / "once", **held_out)
    for a, b in zip(each.metrics, once.metrics, strict=True):
        assert a.get("loss") == pytest.approx(b.get("loss"), abs=1e-5)
        assert a.get("eval_loss") == pytest.approx(b.get("eval_loss"), abs=1e-5)


@pytest.mark.parametrize(("max_steps", "visited"), [(1, 2), (2, 3), (9, 3), (None, 3)])
def test_a_reference_is_computed_of_the_rows_that_are_visited_alone(max_steps: int | None, visited: int) -> None:
    method = DPO(**{**QUICK, "max_steps": max_steps})
    trees = [Tree((i,), (Branch((1,)), Branch((2,)))) for i in range(3)]
    assert method.visited(trees) == [trees[i] for i in Order(3, 2, 0).batch(0) + Order(3, 2, 0).batch(1)][:visited]


@pytest.mark.parametrize(
    ("text", "expected"), [("24GB", 24e9), ("900 MB", 9e8), ("16GiB", 16 * 2**30), ("1.5t", 1.5e12), ("80G", 8e10)]
)
def test_sizes(text: str, expected: float) -> None:
    assert plan.size(text) == expected


@pytest.mark.parametrize("text", ["24", "much", "-1GB", "0GB", "1.2.3GB", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="memory is a size such as 24GB"):
        plan.size(text)


def test_weights_gradients_and_states_are_counted_exactly() -> None:
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=100, tie_word_embeddings=False,
    )  # fmt: skip
    method = SFT(dtype="float32")
    shape = memory.Shape.of(config, method, torch.float32)
    in_layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64
    assert (shape.linear, shape.embedding, shape.vectors) == (3 * in_layer + 3200, 3200, 3 * 64 + 32)
    assert shape.cached == 2 * 2 * 8
    needed = memory.needs(shape, method, torch.float32)
    assert needed["weights"] == needed["gradients"] == 4 * shape.numbers
    assert (needed["optimizer"], needed["copies"]) == (8 * shape.numbers, 0)
    assert memory.needs(shape, DPO(dtype="float32"), torch.float32)["copies"] == 4 * shape.numbers
    adapted = replace(method, lora_rank=4)
    shape = memory.Shape.of(config, adapted, torch.float32)
    assert shape.adapters == 3 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert memory.needs(shape, adapted, torch.float32)["optimizer"] == 8 * shape.adapters


@pytest.mark.parametrize(
    ("method", "copies"),
    [
        (SFT(), 0), (DPO(), 1), (IPO(), 1), (DPO(precompute_reference=True), 0), (KTO(), 1), (GRPO(), 1), (PPO(), 1),
        (GRPO(kl_coefficient=0), 0), (OnlineDPO(), 1), (NashMD(), 1), (NashMD(past=3), 4),
    ],
    ids=lambda value: value if isinstance(value, int) else value.command,
)  # fmt: skip
def test_the_copies_that_are_counted_are_those_that_are_made(
    method: Any, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Policy] = []
    real = Policy.frozen_copy
    monkeypatch.setattr(Policy, "frozen_copy", lambda self: made.append(real(self)) or made[-1])
    policy = policy_of(random_model(CONFIGS["llama"](), dtype=torch.float32))
    if isinstance(method, OfflineMethod):
        method.objective(policy)
    else:
        learner = method.learner(policy, LONGER)
        trained = {name for name, network in learner.networks.items() if next(network.parameters()).requires_grad}
        assert len(trained) == method.trained_networks
    # what is computed once is let go of again
    assert method.frozen_copies == copies == len(made) - bool(getattr(method, "precompute_reference", False))


def test_a_plan_takes_up_settings_until_the_run_fits() -> None:
    config = LlamaConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=8, num_attention_heads=4, vocab_size=64
    )
    dpo, cpu = DPO(dtype="float32", tokens_per_pass=4096, batch_size=64), torch.device("cpu")
    whole = plan._peak(config, dpo, dtype=torch.float32, device="cpu")
    fits, said = plan.planned(replace(dpo, memory=f"{whole / 1e6 + 100:.0f}MB"), config, cpu)
    assert fits == dpo and "as the settings are" in said
    less, said = plan.planned(replace(dpo, memory=f"{(whole - 1e6) / 1e6:.0f}MB"), config, cpu)
    assert less.precompute_reference and "--precompute-reference" in said
    with pytest.raises(InputError, match=r"this needs .* GB even with .*--activation-checkpointing"):
        plan.planned(replace(dpo, memory="1MB"), config, cpu)


WIDE: dict[str, Any] = {
    "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 512,
}  # fmt: skip


@pytest.mark.parametrize("config", [LlamaConfig(**WIDE), MixtralConfig(**WIDE)], ids=["llama", "mixtral"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_plan_for_ranks_is_of_what_each_holds(device: str, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dpo, half = DPO(dtype="bfloat16", batch_size=64, tokens_per_pass=512), torch.bfloat16
    alone, shared = (plan._peak(config, dpo, dtype=half, device=device, ranks=ranks) for ranks in (1, 4))
    assert shared - memory.PROGRAM < 0.6 * (alone - memory.PROGRAM)
    copies = plan._peak(config, replace(dpo, shard_ranks=2), dtype=half, device=device, ranks=4)
    assert shared < copies < alone  # two ranks hold what four do otherwise
    monkeypatch.setattr(Team, "here", lambda: Team(0, 4))
    where = torch.device(device)
    fits, said = plan.planned(replace(dpo, memory=f"{shared / 1e6 + 1:.0f}MB"), config, where)
    assert fits == dpo and "on each of 4 ranks at the peak, as the settings are" in said
    known = plan.savings(dpo, half, device, 4)
    names, smallest = zip(*known, strict=True)
    assert names[-1] == "weight_dtype" and not {"offload_optimizer", "offload_reference"} & {*names}
    least = plan._peak(config, smallest[-1], dtype=half, device=device, ranks=4)
    less, said = plan.planned(replace(dpo, memory=f"{least / 1e6 + 1:.0f}MB"), config, where)
    assert less == smallest[-1] and "--weight-dtype bfloat16 (without:" in said
    with pytest.raises(InputError, match=r"take a smaller model, or start more ranks\."):
        plan.planned(replace(dpo, memory="1MB"), config, where)


def test_memory_chooses_and_says_so_and_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, rows = save_model(tmp_path / "base"), write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    given = ("dpo", "--model", base, "--data", rows, "--out", tmp_path / "run", "--max-steps", 2, "--dtype", "float32")
    assert command(*given, "--memory", "16GB") == 0
    assert "of 16.0 GB at the peak, as the settings are" in capsys.readouterr().err
    assert command(*given, "--memory", "1MB") == 2
    assert "memory: this needs" in capsys.readouterr().err


def test_a_run_may_go_on_with_fewer_tokens_a_pass(tmp_path: Path) -> None:
    base, method = save_model(tmp_path / "base"), DPO(**QUICK)

    def kill(step: int, _: object) -> None:
        if step == 2:
            raise KeyError

    with pytest.raises(KeyError):
        method.fit(base, PAIRS, out=tmp_path / "run", save_every=1, on_step=kill)
    less = replace(method, tokens_per_pass=32, activation_checkpointing=True)
    assert len(less.fit(base, PAIRS, out=tmp_path / "run", save_every=1, resume=True).metrics) == 3


@pytest.mark.parametrize("where", ["card", "host"])
def test_memory_that_runs_out_is_told_with_a_remedy(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_model(tmp_path / "base")

    def full(*_: object, **__: object) -> None:
        if where == "card":
            raise torch.OutOfMemoryError("CUDA out of memory")
        torch.empty(10**15)

    monkeypatch.setattr("accord.engine.fit.Optimizer.update", full)
    said = (
        r"step 1: memory ran out: go on from the last checkpoint by --resume with --tokens-per-pass 1024 \(it is 2048\)"
    )
    with pytest.raises(TrainingStopped, match=said):
        DPO(**QUICK).fit(base, PAIRS, out=tmp_path / "run")


def test_a_plan_draws_nothing_that_a_run_will_draw() -> None:
    state = torch.get_rng_state()
    memory._trial.cache_clear()
    memory.Shape.of(CONFIGS["llama"](), SFT(dtype="float32"), torch.float32)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_architecture_that_is_read_can_be_planned_for(name: str) -> None:
    config = CONFIGS[name]()
    shape = memory.Shape.of(config, DPO(dtype="float32"), torch.float32)
    assert shape.numbers == sum(p.numel() for p in random_model(config).parameters())
    assert shape.activations > 0


def test_what_is_no_language_model_has_no_plan() -> None:
    with pytest.raises(InputError, match="what a t5 needs of memory cannot be told"):
        memory.Shape.of(T5Config(), SFT(dtype="float32"), torch.float32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"offload_optimizer": True}, "offload_optimizer is for a model on a GPU"),
        ({"offload_reference": True}, "offload_reference is for a model on a GPU"),
        ({"offload_reference": True, "precompute_reference": True}, "no copy of the model is held that is only read"),
        ({"weight_dtype": "bfloat16"}, "weight_dtype bfloat16 needs products in it too"),
    ],
)
def test_what_cannot_be_is_refused_before_training(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        DPO(**{**QUICK, **settings}).fit(save_model(tmp_path / "base"), PAIRS, out=tmp_path / "run")


def test_doctor_tells_what_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save_model(tmp_path / "base")
    assert command("doctor", base, "--method", "grpo", "--batch-size", 2, "--memory", "8GB") == 0
    said = capsys.readouterr().out
    assert "lora 16" in said and "checkpointing" in said and "yes" in said
    assert command("doctor", base, "--method", "dpoo") == 2
    assert "did you mean dpo" in capsys.readouterr().err
    assert command("doctor", base, "--method", "sft", "--group-size", 2) == 2
    assert "sft has no group_size" in capsys.readouterr().err


def peak(**given: Any) -> tuple[float, float]:
    """Measured and expected bytes at the peak of a training, in a process of its own."""
    asked = [sys.executable, "-m", "tests.engine.peak", json.dumps(given)]
    told = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    return told["measured"], told["expected"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads what the kernel of Linux says of a process")
def test_the_peak_with_activations_computed_again_is_as_expected() -> None:
    measured, expected = peak(return_freed_memory=True, activation_checkpointing=True)
    assert measured == pytest.approx(expected, rel=0.15)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads what the kernel of Linux says of a process")
def test_activations_computed_again_lower_the_peak_as_expected() -> None:
    plain = peak(return_freed_memory=True)
    again = peak(return_freed_memory=True, activation_checkpointing=True)
    assert plain[0] - again[0] == pytest.approx(plain[1] - again[1], rel=0.15)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads what the kernel of Linux says of a process")
@pytest.mark.parametrize("more", [{"lora_rank": 8}, {"activation_checkpointing": True}, {}], ids=str)
@pytest.mark.parametrize("returned", [True, False])
def test_peaks_are_as_expected(more: dict[str, Any], returned: bool) -> None:
    if "lora_rank" in more:
        pytest.importorskip("peft")
    measured, expected = peak(return_freed_memory=returned, **more)
    assert measured == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("held", [{"lora_rank": 2}, {"weight_dtype": "bfloat16"}], ids=str)
@pytest.mark.parametrize("architecture", [*CONFIGS, "gemma3"])
def test_weights_read_as_they_will_be_held_are_those_that_are_cast_later(
    architecture: str, held: dict[str, Any], tmp_path: Path
) -> None:
    if "lora_rank" in held:
        pytest.importorskip("peft")
        if architecture == "mamba":
            pytest.skip("takes no adapters")
    # the square root of 24, by which Gemma 3 multiplies its embedding, is rounded in bfloat16
    make = CONFIGS.get(architecture, lambda: Gemma3TextConfig(**SIZES | {"hidden_size": 24}, head_dim=4))
    network, tokenizer = random_model(make(), dtype=torch.bfloat16), byte_tokenizer(CHATML)
    network.resize_token_embeddings(len(tokenizer))
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    method = SFT(**held, dtype="bfloat16")
    before, after = (
        memory.ready(load_model(str(tmp_path), dtype="bfloat16", trained=asked), method).network
        for asked in (method, None)
    )
    for kind in ("named_parameters", "named_buffers"):
        expected = dict(getattr(after, kind)())
        found = dict(getattr(before, kind)())
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_adapters_that_peft_refuses_are_told(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    with pytest.raises(InputError, match="takes no adapters in lora_targets as they are: .*'out_proj'"):
        memory.ready(policy_of(prepare_network(random_model(CONFIGS["mamba"]()))), SFT(lora_rank=2))


def test_layers_brought_for_as_long_as_they_compute_give_the_same_numbers() -> None:
    policy = policy_of(prepare_network(random_model(CONFIGS["llama"](), dtype=torch.float32)))
    trees = Trees.of(ragged_trees())
    with torch.no_grad():
        expected, _ = log_probabilities(policy.network, trees)
        host = offload.frozen_copy(policy.network, torch.float32, torch.device("cpu"))
        offload.bring_layers(host, torch.device("cpu"))
        layer, seen = host.model.layers[0], []
        before = layer.mlp.up_proj.weight
        moved = layer.register_forward_pre_hook(lambda *_: seen.append(layer.mlp.up_proj.weight is before))
        assert torch.equal(log_probabilities(host, trees)[0], expected)
    assert seen == [False] and layer.mlp.up_proj.weight is before
    moved.remove()
    own = {p.data_ptr() for p in policy.network.parameters()}
    assert not own & {p.data_ptr() for p in host.parameters()}
    with pytest.raises(InputError, match="Linear has no layers that can be brought"):
        offload.bring_layers(nn.Linear(2, 2), torch.device("cpu"))  # type: ignore[arg-type]
