"""What lies where a model is said to be, looked at before anything of it is loaded."""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from accord.errors import InputError
from accord.files import SUMS, changed
from accord.parsing import parse_json

MANY_LAYERS = 1000
"""No published model has as many."""


class Source(NamedTuple):
    """A folder or a Hub name, with the GGUF file to read in it, or the base of the adapter in it, if any."""

    name: str
    gguf_file: str | None = None
    base: str | None = None


def locate(name: str) -> Source:
    """The folder, file or Hub name that a model's name means.

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
        base = _base(name, path)
        if base is None:
            _check_folder(name, path)
        require_as_written(name, path)
        return Source(str(path), base=base)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1 or Path(name.split("/")[0]).is_dir()
    if looks_local:
        raise InputError(f"there is no model folder {name}.")
    return Source(name)


def require_as_written(name: str, path: Path) -> None:
    """Raise InputError where a file of a model's folder is not as its SHA256SUMS says, if it has one."""
    if file := changed(path):
        raise InputError(
            f"the model {name} has a damaged file, {file}, which is not as {SUMS} says: copy it anew, or delete {SUMS} "
            "where you changed it yourself."
        )


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


def has_tokenizer(path: Path) -> bool:
    """Whether a folder has the files of a tokenizer."""
    return any(any(path.glob(form)) for form in ("tok*", "vocab*", "*.model", "*.tiktoken", "tekken.json"))


def _check_weights(name: str, path: Path) -> None:
    """Raise InputError where a folder has no weights as safetensors, or not all of them."""
    index = _read(path / "model.safetensors.index.json") or {}
    shards = sorted(set((index.get("weight_map") or {}).values()))
    for shard in shards:
        if not str(shard).endswith(".safetensors"):
            raise InputError(f"{name}/model.safetensors.index.json names {shard}, which is no safetensors: restore it.")
        if not (path / str(shard)).exists():
            raise InputError(f"{name} lacks {shard}, one of its {len(shards)} files of weights: copy it anew.")
    for file in path.glob("*.safetensors"):
        with file.open("rb") as opened:
            if opened.read(24) == b"version https://git-lfs.":
                raise InputError(f"{file} is a pointer of git-lfs in place of the weights: fetch them by git lfs pull.")
    if any(path.glob("*.safetensors")):
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
