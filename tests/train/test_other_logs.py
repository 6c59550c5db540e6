"""Logs of other trainers: each format as rows, and what the command says of them; its alarms are found by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from accord.results import AlarmsResult, load
from accord.train.other_logs import Listener, read_log
from accord.train.trainers import readings_of, trainer_of
from tests.commands.small import accord, write_jsonl

ENDED = [0.0, 0.0, 1.0, 1.0]
"""The share of samples that are cut: at step 3 none ends, where all did, and `collapse` rings."""
ENTROPY = [1.4, 1.4, 0.01, 0.01]
"""At step 4 it has been twice on end below a twentieth of 1.4: `entropy-collapse` rings."""
KL = [0.0, 0.1, 0.5, 0.6]
"""Nats a token: with 20 tokens each 0, 2, 10 and 12 nats, of which 12 - 0 at step 4 is above 10, and 10 - 0 at step 3
not below it: `kl-burst` rings at step 3."""
RUNG = [(3, "collapse"), (3, "kl-burst"), (4, "entropy-collapse")]
TOKENS = [20.0] * 4


def table(**columns: Iterable[float]) -> list[dict[str, float]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


VERL = {
    "critic/score/mean": [0.5] * 4,
    "actor/kl_loss": KL,
    "actor/ppo_kl": [0.01] * 4,
    "actor/entropy": ENTROPY,
    "response_length/mean": TOKENS,
    "response_length/clip_ratio": ENDED,
}
GRPO = {
    "loss": [0.0] * 4,
    "reward": [0.5] * 4,
    "kl": KL,
    "entropy": ENTROPY,
    "completions/mean_length": TOKENS,
    "completions/clipped_ratio": ENDED,
}
OPENRLHF = {
    "policy_loss": [0.0] * 4,
    "reward": [0.5] * 4,
    "kl": KL,
    "entropy_loss": ENTROPY,
    "response_length": TOKENS,
    "response_clip_ratio": ENDED,
}
STEPS = range(1, 5)


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[Mapping[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def verl_file(folder: Path) -> Path:
    rows = [{"step": step, "data": row} for step, row in zip(STEPS, table(**VERL), strict=True)]
    return Path(write_jsonl(folder / "run.jsonl", rows))


def openrlhf_lines(folder: Path) -> Path:
    rows = [{"global_step": step, **row} for step, row in zip(STEPS, table(**OPENRLHF), strict=True)]
    return Path(write_jsonl(folder / "run.jsonl", rows))


def trl_checkpoint(folder: Path) -> Path:
    """The last of two checkpoints, with an evaluation's entry of its own and the one that ends a run."""
    entries = [{**row, "step": step, "epoch": 0.1 * step} for step, row in zip(STEPS, table(**GRPO), strict=True)]
    more = [{"eval_loss": 0.1, "eval_runtime": 3.0, "step": 4}, {"train_loss": 0.0, "step": 4}]
    write_json(folder / "checkpoint-10" / "trainer_state.json", {"log_history": entries + more})
    write_json(folder / "checkpoint-9" / "trainer_state.json", {"log_history": entries[:1]})
    return folder


def wandb_history(folder: Path) -> Path:
    """`run.history().to_csv()`: prefixes, empty cells, a row of its own for the evaluation, another count of steps."""
    rows: list[dict[str, Any]] = []
    for step, row in zip(STEPS, table(**GRPO), strict=True):
        names = {f"train/{name}": value for name, value in row.items()}
        rows.append({"_step": 7 * step, "train/global_step": step, **names, "eval/loss": ""})
        rows.append({"_step": 7 * step + 1, **dict.fromkeys(["train/global_step", *names], "NaN"), "eval/loss": 0.3})
    return write_csv(folder / "history.csv", rows)


def wandb_chart(folder: Path) -> Path:
    """The web page's export of a chart: `RUN - METRIC` with the least and the most beside."""
    rows = []
    for step, row in zip(STEPS, table(**VERL), strict=True):
        named = {f"brave - sun - {name}{end}": value for name, value in row.items() for end in ("", "__MIN", "__MAX")}
        rows.append({"Step": step, **named})
    return write_csv(folder / "chart.csv", rows)


def openrlhf_of_wandb(folder: Path) -> Path:
    rows = [{"train/global_step": step, **{f"train/{k}": v for k, v in row.items()}} for step, row in
            zip(STEPS, table(**OPENRLHF), strict=True)]  # fmt: skip
    return write_json(folder / "history.json", rows)


@pytest.mark.parametrize(
    ("write", "trainer"),
    [
        (verl_file, "verl"),
        (wandb_chart, "verl"),
        (trl_checkpoint, "trl-grpo"),
        (wandb_history, "trl-grpo"),
        (openrlhf_lines, "openrlhf-ppo"),
        (openrlhf_of_wandb, "openrlhf-ppo"),
    ],
)
def test_the_same_run_in_each_format_rings_at_the_same_steps(write: Any, trainer: str, tmp_path: Path) -> None:
    log = read_log(write(tmp_path))
    assert [row["step"] for row in log.rows] == list(STEPS)
    assert trainer_of(log.names) == trainer
    listener = Listener(readings_of(trainer, {}, log.names))
    assert [(one.step, one.name) for row in log.rows for one in listener.see(row)] == RUNG


def test_accords_own_metrics_ring_as_they_did(tmp_path: Path) -> None:
    own = {"tokens_per_second": [1.0] * 4, "reward": [0.5] * 4, "kl": [20 * kl for kl in KL], "entropy": ENTROPY}
    rows = [{"step": s, **row} for s, row in zip(STEPS, table(**own, ended=[1 - e for e in ENDED]), strict=True)]
    write_jsonl(tmp_path / "metrics.jsonl", rows)
    log = read_log(tmp_path)
    readings = readings_of(trainer_of(log.names), {}, log.names)
    listener = Listener(readings)
    assert [(one.step, one.name) for row in log.rows for one in listener.see(row)] == RUNG
    assert {one.column for one in readings} == {"reward", "kl", "entropy", "ended"}


def test_what_is_logged_apart_for_a_step_is_one_row_and_steps_made_again_replace_those_before(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0},
        {"step": 2, "eval_loss": 5.0},
        {"step": 3, "loss": 3.0},
        {"step": 2, "loss": 2.5},
        {"step": 3, "loss": "inf", "eval_loss": True, "text": "no number"},
    ]
    log = read_log(write_jsonl(tmp_path / "log.jsonl", rows))
    assert log.rows == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.5, "eval_loss": 5.0}]
    assert log.warnings == ["the run went back and repeated steps: the last repetition is shown."]
    assert log.names == {"step": 2, "loss": 2, "eval_loss": 1}


def test_a_last_line_that_is_cut_off_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 1}\n{"step": 2, "lo', encoding="utf-8")
    log = read_log(tmp_path / "log.jsonl")
    assert log.rows == [{"step": 1, "loss": 1.0}]
    assert log.warnings == [f"{tmp_path / 'log.jsonl'}: its last line is cut off and left out."]


def test_numbers_that_are_none_are_told(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": nan}, {"step": 3, "loss": inf, "kl": "NaN"}]
    log = read_log(write_jsonl(tmp_path / "log.jsonl", rows))
    assert log.rows == [{"step": 1, "loss": 1.0}]
    assert log.warnings == ["not finite, and left out: loss in 2 rows."]


def test_rows_without_steps_are_counted(tmp_path: Path) -> None:
    assert read_log(write_jsonl(tmp_path / "log.jsonl", [{"loss": 1}, {"loss": 2}])).rows == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0},
    ]


def test_the_command_tells_how_it_read_and_what_rang(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert accord("alarms", verl_file(tmp_path), "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "not judged: no watched" in " ".join(printed.split()) and "actor/ppo_kl" in printed
    result = load(tmp_path / "out")
    assert isinstance(result, AlarmsResult)
    assert (result.trainer, result.rows, result.first, result.last) == ("verl", 4, 1, 4)
    assert [(one.step, one.alarm) for one in result.alarms] == RUNG
    assert {one.column: one.read for one in result.columns if one.column} == {
        "reward": "critic/score/mean",
        "kl": "actor/kl_loss * response_length/mean",
        "entropy": "actor/entropy",
        "length": "response_length/mean",
        "ended": "1 - response_length/clip_ratio",
    }
    (other,) = [one for one in result.columns if not one.column]
    assert other.read == "actor/ppo_kl" and "not from the reference" in other.why
    judged = {one.alarm: one.said for one in result.judged}
    assert judged["collapse"] == "rang at step 3" and judged["kl-runaway"] == "silent"
    assert judged["loss-rise"] == "for other kinds of runs" and judged["flat-rewards"] == "not judged: no reward_std"
    assert list(result.frame()["step"]) == [3, 3, 4]


def test_columns_that_accord_does_not_know_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reward = [i / 20 for i in range(1, 40)]
    rows = table(step=range(1, 40), fitness=reward, gold=reward[:20] + reward[18::-1])
    log = write_jsonl(tmp_path / "log.jsonl", rows)
    assert accord("alarms", log) == 2
    assert "the log has fitness, gold, step, and accord knows none of them" in capsys.readouterr().err
    given = ("--columns", "reward=fitness,watched=gold")
    assert accord("alarms", log, *given, "--stop-when", "collapse") == 0
    assert accord("alarms", log, *given, "--stop-when", "collapse,overoptimization") == 3
    assert "the alarm overoptimization rings at step 26: the reward rose" in capsys.readouterr().err


def test_rows_that_stand_apart_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_json(tmp_path / "trainer_state.json", {"log_history": [{"step": 10 * i, "loss": 1} for i in (1, 2, 3)]})
    assert accord("alarms", tmp_path) == accord("alarms", log) == 0
    assert "rows stand 10 steps apart: where an alarm counts steps, these are rows." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"step": 1, "loss": 1.0}, {"step": 1, "loss": 2.0, "_runtime": 3}, {"step": 1, "eval_loss": 2.0}],
            "logged twice for a step, with different numbers: loss 1 times; the later one is shown.",
        ),
        (
            [{"step": 1, "train/loss": 1.0, "loss": 2.0}],
            "train/loss and loss are read as one column: where a row has both, the last is used.",
        ),
        ([{"step": "step 1", "loss": 1.0}], "the steps are not numbers: rows are counted instead."),
        ([{"step": 1, "loss": 10**400}, {"step": 2, "loss": 1.0}], "not finite, and left out: loss in 1 rows."),
    ],
)
def test_what_of_a_log_is_passed_over_is_told(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    assert read_log(write_jsonl(tmp_path / "log.jsonl", rows)).warnings == [message]


def test_a_name_with_half_a_character_is_kept_with_a_sign_in_its_place(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f'{{"step": {i}, "loss": 1.0, "\\ud800": 1}}\n' for i in (1, 2)))
    assert accord("alarms", log, "--columns.reward", "loss", "--out", tmp_path / "out") == 0
    assert isinstance(load(tmp_path / "out"), AlarmsResult)
    assert "\ufffd" in (tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8")
