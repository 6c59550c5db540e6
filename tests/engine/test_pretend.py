"""What trains and samples, on a CUDA card that is pretended: devices never mix, and what the processor waits for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.pretend_commands import COMMANDS, SHORT

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        torch.version.cuda is not None or not sys.platform.startswith("linux") or shutil.which("g++") is None,
        reason="a card is pretended under torch for CPUs, on Linux with g++; elsewhere use make test-cuda",
    ),
]


TRIAL = {"fast_paths", "trial", "forward"}
"""Files of what is done once, when a network is prepared."""


def on_both_devices(folder: Path, dtype: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.engine.pretend", str(folder / "guard.so"), str(folder), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    works: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return works


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return on_both_devices(tmp_path_factory.mktemp("card"), "float32")


def test_all_that_trains_and_samples_gives_the_same_numbers_there(found: dict[str, Any]) -> None:
    assert {name: work["failed"] for name, work in found.items() if "failed" in work} == {}
    assert len(found) == 24 + len(SHORT)
    # Samples are the same. Sums of gradients differ by rounding, which AdamW makes more of where they are next to 0.
    assert found["sampling"]["apart"] == 0 and found["sampling by graphs"]["apart"] < 1e-6  # in float32
    assert all(work["apart"] < 1e-4 for work in found.values()), found


@pytest.mark.slow
def test_every_command_writes_the_same_numbers_there(tmp_path: Path) -> None:
    works = on_both_devices(tmp_path, "commands")
    assert {name: work["failed"] for name, work in works.items() if "failed" in work} == {}
    assert works.keys() == {*COMMANDS} and all(work["apart"] < 1e-4 for work in works.values()), works


@pytest.mark.slow
def test_in_bfloat16_the_numbers_are_near(tmp_path: Path) -> None:
    works = on_both_devices(tmp_path, "bfloat16")
    assert {name: work["failed"] for name, work in works.items() if "failed" in work} == {}
    # Under autocast, what is rounded to bfloat16 differs: a card's softmax gives float32.
    assert len(works) == 22 and all(work["apart"] < 0.5 for work in works.values()), works


def test_it_waits_once_a_token_in_sampling(found: dict[str, Any]) -> None:
    # 15 samples of at most 9 tokens in room for 10, in two rounds at most; 9 tokens by stream; 3 by the model without a
    # cache, whose own sequences are read back twice.
    waits = found["sampling"]["waits"]
    assert waits.keys() == {"copy generate._read", "copy decoding.decode"}
    assert waits["copy generate._read"] <= 9 + 9 + 9 + 3 and waits["copy decoding.decode"] == 2
    of_graphs = {wait for wait in found["sampling by graphs"]["waits"] if wait.split()[-1].split(".")[0] not in TRIAL}
    assert of_graphs == {"copy generate._read"}


def test_it_waits_in_a_step_for_what_is_reported_alone(found: dict[str, Any]) -> None:
    # For the gradient's norm, then for the loss and the measures. The objective has none of its own here.
    assert found["by flex"]["waits"] == {"item fit.clip": 1, "copy fit.over_ranks": 1}
    # No pass through a network, forward or back, waits for anything.
    inside = {"attention", "tiles", "flex", "readout", "forward", "trees", "cache", "cuda_graphs", "decoding"}
    for name in found.keys() - {*SHORT}:  # commands also read models
        work = found[name]
        parts = {wait.split()[-1].split(".")[0] for wait in work["waits"]} - {"copy"}
        preparing = {"sampling by graphs": TRIAL}.get(name, {"decoding"} if name.startswith("sampling") else set())
        assert parts & inside <= preparing, name
