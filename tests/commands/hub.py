"""A Hub on this machine for the real client: the part of its HTTP API that takes models, with LFS and xet storage."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow

from tests.feedback.serving import serving

TOKEN = "hf_of_nobody"


@dataclass
class Hub:
    """What it was asked, and what it has: files by repository and branch, and which repositories are private."""

    address: str = ""
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    """Contents by their SHA-256."""
    asked: list[str] = field(default_factory=list)
    refuses: dict[str, int] = field(default_factory=dict)
    """Statuses to answer with, by a pattern of the request."""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """The status, and the object that is sent back."""
        self.asked.append(f"{method} {path}")
        for pattern, code in self.refuses.items():
            if re.search(pattern, f"{method} {path}"):
                return code, {"error": "so it was decided"}
        if match := re.match(r"/api/models/([^/]+/[^/]+)(?:/(\S+))?", path):
            return self.of_model(match[1], (match[2] or "").split("/"), body)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.private:
                return 409, {"error": "You already created this model repo", "url": f"{self.address}/{name}"}
            self.private[name] = asked.get("visibility") == "private"
            self.files[name, "main"] = {}
            return 200, {"url": f"{self.address}/{name}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith(".git/info/lfs/objects/batch"):
            upload = {"href": f"{self.address}/lfs"}
            objects = [{**one, "actions": {"upload": upload}} for one in json.loads(body)["objects"]]
            return 200, {"transfer": "basic", "objects": objects}
        if path == "/lfs":
            self.stored[hashlib.sha256(body).hexdigest()] = body
            return 200, {}
        if re.match(r"/cas/v1/xorbs/default/(\w+)", path):
            content = of_xorb(body)  # of one file, where no more is uploaded at a time
            self.stored[hashlib.sha256(content).hexdigest()] = content
            return 200, {"was_inserted": True}
        if re.match(r"/cas/(v1/)?shards", path):
            return 200, {"result": 1}
        return 404, {"error": "not found"}

    def of_model(self, name: str, rest: list[str], body: bytes) -> tuple[int, Any]:
        match rest:
            case [""] if name in self.private:
                return 200, {"id": name, "private": self.private[name], "sha": "0" * 40}
            case ["branch", branch]:
                if (name, branch) in self.files:
                    return 409, {"error": "there is one"}
                self.files[name, branch] = {}
                return 200, {}
            case ["preupload", branch] if (name, branch) in self.files:
                paths = [one["path"] for one in json.loads(body)["files"]]
                modes = {True: "lfs", False: "regular"}
                listed = [{"path": p, "uploadMode": modes[p.endswith("safetensors")]} for p in paths]
                return 200, {"files": [{**one, "shouldIgnore": False} for one in listed]}
            case ["xet-write-token", _]:
                return 200, {"casUrl": f"{self.address}/cas", "exp": int(time.time()) + 3600, "accessToken": "x"}
            case ["commit", branch] if (name, branch) in self.files:
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        self.files[name, branch][value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        self.files[name, branch][value["path"]] = self.stored.get(value["oid"], value["oid"].encode())
                return 200, {"commitUrl": f"{self.address}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40}
        return 404, {"error": "not found"}


def of_xorb(xorb: bytes) -> bytes:
    """The content of xet's container: chunks, each with a version, 3 bytes of size, its coding, and its true size."""
    found, at = b"", 0
    while at < len(xorb):
        size, coding, true_size = (int.from_bytes(xorb[at + a : at + b], "little") for a, b in ((1, 4), (4, 5), (5, 8)))
        chunk = xorb[at + 8 : at + 8 + size]
        if coding:  # LZ4, of the chunk, or (2) of its bytes in the order of their numbers modulo 4
            chunk = pyarrow.decompress(chunk, decompressed_size=true_size, codec="lz4").to_pybytes()
        if coding == 2:
            order = sorted(range(true_size), key=lambda i: i % 4)
            chunk = bytes(byte for _, byte in sorted(zip(order, chunk, strict=True)))
        found, at = found + chunk, at + 8 + size
    return found


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """A Hub that answers whoever has its token, as long as the context lasts."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            known = {f"Bearer {TOKEN}", "Bearer x"}
            if self.headers.get("Authorization") in known or self.path == "/lfs":
                code, found = hub.answer(self.command, self.path, body)
            else:
                code, found = 401, {"error": "Invalid credentials in Authorization header"}
            sent = json.dumps(found).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(sent)

        do_GET = do_POST = do_PUT = do_HEAD = reply

        def log_message(self, *_: Any) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        yield hub
