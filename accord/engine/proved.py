"""What trials of networks found, cached by configuration and versions (in `ACCORD_CACHE`, by default ~/.cache/accord).

So a network is tried only once on a machine, wherever its folder is; without a writable cache, every process tries
again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from accord.engine.unread import device_of
from accord.files import write_text


def fingerprint(network: PreTrainedModel, *further: object) -> str:
    """The key of a network's trial: its configuration, class and device, versions, and what else the trial depends
    on."""
    settings = {name: value for name, value in network.config.to_dict().items() if name != "_name_or_path"}
    config, kind = json.dumps(settings, sort_keys=True, default=str), type(network)
    versions = (torch.__version__, transformers.__version__, _engine())
    parts = (config, *versions, kind.__module__, kind.__qualname__, device_of(network).type, *further)
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]


@functools.cache
def _engine() -> str:
    """The version of accord's engine: a digest of its source."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def found_before(key: str) -> Any:
    """The cached result of a trial; None where there is none."""
    with suppress(OSError, ValueError, RecursionError):
        return json.loads(_file(key).read_text(encoding="utf-8"))
    return None


def remember(key: str, result: Any) -> None:
    """Cache the result of a trial, which JSON must be able to hold."""
    with suppress(OSError):
        write_text(_file(key), json.dumps(result))


def _file(key: str) -> Path:
    """A file for each trial: processes that cache at the same time lose nothing, and none reads what it needs not."""
    return Path(os.environ.get("ACCORD_CACHE", "~/.cache/accord")).expanduser() / "proved" / f"{key}.json"
