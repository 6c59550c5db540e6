"""Alarms on the page, the marks on the curves, and the figure of what is optimized and what watches it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from accord.report import write_report
from accord.report.page import parted
from accord.report.series import Series
from tests.report.evaluations.runs import ALARMS, write_watched
from tests.report.pages import Page


def words(page: Page, section: str) -> str:
    return " ".join(page.sections[section].split())


def test_alarms_open_the_page_and_mark_the_curves(tmp_path: Path) -> None:
    page = Page(write_report(write_watched(tmp_path / "ppo", ALARMS)))
    assert next(iter(page.sections)) == "alarms"
    text = words(page, "alarms")
    assert "1 reward up watched down step 24 Reward rose from 1.2 to 1.9 in 10 steps" in text
    assert "2 length drift 2 times, steps 31 to 33 Length is 2.1 times that of the start. What to try Penalize" in text
    assert "of step 26 (0.667), is in best." in text
    head = page.source.split("<header>")[1].split("</header>")[0]
    assert "<b>reward up watched down</b> (step 24)" in head
    # Two marks on every curve, each of which has its ends in its caption, and on the figure of reward and watch.
    marks = page.source.count("text-anchor: middle; fill: var(--hue-5)")
    drawings = page.sections["curves"].count("From ") + 1
    assert marks == 2 * drawings


def test_silence_says_what_was_listened_to(tmp_path: Path) -> None:
    page = Page(write_report(write_watched(tmp_path / "ppo", [])))
    assert list(page.sections).index("alarms") == list(page.sections).index("curves") - 1
    assert "No alarm was raised in 40 steps. Columns examined: watched measure of the" in words(page, "alarms")
    assert "KL to the reference" in words(page, "alarms")
    assert "alarms" not in page.source.split("<header>")[1].split("</header>")[0]


def test_a_run_without_a_record_of_alarms_says_nothing_of_them(tmp_path: Path) -> None:
    folder = write_watched(tmp_path / "ppo", [])
    (folder / "alarms.jsonl").unlink()
    assert "alarms" not in Page(write_report(folder)).sections


def test_reward_and_watch_share_a_figure_and_have_no_other(tmp_path: Path) -> None:
    text = words(Page(write_report(write_watched(tmp_path / "ppo", []))), "curves")
    assert "Reward and independent measure" in text
    assert "Reward of the samples" not in text and "Watched measure" not in text
    # t (2 - 1.5 t) is highest at t = 2/3; of the even steps of 40, 26 (.65) is the nearest: .4 + .4 * .66625 = .6665.
    # It begins at t = .05 with .4 + .4 * .09625 = .4385 and ends at t = 1 with .6, having lost .0665 of .228: 29.2%.
    assert "The measure is highest at step 26 (0.667) and has fallen by 29.2% of its gain at the end (0.600)" in text


def test_the_three_ways_a_watched_run_can_go() -> None:
    steps = np.arange(1.0, 5.0)
    rising = Series(steps, np.array([0.0, 1.0, 2.0, 3.0]))
    falling = Series(steps, np.array([1.0, 0.5, 0.2, 0.1]))
    assert parted(rising, rising).startswith(
        "The measure rises from 0 to 3.00 as the reward goes from 0 to 3.00: they have not diverged."
    )
    assert parted(rising, falling).startswith(
        "The measure never rises above its start of 1.00, while the reward goes from 0 to 3.00."
    )
    humped = Series(steps, np.array([0.0, 4.0, 3.0, 2.0]))
    assert parted(rising, humped).startswith(
        "The measure is highest at step 2 (4.00) and has fallen by 50.0% of its gain at the end (2.00), while the "
        "reward still rises, from 1.00 to 3.00."
    )
    assert "falls too, from 4.00 to 2.00." in parted(humped, humped)


def test_one_measurement_is_no_curve() -> None:
    one = Series(np.array([1.0]), np.array([1.0]))
    assert parted(one, one).startswith("Dashed: the reward that is optimized.")
