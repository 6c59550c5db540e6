"""`accord tasks` and `accord evaluate tasks`, on a tiny model whose log-probabilities can be had by plain forwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM

from accord.cli.call import bind
from accord.cli.recipe import read_recipe, resolve
from accord.data.encoding import to_tree
from accord.data.formats import dialogue
from accord.engine.trees import Branch, Tree
from accord.feedback.verifiers import verifier_named
from accord.records import Prompt, Ranking
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import plain_log_probabilities

TEXTS = ["hi", "good day", "bye bye", "hello bad day", "bad", "day day hi", "hello", "good good"]
OPTIONS = ["good day", "bye", "bad bad hi"]
PROMPTS = ["{text} hello", "bye {text}"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random models, two clusters of tasks, and what the first model says greedily as one task's right answers."""
    folder = tmp_path_factory.mktemp("tasks")
    base = save_model(folder / "base")
    save_model(folder / "plain", template=None)
    prompts = [Prompt(dialogue(f"{text} hello", "", "chat").prompt) for text in TEXTS]
    data, out = write_jsonl(folder / "prompts.jsonl", prompts), folder / "said.jsonl"
    sampled = ("--model", base, "--data", data, "--out", out, "--temperature", "0", "--max-new-tokens", "5")
    assert accord("sample", *sampled, "--dtype", "float32") == 0
    said = [row["completion"].strip() or "good" for row in read_jsonl(out)]
    rows = [
        {"text": text, "mood": OPTIONS[i % 3], "said": said[i], "other": f"{said[i]} hi"}
        for i, text in enumerate(TEXTS)
    ]
    write_jsonl(folder / "rows.jsonl", rows)
    shared = {"data": "rows.jsonl", "split": "train[2:]", "train_split": "train[:2]"}
    written = shared | {"metric": "exact", "prompt": PROMPTS[0]}
    clusters = {
        "mood": {"which": shared | {"metric": "options", "prompt": PROMPTS, "output": "mood", "options": OPTIONS}},
        "words": {"own": written | {"output": "said"}, "others": written | {"output": "other"}},
    }
    (folder / "tasks.yaml").write_text(yaml.safe_dump({"clusters": clusters}, sort_keys=False))
    return folder


def evaluated(home: Path, out: Path, *options: object) -> dict[str, Any]:
    given = ("--tasks", home / "tasks.yaml", "--models.base", home / "base", "--out", out, "--max-new-tokens", "5")
    assert accord("evaluate", "tasks", *given, "--dtype", "float32", *options) == 0
    return json.loads((out / "evaluation.json").read_text())


def exactly(home: Path, prompt: str, form: str) -> tuple[list[float], list[int]]:
    """log pi of every option after the prompt, each by a plain forward of its own, and how many tokens it has."""
    rows = [dialogue(prompt, option, form) for option in OPTIONS]  # type: ignore[arg-type]
    tokenizer = word_tokenizer()
    tree = to_tree(tokenizer, Ranking(rows[0].prompt, tuple(r.completion for r in rows), (0, 1, 2)))
    network = AutoModelForCausalLM.from_pretrained(home / "base", attn_implementation="eager").double()
    alone = [Tree(tree.prompt, (branch,)) for branch in tree.branches]
    sums = [plain_log_probabilities(network, [one]).sum().item() for one in alone]
    return sums, [len(branch.tokens) for branch in tree.branches]


@pytest.mark.parametrize("form", ["chat", "plain"])
@pytest.mark.parametrize("score", ["sum", "mean", "pmi"])
def test_the_option_chosen_has_the_highest_exact_log_probability(
    score: str, form: str, home: Path, tmp_path: Path
) -> None:
    found = evaluated(home, tmp_path, "--option-score", score, "--form", form)
    rows = [row for row in read_jsonl(tmp_path / "predictions.jsonl") if row["task"] == "which"]
    assert len(rows) == 12 and [r["row"] for r in rows[:4]] == [3, 3, 4, 4]
    priors = [exactly(home, blank, form)[0] for blank in ("hello", "bye")]
    for row in rows:
        sums, tokens = exactly(home, row["prompt"], form)
        by = {
            "sum": sums,
            "mean": [s / n for s, n in zip(sums, tokens, strict=True)],
            "pmi": [s - p for s, p in zip(sums, priors[row["template"] - 1], strict=True)],
        }[score]
        assert row["answers"]["base"] == OPTIONS[by.index(max(by))]
        assert row["scores"]["base"] == float(row["answers"]["base"] in row["right"])
    task = found["clusters"][0]["tasks"][0]
    assert task["scores"]["base"]["estimate"] == pytest.approx(sum(r["scores"]["base"] for r in rows) / 12)
    assert (task["n"], task["templates"], task["chance"]) == (6, 2, pytest.approx(1 / 3))


@pytest.mark.parametrize(("special", "first"), [({}, "<s>"), ({"bos_token": None}, "</s>")])
def test_sentences_after_nothing_begin_where_a_text_begins(
    special: dict[str, None], first: str, home: Path, tmp_path: Path
) -> None:
    model, tokenizer = shutil.copytree(home / "base", tmp_path / "model"), word_tokenizer(**special)
    tokenizer.save_pretrained(model)
    rows = [{"text": text, "ways": [text, f"{text} bad bye"], "right": text} for text in TEXTS]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    task = {"data": "rows.jsonl", "metric": "options", "output": "right", "options": "ways"}
    given = {"alone": {"whole": task | {"prompt": ""}}, "read": {"whole": task | {"prompt": "{text}"}}}
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump({"clusters": given}))
    network = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager").double()
    start = (tokenizer.convert_tokens_to_ids(first),)

    def logps(prompt: tuple[int, ...], options: list[str]) -> list[float]:
        branches = [
            Branch((*tokenizer(o, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)) for o in options
        ]
        return [plain_log_probabilities(network, [Tree(prompt, (b,))]).sum().item() for b in branches]

    for score in ("sum", "pmi"):
        asked = ("--tasks", tmp_path / "tasks.yaml", "--models.base", model, "--form", "plain", "--dtype", "float32")
        assert accord("evaluate", "tasks", *asked, "--option-score", score, "--out", tmp_path / score) == 0
        found = read_jsonl(tmp_path / score / "predictions.jsonl")
        for said, row in zip(found, rows * 2, strict=True):
            # Without a row in it an instruction has nothing to be compared with: pmi is the sum there.
            alone, values = logps(start, row["ways"]), logps(start, row["ways"])
            if said["cluster"] == "read":
                after = logps(tuple(tokenizer(row["text"], add_special_tokens=False)["input_ids"]), row["ways"])
                values = [a - b for a, b in zip(after, alone, strict=True)] if score == "pmi" else after
            assert said["answers"]["base"] == row["ways"][values.index(max(values))]


def test_answers_are_written_greedily_and_settings_are_noted(home: Path, tmp_path: Path) -> None:
    found = evaluated(home, tmp_path, "--held-out", "words", "--models.twin", home / "base")
    mood, words = found["clusters"]
    assert (mood["held_out"], words["held_out"]) == (False, True)
    own, others = words["tasks"]
    # The model says exactly what it said greedily before, but where that was nothing at all.
    said = [row["answers"]["base"] for row in read_jsonl(tmp_path / "predictions.jsonl") if row["task"] == "own"]
    assert own["scores"]["base"]["estimate"] == sum(map(bool, said)) / 6 > 0
    assert others["scores"]["base"]["estimate"] == 0.0
    assert words["mean"]["base"]["estimate"] == own["scores"]["base"]["estimate"] / 2
    assert own["gains"] == {"twin": {"estimate": 0.0, "low": 0.0, "high": 0.0, "n": 6}}
    assert own["ended"]["base"] == own["ended"]["twin"] and own["chance"] is None and mood["tasks"][0]["ended"] is None
    assert found["kind"] == "tasks" and found["models"] == ["base", "twin"]
    assert found["settings"] == {
        "tasks": str(home / "tasks.yaml"),
        "form": "chat",
        "option_score": "sum",
        "answers": "direct",
        "samples": 1,
        "instructions": "natural",
        "shots": 0,
        "chat_template": None,
        "system": "refuse",
        "templates": None,
        "limit": None,
        "max_new_tokens": 5,
        "temperature": 0.0,
        "seed": 0,
        "dtype": "float32",
    }
    assert "mood/which has 6 rows: its intervals are rough, ask about 20 or more." in found["warnings"]


def test_fewer_rows_and_instructions(home: Path, tmp_path: Path) -> None:
    found = evaluated(home, tmp_path, "--limit", "3", "--templates", "1")
    assert [(t["n"], t["templates"]) for c in found["clusters"] for t in c["tasks"]] == [(3, 1)] * 3
    assert len(read_jsonl(tmp_path / "predictions.jsonl")) == 9


def test_some_clusters_are_asked_about(home: Path, tmp_path: Path) -> None:
    found = evaluated(home, tmp_path, "--clusters", "words", "--held-out", "mood")
    assert [(c["name"], c["held_out"]) for c in found["clusters"]] == [("words", False)]
    assert {row["cluster"] for row in read_jsonl(tmp_path / "predictions.jsonl")} == {"words"}


def test_scores_are_told_above_chance_too(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = yaml.safe_load((home / "tasks.yaml").read_text())
    given["clusters"]["words"]["own"]["chance"] = 0.25
    file = tmp_path / "tasks.yaml"
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    found = evaluated(home, tmp_path, "--tasks", file, "--data", home, "--held-out", "mood")
    mood, words = found["clusters"]
    (which,), (own, others) = mood["tasks"], words["tasks"]
    for task, chance in ((which, 1 / 3), (own, 0.25)):
        for end in ("estimate", "low", "high"):
            above = (task["scores"]["base"][end] - chance) / (1 - chance)
            assert task["normalized"]["base"][end] == pytest.approx(above)
    assert mood["normalized"]["base"]["estimate"] == which["normalized"]["base"]["estimate"]
    assert others["normalized"] == {} == words["normalized"]  # the chance of others is not known
    held_out, held_in = found["averages"]
    assert held_out["normalized"] == mood["normalized"] and held_in["mean"] == words["mean"]
    assert "(score - chance) / (1 - chance)" in capsys.readouterr().out


def test_the_first_instructions_are_trained_on(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "train.jsonl"
    given = ("--tasks", home / "tasks.yaml", "--out", out, "--leave-out", "words", "--rows", "20")
    assert accord("tasks", *given) == 0
    assert {row["prompt"][0]["content"].startswith("bye ") for row in read_jsonl(out)} == {True, False}
    assert accord("tasks", *given, "--templates", "1") == 0
    assert {row["prompt"][0]["content"] for row in read_jsonl(out)} == {"hi hello", "good day hello"}


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
    untold = f"mood/which: no answer could be read behind 'hello' in {1 - shares['which']:.0%} of what base wrote"
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


def test_rows_that_were_trained_on_are_told(home: Path, tmp_path: Path) -> None:
    given = yaml.safe_load((home / "tasks.yaml").read_text())
    given["clusters"]["mood"]["which"]["train_split"] = "train[:3]"
    file = tmp_path / "tasks.yaml"
    file.write_text(yaml.safe_dump(given))
    options = ("--tasks", file, "--data", home, "--held-out", "words")
    found = evaluated(home, tmp_path, *options)
    told = "mood/which: 1 of the rows asked about are trained on too; set split and train_split."
    assert told in found["warnings"]


def test_the_mix_is_what_sft_trains_on(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "train.jsonl"
    given = ("--tasks", home / "tasks.yaml", "--out", out)
    assert accord("tasks", *given, "--leave-out", "words") == 0
    assert "100.0%" in capsys.readouterr().out
    rows = read_jsonl(out)
    assert [(r["cluster"], r["task"]) for r in rows] == [("mood", "which")] * 2
    assert sorted(r["completion"][0]["content"] for r in rows) == sorted(OPTIONS[:2])
    trained = ("--model", home / "base", "--data", out, "--out", tmp_path / "tuned", "--max-steps", "1")
    assert accord("sft", *trained, "--dtype", "float32") == 0
    assert accord("tasks", *given, "--rows", "9", "--form", "plain") == 0
    assert len(read_jsonl(out)) == 9 and all(isinstance(r["prompt"], str) for r in read_jsonl(out))


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("evaluate", ("--held-out", "moods"), "there is no cluster 'moods'; did you mean mood?"),
        ("evaluate", ("--samples", "0"), "--samples must be at least 1, not 0."),
        ("evaluate", ("--samples", "3", "--answers", "cot"), "--samples needs a --temperature above 0"),
        (
            "evaluate",
            ("--samples", "3", "--temperature", "1"),
            "--samples is for chains of thought: give --answers cot.",
        ),
        (
            "evaluate",
            ("--instructions", "prefix"),
            "the task mood/which has no 'prefix' in the tasks file, which --instr",
        ),
        (
            "evaluate",
            ("--answers", "cot", "--shots", "1"),
            "has no 'rationale' in the tasks file, which exemplars with",
        ),
        ("evaluate", ("--answers", "cot", "--max-new-tokens", "48"), "do not fit into the context of"),
        ("tasks", ("--formats", "cot"), "the task mood/which has no rationale in the tasks file, so no row can be"),
        ("tasks", ("--formats", "zero,prefix"), "no task that is trained on has the key 'prefix' in the tasks file"),
        ("tasks", ("--formats", "tow:1"), "there is no format 'tow'"),
        ("tasks", ("--formats", "zero:.nan"), "the weight of zero in --formats must be a number above 0, not .nan."),
        ("evaluate", ("--shots", "-1"), "--shots must be 0 or more, not -1."),
        (
            "evaluate",
            ("--shots", "3"),
            "rows.jsonl has 2 rows to show as exemplars of the task mood/which, beside row 3",
        ),
        ("tasks", ("--shots", "2"), "rows.jsonl has 1 row to show as exemplars of the task mood/which, beside row "),
        ("tasks", ("--shots", "0"), "--shots must be at least 1, not 0."),
        ("evaluate", ("--clusters", "mod"), "there is no cluster 'mod'; did you mean mood?"),
        ("tasks", ("--templates", "0"), "--templates must be at least 1, not 0."),
        ("evaluate", ("--limit", "0"), "--limit must be at least 1, not 0."),
        ("evaluate", ("--templates", "0"), "--templates must be at least 1, not 0."),
        ("evaluate", ("--tasks", "HOME/none.yaml"), "none.yaml cannot be read"),
        ("evaluate", ("--max-new-tokens", "0"), "max_new_tokens must be at least 1"),
        ("evaluate", ("--max-new-tokens", "48"), "do not fit into the context of"),
        ("evaluate", ("--models.plain", "HOME/plain"), "has no chat template; ask it with --form plain."),
        ("tasks", ("--leave-out", "mood,words"), "no row is left to train on"),
        ("tasks", ("--leave-out", "x"), "there is no cluster 'x'"),
        ("tasks", ("--per-task", "0"), "--per-task must be at least 1, not 0."),
        ("tasks", ("--rows", "0"), "--rows must be at least 1, not 0."),
        ("tasks", ("--mixing-temperature", "0"), "--mixing-temperature must be positive, not 0."),
    ],
)
def test_what_cannot_be_used_is_named(
    command: str, options: tuple[str, ...], said: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shared = ("--tasks", home / "tasks.yaml", "--out", out)
    models = ("--models.base", home / "base", "--max-new-tokens", "5")
    asked = ("evaluate", "tasks", *models) if command == "evaluate" else ("tasks",)
    assert accord(*asked, *shared, *(o.replace("HOME", str(home)) for o in options)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not out.exists()


def test_options_that_are_the_same_tokens(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = yaml.safe_load((home / "tasks.yaml").read_text())
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": "hi", "label": "one"}])
    task = {"data": rows, "metric": "options", "prompt": "{text}", "output": "label", "options": ["one", "two"]}
    given["clusters"] = {"mood": {"unknown": task}}
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(given))
    asked = ("--tasks", tmp_path / "tasks.yaml", "--models.base", home / "base", "--out", tmp_path / "out")
    assert accord("evaluate", "tasks", *asked) == 2
    assert "row 1, for the task mood/unknown: " in (error := capsys.readouterr().err)
    assert "reads two of the options as the same tokens." in error


def test_the_recipe_can_be_run(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "clusters.yaml"
    stages = resolve(read_recipe(recipe), tmp_path, {"held_out": "reading"})
    assert [s.name for s in stages] == ["world", "base", "mix", "tuned", "evaluation"]
    for stage in stages:
        bind(stage.command, {"out": str(tmp_path), **stage.options})
    assert stages[2].options["leave_out"] == stages[4].options["held_out"] == "reading"


def test_the_recipe_of_sizes_and_of_clusters_can_be_run(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "instruct.yaml"
    stages = {stage.name: stage for stage in resolve(read_recipe(recipe), tmp_path, {"seeds": 2})}
    for stage in stages.values():
        bind(stage.command, {"out": str(tmp_path), **stage.options})
    assert [name for name in stages if name.startswith("sizes")] == ["sizes-1", "sizes-2"]
    assert stages["large-base-2"].options["seed"] == 2
    for name, count in (("mix-of-2-1", 2), ("mix-of-4-1", 4), ("mix-of-7-2", 7), ("mix-2", 13)):
        left_out = set(str(stages[name].options["leave_out"]).split(","))
        assert {"color", "remove", "name"} <= left_out and len(left_out) == 16 - count
