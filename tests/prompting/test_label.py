"""`accord label` by a served judge: killed, stopped, out of money and gone on, with the same rows in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")

from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.feedback.serving import serving
from tests.prompting.faulty import Faulty

CANARY = "sk-canary-0123456789"
COUNT = 20


def kind(prompt: str, n: int) -> str:
    """Prefers the longer answer, and the first of two rows is always asked in vain."""
    first, second = prompt.split("[Answer A]\n")[1].split("\n\n[Answer B]\n")
    return "text:A" if len(first) > len(second.split("\n\nWhich")[0]) else "text:B"


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SERVER_KEY", CANARY)
    monkeypatch.setattr("accord.prompting.faults.BASE", 0.01)
    with serving(Faulty(kind)) as running:
        yield running


@pytest.fixture
def rows(tmp_path: Path) -> str:
    samples = [
        {"prompt": f"Say {i}.", "completion": text, "right": f"r{i}"}
        for i in range(COUNT)
        for text in (f"{i}" * 3, f"{i} " * 5)
    ]
    return write_jsonl(tmp_path / "samples.jsonl", samples)


def words(faulty: Faulty, rows: str, out: Path) -> list[str]:
    return ["label", "--data", rows, "--out", str(out), "--judge", f"ai:small@{faulty.url}", "--key", "SERVER_KEY"]


def label(faulty: Faulty, rows: str, out: Path, *more: object) -> int:
    return accord(*words(faulty, rows, out), *more)


def test_what_was_killed_goes_on_bit_for_bit(faulty: Faulty, rows: str, tmp_path: Path) -> None:
    assert label(faulty, rows, tmp_path / "whole.jsonl") == 0
    whole = (tmp_path / "whole.jsonl").read_bytes()
    assert len(whole.splitlines()) == COUNT
    faulty.answered.clear()
    faulty.told = lambda prompt, n: time.sleep(0.05) or kind(prompt, n)  # type: ignore[func-returns-value]
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "accord", *words(faulty, rows, out), "--parallel", "2"]
    run = subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL)
    while len(faulty.answered) < 16:
        assert run.poll() is None
        time.sleep(0.01)
    run.kill()
    run.wait()
    assert not out.exists()
    journal = Path(f"{out}.journal")
    with journal.open("ab") as file:
        file.write(b'{"key": "torn')
    kept = len(journal.read_text().splitlines()) - 2
    before = len(faulty.answered)
    assert kept >= 14 and before - kept <= 2  # two were under way whenever it was killed
    assert label(faulty, rows, out) == 0
    assert out.read_bytes() == whole and len(faulty.answered) - before == 2 * COUNT - kept
    again = len(faulty.asked)
    assert label(faulty, rows, tmp_path / "same.jsonl", "--journal", journal) == 0
    assert (tmp_path / "same.jsonl").read_bytes() == whole and len(faulty.asked) == again
    assert CANARY not in journal.read_text()


@pytest.mark.slow
def test_ctrl_c_says_what_is_kept(faulty: Faulty, rows: str, tmp_path: Path) -> None:
    faulty.told = lambda prompt, n: time.sleep(0.05) or kind(prompt, n)  # type: ignore[func-returns-value]
    out = tmp_path / "out.jsonl"
    run = subprocess.Popen(
        [sys.executable, "-m", "accord", *words(faulty, rows, out), "--parallel", "2"],
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(faulty.answered) < 5:
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    kept = len(Path(f"{out}.journal").read_text().splitlines()) - 1
    assert run.returncode == 130 and "Traceback" not in said
    assert f"{kept} of {2 * COUNT} requests are answered, and kept in {out}.journal: the same command goes on" in said


def test_a_budget_ends_the_work_and_the_next_run_goes_on(
    faulty: Faulty, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reply costs 10 * .001 + 2 * .005 = .02, and may cost some .4."""
    out = tmp_path / "out.jsonl"
    costs = ("--price-in", 1000, "--price-out", 5000, "--budget", 0.7)
    codes = []
    for _ in range(4):
        before = len(faulty.asked)
        codes.append(label(faulty, rows, out, *costs))
        assert len(faulty.asked) - before < 20
        printed = capsys.readouterr().err
        if codes[-1]:
            assert "the budget of 0.70 has no room for another request" in printed
            assert f"of 40 requests are answered, and kept in {out}.journal: the same command goes on" in printed
            assert not out.exists()
        else:
            break
    assert codes == [2, 2, 0] and len(faulty.asked) == 2 * COUNT
    assert len(read_jsonl(out)) == COUNT


def test_failures_are_counted_by_kind_and_never_ties(
    faulty: Faulty, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = {"Say 1.": "500", "Say 2.": "text:Both are good", "Say 3.": "text:<think>so A</think>A", "Say 4.": "422"}
    faults |= {"Say 5.": "text:I think that..."}

    def told(prompt: str, n: int) -> str:
        return faults.get(prompt.split("[Conversation]\n")[1].split("\n")[0], "") or kind(prompt, n)

    faulty.told = told
    out = tmp_path / "out.jsonl"
    assert label(faulty, rows, out, "--retries", 1) == 0
    printed = capsys.readouterr().err
    assert (
        "label: 15 preferences from 20 comparisons, 1 ties, 4 invalid (1 server error (5xx), 1 no letter, " in printed
    )
    assert "1 refused, 1 cut before a letter)" in printed
    assert "0 replies kept before, 36 more, 4 requests without one" in printed
    assert "failed attempts: 2 refused, 8 server error (5xx)" in printed
    assert "2 replies began with a block of reasoning" in printed
    assert CANARY not in printed + Path(f"{out}.journal").read_text()
    faulty.told = kind
    assert label(faulty, rows, out, "--retries", 1) == 0  # the four are asked again
    assert "36 replies kept before, 4 more, 0 requests without one" in capsys.readouterr().err


def test_columns_reach_the_judge(faulty: Faulty, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faulty.told = lambda prompt, n: "text:A" if prompt.index("000") < prompt.index("0 0") else "text:B"
    judge = tmp_path / "judge.yaml"

    def run(template: str) -> int:
        given = {"model": "small", "server": faulty.url, "template": template, "journal": str(tmp_path / "j")}
        judge.write_text(json.dumps(given))
        return accord("label", "--data", rows, "--out", tmp_path / "o.jsonl", "--judge", judge)

    data = Path(rows)
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:2]))
    assert run("Right is {right}. {prompt} A: {first} B: {second}") == 0
    texts = sorted(body["messages"][0]["content"] for _, _, body in faulty.asked)
    assert texts[1] == "Right is r0. Say 0. A: 000 B: 0 0 0 0 0 " and (tmp_path / "j").exists()
    capsys.readouterr()
    assert run("Right is {right}. A: {first}") == 2
    assert "the judge's template has no place for {second}" in capsys.readouterr().err
    assert run("{wrong} {first} {second}") == 2
    assert "has no column 'wrong', which the judge's template reads; the columns there are: right" in (
        capsys.readouterr().err
    )
    assert run("{right} {first} {second}") == 2
    printed = capsys.readouterr().err
    assert f"the journal {tmp_path / 'j'} has other settings (template: Right is {{right}}. {{prompt}}" in printed


def test_columns_reach_a_judge_on_trial_whose_journal_is_kept(faulty: Faulty, tmp_path: Path) -> None:
    pairs = [
        {"prompt": f"{i}?", "chosen": f"{i}. Yes it is {i}.", "rejected": "No.", "right": f"r{i}"} for i in range(3)
    ]
    data, judge = write_jsonl(tmp_path / "pairs.jsonl", pairs), tmp_path / "judge.yaml"
    given = {"model": "small", "server": faulty.url, "template": "{right}|{prompt}|{first}|{second}"}
    judge.write_text(json.dumps({**given, "journal": str(tmp_path / "j")}))
    faulty.told = lambda prompt, n: "text:A" if len(prompt.split("|")[2]) > len(prompt.split("|")[3]) else "text:B"
    words = ("evaluate", "comparisons", "--reward", judge, "--data", data, "--probes", 4, "--out")
    assert accord(*words, tmp_path / "one") == 0
    asked = [body["messages"][0]["content"].split("|") for _, _, body in faulty.asked]
    assert len(asked) > 6 and all(right == f"r{prompt[0]}" for right, prompt, *_ in asked)
    assert accord(*words, tmp_path / "two") == 0
    assert len(faulty.asked) == len(asked)
    results = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two")]
    assert results[0]["accuracy"] == results[1]["accuracy"] and results[0]["accuracy"]["estimate"] == 1.0


def test_options_of_language_models_are_theirs(tmp_path: Path, rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    words: tuple[Any, ...] = ("label", "--data", rows, "--out", tmp_path / "o.jsonl", "--judge")
    assert accord(*words, "cafe", "--budget", 5) == 2
    assert "--budget is for language models that judge, such as ai:MODEL, and cafe is none" in capsys.readouterr().err
    assert accord(*words, "ai:m", "--agreement", 0.8) == 2
    assert "--agreement simulates people" in capsys.readouterr().err


def test_a_judge_at_hand_has_a_journal_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_model(tmp_path / "m", template=None)
    samples = [{"prompt": "hi", "completion": text} for text in ("good", "bad day", "hello")]
    data, out = write_jsonl(tmp_path / "s.jsonl", samples), tmp_path / "o.jsonl"
    judge = tmp_path / "judge.yaml"
    judge.write_text(json.dumps({"model": model, "template": "{first} {second}"}))
    code = accord("label", "--data", data, "--out", out, "--judge", judge, "--soft")
    printed = capsys.readouterr().err
    # the little model knows no letters, so that it gives them the probability of whatever it reads in their place
    assert code in (0, 2) and f"0 replies kept before, 6 more, 0 requests without one; kept in {out}.journal" in printed
    assert accord("label", "--data", data, "--out", out, "--judge", judge, "--soft") == code
    assert "6 replies kept before, 0 more" in capsys.readouterr().err
