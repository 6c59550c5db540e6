"""Models that read images or sounds too: the language model in them, alone, gives what the whole gives of a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from accord.engine.load import load_model
from accord.engine.trees import Branch, Tree, Trees
from accord.engine.wrappers import put_back, read_wrapper
from accord.errors import InputError
from tests.engine.tiny import plain_log_probabilities
from tests.engine.wrapped import WRAPPERS, save_wrapper, whole_of

TREES = [
    Tree((5, 6, 7, 8, 9), (Branch((1, 2, 3, 4, 5, 6, 7, 8, 9, 10)), Branch((3, 4, 11, 12)))),
    Tree((7,), (Branch((100, 101, 102)),)),
]


def of(policy: Any) -> torch.Tensor:
    with torch.no_grad():
        return policy.log_probs(Trees.of(TREES))  # type: ignore[no-any-return]


def plain(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return plain_log_probabilities(network, TREES)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_text_is_as_likely_as_to_the_whole_before_and_after_saving(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = save_wrapper(tmp_path / "m", kind)
    policy, whole = load_model(name), whole_of(name)
    assert of(policy) == pytest.approx(plain(whole), abs=1e-5)
    seen = "sounds" if kind == "voxtral" else "images"
    alone = type(policy.network).__name__
    assert alone.endswith("ForCausalLM")
    assert capsys.readouterr().err == (
        f"{name} is a {type(whole).__name__}: {seen} are not seen, and what is saved is the language model in it, a "
        f"{alone}; accord merge MODEL --into {name} puts it back.\n"
    )
    policy.save(tmp_path / "out")
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(saved).__name__ == alone and plain(saved) == pytest.approx(plain(whole), abs=1e-5)


def renamed(name: str) -> str:
    """As transformers has it within; it writes the names that files had before its version 4.52."""
    if name.startswith("language_model.model."):
        return name.replace("language_model.model.", "model.language_model.", 1)
    return "lm_head.weight" if name == "language_model.lm_head.weight" else f"model.{name}"


@pytest.mark.parametrize("kind", ["gemma3", "mistral3"])
def test_files_of_either_names_are_read(kind: str, tmp_path: Path) -> None:
    before = of(load_model(save_wrapper(tmp_path / "old", kind)))
    again = of(load_model(save_wrapper(tmp_path / "new", kind, renamed)))
    names = [load_file(tmp_path / form / "model.safetensors").keys() for form in ("old", "new")]
    layer = "layers.0.mlp.up_proj.weight"
    assert f"language_model.model.{layer}" in names[0] and f"model.language_model.{layer}" in names[1]
    assert torch.equal(before, again)


@pytest.mark.parametrize("kind", ["gemma3", "qwen3_vl_moe"])
def test_a_language_model_goes_back_into_the_whole_and_the_rest_stays(kind: str, tmp_path: Path) -> None:
    name = save_wrapper(tmp_path / "m", kind)
    (tmp_path / "m/preprocessor_config.json").write_text('{"image_processor_type": "X"}')
    policy, before = load_model(name), whole_of(name)
    with torch.no_grad():
        for weight in policy.network.parameters():
            weight.add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    put_back(policy, *read_wrapper(name), str(tmp_path / "out"))
    after = whole_of(tmp_path / "out")
    assert type(after) is type(before) and plain(after) == pytest.approx(of(policy), abs=1e-5)
    own = {id(weight) for weight in after.get_decoder().parameters()} | {id(after.get_output_embeddings().weight)}
    rest = [key for key, weight in after.named_parameters() if id(weight) not in own]
    kept = before.state_dict()
    assert rest and all(torch.equal(after.state_dict()[key], kept[key]) for key in rest)
    assert json.loads((tmp_path / "out/preprocessor_config.json").read_text()) == {"image_processor_type": "X"}
    assert of(load_model(str(tmp_path / "out"))) == pytest.approx(of(policy), abs=1e-5)


def test_what_does_not_fit_into_a_whole_is_refused(tmp_path: Path) -> None:
    gemma, qwen = (load_model(save_wrapper(tmp_path / kind, kind)) for kind in ("gemma3", "qwen3_vl"))
    with pytest.raises(InputError, match=r"does not fit into .*/gemma3: they differ in model\.layers\.0\."):
        put_back(qwen, *read_wrapper(str(tmp_path / "gemma3")), str(tmp_path / "out"))
    gemma.save(tmp_path / "text")
    with pytest.raises(InputError, match=r"/text reads only text: --into takes a model that"):
        read_wrapper(str(tmp_path / "text"))
    assert not (tmp_path / "out").exists()


def test_a_whole_that_is_quantized_or_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    name = save_wrapper(tmp_path / "m", "gemma3")
    file, weights = tmp_path / "m/config.json", tmp_path / "m/model.safetensors"
    config, held = json.loads(file.read_text()), load_file(weights)
    file.write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(
        InputError, match=r"Gemma3ForConditionalGeneration, which reads images too and is quantized \(f"
    ):
        load_model(name)
    file.write_text(json.dumps(config))
    first = next(key for key in held if "layers.0.mlp.up_proj" in key and "language_model" in key)
    save_file({key: weight for key, weight in held.items() if key != first}, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks the weight model\.language_model\.layers\.0\.mlp\.up_proj\.weight"):
        load_model(name)


def test_a_whole_whose_language_model_has_no_class_of_text_alone_is_refused(tmp_path: Path) -> None:
    name = save_wrapper(tmp_path / "m", "gemma3")
    config = transformers.MllamaConfig(architectures=["MllamaForConditionalGeneration"])
    config.save_pretrained(tmp_path / "m")
    with pytest.raises(InputError, match=r"is a MllamaForConditionalGeneration, which reads images too, and the lang"):
        load_model(name)
