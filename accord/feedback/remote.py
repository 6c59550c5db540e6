"""Rewards from a server, requested as JSON."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import torch
from torch import Tensor

from accord.console import without_secrets
from accord.errors import InputError, require_address
from accord.feedback.functions import columns_of, completions_of, prompts_of
from accord.feedback.reward import excerpt, finite
from accord.limits import within
from accord.prompting.server import key_for, require_private
from accord.records import Sample

MOST_ANSWERED = 2**26
"""The most bytes of a server's answer."""


class RemoteReward:
    """Rewards from the server at `url`.

    It is sent `{"prompts": [...], "completions": [...], "columns": {name: [...]}}` by POST, with the lists that
    `FunctionReward` gives a function, and answers `{"rewards": [...]}`, a number for each completion. If it cannot be
    reached, takes longer than `timeout` seconds, or answers with a status of 5xx, the request is repeated up to
    `retries` times, after 1, 2, 4, ... seconds. A user and a password in the URL are sent as HTTP basic authentication;
    neither they nor the query appear in messages.

    Raises InputError, naming the server, where the answer has another form, and the row where a reward is not finite.
    """

    def __init__(self, url: str, timeout: float = 60.0, retries: int = 2) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"a reward's server is reached by http:// or https://, not by {without_secrets(url)}")
        require_address(url, without_secrets(url))
        if not timeout > 0 or retries < 0:
            raise InputError(f"timeout must be positive and retries not negative, not {timeout} and {retries}")
        parts = urlsplit(url)
        self.url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self.timeout, self.retries = timeout, retries
        self.name = without_secrets(url)
        self.secret = ""
        """The value of the Authorization header."""
        if "@" in parts.netloc:
            user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            self.secret = f"Basic {base64.b64encode(user.encode()).decode()}"

    def authorize(self, key: str | None, *, insecure: bool) -> None:
        """Send the key in an environment variable from now on; InputError where the server must not get it."""
        if key is not None:
            options = ("--reward-key", "--reward-insecure")
            self.secret = f"Bearer {key_for(self.url, key, insecure=insecure, options=options)}"
        elif self.secret:
            require_private(self.url, "the password", insecure=insecure, option="--reward-insecure")

    def __str__(self) -> str:
        return self.name

    def masked(self, text: str) -> str:
        """A text that may quote the request, with secrets masked."""
        for secret in (self.secret.partition(" ")[2], urlsplit(self.url).query):
            text = text.replace(secret, "***") if secret else text
        return text

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        if not samples:
            return torch.empty(0)
        body = {"prompts": prompts_of(samples), "completions": completions_of(samples), "columns": columns_of(samples)}
        try:
            sent = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise InputError(f"a column cannot be sent to {self} as JSON ({error}); remove it") from None
        answer = self._post(sent)
        rewards = answer.get("rewards") if isinstance(answer, dict) else None
        if not isinstance(rewards, list):
            raise InputError(f'{self} must answer {{"rewards": [...]}}, not {excerpt(self.masked(json.dumps(answer)))}')
        return finite(rewards, samples, str(self))

    def _post(self, sent: bytes) -> Any:
        """The server's answer as parsed JSON, after as many attempts as it takes."""
        request = urllib.request.Request(self.url, sent, {"Content-Type": "application/json"}, method="POST")
        if self.secret:
            request.add_unredirected_header("Authorization", self.secret)  # not to be sent to other servers
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(2 ** (attempt - 1))
            try:
                # urlopen's timeout is for each read, and headers may trickle in forever.
                with within(self.timeout), urllib.request.urlopen(request, timeout=self.timeout) as response:
                    text = self._read(response)
            except urllib.error.HTTPError as error:
                fault = f"answered with the status {error.code} ({on_a_line(error.reason)})"
                if error.code < 500:
                    break
            except (OSError, HTTPException) as error:  # unreachable, too slow, or cut off
                fault = f"cannot be reached ({on_a_line(getattr(error, 'reason', None) or error)})"
            else:
                try:
                    return json.loads(text)
                except (ValueError, RecursionError):
                    raise InputError(f"{self} answered {excerpt(self.masked(repr(text)))}, which is not JSON") from None
        raise InputError(f"{self} {self.masked(fault)}; check that the server runs there and takes such requests")

    def _read(self, response: HTTPResponse) -> bytes:
        """The body of an answer; TimeoutError where it is too slow, InputError where it is too long."""
        begun, parts, size = time.monotonic(), list[bytes](), 0
        while part := response.read1(2**16):
            parts.append(part)
            size += len(part)
            if size > MOST_ANSWERED:
                raise InputError(f"{self} answered more than {MOST_ANSWERED:,} bytes, too many to be rewards")
            if time.monotonic() - begun > self.timeout:
                raise TimeoutError(f"the answer takes more than {self.timeout:g} seconds")
        if response.length:  # read1 does not report a body shorter than announced
            raise IncompleteRead(b"".join(parts), response.length)
        return b"".join(parts)


def on_a_line(value: object) -> str:
    """A server's message on one line."""
    return " ".join(str(value).split())
