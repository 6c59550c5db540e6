"""Runs that train adapters: the reference, resuming, watching, what folders hold, merging and training on."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import accord
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from accord.feedback.judge import ScoreJudge
from accord.methods import DPO, GRPO, PPO, SFT, NashMD, PreferenceModel, RewardModel
from tests.commands.small import accord as command
from tests.commands.small import save_model
from tests.interrupted import interrupt_at

ADAPTERS: dict[str, Any] = {"lora_rank": 2, "learning_rate": 1e-2, "dtype": "float32", "batch_size": 2, "max_steps": 3}
PAIRS = [{"prompt": a, "chosen": f"{b} good", "rejected": f"{b} bye"} for a in ("hi", "hello") for b in ("day", "bad")]
TREES = Trees.of([Tree((6, 7, 8), (Branch((9, 10, 11)), Branch((6, 9))))])


LONGER = ScoreJudge(lambda _, text: float(len(str(text))))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("base") / "model")


def length(completions: list[str], **_: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def test_dpo_begins_at_log_2_and_leaves_adapters_that_peft_reads(base: str, tmp_path: Path) -> None:
    result = DPO(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "run")
    assert result.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    folder = tmp_path / "run" / "model"
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= {f.name for f in folder.iterdir()}
    assert not (folder / "model.safetensors").exists()
    theirs = AutoModelForCausalLM.from_pretrained(folder)  # which reads the base, and adds the adapter
    assert sum("lora_" in name for name, _ in theirs.named_parameters()) == len(
        load_file(folder / "adapter_model.safetensors")
    )
    tokens = torch.tensor([[6, 7, 8, 9, 10, 11]])
    with torch.no_grad():
        expected = theirs(input_ids=tokens).logits.log_softmax(-1)[0, 2:5].gather(1, tokens[0, 3:, None]).squeeze(1)
        torch.testing.assert_close(result.model.log_probs(TREES)[:3], expected, rtol=0, atol=1e-5)
        again = accord.load_model(str(folder))
        torch.testing.assert_close(again.log_probs(TREES), result.model.log_probs(TREES), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        (GRPO(**ADAPTERS, group_size=2, max_new_tokens=3), {"reward": length}),
        (PPO(**ADAPTERS, max_new_tokens=3), {"reward": length}),
        (
            NashMD(**ADAPTERS, past=2, snapshot_every=1, max_new_tokens=3),
            {"judge": LONGER},
        ),
    ],
    ids=lambda value: getattr(value, "command", ""),
)
def test_a_stopped_run_goes_on_bit_for_bit(method: Any, more: dict[str, Any], base: str, tmp_path: Path) -> None:
    whole = method.fit(base, PAIRS, out=tmp_path / "whole", **more)
    with pytest.raises(KeyboardInterrupt):
        method.fit(base, PAIRS, out=tmp_path / "cut", save_every=1, on_step=interrupt_at(2), **more)
    saved = load_file(max((tmp_path / "cut/checkpoints").iterdir()) / "policy.safetensors")
    assert saved and all("lora_" in name for name in saved)
    assert whole.metrics[0]["kl"] == pytest.approx(0, abs=1e-5)
    method.fit(base, PAIRS, out=tmp_path / "cut", save_every=1, resume=True, **more)
    ours, theirs = (load_file(tmp_path / run / "model/adapter_model.safetensors") for run in ("whole", "cut"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_reward_models_with_adapters_judge_and_are_rewards(base: str, tmp_path: Path) -> None:
    result = RewardModel(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "rm")
    again = accord.load_reward_model(str(tmp_path / "rm/model"))
    assert "from_pretrained(name, num_labels=1)" in (tmp_path / "rm/model/README.md").read_text()
    with torch.no_grad():
        torch.testing.assert_close(again.rewards(TREES), result.model.rewards(TREES), rtol=0, atol=1e-5)  # type: ignore
    GRPO(**ADAPTERS, group_size=2, max_new_tokens=3).fit(
        base, PAIRS, reward=str(tmp_path / "rm/model"), out=tmp_path / "g"
    )
    PPO(**ADAPTERS, max_new_tokens=3).fit(base, PAIRS, reward=str(tmp_path / "rm/model"), out=tmp_path / "p")


def test_the_best_that_is_watched_holds_adapters(base: str, tmp_path: Path) -> None:
    SFT(**ADAPTERS).fit(
        base, PAIRS, out=tmp_path / "run", watch=length, watch_data=PAIRS, watch_every=1, watch_tokens=3
    )
    best = accord.load_model(str(tmp_path / "run/best"))
    assert (tmp_path / "run/best/adapter_model.safetensors").exists()
    assert best.log_probs(TREES).isfinite().all()


def test_what_is_trained_on_an_adapter_holds_both(base: str, tmp_path: Path) -> None:
    SFT(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "one")
    first = str(tmp_path / "one/model")
    result = DPO(**ADAPTERS).fit(first, PAIRS, out=tmp_path / "two")
    assert result.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    second = accord.load_model(str(tmp_path / "two/model"))
    with torch.no_grad():
        torch.testing.assert_close(second.log_probs(TREES), result.model.log_probs(TREES), rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "two/model/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (base, 4)


def test_merge_writes_a_whole_model(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = SFT(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "run")
    assert command("merge", "--model", tmp_path / "run/model", "--out", tmp_path / "whole") == 0
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    tokens = torch.tensor([[6, 7, 8, 9, 10, 11]])
    with torch.no_grad():
        torch.testing.assert_close(
            whole(input_ids=tokens).logits, result.model.network(input_ids=tokens).logits, rtol=0, atol=1e-5
        )
    assert command("merge", "--model", base, "--out", tmp_path / "no") == 2
    assert "holds no adapter" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_adapters_that_cannot_be_used_are_told(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DPO(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "run")
    RewardModel(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "rm")
    lost = tmp_path / "lost"
    shutil.copytree(tmp_path / "run/model", lost)
    config = json.loads((lost / "adapter_config.json").read_text())
    (lost / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/no/such/base"}))
    (lost / "SHA256SUMS").unlink()
    for folder, said in (
        (lost, "holds an adapter of /no/such/base, and there is no such folder: name the model it is for in"),
        (
            tmp_path / "rm/model",
            "is a reward or preference model, not a language model",
        ),
    ):
        assert command("sample", "--model", folder, "--data", "hi", "--out", tmp_path / "s.jsonl") == 2
        assert said in capsys.readouterr().err
    with pytest.raises(InputError, match=r"run/model is not a reward model: it is an adapter of a language model"):
        accord.load_reward_model(str(tmp_path / "run/model"))
    with pytest.raises(InputError, match=r"lora_alpha is for adapters: give lora_rank"):
        DPO(lora_alpha=4)
    assert command("push", tmp_path / "run/model", "me/mine") == 2
    assert f"is an adapter of {base}, a folder of this machine" in capsys.readouterr().err


def test_adapters_in_memory_are_trained_on_by_their_rank_alone(base: str, tmp_path: Path) -> None:
    model = SFT(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "one").model
    with pytest.raises(InputError, match=r"has adapters of rank 2 in memory, and lora_rank is 0: give rank 2"):
        SFT(**ADAPTERS | {"lora_rank": 0}).fit(model, PAIRS, out=tmp_path / "two")  # type: ignore[arg-type]
    result = DPO(**ADAPTERS).fit(model, PAIRS, out=tmp_path / "three")  # type: ignore[arg-type]
    assert result.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_preference_models_with_adapters_are_read_as_what_they_are(base: str, tmp_path: Path) -> None:
    result = PreferenceModel(**ADAPTERS).fit(base, PAIRS, out=tmp_path / "pm")
    again = accord.load_preference_model(str(tmp_path / "pm/model"))
    with torch.no_grad():
        torch.testing.assert_close(again.outputs(TREES), result.model.outputs(TREES), rtol=0, atol=1e-5)  # type: ignore
