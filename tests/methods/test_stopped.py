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
from accord.methods import DPO, GRPO, PPO, RAFT, SFT, Distill, NashMD, OnlineDPO, SelfConsistency, STaR
from accord.records import Verdict
from accord.train.alarms import Alarm
from accord.train.learner import StepResult
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
    "ppo": PPO(max_steps=4, inner_epochs=1, **SAMPLED),
    "star": STaR(rounds=1, hint="", max_steps=4, **SAMPLED | {"group_size": 8}),
    "raft": RAFT(max_steps=4, keep_truncated=True, **SAMPLED),
    "online-dpo": OnlineDPO(max_steps=4, **SAMPLED),
    "nash-md": NashMD(max_steps=4, opponents=1, **SAMPLED),
    "distill": Distill(max_steps=4, **SAMPLED),
}

ALARM = [Alarm(3, "memorizing", "the same rows", "fewer epochs")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "base")


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
    if name in ("grpo", "ppo", "raft"):
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
    weights: dict[int, dict[str, dict[str, torch.Tensor]]] = {}
    update = Optimizer.update

    def noted(self: Optimizer, step: int, *terms: Any) -> dict[str, float]:
        row = update(self, step, *terms)
        weights[step + 1] = {
            kind: {n: p.detach().clone() for n, p in network.named_parameters()}
            for kind, network in self.networks.items()
        }
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
    for kind, parameters in expected.items():
        saved = load_file(checkpoint / f"{kind}.safetensors")
        assert saved and all(torch.equal(saved[n], parameters[n]) for n in saved), kind


def not_finite(objective: Any) -> Any:
    def loss(trees: Any) -> Any:
        values, measures = objective(trees)
        return values * math.nan, measures

    return loss


def test_every_step_is_seen(base: str, tmp_path: Path) -> None:
    steps: list[tuple[int, StepResult]] = []
    run = fit("grpo", base, tmp_path / "run", on_step=lambda *step: steps.append(step))
    assert [step for step, _ in steps] == [1, 2, 3, 4]
    assert [result.numbers["loss"] for _, result in steps] == [row["loss"] for row in run.metrics]
    assert all(len(result.samples) == len(result.rewards) == 4 for _, result in steps)
    assert list(run.frame().index) == [1, 2, 3, 4]
    assert "4 steps" in run._repr_html_() and "<table" in run._repr_html_()
    drawn = [line.get_ydata() for axes in run.plot().axes for line in axes.lines]
    assert any(list(curve) == pytest.approx([row["reward"] for row in run.metrics]) for curve in drawn)


@pytest.mark.parametrize("name", ["sft", "star"])
def test_every_step_is_seen_of_methods_without_samples_of_their_own(name: str, base: str, tmp_path: Path) -> None:
    losses: list[float] = []
    run = fit(name, base, tmp_path / "run", on_step=lambda step, result: losses.append(result.numbers["loss"]))
    assert losses == [row["loss"] for row in run.metrics] and len(losses) == 4


def test_a_reward_that_is_not_finite_leaves_the_weights_before_it(base: str, tmp_path: Path) -> None:
    calls: list[int] = []

    def failing(completion_ids: list[list[int]], **_: Any) -> list[float]:
        calls.append(len(completion_ids))
        return [math.nan if len(calls) == 3 else float(sum(ids)) for ids in completion_ids]

    with pytest.raises(InputError, match="returned nan for row"):
        METHODS["grpo"].fit(load_model(base), ROWS, reward=failing, out=tmp_path / "run")
    assert [f.name for f in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000002"]


def test_a_watch_that_fails_loses_no_row(base: str, tmp_path: Path) -> None:
    calls: list[int] = []

    def failing(completion_ids: list[list[int]], **_: Any) -> list[float]:
        calls.append(len(completion_ids))
        return [math.nan if len(calls) == 3 else 1.0 for _ in completion_ids]

    with pytest.raises(InputError, match="returned nan for row"):
        fit("grpo", base, tmp_path / "run", watch=failing)
    assert [f.name for f in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000003"]
    rows = fit("grpo", base, tmp_path / "run", watch=failing, resume=True).metrics
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert ["watched" in row for row in rows] == [True, True, False, True]


ROUNDS = {"star": METHODS["star"], "self-consistency": SelfConsistency(max_steps=4, **SAMPLED | {"group_size": 8})}


@pytest.mark.parametrize("name", ROUNDS)
def test_rounds_are_watched_by_answers_to_prompts_held_out(name: str, base: str, tmp_path: Path) -> None:
    asked: list[str] = []

    def watch(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        asked.extend(prompts)
        return [-float(len(ids)) for ids in completion_ids]

    held_out = [{"prompt": " ".join(WORDS_USED)}, {"prompt": WORDS_USED[0]}]
    rows = [{**row, "answer": "good"} for row in ROWS]
    given: dict[str, Any] = {"watch": watch, "watch_data": held_out, "watch_every": 2, "watch_tokens": 3}
    run = ROUNDS[name].fit(load_model(base), rows, verifier="regex:(good|bad|day)", out=tmp_path / "run", **given)
    assert asked == [row["prompt"] for row in held_out] * 3
    watched = {row["step"]: row["watched"] for row in run.metrics if "watched" in row}
    assert list(watched) == [0, 1, 3] and all(-3 <= value <= -1 for value in watched.values())
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()
    with pytest.raises(InputError, match="watch and watch_data go together"):
        ROUNDS[name].fit(load_model(base), rows, verifier="exact", out=tmp_path / "other", watch=watch)


def test_an_alarm_ends_rounds_too(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accord.train.alarms.Alarms.see", lambda self, row: ALARM if row["step"] == 3 else [])
    run = fit("star", base, tmp_path / "run", stop_when="memorizing")
    assert [row["step"] for row in run.metrics] == [1, 2, 3]
    assert (tmp_path / "run" / "model").is_dir() and not (tmp_path / "run" / "checkpoints").exists()


def test_the_reward_itself_is_no_watch(base: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="part of the reward trained on"):
        fit("grpo", base, tmp_path / "run", watch=lengths)
    for watch, reward in (("number", "0.5 * number + regex:good"), ("cafe + number", "cafe")):
        with pytest.raises(InputError, match="part of the reward trained on"):
            METHODS["grpo"].fit(base, ROWS, reward=reward, watch=watch, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
