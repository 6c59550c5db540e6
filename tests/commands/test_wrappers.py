"""Models that read images too, by the command line: trained on text, scored, adapted, and put back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from accord.engine.load import load_model, load_reward_model
from tests.commands.small import QUICK, accord, read_jsonl, write_jsonl
from tests.engine.wrapped import save_wrapper, whole_of

pytestmark = pytest.mark.usefixtures("blank_reports")

PAIR = {"prompt": [{"role": "user", "content": "hi"}], "chosen": "yes", "rejected": "no"}
KINDS = {"gemma3": "Gemma3ForCausalLM", "qwen3_vl": "Qwen3ForCausalLM"}


@pytest.mark.parametrize("kind", KINDS)
def test_dpo_and_grpo_train_the_language_model_and_it_goes_back(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, pairs = save_wrapper(tmp_path / "m", kind), write_jsonl(tmp_path / "p.jsonl", [PAIR] * 4)
    one = ("--model", name, "--reference", name, "--data", pairs, "--out", tmp_path / "dpo")
    assert accord("dpo", *one, *QUICK) == 0
    trained = tmp_path / "dpo/model"
    saved, info = transformers.AutoModelForCausalLM.from_pretrained(trained, output_loading_info=True)
    assert type(saved).__name__ == KINDS[kind] and not any(info.values())
    written = "def early(completions, **_):\n    return [-len(c[0]['content']) for c in completions]\n"
    (tmp_path / f"{kind}_rewards.py").write_text(written)
    monkeypatch.chdir(tmp_path)
    online = ("--reward", f"{kind}_rewards:early", "--max-new-tokens", "4", "--group-size", "2")
    last = ("--out", tmp_path / "grpo", *QUICK)
    assert accord("grpo", "--model", trained, "--data", pairs, *online, *last) == 0
    assert accord("merge", tmp_path / "grpo/model", "--into", name, "--out", tmp_path / "whole") == 0
    whole, text = whole_of(tmp_path / "whole"), load_model(str(tmp_path / "grpo/model")).network
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.allclose(whole(input_ids=ids).logits, text(input_ids=ids).logits, atol=1e-5)
    assert type(whole) is type(whole_of(name))


def test_a_reward_model_and_adapters_on_a_language_model_within(tmp_path: Path) -> None:
    name, pairs = save_wrapper(tmp_path / "m", "qwen3_vl"), write_jsonl(tmp_path / "p.jsonl", [PAIR] * 4)
    assert accord("reward", "--model", name, "--data", pairs, "--out", tmp_path / "rm", *QUICK) == 0
    low = ("--lora-rank", "2", *QUICK)
    assert accord("reward", "--model", name, "--data", pairs, "--out", tmp_path / "low", *low) == 0
    assert type(load_reward_model(str(tmp_path / "low/model")).network).__name__ == "Qwen3ForSequenceClassification"
    assert accord("dpo", "--model", name, "--data", pairs, "--out", tmp_path / "lora", *low) == 0
    adapter = tmp_path / "lora/model"
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == name
    assert accord("merge", adapter, "--into", name, "--out", tmp_path / "whole") == 0
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        own, whole = load_model(str(adapter)).network(input_ids=ids), whole_of(tmp_path / "whole")(input_ids=ids)
    assert torch.allclose(own.logits, whole.logits, atol=1e-5)
    out = tmp_path / "scores.jsonl"
    assert accord("score", "--model", name, "--data", pairs, "--out", out) == 0
    assert len(read_jsonl(out)) == 4


def test_an_adapter_of_the_whole_is_read_as_peft_adds_it(tmp_path: Path) -> None:
    """As others make them: the names of its weights are those of the whole, some of them of what sees."""
    import peft

    name = save_wrapper(tmp_path / "m", "gemma3")
    config: Any = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    whole = peft.get_peft_model(whole_of(name), config)
    whole.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7, 8]])
    policy = load_model(str(tmp_path / "adapter"))
    with torch.no_grad():
        assert torch.allclose(policy.network(input_ids=ids).logits, whole(input_ids=ids).logits, atol=1e-5)
    pairs = write_jsonl(tmp_path / "p.jsonl", [PAIR] * 4)
    low = ("--lora-rank", "2", *QUICK, "--out", tmp_path / "run")
    assert accord("dpo", "--model", tmp_path / "adapter", "--data", pairs, *low) == 0
    made = load_model(str(tmp_path / "run/model")).network
    with torch.no_grad():
        assert torch.allclose(made(input_ids=ids).logits, policy.network(input_ids=ids).logits, atol=0.05)


def test_an_adapter_whose_weights_have_no_place_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = save_wrapper(tmp_path / "m", "gemma3")
    load_model(name).save(tmp_path / "text")
    for folder, layer in (("a", "model.language_model"), ("b", "model.blocks")):
        (tmp_path / folder).mkdir()
        given = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "text"), "r": 1, "lora_alpha": 1}
        given |= {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
        (tmp_path / folder / "adapter_config.json").write_text(json.dumps(given))
        at = f"base_model.model.{layer}.layers.0.self_attn.q_proj"
        parts = {f"{at}.lora_A.weight": torch.ones(1, 32), f"{at}.lora_B.weight": torch.ones(32, 1)}
        save_file(parts, tmp_path / folder / "adapter_model.safetensors")
        assert accord("chat", tmp_path / folder) == 2
    printed = capsys.readouterr().err
    needs = f"is for a model that reads more than text, and {tmp_path}/text reads only text."
    assert f"the adapter {tmp_path}/a {needs}" in printed
    lost = "base_model.model.model.blocks.layers.0.self_attn.q_proj.lora_A.weight"
    assert f"the adapter {tmp_path}/b does not fit its base model: that has no place for {lost}" in printed
