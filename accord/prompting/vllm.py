"""One vLLM server as a sampler: token ids in, token ids and their log-probabilities out; weights are handed to it.

    GET  /health, /v1/models                      whether it runs, and what it serves
    POST /tokenize                                whether its tokens are the policy's
    POST /v1/completions                          a prompt of token ids and a seed; one sample
    POST /collective_rpc, /reset_prefix_cache     reload_weights from a folder: VLLM_SERVER_DEV_MODE=1
    POST /v1/load_lora_adapter, unload_...        VLLM_ALLOW_RUNTIME_LORA_UPDATING=1

Every request states all sampling settings, so that none of the server's defaults applies. The prefix cache is reset
with new weights, and also salted with their name: a reset fails while requests are under way.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from accord.arrays import Doubles, Ints
from accord.errors import InputError
from accord.prompting.faults import BROKEN, UNREADABLE, Fault, fault_of
from accord.prompting.handover import HandedWeights
from accord.prompting.served import ROUNDING, SHOWN
from accord.prompting.server import Server
from accord.records import Completion

if TYPE_CHECKING:
    import openai

    from accord.engine.models import Policy
    from accord.engine.sampling import Sampling

DEV_MODE = "start it with VLLM_SERVER_DEV_MODE=1 in its environment"
LORA = "start it with --enable-lora, --max-lora-rank and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment"
AGAIN = 8
"""How often a sample is drawn again that has tokens unknown to the tokenizer."""
QUICK = 20.0
"""Seconds for requests that take a server no time: a list of models, the tokens of a text, a reset."""
RESETS, PAUSE = 5, 0.5
"""How often to try to reset a prefix cache that is in use, and seconds between attempts."""


@dataclass
class Vllm:
    """A vLLM server, the name of its model there, and the weights that it is known to have."""

    server: Server
    model: str = ""
    held: HandedWeights | None = None
    adapters: list[str] = field(default_factory=list)
    """Names of adapters that it was given and may still have."""
    away: float | None = None
    """Since when it has failed to answer, if it has."""

    def __str__(self) -> str:
        return str(self.server)

    async def ask(
        self, client: openai.AsyncOpenAI, path: str, body: dict[str, Any] | None = None, *, seconds: float
    ) -> Any:
        """The server's answer as parsed JSON, by POST where there is a body.

        Raises Fault where the request fails, and InputError where no request can succeed.
        """
        url = f"{self.server.url.removesuffix('/').removesuffix('/v1')}{path}"
        within: Any = {"timeout": seconds}
        try:
            if body is None:
                return await asyncio.wait_for(client.get(url, cast_to=object, options=within), seconds)
            return await asyncio.wait_for(client.post(url, body=body, cast_to=object, options=within), seconds)
        except Exception as error:
            if getattr(error, "status_code", 0) == 404:
                raise NotServed(f"{self} has no {path} ({self.server.without_key(str(error))})") from None
            raise fault_of(error, self.server, self.model, seconds) from None

    async def models(self, client: openai.AsyncOpenAI, *, seconds: float) -> list[dict[str, Any]]:
        """The models that it serves, adapters included."""
        listed = await self.ask(client, "/v1/models", seconds=seconds)
        entries = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(entries, list) or not all(
            isinstance(m, dict) and isinstance(m.get("id"), str) for m in entries
        ):
            raise InputError(f"{self} does not say what it serves as vLLM does; check its address.")
        return entries

    async def named(self, client: openai.AsyncOpenAI) -> dict[str, Any]:
        """The entry of its model, whose name is used in requests from now on; InputError unless it serves one model."""
        base = [m for m in await self.models(client, seconds=QUICK) if not m.get("parent")]
        if len(base) != 1:
            raise InputError(f"{self} serves {len(base)} models; a sampler must serve exactly one.")
        self.model = base[0]["id"]
        return base[0]

    async def meet(self, client: openai.AsyncOpenAI, policy: Policy, longest: int, texts: Sequence[str]) -> None:
        """Check what it serves; InputError where that cannot be the policy with other weights.

        Args:
            longest: tokens of the longest prompt and its sample together.
            texts: some texts that both must tokenize alike.
        """
        room = (await self.named(client)).get("max_model_len")
        if isinstance(room, int) and room < longest:
            raise InputError(
                f"{self} reads {room:,} tokens at most (--max-model-len), and prompts with samples need {longest:,}."
            )
        for text in texts:
            ours = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
            asked = {"model": self.model, "prompt": text, "add_special_tokens": False}
            theirs = await self.ask(client, "/tokenize", asked, seconds=QUICK)
            if not isinstance(theirs, dict) or theirs.get("tokens") != list(ours):
                raise InputError(
                    f"{self} serves {self.model}, which has another vocabulary than {policy.name}: "
                    f"{shorten(text, 40)!r} is {len(ours)} tokens here and others there; serve {policy.name}."
                )

    async def hand_over(self, client: openai.AsyncOpenAI, handed: HandedWeights, name: str, *, seconds: float) -> None:
        """Have the server load weights, called `name` in messages; InputError where it cannot."""
        self.held = None
        if handed.is_adapter:
            await self._load_adapter(client, handed, seconds)
        else:
            body = {"method": "reload_weights", "kwargs": {"weights_path": str(handed.folder)}}
            try:
                await self.ask(client, "/collective_rpc", body, seconds=seconds)
            except NotServed:
                raise InputError(f"{self} takes no weights: {DEV_MODE}.") from None
            except Fault as fault:
                if fault.kind == BROKEN or not fault.message.startswith("500"):
                    raise
                raise InputError(
                    f"{self} serves {self.model} and does not take the weights of {name} ({fault.message}): it must "
                    f"serve the same model, and see {handed.folder}."
                ) from None
        await self._reset(client)
        self.held = handed

    async def _reset(self, client: openai.AsyncOpenAI) -> None:
        for _ in range(RESETS):
            try:
                done = await self.ask(client, "/reset_prefix_cache", {}, seconds=QUICK)
            except NotServed:  # on a server of adapters, where the salt suffices
                return
            if not isinstance(done, dict) or done.get("success", True):
                return
            await asyncio.sleep(PAUSE)

    async def _load_adapter(self, client: openai.AsyncOpenAI, handed: HandedWeights, seconds: float) -> None:
        """Load an adapter under a new name, since the cache would answer for an old one; then unload earlier ones."""
        body = {"lora_name": handed.name, "lora_path": str(handed.folder)}
        try:
            await self.ask(client, "/v1/load_lora_adapter", body, seconds=seconds)
        except NotServed:
            raise InputError(f"{self} takes no adapters: {LORA}.") from None
        except Fault as fault:
            if not fault.message.startswith(("400", "500")):
                raise
            raise InputError(
                f"{self} does not take an adapter ({fault.message}): {LORA}, and see that it sees {handed.folder}."
            ) from None
        for old in self.adapters:
            try:
                await self.ask(client, "/v1/unload_lora_adapter", {"lora_name": old}, seconds=QUICK)
            except (Fault, NotServed):  # the server was restarted since
                continue
        self.adapters = [handed.name]

    async def draw(
        self, client: openai.AsyncOpenAI, prompt: Sequence[int], seed: int, settings: SampleSettings, *, seconds: float
    ) -> Completion:
        """A sample of a prompt; raises Fault where it fails, and InputError where it always will."""
        assert self.held is not None
        own = {"model": self.held.name if self.held.is_adapter else self.model, "cache_salt": self.held.name}
        body = {**settings.body, **own, "prompt": list(prompt)}
        for own_seed in settings.seeds(seed):
            try:
                answer = await self.ask(client, "/v1/completions", {**body, "seed": own_seed}, seconds=seconds)
            except NotServed as missing:  # or the adapter is gone, after a restart
                raise Fault(BROKEN, str(missing)) from None
            self.away, completion = None, settings.read(answer)
            if max(completion.tokens) < settings.vocabulary:
                return completion
        raise Fault(UNREADABLE, "tokens that the tokenizer does not have, again and again", passes=False)


class NotServed(Exception):
    """The server has nothing at that path, or no such model."""


class SampleSettings:
    """The settings that all requests of a call share, and the reading of their answers."""

    def __init__(self, policy: Policy, sampling: Sampling) -> None:
        self.sampling, self.vocabulary, self.name = sampling, policy.vocabulary, policy.name
        self.body: dict[str, Any] = {
            "max_tokens": sampling.max_new_tokens, "min_tokens": sampling.min_new_tokens,
            "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k, "min_p": 0.0,
            "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
            "ignore_eos": True, "stop_token_ids": list(policy.ends), "include_stop_str_in_output": True,
            "logprobs": 0, "return_token_ids": True,
        }  # fmt: skip
        if sampling.stop:
            self.body["stop"] = list(sampling.stop)

    def seeds(self, seed: int) -> Iterator[int]:
        """The seed, then others, for samples with a token that the output layer has and the tokenizer does not."""
        return ((seed + i) % 2**63 for i in range(AGAIN + 1))

    def read(self, answer: Any) -> Completion:
        """The sample in an answer; raises Fault where the answer has an unexpected form."""
        try:
            choice = answer["choices"][0]
            tokens, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            finish = choice["finish_reason"]
            if finish not in ("stop", "length"):
                raise Fault(BROKEN, f"a sample ended by {shorten(str(finish), SHOWN)}")
            if not 0 < len(tokens) == len(logprobs) <= self.sampling.max_new_tokens:
                raise ValueError(f"{len(tokens)} tokens and {len(logprobs)} log-probabilities")
            if not all(type(token) is int and 0 <= token < 2**31 for token in tokens):
                raise ValueError("a token that is not a token id")
            values = [float(logp) for logp in logprobs]
            if not all(math.isfinite(logp) and logp <= ROUNDING for logp in values):
                raise ValueError("a log-probability that is not valid")
        except (TypeError, KeyError, IndexError, ValueError) as error:
            shown = shorten(str(answer), SHOWN, placeholder=" ...")
            why = f"{type(error).__name__}: {error}; vLLM gives them by return_token_ids"
            raise Fault(UNREADABLE, f"no token ids with log-probabilities ({why}) in {shown}", passes=False) from None
        # At temperature 0 the token was certain, whatever probability the model gives it.
        known = Doubles(min(logp, 0.0) if self.sampling.temperature else 0.0 for logp in values)
        return Completion(Ints(tokens), known, "end" if finish == "stop" else "length")
