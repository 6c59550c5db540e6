"""A served model: faults that pass and faults that stay, limits, money, and secrets that nobody is told."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest

pytest.importorskip("openai")

from accord.errors import InputError
from accord.prompting.options import AskOptions, outcome_lines, prompted, usage
from accord.prompting.requests import Reply, Request, without_reasoning
from accord.prompting.served import Served
from accord.prompting.server import Server
from accord.records import Message
from tests.feedback.serving import serving
from tests.prompting.faulty import Faulty

CANARY = "sk-canary-0123456789"


def asked(text: str, **more: Any) -> Request:
    return Request(prompt=(Message("user", text),), max_tokens=4, **more)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SERVER_KEY", CANARY)
    monkeypatch.setattr("accord.prompting.faults.BASE", 0.01)
    with serving(Faulty()) as running:
        yield running


def served(faulty: Faulty, **more: Any) -> Served:
    model = prompted(
        AskOptions(model="small", server=faulty.url, key="SERVER_KEY", **{"timeout": 1.5, "retries": 2, **more})
    )
    assert isinstance(model, Served)
    return model


KINDS = {
    "429": "busy (429)", "500": "server error (5xx)", "502": "server error (5xx)", "html": "unreadable",
    "garbage": "unreadable", "nothing": "unreadable", "strange": "unreadable", "null": "unreadable",
    "half": "broken off", "drip": "too slow", "silent": "too slow",
}  # fmt: skip


def once(prompt: str, time: int) -> str:
    return prompt if prompt in KINDS and time == 1 else ""


def always(prompt: str, time: int) -> str:
    return prompt


def test_every_fault_that_passes_is_asked_again_and_counted(faulty: Faulty) -> None:
    faulty.told = once
    model = served(faulty)
    places: list[int] = []
    replies = model([asked(kind) for kind in (*KINDS, "fine")], lambda place, reply: places.append(place))
    assert [reply.text for reply in replies] == ["A"] * 12 and sorted(places) == list(range(12))
    assert all((reply.tokens_in, reply.tokens_out, reply.reason) == (10, 2, "") for reply in replies)
    counts = {"busy (429)": 1, "server error (5xx)": 2, "unreadable": 5, "broken off": 1, "too slow": 2}
    assert model.faults == counts and faulty.seen == {**dict.fromkeys(KINDS, 2), "fine": 1}
    lines = list(outcome_lines(model))
    assert lines[0] == ("failed attempts: 1 broken off, 1 busy (429), 2 server error (5xx), 2 too slow, 5 unreadable")
    assert lines[1:] == ["144 tokens"]


def test_a_fault_that_stays_is_a_reply_without_text(faulty: Faulty) -> None:
    model = served(faulty, retries=1)
    model([asked("good")])
    faulty.told = always
    for (fault, kind), reply in zip(KINDS.items(), model([asked(fault) for fault in KINDS]), strict=True):
        assert reply.text is None and reply.reason.startswith(kind) and CANARY not in reply.reason
        assert faulty.seen[fault] == 4  # and so again when all others had been asked
    [refused] = model([asked("422")])
    assert refused == Reply(text=None, reason="refused: 422 no, Bearer ***") and faulty.seen["422"] == 1


@pytest.mark.parametrize(("fault", "tries"), [("silent", 1), ("garbage", 3)])
def test_a_server_that_never_answered_is_not_asked_for_long(faulty: Faulty, fault: str, tries: int) -> None:
    faulty.told = always
    with pytest.raises(InputError, match=f"has given no reply so far \\({KINDS[fault]}"):
        served(faulty, retries=9)([asked(fault)])
    assert faulty.seen[fault] == tries


def test_a_reply_without_end_is_not_read(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    model = served(faulty, retries=0)
    [known] = model([asked("good")])
    assert known.text == "A"
    monkeypatch.setattr("accord.prompting.server.LARGEST", 100)
    [reply] = model([asked("good")])
    assert reply.text is None and reply.reason == "unreadable: the reply is of more than 100 bytes"


def test_a_packed_reply_is_not_asked_for_nor_unpacked(faulty: Faulty) -> None:
    """A megabyte of it may be a gigabyte."""
    model = served(faulty, retries=0)
    [known] = model([asked("good")])
    assert known.text == "A" and faulty.encodings == {"identity"}
    faulty.told = lambda prompt, time: "packed"
    [reply] = model([asked("good")])
    assert reply.text is None and reply.reason == "unreadable: the reply is packed (gzip), which was not asked for"


@pytest.mark.parametrize("count", [10**400, float("inf"), 10**10])
def test_tokens_beyond_measure_are_no_reply(count: Any, faulty: Faulty) -> None:
    model = served(faulty, retries=0)
    model([asked("good")])
    faulty.usage = {"prompt_tokens": count, "completion_tokens": 2}
    [reply] = model([asked("good")])
    assert reply.text is None and reply.reason.startswith("unreadable: ")


def test_a_list_of_models_without_end_is_not_read(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(faulty.url)
    assert server.models() == ["small", "large"]
    monkeypatch.setattr("accord.prompting.server.LARGEST", 20)
    with pytest.raises(InputError, match=f"{faulty.url} does not speak the OpenAI API"):
        server.models()
    faulty.lists_slowly = True
    monkeypatch.setattr("accord.prompting.server.LARGEST", 1000)
    monkeypatch.setattr("accord.prompting.server.LONGEST", 0.3)
    begun = time.monotonic()
    with pytest.raises(InputError, match="does not say within 0.3 seconds what its models are called"):
        server.models()
    assert time.monotonic() - begun < 2


def test_what_failed_while_the_server_was_away_is_asked_once_more(faulty: Faulty) -> None:
    faulty.told = lambda prompt, time: "500" if prompt == "early" and len(faulty.seen) < 3 else ""
    told: list[int] = []
    replies = served(faulty, retries=0, parallel=1)(list(map(asked, ("early", "a", "b"))), lambda i, r: told.append(i))
    assert [reply.text for reply in replies] == ["A", "A", "A"] and told == [1, 2, 0]


def test_a_server_that_answers_nothing_any_more_ends_the_work(faulty: Faulty) -> None:
    faulty.told = lambda prompt, time: "500" if prompt.startswith("bad") else ""
    model = served(faulty, retries=0, parallel=2)
    assert len(model([asked(f"{kind} {i}") for i in range(7) for kind in ("good", "bad")])) == 14
    kept: list[Reply] = []
    with pytest.raises(InputError, match="answers nothing: 8 requests one after another failed, the last as server"):
        model([asked(f"bad {i}") for i in range(100)], lambda place, reply: kept.append(reply))
    assert kept == []


@pytest.mark.parametrize("is_date", [False, True])
def test_all_wait_as_long_as_the_server_asks(faulty: Faulty, is_date: bool) -> None:
    wait = formatdate(int(time.time()) + 3, usegmt=True) if is_date else "1.5"
    faulty.told = lambda prompt, time: f"429;{wait}" if prompt == "busy" and time == 1 else ""
    model = served(faulty, parallel=1)
    assert [reply.text for reply in model([asked("busy"), asked("next")])] == ["A", "A"]
    times = [at for at, _, _ in faulty.asked]
    assert times[1] - times[0] >= 1.45


def test_a_wait_of_hours_or_a_spent_quota_ends_the_work(faulty: Faulty) -> None:
    faulty.told = always
    with pytest.raises(InputError, match=r"asks to be left alone for 7,200 seconds \(no, Bearer \*\*\*\)"):
        served(faulty)([asked("429;7200")])
    with pytest.raises(InputError, match="says that the quota is spent"):
        served(faulty)([asked("429;-;insufficient_quota")])


def test_refusals_say_what_to_do(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty.told = always
    with pytest.raises(InputError, match="does not take the key in SERVER_KEY: set it to the server's"):
        served(faulty)([asked("401")])
    with pytest.raises(InputError, match="has no model small .*; it has small, large"):
        served(faulty)([asked("404")])
    away = AskOptions(model="m", server="http://127.0.0.1:9")
    with pytest.raises(InputError, match="nothing answers at http://127.0.0.1:9/v1 .*check that the server runs there"):
        prompted(away)([asked("hi")])


def test_no_more_are_under_way_than_is_allowed(faulty: Faulty) -> None:
    faulty.told = lambda prompt, n: time.sleep(0.05) or ""  # type: ignore[func-returns-value]
    served(faulty, parallel=3)([asked(str(i)) for i in range(12)])
    assert faulty.most == 3


@pytest.mark.parametrize("limits", [{"requests_per_minute": 1200}, {"tokens_per_minute": 12 * 1200}])
def test_the_pace_is_kept(faulty: Faulty, limits: dict[str, float]) -> None:
    began = time.monotonic()
    served(faulty, parallel=8, **limits)([asked(str(i)) for i in range(21)])
    last = max(at for at, _, _ in faulty.asked)
    # 20 more requests, of 12 tokens each, at 20 a second; those first under way count as the 4 tokens they may have
    assert last - began >= (0.95 if "requests_per_minute" in limits else 0.6)


def test_money_is_bounded(faulty: Faulty) -> None:
    """A request costs 10 * .1 + 2 * .5 = 2, and may cost (7 + 64) * .1 + 4 * .5 = 9.1."""
    model = served(faulty, parallel=4, price_in=1e5, price_out=5e5, budget=32.0)
    kept: list[Reply] = []
    with pytest.raises(InputError, match=r"the budget of 32.00 has no room for another request: 24.0000 of 32.00 sp"):
        model([asked(str(i % 10)) for i in range(100)], lambda place, reply: kept.append(reply))
    assert len(kept) == len(faulty.asked) == 12 and model.spending.spent == pytest.approx(24.0)
    assert usage(model) == "144 tokens, 24.0000 of 32.00 spent"
    faulty.usage = None  # what is not said costs the most that it can
    careful = served(faulty, price_in=1e5, price_out=5e5, budget=32.0)
    with pytest.raises(InputError, match="27.3000 of 32.00 spent"):
        careful([asked(str(i % 10)) for i in range(100)])
    assert len(faulty.asked) == 12 + 3


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("<think>A or B?</think>\n\nB", "B"),
        ("so it is B</think> B", "B"),
        ("<think>it is A", ""),
        ("  <think>\n</think>A, not <think>", "A, not <think>"),
        ("say <think> and </think>", "say <think> and </think>"),
        (" A ", " A "),
    ],
)
def test_reasoning_is_left_out(faulty: Faulty, message: str, text: str) -> None:
    assert without_reasoning(message) == text
    faulty.told = lambda prompt, time: f"text:{message}"
    model = served(faulty)
    assert [reply.text for reply in model([asked("hi")])] == [text]
    assert model.reasoning == (message != text)


@pytest.mark.parametrize(
    ("message", "tops", "choices", "found"),
    [
        ("A", {"A": 0.5, " A": 0.1, "B": 0.25, "The": 0.1}, "AB", {"A": 0.6, "B": 0.25}),
        ("<think>|A|</think>|**|B", {"B": 0.5, "A": 0.25}, "AB", {"A": 0.25, "B": 0.5}),
        ("The", {"The": 0.9, "A": 0.1}, "AB", None),
        ("7", {"7": 0.5, "10": 0.25, "1": 0.125}, ("1", "7", "10"), {"7": 0.5, "10": 0.25, "1": 0.125}),
        ("1", {"1": 0.5, "7": 0.5}, ("1", "7", "10"), None),  # 1 may go on as 10
        ("ye", {"ye": 0.5, "no": 0.25}, ("yes", "no"), {"yes": 0.5, "no": 0.25}),
    ],
)
def test_choices_are_read_where_the_answer_begins(
    faulty: Faulty, message: str, tops: dict[str, float], choices: Any, found: dict[str, float] | None
) -> None:
    faulty.told, faulty.tops = lambda prompt, time: f"text:{message}", tops
    [reply] = served(faulty)([asked("hi", choices=tuple(choices))])
    assert reply.choices == (None if found is None else pytest.approx(found))


def test_a_plain_text_is_continued(faulty: Faulty) -> None:
    faulty.told, faulty.tops = lambda prompt, time: "text:<think> so...", {" A": 0.5, "B": 0.5}
    request = Request(prompt="Once", max_tokens=3, temperature=0.5, top_p=0.9, seed=7, stop=(".",), choices=("A", "B"))
    [reply] = served(faulty)([request])
    assert (reply.text, reply.is_cut) == ("<think> so...", True)
    [(_, _, body)] = faulty.asked
    assert body == {
        "model": "small", "prompt": "Once", "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "seed": 7,
        "stop": ["."], "logprobs": 5,
    }  # fmt: skip


def test_a_server_without_probabilities_is_asked_without(faulty: Faulty) -> None:
    def told(prompt: str, time: int) -> str:
        return "422;-;logprobs" if "logprobs" in faulty.asked[-1][2] else ""

    faulty.told = told
    faulty.tops = {"A": 1.0}
    model = served(faulty, parallel=1)
    replies = model([asked("hi", choices=("A", "B")), asked("ho", choices=("A", "B"))])
    assert [(reply.text, reply.choices) for reply in replies] == [("A", None)] * 2
    assert ["logprobs" in body for _, _, body in faulty.asked] == [True, False, False]


def test_secrets_are_told_to_nobody(
    faulty: Faulty, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    password = "canary-of-the-url"
    url = faulty.url.replace("http://", f"http://me:{password}@") + f"?token={password}"
    journal = tmp_path / "j"
    options = AskOptions(model="small", server=url, key="SERVER_KEY", retries=0, journal=str(journal))
    model = prompted(options)
    faulty.told = lambda prompt, time: f"text:the key is {CANARY} {password}" if prompt == "say" else prompt
    model([asked("say")])  # first, as a server that has answered nothing is not asked for long
    texts = [reply.text or reply.reason for reply in model([asked("say"), asked("422"), asked("500"), asked("html")])]
    assert texts[0] == "the key is *** ***"
    for prompt in ("401", "429;-;insufficient_quota", "404"):
        try:
            model([asked(prompt)])
        except InputError:
            texts.append(traceback.format_exc())
    texts += [
        repr(model),
        repr(options.model),
        str(Server(url, "SERVER_KEY")),
        repr(Server(url, "SERVER_KEY")),
        model.name,
        journal.read_text(),
    ]
    texts += [*outcome_lines(model), *capfd.readouterr()]
    assert len(texts) > 12 and not any(CANARY in text or password in text for text in texts)


def test_it_can_be_asked_where_a_loop_runs_already(faulty: Faulty) -> None:
    async def within() -> list[Reply]:
        return served(faulty)([asked("hi")])

    assert [reply.text for reply in asyncio.run(within())] == ["A"]
