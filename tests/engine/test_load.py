"""Folders of others: read as plain transformers reads them, or refused in a sentence that says what to do."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from accord.engine.load import load_model, load_reward_model
from accord.engine.models import Policy
from accord.engine.trees import Branch, Tree, Trees
from accord.errors import InputError
from accord.methods import DPO
from tests.commands.small import QUICK, accord, read_jsonl, write_jsonl
from tests.data.templates import CHATML, byte_tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3,
}  # fmt: skip
TREE = Tree((5, 6, 7, 8), (Branch((9, 10, 11)), Branch((12, 13))))
PAIR = {"prompt": [{"role": "user", "content": "hi"}], "chosen": "yes", "rejected": "no"}


def save(folder: Path, *, labels: int = 0, **more: Any) -> Path:
    tokenizer = byte_tokenizer(CHATML)
    config = transformers.LlamaConfig(
        **SIZES, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        num_labels=labels, **more,
    )  # fmt: skip
    torch.manual_seed(1)
    kind: Any = transformers.AutoModelForSequenceClassification if labels else transformers.AutoModelForCausalLM
    kind.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("whole") / "model")


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    held = load_file(folder / "model.safetensors")
    change(held)
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})


def config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    held = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in held.items() if value is not None}))


def sharded(folder: Path) -> None:
    network = transformers.AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    network.save_pretrained(folder, max_shard_size="60KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tok*"):
        file.unlink()


def with_code(folder: Path) -> None:
    config(folder, model_type="mine", auto_map={"AutoConfig": "configuration.Mine"})
    (folder / "configuration.py").write_text("raise SystemExit('it ran')")


def poisoned(number: float) -> Callable[[Path], None]:
    return lambda folder: weights(folder, lambda held: held["model.norm.weight"].__setitem__(3, number))


FIRST = "lm_head.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
ODD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda f: weights(f, lambda w: w.pop(DOWN)), rf"lacks the weight {DOWN}: copy it anew"),
    "left over": (
        lambda f: config(f, num_hidden_layers=1),
        r"has no place for the weight model\.layers\.1\.input_layernorm\.weight \(and 8 more\): restore the config",
    ),
    "too few": (lambda f: config(f, num_hidden_layers=3), r"lacks the weight model\.layers\.2\.\S+ \(and 8 more\)"),
    "mismatched": (
        lambda f: weights(f, lambda w: w.update({DOWN: torch.zeros(32, 7)})),
        rf"has another shape than its config\.json says for {DOWN}",
    ),
    "nan": (poisoned(math.nan), r"has numbers that are not finite in model\.norm\.weight: copy it anew"),
    "infinite": (poisoned(math.inf), r"has numbers that are not finite in model\.norm\.weight"),
    "cut": (cut, r"cannot be loaded: its weights are damaged safetensors \(.*\): copy them anew"),
    "pickled": (pickled, r"holds its weights as a pickle \(pytorch_model\.bin\).*save_pretrained of transformers"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"has no weights: it needs model\.safetensors"),
    "no shard": (sharded, r"lacks model-00002-of-\d+\.safetensors, one of its \d+ files of weights"),
    "a pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "is a pointer of git-lfs in place of the weights",
    ),
    "short precision": (lambda f: config(f, dtype="bf16"), "dtype must name a precision, not 'bf16': write bfloat16"),
    "former precision": (
        lambda f: config(f, torch_dtype="torch.fp16"),
        r"config\.json: torch_dtype must name a precision, not 'torch\.fp16': write float16\.",
    ),
    "no precision": (lambda f: config(f, dtype="nn"), "not 'nn': write float32, bfloat16 or float16"),
    "bits in a word": (
        lambda f: config(f, quantization_config="4bit"),
        "quantization_config must be an object that names its quant_method, not '4bit'",
    ),
    "a type": (
        lambda f: config(f, eos_token_id="</s>"),
        r"config\.json has eos_token_id = '</s>', which cannot be used",
    ),
    "a name": (lambda f: config(f, hidden_act="zzz"), r"config\.json has hidden_act = 'zzz', which cannot be used"),
    "a list of types": (lambda f: config(f, layer_types="full"), r"layer_types = 'full'.*\(The `layer_types` entries"),
    "a name within": (
        lambda f: config(f, rope_parameters={"rope_type": "zzz", "rope_theta": 1e4}),
        r"config\.json has rope_parameters = .*'zzz'.*, which cannot be used: correct it",
    ),
    "an object": (
        lambda f: config(f, id2label=["a"]),
        r"one of its settings cannot be used \(AttributeError: .*\): compare its config\.json",
    ),
    "a tokenizer's length": (
        lambda f: (f / "tokenizer_config.json").write_text('{"model_max_length": "long"}'),
        r"one of its settings cannot be used \(TypeError: .*\): compare its config\.json",
    ),
    "no type": (lambda f: config(f, model_type=None), r"config\.json names no model_type"),
    "no tokenizer": (without_tokenizer, r"has no tokenizer \(tokenizer\.json and others\)"),
    "empty tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        r"cannot be loaded: its files lack 'added_tokens': restore",
    ),
    "reformer": (
        lambda f: config(f, model_type="reformer", architectures=["ReformerModelWithLMHead"]),
        "is a ReformerModelWithLMHead, whose attention hashes at random",
    ),
    "code": (with_code, r"it needs code that comes with it, which commands do not run"),
    "unknown bits": (
        lambda f: config(f, quantization_config={"quant_method": "mine", "bits": 3}),
        r"is quantized \(mine\), in a way that transformers does not read",
    ),
    "no backend": (
        lambda f: config(f, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128}),
        r"the model, quantized by gptq, .* cannot be loaded: .*pip install (optimum|gptqmodel)",
    ),
    "of a compiled one": (
        lambda f: weights(f, lambda w: [w.update({f"_orig_mod.{name}": w.pop(name)}) for name in list(w)]),
        rf"has _orig_mod\.{FIRST} in place of {FIRST}: .*; remove _orig_mod\. from the names of its weights",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_whole_model_is_refused_by_name(name: str, whole: Path, tmp_path: Path) -> None:
    make, message = ODD[name]
    folder = tmp_path / "odd"
    shutil.copytree(whole, folder)
    make(folder)
    with pytest.raises(InputError, match=message):
        load_model(str(folder))


@pytest.mark.parametrize(
    "settings",
    [
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_3"},
        {"_attn_implementation": "somebody/attention"},
        {"_experts_implementation": "grouped_mm"},
        {"output_attentions": True, "output_hidden_states": True, "return_dict": False},
    ],
)
def test_what_another_machine_computed_with_is_left_behind(
    settings: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(whole, folder)
    config(folder, **settings)
    plain, other = load_model(str(whole)).network, load_model(str(folder)).network
    tokens = torch.tensor([[1, 2, 3]])
    assert other.config._attn_implementation == plain.config._attn_implementation
    assert torch.equal(plain(tokens).logits, other(tokens).logits)


def test_shards_may_lie_in_a_folder_of_their_own(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(whole, folder)
    (folder / "weights").mkdir()
    file = (folder / "model.safetensors").rename(folder / "weights/all.safetensors")
    names = dict.fromkeys(load_file(file), "weights/all.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert torch.equal(read(folder), read(whole))


def test_weights_that_only_a_configuration_calls_quantized_are_refused(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    shutil.copytree(whole, tmp_path / "odd")
    config(tmp_path / "odd", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(InputError, match=r"quantized \(bitsandbytes\) by its config\.json, and its weights are not"):
        load_model(str(tmp_path / "odd"))


def test_commands_end_with_a_sentence_and_leave_nothing(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rows = tmp_path / "odd", write_jsonl(tmp_path / "rows.jsonl", [PAIR])
    shutil.copytree(whole, folder)
    poisoned(math.nan)(folder)
    for command in ("dpo", "sample", "score"):
        out = tmp_path / command
        assert accord(command, "--model", folder, "--data", rows, "--out", out) == 2 and not out.exists()
        printed = capsys.readouterr().err
        assert "not finite in model.norm.weight" in printed and "Traceback" not in printed


def test_a_folder_that_holds_models_says_which(whole: Path, tmp_path: Path) -> None:
    for place in ("model", "checkpoint-7", "snapshots/abc"):
        outer = tmp_path / place.replace("/", "-")
        shutil.copytree(whole, outer / place)
        with pytest.raises(InputError, match=rf"it has no config\.json; did you mean {outer / place}\?"):
            load_model(str(outer))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("seed: 0")
    with pytest.raises(InputError, match="it is the folder of a run that has written no model yet"):
        load_model(str(tmp_path / "run"))


def plain(folder: Path) -> torch.Tensor:
    """log p of the tree's tokens by plain transformers, a row a branch."""
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logps = []
    for branch in TREE.branches:
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([TREE.prompt + branch.tokens])).logits[0].log_softmax(-1)
        logps += [logits[len(TREE.prompt) - 1 + i, token] for i, token in enumerate(branch.tokens)]
    return torch.stack(logps)


@torch.no_grad()
def read(folder: Path) -> torch.Tensor:
    return load_model(str(folder)).log_probs(Trees.of([TREE]))


@pytest.mark.parametrize("is_stored", [False, True])
def test_tied_weights_are_read_whether_they_are_stored_or_not(is_stored: bool, tmp_path: Path) -> None:
    folder = save(tmp_path / "tied", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    before = plain(folder)
    if is_stored:
        weights(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    torch.testing.assert_close(read(folder), before, rtol=0, atol=1e-4)


def test_other_heads_of_the_same_trunk_are_left_alone(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    weights(folder, lambda w: w.update({"v_head.summary.weight": torch.zeros(1, 32)}))
    torch.testing.assert_close(read(folder), plain(whole), rtol=0, atol=1e-4)


def in_fp8(folder: Path) -> None:
    """The linear layers in eight bits, with a scale for each, as DeepSeek V3 and Qwen 3 are published."""
    config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})

    def change(held: dict[str, torch.Tensor]) -> None:
        for name in [name for name in held if "_proj" in name]:
            scale = held[name].abs().max() / 448
            held[name] = (held[name] / scale).to(torch.float8_e4m3fn)
            held[name.replace("weight", "weight_scale_inv")] = scale.reshape(1, 1)

    weights(folder, change)


def test_eight_bits_are_read_as_transformers_reads_them_and_never_trained(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "fp8"
    shutil.copytree(whole, folder)
    in_fp8(folder)
    expected = plain(folder)
    assert float((expected - plain(whole)).abs().max()) > 0.01  # eight bits are not the weights that they were made of
    torch.testing.assert_close(read(folder), expected, rtol=0, atol=1e-4)
    rows = write_jsonl(tmp_path / "rows.jsonl", [PAIR])
    command = ("dpo", "--data", rows, *QUICK)
    assert accord(*command, "--model", folder, "--out", tmp_path / "no") == 2
    assert "is quantized (fp8): such a model can be a reference, a reward or a judge" in capsys.readouterr().err
    assert accord(*command, "--model", whole, "--reference", folder, "--out", tmp_path / "run") == 0
    assert accord("score", "--model", whole, "--data", rows, "--out", tmp_path / "own.jsonl") == 0
    assert accord("score", "--model", folder, "--data", rows, "--out", tmp_path / "reference.jsonl") == 0
    (own,), (reference,) = (read_jsonl(tmp_path / f"{name}.jsonl") for name in ("own", "reference"))
    first = read_jsonl(tmp_path / "run/metrics.jsonl")[0]
    expected_reward = 0.1 * (own["chosen_logp"] - reference["chosen_logp"])
    assert first["chosen_reward"] == pytest.approx(expected_reward, abs=1e-4)


def test_int8_of_torchao_is_a_reference_as_it_is(whole: Path, tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    how = transformers.TorchAoConfig(quantization.Int8WeightOnlyConfig())
    folder = tmp_path / "int8"
    network = transformers.AutoModelForCausalLM.from_pretrained(whole, quantization_config=how, device_map="cpu")
    network.save_pretrained(folder)
    byte_tokenizer(CHATML).save_pretrained(folder)
    policy = load_model(str(folder))
    assert policy.is_quantized and policy.frozen_copy() is policy
    torch.testing.assert_close(read(folder), plain(folder), rtol=0, atol=1e-4)
    with pytest.raises(InputError, match=r"is quantized \(torchao\): .* not trained"):
        DPO(max_steps=1).fit(policy, [PAIR], out=tmp_path / "run")


def test_labels_are_read_at_the_last_token_that_is_no_padding(tmp_path: Path) -> None:
    # Published reward models often have the end of turn pad: plain transformers then reads the token before it.
    folder = save(tmp_path / "rm", labels=1)
    pad = byte_tokenizer(CHATML).convert_tokens_to_ids("<|im_end|>")
    config(folder, pad_token_id=pad)
    network = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tree = Tree((5, 6), (Branch((7, 8, pad)), Branch((9, pad, pad)), Branch((9, 10))))
    with torch.no_grad():
        rows = [torch.tensor([tree.prompt + branch.tokens]) for branch in tree.branches]
        expected = torch.cat([network(input_ids=row).logits for row in rows])
        at_the_end = torch.cat([network.score(network.model(input_ids=row).last_hidden_state[:, -1]) for row in rows])
        found = load_reward_model(str(folder)).outputs(Trees.of([tree]))  # type: ignore[arg-type]
    assert (expected - at_the_end).abs()[:2].min() > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_fitted_reward_model_has_a_padding_that_is_no_end(whole: Path, tmp_path: Path) -> None:
    # trl gives a tokenizer without a padding token the end of turn for one, which transformers would then not read.
    rows = write_jsonl(tmp_path / "rows.jsonl", [PAIR])
    assert accord("reward", "--model", whole, "--data", rows, "--out", tmp_path / "run", *QUICK) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run/model")
    assert tokenizer.pad_token == "<s>" and tokenizer.eos_token == "</s>"
    network = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/model")
    assert network.config.pad_token_id == tokenizer.pad_token_id


def test_a_loaded_policy_is_what_was_saved(whole: Path) -> None:
    assert type(load_model(str(whole))) is Policy
    torch.testing.assert_close(read(whole), plain(whole), rtol=0, atol=1e-4)
