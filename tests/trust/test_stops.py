"""How a training ends early: signals that ask for it, weights that are not finite, and what is left to go on from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from accord import engine
from accord.engine.checkpoint import checkpoints
from accord.errors import InputError, TrainingStopped
from accord.interrupts import Interrupted
from accord.methods import SFT
from accord.train.learner import StepResult
from tests.commands.small import accord, save_model, write_jsonl

ROWS = [{"prompt": f"{a} {b}", "completion": "sat on"} for a in ("the", "a", "hi") for b in ("cat", "dog")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "base")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_ends_after_the_step_and_what_goes_on_is_the_same(
    base: str, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)  # whatever the tests were started by
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    method = SFT(batch_size=2, max_steps=5, dtype="float32")
    whole = method.fit(model=base, data=data, out=tmp_path / "whole")

    def kill(step: int, _: StepResult) -> None:
        if step == 2:
            os.kill(os.getpid(), getattr(signal, name))

    with pytest.raises(Interrupted, match=r"after step 2 of 5, which is saved") as stopped:
        method.fit(model=base, data=data, out=tmp_path / "run", on_step=kill)
    assert stopped.value.status == 128 + getattr(signal, name)
    assert [c.name for c in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-0000002"]
    resumed = method.fit(model=base, data=data, out=tmp_path / "run", resume=True)
    for run in (whole, resumed):
        assert [row["step"] for row in run.metrics] == [1, 2, 3, 4, 5]
    ours, theirs = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "run"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_what_a_terminated_command_says(base: str, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    words = ["sft", "--model", base, "--data", data, "--out", str(tmp_path / "run"), "--max-steps", "100000"]
    with subprocess.Popen([sys.executable, "-m", "accord", *words], stderr=subprocess.PIPE, text=True) as process:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not metrics.exists() or metrics.read_text().count("\n") < 3:
            assert process.poll() is None
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    done = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert said.splitlines()[-1] == (
        f"accord: stopped by SIGTERM after step {done} of 100000, which is saved; the run goes on with the "
        "same command and --resume."
    )
    assert [c.name for c in checkpoints(tmp_path / "run" / "checkpoints")][-1] == f"step-{done:07d}"


@pytest.mark.parametrize(
    ("main", "status"),
    [
        ("lambda: signal.raise_signal(signal.SIGINT)", 130),  # outside of what the command line itself handles
        ("lambda: atexit.register(signal.raise_signal, signal.SIGINT) and 0", -signal.SIGINT),  # once it has ended
    ],
)
def test_ctrl_c_around_a_command_ends_it_without_a_traceback(main: str, status: int) -> None:
    code = f"import atexit, signal; from accord.cli import main; main.main = {main}; import accord.__main__ as it; "
    ended = subprocess.run([sys.executable, "-c", f"{code}it.program()"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", "")


def test_an_ignored_signal_stays_ignored(base: str, tmp_path: Path) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        data = write_jsonl(tmp_path / "rows.jsonl", ROWS)
        run = SFT(batch_size=2, max_steps=2, dtype="float32").fit(
            model=base, data=data, out=tmp_path / "run", on_step=lambda *_: os.kill(os.getpid(), signal.SIGHUP)
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(run.metrics) == 2


def test_weights_that_are_not_finite_are_never_kept(base: str, tmp_path: Path) -> None:
    """An update of 1e38 times something: step 1's loss is finite, its weights are not. What was before is left."""
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    method = SFT(batch_size=2, max_steps=1, dtype="float32", learning_rate=1e38, schedule="constant", warmup=0)
    with pytest.raises(TrainingStopped, match=r"step 1: after its update .* has numbers that are not finite"):
        method.fit(model=base, data=data, out=tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists() and not checkpoints(tmp_path / "run" / "checkpoints")


def test_a_stop_leaves_the_last_good_model(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third step's loss is not finite: last-good/ is the model after two steps, which any command reads."""
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    method = SFT(batch_size=2, max_steps=5, dtype="float32", schedule="constant", warmup=0)
    two = SFT(batch_size=2, max_steps=2, dtype="float32", schedule="constant", warmup=0)
    two.fit(model=base, data=data, out=tmp_path / "two")
    update = engine.Optimizer.update

    def failing(optimizer: engine.Optimizer, step: int, *terms: object) -> dict[str, float]:
        if step == 2:
            raise TrainingStopped("step 3: the loss is not finite.")
        return update(optimizer, step, *terms)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.Optimizer, "update", failing)
    run = tmp_path / "run"
    with pytest.raises(TrainingStopped, match=rf"not finite\. The last finite model is in {run / 'last-good'}\. --res"):
        method.fit(model=base, data=data, out=run)
    ours, theirs = (
        load_file(run / "last-good" / "model.safetensors"),
        load_file(tmp_path / "two/model/model.safetensors"),
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    more = tmp_path / "more"
    words = (
        "sft",
        "--model",
        run / "last-good",
        "--data",
        data,
        "--out",
        more,
        "--max-steps",
        "1",
        "--batch-size",
        "2",
    )
    monkeypatch.undo()
    assert accord(*words) == 0
    method.fit(model=base, data=data, out=run, resume=True)
    assert (run / "model").is_dir() and not (run / "last-good").exists()


class Killed(KeyboardInterrupt):
    """What ends a run between two checkpoints."""


def killing(at: int) -> Callable[[int, StepResult], None]:
    """Ends a run after so many steps."""

    def kill(step: int, _: StepResult) -> None:
        if step == at:
            raise Killed

    return kill


def test_a_run_goes_on_with_a_lower_learning_rate_which_its_folder_and_report_say(base: str, tmp_path: Path) -> None:
    """After step 3 of 6, at a checkpoint; killed once more at step 5, it comes out the same."""
    data = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    common = {"batch_size": 2, "max_steps": 6, "dtype": "float32", "schedule": "constant", "warmup": 0}
    high, low = SFT(**common, learning_rate=1e-2), SFT(**common, learning_rate=1e-4)
    models = []
    for name in ("once", "twice"):
        run = tmp_path / name
        with pytest.raises(Killed):
            high.fit(model=base, data=data, out=run, save_every=3, on_step=killing(4))
        if name == "twice":
            with pytest.raises(Killed):
                low.fit(model=base, data=data, out=run, save_every=3, resume=True, on_step=killing(5))
        result = low.fit(model=base, data=data, out=run, save_every=3, resume=True)
        assert [row["learning_rate"] for row in result.metrics] == [1e-2] * 3 + [1e-4] * 3
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["learning_rate"] == 1e-4 and config["history"] == [
            {"step": 3, "from": {"learning_rate": 0.01}, "to": {"learning_rate": 0.0001}}
        ]
        assert "<dt>learning_rate, changed after step 3</dt>" in result.report.read_text()
        assert (
            "After step 3 `learning_rate` was changed from `0.01` to `0.0001`." in (run / "model/README.md").read_text()
        )
        models.append((run / "model/model.safetensors").read_bytes())
    assert models[0] == models[1]
    with pytest.raises(InputError, match=r"learning_rate = 0\.0001, not 0\.01; it is finished: train on from --model"):
        high.fit(model=base, data=data, out=tmp_path / "once", resume=True)


def test_after_a_stop_a_lower_learning_rate_goes_on_from_before_it(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate of 1e30 leaves finite weights after a step, of which no gradient is finite; there is nothing before."""
    data, run = write_jsonl(tmp_path / "rows.jsonl", ROWS), tmp_path / "run"
    common = {"batch_size": 2, "max_steps": 3, "dtype": "float32", "schedule": "constant", "warmup": 0}
    with pytest.raises(TrainingStopped, match="--resume continues; with a lower --learning-rate, from"):
        SFT(**common, learning_rate=1e30).fit(model=base, data=data, out=run)
    assert [c.name for c in checkpoints(run / "checkpoints")] == ["step-0000001"]
    low = SFT(**common, learning_rate=1e-4)
    rows = low.fit(model=base, data=data, out=run, resume=True).metrics
    printed = " ".join(capsys.readouterr().err.split())
    assert (
        "step-0000001 was saved as the run stopped itself: the run continues from before it. From step 1 on:" in printed
    )
    plain = low.fit(model=base, data=data, out=tmp_path / "plain").metrics
    assert [row["loss"] for row in rows] == [row["loss"] for row in plain]
    assert yaml.safe_load((run / "config.yaml").read_text())["history"][0]["step"] == 0


def test_a_run_goes_on_for_longer_but_not_with_other_rows_in_a_step(base: str, tmp_path: Path) -> None:
    data, run = write_jsonl(tmp_path / "rows.jsonl", ROWS), tmp_path / "run"
    common = {"dtype": "float32", "learning_rate": 1e-3}
    with pytest.raises(Killed):
        SFT(**common, batch_size=2, max_steps=4).fit(model=base, data=data, out=run, save_every=2, on_step=killing(3))
    settings = (run / "config.yaml").read_text()
    for method, said in (
        (
            SFT(**common, batch_size=1, max_steps=4),
            "was run with batch_size = 2, not 1; resume it with the same settings",
        ),
        (
            SFT(**common, batch_size=2, max_steps=1),
            "has done 2 steps already, more than the 1 asked for: ask for more steps",
        ),
    ):
        with pytest.raises(InputError, match=said):
            method.fit(model=base, data=data, out=run, resume=True)
    assert (run / "config.yaml").read_text() == settings
    rows = SFT(**common, batch_size=2, max_steps=6).fit(model=base, data=data, out=run, resume=True).metrics
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_minutes_make_checkpoints_too(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 40 s by the clock, and a checkpoint after each minute: after steps 2 and 4 of 5."""
    now, saved = [0.0], []
    monkeypatch.setattr("accord.train.loop.time.monotonic", lambda: now[0])
    save = engine.checkpoint.save
    monkeypatch.setattr(engine.checkpoint, "save", lambda *given: saved.append(given[1]) or save(*given))

    def tick(*_: object) -> None:
        now[0] += 40

    data = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    method = SFT(batch_size=2, max_steps=5, dtype="float32")
    method.fit(model=base, data=data, out=tmp_path / "run", save_minutes=1, on_step=tick)
    assert saved == [2, 4]
