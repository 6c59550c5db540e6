"""Credentials in URLs: in no file of a run, and in no line that is said; and a run that goes on knows them."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from accord.console import without_secrets
from tests.commands.small import accord, save_model, write_jsonl
from tests.feedback.serving import serving


class Scores(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"rewards": [1, 2]}' if b"CANARY" not in body else b"")

    def log_message(self, *_: object) -> None:
        pass


def test_urls_without_what_is_secret_in_them() -> None:
    for text, shown in {
        "http://bob:pw@h/ok?api_key=S": "http://h/ok",
        "http://bob:p@w@h/ok": "http://h/ok",
        "mean(https://h/a?key=S, number) + 2 * http://k@h:8/b#c": "mean(https://h/a, number) + 2 * http://h:8/b",
        "ai:m@https://k@h/v1": "ai:m@https://h/v1",
        "runs/rm/model + 0.5 * number": "runs/rm/model + 0.5 * number",
    }.items():
        assert without_secrets(text) == shown


def test_a_run_keeps_no_credentials_and_knows_whether_they_are_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = save_model(tmp_path / "base")
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "the cat"}, {"prompt": "a dog"}])
    with serving(HTTPServer(("127.0.0.1", 0), Scores)) as server:
        at = f"127.0.0.1:{server.server_port}"
        secret = f"http://CANARY:CANARY2@{at}/ok?api_key=CANARY3"
        common = ["reinforce", "--model", base, "--data", data, "--out", tmp_path / "run", "--batch-size", "2"]
        common += ["--max-steps", "1", "--max-new-tokens", "2"]
        assert accord(*common, "--reward", f"{secret} + 0.5 * http://{at}/other?CANARY4") == 0
        assert accord(*common, "--reward", f"{secret} + 0.5 * http://{at}/other?CANARY4", "--resume") == 0
        assert accord(*common, "--reward", f"{secret} + 0.5 * http://{at}/other?CANARY5", "--resume") == 2
    printed = "".join(capfd.readouterr())
    assert "was run with another user, password or query in a URL of reward; resume it with the same" in printed
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert len(files) > 8 and not [file for file in files if b"CANARY" in file.read_bytes()] and "CANARY" not in printed
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["reward"] == f"http://{at}/ok + 0.5 * http://{at}/other"
    assert len(config["reward_url_sha256"]) == 8
