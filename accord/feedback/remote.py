"""What is asked over HTTP: a reward that a server gives, and a language model that is to choose a letter.

`RemoteReward` sends prompts and completions as JSON and gets numbers back; `Served` asks a model behind an
OpenAI-compatible server, which replies with A or B.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from accord.errors import InputError
from accord.feedback.functions import columns_of, completions_of, prompts_of
from accord.feedback.reward import excerpt, finite
from accord.records import Sample, Verdict

if TYPE_CHECKING:
    import openai


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


_LETTER = re.compile(r"[\W_]*(?:[Aa]nswer\W+)?([AB])(?:[^\w\s]|\n|\s*$)")
"""A reply that chooses begins with its letter: A, (B), **A**, Answer: B; but not "A better answer would be ..."."""
_FAILED = "gave no answer"


class Served:
    """The letter that a served model chooses, or its probability where the server gives that.

    Each question is a request of its own, `parallel` of them at a time, and is asked again up to `retries` times where
    the server is busy or too slow; a question that fails even so has an invalid verdict, with the cause.

    Args:
        model: what the server calls the model.
        url: the server's base URL, such as http://localhost:8000/v1.
        key: the environment variable that holds the server's key; a server of one's own needs none.
        max_tokens: of a reply.
        logprobs: whether to ask for the probabilities of the reply's first token.
        parallel: questions under way at a time.
        timeout: seconds for one answer.
        retries: attempts after the first.

    Raises:
        InputError: the `judge` extra is not installed.
    """

    def __init__(
        self,
        model: str,
        url: str,
        *,
        key: str = "OPENAI_API_KEY",
        max_tokens: int = 8,
        logprobs: bool = True,
        parallel: int = 8,
        timeout: float = 60.0,
        retries: int = 3,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"a judge's server is reached by http:// or https://, not by {url}")
        if parallel < 1 or max_tokens < 1:
            raise InputError(f"a judge's parallel, max_tokens must be positive, not {parallel}, {max_tokens}")
        self.model, self.url, self.key = model, url, key
        self.max_tokens, self.logprobs, self.parallel = max_tokens, logprobs, parallel
        try:
            from openai import OpenAI
        except ImportError:
            raise InputError("a served judge needs openai: pip install 'accord[judge]'") from None
        self.client = OpenAI(base_url=url, api_key=os.environ.get(key) or "none", timeout=timeout, max_retries=retries)

    def __call__(self, questions: Sequence[str]) -> list[Verdict]:
        """One verdict a question.

        Raises:
            InputError: the server refuses such requests, or answered none of them.
        """
        with ThreadPoolExecutor(self.parallel) as threads:
            verdicts = list(threads.map(self._ask, questions))
        if verdicts and all(v.first_wins is None and v.reason.startswith(_FAILED) for v in verdicts):
            raise InputError(f"{self.url} {verdicts[0].reason}; see that the server runs there")
        return verdicts

    def _ask(self, text: str) -> Verdict:
        import openai

        wanted: dict[str, Any] = {"logprobs": True, "top_logprobs": 5} if self.logprobs else {}
        try:
            reply = self.client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": text}], temperature=0.0,
                max_tokens=self.max_tokens, **wanted,
            )  # fmt: skip
        except (openai.RateLimitError, openai.InternalServerError, openai.APIConnectionError) as error:
            return Verdict(None, f"{_FAILED} ({self._without_key(error)})")
        except openai.APIStatusError as error:
            raise InputError(
                f"{self.url} refuses the question with the status {error.status_code} ({self._without_key(error)}); "
                f"see the judge's settings, and that {self.key} holds the server's key"
            ) from None
        if not reply.choices:
            return Verdict(None, f"{_FAILED} (no choices)")
        return _chosen(reply.choices[0])

    def _without_key(self, error: openai.APIError) -> str:
        """What the server said, which may quote the key it was given."""
        return excerpt(error.message.replace(self.client.api_key, "***"), 200)


def _chosen(choice: Any) -> Verdict:
    """From the probabilities of the reply's first letter where they were given, or else the reply itself."""
    letter = _LETTER.match(choice.message.content or "")
    if letter is None:
        return Verdict(None, f"the judge replied {excerpt(repr(choice.message.content))}, and neither A nor B")
    said = letter.group(1)
    for token in getattr(choice.logprobs, "content", None) or ():
        if token.token.strip() == said:
            chances = {"A": 0.0, "B": 0.0}
            for other in token.top_logprobs or ():
                if other.token.strip() in chances:
                    chances[other.token.strip()] += math.exp(other.logprob)
            if sum(chances.values()) > 0:
                return Verdict(chances["A"] / sum(chances.values()))
            break
    return Verdict(1.0 if said == "A" else 0.0)
