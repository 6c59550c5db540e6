"""An AI judge: what it is asked, the probabilities of its letters, and a server that speaks OpenAI's protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
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
from accord.feedback.ai import AIJudge, ai_judge, verdict
from accord.feedback.judge import BothOrders
from accord.feedback.named import as_measure, judge_named, only_compares, reward_named
from accord.feedback.reward import check_prompts, score_texts
from accord.prompting.local import Local
from accord.prompting.requests import Reply, Request
from accord.prompting.served import Served
from accord.records import Comparison, EncodedPrompt, Message, Prompt, Verdict
from tests.feedback.serving import serving

CHAT = (Message("user", "May I?"),)
PAIR = Comparison(CHAT, (Message("assistant", "Yes, gladly."),), "No.")


class Said:
    """A model that is asked by prompts, and replies by `reply(text)`."""

    name = "said"

    def __init__(self, reply: Callable[[str], Reply]) -> None:
        self.reply, self.asked = reply, list[Request]()

    def __call__(self, requests: Sequence[Request], on_reply: Any = None) -> list[Reply]:
        self.asked += requests
        replies = [self.reply(r.prompt[0].content) for r in requests]  # type: ignore[union-attr]
        for i in reversed(range(len(replies))):
            on_reply(i, replies[i])
        return replies


def letters(a: float, b: float) -> Reply:
    return Reply(text="", choices={"A": a, "B": b})


def test_the_letters_probabilities_are_the_verdict() -> None:
    assert verdict(letters(0.03, 0.01)) == Verdict(0.75)
    unclear = verdict(letters(0.004, 0.001))
    assert unclear.first_wins is None
    assert unclear.reason == "unclear: the judge gives the letters A and B a probability of 0.005 together"
    assert verdict(Reply(text=None, reason="too slow")) == Verdict(None, "too slow")
    cut = verdict(Reply(text="Let me think", is_cut=True))
    assert cut.reason == "cut before a letter: the judge replied 'Let me think', and neither A nor B"


def test_every_principle_is_a_question_and_the_mean_of_the_valid_ones_counts() -> None:
    silent = Reply(text=None, reason="silence")
    replies = iter([letters(0.9, 0.1), silent, letters(0.5, 0.5), silent, Reply(text=None, reason="other"), silent])
    model = Said(lambda text: next(replies))
    judge = AIJudge(model, ["Be kind.", "Be brief.", "Be true."])
    first, second = judge([PAIR, Comparison("Why?", "a", "b")])
    assert first.first_wins == pytest.approx(0.7)
    assert second == Verdict(None, "silence")
    asked = [str(request.prompt[0].content) for request in model.asked]  # type: ignore[union-attr]
    assert [text.splitlines()[2] for text in asked] == ["Be kind.", "Be brief.", "Be true."] * 2
    assert "[Conversation]\nuser: May I?\n" in asked[0]
    assert "[Answer A]\nYes, gladly.\n\n[Answer B]\nNo.\n" in asked[0]
    assert "[Conversation]\nWhy?\n" in asked[3]
    assert {(r.choices, r.max_tokens, r.temperature) for r in model.asked} == {(("A", "B"), 0, 0.0)}


def test_progress_is_told_reply_by_reply() -> None:
    told: list[Any] = []

    @contextmanager
    def counting(title: str, total: int, note: Callable[[], str]) -> Iterator[Any]:
        told.append((title, total, note()))
        yield told.append

    judge = AIJudge(Said(lambda text: letters(len(text) % 100, 100)), ["Be kind.", "Be brief."])
    pairs = [Comparison("Why?", "a" * i, "b") for i in range(1, 6)]
    silent = judge(pairs)
    judge.asker.counting = counting
    assert judge(pairs) == silent == [judge([pair])[0] for pair in pairs]
    assert told[:11] == [("judge", 10, ""), *[1] * 10]


def test_a_template_of_its_own_has_places_for_columns() -> None:
    model = Said(lambda text: letters(1, 0))
    template = "{{Right}}: {right} {notes}|{principle}|{first}|{second}|A or B?"
    judge = AIJudge(model, ["Be kind."], template=template)
    judge([Comparison("Why?", "so", "no", {"right": "x {first}", "notes": ["é", 1], "more": 2})])
    assert model.asked[0].prompt == (Message("user", '{Right}: x {first} ["é", 1]|Be kind.|so|no|A or B?'),)
    lacks = "has no column 'right', which the judge's template reads; the columns there are: notes"
    with pytest.raises(InputError, match=lacks):
        judge([Comparison("Why?", "so", "no", {"notes": 1})])
    with pytest.raises(InputError, match=f"row 3 {lacks}"):
        check_prompts(BothOrders(judge), [EncodedPrompt(Prompt("Why?", {"notes": 1}), (), 2)])


@pytest.mark.parametrize(
    ("template", "principles", "message"),
    [
        ("Which? {prompt} {first}", ["Be kind."], "has no place for {second}"),
        ("Which? {first} {second}", ["Be kind."], "has no place for {principle}"),
        ("{first} {second} {prompt.name}", ["Be kind."], "has {prompt.name}, which is no name"),
        ("{first} {second} {}", ["Be kind."], "has {}, which is no name"),
        ("{first} {second} {x!r}", ["Be kind."], "has {x}, which is no name"),
        ("{first} {second} {", ["Be kind."], "template is none .*a brace of the text is written twice"),
    ],
)
def test_a_template_that_cannot_be_used(template: str, principles: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AIJudge(Said(lambda text: letters(1, 0)), principles, template=template)


@pytest.mark.parametrize("principles", [[], [" "], [3]])
def test_a_judge_has_principles(principles: list[Any]) -> None:
    with pytest.raises(InputError, match="principles are a list of sentences"):
        AIJudge(Said(lambda text: letters(1, 0)), principles)


def test_a_model_at_hand_gives_what_transformers_gives(smollm2: Policy) -> None:
    pairs = [PAIR, Comparison("2 + 2?", "4", "It is 5, I think.")]
    judge = AIJudge(Local(smollm2), ["Be kind."])
    letters = [smollm2.tokenizer.convert_tokens_to_ids(letter) for letter in "AB"]
    for pair, found in zip(pairs, judge(pairs), strict=True):
        [question] = judge.questions(pair)
        tokens = torch.tensor([encode_prompt(smollm2.tokenizer, (Message("user", question.text),))])
        with torch.no_grad():
            p = smollm2.network(tokens).logits[0, -1].double().softmax(0)[letters]
        assert found.first_wins == pytest.approx(float(p[0] / p.sum()), abs=1e-5)
    assert judge(pairs[1:]) == judge(pairs)[1:]  # to the last bit


def test_the_example_is_a_judge(smollm2: Policy) -> None:
    judge = judge_named(str(Path(__file__).parents[2] / "examples" / "judge.yaml"))
    assert isinstance(judge, AIJudge) and len(judge.principles) == 2
    [found], [helpful] = judge([PAIR]), AIJudge(Local(smollm2), judge.principles[:1])([PAIR])
    [honest] = AIJudge(Local(smollm2), judge.principles[1:])([PAIR])
    assert found.first_wins == pytest.approx((helpful.first_wins + honest.first_wins) / 2, abs=1e-6)  # type: ignore[operator]


def test_a_question_too_long_has_no_answer(smollm2: Policy) -> None:
    judged, unread = AIJudge(Local(smollm2))([PAIR, Comparison("Why?", "no " * 9000, "b")])
    assert judged.first_wins is not None
    assert unread.first_wins is None
    assert unread.reason.startswith("too long: ") and unread.reason.endswith("where smollm2 reads 8192")


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
    [found] = ai_judge(f"ai:m@{server.url}", given={"key": "SERVER_KEY"})([PAIR])
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
    judge = ai_judge(f"ai:m@{server.url}", given={"retries": 0, "key": "SERVER_KEY"})
    bad = Comparison("Why?", "bad", "b")
    failed, good = judge([bad, PAIR])
    assert good == Verdict(1.0)
    assert failed == Verdict(None, "server error (5xx): 500 not with Bearer ***")
    with pytest.raises(InputError, match=f"m at {server.url} gave no answer .*; see the judge's settings"):
        judge([bad, bad])


def test_what_is_given_goes_before_the_file_though_it_be_the_default(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text(f"model: m\nserver: {server.url}\nretries: 0\nparallel: 2\n")
    model = ai_judge(str(file), given={"parallel": 8}).model
    assert isinstance(model, Served)
    assert (model.limits.parallel, model.limits.retries) == (8, 0)


def test_a_file_cannot_ask_for_any_key(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.reply = lambda text: said("A")
    file = tmp_path / "judge.yaml"
    file.write_text(f"model: m\nserver: {server.url}\nkey: SERVER_KEY\n")
    with pytest.raises(InputError, match="asks for the key in SERVER_KEY: say --key SERVER_KEY to allow that, or call"):
        ai_judge(str(file))
    assert ai_judge(str(file), given={"key": "SERVER_KEY"})([PAIR]) == [Verdict(1.0)]
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
        ai_judge(f"ai:m@{server.url}", given={"key": "SERVER_KEY"})([PAIR])
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("principles: [Be kind.]\n", "describes no judge .*model"),
        ("model: m\nprinciple: Be kind.\n", "describes no judge .*principle"),
        ("model: m\nparallel: many\n", "describes no judge .*parallel"),
        ("- m\n", "describes no judge"),
        ("model: [\n", "describes no judge"),
        ("model: m\nserver: ftp://host\n", "reached by http:// or https://, not by ftp://host"),
        ("model: m\nserver: http://host\nparallel: 0\n", "describes no judge .*parallel must be positive"),
        ("model: m\nserver: http://host\nmax_tokens: 0\n", "max_tokens must be positive"),
        ("model: m\nserver: http://host\nbudget: 5\n", "a budget needs the prices"),
        ("model: m\nserver: http://host\nprice_in: 5\n", "prices are two numbers"),
        ("model: m\nserver: http://host\nchat_template: chatml\n", "are of a model at hand, and m is served"),
        ("model: m\nbudget: 5\n", "budget is of a served model, and m is at hand"),
        ("model: m\nserver: http://host\ntemplate: 'Which? {first}'\n", "no place for {second}"),
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
    judge = tmp_path / "judge.yaml"
    judge.write_text("model: smollm2\n")
    with pytest.raises(InputError, match="compares answers, and scores none: name it as a judge, or give it method"):
        reward_named(f"{judge} + number")
