"""A reward from a server on this machine: what is sent, what is read, and what each failure is called."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import torch

from accord.errors import InputError
from accord.feedback.named import reward_named
from accord.feedback.remote import RemoteReward
from accord.feedback.reward import allow
from tests.feedback.samples import CHAT, sample
from tests.feedback.serving import serving

SAMPLES = [sample("six", 0, answer=6), sample("seven", 4, prompt=CHAT, id="b")]


class Server(HTTPServer):
    """Answers each request with the next of `answers`, the last one again and again; a number is a status."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/score"
        self.answers: list[Any] = []
        self.head = b""
        """What comes before each answer, slowly."""
        self.asked: list[Any] = []


@dataclass
class Drip:
    """A byte, and then a wait."""

    text: bytes
    seconds: float


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, self.headers["Content-Type"], json.loads(body)))
        with suppress(ConnectionError):
            for byte in self.server.head:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)
        answer = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        if callable(answer):
            answer = answer()
        self.send_response(answer if isinstance(answer, int) else 200)
        self.end_headers()
        with suppress(ConnectionError):  # who asked has had enough
            if isinstance(answer, Drip):
                for byte in answer.text:
                    self.wfile.write(bytes([byte]))
                    time.sleep(answer.seconds)
            elif not isinstance(answer, int):
                self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    def log_message(self, *_: Any) -> None:
        """Nothing on the tests' output."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Server()) as running:
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is slept between attempts, without sleeping."""
    slept: list[float] = []
    monkeypatch.setattr("accord.feedback.remote.time.sleep", slept.append)
    return slept


def test_lists_go_out_and_numbers_come_back(server: Server) -> None:
    server.answers = [{"rewards": [0.25, True]}]
    rewards = RemoteReward(server.url)(SAMPLES)
    assert rewards.dtype == torch.float32 and rewards.tolist() == [0.25, 1.0]
    assert server.asked == [
        (
            "/score",
            "application/json",
            {
                "prompts": ["how much ?", [{"role": "user", "content": "how much ?"}]],
                "completions": ["six", [{"role": "assistant", "content": "seven"}]],
                "columns": {"answer": [6, None], "id": [None, "b"]},
            },
        )
    ]


def test_any_text_arrives_as_it_is(server: Server) -> None:
    server.answers = [{"rewards": [0]}]
    RemoteReward(server.url)([sample('é "\n 猫 \x00')])
    assert server.asked[0][2]["completions"] == ['é "\n 猫 \x00']


def test_no_samples_ask_nothing(server: Server) -> None:
    assert RemoteReward(server.url)([]).shape == (0,) and server.asked == []


def test_a_busy_server_is_asked_again(server: Server, waits: list[float]) -> None:
    server.answers = [503, 500, {"rewards": [1, 2]}]
    assert RemoteReward(server.url)(SAMPLES).tolist() == [1.0, 2.0]
    assert len(server.asked) == 3 and waits == [1, 2]


def test_a_busy_server_is_not_asked_for_ever(server: Server, waits: list[float]) -> None:
    server.answers = [503]
    with pytest.raises(InputError, match=r"^http://127.*/score answered with the status 503 \(Service Unavailable\)"):
        RemoteReward(server.url, retries=3)(SAMPLES)
    assert len(server.asked) == 4 and waits == [1, 2, 4]


def test_a_request_that_is_refused_is_not_repeated(server: Server) -> None:
    server.answers = [404]
    with pytest.raises(InputError, match=r"/score answered with the status 404 \(Not Found\); check that the server"):
        RemoteReward(server.url)(SAMPLES)
    assert len(server.asked) == 1


def test_a_slow_server_is_given_up(server: Server) -> None:
    server.answers = [lambda: time.sleep(0.4) or 500]
    with pytest.raises(InputError, match=r"/score cannot be reached \((timed out|it takes more than 0\.05 seconds)\)"):
        RemoteReward(server.url, timeout=0.05, retries=0)(SAMPLES)


def test_an_answer_that_drips_is_given_up(server: Server) -> None:
    """Each byte comes in time, and all of them would take 20 s."""
    server.answers = [Drip(b'{"rewards": [1, 2]} ' * 10, 0.1)]
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"/score cannot be reached \((it|the answer) takes more than 0\.3 seconds\)"):
        RemoteReward(server.url, timeout=0.3, retries=0)(SAMPLES)
    assert time.monotonic() - begun < 5


def test_a_head_that_drips_is_given_up(server: Server) -> None:
    """Each byte of it comes in time, and all of them would take 20 s."""
    server.answers, server.head = [{"rewards": [1, 2]}], b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"/score cannot be reached \(it takes more than 0\.3 seconds\)"):
        RemoteReward(server.url, timeout=0.3, retries=0)(SAMPLES)
    assert time.monotonic() - begun < 5


def test_an_answer_without_end_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accord.feedback.remote.MOST_ANSWERED", 10_000)
    server.answers = [b" " * 20_000]
    with pytest.raises(InputError, match=r"/score answered more than 10,000 bytes, too many to be rewards"):
        RemoteReward(server.url)(SAMPLES)
    server.answers = [b" " * 5_000 + b'{"rewards": [1, 2]}']
    assert RemoteReward(server.url)(SAMPLES).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"[" * 100_000, r"answered b'\[.*, which is not JSON$"),
        (b"<html>", "answered b'<html>', which is not JSON$"),
        (b"\xff", r"answered b'\\xff', which is not JSON$"),
        ({"scores": [1, 2]}, r'must answer {"rewards": \[...\]}, not {"scores": \[1, 2\]}$'),
        ([1, 2], r'must answer {"rewards": \[...\]}, not \[1, 2\]$'),
        ({"rewards": 1}, r'must answer {"rewards": \[...\]}, not {"rewards": 1}$'),
        ({"rewards": [1]}, "returned 1 values for 2 completions of rows 1, 5; let it return one for each$"),
        ({"rewards": [1, None]}, r"returned None for row 5 \(prompt 'user: how much \?', completion 'seven'\); let"),
        ({"rewards": [float("nan"), 1]}, "returned nan for row 1"),
        ({"rewards": [1, "2"]}, "returned '2' for row 5"),
    ],
)
def test_what_is_no_answer_is_told(answer: Any, message: str, server: Server) -> None:
    server.answers = [answer]
    with pytest.raises(InputError, match=f"^{server.url} {message}"):
        RemoteReward(server.url)(SAMPLES)
    assert len(server.asked) == 1


def test_no_server_is_told(server: Server, waits: list[float]) -> None:
    server.server_close()
    with pytest.raises(InputError, match=r"^http://127.*/score cannot be reached \(.*refused\); check that the"):
        RemoteReward(server.url)(SAMPLES)
    assert waits == [1, 2]


@pytest.mark.parametrize("value", [object(), float("nan")])
def test_a_column_that_json_cannot_hold_is_told(value: object, server: Server) -> None:
    with pytest.raises(InputError, match="^a column cannot be sent to .* as JSON"):
        RemoteReward(server.url)([sample("six", when=value)])
    assert server.asked == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RemoteReward("ftp://here"), "a reward's server is reached by http:// or https://, not by ftp://here"),
        (lambda: RemoteReward("file:///etc/passwd"), "not by file:///etc/passwd"),
        (lambda: RemoteReward("http://here", timeout=0), "timeout must be positive and retries not negative"),
        (lambda: RemoteReward("http://here", retries=-1), "timeout must be positive and retries not negative"),
    ],
)
def test_what_cannot_be_asked(make: Callable[[], RemoteReward], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


class Locked(BaseHTTPRequestHandler):
    """Notes what authorization it is sent, and refuses in words that quote it; its path says what else it does."""

    server: Any

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.sent.append((self.path, self.headers["Authorization"]))
        self.send_response(302 if self.path == "/elsewhere" else 200)
        self.send_header("Location", f"http://localhost:{self.server.server_port}/ok")
        self.end_headers()
        if self.path != "/elsewhere":
            quoted = f"no {self.headers['Authorization']} {self.path}".encode()
            self.wfile.write(quoted if "bad" in self.path else b'{"rewards": [1, 2]}')

    def do_GET(self) -> None:
        self.server.sent.append((self.path, self.headers["Authorization"]))
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def locked() -> Iterator[Any]:
    server = HTTPServer(("127.0.0.1", 0), Locked)
    server.sent = []  # type: ignore[attr-defined]
    with serving(server):
        yield server


def test_a_server_is_sent_the_key_that_a_variable_holds_and_nobody_else_is(
    locked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "SECRET")
    at = f"http://127.0.0.1:{locked.server_port}"
    reward = reward_named(f"0.5 * {at}/ok")
    allow([reward], None, "MY_KEY")
    assert reward(SAMPLES).tolist() == [0.5, 1.0] and locked.sent == [("/ok", "Bearer SECRET")]
    moved = RemoteReward(f"{at}/elsewhere", retries=0)
    allow([moved], None, "MY_KEY")
    with pytest.raises(InputError, match="answered with the status 404"):
        moved(SAMPLES)
    assert locked.sent[1:] == [("/elsewhere", "Bearer SECRET"), ("/ok", None)]


def test_users_passwords_and_queries_are_in_no_message(locked: Any) -> None:
    at = f"127.0.0.1:{locked.server_port}"
    reward = RemoteReward(f"http://bob:p%40w@{at}/bad?api_key=HIDDEN")
    with pytest.raises(InputError) as refused:
        reward(SAMPLES)
    assert locked.sent == [("/bad?api_key=HIDDEN", "Basic Ym9iOnBAdw==")]  # of bob:p@w
    assert str(refused.value) == f"http://{at}/bad answered b'no Basic *** /bad?***', which is not JSON"
    both = reward_named(f"http://bob:pw@{at}/ok?api_key=HIDDEN + number")
    assert list(both.members) == [f"http://{at}/ok", "number"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("http://h.example/ok", "MY_KEY", "http://h.example/ok would be sent the key in MY_KEY as plain text"),
        ("http://bob:pw@h.example/ok", None, "http://h.example/ok would be sent the password as plain text"),
        ("https://h.example/ok", "NONE", "no environment variable NONE, which --reward-key names"),
        ("https://h.example/ok", "OPENAI_API_KEY", "for api.openai.com, and https://h.example/ok is another server"),
        ("number", "MY_KEY", "--reward-key MY_KEY is for a server that gives rewards; there are none"),
        ("https://a.example/x + https://b.example/x", "MY_KEY", "; there are 2"),
    ],
)
def test_keys_that_are_not_sent(url: str, key: str | None, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "SECRET")
    monkeypatch.delenv("NONE", raising=False)
    with pytest.raises(InputError, match=re.escape(message)):
        allow([reward_named(url)], None, key)
    if "plain" in message:
        allow([reward_named(url)], None, key, insecure=True)
