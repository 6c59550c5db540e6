"""`accord evaluate models`: files of answers, people and functions as judges, the board, and a row a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.records import Preference, Prompt, Ranking
from accord.report import write_report
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl

PROMPTS = ["hi", "good day", "bye"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, prompts, and two files of answers to them, the second in another order."""
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "base")
    write_jsonl(folder / "prompts.jsonl", [Prompt(p) for p in PROMPTS])
    rows = {
        "people": [("hi", "hello"), ("good day", "good good day"), ("bye", "bye")],
        "rivals": [("bye", "good bye"), ("hi", "bad"), ("good day", "day"), ("hi", "bye")],
        "others": [("bye", "good bye"), ("hello", "bad"), ("good day", "day")],
    }
    for name, pairs in rows.items():
        write_jsonl(folder / f"{name}.jsonl", [{"prompt": p, "completion": c} for p, c in pairs])
    return folder


def evaluated(home: Path, out: Path, *options: object) -> dict[str, Any]:
    assert accord("evaluate", "models", "--out", out, *options) == 0
    return json.loads((out / "evaluation.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def files(home: Path) -> tuple[object, ...]:
    return "--samples.people", home / "people.jsonl", "--samples.rivals", home / "rivals.jsonl"


def test_people_judge_files_of_answers_without_any_model(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = [Preference("hi", "hello", "bad"), Ranking("good day", ("day", "good good day"), (0, 0))]
    judge = write_jsonl(tmp_path / "verdicts.jsonl", [*verdicts[:1]])
    ties = write_jsonl(tmp_path / "ties.jsonl", [verdicts[1]])
    found = evaluated(home, tmp_path, *files(home), "--judge", judge, "--against", "rivals")
    people, rivals = found["models"]
    assert (people["name"], people["scores"], people["length"], people["ended"]) == ("people", {}, None, None)
    assert (people["characters"], rivals["characters"]) == (7.0, pytest.approx(14 / 3))  # (5 + 13 + 3) / 3, 14 / 3
    won = people["win_rate"]
    assert (won["estimate"], won["n"], won["invalid"]) == (1.0, 1, 2) and rivals["win_rate"] is None
    assert f"2 of 3 verdicts are invalid (the first: nobody compared this pair in {judge})" in found["warnings"][0]
    assert "intervals from 1 pair are unreliable; judge 20 or more" in " ".join(capsys.readouterr().err.split())
    tied = evaluated(home, tmp_path, *files(home), "--judge", ties, "--against", "people")
    won = {m["name"]: m["win_rate"] for m in tied["models"]}
    assert won["people"] is None and (won["rivals"]["estimate"], won["rivals"]["ties"]) == (0.5, 1)


def test_where_nobody_gave_a_verdict_there_is_no_win_rate(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = write_jsonl(tmp_path / "verdicts.jsonl", [Preference("hi", "good", "bad")])
    found = evaluated(home, tmp_path, *files(home), "--judge", judge, "--against", "rivals")
    assert found["models"][0]["win_rate"]["estimate"] is None and found["board"] is None
    assert "no valid verdict" in " ".join(capsys.readouterr().out.split())
    assert all(
        row["verdict"] is None and "nobody compared" in row["reason"] for row in read_jsonl(tmp_path / "wins.jsonl")
    )


def test_a_function_of_position_is_seen_through(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "firstly.py").write_text("def first(firsts, seconds):\n    return [1.0] * len(firsts)\n")
    monkeypatch.chdir(tmp_path)
    found = evaluated(home, tmp_path, *files(home), "--judge", "firstly:first")
    (pair,) = found["pairs"]
    assert (pair["model"], pair["against"], pair["estimate"], pair["ties"]) == ("rivals", "people", 0.5, 3)
    assert (pair["first_wins"], pair["inconsistent"]) == (1.0, 1.0)


def test_models_and_files_together_on_the_prompts_of_the_data(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ("--models.base", home / "base", "--models.twin", home / "base", *files(home))
    options = ("--data", home / "prompts.jsonl", "--judge", "cafe", "--reference", "base", "--limit", "2")
    found = evaluated(home, tmp_path, *named, *options, "--max-new-tokens", "4", "--dtype", "float32")
    names = ["base", "twin", "people", "rivals"]
    assert [m["name"] for m in found["models"]] == names and found["prompts"] == 2
    assert [(p["model"], p["against"]) for p in found["pairs"]] == [
        (names[j], names[i]) for i in range(4) for j in range(i + 1, 4)
    ]
    assert sorted(row["name"] for row in found["board"]) == sorted(names)
    assert sum(row["rating"]["estimate"] for row in found["board"]) == pytest.approx(0, abs=1e-9)
    assert all(m["win_rate"] is None for m in found["models"])  # nobody is held against
    assert "Bradley-Terry leaderboard" in capsys.readouterr().out
    for answers in (shown["answers"] for shown in found["side_by_side"]):
        assert ["tokens" in a for a in answers] == [True, True, False, False]
        for a in answers[:2]:
            assert set(a["text"].split()) <= {token.strip() for token, _ in a["tokens"]} and len(a["tokens"]) <= 4
            assert all(ratio == 0 for _, ratio in a["tokens"])
    rows = read_jsonl(tmp_path / "wins.jsonl")
    assert len(rows) == 6 * 2 and rows[0].keys() == {
        *("prompt", "model", "against", "first", "second", "verdict", "scores", "lengths")
    }
    last = rows[-1]
    assert (last["prompt"], last["first"], last["second"]) == ("good day", "day", "good good day")
    assert last["scores"].keys() == {"cafe"} and last["lengths"] == [3, 13]


def test_each_temperature_is_what_an_evaluation_at_it_alone_finds(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ("--models.base", home / "base", "--models.twin", home / "base", "--samples.people", home / "people.jsonl")
    given = (*named, "--data", home / "prompts.jsonl", "--judge", "cafe", "--against", "people", "--dtype", "float32")
    given += ("--max-new-tokens", "4")
    found = evaluated(home, tmp_path / "all", *given, "--reference", "base", "--temperatures", "0", "0.5", "1")
    assert [at["temperature"] for at in found["temperatures"]] == [0, 0.5, 1]
    assert all([m["name"] for m in at["models"]] == ["base", "twin"] for at in found["temperatures"])
    for at in found["temperatures"]:
        once = evaluated(home, tmp_path / f"{at['temperature']}", *given, "--temperature", at["temperature"])
        for one, two in zip(at["models"], once["models"], strict=False):
            assert {**one, "kl": None} == {**two, "kl": None}
            assert (one["kl"] is None) is (at["temperature"] == 0)
    assert "wins over people, by temperature" in capsys.readouterr().out
    page = write_report(tmp_path / "all").read_text()
    assert "Win rates by temperature" in page and "Wins over people by temperature" in page


def test_labels_are_told_and_drawn(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = (*files(home), "--judge", "cafe", "--labels.rivals", "1000")
    found = evaluated(home, tmp_path / "told", *given)
    assert [m.get("labels") for m in found["models"]] == [None, 1000] and "labels" not in found["models"][0]
    assert "1,000" in capsys.readouterr().out
    page = write_report(tmp_path / "told").read_text()
    assert "What labels buy" in page and "Score by cafe by labels" in page
    against = evaluated(home, tmp_path / "held", *given, "--against", "people")
    assert against["models"][1]["labels"] == 1000
    assert "Wins over people by labels" in write_report(tmp_path / "held").read_text()
    evaluated(home, tmp_path / "rival", *files(home), "--judge", "cafe", "--labels.people", "9", "--against", "people")
    assert "What labels buy" not in write_report(tmp_path / "rival").read_text()  # nobody wins over himself


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--samples.a", "people", "--samples.b", "others"), "the prompt 'hi' is in PEOPLE but not in OTHERS"),
        (("--samples.a", "others", "--data", "prompts"), "the prompt 'hi' is in PROMPTS but not in OTHERS"),
        (("--samples.a", "people", "--models.a", "base"), "a names both a model and a file of answers"),
        (("--samples.a", "people", "--reference", "a"), "--reference a is none of the models named: none"),
        (("--samples.a", "people", "--against", "b"), "--against b is none of the models and files named: a"),
        (("--models.a", "base"), "models need prompts to answer: give --data."),
        (
            ("--data", "prompts"),
            "nothing to compare: give models by --models.NAME, files of answers by --samples.NAME.",
        ),
        (("--samples.a", "prompts"), "a sample needs the columns prompt and completion"),
        (
            ("--models.a", "base", "--data", "prompts", "--reference", "a", "--temperature", "0"),
            "divergence from a reference needs sampled answers, and --temperature 0 does not sample",
        ),
        (("--samples.a", "people", "--temperatures", "1"), "--temperatures needs --against, the model whose answers"),
        (
            ("--samples.a", "people", "--against", "a", "--temperatures", "1"),
            "--temperatures needs a model by --models.NAME besides a.",
        ),
        (
            ("--samples.a", "people", "--against", "a", "--models.b", "base", "--temperatures", "-1"),
            "--temperatures must be at least 0, not -1",
        ),
        (
            ("--samples.a", "people", "--against", "a", "--models.b", "base", "--temperatures", "1", "0.5", "1"),
            "--temperatures has 1 twice; give each once.",
        ),
        (("--samples.a", "people", "--limit", "0"), "the limit on rows must be at least 1, not 0"),
        (("--samples.a", "people", "--labels.b", "9"), "--labels.b is of none of the models and files named: a."),
        (("--samples.a", "people", "--labels.a", "-1"), "--labels.a must be at least 0, not -1."),
    ],
)
def test_what_does_not_fit_is_refused(
    options: tuple[str, ...], message: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {name: str(home / f"{name}.jsonl") for name in ("people", "others", "prompts")} | {
        "base": str(home / "base")
    }
    out = tmp_path / "out"
    assert accord("evaluate", "models", "--judge", "cafe", "--out", out, *(paths.get(o, o) for o in options)) == 2
    for name, path in paths.items():
        message = message.replace(name.upper(), path)
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()
