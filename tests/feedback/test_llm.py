"""An AI judge: what it is asked, the probabilities of its letters, and a server that speaks OpenAI's protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from accord.cli.label import label
from accord.data.chat import encode_prompt
from accord.engine.models import Policy
from accord.errors import InputError
from accord.feedback.ai import AIJudge, JudgeConfig, Local, Served, question, verdict
from accord.feedback.judge import BothOrders
from accord.feedback.named import as_measure, judge_named, only_compares, reward_named
from accord.records import Comparison, Message, Verdict
from tests.feedback.serving import serving

CHAT = (Message("user", "May I?"),)
PAIR = Comparison(CHAT, (Message("assistant", "Yes, gladly."),), "No.")


def test_the_letters_probabilities_are_the_verdict() -> None:
    assert verdict(0.03, 0.01) == Verdict(0.75)
    unclear = verdict(0.004, 0.001)
    assert unclear.first_wins is None
    assert unclear.reason == "the judge gives the letters A and B a probability of 0.005 together"


def test_every_principle_is_a_question_and_the_mean_of_the_valid_ones_counts() -> None:
    asked: list[str] = []

    def choose(questions: list[str]) -> list[Verdict]:
        asked.extend(questions)
        return [Verdict(0.9), Verdict(None, "silence"), Verdict(0.5), *[Verdict(None, "silence")] * 3]

    judge = AIJudge(choose, ["Be kind.", "Be brief.", "Be true."])
    first, second = judge([PAIR, Comparison("Why?", "a", "b")])
    assert first.first_wins == pytest.approx(0.7)
    assert second == Verdict(None, "silence")
    assert [text.splitlines()[2] for text in asked] == ["Be kind.", "Be brief.", "Be true."] * 2
    assert "[Conversation]\nuser: May I?\n" in asked[0]
    assert "[Answer A]\nYes, gladly.\n\n[Answer B]\nNo.\n" in asked[0]
    assert "[Conversation]\nWhy?\n" in asked[3]


def test_many_comparisons_are_asked_in_parts_that_are_told() -> None:
    told: list[Any] = []

    @contextmanager
    def counting(title: str, total: int) -> Iterator[Any]:
        told.append((title, total))
        yield told.append

    judge = AIJudge(lambda questions: [Verdict(len(q) % 100 / 100) for q in questions], ["Be kind.", "Be brief."])
    pairs = [Comparison("Why?", "a" * i, "b") for i in range(130)]
    silent = judge(pairs)
    judge.counting = counting
    assert judge(pairs) == silent == [judge([pair])[0] for pair in pairs]
    assert told[:4] == [("judge", 130), 64, 64, 2]


@pytest.mark.parametrize("principles", [[], [" "], [3]])
def test_a_judge_has_principles(principles: list[Any]) -> None:
    with pytest.raises(InputError, match="principles are a list of sentences"):
        AIJudge(lambda questions: [], principles)


def test_a_model_at_hand_gives_what_transformers_gives(smollm2: Policy) -> None:
    texts = [question("Be kind.", PAIR), question("Be brief.", Comparison("2 + 2?", "4", "It is 5, I think."))]
    verdicts = Local(smollm2)(texts)
    letters = [smollm2.tokenizer.convert_tokens_to_ids(letter) for letter in "AB"]
    for text, found in zip(texts, verdicts, strict=True):
        tokens = torch.tensor([encode_prompt(smollm2.tokenizer, (Message("user", text),))])
        with torch.no_grad():
            p = smollm2.network(tokens).logits[0, -1].double().softmax(0)[letters]
        assert found.first_wins == pytest.approx(float(p[0] / p.sum()), abs=1e-5)


def test_the_example_is_a_judge(smollm2: Policy) -> None:
    judge = judge_named(str(Path(__file__).parents[2] / "examples" / "judge.yaml"))
    assert isinstance(judge, AIJudge) and len(judge.principles) == 2
    [found], [helpful] = judge([PAIR]), AIJudge(Local(smollm2), judge.principles[:1])([PAIR])
    [honest] = AIJudge(Local(smollm2), judge.principles[1:])([PAIR])
    assert found.first_wins == pytest.approx((helpful.first_wins + honest.first_wins) / 2, abs=1e-6)  # type: ignore[operator]


def test_a_question_too_long_has_no_answer(smollm2: Policy) -> None:
    short, long = question("Be kind.", PAIR), question("Be kind.", Comparison("Why?", "no " * 9000, "b"))
    judged, unread = Local(smollm2)([short, long])
    assert judged.first_wins is not None
    assert unread.first_wins is None
    assert unread.reason.endswith("and the judge reads 8192")


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
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
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
    [found] = Served(JudgeConfig(model="m"), server.url)(["Which?"])
    assert found.first_wins == (None if first_wins is None else pytest.approx(first_wins))
    [(path, key, body)] = server.asked
    assert (path, key) == ("/v1/chat/completions", "Bearer secret-key")
    assert body["messages"] == [{"role": "user", "content": "Which?"}]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 8)


def test_questions_that_fail_are_invalid_and_a_server_that_fails_all_is_named(server: Server) -> None:
    server.reply = lambda text: 500 if text == "bad" else said("A")
    judge = Served(JudgeConfig(model="m"), server.url, retries=0)
    verdicts = judge(["bad", "good"])
    assert verdicts[1] == Verdict(1.0)
    assert verdicts[0].first_wins is None
    assert verdicts[0].reason.startswith("gave no answer (")
    with pytest.raises(InputError, match=rf"{server.url} gave no answer .*; see that the server runs there"):
        judge(["bad", "bad"])


def test_a_refused_key_stops_the_work_and_is_not_told(server: Server) -> None:
    server.reply = lambda text: 401
    with pytest.raises(InputError, match="refuses the question with the status 401.*OPENAI_API_KEY") as caught:
        Served(JudgeConfig(model="m"), server.url, retries=0)(["Which?"])
    assert "not with Bearer ***" in str(caught.value) and "secret-key" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("principles: [Be kind.]\n", "describes no judge .*model"),
        ("model: m\nprinciple: Be kind.\n", "describes no judge .*principle"),
        ("model: m\nparallel: many\n", "describes no judge .*parallel"),
        ("- m\n", "describes no judge"),
        ("model: [\n", "describes no judge"),
        ("model: m\nserver: ftp://host\n", "reached by http:// or https://, not by ftp://host"),
        ("model: m\nserver: http://host\nparallel: 0\n", "parallel, max_tokens .*positive"),
    ],
)
def test_a_file_that_describes_no_judge(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        judge_named(str(file))


def test_names_that_mean_no_judge(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        judge_named(str(tmp_path / "none.yaml"))
    with pytest.raises(InputError, match="names no model; write ai:MODEL"):
        judge_named("ai:")
    with pytest.raises(InputError, match="compares two answers, and scores none; name it as a judge"):
        reward_named("ai:smollm2 + number")
