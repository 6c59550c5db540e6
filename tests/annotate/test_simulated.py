"""Simulated people: the same room, unattended; never mixed with people; and what the pipeline's page says of them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from accord.annotate import Project, assign
from accord.records import Message
from accord.results import PeopleResult, load
from accord.worlds.cafe import gold
from tests.annotate.conftest import PAIRS, person
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl

ANSWERS = ("We have soup.", "Yes, we have tea today.", "We open at eight. Thank you, have a good day.")
ASKED = [f"do you have {what} {when} ?" for what in ("tea", "soup", "a waffle") for when in ("today", "tonight", "now")]
SAMPLES = [{"prompt": prompt, "completion": text} for prompt in ASKED for text in ANSWERS]
LONGER = """def longer(prompts, firsts, seconds, **_):
    with open("calls.txt", "a") as calls:
        calls.write("x" * len(firsts))
    return [float(len(a) > len(b)) for a, b in zip(firsts, seconds)]
"""


def served(folder: Path, *words: object, database: str = "labels.db", out: str = "rows.jsonl") -> int:
    return accord("annotate", "serve", "--database", folder / database, "--out", folder / out, *words)


def test_each_answers_by_the_gold(tmp_path: Path) -> None:
    """Who never errs prefers what the gold reward does; orders, overlap and `until` are as people have them."""
    data = write_jsonl(tmp_path / "samples.jsonl", SAMPLES)
    few = ("--data", data, "--overlap", 2, "--people", 2, "--simulated", "cafe")
    assert served(tmp_path, *few, "--until", 20) == 0
    assert len(read_jsonl(tmp_path / "rows.jsonl")) == 20
    assert served(tmp_path, *few) == 0  # goes on where it was
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert Counter(row["annotator"] for row in rows) == {"simulated-1": 27, "simulated-2": 27}
    for row in rows:
        (asked,) = row["prompt"] if isinstance(row["prompt"], list) else ({"content": row["prompt"]},)
        chosen, rejected = (
            gold((Message("user", asked["content"]),), text if isinstance(text, str) else text[0]["content"])
            for text in (row["chosen"], row["rejected"])
        )
        assert (chosen == rejected) if row.get("tied") else (chosen > rejected)
        assert row["seconds"] == 0
    orders = {item: [r["order"] for r in rows if r["item"] == item] for item in {r["item"] for r in rows}}
    assert all(first == second[::-1] for first, second in orders.values())
    result = load(tmp_path)
    assert isinstance(result, PeopleResult) and (result.hours, result.answers) == (0.0, 54)
    assert result.agreement is not None and result.agreement.agreement.estimate == 1
    assert result.warnings == ["54 of 54 answers are simulated people's, whose time on task is 0, and costs nothing."]


def test_a_ranking_is_of_how_many_each_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judging.py").write_text(LONGER)
    data = write_jsonl(tmp_path / "samples.jsonl", SAMPLES)
    words = ("--data", data, "--task", "rank", "--simulated", "judging:longer", "--until", 4)
    assert served(tmp_path, *words) == 0
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert [row["ranks"] for row in rows] == [[2, 1, 0]] * 4
    # Three pairs of each of four items in both orders, and nothing about the five that nobody was asked.
    assert len((tmp_path / "calls.txt").read_text()) == 4 * 3 * 2


def test_people_and_simulated_people_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--data", write_jsonl(tmp_path / "samples.jsonl", SAMPLES))
    simulated = (*data, "--simulated", "cafe", "--until", 3)
    assert served(tmp_path, *simulated) == 0
    assert served(tmp_path, *data, "--until", 3, "--port", 0) == 2  # else it would end at once with their answers
    assert "has simulated people's answers (simulated-1), which would count as people's" in capsys.readouterr().err
    database = tmp_path / "labels.db"
    assert accord("annotate", "people", "--database", database, "--withdraw", "simulated-1") == 0
    assert served(tmp_path, *simulated) == 0
    assert {row["annotator"] for row in read_jsonl(tmp_path / "rows.jsonl")} == {"simulated-2"}
    assert accord("annotate", "people", "--database", database, "--add", "simulated-9") == 2
    project = Project.open(tmp_path / "people.db")
    project.add(PAIRS)
    project.add_people(["ann"])
    slot = assign.next_slot(project, person(project, "ann"))
    assert slot is not None
    said = {"better": 1, "strength": "much", "comment": ""}
    assert slot.id is not None
    assign.store(project, person(project, "ann"), slot.id, said, 1.0)
    assert served(tmp_path, *simulated, database="people.db") == 2
    assert "has people's answers (ann), which would count as simulated people's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--task", "rate", "--simulated", "cafe"), "rate compares nothing"),
        (("--agreement", 0.9), "give --simulated too"),
        (("--simulated", "cafee"), "did you mean cafe?"),
        (("--simulated", "cafe", "--agreement", 1.5), "must lie between .5 and 1, not 1.5"),
        (("--simulated", "number", "--agreement", 0.9), "number is none"),
        (("--simulated", "cafe", "--agreement", 0.9, 0.6, "--people", 3), "is of 2 people, and --people says 3"),
    ],
)
def test_wrong_use_makes_no_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[object, ...], message: str
) -> None:
    assert served(tmp_path, "--data", write_jsonl(tmp_path / "samples.jsonl", SAMPLES), *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "labels.db").exists()


def test_the_page_shows_people_and_the_held_out_accuracy_of_what_learned_from_them(tmp_path: Path) -> None:
    stages = {
        "people": {
            "command": "annotate serve", "database": str(tmp_path / "labels.db"), "overlap": 2, "hourly_cost": 20,
            "data": write_jsonl(tmp_path / "samples.jsonl", SAMPLES), "simulated": "cafe", "agreement": "${agreement}",
        },
        "reward": {
            "command": "reward", "model": str(save_model(tmp_path / "base")), "data": "${people}/annotations.jsonl",
            "eval_split": 0.3, "batch_size": 8, "dtype": "float32",
        },
    }  # fmt: skip
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump({"variables": {"agreement": None}, "stages": stages}, sort_keys=False))
    assert accord("run", recipe, "--out", out, "--agreement", "[.9, .7]") == 0
    page = " ".join(re.sub(r"<[^>]+>", " ", (out / "report.html").read_text(encoding="utf-8")).split())
    result = load(out / "people")
    assert isinstance(result, PeopleResult) and result.agreement is not None
    kappa = result.agreement.pairs[0].kappa
    assert f"Answers 54 of 54 Hours on task 0.00 Cost 0.00 Agreement {result.agreement.agreement:.2f}" in page
    assert f"Cohen's kappa {kappa:.2f}" in page.replace("&#39;", "'")
    assert "54 of 54 answers are simulated people&#39;s" in page
    accuracy = read_jsonl(out / "reward" / "metrics.jsonl")[-1]["eval_accuracy"]
    assert re.search(rf"held out.*{100 * accuracy:.1f}%|held out.*{accuracy:.2f}", page)
