"""Limits of requests to a served model: per minute, and in money."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from accord.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

TICK = 0.02
"""Seconds between two looks at what other requests have spent."""


@dataclass
class RateLimit:
    """Spreads requests evenly over time to keep within limits of requests and tokens per minute.

    A request starts 60 / requests seconds after the one before it, and 60 t / tokens seconds after one of t tokens. Its
    number of tokens is estimated first and corrected afterwards. All requests wait when a server asks for it.
    """

    requests: float | None
    tokens: float | None
    _next: float = 0.0
    _next_tokens: float = 0.0
    _held: float = 0.0

    async def turn(self, tokens: float) -> None:
        """Wait until a request of this many tokens may be sent."""
        now = monotonic()
        start = max(now, self._next if self.requests else 0.0, self._next_tokens if self.tokens else 0.0)
        self._next = start + 60 / self.requests if self.requests else 0.0
        self._next_tokens = start + 60 * tokens / self.tokens if self.tokens else 0.0
        while (wait := max(start, self._held) - monotonic()) > 0:
            await asyncio.sleep(wait)

    def correct(self, tokens: float) -> None:
        """Correct an estimate: a request took this many tokens more (fewer where negative)."""
        if self.tokens:
            self._next_tokens += 60 * tokens / self.tokens

    def hold(self, seconds: float) -> None:
        """Send no request for this many seconds."""
        self._held = max(self._held, monotonic() + seconds)


@dataclass
class Spending:
    """The money spent, from prices per million tokens; requests under way count as the most they can cost."""

    price_in: float = 0.0
    price_out: float = 0.0
    budget: float | None = None
    spent: float = 0.0
    _promised: float = field(default=0.0)

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """The cost of so many tokens read and written."""
        return (self.price_in * tokens_in + self.price_out * tokens_out) / 1e6

    async def promise(self, most: float) -> None:
        """Reserve the most that a request can cost; wait while requests under way may turn out to cost less.

        Raises InputError where the budget has no room for it.
        """
        while self.budget is not None and self.spent + self._promised + most > self.budget:
            if not self._promised:
                raise InputError(f"the budget of {_money(self.budget)} has no room for another request: {self}.")
            await asyncio.sleep(TICK)
        self._promised += most

    @contextmanager
    def paying(self, most: float) -> Iterator[None]:
        """Release a reservation after the block, which adds the request's true cost to `spent`."""
        try:
            yield
        finally:
            self._promised -= most
            if abs(self._promised) < 1e-12:
                self._promised = 0.0

    def __str__(self) -> str:
        of = "" if self.budget is None else f" of {_money(self.budget)}"
        return f"{self.spent:,.4f}{of} spent"


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if round(amount, 2) == amount else f"{amount:g}"
