"""Options of language models that are given prompts, and limits of requests, shared by commands and settings files.

Nothing here needs torch until a model is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from accord.engine.config import TemplateOptions, require_positive
from accord.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from accord.prompting.requests import Prompted


@dataclass(kw_only=True)
class LimitOptions:
    """Limits of requests to a served model in time and money, and where replies are kept."""

    journal: str | None = None
    """A file that keeps every reply, so that the same command continues where it stopped and repeats no request."""
    parallel: int = 8
    """Requests to a server at the same time."""
    requests_per_minute: float | None = None
    """Limit of requests to a server per minute."""
    tokens_per_minute: float | None = None
    """Limit of tokens per minute, read and written together."""
    timeout: float = 120.0
    """Seconds to wait for a server's reply."""
    retries: int = 6
    """How often to repeat a request when a server is busy, slow, or sends something other than a reply."""
    price_in: float | None = None
    """Price of a million tokens read by a served model."""
    price_out: float | None = None
    """Price of a million tokens written by a served model."""
    budget: float | None = None
    """The most this run may cost at these prices. It stops before that, and the next run continues."""
    key: str | None = None
    """The environment variable that holds the server's key; OPENAI_API_KEY for api.openai.com, and none for others."""
    insecure: bool = False
    """Allow sending the key over plain http to another machine."""

    def __post_init__(self) -> None:
        require_positive(parallel=self.parallel, timeout=self.timeout)
        limits = ("requests_per_minute", "tokens_per_minute", "budget")
        require_positive(**{name: value for name in limits if (value := getattr(self, name)) is not None})
        if self.retries < 0:
            raise InputError(f"retries must not be negative, but is {self.retries}.")
        if any(price is not None and price < 0 for price in (self.price_in, self.price_out)):
            raise InputError(f"prices must not be negative, but are {self.price_in} and {self.price_out}.")


@dataclass(kw_only=True)
class AskOptions(TemplateOptions, LimitOptions):
    """A language model, in this process or on a server, and the limits of requests to it."""

    model: str
    """A folder, a Hugging Face Hub name or smollm2; with --server, the model's name there."""
    server: str | None = None
    """Base URL of an OpenAI-compatible server that has the model, such as http://localhost:8000/v1."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of matrix products of a model in this process."""


def prompted(options: AskOptions, settings: Mapping[str, Any] | None = None) -> Prompted:
    """The model named by the options, in this process or served, with its journal if there is one.

    `settings` are the caller's own, which the journal records; a journal with other settings is refused. Raises
    InputError where there is no such model or server, or the options do not fit each other.
    """
    from accord.prompting.journal import Journal

    model = loaded_here(options) if options.server is None else _served(options, options.server)
    return Journal(model, options.journal, settings) if options.journal else model


def loaded_here(options: AskOptions) -> Prompted:
    """A model loaded in this process. Raises InputError where an option is for served models."""
    from accord.engine.load import for_leader, load_model
    from accord.prompting.local import Local

    for name in ("requests_per_minute", "tokens_per_minute", "price_in", "price_out", "budget"):
        if getattr(options, name) is not None:
            raise InputError(f"{name} is for a served model, and {options.model} runs in this process: leave it out.")
    model = for_leader(load_model, options.model, dtype=options.dtype)
    return Local(options.templated(model) if options.changes_template else model)


def _served(options: AskOptions, url: str) -> Prompted:
    from accord.prompting.served import Served
    from accord.prompting.server import Server

    if options.changes_template:
        raise InputError(
            "chat_template, its kwargs and system are for a model in this process, and "
            f"{options.model} is served: leave them out."
        )
    if (options.price_in is None) != (options.price_out is None):
        raise InputError("prices need two numbers: price_in and price_out, of a million tokens each.")
    if options.budget is not None and options.price_in is None:
        raise InputError("a budget needs the prices of a million tokens: price_in and price_out.")
    return Served(Server(url, options.key, options.insecure), options.model, options)


def require_keys_allowed(file: str, settings: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise InputError where a settings file names a key that the command line does not allow.

    The file may be somebody else's, and its server would be sent any environment variable it names. Names that begin
    with ACCORD_ are meant for this and allowed.
    """
    key = settings.get("key")
    if isinstance(key, str) and not key.startswith("ACCORD_") and options.get("key") != key:
        raise InputError(f"{file} asks for the key in {key}: say --key {key} to allow that, or call it ACCORD_{key}.")
    if settings.get("insecure") and not options.get("insecure"):
        raise InputError(f"{file} asks for insecure, which only the command line allows: say --insecure.")


def without_journal(model: Prompted) -> Any:
    """The model without its journal."""
    return getattr(model, "inner", model)


def usage(model: Prompted) -> str:
    """The tokens used by a served model, and their cost; empty for a model in this process."""
    served = without_journal(model)
    if not hasattr(served, "spending"):
        return ""
    return f"{served.tokens:,} tokens" + (f", {served.spending}" if served.limits.price_in is not None else "")


def outcome_lines(model: Prompted) -> Iterator[str]:
    """Lines about the requests made: how many were answered before, now and not at all, and which attempts failed."""
    served, counts = without_journal(model), getattr(model, "counts", {})
    if counts:
        yield (
            f"{model.name}: {counts['kept before']:,} replies kept before, {counts['asked']:,} more, "
            f"{counts['failed']:,} requests without one; kept in {model.path}"  # type: ignore[attr-defined]
        )
    if not hasattr(served, "faults"):
        return
    parts = [f"{count:,} {kind}" for kind, count in sorted(served.faults.items())]
    if parts:
        yield f"failed attempts: {', '.join(parts)}"
    if served.reasoning:
        yield f"{served.reasoning:,} replies began with a block of reasoning, which is left out"
    if served.tokens:
        yield usage(model)
