"""A journal of replies: nothing asked twice, nothing lost, whatever the order and wherever the file was torn."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.dates import today
from accord.errors import InputError
from accord.prompting.journal import Journal
from accord.prompting.requests import Reply, Request
from accord.records import Message
from tests.days import set_day
from tests.full import files_of_at_most


class Scripted:
    """Replies to a request by its prompt, in the order of `order`, and stops with an error after `most` replies."""

    def __init__(self, name: str = "m", order: Sequence[int] = (), most: int | None = None) -> None:
        self.name, self.order, self.most = name, order, most
        self.asked: list[Request] = []
        self.error: BaseException = InputError("the server went away.")

    def __call__(
        self, requests: Sequence[Request], on_reply: Callable[[int, Reply], None] | None = None
    ) -> list[Reply]:
        replies: dict[int, Reply] = {}
        ordered = [i for i in self.order if i < len(requests)]
        for i in (*ordered, *(i for i in range(len(requests)) if i not in ordered)):
            if self.most is not None and len(self.asked) >= self.most:
                raise self.error
            self.asked.append(requests[i])
            replies[i] = reply(requests[i])
            if on_reply:
                on_reply(i, replies[i])
        return [replies[i] for i in range(len(requests))]


def reply(request: Request) -> Reply:
    """Of the request alone; prompts of an f fail."""
    prompt = str(request.prompt)
    if prompt.startswith("f"):
        return Reply(text=None, reason="too slow")
    share = len(prompt) / 7
    return Reply(
        text=f"{prompt}\u2028\ud800é\n", is_cut=len(prompt) % 2 == 0, choices={"A": share, "B": 1e-17}, tokens_in=3
    )


def asked(prompt: str, **more: Any) -> Request:
    return Request(prompt=prompt, max_tokens=5, **more)


def test_what_is_kept_is_not_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "j"
    requests = [asked("a"), asked("b"), asked("a"), asked("fail"), asked("a", seed=1)]
    told: list[tuple[int, Reply]] = []
    model = Scripted()
    journal = Journal(model, file)
    assert not file.exists()
    replies = journal(requests, lambda i, r: told.append((i, r)))
    assert replies == [reply(request) for request in requests] and dict(told) == dict(enumerate(replies))
    assert len(told) == 5 and [r.prompt for r in model.asked] == ["a", "b", "fail", "a"]
    assert journal.counts == {"asked": 3, "failed": 1, "kept before": 0}
    del journal
    later = Scripted()
    again = Journal(later, file)
    assert again(requests) == replies and [r.prompt for r in later.asked] == ["fail"]
    assert again.counts == {"kept before": 4, "failed": 1, "failed before": 1}
    assert again([]) == [] and again.name == "m"


def test_a_full_disk_is_told_and_what_was_not_kept_is_asked_again(tmp_path: Path) -> None:
    requests = [asked("a"), asked("b" * 300)]
    journal = Journal(Scripted(), tmp_path / "j")
    with files_of_at_most(400), pytest.raises(InputError) as raised:
        journal(requests)
    assert str(raised.value) == (
        f"the journal {tmp_path}/j cannot be written (File too large); 1 of 2 requests are answered, and kept in "
        f"{tmp_path}/j: the same command goes on with the 1 that are left."
    )
    assert journal.counts == {"asked": 1, "kept before": 0}
    later = Scripted()
    assert Journal(later, tmp_path / "j")(requests) == [reply(request) for request in requests]
    assert later.asked == requests[1:]


def test_every_field_of_a_request_has_a_reply_of_its_own(tmp_path: Path) -> None:
    base = asked("a")
    others = [
        replace(base, prompt="b"), replace(base, prompt=(Message("user", "a"),)),
        replace(base, prompt=(Message("user", "a", {"name": "x"}),)), replace(base, max_tokens=6),
        replace(base, temperature=0.5), replace(base, top_p=0.5), replace(base, stop=("x",)), replace(base, seed=1),
        replace(base, choices=("A",)), replace(base, choices=("A", "B")),
    ]  # fmt: skip
    journal = Journal(Scripted(), tmp_path / "j")
    assert len({journal.key(request) for request in (base, *others)}) == 11
    assert {f.name for f in fields(Request)} == {
        "prompt", "max_tokens", "temperature", "top_p", "stop", "seed", "choices",
    }  # fmt: skip
    assert Journal(Scripted("other"), tmp_path / "j").key(base) != journal.key(base)


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.text("abf", min_size=1, max_size=3), max_size=8),
    order=st.permutations(range(8)),
    stops=st.lists(st.integers(0, 6), max_size=3),
    tear=st.integers(0, 400),
)
def test_any_order_any_tear_and_any_stop(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], order: list[int], stops: list[int], tear: int
) -> None:
    file = tmp_path_factory.mktemp("journal") / "j"
    requests = [asked(prompt) for prompt in prompts]
    kept: set[str] = set()
    for most in stops:
        model = Scripted(order=order, most=most)
        try:
            Journal(model, file)(requests)
        except InputError as error:
            done = sum(r.prompt in kept or r in model.asked for r in requests if not str(r.prompt).startswith("f"))
            assert f"{done} of {len(requests)} requests are answered" in str(error)
        said = [str(r.prompt) for r in model.asked if not str(r.prompt).startswith("f")]
        assert len({*said}) == len(said) and kept.isdisjoint(said)
        kept |= {*said}
        if file.exists() and tear % 3 == 0:  # killed while a line was written
            content = file.read_bytes()
            file.write_bytes(content + content.splitlines(keepends=True)[-1][: tear % 40])
    if file.exists():
        content = file.read_bytes()
        file.write_bytes(content[: max(len(content) - tear, 0)])
    last = Journal(Scripted(order=order[::-1]), file)
    assert last(requests) == [reply(request) for request in requests]
    del last
    silent = Scripted()
    assert Journal(silent, file)(requests) == [reply(request) for request in requests]
    assert all(str(r.prompt).startswith("f") for r in silent.asked)


def test_the_first_of_two_replies_counts_and_lines_that_cannot_be_read_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "j"
    Journal(Scripted(), file)([asked("a"), asked("b")])
    head, a, b = file.read_text().splitlines()
    other = json.dumps({**json.loads(a), "text": "other"})
    file.write_text("\n".join([head, "{", b, "[]", a, other, '{"text": "no key"}', '{"key": "k", "new": 1}']) + "\n")
    model = Scripted()
    assert Journal(model, file)([asked("a"), asked("b")]) == [reply(asked("a")), reply(asked("b"))]
    assert model.asked == []
    assert capsys.readouterr().err == f"{file}: 4 lines cannot be read, and are left out\n"


def test_what_cannot_be_a_journal_is_left_as_it_is(tmp_path: Path) -> None:
    for content in ("a row\n", '{"prompt": "hi"}\n', "no line", "[]\n\n"):
        file = tmp_path / "rows.jsonl"
        file.write_text(content)
        with pytest.raises(
            InputError, match="rows.jsonl is not a journal of replies; name another file with --journal"
        ):
            Journal(Scripted(), file)([asked("a")])
        assert file.read_text() == content
    with pytest.raises(InputError, match="is not a regular file; name another with --journal"):
        Journal(Scripted(), tmp_path)([asked("a")])
    with pytest.raises(InputError, match=r"rows.jsonl cannot be made \(File exists\); name another with --journal"):
        Journal(Scripted(), tmp_path / "rows.jsonl" / "j")([asked("a")])


def test_a_journal_of_other_settings_is_told_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "j"
    Journal(Scripted(), file, {"principles": ("Be kind.",)})([asked("a")])
    content = file.read_text()
    with pytest.raises(InputError, match=r"has other settings \(model: m, and here n\); name another with --journal"):
        Journal(Scripted("n"), file, {"principles": ("Be kind.",)})([asked("a")])
    with pytest.raises(InputError, match=r"has other settings \(principles: \['Be kind.'\], and here none\)"):
        Journal(Scripted(), file)([asked("a")])
    assert file.read_text() == content


def test_two_may_ask_in_turn_and_not_at_once(tmp_path: Path) -> None:
    model, file = Scripted(), tmp_path / "j"
    first, second = Journal(model, file), Journal(model, file)
    first([asked("a")])
    second([asked("a"), asked("b")])
    assert first([asked("a"), asked("b")]) == [reply(asked("a")), reply(asked("b"))]
    assert [r.prompt for r in model.asked] == ["a", "b"]
    with pytest.raises(
        InputError, match="is in use by process \\d+ on .*; wait for it to end, or name another with --journal"
    ):
        first([asked("c")], lambda i, r: second([asked("d")]) and None)
    assert second([asked("c"), asked("d")])[0] == reply(asked("c"))
    assert [r.prompt for r in model.asked] == ["a", "b", "c", "d"]


# Each waits until all are there, so that they begin at one moment, and asks for its own; who is told tries again.
ASKS = """
import sys, time
from pathlib import Path
from accord.dates import today
from accord.errors import InputError
from accord.prompting.journal import Journal
from tests.prompting.test_journal import Scripted, asked

folder, mine = Path(sys.argv[1]), sys.argv[2]
(folder / mine).touch()
while len(list(folder.glob("[abc]"))) < 3:
    time.sleep(0.001)
for number in range(20):
    while True:
        try:
            Journal(Scripted(), folder / f"j{number}")([asked(mine)])
            break
        except InputError as error:
            assert " is in use by process " in str(error), error
"""


def test_begun_at_the_same_moment_a_journal_has_one_head_and_all_replies(tmp_path: Path) -> None:
    words = [sys.executable, "-c", ASKS, str(tmp_path)]
    processes = [subprocess.Popen([*words, mine], cwd=Path(__file__).parents[2]) for mine in "abc"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    for number in range(20):
        head, *replies = (tmp_path / f"j{number}").read_text().splitlines()
        assert json.loads(head)["of"] == {"model": "m"}
        assert sorted(json.loads(line)["text"][0] for line in replies) == ["a", "b", "c"]
    assert not list(tmp_path.glob(".*"))


def test_ctrl_c_says_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Scripted(most=1)
    model.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        Journal(model, tmp_path / "j")([asked("a"), asked("b")])
    said = "1 of 2 requests are answered, and kept in {}: the same command goes on with the 1 that are left\n"
    assert capsys.readouterr().err == said.format(tmp_path / "j")


def test_zeros_that_a_power_cut_left_are_taken_away(tmp_path: Path) -> None:
    """A write whose length reached the disk and whose content did not, at the beginning or at the end."""
    whole, requests = tmp_path / "whole", [asked("a"), asked("bb")]
    expected = Journal(Scripted(), whole)(requests)
    content = whole.read_bytes()
    for left in (bytes(40), content[:30] + bytes(10), content + bytes(25)):
        file = tmp_path / "j"
        file.write_bytes(left)
        assert Journal(Scripted(), file)(requests) == expected and file.read_bytes() == content


@pytest.mark.parametrize("kept", ["all", "head", "half"])
def test_a_journal_goes_on_with_the_date_on_which_it_was_begun(
    kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, dates = tmp_path / "j", list[str]()

    class Dated(Scripted):
        def __call__(
            self, requests: Sequence[Request], on_reply: Callable[[int, Reply], None] | None = None
        ) -> list[Reply]:
            dates.append(today().isoformat())
            return super().__call__(requests, on_reply)

    set_day(monkeypatch, "2026-11-29")
    journal = Journal(Dated(), file)
    journal([asked("a")])
    set_day(monkeypatch, "2026-11-30")
    journal([asked("b")])
    content = file.read_bytes()
    head = content.index(b"\n")
    file.write_bytes({"all": content, "head": content[: head + 1], "half": content[: head - 5]}[kept])
    later = Journal(Dated(), file)
    later([asked("c")])
    later([asked("d")])
    new = ["2026-11-30"] * 2 if kept == "half" else ["2026-11-29"] * 2  # without a whole line nothing was begun
    assert dates == ["2026-11-29"] * 2 + new
