"""Whether what lies where a model is said to be is one that can be used: its files, its configuration, its weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from accord.engine.hub import MODEL_NAME, TOKENIZERS
from accord.engine.team import Team
from accord.engine.wrappers import senses, text_config
from accord.errors import InputError, located
from accord.files import SUMS, changed, read_sums
from accord.parsing import parse_json

MANY_LAYERS = 1000
"""No published model has as many."""
SIZES = {
    "num_hidden_layers": MANY_LAYERS, "hidden_size": 10**6, "intermediate_size": 10**8, "num_attention_heads": 10**5,
    "num_key_value_heads": 10**5, "vocab_size": 10**8,
}  # fmt: skip
"""The largest sizes that a configuration may name; no published model comes near."""
HEADS = ("lm_head.", "score.", "v_head.", "classifier.", "reader.")
"""Other heads of the same trunk, which a folder may hold and nothing reads, or `accord.engine.personal` does."""
OBJECTS = (
    "config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "chat_template.json",
)  # fmt: skip
"""The files of a model's folder that hold JSON objects."""
ALONE = Team()


class WritesNoText(InputError):
    """What was to be a language model is a reward or preference model."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} scores texts and writes none: it is a reward or preference model, no language model.")


class Source(NamedTuple):
    """A folder or a Hub name, with the GGUF file to read in it, or the base of the adapter in it, if any."""

    name: str
    gguf_file: str | None = None
    base: str | None = None


def locate(name: str, team: Team = ALONE) -> Source:
    """The folder, file or Hub name that a model's name means; ranks of a team that all ask share the reading.

    Raises:
        InputError: there is none, or what is there is no model that can be used as it is.
    """
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise InputError(f"{name} is a file; a model is a folder with a config.json, a GGUF file, or a Hub name.")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise InputError(f"{name} is no GGUF file: it does not begin as one.")
        if any(importlib.util.find_spec(package) is None for package in ("gguf", "accelerate")):
            raise InputError(f"reading the GGUF file {name} needs the gguf extra: pip install gguf accelerate.")
        return Source(str(path.parent), path.name)
    if path.exists():
        require_files(name, path)
        base = _base(name, path)
        if base is None:
            _check_folder(name, path)
        require_as_written(name, path, team)
        return Source(str(path), base=base)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1 or Path(name.split("/")[0]).is_dir()
    if "@" in name and MODEL_NAME.fullmatch(name.partition("@")[0]):
        raise InputError(
            f"{name} names a revision, and models of the Hub are read as they are now: download that one (hf download "
            f"{name.replace('@', ' --revision ')} --local-dir FOLDER) and give its folder."
        )
    if looks_local:
        raise InputError(f"there is no model folder {name}.")
    return Source(name)


def require_as_written(name: str, path: Path, team: Team = ALONE) -> None:
    """Raise InputError where a file of a model's folder is not as its SHA256SUMS says, if it has one.

    Each rank of a team looks at a share of the files, and all raise it.
    """

    def look() -> None:
        if file := changed(path, team.mine(list(read_sums(path)))):
            raise InputError(
                f"the model {name} has a damaged file, {file}, which is not as {SUMS} says: copy it anew, or delete "
                f"{SUMS} where you changed it yourself."
            )

    team.all_do(look)


def require_files(name: str, path: Path) -> None:
    """Raise InputError where a folder holds what is no file, as a pipe, from which reading might never return."""
    for one in sorted(path.iterdir()) if path.is_dir() else ():
        if one.exists() and not (one.is_file() or one.is_dir()):
            raise InputError(f"{name} holds {one.name}, which is a device, a pipe or a socket: put a file there.")


def _base(name: str, path: Path) -> str | None:
    """The model that a folder's adapter is for; None where the folder holds no adapter."""
    adapter = _read(path / "adapter_config.json")
    if adapter is None:
        return None
    if not (path / "adapter_model.safetensors").exists():
        raise InputError(f"{name} holds an adapter without its weights: it needs adapter_model.safetensors.")
    base = adapter.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(f"{name}/adapter_config.json names no base_model_name_or_path, the model it is for: add it.")
    if Path(base).is_absolute() and not Path(base).exists():
        raise InputError(
            f"{name} holds an adapter of {base}, and there is no such folder: name the model it is for in "
            f"{name}/adapter_config.json, base_model_name_or_path."
        )
    return base


def _check_folder(name: str, path: Path) -> None:
    config = _read(path / "config.json")
    if config is None:
        places = ("model", "best", "checkpoint-*", "snapshots/*")
        found = [file.parent for place in places for file in sorted(path.glob(f"{place}/config.json"))]
        found += sorted(path.glob("*.gguf"))
        is_run = (path / "config.yaml").exists()
        hint = ": it is that of a run which has written no model yet." if is_run else "."
        hint = f"; did you mean {found[0]}?" if found else hint
        raise InputError(f"{name} is not a model folder: it has no config.json{hint}")
    if "model_type" not in config:
        raise InputError(f"{name}/config.json names no model_type, so the architecture is not known: restore it.")
    if not has_tokenizer(path):
        raise InputError(f"{name} has no tokenizer (tokenizer.json and others): copy it from the model it was made of.")
    _check_weights(name, path)
    require_plausible(name, path)


def _check_layers(name: str, path: Path) -> None:
    """Raise InputError where a configuration has more layers than there are tensors: to make them may take forever."""
    layers = (_read(path / "config.json") or {}).get("num_hidden_layers")
    if not isinstance(layers, int) or layers < MANY_LAYERS:
        return
    tensors = 0
    for file in path.glob("*.safetensors"):
        with suppress(SafetensorError), safe_open(file, "pt") as opened:
            tensors += len(opened.keys())
    if layers > tensors:
        raise InputError(f"{name}/config.json has {layers:,} layers, and its weights are {tensors:,}: restore it.")


def require_plausible(name: str, path: Path) -> None:
    """Raise InputError where a folder's configuration names a size that no model has, which would be made, or tried."""
    config = _read(path / "config.json") or {}
    parts = [part for part in (config, config.get("text_config")) if isinstance(part, dict)]
    for part in parts:
        for what, most in SIZES.items():
            value = part.get(what)
            if value is None or isinstance(value, list):  # a list has a size a layer
                continue
            if type(value) is not int or not 1 <= value <= most:
                raise InputError(
                    f"{name}/config.json: {what} must be a whole number from 1 to {most:,}, not {value!r}: restore it."
                )


def has_tokenizer(path: Path) -> bool:
    """Whether a folder has the files of a tokenizer."""
    return any(any(path.glob(form)) for form in TOKENIZERS)


def _check_weights(name: str, path: Path) -> None:
    """Raise InputError where a folder has no weights as safetensors, or not all of them."""
    index = _read(path / "model.safetensors.index.json") or {}
    named = index.get("weight_map") or {}
    if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
        raise InputError(
            f"{name}/model.safetensors.index.json: weight_map must name a file of each weight: restore it."
        )
    shards = sorted(set(named.values()))
    for shard in shards:
        if not shard.endswith(".safetensors"):
            raise InputError(f"{name}/model.safetensors.index.json names {shard}, which is no safetensors: restore it.")
        if not (path / shard).exists():
            raise InputError(f"{name} lacks {shard}, one of its {len(shards)} files of weights: copy it anew.")
    for file in path.glob("*.safetensors"):
        with file.open("rb") as opened:
            if opened.read(24) == b"version https://git-lfs.":
                raise InputError(f"{file} is a pointer of git-lfs in place of the weights: fetch them by git lfs pull.")
    files = sorted(file.name for file in path.glob("*.safetensors"))
    if files and not (shards or "model.safetensors" in files):
        raise InputError(
            f"{name} holds {files[0]}, and neither model.safetensors nor model.safetensors.index.json, which says what "
            "is in which file: copy the folder anew."
        )
    if files:
        _check_layers(name, path)
        return
    pickled = sorted(file.name for form in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in path.glob(form))
    if pickled:
        raise InputError(
            f"{name} holds its weights as a pickle ({pickled[0]}), which could run any code and is not read: have "
            "whoever trusts it save it anew by save_pretrained of transformers, which writes safetensors."
        )
    raise InputError(f"{name} has no weights: it needs model.safetensors beside its config.json.")


def _read(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file."""
    try:
        value = parse_json(file.read_text(encoding="utf-8"))
    except OSError:
        return None
    except ValueError as error:
        raise InputError(f"{file} is not JSON ({error}); restore it.") from None
    if not isinstance(value, dict):
        raise InputError(f"{file} must hold a JSON object; restore it.")
    return value


def no_json(path: Path) -> InputError | None:
    """What is said of a file of a folder that should hold a JSON object and does not; None where all do."""
    try:
        for name in OBJECTS:
            _read(path / name)
    except InputError as error:
        return error
    return None


def quantization(config: Any) -> str | None:
    """What the weights of a configuration are quantized by; None where they are not."""
    found = getattr(config, "quantization_config", None)
    if not found:
        return None
    given = found if isinstance(found, dict) else getattr(found, "__dict__", {})
    method = given.get("quant_method", "a method that is not named")
    return str(getattr(method, "value", method))


def check_trainable(name: str, config: Any, lora_rank: int) -> None:
    """Raise InputError where weights are quantized, and not by bitsandbytes in 4 bits as a base of adapters."""
    method = quantization(config)
    if method is None or (lora_rank and in_4_bits(config)):
        return
    raise InputError(
        f"{name} is quantized ({method}): such weights are read, as a reference, a reward or a judge, and not trained; "
        "train the model that it was made from"
        + (", or adapters on this one (--lora-rank)." if in_4_bits(config) else " (--quantize holds it in few bits).")
    )


def in_4_bits(config: Any) -> bool:
    """Whether weights are quantized by bitsandbytes in 4 bits, which adapters can be trained on."""
    found = getattr(config, "quantization_config", None)
    given = found if isinstance(found, dict) else getattr(found, "__dict__", {})
    four = given.get("load_in_4bit", given.get("_load_in_4bit", False))
    return quantization(config) == "bitsandbytes" and bool(four)


def check_kind(name: str, kind: Any, config: transformers.PreTrainedConfig, remote: bool = False) -> None:
    """Raise InputError where a configuration is that of another kind of model than a class of transformers is for.

    So is one whose architecture only code that comes with it has, unless that is to run: a trunk of a known type may be
    under a head of another kind, as ArmoRM's is.
    """
    known = [a for a in config.architectures or () if hasattr(transformers, a)]
    if config.architectures and not known and getattr(config, "auto_map", None) and not remote:
        raise InputError(
            f"{name} is a {', '.join(config.architectures)}, which needs code that comes with it, and no command runs "
            "that; load_model or load_reward_model(..., trust_remote_code=True) in Python does, for models you trust."
        )
    scores = any("SequenceClassification" in architecture for architecture in known)
    if kind is transformers.AutoModelForSequenceClassification and known and not scores:
        raise no_classifier(name, config)
    if kind is not transformers.AutoModelForCausalLM:
        return
    if scores:
        raise WritesNoText(name)
    said = f"{name} is a {', '.join(known) or config.model_type}"
    if config.is_encoder_decoder:
        raise InputError(f"{said}, which has an encoder and a decoder, and only models of a decoder alone are read.")
    if senses(config):
        with located(f"{said}, which "):
            text_config(config)
        if quantization(config):
            raise InputError(
                f"{said}, which reads {senses(config)} too and is quantized ({quantization(config)}), and its language "
                "model cannot be taken out of that: give the one in full."
            )
        return
    writers = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    if known and not any(architecture in writers for architecture in known):
        raise InputError(f"{said}, which is no causal language model, and writes no text.")


def no_classifier(name: str, config: transformers.PreTrainedConfig) -> InputError:
    """What is wrong with a model of this configuration that was to be a classifier of ours."""
    kind, labels = ", ".join(config.architectures or ["model"]), len(config.id2label or ())
    return InputError(
        f"{name} is not a reward model: it must be a sequence classifier with one label, and is a {kind} with "
        f"{labels}; train one with `accord reward`, or a preference model with `accord preference`."
    )


def check_loaded(
    name: str,
    network: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    info: dict[str, Any],
    bad: Sequence[str],
) -> None:
    """Raise InputError where weights are missing, left over, of other shapes, or, as those called `bad`, not finite, or
    tokens lack a row."""
    for what, keys, remedy in (
        ("lacks the weight", info["missing_keys"], "copy it anew"),
        ("has another shape than its config.json says for", info["mismatched_keys"], "restore the file that is wrong"),
        (
            "has no place for the weight",
            _left_over(network, info["unexpected_keys"]),
            "restore the config.json it was saved with",
        ),
        ("has numbers that are not finite in", bad, "copy it anew, or take an earlier checkpoint"),
    ):
        names = sorted(key if isinstance(key, str) else key[0] for key in keys)
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise InputError(f"the model {name} {what} {names[0]}{more}: {remedy}.")
    ends = getattr(getattr(network, "generation_config", None), "eos_token_id", None)
    for end in ends if isinstance(ends, list) else [ends]:
        if not (end is None or type(end) is int):
            raise InputError(
                f"{name}/generation_config.json: eos_token_id must be the number of a token, or a list of such, not "
                f"{end!r}: restore it."
            )
    rows = network.get_input_embeddings().weight.shape[0]  # type: ignore[index, union-attr]
    if len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer of {name} has {len(tokenizer)} tokens and the model's embedding {rows}: grow it "
            "(resize_token_embeddings of transformers) and save it, or give the tokenizer it was trained with."
        )


def other_heads(network: nn.Module) -> tuple[str, ...]:
    """What the weights of heads begin with that a network has not: a bias of its own head is none of another's."""
    return tuple(head for head in HEADS if not hasattr(network, head.removesuffix(".")))


def _left_over(network: nn.Module, keys: Iterable[str]) -> list[str]:
    return [key for key in keys if not key.startswith(other_heads(network))]


def not_finite(network: nn.Module) -> list[str]:
    """The names of weights in floating point that hold NaN or infinity: their sum does, or, rarely, overflows."""
    plain = (torch.float32, torch.bfloat16, torch.float16)
    named = [(n, p.data) for n, p in network.named_parameters() if type(p.data) is Tensor and p.dtype in plain]
    suspects = [(n, p) for n, p in named if not bool(p.sum(dtype=torch.float32).isfinite())]
    return [n for n, p in suspects if not bool(p.isfinite().all())]
