"""The callback in a real Trainer of transformers, on a model of two numbers, whose loss is known by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import accord
from accord.errors import InputError
from tests.commands.small import accord as command
from tests.commands.small import read_jsonl

LAST = 16


class Slope(torch.nn.Module):
    """Costs what its row says, whatever its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, cost: torch.Tensor, labels: Any = None) -> dict[str, torch.Tensor]:
        return {"loss": cost.mean() + 0 * self.weight}


def trainer(folder: Path, costs: list[float], *callbacks: TrainerCallback, **more: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=1, logging_steps=1, num_train_epochs=1, use_cpu=True,
        report_to=[], disable_tqdm=True, train_sampling_strategy="sequential", remove_unused_columns=False, **more,
    )  # fmt: skip
    rows = [{"cost": torch.tensor(cost)} for cost in costs]
    return Trainer(model=Slope(), args=arguments, train_dataset=rows, callbacks=list(callbacks))


COSTS = [1.0] * 3 + [9.0] * 13
"""Rows 4 to 13 are ten that all cost more than the first: `loss-rise` rings at step 13."""


def test_it_rings_in_a_run_and_writes_what_the_command_finds_afterwards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = accord.AlarmCallback()
    trainer(tmp_path, COSTS, callback, save_steps=LAST).train()
    assert [(one.step, one.name) for one in callback.alarms] == [(13, "loss-rise")]
    printed = capsys.readouterr().err
    assert (
        "step 13, loss-rise: the loss rose from 1 at the start to 9, the mean of 10 steps, and stays there." in printed
    )
    (row,) = read_jsonl(tmp_path / "alarms.jsonl")
    assert (row["step"], row["alarm"]) == (13, "loss-rise") and row["try"].startswith("lower the learning rate")
    assert command("alarms", tmp_path, "--out", tmp_path / "found") == 0
    found = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    assert [(one["step"], one["alarm"]) for one in found["alarms"]] == [(13, "loss-rise")]


@pytest.mark.parametrize(("stop_when", "steps"), [("loss-rise", 13), (True, 13), ("collapse", LAST), (None, LAST)])
def test_it_ends_the_run_where_it_is_asked_to(
    tmp_path: Path, stop_when: str | bool | None, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trainer(tmp_path, COSTS, accord.AlarmCallback(stop_when), save_strategy="no")
    run.train()
    assert run.state.global_step == steps
    assert ("The alarm loss-rise ends the run" in capsys.readouterr().err) is (steps == 13)


def test_a_healthy_run_is_left_alone(tmp_path: Path) -> None:
    callback = accord.AlarmCallback(True)
    run = trainer(tmp_path, [1.0] * LAST, callback, save_strategy="no")
    run.train()
    assert run.state.global_step == LAST and callback.alarms == []
    assert (tmp_path / "alarms.jsonl").read_text() == ""


def test_a_run_that_goes_on_hears_of_what_was_logged_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, COSTS, accord.AlarmCallback(), save_steps=8, max_steps=8).train()
    assert read_jsonl(tmp_path / "alarms.jsonl") == []
    callback = accord.AlarmCallback()
    trainer(tmp_path, COSTS, callback, save_strategy="no").train(resume_from_checkpoint=True)
    assert [(one.step, one.name) for one in callback.alarms] == [(13, "loss-rise")]
    capsys.readouterr()
    rung = trainer(tmp_path / "late", COSTS, accord.AlarmCallback(), save_steps=14, max_steps=14)
    rung.train()
    capsys.readouterr()
    late = accord.AlarmCallback(True)
    again = trainer(tmp_path / "late", COSTS, late, save_strategy="no")
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == LAST and capsys.readouterr().err.count("loss-rise") == 0
    assert [row["step"] for row in read_jsonl(tmp_path / "late" / "alarms.jsonl")] == [13]


def test_numbers_of_trl_and_an_evaluation_of_the_same_step(tmp_path: Path) -> None:
    """What trl's GRPO logs, and a measure of an evaluation that the user names: the cases of `test_other_logs`."""
    callback = accord.AlarmCallback(columns={"watched": "eval_gold"})
    reward = [i / 20 for i in range(1, 40)]
    watched = reward[:20] + reward[18::-1]
    run = trainer(tmp_path, [1.0] * 39, callback, save_strategy="no")
    plain = run.log

    def log(logs: dict[str, float], start_time: float | None = None) -> None:
        at = run.state.global_step - 1
        if "loss" in logs:
            plain({**logs, "reward": reward[at], "completions/mean_length": 20.0}, start_time)
            plain({"eval_gold": watched[at]}, start_time)

    run.log = log  # type: ignore[method-assign]
    run.train()
    assert [(one.step, one.name) for one in callback.alarms][:1] == [(26, "overoptimization")]


def test_what_was_never_logged_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, [1.0] * 2, accord.AlarmCallback(columns={"watched": "eval_gold"}), save_strategy="no").train()
    assert "The trainer logged no watched; `accord alarms` shows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stop_when": "colapse"}, "there is no alarm 'colapse'; did you mean collapse?"),
        ({"columns": {"wathced": "gold"}}, "alarms look at no column 'wathced'; did you mean watched?"),
        ({"columns": {"kl": "1 - a * b"}}, "--columns.kl is to be NAME, '1 - NAME' or 'NAME"),
        ({"trainer": "tlr-dpo"}, "trainer: none is called 'tlr-dpo'; did you mean trl-dpo?"),
    ],
)
def test_what_there_is_none_of_is_told_at_once(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as refused:
        accord.AlarmCallback(**given)
    assert words in str(refused.value)
