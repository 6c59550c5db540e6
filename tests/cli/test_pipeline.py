"""Recipes: stages in order, run again only where something changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from accord import methods
from accord.cli.checks import is_resumable
from accord.cli.pipeline import run_pipeline
from accord.cli.table import COMMANDS
from accord.engine.fit import Optimizer
from accord.errors import InputError
from accord.locks import alone_in
from accord.records import Demonstration, Message
from accord.train.rows import read_metrics
from tests.cli.pipelines import STAGES, Pipeline
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.days import DATED, set_day

pytestmark = pytest.mark.usefixtures("blank_reports")


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(tmp_path)


def test_only_what_changed_runs_again(pipeline: Pipeline) -> None:
    assert pipeline.run() == pipeline.changed(*STAGES)
    assert list(pipeline.status()) == list(STAGES)
    story = json.loads((pipeline.out / "pipeline.json").read_text())
    assert [s["inputs"] for s in story["stages"]] == [{}, {"model": ["sft"]}, {"model": ["sft"]}, {"model": ["dpo"]}]
    assert story["name"] == "small" and story["seconds"] == pytest.approx(sum(s["seconds"] for s in story["stages"]))
    assert len(read_jsonl(pipeline.out / "samples" / "samples.jsonl")) == 4
    assert len(read_jsonl(pipeline.out / "scores" / "scores.jsonl")) == 2
    page = pipeline.out / "report.html"
    page.unlink()
    assert pipeline.run() == pipeline.changed()
    assert page.exists() and accord("report", pipeline.out) == 0
    assert "A small one." in page.read_text()
    # An option of one stage: that stage and what refers to it, not what stands beside it.
    assert pipeline.run("--dpo.beta", "0.3") == pipeline.changed("dpo", "scores")
    assert yaml.safe_load((pipeline.out / "dpo" / "config.yaml").read_text())["beta"] == 0.3
    assert pipeline.run("--dpo.beta=0.3", "--steps", "2") == pipeline.changed()  # what it was, written as a text
    # A variable, and then the file behind one.
    assert pipeline.run("--dpo.beta", "0.3", "--steps", "3") == pipeline.changed("dpo", "scores")
    assert len(read_metrics(pipeline.out / "dpo")) == 3
    write_jsonl(pipeline.data, [Demonstration("hi", "good day")])
    assert pipeline.run("--dpo.beta", "0.3", "--steps", "3") == pipeline.changed(*STAGES)


def test_an_interrupted_stage_goes_on(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    sft = {**STAGES["sft"], "max-steps": 6, "batch-size": 1, "save_every": 2}
    pipeline.write({"sft": sft})
    update, steps = Optimizer.update, []

    def stopped(self: Optimizer, step: int, *work: Any) -> dict[str, float]:
        steps.append(step)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return update(self, step, *work)

    monkeypatch.setattr(Optimizer, "update", stopped)
    assert accord("run", pipeline.recipe, "--out", pipeline.out) == 130
    assert pipeline.status() == {"sft": "running"}
    assert pipeline.run() == {"sft": "ran"}
    assert steps == [0, 1, 2, 3, 4, 5, 4, 5]  # step 5 was not finished, and the last checkpoint was made after 4 steps
    assert [row["step"] for row in read_metrics(pipeline.out / "sft")] == [1, 2, 3, 4, 5, 6]
    assert pipeline.run() == {"sft": "skipped"}


def test_a_stage_follows_the_folders_functions_and_paths_that_it_names(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pipeline.data.parent)
    Path("data").mkdir()
    write_jsonl(Path("data/rows.jsonl"), [Demonstration("hi", "hello good day")])
    Path("brief_here.py").write_text("def brief(prompts, completions): return [1.0] * len(completions)")
    sample = {"command": "sample", "model": "out/sft/model", "data": "data", "max_new_tokens": 2}
    pipeline.write({"sft": {**STAGES["sft"], "data": "data"}, "samples": {**sample, "reward": "brief_here:brief"}})
    pipeline.out = Path("out")
    assert pipeline.run() == {"sft": "ran", "samples": "ran"}
    assert pipeline.run() == {"sft": "skipped", "samples": "skipped"}
    Path("brief_here.py").write_text("def brief(prompts, completions): return [2.0] * len(completions)")
    assert pipeline.run() == {"sft": "skipped", "samples": "ran"}
    assert pipeline.run("--sft.seed", "3") == {"sft": "ran", "samples": "ran"}  # its model is named by a path alone
    template = Path("base/chat_template.jinja")
    template.write_text(f"{template.read_text()} ")
    assert pipeline.run("--sft.seed", "3") == {"sft": "ran", "samples": "ran"}
    write_jsonl(Path("data/more.jsonl"), [Demonstration("bye", "good bye")])
    assert pipeline.run("--sft.seed", "3") == {"sft": "ran", "samples": "ran"}


def test_a_removed_input_of_a_stage_is_told_with_the_stage_that_makes_it(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.write({name: STAGES[name] for name in ("sft", "samples")})
    pipeline.run()
    shutil.rmtree(pipeline.out / "sft" / "model")
    assert pipeline.run() == {"sft": "skipped", "samples": "skipped"}  # nothing needs it
    capsys.readouterr()
    assert accord("run", pipeline.recipe, "--out", pipeline.out, "--samples.seed", "5") == 2
    assert capsys.readouterr().err == (
        f"accord: stage samples needs {pipeline.out}/sft/model, which stage sft wrote and somebody has removed: remove "
        f"all of {pipeline.out}/sft, so that it runs again.\n"
    )


def test_a_stage_that_was_left_out_is_as_it_was_when_it_returns(pipeline: Pipeline) -> None:
    two = {name: STAGES[name] for name in ("sft", "samples")}
    pipeline.write(two)
    pipeline.run()
    pipeline.write({"sft": STAGES["sft"]})
    assert pipeline.run() == {"sft": "skipped"}
    pipeline.write(two)
    assert pipeline.run() == {"sft": "skipped", "samples": "skipped"}


def test_a_stage_interrupted_and_then_changed_starts_again(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.write({"sft": {**STAGES["sft"], "max-steps": 4, "save_every": 1}})
    update = Optimizer.update

    def stopped(self: Optimizer, step: int, *work: Any) -> dict[str, float]:
        if step == 2:
            raise KeyboardInterrupt
        return update(self, step, *work)

    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "update", stopped)
        assert accord("run", pipeline.recipe, "--out", pipeline.out) == 130
    assert pipeline.run("--sft.seed", "4") == {"sft": "ran"}
    assert yaml.safe_load((pipeline.out / "sft" / "config.yaml").read_text())["seed"] == 4
    assert len(read_metrics(pipeline.out / "sft")) == 4


def test_stages_that_run_on_another_day_write_the_date_on_which_the_first_began(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.variables["base"] = save_model(tmp_path / "dated", DATED)
    write_jsonl(pipeline.data, [Demonstration((Message("user", "hi day"),), (Message("assistant", "good"),))])
    both = {name: STAGES[name] for name in ("sft", "samples")}
    set_day(monkeypatch, "2026-11-29")
    pipeline.write(both)
    pipeline.run()
    whole, pipeline.out = pipeline.out / "samples/samples.jsonl", tmp_path / "in parts"
    pipeline.write({"sft": both["sft"]})
    pipeline.run()
    set_day(monkeypatch, "2026-11-30")
    pipeline.write(both)
    assert pipeline.run() == {"sft": "skipped", "samples": "ran"}
    assert (pipeline.out / "samples/samples.jsonl").read_bytes() == whole.read_bytes()
    given = ("--model", pipeline.out / "sft/model", "--data", pipeline.data, "--n", 2, "--max-new-tokens", 4)
    for name, words in {"today": (), "given": ("--chat-template-kwargs", "strftime_now=2026-11-29")}.items():
        assert accord("sample", *given, *words, "--out", tmp_path / f"{name}.jsonl") == 0
    assert (tmp_path / "given.jsonl").read_bytes() == whole.read_bytes() != (tmp_path / "today.jsonl").read_bytes()


def test_a_folder_that_holds_something_else_is_left_alone(pipeline: Pipeline) -> None:
    pipeline.out.mkdir()
    (pipeline.out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something other than a recipe's run"):
        run_pipeline(pipeline.recipe, pipeline.out)
    assert [file.name for file in pipeline.out.iterdir()] == ["notes.txt"]


def test_rounds_run_one_after_the_other(pipeline: Pipeline) -> None:
    block = {
        "repeat": "${rounds}",
        "carry": {"policy": ["${base}", "${sft}/model"]},
        "stages": {
            "sft": {**STAGES["sft"], "model": "${policy}", "seed": "${round}"},
            "samples": {**STAGES["samples"], "seed": "${round}"},
        },
    }
    scores = {**STAGES["scores"], "model": "${sft}/model"}
    pipeline.variables["rounds"] = 2
    pipeline.write({"fine-tuning": block, "scores": scores})
    assert pipeline.run() == dict.fromkeys(["sft-1", "samples-1", "sft-2", "samples-2", "scores"], "ran")
    story = json.loads((pipeline.out / "pipeline.json").read_text())
    inputs = [{}, {"model": ["sft-1"]}, {"model": ["sft-1"]}, {"model": ["sft-2"]}, {"model": ["sft-2"]}]
    assert [s["inputs"] for s in story["stages"]] == inputs
    settings = yaml.safe_load((pipeline.out / "sft-2" / "config.yaml").read_text())
    assert (settings["model"], settings["seed"]) == (str(pipeline.out / "sft-1" / "model"), 2)
    # An option of one round's stage: what follows from it. A further round: the rounds before it stay.
    again = {"sft-1": "skipped", "samples-1": "skipped", "sft-2": "ran", "samples-2": "ran", "scores": "ran"}
    assert pipeline.run("--sft-2.seed", 7) == again
    longer = pipeline.run("--sft-2.seed", 7, "--rounds", 3)
    assert longer == {**dict.fromkeys(again, "skipped"), "sft-3": "ran", "samples-3": "ran", "scores": "ran"}


def test_methods_go_on_and_other_commands_start_again() -> None:
    going_on = {command for command in COMMANDS if is_resumable(command)}
    assert going_on == {getattr(methods, name).command for name in methods.__all__}
    assert {"pretrain", "sft", "ppo"} <= going_on and not {"sample", "label", "evaluate", "world"} & going_on


def test_only_folders_that_the_pipeline_made_are_taken_away(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.write({"scores": {"command": "score", "model": "${base}", "data": "${pairs}"}})
    assert pipeline.run() == {"scores": "ran"}
    folder = pipeline.out / "scores"
    rows = folder / "scores.jsonl"
    rows.write_text(rows.read_text() + "\n")
    again = ("run", pipeline.recipe, "--out", pipeline.out, "--scores.tokens-per-pass", "64")
    assert accord(*again) == 2
    assert f"{rows} was changed since accord wrote it, and {folder} is to be made again" in capsys.readouterr().err
    assert accord(*again, "--overwrite") == 0 and pipeline.status() == {"scores": "ran"}
    (folder / ".accord-stage").unlink()  # somebody's own folder, in the place of the stage's
    for words in (again, (*again, "--overwrite")):
        assert accord(*words) == 2
        assert f"{folder} was not made by `accord run`, and a stage needs its place" in capsys.readouterr().err
    assert len(read_jsonl(rows)) == 2


def test_a_kill_while_a_stage_s_folder_goes_leaves_it_the_pipeline_s(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.write({"scores": {"command": "score", "model": "${base}", "data": "${pairs}"}})
    pipeline.run()

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    again = ("run", pipeline.recipe, "--out", pipeline.out, "--scores.tokens-per-pass", "64")
    with monkeypatch.context() as patch:
        patch.setattr("accord.cli.pipeline.shutil.rmtree", killed)
        assert accord(*again) == 130
    assert [path.name for path in (pipeline.out / "scores").iterdir()] == [".accord-stage"]
    assert accord(*again) == 0


def test_a_pipeline_s_folder_is_one_process_s(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.write({"scores": {"command": "score", "model": "${base}", "data": "${pairs}"}})
    with alone_in(pipeline.out):
        assert accord("run", pipeline.recipe, "--out", pipeline.out) == 2
        assert f"{pipeline.out} is in use by process " in capsys.readouterr().err
    assert pipeline.run() == {"scores": "ran"}


def test_overwrite_is_the_pipeline_s_and_no_stage_s(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.write({"scores": {"command": "score", "model": "${base}", "data": "${pairs}", "overwrite": True}})
    assert accord("run", pipeline.recipe, "--out", pipeline.out) == 2
    assert "stage scores of the recipe has `overwrite`; give `accord run` --overwrite" in capsys.readouterr().err


def test_a_pipeline_from_text_alone_makes_its_tokenizer_and_model_anew_where_they_change(tmp_path: Path) -> None:
    """Both commands write their folder whole, in which the mark of a stage then stands as before."""
    (tmp_path / "a.txt").write_text("the cat sat on the mat .\n" * 9)
    sizes = {"layers": 1, "width": 8, "heads": 2, "context": 32}
    recipe = {
        "variables": {"tokens": 264},
        "stages": {
            "words": {"command": "tokenizer", "data": str(tmp_path / "a.txt"), "vocab_size": "${tokens}"},
            "init": {"command": "new-model", "tokenizer": "${words}", **sizes},
            "base": {"command": "pretrain", "model": "${init}", "data": str(tmp_path / "a.txt"), "max_steps": 1},
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))

    def statuses(*options: object) -> list[str]:
        assert accord("run", tmp_path / "recipe.yaml", "--out", tmp_path / "out", *options) == 0
        return [stage["status"] for stage in json.loads((tmp_path / "out" / "pipeline.json").read_text())["stages"]]

    assert statuses() == ["ran"] * 3 and statuses() == ["skipped"] * 3
    assert statuses("--tokens", 266) == ["ran"] * 3
    assert json.loads((tmp_path / "out" / "init" / "config.json").read_text())["vocab_size"] == 266
