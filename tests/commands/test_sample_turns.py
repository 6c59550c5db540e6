"""`accord sample` on conversations: one turn answered anew, or whole conversations with a user; rankings with ties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accord.data import load_data
from accord.records import Ranking
from tests.commands.small import QUICK, accord, read_jsonl, save_model, write_jsonl

MODULE = """
def short(completions, **columns):
    return [-float(len(c[0]["content"].split())) for c in completions]

def goes_on(messages, name):
    return f"day {name}" if len(messages) < 6 else None
"""


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


TALK = [message("user", "hi"), message("assistant", "hello"), message("user", "bad day"), message("assistant", "bye")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "for_turns.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def sampled(base: str, data: str, *options: object) -> list[dict[str, Any]]:
    common = ("--model", base, "--data", data, "--out", "out.jsonl", "--max-new-tokens", 4, "--dtype", "float32")
    assert accord("sample", *common, *options) == 0
    return read_jsonl("out.jsonl")


def test_one_turn_is_answered_anew_and_ranked_whole_and_a_reward_model_learns_it(base: str) -> None:
    data = write_jsonl(Path("talks.jsonl"), [{"messages": TALK, "name": "a"}, {"messages": TALK[:2], "name": "b"}])
    rows = sampled(base, data, "--turn", "last", "--n", 6)
    assert [(row["turn"], row["name"], len(row["prompt"])) for row in rows] == [(2, "a", 3)] * 6 + [(1, "b", 1)] * 6
    assert rows[0]["prompt"] == TALK[:3] and rows[6]["prompt"] == TALK[:1]
    assert not any("messages" in row for row in rows)
    plain = write_jsonl(Path("prompts.jsonl"), [{"prompt": TALK[:3]}, {"prompt": TALK[:1]}])
    assert [row["completion"] for row in sampled(base, plain, "--n", 6)] == [row["completion"] for row in rows]

    write_jsonl(Path("rows.jsonl"), rows)
    assert (
        accord("label", "--data", "rows.jsonl", "--judge", "for_turns:short", "--rankings", "--out", "ranked.jsonl")
        == 0
    )
    rankings = load_data("ranked.jsonl")
    assert len(rankings) == 2
    for ranking in rankings:
        assert isinstance(ranking, Ranking)
        words = [len(text[0].content.split()) for text in ranking.completions]  # type: ignore[union-attr]
        # The shortest has rank 0, and all of one length are tied.
        assert list(ranking.ranks) == [sorted(set(words)).index(count) for count in words]
        written = {row["completion"] for row in rows if len(row["prompt"]) == len(ranking.prompt)}
        assert {text[0].content for text in ranking.completions} == written  # type: ignore[union-attr]
    assert any(len(set(r.ranks)) < len(r.ranks) for r in rankings)  # type: ignore[union-attr]
    assert accord("reward", "--model", base, "--data", "ranked.jsonl", "--out", "rm", *QUICK) == 0
    assert len(read_jsonl("rm/metrics.jsonl")) == 2


def test_whole_conversations_are_a_row_a_turn(base: str) -> None:
    data = write_jsonl(Path("asked.jsonl"), [{"prompt": TALK[:1], "name": "good"}, {"prompt": TALK[:3], "name": "bye"}])
    rows = sampled(
        base, data, "--user", "for_turns:goes_on", "--n", 10, "--max-turns", 2, "--reward", "for_turns:short"
    )
    of: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        of.setdefault(row["conversation"], []).append(row)
    assert list(of) == list(range(1, 21)) and {len(turns) for turns in of.values()} == {1, 2}
    for turns in of.values():
        assert [row["turn"] for row in turns] == [1, 2][: len(turns)]
        for row in turns:
            assert row["reward"] == -len(row["completion"].split())
        if len(turns) == 2:
            said = [message("assistant", turns[0]["completion"]), message("user", f"day {turns[0]['name']}")]
            assert turns[1]["prompt"] == [*turns[0]["prompt"], *said]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--turn", "3"),
            "talks.jsonl, row 1: there is no turn 3 to answer again: the conversation has 2 turns",
        ),
        (("--turn", "0"), "--turn must be first, last, random or the number of a turn, from 1, not 0."),
        (
            ("--user", "for_turns:goes_on"),
            "row 1 has no column 'name', which the simulated user for_turns:goes_on reads",
        ),
        (("--user", "cafe"), "there is no simulated user 'cafe': give module:function, or counter."),
        (
            ("--user", "counter", "--turn", "1"),
            "--user samples whole conversations and writes every turn; leave out --t",
        ),
        (("--user", "counter", "--max-turns", "0"), "--max-turns must be at least 1, not 0."),
    ],
)
def test_what_cannot_be_sampled(base: str, options: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl(Path("talks.jsonl"), [{"messages": TALK}])
    common = ("--model", base, "--data", data, "--out", "out.jsonl", "--max-new-tokens", 4)
    assert accord("sample", *common, *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not Path("out.jsonl").exists()
