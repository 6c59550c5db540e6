"""A model that is asked by prompts and replies as a test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accord.prompting.requests import Reply, Request


class Replies:
    """A model that replies by `reply(request)`, the last request's first; `asked` keeps the requests."""

    name = "said"

    def __init__(self, reply: Callable[[Request], Reply]) -> None:
        self.reply, self.asked = reply, list[Request]()

    def __call__(
        self, requests: Sequence[Request], on_reply: Callable[[int, Reply], None] | None = None
    ) -> list[Reply]:
        self.asked += requests
        replies = [self.reply(request) for request in requests]
        for i in reversed(range(len(replies))):
            if on_reply is not None:
                on_reply(i, replies[i])
        return replies
