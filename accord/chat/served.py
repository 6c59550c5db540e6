"""Chatting with a served model (vLLM, SGLang, llama.cpp, Ollama, transformers serve: any OpenAI-compatible server).

The server applies the chat template and knows the tokens and the context; it gets messages and streams text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

import numpy as np

from accord.chat.conversation import Conversation, Reply
from accord.chat.speaker import Question
from accord.console import error_text, without_halves
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.prompting.server import Server, run_async
from accord.records import Completion, Message, text_to_json

T = TypeVar("T")

WAIT, LONGEST = 120.0, 1200.0
"""Seconds until an answer must begin and between its parts, and seconds for a whole answer."""


@dataclass(frozen=True)
class ServedSpeaker:
    """A server's model, by its name there. Prompts are not cut to its context: the server says if they are too long."""

    server: Server
    name: str
    has_template = True

    def check_system(self, system: str) -> None:
        """Does nothing: the server knows which prompts its model accepts."""

    def question(self, conversation: Conversation, speaker: int, message: str, longest: int) -> Question:
        """The message after the history; the answer has room for `longest` tokens."""
        return Question((*conversation.messages(speaker), Message("user", message)), (), longest, 0)

    def say(self, question: Question, sampling: Sampling, longest: float | None = None) -> ServedSaying:
        """The answer, requested and streamed on iteration, within `longest` seconds."""
        return ServedSaying(self, question, sampling, LONGEST if longest is None else longest)


class ServedSaying:
    """A streamed answer of a server: iterating gives pieces of its text; `answer` is the text so far.

    Its time limit holds on any thread, however slowly pieces come.
    """

    def __init__(self, speaker: ServedSpeaker, question: Question, sampling: Sampling, longest: float) -> None:
        self.speaker, self.question, self.sampling, self.longest = speaker, question, sampling, longest
        self.pieces: list[str] = []
        self.finish: str | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a piece has arrived."""
        return bool(self.pieces)

    def __iter__(self) -> Iterator[str]:
        """Raises InputError where the server is unreachable, refuses, breaks off, or sends no valid answer."""
        import openai

        server = self.speaker.server
        try:
            for piece in self._answer_pieces():
                self.pieces.append(piece)
                yield piece
        except openai.APIError as error:
            if self.has_begun and isinstance(error, openai.APIConnectionError):
                raise InputError(
                    f"{server} broke off ({server.without_key(error_text(error.__cause__ or error))})."
                ) from None
            raise server.refusal(error, self.speaker.name) from None
        except InputError:
            raise
        except Exception as error:  # from the HTTP library, or from an arbitrary response
            reason = server.without_key(error_text(error))
            raise InputError(f"{server} broke off, or does not speak the OpenAI API ({reason}).") from None
        if self.finish is None and not self.pieces:
            raise InputError(f"{server} gave no answer; see that the URL is that of an OpenAI-compatible server.")

    def heard(self) -> Reply:
        """The whole answer; raises as iterating does."""
        for _ in self:
            pass
        return self.answer

    def _answer_pieces(self) -> Iterator[str]:
        """The pieces of the answer; raises whatever the libraries raise."""
        end, pieces, loop = monotonic() + self.longest, self._pieces(), asyncio.new_event_loop()
        try:
            while (piece := run_async(self._in_time(anext(pieces, None), end), loop.run_until_complete)) is not None:
                yield piece
        finally:
            try:
                run_async(_ended(pieces), loop.run_until_complete)
            finally:
                loop.close()

    async def _in_time(self, work: Awaitable[T], end: float) -> T:
        try:
            return await asyncio.wait_for(work, max(0.0, end - monotonic()))
        except asyncio.TimeoutError:
            raise TimeoutError(f"the reply takes more than {round(self.longest, 1):g} seconds") from None

    async def _pieces(self) -> AsyncGenerator[str, None]:
        sampling = self.sampling
        seed = int(np.random.SeedSequence(sampling.seed).generate_state(1)[0] >> 1)
        messages: Any = text_to_json(self.question.prompt)
        async with self.speaker.server.asking(WAIT) as client:
            begun = client.chat.completions.create(
                model=self.speaker.name, messages=messages, stream=True, max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature, top_p=sampling.top_p, seed=seed,
            )  # fmt: skip
            try:
                chunks = await asyncio.wait_for(begun, WAIT)  # the client's own limit is per part
            except asyncio.TimeoutError:
                raise InputError(f"{self.speaker.server} has begun no answer within {WAIT:g} seconds.") from None
            async with chunks:
                async for chunk in chunks:
                    for choice in chunk.choices:
                        self.finish = choice.finish_reason or self.finish
                        if not isinstance(piece := choice.delta.content or "", str):
                            raise TypeError(f"a piece of an answer that is no text, but {piece!r}")
                        if piece:
                            yield piece

    @property
    def answer(self) -> Reply:
        """The answer so far; `is_stopped` where the server has not said why it ended."""
        completion = Completion((), (), "length" if self.finish == "length" else "end")
        text = without_halves("".join(self.pieces))
        return Reply(self.question.prompt, (), text, completion, self.finish is None)


async def _ended(pieces: AsyncGenerator[str, None]) -> None:
    """Cancel pending tasks, e.g. after Ctrl-C, release the server, and close what its client has left open."""
    for task in _others():
        task.cancel()
    await asyncio.gather(*_others(), return_exceptions=True)
    await pieces.aclose()
    await asyncio.get_running_loop().shutdown_asyncgens()
    await asyncio.gather(*_others(), return_exceptions=True)  # generators that were collected are closed by tasks


def _others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}
