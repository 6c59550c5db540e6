"""A server of two models that speaks the OpenAI API, or fails in the ways a test asks for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Fake(HTTPServer):
    """A server of the models `small` and `large`, which says how often it was asked, and remembers what."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.names, self.key, self.pieces = ["small", "large"], "", ["well", " \x1b[2J", "said"]
        self.finish: str | None = "stop"
        self.breaks = False
        self.raw: list[bytes] = []
        """What it answers in place of all that, with a pause after each."""
        self.pause = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Fake

    def log_message(self, *_: object) -> None: ...

    def reply(self, code: int, kind: str, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def refuse(self, code: int, message: str) -> None:
        self.reply(code, "application/json", json.dumps({"error": {"message": message}}))

    def allowed(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.server.key and given != self.server.key:
            self.refuse(401, f"wrong key {given}")
            return False
        return True

    def do_GET(self) -> None:
        if self.server.names == ["page"]:
            self.reply(200, "text/html", "<html></html>")
        elif self.server.names == ["loading"]:
            self.refuse(503, "Loading model")
        elif self.allowed():
            data = [{"id": name, "object": "model", "created": 0, "owned_by": "me"} for name in self.server.names]
            self.reply(200, "application/json", json.dumps({"object": "list", "data": data}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        self.server.asked.append(body)
        if self.server.raw:
            for part in self.server.raw:
                with suppress(OSError):  # whoever asked has had enough
                    self.wfile.write(part)
                    time.sleep(self.server.pause)
        elif body["model"] not in self.server.names:
            self.refuse(404, "no such model")
        elif len(body["messages"]) > 5:
            self.refuse(400, "the context has 9 tokens")
        else:
            self.reply(200, "text/event-stream", "".join(f"data: {line}\n\n" for line in self.lines(body)))

    def lines(self, body: dict[str, Any]) -> Iterator[str]:
        def chunk(delta: dict[str, str], finish: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            of = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
            return json.dumps({**of, "choices": [choice]})

        yield chunk({"role": "assistant", "content": ""})
        for piece in self.server.pieces:
            yield chunk({"content": piece + (f" {body['model']}" if piece == "said" else "")})
        if self.server.breaks:
            yield json.dumps({"error": {"message": "out of memory"}})
            return
        yield chunk({}, self.server.finish)
        yield "[DONE]"
