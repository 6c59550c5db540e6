"""A server that speaks vLLM's protocol, and draws by accord's own engine from the weights it is handed.

Each request is drawn by itself, so that `alone`, a sampler in this process that does the same, has the same samples bit
for bit. It can be started raw (log-probabilities before the temperature), with texts of tokens and no ids, without the
endpoints for weights, to keep its own, to die after so many samples, or to answer none before a gate is open.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from accord.engine.generate import generate
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.engine.sampling import Sampling, request_seeds
from accord.engine.trees import Branch, Tree, pack
from accord.records import Completion


def one(policy: Policy, prompt: Sequence[int], sampling: Sampling, seed: int) -> Completion:
    """A sample as the server draws it."""
    return generate(policy.network, [tuple(prompt)], 1, sampling, seeds=[seed], **policy.limits)[0][0]


def alone(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    n: int = 1,
    sampling: Sampling | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[Completion]]:
    """The sampler whose samples are the server's."""
    sampling = sampling or Sampling()
    seeds = request_seeds(prompts, n, sampling)
    drawn = [one(policy, prompts[i // n], sampling, seed) for i, seed in enumerate(seeds)]
    return [drawn[i : i + n] for i in range(0, len(drawn), n)]


class Vllm(ThreadingHTTPServer):
    """Serves the model of a folder until it is handed other weights. `asked` has every path and body that came."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, model: str, port: int = 0, **told: Any) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.policy, self.lock = load_model(model, dtype="float32"), threading.Lock()
        self.adapters: dict[str, Policy] = {}
        self.name, self.url = model, f"http://127.0.0.1:{self.server_port}"
        self.raw = self.fails = self.texts_only = False
        self.keeps = "nothing"
        self.is_dev = True
        self.dies_after: int | None = None
        self.gate: threading.Event | None = None
        self.longest = 10**6
        vars(self).update(told)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.drawn = 0
        self.is_dead = False
        self.open: set[Any] = set()

    def die(self) -> None:
        """Break off all that is under way and listen no more, as a killed process does."""
        self.is_dead = True
        threading.Thread(target=self.shutdown).start()
        self.socket.close()
        for connection in list(self.open):
            try:
                connection.shutdown(2)
            except OSError:
                continue

    def handle_error(self, *_: Any) -> None:
        """Nothing on the tests' output of a client that went away."""


class Handler(BaseHTTPRequestHandler):
    server: Vllm
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def answer(self, body: object, status: int = 200) -> None:
        sent = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def do_GET(self) -> None:
        if self.path == "/health":
            return self.answer("")
        card = {"id": self.server.name, "parent": None, "max_model_len": self.server.longest}
        self.answer({"data": [card, *({"id": name, "parent": card["id"]} for name in self.server.adapters)]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        paths: dict[str, Callable[[dict[str, Any]], object]] = {
            "/tokenize": self.tokenize,
            "/v1/completions": self.complete,
            "/v1/load_lora_adapter": self.load_adapter,
            "/v1/unload_lora_adapter": lambda asked: self.server.adapters.pop(asked["lora_name"]) and "",
        }
        if self.server.is_dev:
            paths |= {"/collective_rpc": self.reload, "/reset_prefix_cache": lambda _: {"success": True}}
        if self.path not in paths:
            return self.answer({"detail": "Not Found"}, 404)
        try:
            with self.server.lock:
                found = paths[self.path](body)
        except Exception as error:
            return self.answer({"error": {"message": str(error)}}, 500)
        if not self.server.is_dead:
            self.answer(found)

    def tokenize(self, body: dict[str, Any]) -> object:
        return {"tokens": self.server.policy.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]}

    def reload(self, body: dict[str, Any]) -> object:
        """Weights of the same shapes, as a file of safetensors has them."""
        assert body["method"] == "reload_weights"
        network = self.server.policy.network
        files = sorted(Path(body["kwargs"]["weights_path"]).glob("*.safetensors"))
        found = {name: weight for file in files for name, weight in load_file(file).items()}
        own = {name: weight for name, weight in network.state_dict().items() if name in found}
        assert found.keys() == own.keys()
        with torch.no_grad():
            for name, weight in own.items():
                if weight.shape != found[name].shape:
                    raise ValueError(f"{name} has another shape")
                if self.server.keeps not in name:
                    weight.copy_(found[name])
        return {"results": [None]}

    def load_adapter(self, body: dict[str, Any]) -> object:
        if body["lora_name"] in self.server.adapters:
            raise ValueError("has already been loaded")
        self.server.adapters[body["lora_name"]] = load_model(body["lora_path"], dtype="float32")
        return "Success"

    def complete(self, body: dict[str, Any]) -> object:
        server = self.server
        if server.gate:
            server.gate.wait(20)
        if server.fails:
            raise RuntimeError("no memory")
        policy = server.adapters.get(body["model"], server.policy)
        assert body["model"] in (server.name, *server.adapters)
        sampling = Sampling(
            body["max_tokens"], body["temperature"], body["top_k"], body["top_p"],
            min_new_tokens=body["min_tokens"], stop=tuple(body.get("stop", ())),
        )  # fmt: skip
        assert body["ignore_eos"] and tuple(body["stop_token_ids"]) == policy.ends
        said = one(policy, body["prompt"], sampling, body["seed"])
        logprobs = said.logprobs
        if server.raw:
            trees = pack([Tree(tuple(body["prompt"]), (Branch(said.tokens),))], 1000, policy.device)[0]
            logprobs = tuple(policy.log_probs(trees).tolist())
        server.drawn += 1
        if server.drawn == server.dies_after:
            server.die()
        finish = "stop" if said.stop == "end" else "length"
        said_of = {"token_logprobs": list(logprobs), "tokens": [f"token_id:{token}" for token in said.tokens]}
        choice = {"index": 0, "token_ids": list(said.tokens), "logprobs": said_of, "finish_reason": finish, "text": ""}
        if server.texts_only:
            del choice["token_ids"]
        return {"choices": [choice], "usage": {}}
