"""Errors of the Hugging Face Hub in one sentence, whichever library raised them: huggingface_hub, transformers and
datasets wrap each other's errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Literal

from accord.console import error_text
from accord.errors import InputError

LOG_IN = "set HF_TOKEN, or log in by `hf auth login`"
MODEL_NAME = re.compile(r"[\w.-]+/[\w.-]+")
TOKENIZERS = ("tok*", "vocab*", "*.model", "*.tiktoken", "tekken.json")
"""File patterns of tokenizers, in all their formats."""
FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", *TOKENIZERS]
"""File patterns of a model's files that may be read."""
UNREAD = ["*/*.safetensors", "consolidated*"]
"""Of these, the weights of other formats, such as Mistral's own, which hold the same once more."""


def failure(name: str, kind: Literal["model", "data set"], error: BaseException) -> InputError | None:
    """The error for a name on the Hub that could not be read; None where the Hub was not the cause."""
    from huggingface_hub import constants, errors

    raised = list(_chain(error))

    def first(*kinds: type[BaseException]) -> BaseException | None:
        return next((one for one in raised if isinstance(one, kinds)), None)

    text = " ".join(str(one) for one in raised)  # datasets keeps some errors only in its message
    unknown = any(type(one).__name__ == "DatasetNotFoundError" for one in raised)
    page = f"https://huggingface.co/{'datasets/' if kind == 'data set' else ''}{name}"
    if first(errors.GatedRepoError) or (unknown and "gated dataset" in text):
        return InputError(f"{name} is gated: ask for access on its page, {page}, and {LOG_IN}.")
    if first(errors.RepositoryNotFoundError) or (unknown and "doesn't exist on the Hub" in text):
        here = "file" if kind == "data set" else "folder"
        return InputError(
            f"there is no {here} {name}, and no readable {kind} of that name on the Hub: check the name; for a private "
            f"one {LOG_IN}."
        )
    refused = first(errors.HfHubHTTPError)
    status = getattr(getattr(refused, "response", None), "status_code", None)
    if status and status != 404:
        return InputError(f"the Hub refused {name} (status {status}): try again later.")
    lost = next((one for one in raised if _is_of_network(one)), None) or first(errors.LocalEntryNotFoundError)
    if lost is None and "LocalEntryNotFoundError" not in text:
        return None
    if constants.HF_HUB_OFFLINE:
        return InputError(
            f"{name} is not on this machine, and HF_HUB_OFFLINE keeps the Hub from being asked: unset it."
        )
    if lost and type(lost).__name__ in ("RemoteProtocolError", "ReadError", "ReadTimeout"):
        return InputError(f"the download of {name} from the Hub broke off ({error_text(lost)}): try again, it resumes.")
    where = "a folder" if kind == "model" else "its files"
    return InputError(f"the Hub cannot be reached, and {name} is not on this machine: try again, or give {where}.")


def revised(name: str, revision: str) -> str:
    """The folder of a model's revision (a branch, a tag or a commit), downloaded if it is not on this machine.

    Raises InputError where there is no such revision, or it cannot be downloaded.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        with quiet_hub():
            return snapshot_download(name, revision=revision, allow_patterns=FILES, ignore_patterns=UNREAD)
    except errors.RevisionNotFoundError:
        raise InputError(f"{name} on the Hub has no revision {revision}: name a branch, a tag or a commit.") from None
    except Exception as error:  # of the libraries that download
        sentence = f"{name}@{revision} cannot be read ({error_text(error)})."
        raise failure(name, "model", error) or InputError(sentence) from None


def unfit_model(name: str, *, needs_weights: bool = True) -> InputError | None:
    """The error for a Hub repository that holds no readable model (or tokenizer, without `needs_weights`), by the names
    of its files; None where they suffice, or cannot be listed."""
    from huggingface_hub import HfApi

    try:
        names = HfApi().list_repo_files(name)
    except Exception:  # the original error is reported instead
        return None
    if needs_weights and "config.json" not in names:
        return InputError(f"{name} on the Hub is not a model: it has no config.json.")
    if not any(fnmatch(file, form) for file in names for form in TOKENIZERS):
        return InputError(f"{name} on the Hub has no tokenizer (tokenizer.json and others): name a model that has one.")
    if not any(file.endswith(".safetensors") for file in names):
        pickled = next((file for file in names if file.endswith((".bin", ".pt", ".pth", ".ckpt"))), None)
        how = f"as a pickle ({pickled}), which could run any code and is not read" if pickled else "in no safetensors"
        return InputError(f"{name} on the Hub holds its weights {how}: name one that has safetensors.")
    return None


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Silences the Hub client's messages about each attempt within the context."""
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, then its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def cause_of(error: BaseException) -> BaseException:
    """The root cause of an error."""
    return list(_chain(error))[-1]


def _is_of_network(error: BaseException) -> bool:
    if any(parent.__name__ == "TransportError" for parent in type(error).__mro__):  # of httpx
        return True
    return isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, FileNotFoundError)
