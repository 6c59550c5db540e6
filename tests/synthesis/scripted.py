"""A model that replies by a script, seeds to begin with, and words to make instructions of."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from accord.prompting.requests import Reply, Request
from accord.records import show
from accord.synthesis.questions import Asker
from accord.synthesis.tasks import Instance, Task

WORDS = [
    "apple",
    "river",
    "stone",
    "window",
    "music",
    "lamp",
    "garden",
    "winter",
    "doctor",
    "letter",
    "bridge",
    "engine",
    "forest",
    "market",
    "pencil",
    "candle",
]

SEEDS = [
    *(
        Task(f"Explain how {word} works to a child of {n}", (Instance("", f"It is {word}."),), False)
        for n, word in enumerate(WORDS[:10], start=5)
    ),
    *(
        Task(f"Say whether the {word} is good or bad here", (Instance(f"the {word}", "good"),), True)
        for word in WORDS[10:]
    ),
]


class Scripted:
    """Replies what the script makes of a request, all of which are kept; a script may raise."""

    name = "scripted"

    def __init__(self, script: Callable[[Request], Reply | str]) -> None:
        self.script, self.asked = script, list[Request]()

    def __call__(
        self, requests: Sequence[Request], on_reply: Callable[[int, Reply], None] | None = None
    ) -> list[Reply]:
        replies = []
        for request in requests:
            self.asked.append(request)
            said = self.script(request)
            replies.append(said if isinstance(said, Reply) else Reply(text=said))
        return replies


def asker(script: Callable[[Request], Reply | str], *, is_chat: bool = False, seed: int = 0) -> Asker:
    return Asker(model=Scripted(script), is_chat=is_chat, seed=seed)


def writer(request: Request) -> str:
    """What a model might write that keeps to the form mostly, drawn by the request alone."""
    prompt = show(request.prompt)
    draws = random.Random(f"{prompt} {request.seed}")
    if prompt.endswith("Classification:"):
        return draws.choice([" Yes", " No", " No", " Perhaps"])
    if prompt.endswith("9."):
        items = [" ".join(["Tell", *draws.choices(WORDS, k=draws.randint(2, 9))]) for _ in range(8)]
        return f" {items[0]}\n" + "\n".join(f"{n}. {item}" for n, item in enumerate(items[1:], start=10))
    said = " ".join(draws.choices(WORDS, k=3))
    if prompt.endswith("Output:"):
        return f" good\nInput: {said}\nOutput: bad\nInput: not {said}"
    return draws.choice([f" {said}\nOutput: It is {said}.", " None\nOutput: Yes.", f" {said}\nOutput: {said}", " oh"])
