"""Why a model's files could not be read, in one sentence, whatever raised the error."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from accord.engine.folders import invalid_json
from accord.engine.hub import MODEL_NAME, failure, quiet_hub, unfit_model
from accord.engine.models import quiet
from accord.engine.stored import ReadWhole
from accord.errors import InputError


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
        raise explained or InputError(f"{what} {name} cannot be loaded: {cause(error)}") from error


def cause(error: Exception) -> str:
    """Why files could not be read, on one line, with a remedy where one is known."""
    message = textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" ...")
    if isinstance(error, SafetensorError):
        return f"its weights are damaged safetensors ({message}): copy them anew."
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs {error.name}: pip install {error.name.partition('.')[0]}."
    if isinstance(error, KeyError):
        return f"its files lack {message}: restore them."
    if "`tiktoken` is required" in message:  # transformers tries sentencepiece first
        return (
            "its tokenizer has no tokenizer.json, and its other form (tokenizer.model) needs sentencepiece: pip "
            "install sentencepiece tiktoken."
        )
    if "trust_remote_code" in message or "custom code" in message:
        return (
            "it needs code that comes with it, which commands do not run; load_model(..., trust_remote_code=True) "
            "in Python does, for models you trust."
        )
    return message
