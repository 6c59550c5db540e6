"""The inputs of a run: software versions, and digests of the models, rewards and rows that its settings name.

A resumed run must find the same inputs it began with; a name alone does not guarantee that.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accord import engine
from accord.console import without_secrets
from accord.data.streams import StreamedRows
from accord.files import read_sums, sha256_of
from accord.records import Row, row_to_json

if TYPE_CHECKING:
    from accord.engine import Model

PACKAGES = ("accord", "torch", "transformers", "tokenizers", "datasets", "safetensors", "numpy")
NAMED = (
    "model", "teacher", "reference", "reward", "judge", "verifier", "watch", "pretraining_data", "chat_template",
)  # fmt: skip
"""Settings that may name folders and files."""
URL_DIGEST = "_url_sha256"
"""Suffix of the name of a digest of a setting's URLs, where a URL contains secrets that are not written down."""


def digest_of_rows(rows: Iterable[Row]) -> str:
    """The digest of the rows as read; for streamed rows, that of their files."""
    if isinstance(rows, StreamedRows):
        return rows.digest
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row_to_json(row), default=lambda value: type(value).__name__).encode() + b"\n")
    return digest.hexdigest()[:16]


def digests_of_files(settings: Mapping[str, Any]) -> dict[str, str]:
    """The digests of the files that settings name, and of files directly in named folders, by setting.

    A model card (README.md) and hidden files do not count. Where a folder has a file of digests, these are used and the
    files are not read again: they are verified when the model is loaded.
    """
    known: dict[Path, dict[str, str]] = {}

    def digest_of(file: Path) -> str:
        sums = known.setdefault(file.parent, read_sums(file.parent))
        return sums.get(file.name) or sha256_of(file)

    named = {name: list(_files(str(settings[name]))) for name in NAMED if settings.get(name) is not None}
    return {name: _joined(f"{file.name} {digest_of(file)}" for file in files) for name, files in named.items() if files}


def digest_of_model(model: Model) -> str:
    """The digest of a model that is not a named folder: its commit on the Hub, or the digest of its weights."""
    import torch

    commit = getattr(model.network.config, "_commit_hash", None)
    if commit:
        return str(commit)[:16]

    def digest() -> str:
        summed, waiting = hashlib.sha256(), engine.unread.unread(model.network)
        for name, weight in model.network.named_parameters():
            whole = waiting.rows(name, weight) if waiting and weight.is_meta else weight.detach()
            summed.update(name.encode())
            if type(whole) is torch.Tensor:
                summed.update(whole.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return summed.hexdigest()[:16]

    return engine.Team.here().lead(digest) if engine.unread.unread(model.network) else digest()


def _files(text: str) -> Iterator[Path]:
    """The files a setting names: one path, or those in a formula or a list, each possibly with a weight."""
    names = [text] if Path(text).exists() else re.split(r"[\s+*,()]+", text)
    for name in names:
        path = Path(re.sub(r":[\d.]+$", "", name)).expanduser()
        if name and path.is_file():
            yield path
        elif name and path.is_dir():
            yield from sorted(
                file
                for file in path.iterdir()
                if file.is_file() and file.name != "README.md" and not file.name.startswith(".")
            )


def _joined(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def redacted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without users, passwords and queries in URLs; a short digest stands for each such setting.

    By that digest a resumed run tells whether the URLs are the same; its 32 bits are too few to recover them.
    """
    public: dict[str, Any] = {}
    for name, value in settings.items():
        shown = without_secrets(value) if isinstance(value, str) else value
        if isinstance(value, list):
            shown = [without_secrets(one) if isinstance(one, str) else one for one in value]
        public[name] = shown
        if shown != value:
            public[name + URL_DIGEST] = hashlib.sha256(str(value).encode()).hexdigest()[:8]
    return public


def environment(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader needs to repeat the run: versions, seed, command line, git commit."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "versions": versions,
        "seed": settings.get("seed"),
        "command": [Path(sys.argv[0]).name, *map(without_secrets, sys.argv[1:])],
        "git": _commit(),
    }


def _commit() -> str | None:
    """The commit of the working folder's git repository, if there is one."""
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return git.stdout.strip() if git.returncode == 0 else None
