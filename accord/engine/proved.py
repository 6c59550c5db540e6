"""What trials of networks found, cached by configuration and versions (in `ACCORD_CACHE`, by default ~/.cache/accord).

So a network is tried only once on a machine; without a writable cache, every process tries again.
"""

from __future__ import annotations

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
    config = json.dumps(network.config.to_dict(), sort_keys=True, default=str)
    versions = (torch.__version__, transformers.__version__, type(network).__name__, device_of(network).type)
    return hashlib.sha256(" ".join(map(str, (config, versions, *further))).encode()).hexdigest()[:32]


def found_before(key: str) -> Any:
    """The cached result of a trial; None where there is none."""
    return _known().get(key)


def remember(key: str, result: Any) -> None:
    """Cache the result of a trial, which JSON must be able to hold."""
    with suppress(OSError):
        write_text(_file(), json.dumps(_known() | {key: result}))


def _file() -> Path:
    return Path(os.environ.get("ACCORD_CACHE", "~/.cache/accord")).expanduser() / "proved.json"


def _known() -> dict[str, Any]:
    try:
        known = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}
