"""A served model that talks: vLLM, SGLang, llama.cpp, Ollama, transformers serve, whatever speaks the OpenAI API.

The server has the chat template, the tokens and the context; it is given messages, and gives text as it comes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from accord.chat.speaker import Conversation, Question, Reply
from accord.console import said, without_secrets
from accord.engine.sampling import Sampling
from accord.errors import InputError, nearest
from accord.feedback.ai import without_key
from accord.records import Completion, Message, text_to_json

if TYPE_CHECKING:
    import openai


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server, by its base URL, whose path is /v1 unless given.

    `key` is the environment variable that holds its key. Raises InputError where the URL is none, or the `judge` extra
    is not installed.
    """

    url: str
    key: str = "OPENAI_API_KEY"
    client: openai.OpenAI = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"a server is reached by http:// or https://, not by {self.url}.")
        try:
            from openai import OpenAI
        except ImportError:
            raise InputError("a served model needs the judge extra: pip install openai.") from None
        if urlsplit(self.url).path in ("", "/"):
            object.__setattr__(self, "url", f"{self.url.rstrip('/')}/v1")
        try:
            client = OpenAI(base_url=self.url, api_key=os.environ.get(self.key) or "none")
        except Exception as error:  # of its HTTP client, which has errors of its own for this
            raise InputError(f"{self} is no URL of a server ({said(error)}).") from None
        object.__setattr__(self, "client", client)

    def __str__(self) -> str:
        return without_secrets(self.url)

    def models(self, *, needed: bool = False) -> list[str]:
        """What the server says its models are called; none where it cannot say, unless that is `needed`.

        Raises InputError where it is away or wants another key.
        """
        import openai

        try:
            return [model.id for model in self.client.models.list()]
        except (openai.APIConnectionError, openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise self.refusal(error) from None
        except openai.APIError as error:  # it has no such list, or cannot make one
            if needed and not isinstance(error, openai.NotFoundError):
                raise self.refusal(error) from None
            return []
        except (AttributeError, TypeError, ValueError):  # what came is no such list, a page perhaps
            raise InputError(f"{self} does not speak the OpenAI API; give the URL that ends in /v1.") from None

    def speaker(self, name: str | None) -> ServedSpeaker:
        """A model of the server's, the only one unless named. Raises InputError where there is not one to be found."""
        models = self.models(needed=name is None)
        if name is None and len(models) != 1:
            known = (
                f"has the models {', '.join(models)}: name one" if models else "does not say what it serves: name it"
            )
            raise InputError(f"{self} {known} by --model.")
        return ServedSpeaker(self, name or models[0])

    def refusal(self, error: openai.APIError, model: str = "") -> InputError:
        """What the server's error means, and what to do."""
        import openai

        told = without_key(error, self.client.api_key)
        if isinstance(error, openai.APIConnectionError):
            cause = f": {error.__cause__}" if error.__cause__ else ""
            return InputError(f"nothing answers at {self} ({told.rstrip('.')}{cause}); see that the server runs there.")
        if not isinstance(error, openai.APIStatusError):
            return InputError(f"{self} broke off ({told}).")
        told = told.removeprefix(f"Error code: {error.status_code} - ")
        if error.status_code in (401, 403):
            what = f"does not take the key in {self.key}" if os.environ.get(self.key) else "wants a key"
            return InputError(f"{self} {what}: set {self.key} to the server's key.")
        if error.status_code == 404 and model:
            models = self.models()
            known = f"; it has {', '.join(models)}" if models else ""
            return InputError(f"{self} has no model {model} ({told}){known}{nearest(model, models) or '.'}")
        return InputError(f"{self} refuses with the status {error.status_code} ({told}).")


@dataclass(frozen=True)
class ServedSpeaker:
    """A model of a server, by its name there. What it is told is not cut to its context: the server says if it must."""

    server: Server
    name: str
    has_template = True

    def check_system(self, system: str) -> None:
        """Nothing, as the server knows what its model can be given."""

    def question(self, conversation: Conversation, speaker: int, message: str, longest: int) -> Question:
        """The message after what was said before; an answer has room for `longest` tokens."""
        return Question((*conversation.messages(speaker), Message("user", message)), (), longest, 0)

    def say(self, question: Question, sampling: Sampling) -> ServedSaying:
        """The answer, which is asked for and given as it is iterated over."""
        return ServedSaying(self, question, sampling)


class ServedSaying:
    """An answer of a server on its way: iterating gives pieces of its text; `answer` is what was said until then."""

    def __init__(self, speaker: ServedSpeaker, question: Question, sampling: Sampling) -> None:
        self.speaker, self.question, self.sampling = speaker, question, sampling
        self.pieces: list[str] = []
        self.finish: str | None = None

    @property
    def has_begun(self) -> bool:
        """Whether anything was said yet."""
        return bool(self.pieces)

    def __iter__(self) -> Iterator[str]:
        """Raises InputError where the server is away, refuses, or breaks off."""
        import openai

        server, sampling = self.speaker.server, self.sampling
        seed = int(np.random.SeedSequence(sampling.seed).generate_state(1)[0] >> 1)
        messages: Any = text_to_json(self.question.prompt)
        try:
            with server.client.chat.completions.create(
                model=self.speaker.name, messages=messages, stream=True, max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature, top_p=sampling.top_p, seed=seed,
            ) as chunks:  # fmt: skip
                for choice in (choice for chunk in chunks for choice in chunk.choices):
                    self.finish = choice.finish_reason or self.finish
                    if choice.delta.content:
                        self.pieces.append(choice.delta.content)
                        yield choice.delta.content
        except openai.APIError as error:
            raise server.refusal(error, self.speaker.name) from None
        if self.finish is None and not self.pieces:
            raise InputError(f"{server} gave no answer; see that the URL is that of an OpenAI-compatible server.")

    @property
    def answer(self) -> Reply:
        """What was said so far; stopped where the server has not said why it ended."""
        completion = Completion((), (), "length" if self.finish == "length" else "end")
        return Reply(self.question.prompt, (), "".join(self.pieces), completion, self.finish is None)
