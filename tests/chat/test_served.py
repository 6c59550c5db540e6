"""`accord chat --server`: a chat with a served model, and what is said where that cannot be."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from rich.console import Console

from accord.chat.screen import Screen
from accord.chat.served import ServedSaying, ServedSpeaker
from accord.chat.session import Session
from accord.data import load_data
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.prompting.server import Server
from accord.records import Demonstration, Message, Preference
from tests.chat.fake_server import Fake
from tests.commands.small import accord, save_model
from tests.engine.byte_pairs import policy
from tests.feedback.serving import serving

SECRET = "sk-very-secret"
SAMPLING = Sampling(max_new_tokens=7, temperature=0.5, top_p=0.9, seed=3)


@contextmanager
def transformers_serve(model: Path) -> Iterator[str]:
    """The URL of a server of transformers' own, with a model at hand."""
    for package in ("uvicorn", "fastapi"):
        pytest.importorskip(package)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "transformers.cli.transformers", "serve", str(model), "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with model.with_suffix(".log").open("w") as log:
        server = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, env=environment)
    try:
        for _ in range(120):
            if server.poll() is not None:
                pytest.fail(model.with_suffix(".log").read_text())
            try:
                urlopen(f"http://localhost:{port}/health").close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(Fake()) as server:
        yield server


def heard(server: Server, *lines: str, names: tuple[str, ...] = ("small",), **options: Any) -> tuple[str, Session]:
    file = io.StringIO()
    screen = Screen(Console(file=file, width=80, highlight=False))
    session = Session([ServedSpeaker(server, server.model_named(name)) for name in names], screen, SAMPLING, **options)
    session.run(lines)
    return file.getvalue(), session


def test_a_chat_goes_on_and_is_saved(fake: Fake, tmp_path: Path) -> None:
    said = "well \x1b[2Jsaid small"
    shown, _ = heard(Server(fake.url), "hi", "and?", f"/save {tmp_path / 'rows.jsonl'}", system="Be brief.")
    answer = "well ⟨U+001B⟩[2Jsaid small\n"
    assert shown == f"{answer}{answer}1 demonstration appended to {tmp_path / 'rows.jsonl'}.\n"
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    more = [*told, {"role": "assistant", "content": said}, {"role": "user", "content": "and?"}]
    assert [body["messages"] for body in fake.asked] == [told, more]
    settings = {"model": "small", "stream": True, "max_tokens": 7, "temperature": 0.5, "top_p": 0.9}
    assert all(settings.items() <= body.items() for body in fake.asked)
    assert fake.asked[0]["seed"] == fake.asked[1]["seed"]  # of each message, as in a chat with a model at hand
    [row] = load_data(tmp_path / "rows.jsonl")
    assert isinstance(row, Demonstration) and row.completion[-1] == Message("assistant", said)


def test_retries_and_twins_have_seeds_of_their_own(fake: Fake, tmp_path: Path) -> None:
    shown, session = heard(Server(fake.url), "hi", "/retry", names=("small", "small"))
    seeds = [body["seed"] for body in fake.asked]
    assert len({*seeds}) == 4 and all(0 <= seed < 2**31 for seed in seeds)
    assert len(session.conversation.turns) == 1 and shown.startswith("1 · small\nwell")
    fake.asked.clear()
    pairs = tmp_path / "pairs.jsonl"
    heard(Server(fake.url), "hi", "/prefer 2", f"/save {pairs}", names=("small", "large"))
    assert fake.asked[0]["seed"] == fake.asked[1]["seed"] == seeds[0]
    [row] = load_data(pairs)
    assert isinstance(row, Preference)
    assert [text[0].content.split()[-1] for text in (row.chosen, row.rejected)] == ["large", "small"]  # type: ignore[union-attr]


def test_a_chat_within_an_event_loop_as_in_notebooks(fake: Fake) -> None:
    async def within() -> str:
        return heard(Server(fake.url), "hi")[0]

    assert asyncio.run(within()) == heard(Server(fake.url), "hi")[0]


def test_an_answer_leaves_nothing_open_behind(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    heard(Server(fake.url), "hi", "and?")
    gc.collect()
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


def test_how_an_answer_ended(fake: Fake) -> None:
    fake.finish = "length"
    assert heard(Server(fake.url), "hi")[0].endswith("said small\ncut before its end\n")
    fake.finish = None
    assert heard(Server(fake.url), "hi")[0].endswith("said small\nstopped\n")
    fake.pieces = []
    assert "gave no answer; see that the URL is that of" in heard(Server(fake.url), "hi")[0]
    fake.pieces, fake.breaks = ["said"], True
    shown, session = heard(Server(fake.url), "hi")
    assert shown.endswith(f"said small\n{fake.url}/v1 broke off (out of memory).\n") and not session.conversation.turns


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@pytest.mark.parametrize(
    "line",
    [
        b"{no json", b"[" * 100_000, b"null", b"[1]", b'{"choices": null}', b'{"choices": [null]}', b"\xff",
        b'{"choices": [{"delta": null}]}', b'{"choices": [{"delta": {"content": 3}}]}',
        b'{"choices": [{"delta": {"content": ["a"]}}]}',
    ],
)  # fmt: skip
def test_what_is_no_answer_is_a_sentence(line: bytes, fake: Fake) -> None:
    fake.raw = [HEAD + b"data: " + line + b"\n\n"]
    shown, session = heard(Server(fake.url), "hi")
    assert shown.startswith(f"\n{fake.url}/v1 broke off, or does not speak the OpenAI API (")
    assert shown.count("\n") == 2 and not session.conversation.turns


def test_a_connection_that_is_lost_is_a_sentence(fake: Fake) -> None:
    said = b'data: {"choices": [{"delta": {"content": "well"}}]}\n\n'
    fake.raw = [HEAD.replace(b"\r\n\r\n", b"\r\nContent-Length: 1000\r\n\r\n") + said]
    shown, session = heard(Server(fake.url), "hi")
    assert shown.startswith(f"well\n{fake.url}/v1 broke off (") and not session.conversation.turns


def test_an_answer_without_end_is_not_waited_for(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is silent, whose head drips in, that keeps the line open, and that never ends; each in time."""
    begun = time.monotonic()
    monkeypatch.setattr("accord.chat.served.WAIT", 0.4)
    for fake.pause, fake.raw in ((1.0, [HEAD, b": nothing yet\n"]), (0.05, [bytes([byte]) for byte in HEAD])):
        shown, session = heard(Server(fake.url), "hi")
        assert f"{fake.url}/v1" in shown and shown.count("\n") == 2 and not session.conversation.turns
    monkeypatch.setattr("accord.chat.served.WAIT", 10)
    monkeypatch.setattr("accord.chat.served.LONGEST", 0.4)
    fake.pause, fake.raw = 0.05, [HEAD, *[b": nothing yet\n"] * 40]
    assert "(the reply takes more than 0.4 seconds)" in heard(Server(fake.url), "hi")[0]
    monkeypatch.setattr("accord.chat.served.LONGEST", 10)
    monkeypatch.setattr("accord.prompting.server.LARGEST", 1000)
    fake.raw = [HEAD + b'data: {"choices": [{"delta": {"content": "well"}}]}\n\n' * 1000]
    assert "(the reply is of more than 1,000 bytes)" in heard(Server(fake.url), "hi")[0]
    assert time.monotonic() - begun < 20


def test_ctrl_c_keeps_what_was_said(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(screen: Screen, names: list[str], answers: list[ServedSaying]) -> None:
        assert next(iter(answers[0])) == "well"
        raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "follow", stopped)
    shown, session = heard(Server(fake.url), "hi")
    assert shown == "stopped\n" and session.conversation.turns[0].answers[0].text == "well"


def test_keys_go_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's to OpenAI alone, unnamed; others by name; none as plain text to other machines unless that is said."""
    monkeypatch.setenv("OPENAI_API_KEY", "of-openai")
    monkeypatch.setenv("MY_KEY", "mine")
    here, there, safe = "http://127.0.0.1:1/v1", "http://example.org/v1", "https://example.org/v1"
    openai = "https://api.openai.com/v1"
    sent = [Server(*given).client.api_key for given in (
        (openai,), (here,), (there,), (safe,), (here, "MY_KEY"), (safe, "MY_KEY"), (there, "MY_KEY", True),
        (openai, "MY_KEY"), ("http://localhost:1", "MY_KEY"), ("http://[::1]:1/v1", "MY_KEY"),
    )]  # fmt: skip
    assert sent == ["of-openai", "none", "none", "none", *["mine"] * 6]
    for given, said in (
        ((there, "MY_KEY"), f"{there} would be sent the key in MY_KEY as plain text, for all to read: use https"),
        (("http://api.openai.com/v1",), "would be sent the key in OPENAI_API_KEY as plain text"),
        (("http://127.0.0.1.example.org/v1", "MY_KEY"), "would be sent the key in MY_KEY as plain text"),
        ((safe, "OPENAI_API_KEY"), "OPENAI_API_KEY is for api.openai.com, and"),
        (("https://api.openai.com.example.org/v1", "OPENAI_API_KEY"), "OPENAI_API_KEY is for api.openai.com"),
        ((safe, "NO_SUCH_KEY"), "there is no environment variable NO_SUCH_KEY, which --key names"),
    ):
        with pytest.raises(InputError, match=said):
            Server(*given)


def test_what_a_server_refuses_is_a_sentence(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{fake.url}/v1"
    shown, _ = heard(Server(url), "hi", names=("smal",))
    assert shown == f"\n{url} has no model smal (no such model); it has small, large; did you mean small?\n"
    shown, _ = heard(Server(url), "a", "b", "c", "d")
    assert shown.endswith(f"\n{url} refuses with the status 400 (the context has 9 tokens).\n")
    fake.key = SECRET
    with pytest.raises(InputError, match=f"^{url} wants a key: name the environment variable that holds it by --key.$"):
        Server(url).model_named("small")
    monkeypatch.setenv("MY_KEY", "sk-wrong")
    with pytest.raises(InputError, match=f"^{url} does not take the key in MY_KEY: set it to the server's.$"):
        Server(url, "MY_KEY").model_named("small")
    monkeypatch.setenv("MY_KEY", SECRET)
    assert "said small" in heard(Server(url, "MY_KEY"), "hi")[0]
    assert SECRET not in repr(Server(url, "MY_KEY"))


def test_the_command(fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: object) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
        code = accord("chat", *words)
        printed = capsys.readouterr()
        return printed.out if code == 0 else printed.err

    url = f"{fake.url}/v1"
    assert "\n> hi\nwell ⟨U+001B⟩[2Jsaid large\n" in told("--server", fake.url, "--model", "large")
    assert f"accord: {url} has the models small, large: name one by --model.\n" == told("--server", url)
    fake.names = ["only"]
    assert "said only\n" in told("--server", url)
    fake.names = []
    assert "does not say what it serves: name it by --model" in told("--server", url)
    fake.names = ["loading"]
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    assert told("--server", url) == f"accord: {url} refuses with the status 503 (Loading model).\n"
    assert "said loading\n" in told("--server", url, "--model", "loading")
    fake.names = ["page"]
    assert told("--server", url) == f"accord: {url} does not speak the OpenAI API; give the URL that ends in /v1.\n"
    assert "http://h:abc is not a server's URL" in told("--server", "http://me:pass@h:abc")
    left_out = "is for a model loaded in this process, not for one on a server: leave it out."
    for words in (("--reward", "cafe"), ("--best-of", 2), ("--chat-template", "chatml"), ("--dtype", "float32")):
        assert told("--server", url, *words) == f"accord: {words[0]} {left_out}\n"
    assert "needs --model or --server" in told() and "needs --model or --server" in told("m", "--key", "K")
    assert "a server is reached by http:// or https://, not by localhost:1" in told("--server", "localhost:1")
    away = told("--server", "http://127.0.0.1:9", "--model", "m")
    assert away.startswith("accord: nothing answers at http://127.0.0.1:9/v1 (Connection error: ")
    assert away.endswith("check that the server runs there.\n")


@pytest.mark.slow
def test_an_exported_model_speaks_through_transformers_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy().save(tmp_path / "model")
    assert accord("export", tmp_path / "model", "--out", tmp_path / "out", "--dtype", "float32") == 0
    with transformers_serve(tmp_path / "out") as url:
        greedy = ("--temperature", 0, "--max-new-tokens", 8)
        said = []
        for words in (("--server", url), ("--dtype", "float32")):
            monkeypatch.setattr("sys.stdin", io.StringIO("the cat\n"))
            capsys.readouterr()
            assert accord("chat", tmp_path / "out", *words, *greedy) == 0
            said.append(capsys.readouterr().out.split("\n> the cat\n")[1])
        served, at_hand = (text.rsplit("\n", 2)[0] for text in said)
        assert served == at_hand and len(served) > 3


def test_a_model_at_hand_is_asked_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert accord("chat", save_model(tmp_path / "m"), "--max-new-tokens", 2) == 0
