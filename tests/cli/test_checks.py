"""Recipes: faults found before anything runs."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from accord.cli.checks import checked
from accord.cli.pipeline import packaged, run_pipeline
from accord.cli.recipe import read_recipe
from accord.errors import InputError
from accord.feedback.imports import require_function
from tests.cli.pipelines import STAGES, Pipeline
from tests.commands.small import accord

WON: dict[str, Any] = {
    "command": "evaluate models",
    "models": {"a": "${dpo}/model"},
    "data": "${data}",
    "judge": "cafe",
}
"""A last stage that asks a model."""


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(tmp_path)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, ["--dpo.beta_", "1"], "`accord dpo` has no option beta-; did you mean beta?"),
        ({}, ["--color", "red"], "the recipe has no variable or stage option color; it has base, data"),
        ({}, ["--ppo.seed", "1"], "the recipe has no variable or stage option ppo.seed"),
        ({"dpo": {**STAGES["dpo"], "model": "${sft2}/model"}}, [], "stage dpo refers to sft2, which is neither"),
        ({"sft": {**STAGES["sft"], "model": "${dpo}/model"}}, [], "stage sft refers to dpo, which is neither"),
        ({"dpo": {"model": "x"}}, [], "stage dpo of the recipe has no command"),
        ({"dpo": {**STAGES["dpo"], "command": "dpu"}}, [], "there is no command 'dpu'; did you mean dpo?"),
        ({"dpo": {**STAGES["dpo"], "beta": "much"}}, [], "--beta"),
        ({"dpo": {**STAGES["dpo"], "beta": -1}}, [], "stage dpo: beta must be positive"),
        ({"dpo": {"command": "dpo", "model": "${sft}/model"}}, [], "stage dpo: `accord dpo` needs --data."),
        (
            {"scores": {**STAGES["scores"], "command": "evaluate"}},
            [],
            "stage scores: `accord evaluate` needs a question",
        ),
        (
            {"scores": {**STAGES["scores"], "model": "${dpo}/modle"}},
            [],
            "and stage dpo (dpo) will not write it: it lea",
        ),
        ({"scores": {**STAGES["scores"], "model": "${dpo}/best/model"}}, [], "stage dpo (dpo) will not write it"),
        (
            {"scores": {**STAGES["scores"], "data": "${samples}/s.jsonl"}},
            [],
            "will not write it: it leaves samples.jsonl",
        ),
        (
            {"scores": {**STAGES["scores"], "data": "gone.jsonl"}},
            [],
            "stage scores needs gone.jsonl, which is not there",
        ),
        (
            {"dpo": {**STAGES["dpo"], "model": "${ sft }/model"}},
            [],
            "stage dpo: model has ${ sft }, which refers to nothi",
        ),
        (
            {"dpo": {**STAGES["dpo"], "model": "${sft.model}"}},
            [],
            "which refers to nothing: write ${sft}, as in ${sft}/",
        ),
        ({"dpo": {**STAGES["dpo"], "model": "$sft/model"}}, [], "stage dpo: model has $sft/, which refers to nothing"),
        ({"dpo": {**STAGES["dpo"], "data": ["{{ pairs }}"]}}, [], "stage dpo: data has {{ pairs }}, which refers to"),
        ({"dpo": {**STAGES["dpo"], "model": "${sft}"}}, [], "is all that stage sft leaves: write ${sft}/model."),
        ({"samples": {**STAGES["samples"], "n": 0}}, [], "stage samples: --n must be at least 1, not 0."),
        ({"samples": {**STAGES["samples"], "temperature": -1}}, [], "stage samples: temperature must not be negative"),
        (
            {"samples": {**STAGES["samples"], "split": "train[2"}},
            [],
            "stage samples: a split is a name, or a part such",
        ),
        (
            {"dpo": {**STAGES["dpo"], "stop_when": "colapse"}},
            [],
            "stage dpo: stop_when: there is no alarm 'colapse'; d",
        ),
        ({"dpo": {**STAGES["dpo"], "memory": "lots"}}, [], "stage dpo: memory is a size such as 24GB or 900MB, not"),
        ({"dpo": {**STAGES["dpo"], "max_steps": "1:30"}}, [], "--max-steps must be a whole number, not 1:30."),
        ({"last": {**WON, "max_new_tokens": 0}}, [], "stage last: max_new_tokens must be at least 1, not 0"),
        ({"last": {**WON, "against": "spo"}}, [], "stage last: --against spo is none of the models and files named: a"),
        (
            {"last": {**WON, "temperatures": [1, 1], "against": "a"}},
            [],
            "stage last: --temperatures needs a model by -",
        ),
        (
            {"last": {"command": "evaluate passes", "data": "${data}", "verifier": "number", "n": 0, "model": "m"}},
            [],
            "stage last: --n must be at least 1, not 0.",
        ),
        (
            {"last": {"command": "evaluate failures", "models": {"a": "m"}, "kinds": "fact"}},
            [],
            "stage last: there is no kind of probes 'fact'; did you mean facts?",
        ),
        (
            {"last": {"command": "label", "data": "${data}", "judge": "cafe", "by": "majority"}},
            [],
            "stage last: --by majority is for several judges, and there is one",
        ),
        ({"last": {"command": "world", "users": 3}}, [], "stage last: --users is for users with tastes of their own"),
        (
            {"last": {**WON, "judge": "nubmer"}},
            [],
            "stage last: 'nubmer' is neither a verifier, nor module:function, nor a URL, nor the folder of a model; "
            "did you mean number?",
        ),
        ({"last": {**WON, "reward": "number + 2 * regex"}}, [], "stage last: the verifier regex needs a pattern"),
        ({"last": {**WON, "judge": "2 * runs/no/rm/model + cafe"}}, [], "stage last: there is no runs/no/rm/model,"),
        ({"last": {**WON, "judge": "gone.py:brief"}}, [], "stage last: gone.py:brief: there is no file gone.py"),
        (
            {"last": {**WON, "judge": "no_such_module.rewards:brief"}},
            [],
            "stage last: no_such_module.rewards:brief: the module no_such_module.rewards cannot be imported (No module",
        ),
        (
            {"last": {**WON, "judge": "accord.worlds.no:gold"}},
            [],
            "stage last: accord.worlds.no:gold: the module accord.worlds.no cannot be imported (No module",
        ),
        (
            {"last": {**WON, "judge": "accord.worlds.sums:glod"}},
            [],
            "stage last: the module accord.worlds.sums has no function glod; did you mean accord.worlds.sums:gold?",
        ),
        ({"last": {**WON, "judge": "mean(cafe, ai:)"}}, [], "stage last: ai: names no model; write ai:MODEL, or"),
        ({"last": {**WON, "judge": "gone.yaml"}}, [], "stage last needs gone.yaml, which is not there"),
        (
            {"last": {"command": "label", "data": "${data}", "judge": ["cafe", "beats:exact@"]}},
            [],
            "stage last: the verifier 'exact@' names no column after its @",
        ),
        ({"dpo": {**STAGES["dpo"], "watch": "cofe", "watch_data": "${data}"}}, [], "did you mean cafe?"),
        (
            {"samples": {**STAGES["samples"], "user": "conter"}},
            [],
            "stage samples: there is no simulated user 'conter': give module:function, or counter.",
        ),
        ({"dpo": "dpo"}, [], "stage dpo must have a `command` and its options, and has 'dpo'."),
        ({"d p o": STAGES["dpo"]}, [], "a stage's name has letters, digits, - and _ alone, unlike 'd p o'"),
        ({}, ["--sft.max-steps.x", "1"], "--sft.max-steps.x: max_steps of stage sft has no values by name, but is 2."),
        ({}, ["--data", "./gone"], "stage sft needs ./gone, which is not there, and no earlier stage writes it."),
    ],
)
def test_a_fault_is_found_before_anything_runs(
    change: dict[str, Any], options: list[str], message: str, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.write({**STAGES, **change})
    assert accord("run", pipeline.recipe, "--out", pipeline.out, *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not pipeline.out.exists()


def test_functions_of_later_stages_are_looked_up_without_running_their_files(pipeline: Pipeline) -> None:
    file = pipeline.recipe.parent / "rewards.py"
    reward = "mean(regex:42, ${dpo}/model, cafe)"
    pipeline.write({**STAGES, "last": {**WON, "judge": f"{file}:brief", "reward": reward}})

    def stages() -> int:
        return len(checked(read_recipe(pipeline.recipe), pipeline.out, {}))

    for text in ("1 / 0\ndef brief(completions): ...", "brief = 1 / 0", "from no_such_package import *"):
        file.write_text(text)
        assert stages() == len(STAGES) + 1
    file.write_text("def breif(completions): ...")
    with pytest.raises(InputError, match=rf"^stage last: the file {file} has no function brief; did you mean .*:breif"):
        stages()
    file.write_text("def brief(completions: ...")
    with pytest.raises(InputError, match=rf"^stage last: {file}:brief: the file {file} cannot be imported \('\('"):
        stages()


@pytest.mark.parametrize(
    ("init", "helper", "asked", "refused"),
    [
        ("import sys, types\nsys.modules[__name__ + '.scores'] = types.ModuleType('scores')", "", "scores:brief", ""),
        ("from ._made import *", "import sys\nsys.modules['PACKAGE.scores'] = sys", "scores:brief", ""),
        ("__path__.append('elsewhere')", "", "scores:brief", ""),
        ("", "import sys\nsys.modules[__name__] = object()", "_made:brief", ""),
        (
            "from ._made import breif",
            "def breif(): ...",
            "scores:brief",
            "the module PACKAGE.scores cannot be imported",
        ),
        ("from ._made import breif", "def breif(): ...", "_made:brief", "has no function brief; did you mean"),
    ],
)
def test_what_a_package_makes_as_it_is_imported_is_not_refused(
    init: str, helper: str, asked: str, refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"made_{tmp_path.name.replace('-', '_')}"  # a name that no other case has imported
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / package).mkdir()
    for name, text in (("__init__", init), ("_made", helper)):
        (tmp_path / package / f"{name}.py").write_text(text.replace("PACKAGE", package))
    with pytest.raises(InputError, match=refused.replace("PACKAGE", package)) if refused else nullcontext():
        require_function(f"{package}.{asked}")


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("cafe", {}),
        ("clusters", {}),
        ("iterated", {"rounds": "2"}),
        ("lecture", {}),
        ("hh_smollm2", {"data": "RECIPE"}),
    ],
)
def test_the_recipes_that_come_with_accord_can_be_run(recipe: str, overrides: dict[str, str], tmp_path: Path) -> None:
    path = packaged(recipe)
    given = {name: str(path) if value == "RECIPE" else value for name, value in overrides.items()}
    assert checked(read_recipe(path), tmp_path / "out", given)
    assert not (tmp_path / "out").exists()


def test_a_recipe_on_the_demo_s_models_needs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="stage ppo-02 needs runs/demo/sft/model, which is not there"):
        checked(read_recipe(packaged("frontier")), tmp_path / "out", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [", "not valid YAML"),
        ("- 1", "has no `stages`"),
        ("variables: {a: 1, b: '${a}'}\nstages: {s: {}}", "variable b of the recipe refers to another"),
        ("stages: {}\ncolor: red", "an unknown key color"),
    ],
)
def test_a_file_that_is_no_recipe(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        run_pipeline(tmp_path / "recipe.yaml", tmp_path / "out")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        run_pipeline(tmp_path / "nowhere.yaml", tmp_path / "out")
