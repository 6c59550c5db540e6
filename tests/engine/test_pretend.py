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

HALF = " in bfloat16"
"""At the end of the names of what multiplies in bfloat16."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        torch.version.cuda is not None or not sys.platform.startswith("linux") or shutil.which("g++") is None,
        reason="a card is pretended under torch for CPUs, on Linux with g++; elsewhere use make test-cuda",
    ),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("card")
    command = [sys.executable, "-m", "tests.engine.pretend", str(folder / "guard.so"), str(folder)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    works: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return works


def test_all_that_trains_and_samples_gives_the_same_numbers_there(found: dict[str, Any]) -> None:
    assert {name: work["failed"] for name, work in found.items() if "failed" in work} == {}
    assert len(found) == 45
    # Samples are the same. Sums of gradients differ by rounding, which AdamW makes more of where they are next to 0.
    assert found["sampling"]["apart"] == 0
    assert all(work["apart"] < 1e-4 for name, work in found.items() if not name.endswith(HALF)), found
    # Under autocast, what is rounded to bfloat16 differs: a card's softmax gives float32.
    assert all(work["apart"] < 0.5 for work in found.values()), found
    assert found["by flex in bfloat16"]["apart"] < 1e-4


def test_it_waits_once_a_token_in_sampling(found: dict[str, Any]) -> None:
    # 15 samples of at most 9 tokens in room for 10, in two rounds at most; 9 tokens by stream; 3 by the model without a
    # cache, whose own sequences are read back twice.
    waits = found["sampling"]["waits"]
    assert waits.keys() == {"copy generate._read", "copy cache.decode"}
    assert waits["copy generate._read"] <= 9 + 9 + 9 + 3 and waits["copy cache.decode"] == 2


def test_it_waits_in_a_step_for_what_is_reported_alone(found: dict[str, Any]) -> None:
    # Once for the gradient's norm; the loss and the measures are there by then. The objective has none of its own here.
    assert found["by flex in bfloat16"]["waits"] == {"item fit.clip": 1, "copy fit.over_ranks": 1}
    # No pass through a network, forward or back, waits for anything.
    inside = {"attention", "tiles", "flex", "readout", "forward", "trees", "cache"}
    for name, work in found.items():
        parts = {wait.split()[-1].split(".")[0] for wait in work["waits"]} - {"copy"}
        assert parts & inside <= ({"cache"} if name.startswith("sampling") else set()), name
