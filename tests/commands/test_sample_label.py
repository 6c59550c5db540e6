"""`accord sample` and `accord label`: what a model says and what a judge makes of it, as rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from accord.cli.label import comparisons_of
from accord.engine.load import load_reward_model
from accord.feedback.learned import LearnedReward
from accord.locks import alone_with
from accord.records import Comparison, Preference, Prompt
from tests.commands.small import QUICK, accord, read_jsonl, save_model, write_jsonl


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "base")


def sampled(base: str, data: str, out: Path, *options: object) -> list[dict[str, object]]:
    common = ("--model", base, "--data", data, "--out", out, "--max-new-tokens", "5", "--dtype", "float32")
    assert accord("sample", *common, *options) == 0
    return read_jsonl(out)


def test_samples_are_rows_with_their_log_probabilities(base: str, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "prompts.jsonl", [Prompt("hi", {"id": 7}), Prompt("good day", {"id": 8})])
    rows = sampled(base, data, tmp_path / "samples.jsonl", "--n", "3")
    assert [(row["id"], row["prompt"]) for row in rows] == [(7, "hi")] * 3 + [(8, "good day")] * 3
    for row in rows:
        assert row["stop"] in ("end", "length") and 1 <= row["tokens"] <= 5
        assert row["stop"] == "end" or row["tokens"] == 5
        assert len(row["completion_ids"]) == row["tokens"]  # type: ignore[arg-type]
    assert sampled(base, data, tmp_path / "again.jsonl", "--n", "3") == rows
    assert sampled(base, data, tmp_path / "other.jsonl", "--n", "3", "--seed", "1") != rows
    alone = sampled(base, data, tmp_path / "one.jsonl", "--n", "3", "--limit", "1")
    assert [row["completion"] for row in alone] == [row["completion"] for row in rows[:3]]


def test_at_temperature_0_every_token_is_the_likeliest(base: str, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "prompts.jsonl", [Prompt("hi")])
    (row,) = sampled(base, data, tmp_path / "samples.jsonl", "--temperature", "0")
    network, tokens = AutoModelForCausalLM.from_pretrained(base), [6]
    for _ in range(row["tokens"]):  # type: ignore[arg-type]
        with torch.no_grad():
            tokens.append(int(network(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    words = {w: i for i, w in enumerate(["<unk>", "<s>", "</s>", "<user>", "<assistant>", "<system>"])}
    spoken = [t for t in tokens[1:] if t not in words.values()]
    names = ["hi", "hello", "good", "bad", "day", "bye"]
    assert row["completion"].split() == [names[t - 6] for t in spoken]  # type: ignore[attr-defined]


def test_pairs_of_different_completions() -> None:
    rows = [("p", "a", 1), ("q", "z", 1), ("p", "b", 2), ("p", "a", 2), ("p", "", 1), ("p", "c", 1)]
    samples = [(Prompt(prompt, {"right": "x", "n": n}), text) for prompt, text, n in rows]
    one, both = {"right": "x"}, {"right": "x", "n": 1}
    every = [Comparison("p", "a", "b", one), Comparison("p", "a", "c", both), Comparison("p", "b", "c", one)]
    assert comparisons_of(samples) == every
    assert comparisons_of(samples, most=2) == every[:2]


def test_a_reward_model_labels_by_its_scores(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [Preference("hi", "good", "bad"), Preference("bye", "hi", "day")])
    model = tmp_path / "rm" / "model"
    assert accord("reward", "--model", base, "--data", pairs, "--out", model.parent, *QUICK) == 0
    rows = [{"prompt": p, "completion": c} for p in ("hi", "bye") for c in ("good day", "bad", "hello", "")]
    data, out = write_jsonl(tmp_path / "samples.jsonl", rows), tmp_path / "labels.jsonl"
    capsys.readouterr()
    assert accord("label", "--data", data, "--out", out, "--judge", model) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert printed == "label: 6 preferences from 6 comparisons, 0 ties, 0 invalid"
    reward = LearnedReward(load_reward_model(str(model)))
    for row in read_jsonl(out):
        chosen, rejected = reward.texts([(row["prompt"], row["chosen"]), (row["prompt"], row["rejected"])]).tolist()
        assert chosen > rejected


def test_soft_labels_keep_ties_and_probabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = "def judge(prompts, firsts, seconds):\n    return [0.3 if a == 'good' else 0.5 for a in firsts]\n"
    (tmp_path / "softly.py").write_text(judge, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    rows = [{"prompt": "hi", "completion": c} for c in ("good", "bad", "day")]
    data, out = write_jsonl(tmp_path / "samples.jsonl", rows), tmp_path / "labels.jsonl"
    common = ("label", "--data", data, "--out", out, "--judge", "softly:judge")
    assert accord(*common, "--soft") == 0
    # The two orders of good and another say log-odds of log(3/7) and 0, together half of that; bad and day are even.
    said = [(row["chosen"], row["rejected"], row["chosen_probability"]) for row in read_jsonl(out)]
    likely = pytest.approx(1 / (1 + (3 / 7) ** 0.5))
    assert said == [("bad", "good", likely), ("day", "good", likely), ("bad", "day", 0.5)]
    assert accord(*common) == 0
    assert read_jsonl(out) == [{"prompt": "hi", "chosen": c, "rejected": "good"} for c in ("bad", "day")]


VERDICTS = [
    {"prompt": f"p{i}", "one": "x", "two": "y", "label": label, "worker": who, "team": team}
    for i in range(12)
    for who, team, label in (("ann", "a", "A"), ("bob", "a", "A"), ("eve", "b", "B" if i % 2 else "A"))
]
NAMED = ("--columns.first", "one", "--columns.second", "two", "--columns.annotator", "worker")


@pytest.mark.parametrize("by", ["majority", "dawid-skene", "bradley-terry"])
def test_verdicts_of_several_annotators_become_preferences(
    by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_jsonl(tmp_path / "verdicts.jsonl", VERDICTS), tmp_path / "out.jsonl"
    assert accord("aggregate", "--data", data, *NAMED, "--columns.group", "team", "--by", by, "--out", out) == 0
    printed = capsys.readouterr()
    assert "12 preferences from 36 judgments by 3 annotators; 0 even" in " ".join(printed.err.split())
    assert all(name in printed.out for name in ("ann", "bob", "eve", "reliability"))
    rows = read_jsonl(out)
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in rows] == [(f"p{i}", "x", "y") for i in range(12)]
    agreed, disputed = (rows[i].get("chosen_probability", 1.0) for i in (0, 1))
    if by == "majority":
        assert (agreed, disputed) == (1.0, pytest.approx(2 / 3))
    else:
        assert agreed > disputed > 0.7
    assert accord("aggregate", "--data", data, *NAMED, "--by", by, "--hard", "--out", out) == 0
    assert read_jsonl(out) == [{"prompt": f"p{i}", "chosen": "x", "rejected": "y"} for i in range(12)]


def test_files_of_annotators_are_aggregated_as_columns_are_and_ties_are_even(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ann = write_jsonl(tmp_path / "ann.jsonl", [Preference("hi", "good", "bad"), Preference("bye", "hi", "day")])
    bob = write_jsonl(tmp_path / "bob.jsonl", [Preference("hi", "good", "bad"), Preference("bye", "day", "hi")])
    out, files = tmp_path / "out.jsonl", ("--annotators.ann", ann, "--annotators.bob", bob)
    assert accord("aggregate", *files, "--by", "majority", "--out", out) == 0
    good, even = read_jsonl(out)
    assert good == {"prompt": "hi", "chosen": "good", "rejected": "bad"}
    assert even == {"prompt": "bye", "chosen": "hi", "rejected": "day", "chosen_probability": 0.5}
    assert accord("aggregate", *files, "--by", "majority", "--hard", "--out", out) == 0
    assert read_jsonl(out) == [good]
    assert "1 even, and left out" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (VERDICTS, (), "the annotator is missing; name the column by --columns.annotator."),
        ([{**VERDICTS[0], "label": "tie"}], NAMED[4:], "every judgment is a tie"),
        (VERDICTS[:2], (*NAMED[4:], "--by", "mean"), "--by"),
        (
            [*VERDICTS[:2], {**VERDICTS[2], "worker": "ann"}],
            (*NAMED[4:], "--columns.group", "team"),
            "ann is in the group 'b'",
        ),
    ],
)
def test_what_cannot_be_aggregated(
    rows: list[dict[str, object]],
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = write_jsonl(tmp_path / "verdicts.jsonl", rows), tmp_path / "out.jsonl"
    assert accord("aggregate", "--data", data, *NAMED[:4], *options, "--out", out) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize(
    ("completions", "options", "message"),
    [
        (("good", "good"), ("--judge", "cafe"), "has no prompt with two different completions"),
        (("good", "bad"), ("--judge", "cafe", "--agreement", "0.2"), "agreement"),
        (("good", "bad"), ("--judge", "nowhere/at/all"), "there is no model folder nowhere/at/all"),
        (("good", "bad"), ("--judge", "nowhere/at/all", "--agreement", "0.8"), "--agreement simulates people"),
    ],
)
def test_what_cannot_be_labeled(
    completions: tuple[str, str],
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"prompt": "hi", "completion": c} for c in completions]
    data, out = write_jsonl(tmp_path / "samples.jsonl", rows), tmp_path / "labels.jsonl"
    assert accord("label", "--data", data, "--out", out, *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


def test_one_process_labels_into_a_file(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl(tmp_path / "s.jsonl", [{"prompt": "hi", "completion": text} for text in ("hello", "bad")])
    out = tmp_path / "out.jsonl"
    words = ("label", "--data", data, "--judge", "tests.commands.test_sample_label:first", "--out", out)
    with alone_with(out):
        assert accord(*words) == 2
        assert f"{out} is in use by process " in capsys.readouterr().err
    assert accord(*words) == 0 == accord(*words)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".accord-wrote", "out.jsonl", "s.jsonl"]


def first(prompts: list[str], firsts: list[str], seconds: list[str]) -> list[float]:
    return [1.0 if one < other else 0.0 for one, other in zip(firsts, seconds, strict=True)]
