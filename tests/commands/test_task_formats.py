"""The formats of tasks in what `accord tasks` writes and `accord evaluate tasks` asks, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from accord.feedback.verifiers import verifier_named
from tests.commands.small import accord, read_jsonl, write_jsonl
from tests.commands.small_tasks import OPTIONS, PROMPTS, evaluated, exactly, write_home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_home(tmp_path_factory.mktemp("tasks"))


def by_number(folder: Path) -> Path:
    """Rows that say their number in words that the model reads, of which the first ten are trained on."""
    rows = [{"text": numeral(i), "mood": OPTIONS[i % 3], "said": numeral(i)} for i in range(1, 16)]
    write_jsonl(folder / "rows.jsonl", rows)
    shared = {"data": "rows.jsonl", "split": "train[10:]", "train_split": "train[:10]", "prompt": PROMPTS}
    clusters = {
        "mood": {"which": shared | {"metric": "options", "output": "mood", "options": OPTIONS}},
        "words": {"own": shared | {"metric": "exact", "output": "said"}},
    }
    file = folder / "tasks.yaml"
    given = {"formats": {"separator": " day bye day "}, "clusters": clusters}
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    return file


def numeral(i: int) -> str:
    return " ".join("good" if bit == "1" else "bad" for bit in f"{i:04b}")


def numbers_in(prompt: str, template: int) -> list[int]:
    """The numbers of the rows in a prompt, the one asked about last."""
    parts = prompt.split(" day bye day ")
    words = [part.split()[template - 1 :][:4] for part in parts]
    return [int("".join("1" if word == "good" else "0" for word in four), 2) for four in words]


@pytest.mark.parametrize("form", ["chat", "plain"])
def test_exemplars_in_what_is_written_are_trained_on_and_never_asked_about(
    form: str, home: Path, tmp_path: Path
) -> None:
    """From the files that the two commands write, by the numbers that the prompts say in words."""
    given = ("--tasks", by_number(tmp_path), "--shots", "2", "--form", form)
    evaluated(home, tmp_path / "out", *given, "--models.twin", home / "base")
    predictions = read_jsonl(tmp_path / "out" / "predictions.jsonl")
    assert len(predictions) == 2 * 5 * 2
    for row in predictions:
        *shown, last = numbers_in(row["prompt"], row["template"])
        assert shown == row["exemplars"] and len(set(shown)) == 2 and set(shown) <= set(range(1, 11))
        assert last == row["row"] > 10
        assert row["answers"]["base"] == row["answers"]["twin"]
        answered = {"which": OPTIONS[shown[0] % 3], "own": numeral(shown[0])}[row["task"]]
        first = row["prompt"].split(" day bye day ")[0]
        assert first == f"{PROMPTS[row['template'] - 1].format(text=numeral(shown[0]))} {answered}"
    out = tmp_path / "train.jsonl"
    assert accord("tasks", *given, "--out", out, "--templates", "1") == 0
    rows = read_jsonl(out)
    assert len(rows) == 2 * 10 and {row["format"] for row in rows} == {"few"}
    for row in rows:
        prompt = row["prompt"] if form == "plain" else row["prompt"][0]["content"]
        numbers = numbers_in(prompt, 1)
        assert len(set(numbers)) == 3 and set(numbers) <= set(range(1, 11))
        said = row["completion"] if form == "plain" else row["completion"][0]["content"]
        assert (
            said.strip() == row["answer"] == {"which": OPTIONS[numbers[-1] % 3]}.get(row["task"], numeral(numbers[-1]))
        )


@pytest.mark.parametrize("score", ["sum", "pmi"])
def test_options_after_exemplars_have_exact_log_probabilities(score: str, home: Path, tmp_path: Path) -> None:
    given = ("--tasks", by_number(tmp_path), "--clusters", "mood", "--shots", "1", "--form", "plain", "--limit", "2")
    evaluated(home, tmp_path / "out", *given, "--option-score", score)
    for row in read_jsonl(tmp_path / "out" / "predictions.jsonl"):
        sums, _ = exactly(home, row["prompt"], "plain")
        if score == "pmi":
            before, separator, _ = row["prompt"].rpartition(" day bye day ")
            without_row = before + separator + ("hello", "bye")[row["template"] - 1]
            sums = [s - p for s, p in zip(sums, exactly(home, without_row, "plain")[0], strict=True)]
        assert row["answers"]["base"] == OPTIONS[sums.index(max(sums))]


def test_after_exemplars_an_answer_ends_where_theirs_do(home: Path, tmp_path: Path) -> None:
    file = by_number(tmp_path)
    given = yaml.safe_load(file.read_text())
    free = ("--clusters", "words", "--shots", "1", "--max-new-tokens", "12")
    given["formats"]["separator"] = " hello hi bad "  # which the model does not say
    file.write_text(yaml.safe_dump(given))
    evaluated(home, tmp_path / "free", "--tasks", file, *free)
    said = [row["answers"]["base"] for row in read_jsonl(tmp_path / "free" / "predictions.jsonl")]
    word = max(set(" ".join(said).split()), key=" ".join(said).count)
    given["formats"]["separator"] = f" {word} "
    file.write_text(yaml.safe_dump(given))
    found = evaluated(home, tmp_path / "ends", "--tasks", file, *free)
    ended = [row["answers"]["base"] for row in read_jsonl(tmp_path / "ends" / "predictions.jsonl")]
    assert not any(word in answer for answer in ended)
    assert found["clusters"][0]["tasks"][0]["ended"]["base"] > 0


def reasoned(folder: Path) -> Path:
    """The same tasks with reasons and prefixes, in words that the model reads; its chains of thought say `hello`."""
    file = by_number(folder)
    given = yaml.safe_load(file.read_text())
    given["formats"] |= {"trigger": "hello hi", "answer_phrase": "hello"}
    rows = [row | {"why": f"hi {row['text']}"} for row in read_jsonl(folder / "rows.jsonl")]
    write_jsonl(folder / "rows.jsonl", rows)
    for cluster in given["clusters"].values():
        for task in cluster.values():
            task |= {"rationale": "why", "prefix": "hi : {text}", "max_new_tokens": 2}
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    return file


@pytest.mark.parametrize("shots", [0, 1])
def test_answers_are_read_out_of_chains_of_thought(shots: int, home: Path, tmp_path: Path) -> None:
    given = ("--tasks", reasoned(tmp_path), "--answers", "cot", "--shots", shots, "--max-new-tokens", "8")
    found = evaluated(home, tmp_path / "out", *given, "--temperature", "1")
    rows = read_jsonl(tmp_path / "out" / "predictions.jsonl")
    read: dict[str, list[bool]] = {}
    for row in rows:
        assert row["prompt"].endswith(" hello hi") and row["prompt"].count(" hello hi") == shots + 1
        if shots:
            (shown,) = numbers_in(row["prompt"], row["template"])[:1]
            right = {"which": OPTIONS[shown % 3], "own": numeral(shown)}[row["task"]]
            assert f" hello hi hi {numeral(shown)} hello {right} day bye day " in row["prompt"]
        (chain,) = row["written"]["base"]
        said = chain.rpartition("hello")[2].strip() if "hello" in chain.split() else ""
        expected = said or None
        if row["task"] == "which":
            expected = said if said in OPTIONS else None
        assert row["answers"]["base"] == expected
        assert row["scores"]["base"] == float(expected in row["right"])
        read.setdefault(row["task"], []).append(expected is not None)
    shares = {t["name"]: t["readable"]["base"] for c in found["clusters"] for t in c["tasks"]}
    assert shares == {name: pytest.approx(sum(some) / len(some)) for name, some in read.items()}
    assert any(map(any, read.values()))
    untold = f"mood/which: {1 - shares['which']:.0%} of the chains of thought of base have no answer after 'hello'"
    assert any(line.startswith(untold) for line in found["warnings"]) == (shares["which"] < 0.9)


def test_self_consistency_is_the_majority_of_the_samples(home: Path, tmp_path: Path) -> None:
    given = ("--tasks", reasoned(tmp_path), "--answers", "cot", "--samples", "5", "--temperature", "1", "--limit", "3")
    found = evaluated(home, tmp_path / "out", *given, "--clusters", "words", "--max-new-tokens", "8")
    assert (found["settings"]["samples"], found["settings"]["answers"]) == (5, "cot")
    for row in read_jsonl(tmp_path / "out" / "predictions.jsonl"):
        chains = row["written"]["base"]
        assert len(chains) == 5 and len(set(chains)) > 1
        said = [c.rpartition("hello")[2].strip() for c in chains if "hello" in c.split()]
        votes = {answer: said.count(answer) for answer in said if answer}
        ahead = [answer for answer, n in votes.items() if n == max(votes.values())]
        assert row["answers"]["base"] == (ahead[0] if ahead else None)


def test_rows_are_asked_in_their_prefix(home: Path, tmp_path: Path) -> None:
    given = ("--tasks", reasoned(tmp_path), "--instructions", "prefix", "--option-score", "pmi", "--form", "plain")
    found = evaluated(home, tmp_path / "out", *given)
    rows = read_jsonl(tmp_path / "out" / "predictions.jsonl")
    assert [row["prompt"] for row in rows] == [f"hi : {numeral(i)}" for i in range(11, 16)] * 2
    assert all(task["templates"] == 1 for cluster in found["clusters"] for task in cluster["tasks"])
    prior, _ = exactly(home, "hi :", "plain")
    sums, _ = exactly(home, rows[0]["prompt"], "plain")
    scores = [s - p for s, p in zip(sums, prior, strict=True)]
    assert rows[0]["answers"]["base"] == OPTIONS[scores.index(max(scores))]


def test_the_mix_tells_its_formats(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "train.jsonl"
    formats = "zero:2,few:1,cot:1,few-cot:1,inverse:1,inverse-cot:1,prefix:1"
    given = ("--tasks", reasoned(tmp_path), "--formats", formats, "--shots", "1", "--out", out, "--rows", "80")
    assert accord("tasks", *given) == 0
    rows = read_jsonl(out)
    names = [part.partition(":")[0] for part in formats.split(",")]
    assert {row["format"] for row in rows} == set(names)
    assert all(("answer" in row) == (not row["format"].startswith("inverse")) for row in rows)
    table = capsys.readouterr().out
    assert all(name in table for name in names)
    trained = ("--model", home / "base", "--data", out, "--out", tmp_path / "tuned", "--max-steps", "1")
    assert accord("sft", *trained, "--dtype", "float32", "--max-length", "48") == 0


def test_what_is_written_can_be_verified(home: Path, tmp_path: Path) -> None:
    """Few-shot prompts with chains of thought carry their answer for verifiers, and so for self-consistency."""
    out = tmp_path / "train.jsonl"
    given = ("--tasks", reasoned(tmp_path), "--formats", "few-cot", "--shots", "1", "--out", out, "--leave-out", "mood")
    assert accord("tasks", *given) == 0
    sampled, drawn = tmp_path / "samples.jsonl", ("--temperature", "1", "--max-new-tokens", "8", "--dtype", "float32")
    asked = ("--model", home / "base", "--data", out)
    assert accord("sample", *asked, "--out", sampled, "--n", "2", *drawn) == 0
    answers = {row["prompt"][0]["content"]: row["answer"] for row in read_jsonl(out)}
    samples = read_jsonl(sampled)
    assert len(samples) == 20 and all(row["answer"] == answers[row["prompt"][0]["content"]] for row in samples)
    verifier = "regex:hello (.+)"
    # What the rows themselves say is right, as the verifier reads it.
    right = verifier_named(verifier)
    for row in read_jsonl(out):
        assert right.answer(row["completion"][0]["content"]) == row["answer"]
    rate = ("--verifier", verifier, "--n", "2", *drawn)
    assert accord("evaluate", "passes", "--data", out, "--model", home / "base", "--out", tmp_path / "rate", *rate) == 0
    rounds = ("--verifier", "regex:(good|bad|day|hi|bye)", "--rounds", "1", "--group-size", "4", "--max-steps", "1")
    consistent = (*asked, "--out", tmp_path / "consistent", *rounds, "--max-new-tokens", "8", "--dtype", "float32")
    assert accord("self-consistency", *consistent) == 0
    metrics = read_jsonl(tmp_path / "consistent" / "metrics.jsonl")
    assert any("labels_right" in row for row in metrics)
