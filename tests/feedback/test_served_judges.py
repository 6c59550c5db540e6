"""AI judges that a server answers: what is read of its replies, keys, and files that describe judges."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from accord.cli.label import label
from accord.errors import InputError
from accord.feedback.ai import ai_judge
from accord.feedback.judge import BothOrders
from accord.feedback.named import as_measure, judge_named, only_compares, reward_named
from accord.feedback.reward import score_texts
from accord.prompting.served import Served
from accord.records import Comparison, Message, Verdict
from tests.feedback.serving import serving

CHAT = (Message("user", "May I?"),)
PAIR = Comparison(CHAT, (Message("assistant", "Yes, gladly."),), "No.")


class Server(ThreadingHTTPServer):
    """Replies to every question by `reply(question)`: the body of a choice, or a status."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.asked: list[tuple[str, str | None, Any]] = []
        self.reply: Any = None


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        answer = self.server.reply(body["messages"][0]["content"])
        status = answer if isinstance(answer, int) else 200
        refusal = {"error": {"message": f"not with {self.headers['Authorization']}"}}
        choice = {"choices": [answer]} if status == 200 else refusal
        data = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m"} | choice).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing on the tests' output."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    pytest.importorskip("openai")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SERVER_KEY", "secret-key")
    with serving(Server()) as running:
        yield running


def said(text: str, **chances: float) -> dict[str, Any]:
    """A choice of the reply `text`, with the probabilities of its first token where there are any."""
    message = {"role": "assistant", "content": text}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": message}
    if chances:
        top = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in chances.items()]
        choice["logprobs"] = {"content": [{"token": text[:1], "logprob": 0.0, "bytes": None, "top_logprobs": top}]}
    return choice


@pytest.mark.parametrize(
    ("reply", "first_wins"),
    [
        (said("A", A=0.6, B=0.2, The=0.2), 0.75),
        (said("B"), 0.0),
        (said("(A)"), 1.0),
        (said("**B**, since it is kind"), 0.0),
        (said("Answer: A"), 1.0),
        (said("A better answer is B"), None),
        (said("Both are fine"), None),
        (said(""), None),
    ],
)
def test_a_served_reply_is_read(server: Server, reply: Any, first_wins: float | None) -> None:
    server.reply = lambda text: reply
    [found] = ai_judge(f"ai:m@{server.url}", overrides={"key": "SERVER_KEY"})([PAIR])
    assert found.first_wins == (None if first_wins is None else pytest.approx(first_wins))
    [(path, key, body)] = server.asked
    assert (path, key) == ("/v1/chat/completions", "Bearer secret-key")
    assert body["messages"][0]["content"].endswith("Reply with the letter A or B, and nothing else.")
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 8)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 5)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        (said("7", **{"7": 0.6, "8": 0.2, "The": 0.2}), 7.25),
        (said("7", **{"7": 0.5, "1": 0.3, "10": 0.2}), (3.5 + 0.3 + 2) / 1.0),
        (said("7", **{"7": 0.6, "1": 0.4}), 7.0),  # 1, or 10 in two tokens: what it says counts
        (said("7/10"), 7.0),
        (said("a 7"), None),
    ],
)
def test_a_served_mark_is_read(server: Server, tmp_path: Path, reply: Any, score: float | None) -> None:
    server.reply = lambda text: reply
    file = tmp_path / "judge.yaml"
    file.write_text(f"model: m\nserver: {server.url}\nmethod: score\n")
    found = score_texts(reward_named(str(file)), [("Why?", "so")])
    assert found.tolist() == pytest.approx([float("nan") if score is None else score], nan_ok=True)
    assert server.asked[0][2]["messages"][0]["content"].endswith("from 1 to 10, and nothing else.")


def test_questions_that_fail_are_invalid_and_a_server_that_fails_all_is_named(server: Server) -> None:
    server.reply = lambda text: 500 if "bad" in text else said("A")
    judge = ai_judge(f"ai:m@{server.url}", overrides={"retries": 0, "key": "SERVER_KEY"})
    bad = Comparison("Why?", "bad", "b")
    failed, good = judge([bad, PAIR])
    assert good == Verdict(1.0)
    assert failed == Verdict(None, "server error (5xx): 500 not with Bearer ***")
    with pytest.raises(InputError, match=f"m at {server.url} gave no answer .*; see the judge's settings"):
        judge([bad, bad])


def test_what_is_given_goes_before_the_file_though_it_be_the_default(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text(f"model: m\nserver: {server.url}\nretries: 0\nparallel: 2\n")
    model = ai_judge(str(file), overrides={"parallel": 8}).asker.model
    assert isinstance(model, Served)
    assert (model.limits.parallel, model.limits.retries) == (8, 0)


def test_a_file_cannot_ask_for_any_key(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.reply = lambda text: said("A")
    file = tmp_path / "judge.yaml"
    file.write_text(f"model: m\nserver: {server.url}\nkey: SERVER_KEY\n")
    with pytest.raises(InputError, match="asks for the key in SERVER_KEY: say --key SERVER_KEY to allow that, or call"):
        ai_judge(str(file))
    assert ai_judge(str(file), overrides={"key": "SERVER_KEY"})([PAIR]) == [Verdict(1.0)]
    file.write_text(f"model: m\nserver: {server.url}\nkey: ACCORD_SERVER_KEY\n")
    monkeypatch.setenv("ACCORD_SERVER_KEY", "another")
    ai_judge(str(file))([PAIR])
    assert [key for _, key, _ in server.asked] == ["Bearer secret-key", "Bearer another"]
    file.write_text(f"model: m\nserver: {server.url}\ninsecure: true\n")
    with pytest.raises(InputError, match="asks for insecure, which only the command line allows"):
        ai_judge(str(file))


def test_a_refused_key_stops_the_work_and_is_not_told(server: Server) -> None:
    server.reply = lambda text: 401
    with pytest.raises(InputError, match="does not take the key in SERVER_KEY: set it to the server's") as caught:
        ai_judge(f"ai:m@{server.url}", overrides={"key": "SERVER_KEY"})([PAIR])
    assert "secret-key" not in str(caught.value)


def test_people_may_be_replaced_by_a_judge_that_favors_a_position(server: Server, tmp_path: Path) -> None:
    """It gives A odds of 3 too many; both orders together find the kind answer, at odds of 2 from 6 and 2/3."""

    def reply(text: str) -> dict[str, Any]:
        kind_first = text.index("gladly") < text.index("No.")
        return said("A", A=6 / 7, B=1 / 7) if kind_first else said("A", A=0.6, B=0.4)

    server.reply = reply
    file = tmp_path / "judge.yaml"
    file.write_text(f"model: m\nserver: {server.url}\nprinciples: [Be kind., Be brief.]\nparallel: 2\n")
    judge = judge_named(str(file))
    assert only_compares(judge)
    assert only_compares(as_measure(str(file)))
    both = BothOrders(judge)([PAIR, Comparison(CHAT, "No.", "Yes, gladly.")])
    assert [v.first_wins for v in both] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    rows = [{"prompt": "May I?", "completion": c} for c in ("No.", "Yes, gladly.")]
    samples = tmp_path / "samples.jsonl"
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    label(str(samples), str(tmp_path / "pairs.jsonl"), judge=f"ai:m@{server.url}")
    row = json.loads((tmp_path / "pairs.jsonl").read_text())
    assert (row["chosen"], row["rejected"]) == ("Yes, gladly.", "No.")
