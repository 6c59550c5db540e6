"""Reading a model's configuration; and why its files could not be read, in one sentence, whatever raised the error."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from accord.engine.folders import invalid_json
from accord.engine.hub import MODEL_NAME, failure, quiet_hub, unfit_model
from accord.engine.models import quiet
from accord.engine.stored import ReadWhole
from accord.errors import InputError
from accord.parsing import parse_json


def stored_config(source: str | Path, **options: Any) -> PreTrainedConfig:
    """A model's configuration, without what the machine that saved it chose for attention, experts and outputs.

    accord chooses these itself, and what was chosen there may not be installed here. Raises as transformers does.
    """
    options.setdefault("trust_remote_code", False)  # else transformers would ask at the terminal
    config: PreTrainedConfig = AutoConfig.from_pretrained(source, **options)
    config.output_attentions, config.output_hidden_states, config.return_dict = False, False, True
    config._attn_implementation = config._experts_implementation = None
    return config


@contextmanager
def readable(name: str, what: str, source: str) -> Iterator[None]:
    """Turn any error raised within into an InputError about the model: files from elsewhere may fail in any manner.

    `what` is being read of the model `name`, from the folder, file or Hub name `source`.
    """
    try:
        with quiet(), quiet_hub():
            yield
    except (InputError, ReadWhole):
        raise
    except Exception as error:
        explained = invalid_json(Path(source))
        if MODEL_NAME.fullmatch(source) and not Path(source).exists():
            explained = failure(name, "model", error) or unfit_model(name, needs_weights=what != "the tokenizer")
        raise explained or InputError(f"{what} {name} cannot be loaded: {cause(error, Path(source))}") from error


def cause(error: Exception, folder: Path | None = None) -> str:
    """Why the files of a folder could not be read, on one line, with a remedy where one is known."""
    message = textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" ...")
    if isinstance(error, SafetensorError):
        return f"its weights are damaged safetensors ({message}): copy them anew."
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs {error.name}: pip install {error.name.partition('.')[0]}."
    if "`tiktoken` is required" in message:  # transformers tries sentencepiece first
        return (
            "its tokenizer has no tokenizer.json, and its other form (tokenizer.model) needs sentencepiece: pip "
            "install sentencepiece tiktoken."
        )
    if "trust_remote_code" in message or "custom code" in message or _is_of_own_type(folder):
        return (
            "it needs code that comes with it, which commands do not run; load_model(..., trust_remote_code=True) "
            "in Python does, for models you trust."
        )
    if folder is not None and (folder / "config.json").is_file() and (wrong := _wrong_setting(folder, error, message)):
        return wrong
    return f"its files lack {message}: restore them." if isinstance(error, KeyError) else message


def _is_of_own_type(folder: Path | None) -> bool:
    """Whether a folder's model has code of its own, for a type that transformers does not know."""
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return False
    return bool(config.get("auto_map")) and config.get("model_type") not in CONFIG_MAPPING


FAULTS = (AttributeError, KeyError, IndexError, TypeError, ZeroDivisionError, AssertionError)
"""Errors with which transformers fails on a setting that it does not check."""

FORMER = {"rope_parameters": "rope_scaling", "dtype": "torch_dtype"}
"""Former names of settings, which configurations may still have."""


def _wrong_setting(folder: Path, error: Exception, message: str) -> str | None:
    """The setting of a folder's configuration at which reading failed; None where the message says what is wrong."""
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if field := re.search(r"[Vv]alidation error for field '(\w+)'", message):
        keys, why = [FORMER.get(field[1], field[1]), field[1]], ""
    elif isinstance(error, FAULTS):
        keys, why = [key for key, value in config.items() if _holds(value, error.args)], ""
    elif not isinstance(error, OSError | ImportError):
        keys, why = re.findall(r"`(\w+)`", message), f" ({message.rpartition('Error: ')[2]})"
    else:
        return None
    for key in keys:
        if key in config:
            return f"{folder}/config.json has {key} = {config[key]!r}, which cannot be used{why}: correct it."
    if isinstance(error, FAULTS) and not isinstance(error, KeyError):
        return (
            f"one of its settings cannot be used ({type(error).__name__}: {message}): compare its config.json, "
            "generation_config.json, tokenizer_config.json and tokenizer.json with those of the model it was made of."
        )
    return None


def _holds(value: Any, keys: tuple[Any, ...]) -> bool:
    """Whether a setting is the one key that was not found, or an object that holds it."""
    return [value] == list(keys) or (isinstance(value, dict) and any([one] == list(keys) for one in value.values()))
