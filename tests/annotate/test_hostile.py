"""What pages bear: addresses and forms that no browser sends, faults of their own, and a model server that drips."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from accord.annotate import Project
from accord.annotate.database import Slot
from accord.annotate.pages import ModelRequests
from accord.annotate.tasks.base import Incomplete
from accord.cli.annotate_models import SpeakerOptions, speaker
from accord.errors import InputError
from tests.annotate.conftest import PAIRS, made, serving
from tests.annotate.test_pages import Visitor
from tests.chat.test_served import HEAD, Fake
from tests.feedback.serving import serving as answering

UPGRADE = (
    b"GET /join/x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture
def fake() -> Iterator[Fake]:
    with answering(Fake()) as server:
        yield server


def visitor(project: Project, speaker: Any = None) -> Visitor:
    ann = Visitor(project, speaker)
    ann.get(f"/join/{project.add_people(['ann'])['ann']}")
    ann.get("/work")
    return ann


@pytest.fixture
def ann(tmp_path: Path) -> Visitor:
    project = made(tmp_path)
    project.add(PAIRS)
    return visitor(project)


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "%00", "9" * 23, "9" * 5000, "٣"])
def test_an_address_of_nothing_is_a_page(number: str, ann: Visitor) -> None:
    for path in (f"/work/{number}", f"/owner/item/{number}"):
        assert ann.get(path) in (401, 422) and "<h1>That did not work</h1>" in ann.page
    ann.get("/work")
    slot = ann.slot
    assert ann.post(f"/work/{number}/draft", comment="a text that is not lost") == 422
    assert "a text that is not lost" in ann.page
    assert ann.get(f"/work/{slot}") == 200


def test_what_an_address_says_is_not_said_again(ann: Visitor) -> None:
    assert ann.get("/work?stored=%3Cscript%3E%E2%80%AE") == 200 and 'data-stored=""' in ann.page
    assert ann.get("/work?stored=12") == 200 and 'data-stored="12"' in ann.page


@pytest.mark.parametrize("origin", ["http://[bad", "null", "http://evil", "", "http://test.evil", "://"])
def test_origins_that_are_none(origin: str, ann: Visitor) -> None:
    assert ann.post(f"/work/{ann.slot}", {"Origin": origin}, choice="tie") == 403


def test_a_fault_of_a_page_is_a_page_and_a_line(
    ann: Visitor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise KeyError("\x1b[31mwhat")

    slot = ann.slot
    monkeypatch.setattr("accord.annotate.assign.store", breaks)
    assert ann.post(f"/work/{slot}", choice="tie", comment="a comment that is kept") == 500
    assert "a comment that is kept" in ann.page and "whoever runs these pages is told" in ann.page
    said = "annotate: a page failed: KeyError: '\\x1b[31mwhat'; ACCORD_DEBUG=1 shows where.\n"
    assert capsys.readouterr().err == said
    ann.get("/work")
    monkeypatch.setenv("ACCORD_DEBUG", "1")
    with pytest.raises(KeyError):
        ann.post(f"/work/{slot}", choice="tie")


def test_drafts_are_the_form_as_it_was_typed_last(tmp_path: Path) -> None:
    """They do not grow with names that were sent before, and hold no turns of somebody's making."""
    project = made(tmp_path)
    project.add(1, "converse", answers=2)
    ann = visitor(project, lambda messages, n, seed: [f"{messages[-1]['content']} {i}" for i in range(n)])
    slot = ann.slot
    for number in range(3):
        assert ann.post(f"/work/{slot}/draft", turns="[]", said="half a mess", **{f"more-{number}": "x"}) == 204
        ann.get("/work")
        assert ">\nhalf a mess</textarea>" in ann.page
    with project.database.reading() as session:
        assert session.get_one(Slot, slot).draft == {"said": "half a mess", "more-2": "x"}
    assert ann.post(f"/work/{slot}/turn", said="one") == 200
    for chosen in ("9" * 5000, "²", "-1", "2", "٠"):
        assert ann.post(f"/work/{slot}/turn", chosen=chosen) == 422 and "Choose the answer" in ann.page
    assert ann.post(f"/work/{slot}/draft", turns="x") == 204
    ann.get("/work")
    assert ann.post(f"/work/{slot}/turn", chosen="1") == 200 and "Your message" in ann.page


def in_a_thread(work: Callable[[], object]) -> tuple[Any, float]:
    """What it returns or raises on a thread that is not the main one, where no alarm rings, and its seconds."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    begun = time.monotonic()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return found[0], time.monotonic() - begun


def test_a_server_that_drips_is_not_waited_for_on_any_thread(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = speaker(SpeakerOptions(server=fake.url, model="small"))
    assert talk is not None
    said = [{"role": "user", "content": "hi"}]
    assert in_a_thread(lambda: talk(said, 2, 0))[0] == ["well \x1b[2Jsaid small"] * 2
    monkeypatch.setattr("accord.chat.served.WAIT", 0.5)
    fake.pause, fake.raw = 0.05, [bytes([byte]) for byte in HEAD * 3]
    error, seconds = in_a_thread(lambda: talk(said, 2, 0))
    assert isinstance(error, InputError) and str(error) == f"{fake.url}/v1 has begun no answer within 0.5 seconds."
    assert seconds < 3
    monkeypatch.setattr("accord.chat.served.WAIT", 10)
    monkeypatch.setattr("accord.cli.annotate_models.PATIENCE", 0.7)
    fake.raw = [HEAD, *[b": nothing yet\n"] * 100]
    error, seconds = in_a_thread(lambda: talk(said, 2, 0))
    assert isinstance(error, InputError) and "(the reply takes more than 0.7 seconds)" in str(error) and seconds < 3


def test_halves_of_characters_come_together_or_go(fake: Fake) -> None:
    talk = speaker(SpeakerOptions(server=fake.url, model="small"))
    assert talk is not None
    fake.pieces = ["a\ud83d", "\ude00b\ud800"]
    assert talk([{"role": "user", "content": "hi"}], 1, 0) == ["a\U0001f600b\ufffd"]


@contextmanager
def held(requests: ModelRequests, slots: range) -> Iterator[None]:
    """Others who wait for the model."""
    contexts = [requests.of(slot) for slot in slots]
    for context in contexts:
        context.__enter__()
    yield
    for context in contexts:
        context.__exit__(None, None, None)


def test_who_waits_for_a_model_keeps_nobody_else_waiting() -> None:
    requests = ModelRequests()
    with held(requests, range(20)):
        for slot, why in ((3, "answering you already"), (20, "talks with many people")):
            with pytest.raises(Incomplete, match=why), requests.of(slot):
                pass
    with held(requests, range(20)):
        pass


def test_pages_speak_no_websockets(tmp_path: Path) -> None:
    project = made(tmp_path)
    project.add(PAIRS)
    with serving(project, ["ann"]) as server:
        host, port = server.base.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as opened:
            opened.sendall(UPGRADE)
            assert opened.recv(1000).startswith(b"HTTP/1.1 404 Not Found\r\n")
