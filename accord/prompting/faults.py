"""How a request to a server can fail, whether another try can do better, and when it is made.

Waits between tries are drawn from [0, min(60, 2^(tries - 1))] seconds ("full jitter", after which many clients do not
come back together), or are what the server asks for by Retry-After.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
from time import time
from typing import TYPE_CHECKING

from accord.errors import InputError
from accord.prompting.server import Server

if TYPE_CHECKING:
    import openai
    from tenacity import RetryCallState

UNREACHED, BUSY, FAILING, SLOW, BROKEN, UNREADABLE, REFUSED = (
    "no connection", "busy (429)", "server error (5xx)", "too slow", "broken off", "unreadable", "refused",
)  # fmt: skip
"""How a try can fail."""
LONGEST = 600.0
"""Seconds that a server can have all requests wait; where it asks for more, the work is ended."""
BASE = 1.0
"""Seconds at most before the second try."""


class Fault(Exception):
    """A try that failed: how, what was said, whether another can do better, and when."""

    def __init__(self, kind: str, told: str, *, passes: bool = True, wait: float | None = None) -> None:
        super().__init__(f"{kind}: {told}" if told else kind)
        self.kind, self.told, self.passes, self.wait = kind, told, passes, wait


def fault_of(error: Exception, server: Server, model: str, timeout: float) -> Fault:
    """What an error of a try means. Raises InputError where it is one of all requests."""
    import openai

    if isinstance(error, Fault):
        return error
    if isinstance(error, asyncio.TimeoutError | openai.APITimeoutError):
        return Fault(SLOW, f"no reply within {timeout:g} seconds")
    if isinstance(error, openai.APIConnectionError):
        refusal = server.refusal(error)
        if type(error.__cause__).__name__.startswith("Connect"):
            return Fault(UNREACHED, str(refusal))
        return Fault(BROKEN, server.without_key(str(error.__cause__ or error.message)))
    if not isinstance(error, openai.APIStatusError):
        if isinstance(error, openai.APIError | ValueError | RecursionError):
            return Fault(UNREADABLE, server.without_key(str(error)))
        raise error
    told = server.without_key(error.message).removeprefix(f"Error code: {error.status_code} - ")
    if error.status_code in (401, 402, 403, 404):
        raise server.refusal(error, model) from None
    if error.status_code == 429 and error.code == "insufficient_quota":
        raise InputError(f"{server} says that the quota is spent ({told}).") from None
    if error.status_code < 500 and error.status_code not in (408, 409, 425, 429):
        return Fault(REFUSED, f"{error.status_code} {told}", passes=False)
    wait = _retry_after(error)
    if wait is not None and wait > LONGEST:
        raise InputError(f"{server} asks to be left alone for {wait:,.0f} seconds ({told}).") from None
    return Fault(BUSY if error.status_code == 429 else FAILING, f"{error.status_code} {told}", wait=wait)


def wait_for(state: RetryCallState) -> float:
    """Seconds before another try."""
    from tenacity import wait_random_exponential

    fault = state.outcome.exception() if state.outcome else None
    if isinstance(fault, Fault) and fault.wait is not None:
        return fault.wait + random.uniform(0, BASE)
    return wait_random_exponential(multiplier=BASE, max=60)(state)


def _retry_after(error: openai.APIStatusError) -> float | None:
    """The seconds for which the server asks, as a number or a date, if it does."""
    given = error.response.headers.get("retry-after", "")
    try:
        seconds = float(given)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(given).timestamp() - time()
        except (TypeError, ValueError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
