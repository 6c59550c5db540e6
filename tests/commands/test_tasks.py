"""`accord tasks` and `accord evaluate tasks`, on a tiny model whose log-probabilities can be had by plain forwards."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM

from accord.cli.call import bind
from accord.cli.recipe import read_recipe, resolve
from accord.engine.trees import Branch, Tree
from accord.worlds import write_tasks
from accord.worlds.shelf.tasks import FORMATS, TASKS, TRAIN_ROWS, described, rows
from tests.commands.small import accord, read_jsonl, write_jsonl
from tests.commands.small_tasks import OPTIONS, TEXTS, evaluated, exactly, write_home
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import plain_log_probabilities


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_home(tmp_path_factory.mktemp("tasks"))


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
    assert "mood/which has only 6 rows: its intervals are rough; ask about 20 or more." in found["warnings"]


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


def test_only_some_clusters_are_trained_on(tmp_path: Path) -> None:
    write_tasks(tmp_path, TASKS, partial(rows, seed=0), TRAIN_ROWS, described, FORMATS)
    given = ("--tasks", tmp_path / "tasks" / "tasks.yaml", "--leave-out", "color,name", "--rows", "200")

    def drawn(count: int, seed: int) -> set[str]:
        out = tmp_path / f"{count}-{seed}.jsonl"
        assert accord("tasks", *given, "--out", out, "--max-clusters", count, "--seed", seed) == 0
        return {row["cluster"] for row in read_jsonl(out)}

    of_seed = [drawn(count, 0) for count in (2, 4, 7, 14)]
    assert list(map(len, of_seed)) == [2, 4, 7, 14]
    assert of_seed[0] < of_seed[1] < of_seed[2] < of_seed[3] and not {"color", "name"} & of_seed[3]
    assert drawn(4, 1) != of_seed[1]


def test_rows_that_were_trained_on_are_told(home: Path, tmp_path: Path) -> None:
    given = yaml.safe_load((home / "tasks.yaml").read_text())
    given["clusters"]["mood"]["which"]["train_split"] = "train[:3]"
    file = tmp_path / "tasks.yaml"
    file.write_text(yaml.safe_dump(given))
    options = ("--tasks", file, "--data", home, "--held-out", "words")
    found = evaluated(home, tmp_path, *options)
    told = "mood/which: 1 of the rows asked about are also training rows; set split and train_split."
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
    ("command", "options", "message"),
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
        ("tasks", ("--formats", "zero,prefix"), "no training task has the key 'prefix' in the tasks file"),
        ("tasks", ("--formats", "tow:1"), "there is no format 'tow'"),
        ("tasks", ("--formats", "zero:.nan"), "the weight of zero in --formats must be a number above 0, not .nan."),
        ("evaluate", ("--shots", "-1"), "--shots must be 0 or more, not -1."),
        (
            "evaluate",
            ("--shots", "3"),
            "rows.jsonl has 2 rows to show as exemplars of the task mood/which, besides row 3",
        ),
        ("tasks", ("--shots", "2"), "rows.jsonl has 1 row to show as exemplars of the task mood/which, besides row "),
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
        ("tasks", ("--max-clusters", "3"), "the number of training clusters must be 1 to 2, not 3."),
        ("tasks", ("--per-task", "0"), "--per-task must be at least 1, not 0."),
        ("tasks", ("--rows", "0"), "--rows must be at least 1, not 0."),
        ("tasks", ("--mixing-temperature", "0"), "--mixing-temperature must be positive, not 0."),
    ],
)
def test_what_cannot_be_used_is_named(
    command: str, options: tuple[str, ...], message: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shared = ("--tasks", home / "tasks.yaml", "--out", out)
    models = ("--models.base", home / "base", "--max-new-tokens", "5")
    asked = ("evaluate", "tasks", *models) if command == "evaluate" else ("tasks",)
    assert accord(*asked, *shared, *(o.replace("HOME", str(home)) for o in options)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
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
    for name, count in (("mix-of-2-1", 2), ("mix-of-4-1", 4), ("mix-of-7-2", 7)):
        assert stages[name].options["max_clusters"] == count
    assert {stage.options["leave_out"] for stage in stages.values() if stage.command == "tasks"} == {
        "color,remove,name"
    }
