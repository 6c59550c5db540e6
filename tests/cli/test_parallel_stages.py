"""Stages at the same time: the results that they have one after another, and how they end early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from accord.cli.parallel import fail, needed
from accord.cli.recipe import Stage
from accord.errors import InputError, TrainingStopped
from accord.interrupts import Interrupted
from accord.train.rows import read_metrics
from tests.cli.pipelines import STAGES, Pipeline
from tests.commands.small import accord
from tests.days import set_day

LONG = {**STAGES["sft"], "max-steps": 100_000, "batch-size": 1}


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(tmp_path)


def test_the_results_are_those_of_one_after_another(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    set_day(monkeypatch, "2020-02-29")  # in this process alone
    assert pipeline.run("--parallel", 2) == pipeline.changed(*STAGES)
    printed = capsys.readouterr().err
    assert "\ndpo: dpo 2/2  loss " in printed
    assert printed.index("sft (sft)") < printed.index("samples (sample)") < printed.index("scores (score)")
    assert pipeline.run("--parallel", 2) == pipeline.changed()
    one = Pipeline(tmp_path)
    one.out = tmp_path / "one"
    one.run()
    for file in ("sft/model/model.safetensors", "samples/samples.jsonl", "dpo/model/model.safetensors"):
        assert (one.out / file).read_bytes() == (pipeline.out / file).read_bytes()
    dates = [yaml.safe_load((out / "sft/config.yaml").read_text())["date"] for out in (pipeline.out, one.out)]
    assert dates == ["2020-02-29"] * 2


def test_a_stage_that_fails_ends_the_run_with_its_sentence_and_the_others_end_well(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    dear = {**STAGES["dpo"], "model": "${base}", "reference": "${data}"}
    pipeline.write({"sft": STAGES["sft"], "dear": dear, "samples": STAGES["samples"]})
    assert accord("run", pipeline.recipe, "--out", pipeline.out, "--parallel", 2) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("accord: stage dear: ")
    assert pipeline.status() == {"sft": "ran", "dear": "running", "samples": "waiting"}


def test_a_changed_folder_is_made_anew_with_overwrite_alone(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.write({"scores": {**STAGES["scores"], "model": "${base}"}})
    pipeline.run("--parallel", 2)
    file = pipeline.out / "scores" / "scores.jsonl"
    file.write_text("mine")
    again = ("run", pipeline.recipe, "--out", pipeline.out, "--scores.limit", 1, "--parallel", 2)
    assert accord(*again) == 2
    assert f"{file} was changed since accord wrote it" in capsys.readouterr().err
    assert accord(*again, "--overwrite") == 0
    assert file.read_text() != "mine"


def hear_ctrl_c() -> None:
    """Whatever the tests were started by."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def begun(pipeline: Pipeline) -> Iterator[subprocess.Popen[str]]:
    """A run with two long stages, once both have done a step."""
    pipeline.write({"one": LONG, "other": LONG})
    process = subprocess.Popen(
        [sys.executable, "-m", "accord", "run", str(pipeline.recipe), "--out", str(pipeline.out), "--parallel", "2"],
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=hear_ctrl_c,
    )
    for name in ("one", "other"):
        while not (pipeline.out / name / "metrics.jsonl").is_file() or not read_metrics(pipeline.out / name):
            assert process.poll() is None
            time.sleep(0.1)
    yield process
    process.kill()
    process.wait()


def all_stopped(pipeline: Pipeline) -> None:
    """Wait until no process holds a stage's folder."""
    while [*pipeline.out.glob("*/.lock")]:
        time.sleep(0.1)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGKILL, -9), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_stages_under_way_stop_with_a_checkpoint_when_the_run_is_stopped(
    number: signal.Signals, status: int, pipeline: Pipeline, begun: subprocess.Popen[str]
) -> None:
    begun.send_signal(number)
    assert begun.wait() == status
    all_stopped(pipeline)
    steps = {name: len(read_metrics(pipeline.out / name)) for name in ("one", "other")}
    given = ("--model", pipeline.variables["base"], "--data", pipeline.data, "--dtype", "float32", "--batch-size", 1)
    for name, done in steps.items():
        assert accord("sft", *given, "--out", pipeline.out / name, "--resume", "--max-steps", done + 2) == 0
        assert [row["step"] for row in read_metrics(pipeline.out / name)] == [*range(1, done + 3)]


def test_what_a_stage_needs() -> None:
    folder = Path("out")

    def stage(name: str, inputs: dict[str, list[str]] | None = None, **options: Any) -> Stage:
        return Stage(name, "sft", options, inputs or {})

    earlier = [stage("sft"), stage("sft-2"), stage("people", database="people.db")]
    assert needed(stage("dpo", {"model": ["sft"]}, model="out/sft/model"), earlier, folder) == {"sft"}
    assert needed(stage("dpo", model="out/sft-2/model", data="a.jsonl"), earlier, folder) == {"sft-2"}  # by its path
    assert needed(stage("dpo", model="out/sft-2", beta=0.1), earlier, folder) == {"sft-2"}
    formula = "2 * out/sft/model - mean(out/sft-2/model, length)"
    assert needed(stage("ppo", reward=formula), earlier, folder) == {"sft", "sft-2"}
    assert needed(stage("export", database="people.db"), earlier, folder) == {"people"}
    assert needed(stage("export", database="other.db"), earlier, folder) == set()


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (2, InputError, "stage dpo: it is so."),
        (3, TrainingStopped, "stage dpo: it is so."),
        (1, RuntimeError, "stage dpo: it is so."),
        (143, Interrupted, "stopped by SIGTERM in stage dpo"),
        (-9, InputError, "stage dpo was killed (SIGKILL), often for lack of memory: run fewer stages at once."),
        (-11, InputError, "stage dpo was killed (SIGSEGV)."),
    ],
)
def test_how_a_stage_ended(code: int, kind: type[BaseException], message: str) -> None:
    with pytest.raises(kind) as raised:
        fail("dpo", code, "accord: it is so.")
    assert str(raised.value) == message


def test_fewer_stages_than_one_at_a_time(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert accord("run", pipeline.recipe, "--out", pipeline.out, "--parallel", 0) == 2
    assert capsys.readouterr().err == "accord: parallel must be 1 or more stages at a time, not 0.\n"
    assert not pipeline.out.exists()
