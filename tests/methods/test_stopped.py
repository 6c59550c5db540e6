"""A step that is not finite ends a run; the last good weights stay, in a checkpoint. And what `fit` reports."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from accord.engine.fit import Optimizer
from accord.engine.load import load_model
from accord.errors import InputError, TrainingStopped
from accord.methods import DPO, GRPO, RAFT, SFT, Distill, NashMD, OnlineDPO, STaR
from accord.records import Verdict
from accord.train.loop import StepResult
from tests.commands.small import save_model
from tests.data.conftest import WORDS

WORDS_USED = WORDS[6:10]
ROWS = [{"prompt": f"{a} {b}"} for a in WORDS_USED for b in WORDS_USED]
COMMON: dict[str, Any] = {"batch_size": 2, "learning_rate": 1e-3, "schedule": "constant", "warmup": 0.0}
COMMON |= {"dtype": "float32"}
SAMPLED: dict[str, Any] = {**COMMON, "max_new_tokens": 4, "group_size": 2}
METHODS: dict[str, Any] = {
    "sft": SFT(max_steps=4, **COMMON),
    "dpo": DPO(max_steps=4, **COMMON),
    "grpo": GRPO(max_steps=4, **SAMPLED),
    "star": STaR(rounds=1, hint="", max_steps=4, **SAMPLED | {"group_size": 8}),
    "raft": RAFT(max_steps=4, keep_truncated=True, **SAMPLED),
    "online-dpo": OnlineDPO(max_steps=4, **SAMPLED),
    "nash-md": NashMD(max_steps=4, opponents=1, **SAMPLED),
    "distill": Distill(max_steps=4, **SAMPLED),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(autouse=True)
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are blank pages here, which are sooner written."""
    monkeypatch.setattr("accord.report.write_report", lambda folder: folder / "report.html")


def lengths(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(sum(ids)) for ids in completion_ids]


def favoring(comparisons: Any) -> list[Verdict]:
    """The completion that comes first in the alphabet wins, in either order."""
    return [Verdict(0.9 if str(c.first) < str(c.second) else 0.1) for c in comparisons]


def fit(name: str, base: str, out: Path, **options: Any) -> Any:
    """A run of the method on the small rows."""
    demonstrations = [{**r, "completion": r["prompt"]} for r in ROWS]
    pairs = [{**r, "chosen": WORDS_USED[0], "rejected": WORDS_USED[1]} for r in ROWS]
    rows = {"sft": demonstrations, "dpo": pairs}.get(name, ROWS)
    feedback: dict[str, Any] = {}
    if name in ("grpo", "raft"):
        feedback = {"reward": lengths}
    if name in ("online-dpo", "nash-md"):
        feedback = {"judge": favoring}
    if name == "star":
        feedback = {"verifier": lambda completion_ids, **_: [1.0] * len(completion_ids)}
    if name == "distill":
        feedback = {"teacher": base}
    return METHODS[name].fit(load_model(base), rows, out=out, **feedback, **options)


@pytest.mark.parametrize("name", METHODS)
def test_the_last_good_weights_stay(name: str, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights: dict[int, dict[str, torch.Tensor]] = {}
    update = Optimizer.update

    def noted(self: Optimizer, step: int, *terms: Any) -> dict[str, float]:
        row = update(self, step, *terms)
        [network] = self.networks.values()
        weights[step + 1] = {n: p.detach().clone() for n, p in network.named_parameters()}
        return row

    monkeypatch.setattr(Optimizer, "update", noted)
    fit(name, base, tmp_path / "whole")
    expected = weights[2]

    def broken(self: Optimizer, step: int, *terms: Any) -> dict[str, float]:
        if step == 2:
            for term in terms:
                object.__setattr__(term, "objective", not_finite(term.objective))
        return update(self, step, *terms)

    monkeypatch.setattr(Optimizer, "update", broken)
    with pytest.raises(TrainingStopped):
        fit(name, base, tmp_path / "stopped")
    checkpoint = max((tmp_path / "stopped" / "checkpoints").iterdir())  # star has one after its sampling too
    assert checkpoint.name == "step-0000002"
    [file] = [f for f in checkpoint.glob("*.safetensors") if f.stem != "optimizer"]
    saved = load_file(file)
    assert saved and all(torch.equal(saved[n], expected[n]) for n in saved)


def not_finite(objective: Any) -> Any:
    def loss(trees: Any) -> Any:
        values, measures = objective(trees)
        return values * math.nan, measures

    return loss


def test_every_step_is_told(base: str, tmp_path: Path) -> None:
    steps: list[tuple[int, StepResult]] = []
    run = fit("grpo", base, tmp_path / "run", on_step=lambda *step: steps.append(step))
    assert [step for step, _ in steps] == [1, 2, 3, 4]
    assert [result.numbers["loss"] for _, result in steps] == [row["loss"] for row in run.metrics]
    assert all(len(result.samples) == len(result.rewards) == 4 for _, result in steps)
    assert list(run.frame().index) == [1, 2, 3, 4]
    assert "4 steps" in run._repr_html_() and "<table" in run._repr_html_()


def test_the_reward_itself_is_no_watch(base: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="part of the reward that is trained on"):
        fit("grpo", base, tmp_path / "run", watch=lengths)
