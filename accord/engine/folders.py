"""Checks that a folder or file can be read as a model: that its files are there, intact and plausible."""

from __future__ import annotations

import importlib.util
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from accord.engine.hub import TOKENIZERS
from accord.engine.merging import how_to_merge
from accord.engine.team import Team
from accord.errors import InputError
from accord.files import SUMS, changed, read_sums
from accord.parsing import parse_json

MANY_LAYERS = 1000
"""More layers than any published model has."""
SIZES = {
    "num_hidden_layers": MANY_LAYERS, "hidden_size": 10**6, "intermediate_size": 10**8, "num_attention_heads": 10**5,
    "num_key_value_heads": 10**5, "vocab_size": 10**8,
}  # fmt: skip
"""The largest sizes that a configuration may name, far above those of published models."""
OBJECTS = (
    "config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "chat_template.json",
)  # fmt: skip
"""The files of a model's folder that hold JSON objects."""
ALONE = Team()
SHORT = "smollm2"
"""The short name of SmolLM2-135M-Instruct."""


class Source(NamedTuple):
    """A folder or a Hub name, with the GGUF file to read in it, or the base model of the adapter in it, if any."""

    name: str
    gguf_file: str | None = None
    base: str | None = None


def locate(name: str, team: Team = ALONE) -> Source:
    """The folder, file or Hub name that a model's name means; the ranks of `team`, which all ask, divide the reading.

    Raises:
        InputError: there is none, or it holds no usable model.
    """
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise InputError(f"{name} is a file; a model is a folder with a config.json, a GGUF file, or a Hub name.")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise InputError(f"{name} is not a GGUF file: it lacks the header.")
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
    if _looks_local(name):
        raise InputError(f"there is no model folder {name}.")
    return Source(name)


def _looks_local(name: str) -> bool:
    """Whether a model's name, where there is no such folder, cannot be a name on the Hub."""
    is_path = name.startswith((".", "/", "~")) or name.count("/") != 1 or Path(name.split("/")[0]).is_dir()
    return is_path and name != SHORT


def require_as_written(name: str, path: Path, team: Team = ALONE) -> None:
    """Raise InputError where a file of a model's folder differs from its digest in SHA256SUMS, if there is one.

    Each rank of a team checks some of the files, and all raise the error.
    """

    def look() -> None:
        if file := changed(path, team.share(list(read_sums(path)))):
            raise InputError(
                f"the model {name} has a damaged file, {file}, which is not as {SUMS} says: copy it anew, or delete "
                f"{SUMS} where you changed it yourself."
            )

    team.on_all(look)


def require_files(name: str, path: Path) -> None:
    """Raise InputError where a folder holds a device, pipe or socket, from which reading might never return."""
    for one in sorted(path.iterdir()) if path.is_dir() else ():
        if one.exists() and not (one.is_file() or one.is_dir()):
            raise InputError(f"{name} holds {one.name}, which is a device, a pipe or a socket: put a file there.")


def _base(name: str, path: Path) -> str | None:
    """The base model of the adapter in a folder; None where the folder holds no adapter."""
    adapter = _read(path / "adapter_config.json")
    if adapter is None:
        return None
    if not (path / "adapter_model.safetensors").exists():
        if (path / "adapter_model.bin").exists():
            raise InputError(
                f"{name} holds its adapter as a pickle (adapter_model.bin), which could run any code and is not read: "
                "have whoever trusts it save it anew by save_pretrained of peft, which writes safetensors."
            )
        raise InputError(f"{name} holds an adapter without its weights: it needs adapter_model.safetensors.")
    base = adapter.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(f"{name}/adapter_config.json names no base_model_name_or_path, the model it is for: add it.")
    beside = path / base
    return str(beside) if base.startswith(".") and not Path(base).exists() and beside.exists() else base


def require_base(name: str, path: Path, base: str) -> None:
    """Raise InputError where the base model that the adapter in a folder names is no folder, nor a name on the Hub."""
    there = Path(base).expanduser()
    wrong = "there is no such folder" if not there.exists() and _looks_local(base) else None
    wrong = "that is the adapter's own folder" if there.exists() and there.samefile(path) else wrong
    if wrong:
        raise InputError(
            f"{name} holds an adapter of {base}, and {wrong}: name the model it is for in {name}/adapter_config.json, "
            "base_model_name_or_path."
        )


def _check_folder(name: str, path: Path) -> None:
    config = _read(path / "config.json")
    if config is None:
        raise InputError(f"{name} is not a model folder: {_why_no_model(path)}")
    if "model_type" not in config:
        raise InputError(f"{name}/config.json names no model_type, so the architecture is not known: restore it.")
    if not has_tokenizer(path):
        raise InputError(f"{name} has no tokenizer (tokenizer.json and others): copy it from the model it was made of.")
    _check_weights(name, path)
    require_plausible(name, path)


def _check_numbers(name: str, path: Path) -> None:
    """Raise InputError where weights are whole numbers, and the configuration does not say how they were quantized."""
    for file in [] if (_read(path / "config.json") or {}).get("quantization_config") else path.glob("*.safetensors"):
        with suppress(SafetensorError), safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118  # not a mapping
                if key.endswith(".weight") and opened.get_slice(key).get_dtype() in ("I8", "U8"):
                    raise InputError(
                        f"{name} holds whole numbers as {key}, as after quantization, and its config.json has no "
                        "quantization_config: copy it anew, or take the model that it was made from."
                    )


def _why_no_model(path: Path) -> str:
    """What a folder without a config.json is instead, and what to give or to do."""
    places = ("model", "best", "checkpoint-*", "snapshots/*", "*")
    files = [f"{where}/{file}" for file in ("config.json", "adapter_config.json") for where in places]
    models = [file.parent for form in files for file in sorted(path.glob(form))]
    models.sort(key=lambda folder: not any(folder.glob("*.safetensors")))  # those with weights first
    models += sorted(path.glob("*.gguf"))
    missing = "it has no config.json"
    if models and (models[0].is_file() or any(models[0].glob("*.safetensors"))):
        return f"{missing}; did you mean {models[0]}?"
    if merged := how_to_merge(path):
        return merged
    if models:
        return f"{missing}; did you mean {models[0]}?"
    if (path / "config.yaml").exists():
        return f"{missing}: it is the folder of a run that has written no model yet."
    if any(path.glob("*.safetensors")):
        return f"{missing}: copy that and the tokenizer's files of the model that it was trained from into it."
    if pickled := _pickled(path):
        return f"{missing}, and it {pickled}"
    return f"{missing}."


def _check_layers(name: str, path: Path) -> None:
    """Raise InputError where a configuration has more layers than there are tensors: building them may take forever."""
    layers = (_read(path / "config.json") or {}).get("num_hidden_layers")
    if not isinstance(layers, int) or layers < MANY_LAYERS:
        return
    tensors = 0
    for file in path.rglob("*.safetensors"):
        with suppress(SafetensorError), safe_open(file, "pt") as opened:
            tensors += len(opened.keys())
    if layers > tensors:
        raise InputError(f"{name}/config.json has {layers:,} layers, and its weights are {tensors:,}: restore it.")


def require_plausible(name: str, path: Path) -> None:
    """Raise InputError where a folder's configuration names an implausible size, before anything that large is
    allocated."""
    config = _read(path / "config.json") or {}
    _require_known_types(name, config)
    parts = [part for part in (config, config.get("text_config")) if isinstance(part, dict)]
    for part in parts:
        for size, most in SIZES.items():
            value = part.get(size)
            if value is None or isinstance(value, list):  # a list names a size for each layer
                continue
            if type(value) is not int or not 1 <= value <= most:
                raise InputError(
                    f"{name}/config.json: {size} must be a whole number from 1 to {most:,}, not {value!r}: restore it."
                )


def _require_known_types(name: str, config: dict[str, Any]) -> None:
    """Raise InputError where a configuration has a precision or a quantization that nothing can read."""
    for key in ("dtype", "torch_dtype"):
        value = config.get(key)
        if value is None or isinstance(getattr(torch, str(value), None), torch.dtype):
            continue
        spelled = str(value).removeprefix("torch.")
        meant = re.sub(r"^(b?)f[p]?(?=\d)", r"\1float", spelled)
        known = meant if isinstance(getattr(torch, meant, None), torch.dtype) else "float32, bfloat16 or float16"
        raise InputError(f"{name}/config.json: {key} must name a precision, not {value!r}: write {known}.")
    settings = config.get("quantization_config")
    if settings is not None and not (isinstance(settings, dict) and settings):
        raise InputError(
            f"{name}/config.json: quantization_config must be an object that names its quant_method, not {settings!r}: "
            "restore it, or take it out where the weights are not quantized."
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
            raise InputError(
                f"{name}/model.safetensors.index.json names {shard}, which is not a safetensors file: restore it."
            )
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
    if files or shards:
        _check_numbers(name, path)
        _check_layers(name, path)
        return
    if merged := how_to_merge(path):
        raise InputError(f"{name} has no weights as safetensors: {merged}")
    if pickled := _pickled(path):
        raise InputError(f"{name} {pickled}")
    raise InputError(f"{name} has no weights: it needs model.safetensors beside its config.json.")


def _pickled(path: Path) -> str | None:
    """What to do about a folder whose weights are a pickle, as the end of a sentence; None where there is none."""
    files = sorted(file.name for form in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in path.glob(form))
    files = [name for name in files if not name.startswith(("optimizer", "scheduler", "training_args"))]
    if not files:
        return None
    return (
        f"holds its weights as a pickle ({files[0]}), which could run any code and is not read: have whoever trusts it "
        "save it anew by save_pretrained of transformers, which writes safetensors."
    )


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


def invalid_json(path: Path) -> InputError | None:
    """The error for the first file of a folder that should hold a JSON object and does not; None where all do."""
    try:
        for name in OBJECTS:
            _read(path / name)
    except InputError as error:
        return error
    return None
