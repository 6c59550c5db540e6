"""Runs and pipelines beside each other on one page, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accord.cli.main import main
from accord.cli.report import report
from accord.errors import InputError
from accord.report import write_comparison, write_report
from tests.report.evaluations.runs import ALARMS, write_watched
from tests.report.folders import HOSTILE, write_pipeline, write_rows, write_run
from tests.report.pages import Page


def words(page: Page, section: str) -> str:
    return " ".join(page.sections[section].split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs called ppo and one called dpo."""
    root = tmp_path_factory.mktemp("runs")
    one, two = write_run(root / "a" / "ppo", "ppo", 40), write_watched(root / "b" / "ppo", ALARMS, 20)
    (two / "config.yaml").write_text("command: ppo\nlearning_rate: 0.001\nkl_coefficient: 0.1\n")
    write_rows(two / "samples.jsonl", [{"step": 9, "prompt": "How is the tea ?", "completion": HOSTILE, "reward": 1.5}])
    return [one, two, write_run(root / "dpo", "dpo", 40)]


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> Page:
    return Page(write_comparison(runs, runs[0].parent / "out" / "compare.html"))


def test_runs_of_one_name_are_set_apart(page: Page) -> None:
    assert list(page.sections) == ["differences", "numbers", "frontier", "alarms", "curves", "answers"]
    assert ["Setting", "a/ppo", "b/ppo", "dpo"] in page.tables


def test_only_the_settings_that_differ_are_listed(page: Page) -> None:
    rows = {row[0]: row[1:] for row in page.tables}
    assert rows["command"] == ["ppo", "ppo", "dpo"]
    assert rows["learning_rate"] == ["0.0001", "0.001", "0.0001"]
    assert rows["kl_coefficient"] == ["–", "0.1", "–"]
    assert "seed" in rows  # b/ppo has none


def test_the_final_numbers(page: Page) -> None:
    rows = {row[0]: row[1:] for row in page.tables}
    assert rows["Steps"] == ["40", "20", "40"]
    assert rows["Alarms"] == ["–", "3", "–"]
    # KL is 6 t + .5; the last tenth of 40 steps has t = .925, .95, .975, 1, that of 20 t = .95, 1.
    assert rows["KL to the reference (nats)"] == ["6.28", "6.35", "–"]
    # Entropy is 3 - 1.8 t.
    assert rows["Entropy of the policy (nats)"] == ["1.27", "1.25", "–"]


def test_curves_of_all_share_a_figure(page: Page) -> None:
    assert "At the end: b/ppo 6.35, a/ppo 6.28. Not measured in dpo." in words(page, "curves")
    assert words(page, "curves").count("KL to the reference (nats)") == 1


def test_alarms_of_each(page: Page) -> None:
    assert "b/ppo 1 reward up watched down step 24" in words(page, "alarms")


def test_samples_on_common_prompts(page: Page) -> None:
    # a/ppo's last sample is that of step 100; dpo kept none.
    assert page.answers == [
        "answer of step 100",
        "<script>alert('owned')</script> & \"quotes\" <|im_end|>⟨U+001B⟩[31m ⟨U+202E⟩gnirts↵\n",
    ]
    assert "script" not in {tag for tag, _ in page.tags}


def test_pipelines_are_compared_stage_by_stage(tmp_path: Path) -> None:
    folders = [write_pipeline(tmp_path / name, 10) for name in ("one", "two")]
    (folders[1] / "ppo" / "config.yaml").write_text("command: ppo\nseed: 7\n")
    page = Page(write_comparison(folders, tmp_path))
    assert (tmp_path / "comparison.html").is_file()
    assert list(page.sections) == [
        "differences", "numbers", "results", "comparisons", "frontier", "curves", "answers",
    ]  # fmt: skip
    rows = {row[0]: row[1:] for row in page.tables}
    # Of all stages' settings only those of ppo differ: stage 7 of 9 has seed 6 where it was not changed.
    assert rows["seed (ppo)"] == ["6", "7"]
    assert rows["ppo"] == ["0.644 (0.624 to 0.664) wins 82.3% (77.3%–87.3%) KL 6.25"] * 2
    assert rows["reward model"] == ["71.2% (69.1%–73.3%)"] * 2


def test_inputs_are_the_same_wherever_a_pipeline_was(tmp_path: Path) -> None:
    folders = [write_pipeline(tmp_path / name, 2) for name in ("one", "two")]
    for folder, place in zip(folders, ("/old/place/", "runs/"), strict=True):
        (folder / "dpo" / "config.yaml").write_text(
            f"command: dpo\nmodel: {place}sft/model\ndata: {place}pairs/x.jsonl\n"
        )
    assert "differences" not in Page(write_comparison(folders, tmp_path / "c.html")).sections


def test_one_word_makes_a_page_and_several_compare(runs: list[Path], tmp_path: Path) -> None:
    assert report(str(runs[0])) == runs[0] / "report.html"
    assert report(str(runs[0]), out=str(tmp_path / "x" / "page.html")) == tmp_path / "x" / "page.html"
    assert report([str(run) for run in runs], out=str(tmp_path / "c.html")) == tmp_path / "c.html"


def test_words_on_the_command_line_are_folders(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c.html"
    assert main(["report", str(runs[0]), str(runs[2]), "--out", str(out)]) == 0
    assert "<title>ppo beside dpo · accord</title>" in out.read_text(encoding="utf-8")
    assert main(["report", str(runs[0]), str(runs[2])]) == 2
    assert "accord: comparing runs needs --out" in capsys.readouterr().err


def test_a_folder_of_runs_is_compared(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_run(tmp_path / name, "sft", 3)
    (tmp_path / "notes").mkdir()
    page = report(str(tmp_path))
    assert page == tmp_path / "comparison.html"
    assert "<title>a beside b · accord</title>" in page.read_text(encoding="utf-8")


def test_a_page_goes_to_a_file_or_to_a_folder(runs: list[Path], tmp_path: Path) -> None:
    assert write_report(runs[0], tmp_path / "one") == tmp_path / "one" / "report.html"
    assert write_report(runs[0], tmp_path / "one.html") == tmp_path / "one.html"
    assert write_comparison(runs[:2], tmp_path / "two") == tmp_path / "two" / "comparison.html"
    for out, said in ((tmp_path / "one.html" / "x.html", "cannot be a folder"), (tmp_path / "d.html", "is a folder")):
        (tmp_path / "d.html").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=said):
            write_report(runs[0], out)


def test_what_cannot_be_compared_is_named(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "c.html"
    with pytest.raises(InputError, match=r"nothing is neither a run nor a pipeline"):
        write_comparison([runs[0], tmp_path / "nothing"], out)
    with pytest.raises(InputError, match=r"ppo/\.\./ppo is given twice"):
        write_comparison([runs[0], runs[0] / ".." / "ppo"], out)
    with pytest.raises(InputError, match="needs two runs or more"):
        write_comparison([runs[0]], out)
    with pytest.raises(InputError, match=r"dpo is a run and others are pipelines"):
        write_comparison([write_pipeline(tmp_path / "pipe", 2), runs[2]], out)
    with pytest.raises(InputError, match="comparing runs needs --out"):
        report([str(run) for run in runs])
    assert not out.exists()


def test_seven_runs_keep_their_styles(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"run-{place}", "sft", 12) for place in range(7)]
    page = Page(write_comparison(folders, tmp_path))
    keys = [a.get("class") for tag, a in page.tags if tag == "span" and (a.get("class") or "").startswith("run ")]
    assert keys[:7] == ["run h1", "run h2", "run h3", "run h4", "run h5", "run h6", "run h1 dashed"]
    assert json.loads((tmp_path / "run-0" / "environment.json").read_text())["seed"] == 0
