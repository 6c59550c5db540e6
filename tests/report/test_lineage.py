"""What was run: the runs behind a run, whether a pipeline noted them or only their settings name them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accord.report import write_report
from accord.report.lineage import distinct_names, lineage
from tests.report.folders import write_pipeline, write_run
from tests.report.pages import Page


def chain(root: Path) -> Path:
    """A hub's model, fine-tuned, rewarded, optimized; each names what it read, by a path or by a path from there."""
    for name, settings in {
        "sft": {"command": "sft", "model": "hub/smollm2", "data": "demos.jsonl"},
        "rm": {"command": "reward", "model": str(root / "sft/model"), "data": "pairs.jsonl", "beta": None, "seed": 3},
        "ppo": {"command": "ppo", "model": "../sft/model", "reward": {"good": "../rm/model"}, "kl_coefficient": 0.05},
    }.items():
        (root / name / "model").mkdir(parents=True)
        (root / name / "environment.json").write_text("{}")
        (root / name / "config.yaml").write_text(json.dumps(settings))
    return root / "ppo"


def test_settings_are_followed_to_the_base_model(tmp_path: Path) -> None:
    stages = lineage(chain(tmp_path))
    assert [(stage.name, stage.command) for stage in stages] == [
        ("smollm2", ""), ("sft", "sft"), ("rm", "reward"), ("ppo", "ppo"),
    ]  # fmt: skip
    assert [stage.inputs for stage in stages] == [
        {},
        {"model": ("smollm2",), "data": ("demos.jsonl",)},
        {"model": ("sft",), "data": ("pairs.jsonl",)},
        {"model": ("sft",), "reward": ("rm",)},
    ]


def test_reward_models_in_formulas_and_ensembles_and_as_judges_are_followed(tmp_path: Path) -> None:
    folder = chain(tmp_path)
    for name, settings in {
        "rm2": {"command": "reward", "model": "../sft/model"},
        "judge": {"command": "preference", "model": "../sft/model"},
        "ppo": {
            "command": "ppo",
            "model": "../sft/model",
            "reward": "../rm/model + -.5 * number + 2 * min(../rm/model, ../rm2/model)",
            "watch": "ai:../judge/model",
        },
    }.items():
        (tmp_path / name / "model").mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "environment.json").write_text("{}")
        (tmp_path / name / "config.yaml").write_text(json.dumps(settings))
    stages = lineage(folder)
    assert [stage.name for stage in stages] == ["smollm2", "sft", "rm", "rm2", "judge", "ppo"]
    assert stages[-1].inputs == {"model": ("sft",), "reward": ("rm", "number", "rm", "rm2"), "watch": ("judge",)}


def note_state(folder: Path, name: str, status: str, seconds: float) -> None:
    """Change what the pipeline in a folder notes of one stage."""
    pipeline = json.loads((folder / "pipeline.json").read_text())
    next(stage for stage in pipeline["stages"] if stage["name"] == name).update(status=status, seconds=seconds)
    (folder / "pipeline.json").write_text(json.dumps(pipeline))


def test_a_stage_at_work_has_the_state_and_seconds_of_its_own_folder(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "cafe", 10)
    note_state(folder, "ppo", "running", 0.0)
    note_state(folder, "verdict", "waiting", 0.0)
    # Ten steps of .3 s each; a run's page is written once its model is.
    assert [(s.status, s.seconds) for s in lineage(folder / "ppo")][-1] == ("unfinished", pytest.approx(3.0))
    assert "3.0 s, unfinished" in " ".join(Page(write_report(folder)).sections["pipeline"].split())
    (folder / "ppo" / "model").mkdir()
    assert [(s.status, s.seconds) for s in lineage(folder / "ppo")][-1] == ("ran", pytest.approx(3.0))
    text = Page(write_report(folder / "ppo")).sections["lineage"]
    assert "3.0 s" in text and "running" not in text and "unfinished" not in text
    (folder / "verdict" / "evaluation.json").unlink()
    (folder / "verdict" / "metrics.jsonl").unlink(missing_ok=True)
    assert "waiting" in Page(write_report(folder)).sections["pipeline"]


def test_a_pipelines_note_comes_before_paths_that_have_moved(tmp_path: Path) -> None:
    stages = lineage(write_pipeline(tmp_path / "cafe", 2) / "ppo")
    # Of the nine stages those that ppo rests on, in order; dpo and the two evaluations do not belong.
    assert [stage.name for stage in stages] == ["base", "sft", "samples", "pairs", "rm", "ppo"]
    assert stages[-1].inputs == {"model": ("sft",), "reward": ("rm",)}


def test_the_page_lists_the_chain(tmp_path: Path) -> None:
    page = Page(write_report(chain(tmp_path)))
    listed = {row[0]: row[1:] for row in page.tables}
    assert listed["rm"] == ["accord reward", "model sft data pairs.jsonl", "seed 3", "–"]
    assert listed["smollm2"] == ["given", "–", "–", "–"]
    # Drawn level and upright: smollm2-sft, sft-rm, rm-ppo; sft-ppo follows from the last two.
    assert [a.get("class") for _, a in page.tags].count("shaft") == 2 * 3


def test_a_run_that_names_itself_ends_the_chain(tmp_path: Path) -> None:
    folder = chain(tmp_path)
    (tmp_path / "sft" / "config.yaml").write_text(json.dumps({"command": "sft", "model": str(folder / "model")}))
    assert [stage.name for stage in lineage(folder)] == ["sft", "rm", "ppo"]


def test_a_broken_file_of_another_run_costs_the_lineage_alone(tmp_path: Path) -> None:
    folder = chain(tmp_path)
    (tmp_path / "sft" / "config.yaml").write_text("[")
    assert lineage(folder) == []
    assert "lineage" not in Page(write_report(folder)).sections


def test_key_settings_are_those_that_are_set(tmp_path: Path) -> None:
    assert lineage(chain(tmp_path))[2].key_settings == [("seed", 3)]


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["a/ppo", "b/ppo", "dpo"], ["a/ppo", "b/ppo", "dpo"]),
        (["x/a/ppo", "y/a/ppo"], ["x/a/ppo", "y/a/ppo"]),
        (["runs", "other/runs"], None),
    ],
)
def test_names_that_set_folders_apart(tmp_path: Path, folders: list[str], names: list[str] | None) -> None:
    found = distinct_names([tmp_path / folder for folder in folders])
    assert found == (names or [f"{tmp_path.name}/runs", "other/runs"])


def test_a_run_by_itself_has_no_drawing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "sft", "sft", 3)
    (folder / "config.yaml").write_text("command: sft\nseed: 1\n")
    page = Page(write_report(folder))
    assert page.tables[:2] == [
        ["Stage", "Command", "Reads", "With", "Took"],
        ["sft", "accord sft", "–", "seed 1", "0.9 s tokens 12,288"],  # three steps of .3 s and 4,096 tokens
    ]
    assert "shaft" not in [a.get("class") for _, a in page.tags]
