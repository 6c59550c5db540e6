"""Self-consistency: what most samples answer is learned, by hand and in a run without answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from accord.engine.load import load_model
from accord.errors import InputError
from accord.feedback.verifiers import number
from accord.methods import SelfConsistency
from accord.methods.rounds import Round, Selection
from accord.records import Completion, EncodedPrompt, Prompt, Sample
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl

SAID = [
    ["it is 4", "4.0", "so 5", "so 4"],  # 4, by three of four
    ["7", "8", "7", "8"],  # a tie
    ["no idea", "well", "2 it is", "..."],  # 2, by one of four
    ["none", "of", "these", "answers"],
    ["9 eggs", "9 (cut)", "10 (cut)", "10 (cut)"],  # those cut answer nothing: 9, by one of four
]


def selected(answers: list[Any], **given: Any) -> Selection:
    """Of the samples above, with the true answers of the prompts."""
    rows = [Prompt(f"question {i}", {"answer": a} if a is not None else {}) for i, a in enumerate(answers)]
    prompts = [EncodedPrompt(row, (i,), i) for i, row in enumerate(rows)]
    samples = [
        Sample(rows[i], text, (i,), Completion((j,), (0.0,), "length" if "cut" in text else "end"), i)
        for i, group in enumerate(SAID)
        for j, text in enumerate(group)
    ]
    method = SelfConsistency(group_size=4, **given)
    return method.select(Round(method, 1, cast(Any, None), number()), prompts, samples)


def test_samples_that_agree_with_the_majority_are_learned() -> None:
    samples, numbers = selected(["4", "7", "3", "1", "9"])
    learned = [(s.row, s.completion.tokens[0]) for s in samples]
    assert learned == [(0, 0), (0, 1), (0, 3), (2, 2), (4, 0)]
    # The shares that lead: 3/4, 2/4, 1/4, none, 1/4. Of the three labels 4 and 9 are right, and 2 is not.
    assert numbers == {"labeled": 3 / 5, "agreement": 7 / 20, "labels_right": pytest.approx(2 / 3)}


def test_confidence_leaves_out_what_few_agree_on() -> None:
    samples, numbers = selected(["4", "7", "3", "1", "9"], confidence=0.5)
    assert [s.row for s in samples] == [0, 0, 0]
    assert numbers == {"labeled": 1 / 5, "agreement": 7 / 20, "labels_right": 1.0}
    assert selected(["4"] * 5, confidence=0.8)[0] == []


def test_true_answers_are_not_needed() -> None:
    with_some, numbers = selected(["4", None, "3", "1", "9"])
    assert numbers == {"labeled": 3 / 5, "agreement": 7 / 20}
    assert [s.completion for s in with_some] == [s.completion for s in selected(["4", "7", "3", "1", "9"])[0]]


def test_a_run_without_answers(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    data = write_jsonl(tmp_path / "rows.jsonl", [Prompt("hi"), Prompt("good day"), Prompt("bye")])
    common = ("--model", base, "--data", data, "--max-new-tokens", 5, "--dtype", "float32", "--group-size", 8)
    run = ("self-consistency", *common, "--verifier", "regex:(good|bad)", "--out", tmp_path / "run")
    assert accord(*run) == 0
    rows = read_jsonl(tmp_path / "run" / "round-1.jsonl")
    assert rows and {row["tokens"][-1] for row in rows} == {load_model(base).end}
    for row in {row["row"] for row in rows}:  # of one prompt all agree
        said = [[w for w in r["completion"].split() if w in ("good", "bad")][-1] for r in rows if r["row"] == row]
        assert len(set(said)) == 1
    [metrics] = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert metrics["labeled"] == pytest.approx(len({row["row"] for row in rows}) / 3) and "labels_right" not in metrics


def test_a_reward_that_reads_no_answers_is_refused(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    for verifier in (lambda prompts, completions: [1.0] * len(completions), "0.5 * number + 0.5 * exact"):
        with pytest.raises(InputError, match="self-consistency needs a verifier that can read answers"):
            SelfConsistency(max_new_tokens=4).fit(base, [Prompt("hi")], verifier=verifier, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"group_size": 1}, "group_size must be at least 2, as self-consistency compares the samples of one prompt"),
        ({"confidence": 1.5}, "confidence is a share of the samples in .0, 1., not 1.5"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SelfConsistency(**given)
