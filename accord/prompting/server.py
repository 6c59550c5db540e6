"""OpenAI-compatible servers and their errors: vLLM, SGLang, llama.cpp, Ollama, transformers serve ..."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from accord.console import error_text, without_secrets
from accord.errors import InputError, nearest, require_address

if TYPE_CHECKING:
    import openai

T = TypeVar("T")

OPENAI_KEY = "OPENAI_API_KEY"

EXCERPT = 200
"""Characters of a server's message that are shown."""
LARGEST = 64 << 20
"""The most bytes of a reply, or of a list of models."""
LONGEST = 20.0
"""The most seconds for a list of models."""


def key_for(url: str, name: str, *, insecure: bool, options: tuple[str, str] = ("--key", "--insecure")) -> str:
    """The key for the server at a URL, from the environment variable of this name.

    Raises InputError, which names the options, where the variable is not set, is OpenAI's and the server is not, or the
    key would go to another machine as plain text.
    """
    shown = without_secrets(url)
    if name == OPENAI_KEY and urlsplit(url).hostname != "api.openai.com":
        raise InputError(
            f"{OPENAI_KEY} is for api.openai.com, and {shown} is another server: name its own by {options[0]}."
        )
    if not os.environ.get(name):
        raise InputError(
            f"there is no environment variable {name}, which {options[0]} names: set it to the server's key."
        )
    require_private(url, f"the key in {name}", insecure=insecure, option=options[1])
    return os.environ[name]


def require_private(url: str, secret: str, *, insecure: bool, option: str = "--insecure") -> None:
    """Raise InputError where a secret would go to another machine as plain text, unless `insecure` allows it."""
    parts = urlsplit(url)
    is_here = parts.hostname in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", str(parts.hostname))
    if parts.scheme == "http" and not (is_here or insecure):
        raise InputError(
            f"{without_secrets(url)} would be sent {secret} as plain text, for all to read: use https, or {option}."
        )


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server, by its base URL, whose path is /v1 unless given.

    `key` is the environment variable that holds its key; OPENAI_API_KEY for api.openai.com, and never for others. A key
    goes to other machines by https only, unless `insecure` allows http.

    Raises InputError where the URL is not valid, the key is for another server or not set, or the `judge` extra is not
    installed.
    """

    url: str = field(repr=False)
    key: str | None = None
    insecure: bool = False
    options: tuple[str, str] = field(default=("--key", "--insecure"), compare=False, repr=False)
    """The names, in messages, of the options that give these two."""
    client: openai.OpenAI = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"a server is reached by http:// or https://, not by {without_secrets(self.url)}.")
        require_address(self.url, str(self))
        try:
            import tenacity  # noqa: F401
            from openai import OpenAI
        except ImportError:
            raise InputError("a served model needs the judge extra: pip install 'accord[judge]'.") from None
        if urlsplit(self.url).path in ("", "/"):
            object.__setattr__(self, "url", f"{self.url.rstrip('/')}/v1")
        key = self._key()
        try:
            client = OpenAI(base_url=self.url, api_key=key)
        except Exception as error:  # its HTTP client has errors of its own
            raise InputError(f"{self} is not a server's URL ({error_text(error)}).") from None
        object.__setattr__(self, "client", client)

    def _key(self) -> str:
        """The key to send; "none" where the server needs none."""
        parts = urlsplit(self.url)
        is_openai = parts.hostname == "api.openai.com"
        if self.key is None and not is_openai:
            return "none"
        if self.key is None and not os.environ.get(OPENAI_KEY):
            return "none"
        return key_for(self.url, self.key or OPENAI_KEY, insecure=self.insecure, options=self.options)

    def __str__(self) -> str:
        return without_secrets(self.url)

    def asking(self, timeout: float) -> openai.AsyncOpenAI:
        """A client without retries; `timeout` is in seconds per part of a reply, which has at most `LARGEST` bytes."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        async def limit(response: Any) -> None:
            _limit(response)

        http = DefaultAsyncHttpxClient(event_hooks={"response": [limit]})
        return AsyncOpenAI(**self._given(timeout), http_client=http)

    def _given(self, timeout: float) -> dict[str, Any]:
        """A client's arguments. Replies must not be compressed: a small one might expand without bound."""
        return {
            "base_url": self.url, "api_key": self.client.api_key, "max_retries": 0, "timeout": timeout,
            "default_headers": {"Accept-Encoding": "identity"},
        }  # fmt: skip

    def models(self, *, needed: bool = False) -> list[str]:
        """The names of the server's models; empty where it does not list them, unless that is `needed`.

        Raises InputError where it is away or wants another key, or its list is too slow or too long.
        """
        import openai

        try:
            return run_async(self._listed())
        except asyncio.TimeoutError:
            raise InputError(
                f"{self} does not say within {LONGEST:g} seconds what its models are called; check its address."
            ) from None
        except (openai.APIConnectionError, openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise self.refusal(error) from None
        except openai.APIError as error:  # it has no such list, or cannot make one
            if needed and not isinstance(error, openai.NotFoundError):
                raise self.refusal(error) from None
            return []
        except (AttributeError, TypeError, ValueError, RecursionError):  # not such a list; a web page, perhaps
            raise InputError(f"{self} does not speak the OpenAI API; give the URL that ends in /v1.") from None

    async def _listed(self) -> list[str]:
        async def read(client: openai.AsyncOpenAI) -> list[str]:
            return [model.id async for model in client.models.list()]

        async with self.asking(LONGEST) as client:
            return await asyncio.wait_for(read(client.with_options(max_retries=2)), LONGEST)

    def model_named(self, name: str | None) -> str:
        """The name of one of the server's models: the only one, unless `name` is given.

        Raises InputError where none is given and there is not exactly one.
        """
        models = self.models(needed=name is None)
        if name is None and len(models) != 1:
            known = (
                f"has the models {', '.join(models)}: name one" if models else "does not say what it serves: name it"
            )
            raise InputError(f"{self} {known} by --model.")
        return name or models[0]

    def refusal(self, error: openai.APIError, model: str = "") -> InputError:
        """An InputError that says what the server's error means, and what to do."""
        import openai

        reason = self.without_key(error.message)
        if isinstance(error, openai.APIConnectionError):
            cause = f": {self.without_key(str(error.__cause__))}" if error.__cause__ else ""
            what = f"nothing answers at {self} ({reason.rstrip('.')}{cause})"
            return InputError(f"{what}; check that the server runs there.")
        if not isinstance(error, openai.APIStatusError):
            return InputError(f"{self} broke off ({reason}).")
        reason = reason.removeprefix(f"Error code: {error.status_code} - ")
        if error.status_code in (401, 403):
            if self.client.api_key != "none":
                return InputError(f"{self} does not take the key in {self.key or OPENAI_KEY}: set it to the server's.")
            return InputError(f"{self} wants a key: name the environment variable that holds it by {self.options[0]}.")
        if error.status_code == 404 and model:
            models = self.models()
            known = f"; it has {', '.join(models)}" if models else ""
            return InputError(f"{self} has no model {model} ({reason}){known}{nearest(model, models) or '.'}")
        return InputError(f"{self} refuses with the status {error.status_code} ({reason}).")

    def without_key(self, text: str) -> str:
        """An excerpt of a server's message, with the key and the password masked."""
        text = self.masked(text)
        return text if len(text) <= EXCERPT else text[: EXCERPT - 3] + "..."

    def masked(self, text: str, least: int = 1) -> str:
        """The text with the key, and the URL's password and query, masked if they have `least` or more characters."""
        parts = urlsplit(self.url)
        password = parts.password or ""
        for secret in (self.client.api_key, password, unquote(password), parts.query):
            if len(secret) >= least and secret != "none":
                text = text.replace(secret, "***")
        return text


def run_async(work: Coroutine[Any, Any, T], run: Callable[[Coroutine[Any, Any, T]], T] = asyncio.run) -> T:
    """Run a coroutine to its end by `run`; in another thread where this one runs an event loop, as in notebooks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run, work).result()


def _limit(response: Any) -> None:
    """Make reading a response fail beyond `LARGEST` bytes."""
    library = importlib.import_module(type(response).__module__.partition(".")[0])  # httpx or httpx2, as openai has it
    stream = response.stream
    if (packed := response.headers.get("Content-Encoding", "identity").strip().lower()) != "identity":
        raise ValueError(f"the reply is packed ({packed}), which was not asked for")

    class Limited(library.AsyncByteStream):  # type: ignore[misc,name-defined]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in stream:
                size += len(part)
                if size > LARGEST:
                    raise ValueError(f"the reply is of more than {LARGEST:,} bytes")
                yield part

        async def aclose(self) -> None:
            await stream.aclose()

    response.stream = Limited()
