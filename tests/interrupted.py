"""Work that ends early: a run after a step, a model at a request, and a process that is killed without warning."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from accord.prompting.local import Local
from accord.prompting.requests import Reply
from accord.train.loop import Result
from accord.train.rows import read_metrics

# The same call as `train` of a test's module, in a process of its own and slow enough to be killed between two updates.
SLOW = """
import sys, time
import torch
from accord.engine.fit import Optimizer
from {module} import train

torch.set_num_threads(1)
update = Optimizer.update

def slowly(*arguments):
    time.sleep({seconds})
    return update(*arguments)

Optimizer.update = slowly
train(*sys.argv[1:])
"""


def interrupt_at(step: int) -> Callable[[int, object], None]:
    """An `on_step` that raises KeyboardInterrupt after this step, counted from 1."""

    def stop(done: int, _: object) -> None:
        if done == step:
            raise KeyboardInterrupt

    return stop


def assert_resumes(fit: Callable[..., Result], folder: Path, *, step: int) -> None:
    """A run that is interrupted after a step and resumed has the losses and the weights of the run that never was."""
    whole = fit(folder / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(folder / "stopped", on_step=interrupt_at(step))
    resumed = fit(folder / "stopped", resume=True)
    losses = [[row["loss"] for row in read_metrics(run.folder)] for run in (whole, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) > step
    first, second = (load_file(run.folder / "model" / "model.safetensors") for run in (whole, resumed))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def interrupt_calls(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> list[int]:
    """Have models in this process raise KeyboardInterrupt at these calls, counted from 1; returns the one count."""
    calls, ask = [0], Local.__call__

    def stop(self: Local, *arguments: Any) -> list[Reply]:
        calls[0] += 1
        if calls[0] in numbers:
            raise KeyboardInterrupt
        return ask(self, *arguments)

    monkeypatch.setattr(Local, "__call__", stop)
    return calls


def kill_training(module: str, model: str, out: Path, *, step: int, seconds: float) -> None:
    """Call a module's `train(model, out)` in another process, `seconds` slower a step, and kill it after this step."""
    metrics = out / "metrics.jsonl"
    script = SLOW.format(module=module, seconds=seconds)
    process = subprocess.Popen([sys.executable, "-c", script, model, str(out)], cwd=Path(__file__).parents[1])
    try:
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < step:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "model").exists()
