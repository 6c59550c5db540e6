"""A served model that talks: vLLM, SGLang, llama.cpp, Ollama, transformers serve, whatever speaks the OpenAI API.

The server has the chat template, the tokens and the context; it is given messages, and gives text as it comes.
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
from accord.console import said, without_halves
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.prompting.server import Server
from accord.records import Completion, Message, text_to_json

T = TypeVar("T")

WAIT, LONGEST = 120.0, 1200.0
"""Seconds that a server has until an answer begins, and for each further part of it; and for all of it."""


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

    def say(self, question: Question, sampling: Sampling, longest: float | None = None) -> ServedSaying:
        """The answer, which is asked for and given as it is iterated over, in `longest` seconds."""
        return ServedSaying(self, question, sampling, LONGEST if longest is None else longest)


class ServedSaying:
    """An answer of a server on its way: iterating gives pieces of its text; `answer` is what was said until then.

    Its time is limited on any thread, however little comes at a time.
    """

    def __init__(self, speaker: ServedSpeaker, question: Question, sampling: Sampling, longest: float) -> None:
        self.speaker, self.question, self.sampling, self.longest = speaker, question, sampling, longest
        self.pieces: list[str] = []
        self.finish: str | None = None

    @property
    def has_begun(self) -> bool:
        """Whether anything was said yet."""
        return bool(self.pieces)

    def __iter__(self) -> Iterator[str]:
        """Raises InputError where the server is away, refuses, breaks off, or gives what is no answer."""
        import openai

        server = self.speaker.server
        try:
            for piece in self._asked():
                self.pieces.append(piece)
                yield piece
        except openai.APIError as error:
            if self.has_begun and isinstance(error, openai.APIConnectionError):
                raise InputError(
                    f"{server} broke off ({server.without_key(said(error.__cause__ or error))})."
                ) from None
            raise server.refusal(error, self.speaker.name) from None
        except InputError:
            raise
        except Exception as error:  # of the HTTP library, or of what came, which may be anything
            told = server.without_key(said(error))
            raise InputError(f"{server} broke off, or does not speak the OpenAI API ({told}).") from None
        if self.finish is None and not self.pieces:
            raise InputError(f"{server} gave no answer; see that the URL is that of an OpenAI-compatible server.")

    def heard(self) -> Reply:
        """The answer, waited for to its end; raises as iterating does."""
        for _ in self:
            pass
        return self.answer

    def _asked(self) -> Iterator[str]:
        """The pieces of the answer; whatever the libraries raise."""
        end, pieces, loop = monotonic() + self.longest, self._pieces(), asyncio.new_event_loop()
        try:
            while (piece := loop.run_until_complete(self._in_time(anext(pieces, None), end))) is not None:
                yield piece
        finally:
            try:
                loop.run_until_complete(_ended(pieces))
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
                chunks = await asyncio.wait_for(begun, WAIT)  # as the client's own limit is that of each part
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
        """What was said so far; stopped where the server has not said why it ended."""
        completion = Completion((), (), "length" if self.finish == "length" else "end")
        text = without_halves("".join(self.pieces))
        return Reply(self.question.prompt, (), text, completion, self.finish is None)


async def _ended(pieces: AsyncGenerator[str, None]) -> None:
    """Stop what is on its way still, as where Ctrl-C came meanwhile, and let go of the server."""
    own = asyncio.current_task()
    left = [task for task in asyncio.all_tasks() if task is not own]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await pieces.aclose()
