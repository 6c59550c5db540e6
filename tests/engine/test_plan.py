"""What a run needs of memory: sizes, what is counted, settings taken up until it fits, and peaks that are measured."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, MixtralConfig, T5Config

from accord.engine import gpus, memory, plan
from accord.engine.models import Policy
from accord.engine.team import Team
from accord.errors import InputError, TrainingStopped
from accord.feedback.judge import ScoreJudge
from accord.methods import DPO, GRPO, IPO, KTO, PPO, SFT, NashMD, OnlineDPO
from accord.methods.offline import OfflineMethod
from tests.commands.small import accord as command
from tests.commands.small import save_model, write_jsonl
from tests.engine.tiny import CONFIGS, policy_of, random_model

PAIR = {"prompt": "hi", "chosen": "day good", "rejected": "day bye"}
LONGER = ScoreJudge(lambda _, text: float(len(str(text))))


@pytest.mark.parametrize(
    ("text", "expected"), [("24GB", 24e9), ("900 MB", 9e8), ("16GiB", 16 * 2**30), ("1.5t", 1.5e12), ("80G", 8e10)]
)
def test_sizes(text: str, expected: float) -> None:
    assert gpus.size(text) == expected


@pytest.mark.parametrize("text", ["24", "much", "-1GB", "0GB", "1.2.3GB", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="memory is a size such as 24GB"):
        gpus.size(text)


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
    needed = memory.training_memory(shape, method, torch.float32)
    assert needed["weights"] == needed["gradients"] == 4 * shape.numbers
    assert (needed["optimizer"], needed["copies"]) == (8 * shape.numbers, 0)
    assert memory.training_memory(shape, DPO(dtype="float32"), torch.float32)["copies"] == 4 * shape.numbers
    adapted = replace(method, lora_rank=4)
    shape = memory.Shape.of(config, adapted, torch.float32)
    assert shape.adapters == 3 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert memory.training_memory(shape, adapted, torch.float32)["optimizer"] == 8 * shape.adapters


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
    "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 4, "vocab_size": 512,
    "num_key_value_heads": 4,
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
    base, rows = save_model(tmp_path / "base"), write_jsonl(tmp_path / "pairs.jsonl", [PAIR] * 4)
    given = ("dpo", "--model", base, "--data", rows, "--out", tmp_path / "run", "--max-steps", 2, "--dtype", "float32")
    assert command(*given, "--memory", "16GB") == 0
    assert "of 16.0 GB at the peak, as the settings are" in capsys.readouterr().err
    assert command(*given, "--memory", "1MB") == 2
    assert "memory: this needs" in (told := capsys.readouterr().err) and "there are 0.001: take a smaller" in told


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
        DPO(dtype="float32", max_steps=3).fit(base, [PAIR], out=tmp_path / "run")


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
    with pytest.raises(InputError, match="the memory that a t5 needs is unknown"):
        memory.Shape.of(T5Config(), SFT(dtype="float32"), torch.float32)


def test_what_cannot_be_tried_has_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = LlamaConfig(**{**WIDE, "num_key_value_heads": 3})
    with pytest.raises(InputError, match="^the model LlamaForCausalLM reads no text in transformers: "):
        memory.Shape.of(odd, SFT(dtype="float32"), torch.float32)
    monkeypatch.setattr("accord.engine.activations.available", lambda device: 1e6)
    experts = MixtralConfig(**{**WIDE, "num_key_value_heads": 2})
    with pytest.raises(InputError, match="on 2 of its layers, which take 0.0317 GB, and this machine has 0.001: ask"):
        memory.Shape.of(experts, SFT(dtype="float32"), torch.float32)


def test_doctor_runs_no_code_of_a_model_and_does_not_ask_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}))
    assert command("doctor", tmp_path) == 2
    out, told = capsys.readouterr()
    assert "Do you wish" not in out
    assert told == (
        f"accord: the configuration of {tmp_path} cannot be read: it needs code that comes with it, which commands do "
        "not run; load_model(..., trust_remote_code=True) in Python does, for models you trust.\n"
    )


def test_doctor_tells_what_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save_model(tmp_path / "base")
    assert command("doctor", base, "--method", "grpo", "--batch-size", 2, "--memory", "8GB") == 0
    printed = capsys.readouterr().out
    assert "lora 16" in printed and "checkpointing" in printed and "yes" in printed
    assert command("doctor", base, "--method", "dpoo") == 2
    assert "did you mean dpo" in capsys.readouterr().err
    assert command("doctor", base, "--method", "sft", "--group-size", 2) == 2
    assert "sft has no group_size" in capsys.readouterr().err


def test_doctor_describes_a_gpu_and_plans_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_model(tmp_path / "base")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command("doctor", base, "--device", "cuda") == 2
    assert "there is no CUDA device here: give --memory, that of the device you mean" in capsys.readouterr().err
    assert command("doctor", base, "--device", "cuda", "--memory", "24GB") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "a CUDA device that is not here" in said and "dpo, products in bfloat16" in said
    assert "+ offload" in said and "+ copy offloaded" not in said  # by then no copy is left
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=15_843_721_216)
    )
    assert command("doctor", base, "--method", "grpo") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Tesla T4, 15.8 GB, without products in bfloat16" in said and "grpo, products in float32" in said
    assert "+ offload" in said and "+ copy offloaded" in said and "freed returned" not in said


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
