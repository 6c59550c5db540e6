"""`accord evaluate`: comparisons measure a reward model or a policy, prompts measure models against each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.records import Preference, Prompt
from tests.commands.small import QUICK, accord, read_jsonl, save_model, write_jsonl

CAFE = ("--judge", "cafe")
PAIRS = [Preference("hi", "good", "bad"), Preference("bye", "hi", "day"), Preference("day", "good bye", "hello")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a reward model and a policy tuned on the pairs."""
    folder = tmp_path_factory.mktemp("home")
    base, pairs = save_model(folder / "base"), write_jsonl(folder / "pairs.jsonl", PAIRS)
    write_jsonl(folder / "prompts.jsonl", [Prompt("hi"), Prompt("good day"), Prompt("bye")])
    for command in ("reward", "dpo"):
        options = ("--model", base, "--data", pairs, "--out", folder / command, "--learning-rate", "1e-2")
        assert accord(command, *options, *QUICK) == 0
    return folder


def evaluated(home: Path, out: Path, question: str, data: str, *options: object) -> dict[str, Any]:
    arguments = ("--data", home / f"{data}.jsonl", "--out", out, "--dtype", "float32")
    assert accord("evaluate", question, *arguments, *options) == 0
    return json.loads((out / "evaluation.json").read_text())


def test_implicit_rewards_agree_with_the_scores(home: Path, tmp_path: Path) -> None:
    # The policy's implicit reward is the difference of two `accord score`s.
    tuned = ("--policy", home / "dpo" / "model", "--reference", home / "base")
    found = evaluated(home, tmp_path, "comparisons", "pairs", *tuned, "--ceiling", "0.9")
    rows = []
    for model in (home / "dpo" / "model", home / "base"):
        out = tmp_path / "scores.jsonl"
        assert accord("score", "--model", model, "--data", home / "pairs.jsonl", "--out", out) == 0
        rows.append([r["chosen_logp"] - r["rejected_logp"] for r in read_jsonl(out)])
    right = sum(a > b for a, b in zip(*rows, strict=True))
    assert found["accuracy"]["estimate"] == pytest.approx(right / 3)
    assert (found["kind"], found["name"], found["ceiling"]) == ("comparisons", "implicit reward", 0.9)
    itself = ("--policy", home / "base", "--reference", home / "base")
    same = evaluated(home, tmp_path, "comparisons", "pairs", *itself)
    assert (same["accuracy"]["estimate"], same["ties"]) == (0.5, 3)  # nothing has moved: all implicit rewards are 0


def test_a_reward_model_judges_its_own_labels(home: Path, tmp_path: Path) -> None:
    # Labeled by the reward model itself, every pair is ordered as it orders it.
    rows = [{"prompt": "hi", "completion": c} for c in ("good day", "bad", "hello", "bye")]
    data = write_jsonl(tmp_path / "samples.jsonl", rows)
    labels, model = tmp_path / "labels.jsonl", home / "reward" / "model"
    assert accord("label", "--data", data, "--out", labels, "--judge", model) == 0
    found = evaluated(tmp_path, tmp_path, "comparisons", "labels", "--reward", model)
    assert (found["accuracy"]["estimate"], found["accuracy"]["n"], found["ties"]) == (1.0, 6, 0)
    assert found["name"] == "reward model"


def test_models_against_each_other(home: Path, tmp_path: Path) -> None:
    named = ("--models.sft", home / "base", "--models.dpo", home / "dpo" / "model", "--models.twin", home / "base")
    judged = ("--judge", "cafe", "--reward", home / "reward" / "model", "--against", "sft", "--reference", "sft")
    found = evaluated(home, tmp_path, "models", "prompts", *named, *judged, "--best-of-n", "2", "--max-new-tokens", "4")
    rows = {row["name"]: row for row in found["models"]}
    assert list(rows) == ["sft", "sft best of 2", "dpo", "twin"]
    assert (found["kind"], found["prompts"], found["against"]) == ("models", 3, "sft")
    # The same model with the same seed says the same: three ties, and no divergence at all.
    assert rows["twin"]["win_rate"]["estimate"] == 0.5 and rows["twin"]["win_rate"]["ties"] == 3
    assert rows["sft"]["kl"]["estimate"] == rows["twin"]["kl"]["estimate"] == 0.0
    assert rows["sft"]["win_rate"] is None
    assert rows["twin"]["scores"] == rows["sft"]["scores"]
    assert rows["sft best of 2"]["kl"]["estimate"] == pytest.approx(0.1931472, abs=1e-6)  # log 2 - 1/2
    assert rows["sft best of 2"]["kl"]["bound"] and not rows["dpo"]["kl"]["bound"]
    assert [[a["model"] for a in s["answers"]] for s in found["side_by_side"]] == [list(rows)] * 3
    assert [s["prompt"] for s in found["side_by_side"]] == ["hi", "good day", "bye"]


@pytest.mark.parametrize(
    ("question", "data", "options", "message"),
    [
        ("models", "prompts", ("--models.a", "BASE"), "needs --judge"),
        ("models", "prompts", ("--models.a", "BASE", *CAFE, "--against", "b"), "--against b is none of the models"),
        ("models", "prompts", ("--models.a", "BASE", *CAFE, "--best-of-n", "2"), "--best-of-n needs --reward"),
        ("comparisons", "prompts", (), "or --models and --judge to compare models' answers"),
        ("comparisons", "prompts", ("--reward", "cafe"), "holds no comparisons: rows need chosen and rejected"),
        ("comparisons", "pairs", (), "give --reward, or --policy with --reference"),
        ("comparisons", "pairs", ("--reward", "BASE"), "is not a reward model"),
        ("comparisons", "pairs", ("--reward", "nowhere"), "'nowhere' is neither a verifier, nor module:function"),
    ],
)
def test_options_that_do_not_fit(
    question: str,
    data: str,
    options: tuple[str, ...],
    message: str,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(home / "base") if o == "BASE" else o for o in options]
    out = tmp_path / "out"
    assert accord("evaluate", question, "--data", home / f"{data}.jsonl", "--out", out, *given) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()
