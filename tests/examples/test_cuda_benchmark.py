"""benchmarks/cuda.py: what fails is a row of its table, and not its end."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("cuda", "random_llamas", "reward"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import cuda as module

    return module


def toy(cuda: ModuleType) -> dict[str, Any]:
    return {**cuda.TOY, "shape": cuda.MODELS["toy"], "device": "cpu", "lora_rank": 0}


def test_what_fails_is_a_row(cuda: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import random_llamas

    def works(work: str, plan: dict[str, Any]) -> dict[str, list[float]]:
        if work == "dpo":
            raise torch.OutOfMemoryError("tried to allocate")
        if work == "reward":
            raise ValueError("no such thing\nand more")
        return {"seconds": [9.0, 2.0, 4.0], "tokens": [30, 30, 30]}

    monkeypatch.setitem(random_llamas.RUN, "accord", works)
    given = Namespace(
        side="accord", sizes=["toy"], works=list(cuda.WORKS), device="cpu", out=str(tmp_path / "part.json")
    )
    cuda.child(given)
    told = json.loads((tmp_path / "part.json").read_text())
    assert told["about"]["parameters"] == sum(p.numel() for p in random_llamas.network_of(toy(cuda)).parameters())
    sft, dpo, reward, grpo = (told["works"][work] for work in cuda.WORKS)
    # One step warms up; 60 tokens in the 2 + 4 seconds of the others.
    assert (sft["seconds"], sft["first"], sft["tokens_per_second"]) == (3.0, 9.0, 10.0) and sft["peak_gb"] > 0
    assert grpo["seconds"] == 3.0
    assert dpo["failed"].startswith("out of memory at ") and reward["failed"] == "ValueError: no such thing"
    cuda.write(tmp_path, [{"side": "accord", "size": "toy", "rows": [sft, dpo, reward]}], given, 1.0)
    rows = (tmp_path / "cuda.md").read_text().splitlines()[-3:]
    assert rows[0].startswith("| toy | sft | accord | 3.000 | 10 | ")
    assert rows[1].startswith("| toy | dpo | accord | out of memory at ")


def test_a_process_that_dies_or_has_no_time_left_is_rows_too(cuda: ModuleType) -> None:
    given = Namespace(works=["sft", "dpo"], device="cpu")
    late = cuda.part(given, "accord", "toy", 0.0)
    assert late == {
        "side": "accord",
        "size": "toy",
        "rows": [{"work": w, "failed": "out of time"} for w in given.works],
    }
    [row] = cuda.part(Namespace(works=["sft"], device="none"), "accord", "toy", 60.0)["rows"]
    assert "invalid choice: 'none'" in row["failed"]


@pytest.mark.slow
def test_accord_is_measured_on_a_toy(cuda: ModuleType) -> None:
    given = Namespace(works=list(cuda.WORKS), device="cpu")
    for size in ("toy", "toy-7B"):
        rows = cuda.part(given, "accord", size, 200.0)["rows"]
        assert [(row["work"], len(row.get("steps", {"seconds": row})["seconds"])) for row in rows] == [
            (work, 3) for work in cuda.WORKS
        ]
