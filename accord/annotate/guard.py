"""HTTP protection of every page: security headers, error pages, checks of forms, rate limits, form tokens."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Path
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accord.console import error_text, status
from accord.errors import DEBUG

LARGEST = 1_000_000
"""Maximum bytes of a form."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

# `same-origin` rather than `no-referrer`, under which browsers send forms with the origin "null".
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


Number = Annotated[int, Path(ge=1, lt=2**31)]
"""The number of a database row in a URL."""


class Denied(Exception):
    """A denied request: its status, and the reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Headers:
    """ASGI middleware that adds security headers; pages are not cached, static files are revalidated.

    An unhandled error becomes an error page and a line on the server's terminal, with a traceback where the environment
    variable DEBUG asks for it.
    """

    def __init__(self, app: ASGIApp, fault: Callable[[Request], Response]) -> None:
        self.app, self.fault = app, fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond, with the headers."""
        has_begun = False

        async def with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers["Cache-Control"] = "no-cache" if scope["path"].startswith("/static/") else "no-store"
            await send(message)

        try:
            await self.app(scope, receive, with_headers if scope["type"] == "http" else send)
        except Exception as error:
            if scope["type"] != "http" or os.environ.get(DEBUG):
                raise
            status(f"annotate: a page failed: {type(error).__name__}: {error_text(error)}; {DEBUG}=1 shows where.")
            if not has_begun:
                await self.fault(Request(scope))(scope, receive, with_headers)


class Limit:
    """A rate limit of `rate` per second with bursts of `burst`, for each of the last 10,000 keys."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self._left: OrderedDict[Any, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: Any, cost: float = 1.0) -> bool:
        """Whether a request is allowed; a `cost` of 0 only asks."""
        now = time.monotonic()
        with self._lock:
            left, since = self._left.pop(key, (self.burst, now))
            left = min(self.burst, left + self.rate * (now - since))
            allowed = left >= 1.0
            self._left[key] = (left - cost if allowed else left, now)
            if len(self._left) > 10_000:
                self._left.popitem(last=False)
        return allowed


def form_token(session: str) -> str:
    """The anti-forgery token in every form of a session, unknown to other sites."""
    return hmac.new(session.encode("utf-8", "replace"), b"form", hashlib.sha256).hexdigest()


async def read_form(request: Request, session: str) -> dict[str, str]:
    """The fields of a form sent by one of our pages. Raises Denied for a form of another site, or one too large."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise Denied(403, "This form came from another site, so nothing was stored.")
    if site not in (None, "same-origin", "none"):
        raise Denied(403, "This form came from another site, so nothing was stored.")
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise Denied(415, "This is no form of these pages.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise Denied(413, "This is longer than a million bytes, so nothing was stored: please make it shorter.")
    try:
        fields = dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=200))
    except ValueError:
        raise Denied(400, "This is no form of these pages.") from None
    if not hmac.compare_digest(fields.pop("form_token", "").encode(), form_token(session).encode()):
        raise Denied(403, "This page is of an earlier visit: open your link again. Nothing was stored.")
    return {name: value.replace("\x00", "") for name, value in fields.items()}
