"""`accord evaluate comparisons` and `accord evaluate agreement`: what is on trial, and what the file says of it."""

from __future__ import annotations

import json
import sys
from math import log
from pathlib import Path
from typing import Any

import pytest

from accord.records import Preference, Ranking
from tests.commands.small import QUICK, accord, save_model, write_jsonl

PAIRS = [Preference("hi", "good", "bad"), Preference("bye", "hi", "day"), Preference("day", "good bye", "hello")]

FUNCTIONS = """
def length(prompts, completions):
    return [float(len(c)) for c in completions]

def first(prompts, firsts, seconds):
    return [None if "day" in (a, b) else 0.9 for a, b in zip(firsts, seconds)]

def right(prompts, firsts, seconds):
    return [0.8 if len(a) >= len(b) else 0.2 for a, b in zip(firsts, seconds)]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a preference model, and the pairs."""
    folder = tmp_path_factory.mktemp("home")
    base, pairs = save_model(folder / "base"), write_jsonl(folder / "pairs.jsonl", PAIRS)
    options = ("--model", base, "--data", pairs, "--out", folder / "preference", "--learning-rate", "1e-2")
    assert accord("preference", *options, *QUICK) == 0
    return folder


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trialled.py").write_text(FUNCTIONS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("trialled", None)


def tried(out: Path, data: object, *options: object) -> dict[str, Any]:
    assert accord("evaluate", "comparisons", "--data", data, "--out", out, *options) == 0
    return json.loads((out / "evaluation.json").read_text())


def test_a_function_of_one_text(functions: None, tmp_path: Path) -> None:
    # Longer is preferred in rows 1 and 3; both are equally long in row 2, and tied labels are not asked about.
    rows = [
        {"q": "p1", "a": "long one", "b": "one", "l": 1, "source": "x"},
        {"q": "p2", "a": "same", "b": "size", "l": "2", "source": "y"},
        {"q": "p3", "a": "one", "b": "long one", "l": 2.0, "source": "y"},
        {"q": "p4", "a": "one", "b": "two words", "l": "Tie", "source": "y"},
    ]
    named = ("--columns.prompt", "q", "--columns.first", "a", "--columns.second", "b", "--columns.label", "l")
    found = tried(tmp_path, write_jsonl(tmp_path / "rows.jsonl", rows), "--reward", "trialled:length", *named)
    assert (found["kind"], found["name"], found["unit"]) == ("comparisons", "reward", "score")
    assert (found["accuracy"]["estimate"], found["accuracy"]["n"]) == (pytest.approx(2.5 / 3), 3)
    assert (found["rows"], found["ties"], found["labeled_ties"], found["invalid"]) == (4, 1, 1, 0)
    assert [(p["label"], p["accuracy"]["estimate"]) for p in found["by_source"]] == [("y", 0.75), ("x", 1.0)]
    assert [p["label"] for p in found["by_length"]] == ["chosen longer", "about equal"]
    assert found["calibration"] is None and found["ranking"] is None
    assert found["on_ties"]["from_half"] is None  # characters are no probability ...
    assert found["on_ties"]["nearer"]["estimate"] == 0.0  # ... but 6 of them are more than 5, 5 and 0
    assert found["length_correlation"]["estimate"] == pytest.approx(1.0)
    assert {p["name"]: p["preferred"]["estimate"] for p in found["probes"]} == {
        "length": 1.0,
        "repetition": 1.0,
        "politeness": 1.0,
        "truncation": 0.0,
    }
    assert found["warnings"] == ["The interval of the accuracy rests on 3 pairs: fewer than 20 make it unreliable."]


def test_beta_makes_scores_log_odds(functions: None, tmp_path: Path) -> None:
    # One pair of lengths 5 and 1, and beta 1/4: the log-odds are 1, and sigmoid(1) = .7310586.
    data = write_jsonl(tmp_path / "rows.jsonl", [Preference("p", "longs", "s")])
    found = tried(tmp_path, data, "--reward", "trialled:length", "--beta", "0.25", "--probes", "0")
    assert (found["unit"], found["probes"], found["by_margin"][0]["label"]) == ("log-odds", [], "1.00 to 1.00")
    assert found["calibration"]["bins"][0]["confidence"] == pytest.approx(0.7310586)


def test_a_judge_of_two_texts_is_asked_in_both_orders(functions: None, tmp_path: Path) -> None:
    # It says .9 for whichever is first: in both orders together 1/2, right nowhere and wrong nowhere. Of 'day' it says
    # nothing, which is no tie: that pair is counted apart.
    data = write_jsonl(tmp_path / "rows.jsonl", PAIRS)
    found = tried(tmp_path, data, "--reward", "trialled:first")
    assert (found["name"], found["unit"]) == ("judge", "probability")
    assert (found["accuracy"]["estimate"], found["accuracy"]["n"], found["ties"], found["invalid"]) == (0.5, 2, 2, 1)
    assert "1 of 3 pairs have no valid verdict and are left out of other numbers." in found["warnings"]
    place = {p["name"]: p for p in found["probes"]}["position"]
    assert (place["changed"]["estimate"], place["preferred"]["estimate"], place["shift"]) == (1.0, 1.0, None)
    # One that judges by length says the same in both orders, and its .8 is a probability.
    found = tried(tmp_path, data, "--reward", "trialled:right")
    assert {p["name"]: p for p in found["probes"]}["position"]["changed"]["estimate"] == 0.0
    assert found["calibration"]["bins"][0]["confidence"] == pytest.approx((0.8 + 0.8 + 0.8) / 3)


def test_a_world_by_name_and_the_file_of_people_who_judged(tmp_path: Path) -> None:
    rows = [Preference("hi", "the soup is rich .", "soup soup"), Preference("bye", "the tart is warm .", "x")]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert tried(tmp_path, data, "--reward", "cafe")["accuracy"]["estimate"] == 1.0
    found = tried(tmp_path, data, "--reward", data)
    assert (found["name"], found["accuracy"]["estimate"], found["probes"]) == ("judge", 1.0, [])


def test_rankings_and_a_preference_model(home: Path, tmp_path: Path) -> None:
    rows = [Ranking(p, ("good", "bad", "good day", "hello"), (0, 1, 1, 2)) for p in ("hi", "day", "bye")]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    found = tried(tmp_path, data, "--reward", home / "preference" / "model", "--dtype", "float32")
    assert (found["name"], found["unit"], found["accuracy"]["n"], found["labeled_ties"]) == (
        "preference model",
        "log-odds",
        15,
        3,
    )
    assert (found["ranking"]["rows"], found["ranking"]["cyclic"], found["ranking"]["chance"]) == (3, 0, 0.25)
    assert "15 pairs of 3 prompts" in found["warnings"][0]
    assert {p["name"] for p in found["probes"]} >= {"length", "repetition", "politeness"}


def test_an_implicit_reward_has_probabilities_by_its_beta(home: Path, tmp_path: Path) -> None:
    options = ("--policy", home / "base", "--dtype", "float32", "--probes", "0")
    plain = tried(tmp_path, home / "pairs.jsonl", *options)
    scaled = tried(tmp_path, home / "pairs.jsonl", *options, "--beta", "0.1")
    assert (plain["unit"], plain["calibration"], scaled["unit"]) == ("score", None, "log-odds")
    low, high = (float(x) for x in plain["by_margin"][-1]["label"].split(" to "))
    assert scaled["by_margin"][-1]["label"] == f"{low / 10:.2f} to {high / 10:.2f}"
    most = scaled["calibration"]["bins"][-1]["confidence"]
    assert 0.5 <= most < 1 and log(most / (1 - most)) <= high / 10 + 0.01


def test_pairs_that_do_not_fit_are_left_out(home: Path, tmp_path: Path) -> None:
    rows = [*PAIRS, Preference("hi hi hi hi hi hi", "good", "bad")]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    options = ("--reward", home / "preference" / "model", "--max-length", "6", "--dtype", "float32")
    found = tried(tmp_path, data, *options)
    assert (found["accuracy"]["n"], found["left_out"]) == (3, 1)
    assert any(w.startswith("1 of 4 pairs are left out (the first: 4): within --max-length") for w in found["warnings"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--reward", "cafe", "--probes", "-1"), "--probes must be 0 or more"),
        (("--reward", "cafe", "--beta", "0"), "--beta above 0"),
        (("--reward", "PREFERENCE", "--beta", "1"), "already gives probabilities; leave it out"),
        (("--reward", "cafe", "--policy", "BASE"), "give --reward, or --policy"),
        (("--reward", "cafe", "--columns.frist", "a"), "did you mean first?"),
    ],
)
def test_options_that_do_not_fit(
    options: tuple[str, ...], message: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"BASE": home / "base", "PREFERENCE": home / "preference" / "model"}
    out = tmp_path / "out"
    given = [places.get(o, o) for o in options]
    assert accord("evaluate", "comparisons", "--data", home / "pairs.jsonl", "--out", out, *given) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not out.exists()


def agreed(out: Path, *options: object) -> dict[str, Any]:
    assert accord("evaluate", "agreement", "--out", out, *options) == 0
    return json.loads((out / "evaluation.json").read_text())


def test_annotators_in_a_column(tmp_path: Path) -> None:
    # Twice both choose x, once both y (in the other order), once they differ: they agree on 3 of 4. In both orders half
    # of all labels are 1, so kappa is (.75 - .5) / .5.
    labels = [("p1", "x", "y", 1, 1), ("p2", "x", "y", 1, 1), ("p3", "y", "x", 1, 1), ("p4", "x", "y", 1, 2)]
    rows = [
        {"prompt": p, "one": a, "two": b, "label": label, "worker": who}
        for p, a, b, *both in labels
        for who, label in zip(("ann", "bob"), both, strict=True)
    ]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    named = ("--columns.first", "one", "--columns.second", "two", "--columns.annotator", "worker")
    found = agreed(tmp_path, "--data", data, *named)
    assert (found["kind"], found["annotators"], found["items"]) == ("agreement", ["ann", "bob"], 4)
    (pair,) = found["pairs"]
    assert (pair["agreement"]["estimate"], pair["kappa"]["estimate"]) == (0.75, pytest.approx(0.5))
    assert found["fleiss"]["estimate"] == pytest.approx(0.5)
    assert found["ceiling"]["estimate"] == pytest.approx((1 + 0.5**0.5) / 2)
    assert found["warnings"] == ["The intervals rest on 4 items: fewer than 20 make them unreliable."]


def test_annotators_in_files(tmp_path: Path) -> None:
    # Two label the same pairs, one of them the other way round; the third judged only one of them.
    ann = write_jsonl(tmp_path / "ann.jsonl", PAIRS)
    bob = write_jsonl(tmp_path / "bob.jsonl", [Preference("hi", "bad", "good"), *PAIRS[1:]])
    eve = write_jsonl(tmp_path / "eve.jsonl", PAIRS[:1])
    found = agreed(tmp_path, "--annotators.ann", ann, "--annotators.bob", bob, "--annotators.eve", eve)
    agreement = {(p["a"], p["b"]): (p["items"], p["agreement"]["estimate"]) for p in found["pairs"]}
    assert agreement == {
        ("ann", "bob"): (3, pytest.approx(2 / 3)),
        ("ann", "eve"): (1, 1.0),
        ("bob", "eve"): (1, 0.0),
    }
    # Items: one with three raters of whom one pair of three agrees, two with two who do.
    assert found["agreement"]["estimate"] == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert found["fleiss"] is None and any("Krippendorff's alpha does not" in w for w in found["warnings"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --data, a file that names annotators, or --annotators.NAME"),
        (("--data", "PAIRS"), "row 1: the annotator is missing; name the column by --columns.annotator."),
        (("--annotators.ann", "PAIRS"), "only ann judged; agreement needs two annotators."),
        (("--annotators.ann", "PAIRS", "--annotators.bob", "OTHERS"), "no two annotators judged the same completions"),
    ],
)
def test_what_has_no_agreement(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "PAIRS": write_jsonl(tmp_path / "pairs.jsonl", PAIRS),
        "OTHERS": write_jsonl(tmp_path / "others.jsonl", [Preference("other", "good", "bad")]),
    }
    out = tmp_path / "out"
    assert accord("evaluate", "agreement", "--out", out, *(files.get(o, o) for o in options)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not out.exists()
