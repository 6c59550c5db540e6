"""`accord plan`: from a model's shape and figures of a machine to what ranks hold, move and take."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaConfig, MixtralConfig

from accord import results
from accord.cli.plan import plan, samplers_of
from accord.cli.shapes import config_called
from accord.engine.shares import Groups, share, size
from accord.methods import SFT
from accord.report.page import write_report
from accord.results.plan import PlanResult
from tests.commands.small import accord
from tests.report.pages import Page

SMALL = LlamaConfig(
    hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=1000, tie_word_embeddings=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    SMALL.save_pretrained(folder)
    return str(folder)


def test_the_weights_of_sizes_are_those_that_are_published() -> None:
    billions = {
        "1B": 1.24,
        "3B": 3.21,
        "7B": 6.74,
        "8B": 8.03,
        "13B": 13.02,
        "32B": 32.76,
        "70B": 70.55,
        "405B": 405.85,
    }
    found = {name: round(share(Groups.of(config_called(name)[0]).all) / 1e9, 2) for name in billions}
    assert found == billions


def test_a_plan_is_written_shown_and_drawn(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan"
    words = ("--method", "grpo", "--gpus", 1, 8, 16, "--batch-size", 16, "--group-size", 4, "--gpu-memory", "2GB")
    assert accord("plan", model, *words, "--flops", "1T", "--network", "1GB", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "16 prompts a step, each of 1,024 tokens with 4 completions of 1,024 tokens" in " ".join(printed.split())
    found = results.load(out)
    assert isinstance(found, PlanResult)
    assert found.numbers == 2 * 1000 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    one, eight, sixteen = found.rows
    assert [row.passes.each for row in found.rows] == [16, 2, 1]
    assert one.memory.weights == 4 * found.numbers and eight.memory.weights == pytest.approx(
        found.numbers / 2, rel=0.01
    )
    assert one.passes.received == 0 and one.step.waiting == 0
    # Between two nodes of 8, by 8 adapters of 1 GB/s.
    assert sixteen.passes.wire > eight.passes.wire
    assert one.rollouts == 12 * 16 * (1024 + 4 * 1024)
    sources = {figure.name: figure.source for figure in found.figures}
    assert sources["operations a second, bfloat16"] == "given"
    assert sources["bytes a second within a node"] == "80% of the data sheet's"
    page = Page(write_report(out))
    assert "plan" in page.sections and "512 prompts" not in page.sections["plan"]
    assert [row[0] for row in page.tables if row[0] in ("1", "8", "16")] == ["1", "8", "16"]


def test_what_does_not_fit_is_named(model: str) -> None:
    small = plan(model, "sft", gpus=2, gpu_memory="10MB", batch_size=4)
    assert small.rows[0].again and small.rows[0].lacks == ["training", "loading"]
    assert plan(model, "sft", gpus=2, batch_size=4).rows[0].lacks == []


def test_rows_that_the_model_cannot_read_are_told(model: str) -> None:
    """A folder says how much its model reads; the shapes of sizes do not."""

    def told(name: str, tokens: int) -> list[str]:
        found = plan(name, "sft", gpus=1, batch_size=4, prompt_tokens=tokens, completion_tokens=48)
        return [line for line in found.warnings if "reads" in line]

    assert told(model, 2000) == [] and told("1B", 2001) == []
    assert told(model, 2001) == ["the model reads 2,048 tokens at most, and a row here has 2,049."]


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("dpo", []),
        ("grpo", []),
        ("kto", ["the passes over mismatched completions, for z0, are not counted."]),
        ("distill", ["the teacher is not counted: neither its weights nor its pass over every sample."]),
    ],
)
def test_what_a_method_s_plan_leaves_out_is_told(method: str, told: list[str], model: str) -> None:
    found = plan(model, method, gpus=2, batch_size=4)
    general = ("ranks sample with", "rewards are taken")
    assert [line for line in found.warnings if not line.startswith(general)] == told


def test_methods_differ_in_what_they_hold_and_read(model: str) -> None:
    sft, dpo, ppo = (plan(model, name, gpus=2, batch_size=8).rows[0] for name in ("sft", "dpo", "ppo"))
    assert sft.memory.copies == sft.step.reading == 0 and dpo.memory.copies > 0
    # A value model is held, and trained, beside the policy, four times over each step's samples.
    assert ppo.memory.weights == 2 * sft.memory.weights
    assert ppo.step.training == pytest.approx(8 * sft.step.training)
    assert dpo.tokens == 8 * 3 * 1024 and sft.tokens == ppo.tokens == 8 * 2 * 1024


def test_weights_in_halves_and_muon_hold_less(model: str) -> None:
    whole = plan(model, "sft", gpus=2, batch_size=8)
    half = plan(model, "sft", gpus=2, batch_size=8, weight_dtype="bfloat16")
    muon = plan(model, "sft", gpus=2, batch_size=8, optimizer="muon")
    assert whole.figures[-1].value == 16 and half.figures[-1].value == pytest.approx(12, abs=0.1)
    assert half.rows[0].memory.weights == pytest.approx(whole.rows[0].memory.weights / 2, rel=0.01)
    layers = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
    assert whole.rows[0].memory.optimizer - muon.rows[0].memory.optimizer == 4 * layers / 2 + 4 * 2 * 7
    assert half.rows[0].passes.received < whole.rows[0].passes.received
    assert muon.rows[0].step.updating > whole.rows[0].step.updating


def test_adapters_are_held_trained_and_handed_over_alone(model: str) -> None:
    whole, few = (
        plan(model, "grpo", gpus=4, batch_size=8, sampler_share=0.5, reward_model=model, lora_rank=rank).rows[0]
        for rank in (0, 2)
    )
    own = 2 * 2 * (2 * 128 + 2 * 96 + 3 * 192)  # two layers of rank 2: q and o 64 by 64, k and v 32, three of 128
    assert few.memory.gradients == 4 * own / 2 and few.memory.copies == 4 * own / 2
    assert few.step.handing_over == pytest.approx(4 * own / 1e9)
    assert whole.step.handing_over > 20 * few.step.handing_over and few.step.training < whole.step.training
    assert few.memory.reward == whole.memory.reward and few.passes.received < whole.passes.received
    counts = 4 * 2 * 2 * 7  # of AdamW's steps, of two matrices beside each of seven in two layers
    assert few.passes.hsdp_held == size(Groups.of(SMALL, SFT(lora_rank=2)).all, 2) + 12 * own / 2 + counts


def test_a_base_in_few_bits_is_whole_on_every_rank(model: str) -> None:
    found = plan(model, "sft", gpus=[2, 8], batch_size=8, lora_rank=2, quantize="int8")
    layers = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
    scales = 4 * 2 * (2 * 64 + 2 * 32 + 2 * 128 + 64)  # a row of each matrix
    groups = Groups.of(SMALL, SFT(lora_rank=2, quantize="int8"))
    assert groups.whole == layers + scales
    assert "beneath them 0.00 GB in few bits, whole on every rank" in found.shape
    assert [row.memory.weights for row in found.rows] == [layers + scales + size(groups.all, ranks) for ranks in (2, 8)]
    shared = plan(model, "sft", gpus=[2, 8], batch_size=8, lora_rank=2)
    assert all(few.passes.received < row.passes.received for few, row in zip(found.rows, shared.rows, strict=True))
    assert found.figures[-1].value == shared.figures[-1].value  # of what is trained


def test_experts_are_planned_for_and_what_they_cost_is_said(tmp_path: Path) -> None:
    MixtralConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=1000, num_local_experts=4, num_experts_per_tok=2,
    ).save_pretrained(tmp_path)  # fmt: skip
    found = plan(str(tmp_path), "sft", gpus=[2, 16, 24], batch_size=8)
    expert = 3 * 64 * 128
    assert f"{(found.numbers - 2 * 2 * expert) / 1e9:.2f} billion are active per token, 2 layers" in found.shape
    [warned] = found.warnings
    assert "a layer has 4 experts, whose rows 24 ranks cannot share evenly" in warned
    assert warned.endswith("take a divisor of 64.")
    two, sixteen, odd = found.rows
    assert two.memory.weights >= 4 * 2 * 2 * expert  # two of each layer's four
    assert 4 * 2 * expert / 4 <= sixteen.memory.weights < 4 * 2 * expert  # a quarter of an expert a layer
    assert odd.memory.weights >= 4 * 2 * expert
    assert sixteen.passes.received == pytest.approx(two.passes.received * (15 / 16) / (1 / 2), rel=0.01)
    assert odd.passes.received > 3 * two.passes.received  # room for twenty-four experts, not four
    sources = {figure.name: figure.value for figure in found.figures}
    assert sources["operations a second, float32"] == pytest.approx(0.35 * 67e12)
    half = plan(str(tmp_path), "sft", gpus=2, batch_size=8, weight_dtype="bfloat16")
    assert half.figures[-1].value == pytest.approx(12, abs=0.1)
    assert half.rows[0].memory.weights == pytest.approx(two.memory.weights / 2, rel=0.01)
    assert half.rows[0].passes.compute < two.passes.compute / 2  # products of experts are of bfloat16 too
    assert "operations a second, float32" not in {figure.name for figure in half.figures}


def test_a_reward_model_is_whole_on_every_rank(model: str) -> None:
    found = plan(model, "grpo", gpus=4, batch_size=8, reward_model=model)
    assert found.rows[0].memory.reward == 4 * found.numbers
    assert found.rows[0].step.reward > 0 and not any("reward-model" in line for line in found.warnings)


@pytest.mark.parametrize(
    ("gpus", "share", "samplers"), [(8, 0.0, 0), (8, 0.5, 4), (2, 0.01, 1), (1, 0.5, 0), (3, 0.9, 2)]
)
def test_gpus_that_sample(gpus: int, share: float, samplers: int) -> None:
    assert samplers_of(gpus, share) == samplers
