"""The commands: links printed once, a server that Ctrl-C ends, rows that the stages read; wrong use in a sentence."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import httpx2
import pytest
import yaml

from accord import feedback, results
from accord.annotate import Project, assign
from accord.cli.annotate_models import SpeakerOptions
from accord.cli.annotate_models import speaker as speaker_of
from accord.data import load_data
from accord.records import Comparison, Preference
from accord.report import write_report
from tests.annotate.conftest import PAIRS, person, serving
from tests.chat.test_served import Fake, fake, transformers_serve
from tests.commands.small import QUICK, accord, read_jsonl, save_model, write_jsonl
from tests.engine.byte_pairs import policy

__all__ = ["fake"]


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[None]:
    """No server outlives its test."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.parametrize("starts", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_server_is_started_used_and_ended(tmp_path: Path, starts: int) -> None:
    data, database = write_jsonl(tmp_path / "pairs.jsonl", PAIRS), str(tmp_path / "labels.db")
    words = ["annotate", "serve", "--database", database, "--data", data, "--people", "2", "--port", "0"]
    for again in (False, True)[:starts]:
        with subprocess.Popen(
            [sys.executable, "-m", "accord", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
        ) as process, ending(process):  # fmt: skip
            assert process.stdout is not None
            lines = [process.stdout.readline().strip() for _ in range(2 if again else 4)]
            links = dict(line.split(": ", 1) for line in lines)
            named = {"owner", "The pages"} | (set() if again else {"annotator-1", "annotator-2"})
            assert set(links) == named  # of links that were given only hashes are kept
            assert re.fullmatch(r"http://127.0.0.1:\d+/owner/join/[\w-]{43}", links["owner"])
            with urlopen(links["owner" if again else "annotator-1"]) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=20)
            assert process.returncode == 0 and f"ended with 0 of 6 answers in {database}" in told
            assert ("0 new items, 6 were there already" if again else "6 new items") in told
        token = links["owner"].rsplit("/", 1)[1]
        assert token not in told


@pytest.mark.slow
def test_ctrl_c_twice_ends_the_pages_without_a_traceback(tmp_path: Path) -> None:
    data, database = write_jsonl(tmp_path / "pairs.jsonl", PAIRS), str(tmp_path / "labels.db")
    words = ["annotate", "serve", "--database", database, "--data", data, "--people", "1", "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "accord", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process, ending(process):  # fmt: skip
        assert process.stdout is not None
        while not process.stdout.readline().startswith("The pages: "):
            assert process.poll() is None
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=20)
    assert process.returncode in (0, 130, -signal.SIGINT) and "Traceback" not in told


def test_people_and_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database, out = str(tmp_path / "labels.db"), tmp_path / "rows.jsonl"
    project = Project.open(database)
    project.add(PAIRS)
    assert accord("annotate", "people", "--database", database, "--add", "ann", "bob") == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^(\w+): http://127.0.0.1:8080/join/[\w-]{43}$", printed, re.MULTILINE) == ["ann", "bob"]
    assert accord("annotate", "export", "--database", database, "--out", out) == 2
    assert "there is no answer yet that makes a row" in capsys.readouterr().err and not out.exists()
    for name in ("ann", "bob"):
        me = person(project, name)
        slot = assign.next_slot(project, me)
        assert slot is not None
        assign.store(project, me, slot.id or 0, {"better": 1, "strength": "much", "comment": "hm"}, 1.0)
    assert accord("annotate", "people", "--database", database, "--withdraw", "bob") == 0
    assert accord("annotate", "export", "--database", database, "--out", out) == 0
    told = capsys.readouterr().err
    assert "erased 1 answers of bob" in told and "the answers of 1 people were withdrawn" in told
    (row,) = read_jsonl(out)
    number = row["item"][1:]
    assert load_data(str(out)) == [Preference(f"Question {number}?", f"bad {number}", f"good {number}", user="ann")]
    assert {k: row[k] for k in ("annotator", "strength", "comment", "chosen_by", "guideline")} == {
        "annotator": "ann", "strength": "much", "comment": "hm", "chosen_by": "random", "guideline": None,
    }  # fmt: skip
    assert accord("annotate", "people", "--database", database) == 0
    assert capsys.readouterr().out == "ann: 1 answers\nbob: 0 answers, withdrawn\n"


def test_wrong_use_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = str(tmp_path / "labels.db")
    for words, message in (
        (["serve", "--database", database], "there is nothing to ask about yet"),
        (["serve", "--database", database, "--overlap", "0"], "--overlap must be at least 1"),
        (["serve", "--database", database, "--data", "no.jsonl"], "there is no file no.jsonl"),
        (["serve", "--database", database, "--guidelines", "no.md"], "--guidelines no.md cannot be read"),
        (["serve", "--database", database, "--data", "no.jsonl", "--items", "3"], "--items is for tasks without data"),
        (
            ["serve", "--database", database, "--overlap", "99999999"],
            "--overlap must be at most 10,000, not 99,999,999",
        ),
        (
            ["serve", "--database", database, "--host", "no.such.host.invalid"],
            "nothing can listen at no.such.host.inval",
        ),
        (["people", "--database", "no.db", "--url", "here"], "--url here is not a server's URL"),
        (["status", "--database", "no.db", "--hourly-cost", "-3"], "--hourly-cost must be 0 or more, not -3."),
        (["people", "--database", "no.db"], "there is no database no.db"),
        (["export", "--database", "no.db", "--out", "x.jsonl"], "there is no database no.db"),
    ):
        assert accord("annotate", *words) == 2
        assert message in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


def test_simulated_people_answer_and_a_model_says_what_they_are_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three answers of two people first, then five more of items drawn by a reward model; all as the judge has it."""
    pairs = write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    (tmp_path / "asked").mkdir()
    words = ["serve", "--database", tmp_path / "labels.db", "--data", pairs, "--simulated", pairs]
    assert accord("annotate", *words, "--until", "3") == 0
    base = save_model(tmp_path / "base")
    assert accord("reward", "--model", base, "--data", pairs, "--out", tmp_path / "reward", *QUICK) == 0
    reward, out = tmp_path / "reward" / "model", tmp_path / "asked" / "rows.jsonl"
    more = ("--uncertainty", reward, "--until", "5", "--hourly-cost", "10", "--out", out)
    assert accord("annotate", *words, *more) == 0
    printed = capsys.readouterr()
    assert f"3 items are drawn by how unsure {reward} is of them" in printed.err and "hours on task" in printed.out
    rows = read_jsonl(out)
    assert [row["chosen_by"] for row in rows] == ["random"] * 3 + ["uncertainty"] * 2
    assert all(row["chosen"].startswith("good") and row["annotator"] == "simulated-1" for row in rows)
    judge = feedback.named.judge_named(str(reward))
    by_key = {row["id"]: Comparison(row["prompt"], row["chosen"], row["rejected"]) for row in PAIRS}
    left = [key for key in by_key if key not in {row["item"] for row in rows[:3]}]
    unsure = dict(zip(left, feedback.uncertainty.uncertainty([judge], [by_key[key] for key in left]), strict=True))
    drawn = rows[3]["item"]
    assert rows[3]["probability"] == pytest.approx(unsure[drawn] ** 2 / sum(value**2 for value in unsure.values()))
    result = results.load(tmp_path / "asked")
    assert isinstance(result, results.PeopleResult) and (result.answers, result.asked, result.cost) == (5, 6, 0.0)
    write_report(tmp_path / "asked")
    assert "Annotations" in (tmp_path / "asked" / "report.html").read_text()
    assert accord("annotate", *words, *more[:2]) == 0 and accord("annotate", *words, *more[:2]) == 0
    assert "would weigh items, and all were asked about already, so the order stays" in capsys.readouterr().err
    words[2] = tmp_path / "other.db"
    for wrong, message in (
        (["--task", "write"], "--simulated is for the tasks compare and rank; write compares nothing"),
        (["--focus", "11"], "--focus must be between 0 and 10, not 11"),
        (["--agreement", ".9"], "--agreement simulates people who know a world's truth"),
    ):
        assert accord("annotate", *words, *wrong) == 2
        assert message in capsys.readouterr().err


def test_rankings_are_simulated_whole(tmp_path: Path) -> None:
    rows = [{"id": "r", "prompt": "Name a river.", "completions": ["Loire", "Rhine", "Paris"], "ranks": [1, 0, 1]}]
    words = ["--database", tmp_path / "labels.db", "--data", write_jsonl(tmp_path / "rows.jsonl", rows)]
    words += ["--task", "rank", "--simulated", tmp_path / "rows.jsonl"]
    assert accord("annotate", "serve", *words, "--out", tmp_path / "answers.jsonl") == 0
    assert read_jsonl(tmp_path / "answers.jsonl")[0]["ranks"] == [1, 0, 1]


def test_pages_need_no_torch(tmp_path: Path) -> None:
    opened = "import sys; from accord.annotate import serve, Project; Project.open('x.db')"
    helped = "import sys; from accord.cli.main import main; main(['annotate', 'serve', '--help'])"
    for script in (
        f"{opened}; assert 'torch' not in sys.modules",
        f"{helped}; assert not {{'torch', 'fastapi', 'sqlmodel'}} & set(sys.modules)",
    ):
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, env={**os.environ})
        assert done.returncode == 0, done.stderr


def talk(link: str, *said: str) -> list[list[str]]:
    """The answers that somebody with this link is shown, who chooses the first of every turn."""
    base, answers = link.split("/join/")[0], []
    client = httpx2.Client(base_url=base, follow_redirects=True, timeout=60)
    client.get(link)
    page = client.get("/work").text

    def post(path: str, **fields: str) -> str:
        token, slot = (re.search(text, page) for text in (r'name="form_token" value="(\w+)"', r'data-slot="(\d+)"'))
        assert token is not None and slot is not None
        form = {"form_token": token[1], **fields}
        answer = client.post(f"/work/{slot[1]}{path}", data=form, headers={"Origin": base})
        assert answer.status_code == 200, answer.text
        return answer.text

    for message in said:
        page = post("/turn", said=message, say="1")
        answers.append(re.findall(r'<article class="answer".*?<div class="prose" dir="auto"><p>(.*?)</p>', page, re.S))
        page = post("/turn", chosen="0")
    post("", choice="finish")
    return answers


def test_a_served_model_is_talked_with(tmp_path: Path, fake: Fake) -> None:
    class Numbered:
        """What differs from answer to answer."""

        def __iter__(self) -> Iterator[str]:
            return iter(["number ", str(len(fake.asked))])

    fake.pieces = Numbered()  # type: ignore[assignment]
    project = Project.open(tmp_path / "labels.db")
    project.add(1, "converse")
    options = SpeakerOptions(server=fake.url, model="large", max_new_tokens=8)
    with serving(project, ["ann"], speaker_of(options)) as served:
        answers = talk(served.join(), "hello", "more")
    assert [sorted(turn) for turn in answers] == [["number 1", "number 2"], ["number 3", "number 4"]]
    hello, more = {"role": "user", "content": "hello"}, {"role": "user", "content": "more"}
    spoken = [{"role": "assistant", "content": turn[0]} for turn in answers]
    assert [asked["messages"] for asked in fake.asked] == [[hello]] * 2 + [[hello, spoken[0], more]] * 2
    assert {(a["model"], a["max_tokens"], a["temperature"]) for a in fake.asked} == {("large", 8, 1.0)}
    assert len({asked["seed"] for asked in fake.asked}) == 4
    first, second = project.export(tmp_path / "rows.jsonl").rows
    assert (first["prompt"], first["chosen"]) == ([hello], [spoken[0]])
    assert first["rejected"] == [{"role": "assistant", "content": answers[0][1]}]
    assert (second["prompt"], second["chosen"]) == ([hello, spoken[0], more], [spoken[1]])


def test_a_server_that_does_not_sample_is_told_of(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    for temperature, told in ((1.0, True), (0.0, False)):
        speaker = speaker_of(SpeakerOptions(server=fake.url, model="small", temperature=temperature))
        assert speaker is not None and len(speaker([{"role": "user", "content": "hi"}], 3, 0)) == 3
        assert ("gave the same answer 3 times" in capsys.readouterr().err) == told


@pytest.mark.slow
def test_a_model_of_transformers_serve_is_talked_with(tmp_path: Path) -> None:
    policy().save(tmp_path / "model")
    model, rows = tmp_path / "out", tmp_path / "rows.jsonl"
    assert accord("export", tmp_path / "model", "--out", model, "--dtype", "float32") == 0
    (model / "generation_config.json").write_text('{"do_sample": true, "top_k": 0}')
    with transformers_serve(model) as url:
        words = ["annotate", "serve", "--database", str(tmp_path / "labels.db"), "--task", "converse", "--items", "1",
                 "--server", url, "--model", str(model), "--max-new-tokens", "8", "--people", "1", "--port", "0",
                 "--until", "1", "--out", str(rows)]  # fmt: skip
        with subprocess.Popen(
            [sys.executable, "-m", "accord", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process, ending(process):  # fmt: skip
            assert process.stdout is not None
            links = dict(process.stdout.readline().strip().split(": ", 1) for _ in range(3))
            answers = talk(links["annotator-1"], "the cat")
            _, told = process.communicate(timeout=60)
    assert len(answers[0]) == 2 and answers[0][0] != answers[0][1]
    assert "ended with 1 of 1 answers" in told and "1 rows in" in told
    (row,) = read_jsonl(rows)
    assert row["prompt"] == [{"role": "user", "content": "the cat"}]
    assert {row[name][0]["role"] for name in ("chosen", "rejected")} == {"assistant"}


@pytest.mark.parametrize("trained", [[], pytest.param(["reward", "dpo"], marks=pytest.mark.slow)], ids=len)
def test_a_pipeline_waits_for_people_and_learns_from_what_they_said(tmp_path: Path, trained: list[str]) -> None:
    database, recipe = str(tmp_path / "labels.db"), tmp_path / "recipe.yaml"
    base = str(save_model(tmp_path / "base")) if trained else ""
    stages: dict[str, Any] = {
        "people": {
            "command": "annotate serve", "database": database, "data": write_jsonl(tmp_path / "pairs.jsonl", PAIRS),
            "until": 12, "overlap": 2, "port": 0,
        },
        "agreement": {"command": "evaluate agreement", "data": "${people}/annotations.jsonl"},
        **{command: {"command": command, "model": base, "data": "${people}/annotations.jsonl"} for command in trained},
    }  # fmt: skip
    recipe.write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))

    def answer() -> None:
        while not Path(database).exists() or (project := Project.open(database)).progress().items < len(PAIRS):
            time.sleep(0.1)
        project.add_people(["ann", "bob"])
        for place in range(2 * len(PAIRS)):
            me = person(project, ("ann", "bob")[place // len(PAIRS)])
            slot = assign.next_slot(project, me)
            assert slot is not None
            said = {"better": None, "strength": "tie"} if place == 0 else {"better": 1, "strength": "much"}
            assign.store(project, me, slot.id or 0, {**said, "comment": ""}, 2.0)

    # in a thread of its own, as the browser's tests keep an event loop running in this one
    def run(meanwhile: Callable[[], None]) -> list[int]:
        codes: list[int] = []
        thread = threading.Thread(target=lambda: codes.append(accord("run", recipe, "--out", tmp_path / "out")))
        thread.start()
        meanwhile()
        thread.join(120)
        return codes

    assert run(answer) == [0]
    rows = read_jsonl(tmp_path / "out" / "people" / "annotations.jsonl")
    assert len(rows) == 12 and sum(bool(row.get("tied")) for row in rows) == 1
    found = json.loads((tmp_path / "out" / "agreement" / "evaluation.json").read_text())
    assert found["agreement"]["estimate"] == pytest.approx(5 / 6)
    assert all((tmp_path / "out" / stage / "model" / "config.json").exists() for stage in trained)
    if not trained:
        return
    assert run(lambda: None) == [0]  # what is done is left alone, whatever the database has by now
    state = json.loads((tmp_path / "out" / "pipeline.json").read_text())
    assert [stage["status"] for stage in state["stages"]] == ["skipped"] * 4
