"""`accord annotate curve`: whom it holds out, what each model learned and got right, and where it is shown."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from accord.annotate import Project
from accord.annotate.serve import make_app
from accord.cli.annotate_curve import divided, is_held_out
from accord.evaluate.learning_curve import HeldOutOutcomes, learning_curve
from accord.records import Message
from accord.report import write_report
from accord.results import ComparisonsResult, LearningCurveResult, load
from tests.commands.small import QUICK, accord, read_jsonl, save_model, write_jsonl

WORDS = ("hi", "hello", "good", "bad", "day", "bye")
ASKED = [" ".join(words) for words in product(WORDS, repeat=3)][:120]
PAIRS = [{"prompt": p, "chosen": f"good {WORDS[i % 6]}", "rejected": f"bad {WORDS[i % 5]}"}
         for i, p in enumerate(ASKED)]  # fmt: skip
SETTINGS = ("--learning-rate", 0.01, *QUICK)


def test_prompts_are_held_out_by_their_digest_alone() -> None:
    """The same ones however many there are; a chat by its JSON; of 120 prompts about a quarter."""
    digest = hashlib.sha256(b'[{"content": "hi", "role": "user"}]').digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    chat = (Message("user", "hi"),)
    assert is_held_out(chat, share + 1e-9) and not is_held_out(chat, share - 1e-9)
    few, many = (divided(PAIRS[:n], None, 0.4, "rows") for n in (80, 120))
    held = [{judgment.prompt for judgment in labels.held} for labels in (few, many)]
    assert held[0] == held[1] & set(ASKED[:80]) and 0.3 * 120 < len(held[1]) < 0.5 * 120
    assert not held[1] & set(many.rows) and held[1] | set(many.rows) == set(ASKED)


def test_subsets_are_nested_and_ties_are_left_out() -> None:
    ranked = [{"prompt": row["prompt"], "completions": [row["chosen"], row["rejected"]], "ranks": [0, 1]}
              for row in [*PAIRS, *PAIRS[:30]]]  # fmt: skip
    rows = [*ranked, {"prompt": "hi", "completions": ["good", "bad"], "ranks": [0, 0]}]
    labels = divided(rows, None, 0.3, "rows")
    assert labels.warnings == ["1 rows that prefer no answer are left out."]
    first, again, other = labels.nested(0), labels.nested(0), labels.nested(1)
    assert first == again != other and sorted(map(str, first)) == sorted(map(str, other))
    asked = [row.prompt for row in first]
    assert len(dict.fromkeys(asked)) == 1 + sum(a != b for a, b in pairwise(asked))  # in runs


def foretold(target: float | None = None) -> LearningCurveResult:
    """An exact curve."""
    sizes = np.array([50.0, 100.0, 200.0])
    right = np.broadcast_to((0.9 - 2 * sizes**-0.5)[None, :, None], (2, 3, 30))
    return learning_curve(HeldOutOutcomes(sizes, right, np.ones(30)), target)


def test_the_owner_sees_the_newest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not before it was measured; the one before is replaced; `status` tells it too."""
    project = Project.open(tmp_path / "labels.db")
    project.add(PAIRS[:3])
    client = TestClient(make_app(project))
    client.cookies.set("owner", project.new_owner())
    assert "Learning curve" not in client.get("/owner").text
    old, new = foretold(0.99), foretold(0.85)
    project.keep_curve("compare", old)
    project.keep_curve("compare", new)
    assert project.curves() == {"compare": new} and old.sentence() != new.sentence()
    page = client.get("/owner").text
    assert "Learning curve" in page and new.svg() in page and new.sentence() in page
    assert accord("annotate", "status", "--database", tmp_path / "labels.db") == 0
    assert new.sentence() in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_each_accuracy_is_that_of_a_reward_model_of_its_labels(tmp_path: Path) -> None:
    """The same by `accord reward` and `accord evaluate comparisons` on files; and where the result is shown."""
    base, data, database = save_model(tmp_path / "base"), tmp_path / "rows.jsonl", tmp_path / "labels.db"
    words = ("--database", database, "--data", write_jsonl(tmp_path / "pairs.jsonl", PAIRS), "--until", 110)
    assert accord("annotate", "serve", *words, "--simulated", tmp_path / "pairs.jsonl", "--out", data) == 0
    words = ("--model", base, "--database", database, "--out", tmp_path / "curve")
    assert accord("annotate", "curve", *words, *SETTINGS, "--repeats", 2, "--seed", 3) == 0
    result = load(tmp_path / "curve")
    assert isinstance(result, LearningCurveResult)
    labels = divided(str(data), None, 0.25, "rows")
    total = sum(map(len, labels.rows.values()))
    assert [point.labels for point in result.points] == [total // part for part in (8, 4, 2, 1)]
    assert result.prompts == len(labels.held) and result.labels + result.prompts == 110
    write_jsonl(tmp_path / "held.jsonl", [row for row in read_jsonl(data) if is_held_out(row["prompt"], 0.25)])
    for repeat, size in ((1, total // 4), (0, total)):
        learned = write_jsonl(tmp_path / f"{size}.jsonl", labels.nested(3 + repeat)[:size])
        reward, check = tmp_path / f"reward-{size}", tmp_path / f"check-{size}"
        words = ("--model", base, "--data", learned, "--out", reward, "--seed", 3 + repeat)
        assert accord("reward", *words, *SETTINGS) == 0
        words = ("--reward", reward / "model", "--data", tmp_path / "held.jsonl", "--out", check, "--probes", 0)
        assert accord("evaluate", "comparisons", *words) == 0
        trial = load(check)
        assert isinstance(trial, ComparisonsResult)
        (run,) = [point.runs[repeat] for point in result.points if point.labels == size]
        assert run == pytest.approx(trial.accuracy.estimate, abs=1e-12)
    page = write_report(tmp_path / "curve").read_text(encoding="utf-8")
    assert "What more labels would buy" in page and result.svg() in page
    assert Project.open(database).curves() == {"compare": result}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give --database, a project, or --data"),
        (("--data", "rows.jsonl", "--database", "labels.db"), "give --database, a project, or --data"),
        (("--data", "rows.jsonl", "--repeats", 1), "--repeats must be at least 2, not 1"),
        (("--data", "rows.jsonl", "--held-out", 1), "--held-out must be a share of the prompts between 0 and 1, not 1"),
        (
            ("--data", "rows.jsonl", "--target", 0.4),
            "--target must be an accuracy between .5 (chance) and 1, not 0.4",
        ),
        (("--data", "rows.jsonl", "--epochs", -1), "epochs"),
        (
            ("--data", "few.jsonl"),
            "few.jsonl: too few to tell anything: 37 labels to learn from and 13 prompts held out",
        ),
        (("--data", "tied.jsonl"), "tied.jsonl: too few to tell anything: 0 labels"),
        (("--data", "written.jsonl"), "written.jsonl holds no comparisons"),
        (("--database", "no.db"), "there is no database no.db"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: tuple[object, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("rows.jsonl"), PAIRS)
    write_jsonl(Path("few.jsonl"), PAIRS[:50])
    write_jsonl(Path("tied.jsonl"), [{"prompt": p, "completions": ["a", "b"], "ranks": [0, 0]} for p in ASKED])
    write_jsonl(Path("written.jsonl"), [{"prompt": p, "completion": "a"} for p in ASKED])
    assert accord("annotate", "curve", "--model", "base", "--out", "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists() or not any(Path("out").iterdir())


def test_a_curve_survives_as_json() -> None:
    assert LearningCurveResult.model_validate(json.loads(foretold(0.99).model_dump_json())) == foretold(0.99)
