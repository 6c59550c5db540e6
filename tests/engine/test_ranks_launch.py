"""Ranks by torchrun itself: one that is killed, recipes whose stages ask for ranks, two machines, SLURM's script."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from accord.engine.checkpoint import checkpoints
from accord.train.rows import read_metrics
from tests.cli.pipelines import STAGES, Pipeline
from tests.commands.small import accord, save_model, write_jsonl
from tests.engine.test_ranks import PAIRS, ROOT

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A training that is long, in the folder `run`."""
    model, data = save_model(tmp_path / "base"), write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    settings = ["--batch-size", "3", "--dtype", "float32", "--track", "none", "--max-steps", "100000"]
    return ["dpo", "--model", model, "--data", data, *settings, "--out", str(tmp_path / "run")]


@contextmanager
def begun(command: list[str], **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A command at work, and what it has said; where the test fails it is ended, and so are its ranks."""
    given: dict[str, Any] = {"env": ENVIRONMENT, **more}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, **given)
    try:
        yield process
    finally:
        for pid in [process.pid, *offspring(process.pid)] if process.poll() is None else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def offspring(pid: int) -> list[int]:
    """The processes below one, those that it started before what they started."""
    listed = [task.joinpath("children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    children = sorted(int(child) for some in listed for child in some)
    return [*children, *(below for child in children for below in offspring(child))]


def wait_for_steps(run: Path, process: subprocess.Popen[str], steps: int = 3) -> None:
    while not (run / "metrics.jsonl").is_file() or len(read_metrics(run)) < steps:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The ranks among the processes below one, in their order."""
    ranks = {}
    for pid in offspring(process.pid):
        environment = dict(line.partition("=")[::2] for line in Path(f"/proc/{pid}/environ").read_text().split("\0"))
        if "RANK" in environment:
            ranks[int(environment["RANK"])] = pid
    return [ranks[rank] for rank in sorted(ranks)]


def sentences(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("accord: ")]


@pytest.mark.slow
def test_one_rank_that_is_killed_ends_torchrun_with_a_line(words: list[str], tmp_path: Path) -> None:
    with begun([*TORCHRUN, "--standalone", "--nproc-per-node", "2", "-m", "accord", *words]) as process:
        wait_for_steps(tmp_path / "run", process)
        os.kill(ranks_of(process)[1], signal.SIGKILL)
        since = time.monotonic()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and time.monotonic() - since < 60
    assert sentences(said) == [
        "accord: rank 1 of 2 ended without a word; the run goes on from its last checkpoint by --resume."
    ]


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(tmp_path)


RANKED = {**STAGES, "dpo": {**STAGES["dpo"], "ranks": "${ranks}"}}


def test_a_stage_on_ranks_is_that_of_one_process(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.variables["ranks"] = 2
    pipeline.write(RANKED)
    assert pipeline.run() == pipeline.changed(*STAGES)
    printed = capsys.readouterr().err
    assert printed.count("\ndpo: dpo 2/2  loss ") == 1
    run = pipeline.out / "dpo"
    assert json.loads((run / "environment.json").read_text())["ranks"] == 2
    assert pipeline.run("--ranks", 1) == pipeline.changed()  # which changes no result
    words = ["dpo", "--model", pipeline.out / "sft" / "model", "--data", pipeline.variables["pairs"]]
    assert accord(*words, "--max-steps", 2, "--dtype", "float32", "--out", pipeline.out.parent / "one") == 0
    found, expected = (
        load_file(folder / "model" / "model.safetensors") for folder in (run, pipeline.out.parent / "one")
    )
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-6


@pytest.mark.parametrize(
    ("stage", "ranks", "message"),
    [
        ("dpo", 0, "`ranks` of stage dpo must be a whole number from 1 to 64, not 0."),
        ("dpo", "two", "`ranks` of stage dpo must be a whole number from 1 to 64, not two."),
        ("dpo", 65, "`ranks` of stage dpo must be a whole number from 1 to 64, not 65."),
        ("dpo", "${most}", "`ranks` of stage dpo names most, which is neither a variable nor an earlier stage."),
        (
            "samples",
            2,
            "stage samples asks for 2 ranks, and `accord sample` runs in one process: leave `ranks` out.",
        ),
    ],
)
def test_stages_that_cannot_have_their_ranks(
    stage: str, ranks: object, message: str, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.write({**STAGES, stage: {**STAGES[stage], "ranks": ranks}})
    assert accord("run", pipeline.recipe, "--out", pipeline.out) == 2
    assert capsys.readouterr().err == f"accord: {message}\n"
    assert not pipeline.out.exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("parallel", [1, 2])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_ranks_of_a_stage_stop_with_a_checkpoint_when_the_run_is_stopped(
    number: signal.Signals, status: int, parallel: int, pipeline: Pipeline
) -> None:
    long = {**STAGES["sft"], "max-steps": 100_000, "batch-size": 1}
    pipeline.write({"sft": {**long, "ranks": 2}})
    command = [sys.executable, "-m", "accord", "run", str(pipeline.recipe), "--out", str(pipeline.out)]
    run = pipeline.out / "sft"
    with begun([*command, "--parallel", str(parallel)]) as process:
        wait_for_steps(run, process)
        process.send_signal(number)
        assert process.wait() == status
        while (run / ".lock").exists():  # held by the ranks, which a kill of the run leaves to end by themselves
            time.sleep(0.1)
    done = len(read_metrics(run))
    assert [int(found.name.removeprefix("step-")) for found in checkpoints(run / "checkpoints")][-1] == done
    assert accord("run", pipeline.recipe, "--out", pipeline.out, "--sft.max-steps", done + 2, "--sft.ranks", 1) == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stage_whose_rank_dies_ends_with_its_sentence(pipeline: Pipeline) -> None:
    pipeline.write({"sft": {**STAGES["sft"], "max-steps": 100_000, "batch-size": 1, "ranks": 2}})
    command = [sys.executable, "-m", "accord", "run", str(pipeline.recipe), "--out", str(pipeline.out)]
    with begun(command) as process:
        wait_for_steps(pipeline.out / "sft", process)
        os.kill(ranks_of(process)[1], signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    last = said.splitlines()[-1]
    assert last.startswith("accord: stage sft: rank 1 of 2 ended without a word; the run goes on from its last check")


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    yield number


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_torchruns_meet_and_one_that_loses_its_ranks_ends_the_other(
    words: list[str], tmp_path: Path, port: int
) -> None:
    """As on two machines, each with a rank: the second's is killed, then a SIGTERM reaches the first alone."""
    nodes = [*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "1"]
    command = [*nodes, "--rdzv-endpoint", f"127.0.0.1:{port}", "-m", "accord", *words, "--resume"]
    for number in (signal.SIGKILL, signal.SIGTERM):
        with begun(command) as first, begun(command) as second:
            done = len(read_metrics(tmp_path / "run")) if (tmp_path / "run" / "metrics.jsonl").is_file() else 0
            wait_for_steps(tmp_path / "run", first, done + 3)
            if number == signal.SIGKILL:
                os.kill(*ranks_of(second), number)
            else:
                first.send_signal(number)
            since = time.monotonic()
            said = [process.communicate(timeout=200)[0] for process in (first, second)]
        assert time.monotonic() - since < 60
        found = [line for text in said for line in sentences(text)]
        assert len(found) == 1, said
        expected = (
            "rank [01] of 2 (cannot go on, as another )?ended without a word"  # the shorter where torchrun is left
        )
        if number == signal.SIGTERM:
            expected = "stopped by SIGTERM after step"
        assert re.match(f"accord: {expected}", found[0])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_slurms_script_saves_and_queues_itself_again(words: list[str], tmp_path: Path, port: int) -> None:
    """With stand-ins for SLURM's commands: srun is one machine's, and scontrol notes what it is told."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {
        "srun": '#!/bin/bash\nexec "$@"\n',
        "torchrun": f'#!/bin/bash\nexec {sys.executable} -m torch.distributed.run "$@"\n',
        "scontrol": f'#!/bin/bash\nif [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> {tmp_path}/noted; fi\n',
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    script = (ROOT / "examples" / "train.sbatch").read_text().replace(":29500", f":{port}")
    (tmp_path / "train.sbatch").write_text(script)
    slurm = {"SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "2", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "7"}
    run = tmp_path / "run"
    environment = {**ENVIRONMENT, **slurm, "SLURM_JOB_NODELIST": "one", "OUT": str(run)}
    environment["PATH"] = f"{tools}:{environment['PATH']}"
    job = ["bash", str(tmp_path / "train.sbatch"), *words[:-2]]
    with begun(job, env=environment) as process:
        wait_for_steps(run, process)
        process.terminate()
        said, _ = process.communicate(timeout=600)
    assert process.returncode != 0 and "after step" in sentences(said)[0]
    assert (tmp_path / "noted").read_text() == "requeue 7\n"
    done = len(read_metrics(run))
    again = subprocess.run([*job, "--max-steps", str(done + 2)], env=environment, cwd=ROOT, timeout=600)
    assert again.returncode == 0 and (tmp_path / "noted").read_text() == "requeue 7\n"
    assert [row["step"] for row in read_metrics(run)] == [*range(1, done + 3)]
