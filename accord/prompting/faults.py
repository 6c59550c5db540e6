"""How a request to a server can fail, whether it is worth another attempt, and after how long.

The wait before attempt n is drawn from [0, min(60, 2^(n - 1))] seconds ("full jitter", so that many clients do not
return at once), or is what the server asks for by Retry-After.
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
"""The kinds of failure of an attempt."""
LONGEST = 600.0
"""The longest wait in seconds that a server may ask for; beyond it the work ends."""
BASE = 1.0
"""The longest wait before the second attempt, in seconds."""


class Fault(Exception):
    """A failed attempt: its kind, the server's message, whether another may succeed (`passes`), and when (`wait`)."""

    def __init__(self, kind: str, message: str, *, passes: bool = True, wait: float | None = None) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind, self.message, self.passes, self.wait = kind, message, passes, wait


def fault_of(error: Exception, server: Server, model: str, timeout: float) -> Fault:
    """The Fault behind an exception of an attempt. Raises InputError where no other request could succeed either."""
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
    reason = server.without_key(error.message).removeprefix(f"Error code: {error.status_code} - ")
    if error.status_code in (401, 402, 403, 404):
        raise server.refusal(error, model) from None
    if error.status_code == 429 and error.code == "insufficient_quota":
        raise InputError(f"{server} says that the quota is spent ({reason}).") from None
    if error.status_code < 500 and error.status_code not in (408, 409, 425, 429):
        return Fault(REFUSED, f"{error.status_code} {reason}", passes=False)
    wait = _retry_after(error)
    if wait is not None and wait > LONGEST:
        raise InputError(f"{server} asks to be left alone for {wait:,.0f} seconds ({reason}).") from None
    return Fault(BUSY if error.status_code == 429 else FAILING, f"{error.status_code} {reason}", wait=wait)


def wait_for(state: RetryCallState) -> float:
    """Seconds to wait before the next attempt."""
    from tenacity import wait_random_exponential

    fault = state.outcome.exception() if state.outcome else None
    if isinstance(fault, Fault) and fault.wait is not None:
        return fault.wait + random.uniform(0, BASE)
    return wait_random_exponential(multiplier=BASE, max=60)(state)


def _retry_after(error: openai.APIStatusError) -> float | None:
    """The seconds of a Retry-After header, given as a number or a date; None without a usable one."""
    header = error.response.headers.get("retry-after", "")
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time()
        except (TypeError, ValueError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
