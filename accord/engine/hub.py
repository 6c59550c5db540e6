"""Why something could not be read from the Hugging Face Hub, in a sentence, whoever raised what: huggingface_hub,
transformers and datasets wrap each other's errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Literal

from accord.console import said
from accord.errors import InputError

LOG_IN = "set HF_TOKEN, or log in by `hf auth login`"
MODEL_NAME = re.compile(r"[\w.-]+/[\w.-]+")
TOKENIZERS = ("tok*", "vocab*", "*.model", "*.tiktoken", "tekken.json")
"""The files of a tokenizer, in any of its forms."""
FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", *TOKENIZERS]
"""The files of a model that may be read."""


def failure(name: str, kind: Literal["model", "data set"], error: BaseException) -> InputError | None:
    """What is said of a name on the Hub that could not be read; None where it is not the Hub that failed."""
    from huggingface_hub import constants, errors

    raised = list(_chain(error))

    def first(*kinds: type[BaseException]) -> BaseException | None:
        return next((one for one in raised if isinstance(one, kinds)), None)

    told = " ".join(str(one) for one in raised)  # datasets keeps some errors as words alone
    unknown = any(type(one).__name__ == "DatasetNotFoundError" for one in raised)
    page = f"https://huggingface.co/{'datasets/' if kind == 'data set' else ''}{name}"
    if first(errors.GatedRepoError) or (unknown and "gated dataset" in told):
        return InputError(f"{name} is gated: ask for access on its page, {page}, and {LOG_IN}.")
    if first(errors.RepositoryNotFoundError) or (unknown and "doesn't exist on the Hub" in told):
        here = "file" if kind == "data set" else "folder"
        return InputError(
            f"there is no {here} {name}, and no {kind} on the Hub of that name that may be read: check the name; for a "
            f"private one {LOG_IN}."
        )
    refused = first(errors.HfHubHTTPError)
    status = getattr(getattr(refused, "response", None), "status_code", None)
    if status and status != 404:
        return InputError(f"the Hub refuses to give {name} (status {status}): try again later.")
    lost = next((one for one in raised if _is_of_network(one)), None) or first(errors.LocalEntryNotFoundError)
    if lost is None and "LocalEntryNotFoundError" not in told:
        return None
    if constants.HF_HUB_OFFLINE:
        return InputError(f"{name} is not on this machine, and HF_HUB_OFFLINE keeps from asking the Hub for it.")
    if lost and type(lost).__name__ in ("RemoteProtocolError", "ReadError", "ReadTimeout"):
        return InputError(f"the download of {name} from the Hub broke off ({said(lost)}): try again, it goes on.")
    where = "a folder" if kind == "model" else "its files"
    return InputError(f"the Hub cannot be reached, and {name} is not on this machine: try again, or give {where}.")


def revised(name: str, revision: str) -> str:
    """The folder of a model's revision (a branch, a tag or a commit), fetched if it is not on this machine.

    Raises InputError where there is no such revision, or it cannot be had.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        with unheard():
            return snapshot_download(name, revision=revision, allow_patterns=FILES, ignore_patterns="*/*.safetensors")
    except errors.RevisionNotFoundError:
        raise InputError(f"{name} on the Hub has no revision {revision}: name a branch, a tag or a commit.") from None
    except Exception as error:  # of those that it is fetched by
        told = f"{name}@{revision} cannot be read ({said(error)})."
        raise failure(name, "model", error) or InputError(told) from None


def unfit_model(name: str, *, needs_weights: bool = True) -> InputError | None:
    """Why a repository of the Hub is no model that can be read, or without weights no tokenizer, by the names of its
    files; None where these will do, or cannot be had."""
    from huggingface_hub import HfApi

    try:
        names = HfApi().list_repo_files(name)
    except Exception:  # then it is said of the network, or of what was asked first
        return None
    if needs_weights and "config.json" not in names:
        return InputError(f"{name} on the Hub is no model that can be read: it has no config.json.")
    if not any(fnmatch(file, form) for file in names for form in TOKENIZERS):
        return InputError(f"{name} on the Hub has no tokenizer (tokenizer.json and others): name a model that has one.")
    if not any(file.endswith(".safetensors") for file in names):
        pickled = next((file for file in names if file.endswith((".bin", ".pt", ".pth", ".ckpt"))), None)
        how = f"as a pickle ({pickled}), which could run any code and is not read" if pickled else "in no safetensors"
        return InputError(f"{name} on the Hub holds its weights {how}: name one that has safetensors.")
    return None


@contextmanager
def unheard() -> Iterator[None]:
    """Without what the Hub's client says of each attempt, as long as the context lasts."""
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def cause_of(error: BaseException) -> BaseException:
    """The error that others came of."""
    return list(_chain(error))[-1]


def _is_of_network(error: BaseException) -> bool:
    if any(parent.__name__ == "TransportError" for parent in type(error).__mro__):  # of httpx
        return True
    return isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, FileNotFoundError)
