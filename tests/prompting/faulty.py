"""A server that speaks OpenAI's protocol, and fails in every way there is when it is told to."""

from __future__ import annotations

import gzip
import json
import math
import socket
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Told = Callable[[str, int], str]
"""What is done with a prompt the nth time it comes, from 1: the name of a fault, or `text:...`, or nothing."""


def nothing(prompt: str, time: int) -> str:
    return ""


class Faulty(ThreadingHTTPServer):
    """Replies A to everything, but where `told` says otherwise; remembers what it was asked, and when."""

    daemon_threads = True

    def __init__(self, told: Told = nothing, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.told, self.seen = told, Counter[str]()
        self.asked: list[tuple[float, str, dict[str, Any]]] = []
        self.answered: list[str] = []
        self.encodings = set[str]()
        self.usage: dict[str, int] | None = {"prompt_tokens": 10, "completion_tokens": 2}
        self.tops: dict[str, float] = {}
        self.now = self.most = 0
        self.lists_slowly = False

    def handle_error(self, *_: Any) -> None:
        """Nothing on the tests' output of a client that went away."""


class Handler(BaseHTTPRequestHandler):
    server: Faulty
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def send(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.server.lists_slowly:
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b" ")
                time.sleep(0.05)
            return
        self.send(200, json.dumps({"data": [{"id": name} for name in ("small", "large")]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        self.server.asked.append((time.monotonic(), self.headers["Authorization"], body))
        self.server.encodings.add(self.headers["Accept-Encoding"])
        self.server.seen[prompt] += 1
        self.server.now += 1
        self.server.most = max(self.server.most, self.server.now)
        try:
            self.reply(prompt, body, self.server.told(prompt, self.server.seen[prompt]))
        except OSError:
            pass
        finally:
            self.server.now -= 1

    def reply(self, prompt: str, body: dict[str, Any], fault: str) -> None:
        text = fault.removeprefix("text:") if fault.startswith("text:") else "A"
        content = self.content(body, text)
        match fault.split(";")[0]:
            case "html":
                self.send(200, b"<html>hello", "text/html")
            case "garbage":
                self.send(200, b'{"choices": [\xff')
            case "nothing":
                self.send(200, b'{"id": "1"}')
            case "strange":
                self.send(200, b'{"choices": ["A"], "usage": 3}')
            case "null":
                self.send(200, content.replace(b'"A"', b"null").replace(b'"stop"', b'"tool_calls"'))
            case "half":
                self.send(200, content[: len(content) // 2], **{"Content-Length": str(len(content))})
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            case "packed":
                self.send(200, gzip.compress(content), **{"Content-Encoding": "gzip"})
            case "drip":
                self.send(200, b"", **{"Content-Length": str(len(content))})
                for i in range(len(content)):
                    self.wfile.write(content[i : i + 1])
                    self.wfile.flush()
                    time.sleep(0.1)
            case "silent":
                time.sleep(3)
                self.close_connection = True
            case status if status.isdigit():
                _, *more = fault.split(";")
                given = {"message": f"no, {self.headers['Authorization']}", "code": more[1] if more[1:] else None}
                wait = {"Retry-After": more[0]} if more and more[0] != "-" else {}
                self.send(int(status), json.dumps({"error": given}).encode(), **wait)
            case _:
                self.send(200, content)
                self.server.answered.append(prompt)

    def content(self, body: dict[str, Any], text: str) -> bytes:
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if text.endswith("...") else "stop"}
        tops = [(token, math.log(p)) for token, p in self.server.tops.items()]
        if "messages" in body:
            choice["message"] = {"role": "assistant", "content": text}
            steps = [{"token": t, "logprob": 0.0, "top_logprobs": []} for t in text.split("|")[:-1]]
            top = [{"token": token, "logprob": p} for token, p in tops]
            steps.append({"token": text.split("|")[-1], "logprob": 0.0, "top_logprobs": top})
            choice["message"]["content"] = text.replace("|", "")
            choice["logprobs"] = {"content": steps} if body.get("logprobs") and tops else None
        else:
            choice["text"] = text
            choice["logprobs"] = {"tokens": [text], "top_logprobs": [dict(tops)]} if "logprobs" in body else None
        return json.dumps({"id": "1", "choices": [choice], "usage": self.server.usage}).encode()
