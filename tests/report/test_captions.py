"""What curves are called and how they are read, whatever method measured them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accord.report import write_report
from accord.report.captions import METRICS, Metric, in_order, metric_for, score_of
from accord.report.figures import caption, curve, plot_metrics
from accord.report.series import Series
from tests.report.folders import write_rows
from tests.report.pages import Page

STEP = {"loss", "gradient_norm", "learning_rate", "tokens_per_second"}
SAMPLED = STEP | {"reward", "reward_std", "length", "ended"}
GRADIENT = SAMPLED | {"flat_groups", "kl", "entropy", "sampler_drift"}
PAIRS = STEP | {"accuracy", "margin", "chosen_reward", "rejected_reward"}
ROUNDS = STEP | {"round", "reward", "length", "ended"}
MEASURED = {
    "sft": STEP,
    "reward": STEP | {"accuracy", "margin"},
    "dpo": PAIRS,
    "kto": STEP | {"baseline", "chosen_reward", "rejected_reward"},
    "rloo": GRADIENT,
    "grpo": GRADIENT | {"ratio", "clip_fraction", "reward of brief", "reward of kind"},
    "ppo": GRADIENT
    | {"ratio", "clip_fraction", "approximate_kl", "value_loss", "explained_variance", "kl_coefficient"},
    "nash-md": GRADIENT | {"invalid"},
    "online-dpo": SAMPLED | PAIRS | {"ties", "invalid"},
    "raft": SAMPLED | {"kept", "kept_reward"},
    "distill": SAMPLED | {"teacher_kl", "entropy", "sampler_drift"},
    "star": ROUNDS | {"right", "solved", "rationalized"},
    "self-consistency": (ROUNDS - {"reward"}) | {"labeled", "agreement", "labels_right"},
}
"""The columns that methods log, but for those that are no curves."""


@pytest.mark.parametrize("method", MEASURED)
def test_whatever_a_method_measures_has_a_title_of_its_own_and_a_sentence(method: str) -> None:
    shown = [metric_for(name, MEASURED[method]) for name in MEASURED[method]]
    titles = [metric.title for metric in shown]
    assert len(set(titles)) == len(titles)
    for metric in shown:
        assert len(metric.title) <= 40
        assert re.fullmatch(r"[A-Z].*[^.]\.", metric.look_for)
    assert any(metric.is_main for metric in shown)


def test_shares_are_those_of_something() -> None:
    assert {name for name, metric in METRICS.items() if metric.is_share} == {
        "accuracy", "kept", "right", "solved", "rationalized", "labeled", "agreement", "labels_right", "flat_groups",
        "ties", "ended", "invalid", "explained_variance", "clip_fraction", "repetition",
    }  # fmt: skip


def test_what_a_column_means_beside_others() -> None:
    title = {
        name: {method: metric_for(name, MEASURED[method]).title for method in MEASURED if name in MEASURED[method]}
        for name in ("loss", "reward", "chosen_reward")
    }
    surrogates = {method for method, shown in title["loss"].items() if shown == "Policy loss"}
    assert surrogates == {"rloo", "grpo", "ppo", "nash-md", "distill"}
    assert {m for m, shown in title["reward"].items() if shown == "Chance to win"} == {"nash-md", "online-dpo"}
    assert title["chosen_reward"]["kto"] == "Implicit reward of the desirable"
    assert title["chosen_reward"]["dpo"] == title["chosen_reward"]["online-dpo"] == "Implicit reward of the chosen"
    # Both of a pair are samples, so that their chances always have the mean of a half, and show nothing.
    assert [metric_for("reward", MEASURED[m]).is_main for m in ("nash-md", "online-dpo", "distill", "star")] == [
        True, False, False, True,
    ]  # fmt: skip
    assert {m: score_of(MEASURED[m]) for m in ("ppo", "nash-md", "online-dpo", "distill", "star")} == {
        "ppo": "reward", "nash-md": "chance to win", "online-dpo": "chance to win", "distill": "", "star": "reward",
    }  # fmt: skip


def test_parts_of_a_reward_follow_it_and_unknown_columns_come_last() -> None:
    names = ["mystery_value", "entropy", "reward of b", "kl", "reward", "reward of a", "loss"]
    assert in_order(names) == ["loss", "reward", "reward of b", "reward of a", "kl", "entropy", "mystery_value"]
    assert metric_for("reward of toy:brief", names).title == "Reward, by toy:brief alone"
    assert metric_for("mystery_value", names) == Metric("Mystery value", is_main=False)


def test_captions_by_hand() -> None:
    # Twenty steps from 0 to 1: the first two have the mean .5/19, the last two 18.5/19.
    whole = Series(np.arange(20.0), np.linspace(0, 1, 20), broken=1)
    assert (
        caption(METRICS["kept"], whole)
        == "From 2.6% to 97.4%. The rest are not trained on. Not finite in 1 step, left out here."
    )
    assert caption(Metric("x", is_share=True), Series(np.arange(3.0), np.zeros(3))) == "0.0% throughout."
    assert caption(Metric("x"), Series(np.ones(1), np.ones(1))) == "1.00 in the only step measured."


def run(folder: Path, command: str, **columns: Any) -> Page:
    """The page of a run of five steps that measured these columns."""
    (folder / "config.yaml").write_text(f"command: {command}\n")
    write_rows(folder / "metrics.jsonl", [{"step": i + 1, **{k: v[i] for k, v in columns.items()}} for i in range(5)])
    sample = {"step": 1, "prompt": "p", "completion": "c", "reward": 0.25}
    (folder / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    return Page(write_report(folder))


RISING = [0.0, 0.125, 0.25, 0.375, 0.5]


def test_training_and_rows_held_out_are_one_picture(tmp_path: Path) -> None:
    """Two measurements, of which one has no interval; the row before the first step is none of a step."""
    (tmp_path / "config.yaml").write_text("command: sft\n")
    first = {"step": 0, "eval_loss": 2.0, "seconds": 1.0}
    last = {"step": 2, "loss": 0.5, "eval_loss": 1.5, "eval_loss_low": 1.25, "eval_loss_high": 1.75, "eval_extra": 7}
    rows = [first, {"step": 1, "loss": 1.0}, last]
    write_rows(tmp_path / "metrics.jsonl", rows)
    (tmp_path / "alarms.jsonl").write_text("")
    (tmp_path / "best.json").write_text('{"step": 2, "eval_loss": 1.5, "eval_loss_low": 1.25}')
    page = Page(write_report(tmp_path))
    shown = " ".join(page.sections["curves"].split())
    assert "Loss, trained on and held out" in shown and "Held-out loss" not in shown
    assert "From 1.00 to 0.500. It should fall" in shown
    assert "Dashed: rows held out, from 2.00 to 1.50 (95% interval 1.25 to 1.75)." in shown
    assert "Held-out extra" in shown  # of nothing trained on, a curve of its own
    assert "No alarm was raised in 2 steps. Columns examined: loss; held-out loss." in page.sections["alarms"]
    assert "The best model by its held-out loss, of step 2 (1.50)" in page.sections["alarms"]
    (axes,) = (axes for axes in plot_metrics(rows).axes if axes.get_title() == "Loss")
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1.0, 0.5], [2.0, 1.5]]
    assert in_order(["eval_loss", "accuracy", "eval_accuracy", "loss"]) == [
        "loss", "eval_loss", "accuracy", "eval_accuracy",
    ]  # fmt: skip
    assert metric_for("eval_teacher_kl", MEASURED["distill"]).title == "Held-out KL to the teacher (nats)"


def test_chances_to_win_are_no_rewards(tmp_path: Path) -> None:
    page = run(tmp_path, "nash-md", reward=RISING, kl=RISING, invalid=[0.0] * 5)
    assert "frontier" not in page.sections
    assert "chance to win 0.250" in page.sections["samples"]
    assert "From 0.0% to 50.0%. Against an opponent that learns too" in page.sections["curves"]


def test_what_nobody_scored_has_no_score(tmp_path: Path) -> None:
    page = run(tmp_path, "distill", reward=RISING, teacher_kl=RISING)
    assert "0.250" not in page.sections["samples"]
    assert page.sections["curves"].index("KL to the teacher") < page.sections["curves"].index("Reward of the samples")


@pytest.mark.parametrize(
    ("name", "values", "least", "most"),
    [
        ("flat_groups", [0.0] * 5, 0, 5),  # matplotlib alone would begin at -5%
        ("ended", [0.0, 1.0, 0.0, 1.0, 1.0], 0, 100),  # and here reach from -5% to 105%
        ("explained_variance", [-1.0, 0.0, 0.5, 0.5, 0.5], -100, 50),
    ],
)
def test_axes_of_shares_end_where_shares_do(name: str, values: list[float], least: float, most: float) -> None:
    svg = curve([(0, Series(np.arange(5.0), np.array(values)))], METRICS[name])
    ticks = [float(text.replace("−", "-")) for text in re.findall(r">([^<>]*)%</text>", svg)]
    assert len(ticks) >= 3 and least <= min(ticks) and max(ticks) <= most


def test_metrics_as_a_figure() -> None:
    rows = [{"step": i, "loss": 1 / i, "reward": float(i), "entropy": 0.1, "clip_fraction": 0.2} for i in range(1, 4)]
    assert [axes.get_title() for axes in plot_metrics(rows).axes] == [
        "Reward of the samples", "Entropy of the policy (nats)",
    ]  # fmt: skip
    assert plot_metrics(rows).axes[0].lines[0].get_ydata().tolist() == [1.0, 2.0, 3.0]
    assert [axes.get_title() for axes in plot_metrics([{"step": 1, "ratio": 1.0}]).axes] == [
        "Ratio of new to old probability"
    ]
    assert plot_metrics([]).axes == []
