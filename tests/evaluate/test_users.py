"""Users one by one: whose preference a row is, from the file to the accuracy of each user and group, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from accord.cli.label import comparisons_of
from accord.data.judgments import Judgment, load_judgments
from accord.data.load import load_data
from accord.errors import InputError
from accord.evaluate.accuracy import Predictions
from accord.evaluate.statistics import bootstrap_mean, wilson
from accord.evaluate.users import by_user
from accord.feedback.people import labeled, to_ranking
from accord.records import Comparison, Preference, Prompt, Ranking, Verdict, row_to_json


def judged(*of: tuple[str, str, bool]) -> Predictions:
    """A judgment of each (user, group, whether what they preferred leads)."""
    rows = [Judgment(f"p{i}", "a", "b", 1.0, i, "", user, group) for i, (user, group, _) in enumerate(of)]
    return Predictions(rows, np.array([1.0 if right else -1.0 for *_, right in of]))


def test_every_user_has_one_voice() -> None:
    """Ann is right 3 of 4 times, bob 0 of 1, cyd 1 of 1: the mean of users is 7/12, that of judgments 4/6."""
    found = by_user(
        judged(*[("ann", "x", i > 0) for i in range(4)], ("bob", "y", False), ("cyd", "x", True), ("", "", False))
    )
    assert found is not None and found.users == 3
    assert found.mean == bootstrap_mean([0.75, 0.0, 1.0]) and found.mean.estimate == pytest.approx(7 / 12)
    assert (found.worst.label, found.worst.accuracy) == ("bob", wilson(0, 1))
    assert [(g.label, g.accuracy.estimate) for g in found.groups] == [("y", 0.0), ("x", 0.875)]
    assert found.groups[0].accuracy == wilson(0, 1)  # users who are all alike give no bootstrap


def test_one_user_is_not_told_apart_and_nobody_is_of_two_groups() -> None:
    assert by_user(judged(("ann", "", True), ("ann", "", False))) is None
    with pytest.raises(InputError, match="row 2: the annotator ann is in the group 'y', but in 'x' in an earlier row"):
        by_user(judged(("ann", "x", True), ("ann", "y", False), ("bob", "x", True)))


def test_rows_say_whose_preference_they_are(tmp_path: Path) -> None:
    """A user, or else who annotated; what accord writes it reads back."""
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    rows = [{**pair, "user": 7, "annotator": "ann"}, {**pair, "annotator": "ann"}, pair]
    read = load_data(rows)
    assert [row.user for row in read if isinstance(row, Preference)] == ["7", "ann", ""]
    assert [row_to_json(row).get("user") for row in read] == ["7", "ann", None]
    (ranking,) = load_data([{"prompt": "p", "completions": ["a", "b"], "ranks": [0, 1], "user": "ann"}])
    assert load_data([row_to_json(ranking)]) == [Ranking("p", ("a", "b"), (0, 1), "ann")]
    named = [{"prompt": "p", "x": "a", "y": "b", "label": 1, "user": "ann", "group": "g"}]
    for found in (load_judgments(named, columns={"first": "x", "second": "y"}), load_judgments([{**pair, **named[0]}])):
        assert [(j.annotator, j.group) for j in found] == [("ann", "g")]
    assert load_judgments([{**pair, "annotator": "ann", "group": "g"}])[0].group == ""  # of nobody known as a user


def test_what_is_labeled_keeps_its_user() -> None:
    """Answers to one question that were drawn for different users are not compared with each other."""
    samples = [(Prompt("p", {"user": user}), text) for user, text in (("u", "a"), ("v", "b"), ("u", "c"), ("v", "d"))]
    pairs = comparisons_of(samples)
    assert pairs == [Comparison("p", "a", "c", {"user": "u"}), Comparison("p", "b", "d", {"user": "v"})]
    verdicts = [Verdict(1.0), Verdict(0.25)]
    assert labeled(pairs, verdicts)[0] == [Preference("p", "a", "c", user="u"), Preference("p", "d", "b", user="v")]
    assert to_ranking(pairs[1:], verdicts[1:]) == Ranking("p", ("b", "d"), (1, 0), "v")


def test_the_command_shows_users_and_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.commands.small import accord, write_jsonl

    pairs = [
        ("ann", "kind", "the pie is lovely .", "the pie is awful ."),
        ("bob", "stern", "the pie is bland .", "the pie is lovely ."),
    ]
    rows = [
        {"prompt": f"how is the pie {i} ?", "chosen": a, "rejected": b, "user": user, "group": group}
        for i in range(3)
        for user, group, a, b in pairs
    ]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    options = ("--reward", "cafe", "--probes", 0, "--out", tmp_path / "out")
    assert accord("evaluate", "comparisons", "--data", data, *options) == 0
    found = json.loads((tmp_path / "out/evaluation.json").read_text())["users"]
    assert (found["users"], found["mean"]["n"]) == (2, 2)
    assert [group["label"] for group in found["groups"]] == ["stern", "kind"]
    assert "the mean of 2" in capsys.readouterr().out
