"""Models as people have them: ends of turns, templates, reward models read as transformers reads them, odd folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import accord as library
from accord.engine.load import load_model, load_reward_model
from accord.errors import InputError
from accord.feedback.learned import LearnedReward
from accord.records import EncodedPrompt, Message, Prompt, Sample
from tests.commands.small import QUICK, accord, read_jsonl, write_jsonl
from tests.data.templates import FAMILIES, byte_tokenizer

pytestmark = pytest.mark.usefixtures("blank_reports")

LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
ASK = [{"role": "user", "content": "hi"}]


def save(folder: Path, template: str | None, *, scorer: bool = False, extra: int = 0, always: str = "") -> str:
    """A tiny model with a family's template; `always` is the one token it ever says, `extra` rows have no token."""
    tokenizer = byte_tokenizer(None if template is None else FAMILIES[template][0])
    config: Any = transformers.LlamaConfig(
        vocab_size=len(tokenizer) + extra, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3,
        bos_token_id=0, eos_token_id=tokenizer.eos_token_id, num_labels=1,
    )  # fmt: skip
    torch.manual_seed(1)
    kind: Any = transformers.AutoModelForSequenceClassification if scorer else transformers.AutoModelForCausalLM
    network = kind.from_config(config)
    if always:
        with torch.no_grad():
            embedding = network.get_input_embeddings().weight
            embedding.copy_(torch.ones_like(embedding))
            for layer in network.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            network.lm_head.weight.zero_()
            network.lm_head.weight[tokenizer.convert_tokens_to_ids(always)] = 1.0
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_sampling_stops_at_the_templates_end_and_at_those_of_the_generation_configuration(tmp_path: Path) -> None:
    model = load_model(save(tmp_path / "m", "gemma", always="<end_of_turn>"))
    prompt = EncodedPrompt(Prompt("hi"), (5, 6), 0)
    (sample,) = model.sample([prompt], 1)
    assert sample.completion.tokens == (model.end,) and sample.completion.stop == "end" and sample.text == ""
    other = model.tokenizer.convert_tokens_to_ids("<|end|>")
    model.network.generation_config.eos_token_id = [other, 10**6]  # the second is no token at all
    assert model.ends == (model.end, model.tokenizer.eos_token_id, other)


def test_a_trained_model_stops_where_its_answers_end_in_other_software(tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"messages": [*ASK, {"role": "assistant", "content": "yes"}]}] * 4)
    assert (
        accord("sft", "--model", save(tmp_path / "m", "chatml"), "--data", rows, "--out", tmp_path / "run", *QUICK) == 0
    )
    saved = json.loads((tmp_path / "run/model/generation_config.json").read_text())
    tokenizer = byte_tokenizer(None)
    assert saved["eos_token_id"] == [tokenizer.convert_tokens_to_ids(end) for end in ("<|im_end|>", "</s>")]


@pytest.mark.parametrize("family", ["chatml", "llama", "gemma", "phi"])
def test_a_reward_model_gives_what_plain_transformers_gives_of_the_whole_chat(family: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "rm", family, scorer=True)
    reward = LearnedReward(load_reward_model(folder))
    network = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = reward.model.tokenizer
    for answer in ("Hello.", "No!"):
        chat = [*ASK, {"role": "assistant", "content": answer}]
        ids = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            plain = float(network(input_ids=torch.tensor([ids])).logits)
        asked = (Message("user", "hi"),)
        assert float(reward.texts([(asked, answer)])) == pytest.approx(plain, abs=1e-4)
        own = tokenizer(tokenizer.apply_chat_template(ASK, tokenize=False, add_generation_prompt=True))["input_ids"]
        said = (*tokenizer(answer, add_special_tokens=False)["input_ids"], reward.model.end)
        completion = library.records.Completion(said, (0.0,) * len(said), "end")
        sample = Sample(Prompt(asked), answer, tuple(own), completion)
        assert float(reward([sample])) == pytest.approx(plain, abs=1e-4)


def test_a_fitted_reward_model_gives_the_same_elsewhere(tmp_path: Path) -> None:
    pairs = [{"prompt": ASK, "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(4)]
    base, rows = save(tmp_path / "m", "chatml"), write_jsonl(tmp_path / "pairs.jsonl", pairs)
    assert (
        accord("reward", "--model", base, "--data", rows, "--out", tmp_path / "rm", "--learning-rate", "0.01", *QUICK)
        == 0
    )
    reward = LearnedReward(load_reward_model(str(tmp_path / "rm/model")))
    network = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm/model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "rm/model")
    for answer in ("good 1", "bad 1"):
        text = tokenizer.apply_chat_template([*ASK, {"role": "assistant", "content": answer}], tokenize=False)
        with torch.no_grad():
            plain = float(network(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits)
        assert float(reward.texts([((Message("user", "hi"),), answer)])) == pytest.approx(plain, abs=1e-3)


def test_samples_of_another_template_are_read_by_their_texts(tmp_path: Path) -> None:
    policy = load_model(save(tmp_path / "m", "chatml"))
    reward = LearnedReward(load_reward_model(save(tmp_path / "rm", "llama", scorer=True)), policy)
    assert not reward.shares_tokens and policy.same_vocabulary(reward.model)


def test_ids_without_a_token_are_never_drawn(tmp_path: Path) -> None:
    model = load_model(save(tmp_path / "m", "chatml", extra=400))
    prompts = [EncodedPrompt(Prompt("hi"), (i + 1, 7), i) for i in range(4)]
    samples = model.sample(prompts, 8, library.engine.Sampling(max_new_tokens=16))
    assert max(token for s in samples for token in s.completion.tokens) < len(model.tokenizer)


def test_texts_end_a_completion_and_turns_do_not_end_too_early(tmp_path: Path) -> None:
    sampling = library.engine.Sampling
    model = load_model(save(tmp_path / "m", "chatml", always="a"))
    prompt = EncodedPrompt(Prompt("hi"), (5, 6), 0)
    (sample,) = model.sample([prompt], 1, sampling(max_new_tokens=9, temperature=0, stop=("aaa",)))
    assert sample.text == "aaa" and sample.completion.stop == "end"
    (sample,) = model.sample([prompt], 1, sampling(max_new_tokens=9, temperature=0, stop=("b",)))
    assert sample.text == "a" * 9 and sample.completion.stop == "length"
    ending = load_model(save(tmp_path / "e", "chatml", always="<|im_end|>"))
    (sample,) = ending.sample([prompt], 1, sampling(max_new_tokens=9, min_new_tokens=4, seed=1))
    assert len(sample.completion.tokens) > 4 or sample.completion.tokens[-1] not in ending.ends
    assert not set(sample.completion.tokens[:4]) & set(ending.ends)
    for wrong in ({"min_new_tokens": 10, "max_new_tokens": 9}, {"stop": ("",)}):
        with pytest.raises(InputError):
            sampling(**wrong)  # type: ignore[arg-type]


def test_folders_that_hold_no_model_that_can_be_used(tmp_path: Path) -> None:
    whole = save(tmp_path / "m", "chatml")
    adapter = tmp_path / "adapter"
    shutil.copytree(whole, adapter)
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "base", "peft_type": "LORA"}))
    quantized = tmp_path / "quantized"
    shutil.copytree(whole, quantized)
    config = json.loads((quantized / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (quantized / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    (tmp_path / "text.gguf").write_text("no")
    (tmp_path / "weights.bin").write_text("no")
    grown = tmp_path / "grown"
    shutil.copytree(whole, grown)
    tokenizer = transformers.AutoTokenizer.from_pretrained(grown)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(grown)
    lacking = tmp_path / "lacking"
    shutil.copytree(whole, lacking)
    weights = load_file(lacking / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, lacking / "model.safetensors", metadata={"format": "pt"})
    pickled = tmp_path / "pickled"
    shutil.copytree(adapter, pickled)
    (pickled / "adapter_model.bin").write_bytes(b"")
    own = tmp_path / "own"
    shutil.copytree(whole, own)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "model_type": "xyz", "auto_map": {"AutoConfig": "x.X"}}))
    whole_numbers = tmp_path / "whole_numbers"
    shutil.copytree(whole, whole_numbers)
    weights = load_file(f"{whole}/model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] = (weights["model.layers.0.mlp.down_proj.weight"] * 99).to(
        torch.int8
    )
    save_file(weights, whole_numbers / "model.safetensors", metadata={"format": "pt"})
    said = {
        adapter: "holds an adapter without its weights: it needs adapter_model.safetensors",
        pickled: r"holds its adapter as a pickle \(adapter_model.bin\), which could run any code and is not read",
        whole_numbers: "holds whole numbers as model.layers.0.mlp.down_proj.weight, as after quantization",
        own: "it needs code that comes with it, which commands do not run",
        quantized: r"is quantized \(bitsandbytes\), in a way that transformers does not read",
        tmp_path / "model.gguf": "the GGUF file .* cannot be loaded",
        tmp_path / "text.gguf": "is not a GGUF file: it lacks the header",
        tmp_path / "weights.bin": "is a file; a model is a folder with a config.json, a GGUF file, or a Hub name",
        grown: r"the tokenizer of .* has \d+ tokens and the model's embedding \d+: grow it",
        lacking: r"lacks the weight model\.layers\.1\.mlp\.down_proj\.weight",
    }
    for folder, message in said.items():
        with pytest.raises(InputError, match=message):
            load_model(str(folder))


def test_a_head_of_its_own_is_saved_as_one(tmp_path: Path) -> None:
    """The configuration ties it to the embedding, and the file has both, as fine-tunes by some trainers do."""
    model = Path(save(tmp_path / "m", "chatml"))
    config = json.loads((model / "config.json").read_text())
    weights = load_file(model / "model.safetensors")
    assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    (model / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    load_model(str(model)).save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(load_file(tmp_path / "saved" / "model.safetensors")["lm_head.weight"], weights["lm_head.weight"])


def test_a_base_model_is_given_a_template_that_the_trained_one_keeps(tmp_path: Path) -> None:
    base, out = save(tmp_path / "m", None), tmp_path / "run"
    rows = write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": ASK, "chosen": "a", "rejected": "b"}])
    assert accord("dpo", "--model", base, "--data", rows, "--out", tmp_path / "no", *QUICK) == 2
    assert accord("dpo", "--model", base, "--data", rows, "--out", out, "--chat-template", "chatml", *QUICK) == 0
    assert "<|im_start|>" in str(load_model(str(out / "model")).tokenizer.chat_template)
    assert "chat_template: chatml" in (out / "config.yaml").read_text()


def test_bad_rows_are_left_out_of_a_run_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [{"prompt": f"p{i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(50)]
    pairs[9]["rejected"] = pairs[9]["chosen"]
    base, rows = save(tmp_path / "m", "chatml"), write_jsonl(tmp_path / "pairs.jsonl", pairs)
    command = ("dpo", "--model", base, "--data", rows, *QUICK)
    assert accord(*command, "--out", tmp_path / "run") == 0
    assert "1 row left out, as 'chosen' and 'rejected' are equal" in capsys.readouterr().err
    assert [row["row"] for row in read_jsonl(tmp_path / "run/left_out.jsonl")] == [10]
    assert accord(*command, "--out", tmp_path / "strict", "--strict") == 2 and not (tmp_path / "strict").exists()
    assert "line 10: 'chosen' and 'rejected' are equal" in capsys.readouterr().err
    assert accord(*command, "--out", tmp_path / "few", "--max-bad", "0.01") == 2 and not (tmp_path / "few").exists()


def test_another_reference_is_what_a_policy_is_held_to(tmp_path: Path) -> None:
    base, other = save(tmp_path / "m", "chatml"), save(tmp_path / "other", "chatml", always="a")
    rows = write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "p", "chosen": "good", "rejected": "bad"}])
    common = ("dpo", "--model", base, "--data", rows, *QUICK)
    assert accord(*common, "--out", tmp_path / "own") == 0
    assert accord(*common, "--out", tmp_path / "held", "--reference", other) == 0
    own, held = (read_jsonl(tmp_path / name / "metrics.jsonl")[0] for name in ("own", "held"))
    assert own["chosen_reward"] == pytest.approx(0, abs=1e-5)
    policy, reference = load_model(base), load_model(other)
    (tree,) = library.data.encoding.encode(policy.tokenizer, library.load_data(rows), max_length=99, context=None).trees
    trees = library.engine.Trees.of([tree])
    with torch.no_grad():
        gained = policy.branch_log_probs(trees) - reference.branch_log_probs(trees)
    assert held["chosen_reward"] == pytest.approx(0.1 * float(gained[0]), rel=1e-4)


def test_margins_of_rows_are_taken_off_the_lead(tmp_path: Path) -> None:
    base = save(tmp_path / "m", "chatml")
    losses = {}
    for margin in (0.0, 2.5):
        pairs = [{"prompt": "p", "chosen": "good", "rejected": "bad", "margin": margin}]
        rows, out = write_jsonl(tmp_path / f"{margin}.jsonl", pairs), tmp_path / f"run-{margin}"
        assert accord("reward", "--model", base, "--data", rows, "--out", out, *QUICK) == 0
        losses[margin] = read_jsonl(out / "metrics.jsonl")[0]
    lead = losses[0.0]["margin"]
    expected = -torch.nn.functional.logsigmoid(torch.tensor(lead - 2.5)).item()
    assert losses[2.5]["loss"] == pytest.approx(expected, rel=1e-4)


def test_data_shows_how_rows_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"from": "human", "value": "hi"}
    rows = [{"conversations": [asked, {"from": "gpt", "value": said}]} for said in ("yes", "")]
    file, model = write_jsonl(tmp_path / "rows.jsonl", rows), save(tmp_path / "m", "chatml")
    assert accord("data", file) == 0
    plain = capsys.readouterr()
    assert "demonstrations, chats" in plain.out and "-> completion: assistant: yes" in plain.out
    assert "1 row left out, as an assistant turn of the completion is empty (row 2)" in plain.err
    assert accord("data", file, "--model", model) == 0
    assert "-> completion: ⟦yes<|im_end|>⟧" in capsys.readouterr().out
    assert accord("data", file, "--first", "-1") == 2


def edited(folder: Path, file: str, **values: Any) -> None:
    held = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(held | values))


def test_a_generation_configuration_that_leaves_out_that_it_samples_is_written(tmp_path: Path) -> None:
    """As Llama 2's and Vicuna's are: transformers reads them, and would refuse to write what a run has trained."""
    folder = Path(save(tmp_path / "m", "chatml"))
    edited(folder, "generation_config.json", temperature=0.6, top_p=0.9)
    model = load_model(str(folder))
    model.save(tmp_path / "out")
    saved = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert (saved["temperature"], saved["top_p"], saved["do_sample"]) == (0.6, 0.9, True)
    assert saved["eos_token_id"] == list(model.ends)


def test_heads_that_only_their_own_code_knows_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(save(tmp_path / "rm", "chatml", scorer=True))
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "score.bias": torch.ones(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"has no place for the weight score\.bias"):
        load_reward_model(str(folder))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    code = {"AutoModelForSequenceClassification": "modeling.LlamaForRewardModelWithGating"}
    edited(folder, "config.json", architectures=["LlamaForRewardModelWithGating"], auto_map=code)
    with pytest.raises(InputError, match="is a LlamaForRewardModelWithGating, which needs code that comes with it"):
        load_reward_model(str(folder))
    edited(folder, "config.json", architectures=["LlamaForSequenceClassification"])  # as Phi 3's folders have both
    assert load_reward_model(str(folder)).network.config.num_labels == 1


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"rope_type": "default"}, 256),
        ({"rope_type": "linear", "factor": 2.0}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "llama3", "factor": 8.0, **LLAMA_3}, 256),
    ],
)
def test_scaled_positions_reach_further(rope: dict[str, Any], context: int, tmp_path: Path) -> None:
    folder = Path(save(tmp_path / "m", "chatml"))
    edited(folder, "config.json", rope_parameters={"rope_theta": 10000.0, **rope})
    assert load_model(str(folder)).context == context


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        (
            "generation_config.json",
            '{"eos_token_id": "</s>"}',
            "generation_config.json: eos_token_id must be the number",
        ),
        ("generation_config.json", "[]", "generation_config.json must hold a JSON object; restore it"),
        ("tokenizer.json", '{"version": ', "tokenizer.json is not JSON"),
        ("chat_template.json", "{", "chat_template.json is not JSON"),
    ],
)
def test_a_file_that_is_no_good_is_named(
    file: str, content: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "m", None)
    (tmp_path / "m" / file).write_text(content)
    assert accord("chat", tmp_path / "m") == 2
    assert told in capsys.readouterr().err


def test_shards_without_an_index_and_adapters_that_cannot_be_merged_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "m", "chatml")
    (tmp_path / "m/adapter_config.json").write_text(
        json.dumps({"peft_type": "PROMPT_TUNING", "base_model_name_or_path": save(tmp_path / "base", "chatml"),
                    "task_type": "CAUSAL_LM", "num_virtual_tokens": 4})
    )  # fmt: skip
    save_file({"prompt_embeddings": torch.zeros(4, 32)}, tmp_path / "m/adapter_model.safetensors")
    assert accord("chat", tmp_path / "m") == 2
    later = {"peft_type": "LATER", "base_model_name_or_path": str(tmp_path / "base"), "task_type": "CAUSAL_LM"}
    (tmp_path / "m/adapter_config.json").write_text(json.dumps(later))
    assert accord("chat", tmp_path / "m") == 2
    (tmp_path / "base/model.safetensors").rename(tmp_path / "base/model-00001-of-00002.safetensors")
    assert accord("chat", tmp_path / "base") == 2
    adapter, unknown, shards = capsys.readouterr().err.strip().splitlines()
    assert adapter.endswith("does not fit its base model: it is a PROMPT_TUNING, which adds nothing to weights")
    assert "m/adapter_config.json names the peft_type 'LATER', which peft" in unknown
    assert "base holds model-00001-of-00002.safetensors, and neither model.safetensors nor model.safetens" in shards
