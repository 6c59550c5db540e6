"""How fast a served model is asked, and what that may cost."""

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
"""Seconds between two looks at what others have spent."""


@dataclass
class Pace:
    """Spreads requests evenly over time, so that none of the limits, of a minute each, is passed.

    A request's turn comes 60 / requests seconds after the one before it, and 60 t / tokens seconds after one of t
    tokens; what it will have is estimated, and put right when it is known. All wait where a server says so.
    """

    requests: float | None
    tokens: float | None
    _next: float = 0.0
    _next_tokens: float = 0.0
    _held: float = 0.0

    async def turn(self, tokens: float) -> None:
        """Waits until a request of so many tokens may be sent."""
        now = monotonic()
        start = max(now, self._next if self.requests else 0.0, self._next_tokens if self.tokens else 0.0)
        self._next = start + 60 / self.requests if self.requests else 0.0
        self._next_tokens = start + 60 * tokens / self.tokens if self.tokens else 0.0
        while (wait := max(start, self._held) - monotonic()) > 0:
            await asyncio.sleep(wait)

    def correct(self, tokens: float) -> None:
        """So many tokens more were needed than was estimated; fewer where negative."""
        if self.tokens:
            self._next_tokens += 60 * tokens / self.tokens

    def hold(self, seconds: float) -> None:
        """No request is sent for so long."""
        self._held = max(self._held, monotonic() + seconds)


@dataclass
class Purse:
    """What was spent, by prices of a million tokens; what is on its way counts as the most that it can cost."""

    price_in: float = 0.0
    price_out: float = 0.0
    budget: float | None = None
    spent: float = 0.0
    _promised: float = field(default=0.0)

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """What so many tokens cost."""
        return (self.price_in * tokens_in + self.price_out * tokens_out) / 1e6

    async def promise(self, most: float) -> None:
        """Sets aside the most that a request can cost; waits where others may turn out to have cost less.

        Raises InputError where the budget has no room for it.
        """
        while self.budget is not None and self.spent + self._promised + most > self.budget:
            if not self._promised:
                raise InputError(f"the budget of {_money(self.budget)} has no room for another request: {self}.")
            await asyncio.sleep(TICK)
        self._promised += most

    @contextmanager
    def paying(self, most: float) -> Iterator[None]:
        """Takes back what was set aside, when what the request did cost has been added to what is spent."""
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
