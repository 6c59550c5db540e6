"""Multimodal models, which also read images, video or sound: their language model extracted, and put back.

transformers reads a wrapper such as `Gemma3ForConditionalGeneration`, as it knows all published names of its weights.
The language model's weights then go into the text-only class, and both must give the same logits on random tokens.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from accord.console import error_text, status
from accord.engine.adapters import WEIGHTS, merged
from accord.engine.fast_paths import CLOSE, ROUGH, equal_logits
from accord.engine.models import SHARD, Model, quiet
from accord.engine.reading import stored_config
from accord.engine.stored import ReadWhole
from accord.engine.unread import file_of, make
from accord.errors import InputError
from accord.files import replacing_folder, write_sums

KIND = transformers.AutoModelForMultimodalLM
SENSES = {"vision_config": "images", "audio_config": "sounds"}
"""Parts of a configuration for other modalities, and what they read."""
ALONE = {
    "qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe",
    "glm4v_text": "glm4", "glm4v_moe_text": "glm4_moe",
}  # fmt: skip
"""Language models without a text-only class, and the class that computes the same on text, where the positions in time,
height and width are equal."""
LENGTH = 14
"""Number of tokens on which the two are compared."""
PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")


def senses(config: PreTrainedConfig) -> str:
    """What a model reads besides text: "images", "sounds", "images and sounds", or ""."""
    return " and ".join(what for part, what in SENSES.items() if getattr(config, part, None) is not None)


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The text-only configuration of a wrapper's language model; a text model's own configuration.

    Raises InputError where transformers has no such class.
    """
    if not senses(config):
        return config
    inner: Any = getattr(config, "text_config", None)
    kind = ALONE.get(getattr(inner, "model_type", ""))
    if kind:
        settings = {key: value for key, value in inner.to_dict().items() if key not in ("model_type", "architectures")}
        if inner.model_type == "qwen3_vl_moe_text":
            settings["norm_topk_prob"] = True  # its code always normalizes
        rope = settings.get("rope_parameters") or {}
        settings["rope_parameters"] = {key: value for key, value in rope.items() if not key.startswith("mrope")}
        made: Any = transformers.CONFIG_MAPPING[kind](**settings)
    elif isinstance(inner, PreTrainedConfig) and type(inner) in MODEL_FOR_CAUSAL_LM_MAPPING:
        made = copy.deepcopy(inner)
    else:
        raise InputError(
            f"reads {senses(config)} too, and the language model in it cannot be taken out: give a model of text alone."
        )
    made.tie_word_embeddings = bool(getattr(config, "tie_word_embeddings", False))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(config, name, None)
        if getattr(made, name, None) is None and not (isinstance(token, int) and token >= made.vocab_size):
            setattr(made, name, token)
    made.name_or_path = config.name_or_path
    return made  # type: ignore[no-any-return]


def text_weights(wrapper: Any) -> dict[str, Tensor]:
    """The weights of a wrapper's language model, by their names in the text-only class."""
    inner = wrapper.get_decoder()
    if inner.can_generate():  # a complete language model, with its head
        return dict(inner.state_dict())
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(text_config(wrapper.config))]
    trunk = kind.base_model_prefix
    head = wrapper.get_output_embeddings().state_dict()
    return {f"{trunk}.{name}": weight for name, weight in inner.state_dict().items()} | {
        f"lm_head.{name}": weight for name, weight in head.items()
    }


def is_of_wrapper(adapter: Path) -> bool:
    """Whether the adapter in a folder is for the whole wrapper, judged by the names of its weights."""
    with safe_open(adapter / WEIGHTS, "pt") as opened:
        return any("language_model." in name or "text_model." in name for name in opened.keys())  # noqa: SIM118


def taken_out(wrapper: Any, name: str, adapter: Path | None = None) -> PreTrainedModel:
    """The language model of a wrapper, sharing its weights; an adapter for the wrapper is merged first.

    Prints a line that says so. Raises InputError where the two compute different logits.
    """
    if adapter:
        wrapper = merged(wrapper, adapter, str(adapter))
    config, inner = text_config(wrapper.config), wrapper.get_decoder()
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    head = (inner if inner.can_generate() else wrapper).get_output_embeddings().weight
    config.tie_word_embeddings = head is inner.get_input_embeddings().weight
    why = f"the language model in {name}, a {type(wrapper).__name__}, cannot be taken out of it"
    try:
        text: PreTrainedModel = _with_weights(kind, config, text_weights(wrapper), wrapper.device)
        is_same = _same_text(wrapper, text)
    except (RuntimeError, ReadWhole) as error:
        raise InputError(f"{why} ({error_text(error)}): give a model of text alone.") from error
    if not is_same:
        raise InputError(f"{why}, as it gives other numbers on its own: give a model of text alone.")
    if wrapper.generation_config is not None:
        text.generation_config = wrapper.generation_config
    if adapter:
        text.name_or_path = ""  # adapters trained on it fit this model, not the adapter's base
    status(
        f"{name} is a {type(wrapper).__name__}: {senses(wrapper.config)} are not seen, and what is saved is the "
        f"language model in it, a {kind.__name__}; accord merge MODEL --into {name} puts it back."
    )
    return text.eval()


def under_head(text: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """A classifier on the trunk of a language model, whose weights it shares; its new head is zero."""
    kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    weights = {f"{kind.base_model_prefix}.{n}": weight for n, weight in text.base_model.state_dict().items()}
    embedding: Any = text.get_input_embeddings()
    head = embedding.weight.new_zeros(len(config.id2label or ()), config.get_text_config().hidden_size)
    return _with_weights(kind, config, {**weights, "score.weight": head}, text.device)


def _with_weights(kind: Any, config: Any, weights: Mapping[str, Tensor], device: torch.device) -> PreTrainedModel:
    network: PreTrainedModel = make(kind, config, device)
    network.load_state_dict(weights, strict=True, assign=True)
    network.tie_weights()
    return network.eval()


@torch.no_grad()
def _same_text(wrapper: PreTrainedModel, text: PreTrainedModel) -> bool:
    """Whether both give the same logits on random tokens, up to the rounding of their precision."""
    vocabulary = int(text.config.get_text_config().vocab_size)
    named = wrapper.config.to_dict().items()
    marks = [value for key, value in named if key.endswith(("_token_id", "_token_index"))]
    drawn = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(0))[: 100 + LENGTH].tolist()
    tokens = torch.tensor([[token for token in drawn if token not in marks][:LENGTH]], device=text.device)
    plain, alone = (network.eval()(input_ids=tokens, use_cache=False).logits.float() for network in (wrapper, text))
    return equal_logits([plain], [alone], CLOSE if text.dtype == torch.float32 else ROUGH)


def read_wrapper(source: str) -> tuple[Any, list[Path]]:
    """A wrapper in a folder or on the Hub, in float32, and its processor's files.

    Raises InputError where it reads only text, and as transformers does where it cannot be read.
    """
    config = stored_config(source)
    if not senses(config):
        raise InputError(f"{source} reads only text: --into takes a model that also reads images or sounds.")
    wrapper: Any = KIND.from_pretrained(source, config=config, dtype=torch.float32, use_safetensors=True)
    return wrapper, [file for name in PROCESSORS if (file := file_of(source, name))]


def put_back(model: Model, wrapper: Any, processor: Sequence[Path], out: str) -> Path:
    """Write a wrapper with a model's weights in its language model; configuration, processor and the rest stay its own.

    Raises InputError where the model does not fit into the wrapper.
    """
    own, given = text_weights(wrapper), model.network.state_dict()
    odd = sorted(name for name in own.keys() | given.keys() if _shape(own, name) != _shape(given, name))
    if odd:
        raise InputError(f"{model.name} does not fit into {wrapper.name_or_path}: they differ in {odd[0]}.")
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(given[name])
    wrapper.generation_config = model.network.generation_config
    with replacing_folder(out) as partial, quiet():
        wrapper.save_pretrained(partial, max_shard_size=SHARD)
        model.tokenizer.save_pretrained(partial)
        for file in processor:
            shutil.copy(file, partial / file.name)
        write_sums(partial)
    return Path(out)


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    return tuple(weights[name].shape) if name in weights else ()
