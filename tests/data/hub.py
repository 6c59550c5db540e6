"""A Hub on this machine for the real clients: what huggingface_hub and datasets ask of it when they read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

from tests.feedback.serving import serving

TOKEN = "hf_of_nobody"
Answer: TypeAlias = tuple[int, dict[str, str], bytes]
"""A status, headers and a body."""


def commit_of(revision: str) -> str:
    """The commit that a branch or a tag is at; a commit is itself."""
    return revision if re.fullmatch(r"[0-9a-f]{40}", revision) else hashlib.sha1(revision.encode()).hexdigest()


@dataclass
class Hub:
    """What it has, and what it was asked."""

    address: str = ""
    files: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """Files by path, by branch, by repository, as `models/OWNER/NAME` and `datasets/OWNER/NAME`."""
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    broken: dict[str, int] = field(default_factory=dict)
    """Files of which a connection gives so many bytes and then ends, by path."""
    status: int = 0
    """What it answers to all, where it is not 0."""
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, target: str, body: bytes, token: str | None) -> Answer:
        self.asked.append(f"{method} {target}")
        if self.status:
            return self.status, {}, b"{}"
        url = urlsplit(target)
        kinds = "models|datasets"
        if match := re.match(
            rf"/api/({kinds})/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?$", url.path
        ):
            kind, name, what, revision, under = match.groups()
            return self._open(f"{kind}/{name}", revision or "main", token) or self._listed(
                f"{kind}/{name}", what or "revision", revision or "main", under or "", url.query, body
            )
        if match := re.match(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", url.path):
            kind, name, revision, path = match.groups()
            repo = f"{'datasets' if kind else 'models'}/{name}"
            return self._open(repo, revision, token, whole=True) or self._file(repo, revision, path)
        return 404, {}, b'{"error": "not found"}'

    def _branch(self, repo: str, revision: str) -> dict[str, bytes] | None:
        return next((held for at, held in self.files[repo].items() if revision in (at, commit_of(at))), None)

    def _open(self, repo: str, revision: str, token: str | None, *, whole: bool = False) -> Answer | None:
        """What is answered where the repository is not to be read by whoever asks."""
        is_known = token == f"Bearer {TOKEN}"
        if repo not in self.files or (repo in self.private and not is_known):
            return (
                (404 if is_known else 401),
                {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"},
                b"",
            )
        if repo in self.gated and whole:
            message = f"Access to {repo} is restricted. You must be authenticated to access it."
            return (403 if is_known else 401), {"X-Error-Code": "GatedRepo", "X-Error-Message": message}, b""
        if self._branch(repo, revision) is None:
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"}, b""
        return None

    def _listed(self, repo: str, what: str, revision: str, under: str, query: str, body: bytes) -> Answer:
        files = self._branch(repo, revision) or {}
        entries: list[dict[str, Any]] = [
            {"type": "file", "path": path, "size": len(held), "oid": hashlib.sha1(held).hexdigest()}
            for path, held in sorted(files.items())
        ]
        if what == "paths-info":
            form = body.decode()
            asked = json.loads(form)["paths"] if form.startswith("{") else parse_qs(form).get("paths", [])
            found: Any = [entry for entry in entries if entry["path"] in asked]
            found += [
                {"type": "directory", "path": path, "oid": "0" * 40}
                for path in asked
                if any(entry["path"].startswith(f"{path}/") for entry in entries)
            ]
        elif what == "tree":
            within = [entry for entry in entries if not under or entry["path"].startswith(f"{under}/")]
            depth = under.count("/") + 1 if under else 0
            folders = sorted(
                {"/".join(e["path"].split("/")[: depth + 1]) for e in within if e["path"].count("/") > depth}
            )
            is_deep = parse_qs(query).get("recursive", ["false"])[0].lower() == "true"
            found = [e for e in within if is_deep or e["path"].count("/") == depth]
            found += [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders]
            if not found and under:
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
        else:
            found = {
                "id": repo.partition("/")[2], "sha": commit_of(revision), "private": repo in self.private, "tags": [],
                "gated": "manual" if repo in self.gated else False,
                "siblings": [{"rfilename": entry["path"]} for entry in entries],
            }  # fmt: skip
        return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()

    def _file(self, repo: str, revision: str, path: str) -> Answer:
        files = self._branch(repo, revision) or {}
        headers = {"X-Repo-Commit": commit_of(revision)}
        if path not in files:
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b""
        return (
            200,
            {**headers, "ETag": f'"{hashlib.sha1(files[path]).hexdigest()}"', "Accept-Ranges": "bytes"},
            files[path],
        )


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """A Hub, as long as the context lasts."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, headers, sent = hub.answer(self.command, self.path, body, self.headers.get("Authorization"))
            ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if ranged and code == 200:
                first, last = int(ranged[1]), int(ranged[2] or len(sent) - 1)
                headers["Content-Range"] = f"bytes {first}-{min(last, len(sent) - 1)}/{len(sent)}"
                code, sent = 206, sent[first : last + 1]
            self.send_response(code)
            for key, value in {**headers, "Content-Length": str(len(sent))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            most = next((n for path, n in hub.broken.items() if path in self.path and "/resolve/" in self.path), None)
            self.wfile.write(sent[:most])
            if most is not None and most < len(sent):
                self.close_connection = True

        do_GET = do_POST = do_HEAD = reply

        def log_message(self, *_: Any) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        yield hub
