"""A reward that a server gives: it is sent prompts and completions as JSON, and gives numbers back."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any

import torch
from torch import Tensor

from accord.errors import InputError
from accord.feedback.functions import columns_of, completions_of, prompts_of
from accord.feedback.reward import excerpt, finite
from accord.records import Sample


class RemoteReward:
    """The rewards that the server at `url` gives.

    It is sent `{"prompts": [...], "completions": [...], "columns": {name: [...]}}` by POST, with the lists that
    `functions.FunctionReward` gives a function, and answers `{"rewards": [...]}`, a number for each completion. A
    server that cannot be reached, takes longer than `timeout` seconds, or answers with a status of 5xx is asked again
    up to `retries` times, after 1, 2, 4, ... seconds.

    Raises InputError, naming the server, where it gives no such answer, and the row where that is not a finite number.
    """

    def __init__(self, url: str, timeout: float = 60.0, retries: int = 2) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"a reward's server is reached by http:// or https://, not by {url}")
        if not timeout > 0 or retries < 0:
            raise InputError(f"timeout must be positive and retries not negative, not {timeout} and {retries}")
        self.url, self.timeout, self.retries = url, timeout, retries
        self.name = url

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """One reward a sample, (C,) float32."""
        if not samples:
            return torch.empty(0)
        body = {"prompts": prompts_of(samples), "completions": completions_of(samples), "columns": columns_of(samples)}
        try:
            sent = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise InputError(f"a column cannot be sent to {self.url} as JSON ({error}); remove it") from None
        answer = self._answer(sent)
        rewards = answer.get("rewards") if isinstance(answer, dict) else None
        if not isinstance(rewards, list):
            raise InputError(f'{self.url} must answer {{"rewards": [...]}}, not {excerpt(json.dumps(answer))}')
        return finite(rewards, samples, self.url)

    def _answer(self, sent: bytes) -> Any:
        """What the server answers, as JSON has it, after as many attempts as that takes."""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(2 ** (attempt - 1))
            try:
                text = self._post(sent)
            except urllib.error.HTTPError as error:
                fault = f"answered with the status {error.code} ({error.reason})"
                if error.code < 500:
                    break
            except (OSError, HTTPException) as error:  # unreachable, too slow, or cut off
                fault = f"cannot be reached ({getattr(error, 'reason', None) or error})"
            else:
                try:
                    return json.loads(text)
                except ValueError:
                    raise InputError(f"{self.url} answered {excerpt(repr(text))}, which is not JSON") from None
        raise InputError(f"{self.url} {fault}; see that the server runs there and takes such requests")

    def _post(self, sent: bytes) -> bytes:
        request = urllib.request.Request(self.url, sent, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            answer: bytes = response.read()
        return answer
