"""A run's folder: what is written when, what a killed session leaves, and who may go on with it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from accord.errors import InputError
from accord.train.rows import read_metrics
from accord.train.run import Run
from tests.full import files_of_at_most

SETTINGS = {"command": "sft", "model": "m", "seed": 3, "batch_size": 4, "max_steps": None}


def steps(run: Run, first: int, last: int) -> None:
    """Log the steps first ... last, each with a sample."""
    for step in range(first, last + 1):
        run.log(step, {"loss": 1 / step}, tokens=10 * step)
        run.sample(step, [{"prompt": "hi", "completion": "é" * step}])


def test_what_a_run_writes(tmp_path: Path) -> None:
    with Run(tmp_path / "a" / "run", SETTINGS) as run:
        run.begin(0, 2)
        steps(run, 1, 2)
        assert not run.finished and not run.resumed
    folder = tmp_path / "a" / "run"
    assert yaml.safe_load((folder / "config.yaml").read_text()) == SETTINGS
    rows = read_metrics(folder)
    assert [(r["step"], r["loss"], r["tokens"]) for r in rows] == [(1, 1.0, 10), (2, 0.5, 20)]
    assert all(r["tokens_per_second"] == pytest.approx(r["tokens"] / r["seconds"]) for r in rows)
    told = json.loads((folder / "environment.json").read_text())
    assert told["seed"] == 3 and {"python", "platform", "processor", "versions", "command", "git"} <= told.keys()
    assert {"torch", "transformers"} <= told["versions"].keys()
    assert (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()[1].endswith('"completion": "éé"}')


def test_a_full_disk_is_told_with_the_file_and_its_last_line_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "run" / "metrics.jsonl"
    size, full = 0, pytest.raises(OSError, match=f"File too large: '{file}'$")
    with full, ExitStack() as disk, Run(tmp_path / "run", SETTINGS, track="none") as run:
        run.begin(0, 5)
        steps(run, 1, 2)
        size = file.stat().st_size
        disk.enter_context(files_of_at_most(size + 20))
        steps(run, 3, 3)
    assert file.stat().st_size == size + 20
    with Run(tmp_path / "run", SETTINGS, resume=True) as run:
        run.begin(2, 5)
        steps(run, 3, 5)
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2, 3, 4, 5]


def test_rows_past_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    with Run(tmp_path / "run", SETTINGS) as run:
        run.begin(0, 5)
        steps(run, 1, 4)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # the kill came in the middle of a line
    with Run(tmp_path / "run", SETTINGS, resume=True) as run:
        assert run.resumed
        run.begin(2, 5)
        assert [row["step"] for row in read_metrics(run.folder)] == [1, 2]
        steps(run, 3, 5)
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2, 3, 4, 5]
    samples = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in samples] == [1, 2, 3, 4, 5]


def test_a_run_is_finished_once_its_model_is_there(tmp_path: Path) -> None:
    with Run(tmp_path / "run", SETTINGS) as run:
        run.begin(0, 1)
    (tmp_path / "run" / "model").mkdir()
    assert Run(tmp_path / "run", SETTINGS, resume=True).finished


def test_to_resume_what_never_began_is_to_begin(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", SETTINGS, resume=True)
    assert not run.resumed and not run.finished


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 5}, "was run with batch_size = 4, not 5; resume it with the same settings"),
        ({"seed": 7}, "was run with seed = 3, not 7"),
        ({"beta": 0.1}, "was run with beta = None, not 0.1"),
    ],
)
def test_other_settings_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with Run(tmp_path / "run", SETTINGS) as run:
        run.begin(0, 1)
    with pytest.raises(InputError, match=message):
        Run(tmp_path / "run", SETTINGS | change, resume=True)


def test_to_train_a_finished_run_for_longer_its_model_is_named(tmp_path: Path) -> None:
    with Run(tmp_path / "run", SETTINGS) as run:
        run.begin(0, 1)
    (tmp_path / "run" / "model").mkdir()
    with pytest.raises(InputError, match=r"not 7; it is finished: train on from --model \S*run/model in another --out"):
        Run(tmp_path / "run", SETTINGS | {"max_steps": 7}, resume=True)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files; choose another --out"):
        Run(tmp_path, SETTINGS)
    with pytest.raises(InputError, match="holds other files"):
        Run(tmp_path, SETTINGS, resume=True)


def test_an_unfinished_run_without_metrics_has_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_metrics_are_read_up_to_a_line_cut_short(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]
