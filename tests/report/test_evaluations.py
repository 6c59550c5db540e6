"""Evaluations on the page: their numbers, their captions, and what a hostile text can do there."""

from __future__ import annotations

import re

import pytest

from accord.report import write_report
from accord.report.models import ModelTable
from accord.report.overoptimization import overoptimization_section
from accord.results import parse
from tests.report.evaluations import write_everything
from tests.report.evaluations.models import MODELS, OVEROPTIMIZATION
from tests.report.pages import Page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(write_everything(tmp_path_factory.mktemp("report") / "everything")))


def words(page: Page, section: str) -> str:
    return " ".join(page.sections[section].split())


def rows(page: Page) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in page.tables}


def test_every_kind_of_evaluation_has_its_section(page: Page) -> None:
    before = ["alarms", "pipeline", "results", "matrix", "comparisons", "personal", "users", "judge"]
    before += ["learning-curve", "agreement", "tasks"]
    after = [
        "passes",
        "failures",
        "sweep",
        "log",
        "plan",
        "synthesis",
        "critique",
        "frontier",
        "overoptimization",
        "answers",
        "curves",
        "samples",
    ]
    assert list(page.sections) == [*before, *after, "settings", "environment"]


def test_alarms_over_a_log(page: Page) -> None:
    said = words(page, "log")
    assert "runs/<log>.jsonl, a log of verl, steps 1 to 20: 1 alarm." in said
    assert "kl-burst step 7 the divergence <jumped> What to try a lower rate" in said
    table = rows(page)
    assert table["kl-runaway"] == ["silent", "kl and reward"]
    assert table["overoptimization"] == ["not judged: no watched", ""]
    assert table["loss-rise"] == ["for other kinds of runs", ""]
    assert table["not read"] == ["actor/ppo_kl: another <divergence>", "20"]
    assert "Other names of the log: perf/<mfu>." in said


def test_a_plan_of_many_gpus(page: Page) -> None:
    said = words(page, "plan")
    assert (
        "models/<8B>: 8.03 billion weights. grpo: 512 prompts a step. Everything is calculated, nothing measured."
        in said
    )
    assert rows(page)["1,024"] == ["2.5", "no: loading", "9,216", "4,213", "3.5", "1,000", "sampling"]
    assert "A GPU has 80 GB. The plan is based on: bytes of a GPU 8e+10 (given)." in said


def test_a_sweep(page: Page) -> None:
    assert ["kl_coefficient by learning_rate", "0.0001", "0.001"] in page.tables
    table = rows(page)
    assert table["0.75"][0] == "0.5 0.4 to 0.7 0.0% collapsed (10.0%–90.0%)"
    assert table["0.85"] == ["0.5 0.4 to 0.7 50.0% collapsed (10.0%–90.0%)", "–"]
    assert "the loss of <row> 1 is not finite" in words(page, "sweep")


def test_answers_revised_by_a_constitution(page: Page) -> None:
    table, text = rows(page), words(page, "critique")
    assert table["first answer"][:4] == ["–", "–", "2 cut", "21.5"]
    assert table["1"][:4] == ["70", "8", "20 cut, 2 echo (3 critiques cut off)", "30.2"]
    assert table["1"][4:] == ["0.550 (0.500 to 0.600)", "0.150 (0.110 to 0.190)"]
    assert table["harmless <b>"] == ["60", "0.120 (0.080 to 0.160)"] and table["honest"] == ["40", "–"]
    assert "base answered 100 prompts and revised its answers 1 time by the constitution mine.yaml" in text
    assert "with 2 principles. 90 prompts ended with a usable answer; 70 of" in text
    assert "From 0.400 to 0.550, with 95% intervals. On the same prompts the last revision is +0.150" in text
    assert "cafe by number of principles" not in text


def test_a_judge_beside_people(page: Page) -> None:
    table, text = rows(page), words(page, "judge")
    assert table["ai:smollm2 agrees with people"] == ["62.0% (55.0%–69.0%)", "196"]
    assert table["of <b>web"][1] == "90" and table["preferred answer longer by -40 to -3 characters"][1] == "49"
    assert table["Log-odds of being first"] == ["1.75 (1.45 to 2.05)", "0"]
    assert table["Longer answer wins"][1] == "0.530" and table["Invalid: no letter"] == ["4", "0"]
    assert "prefers the longer answer more often than people do" in text


def test_instructions_that_a_model_made(page: Page) -> None:
    table, text = rows(page), words(page, "synthesis")
    assert table["length too short"] == ["97", "24.2% (20.2%–28.2%)", "0"]
    assert table["echo all the same"][2] == "5" and not any(row.startswith("empty") for row in table)
    assert table["instruction"] == ["11.2", "6.00", "10.0", "18.0"]
    assert "base was asked by self-instruct, from 175 seed tasks, in 4 rounds: 3 of 400 proposed" in text
    assert "2 are classification tasks, according to the model" in text and "is 0.667" in text
    assert "On average 0.412. 66.7% lie below 0.5." in text
    assert "2 different first words" in text and "3 rounds in a row accepted nothing" in text


def test_what_more_labels_would_buy(page: Page) -> None:
    text = words(page, "learning-curve")
    assert "Reward models of 400 labels agree with 70.0% [67.0, 73.0] of the held-out comparisons" in text
    assert "Twice as many would buy 1.4 points [0.6, 2.2], 200 more 0.9 points [0.5, 1.3]." in text
    assert "An accuracy of 72% takes 1,111 [612, more than 4,000] labels." in text
    assert "start from sft" in text and "3 rows that prefer no answer" in text
    assert "100200400800" in text  # under the picture


def test_the_matrix_has_each_pair_from_both_sides(page: Page) -> None:
    # The order is the board's. ppo beats dpo in 53% (47% to 59%), so dpo beats ppo in 47% (41% to 53%).
    assert ["", "ppo", "dpo", "sft"] in page.tables
    matrix = {row[0]: row[1:] for row in page.tables if len(row) == 4 and "·" in row}
    assert matrix["dpo"][0] == "47.0% 41.0%–53.0% at equal length 56.0%"
    assert matrix["sft"][:2] == [
        "17.7% 12.7%–22.7% at equal length 26.9%",
        "28.4% 23.4%–33.4% at equal length 29.8%",
    ]
    # 82.3% and 71.6% are 3 and 2 tenths from a half; 53% may be even.
    found = ModelTable("verdict", parse(MODELS)).cells
    assert [found[pair].shade for pair in (("ppo", "sft"), ("sft", "ppo"), ("dpo", "sft"), ("ppo", "dpo"))] == [
        3,
        -3,
        2,
        0,
    ]


def test_pairs_and_board(page: Page) -> None:
    table = rows(page)
    assert table["ppo against sft"] == [
        "82.3% (77.3%–87.3%)", "73.1% (68.1%–78.1%)", "180 : 71, p 4.2e−12", "3", "1", "53.0%", "12.0%",
    ]  # fmt: skip
    assert ["ppo", "0.610 (0.490 to 0.730)", "106 (85.0 to 127)"] in page.tables
    assert "cafe answered 12% of pairs differently" in words(page, "results")
    assert "at equal length 73.1% (68.1%–78.1%)" in words(page, "results")


def test_a_reward_model_on_trial(page: Page) -> None:
    table, text = rows(page), words(page, "comparisons")
    assert table["chosen shorter"] == ["41.0% (38.0%–44.0%)", "800"]
    assert table["longer pays two more sentences"] == ["83.0% (79.0%–87.0%)", "0.900 (0.800 to 1.00)", "256"]
    assert table["repeated said twice"][0] == "22.0% (17.0%–27.0%)"
    # At 75% it is right in 66% to 74%, at 95% in 77% to 85%; at 55% and 65% the intervals hold what it says.
    assert "Expected calibration error 6.1% (4.9%–7.3%)" in text and "Overconfident at 75%, 95%." in text
    # Only the probe that pays is red: what it is to be fooled is no success.
    bars = [a.get("class") for tag, a in page.tags if tag == "svg" and "bar" in (a.get("class") or "").split()]
    assert bars.count("bar below") == 3  # sft on the board, chosen shorter, and the probe longer


def test_agreement_of_annotators(page: Page) -> None:
    assert rows(page)["ann and cyd"] == ["70.0% (64.0%–76.0%)", "0.400 (0.280 to 0.520)", "180"]
    text = words(page, "agreement")
    assert "Ceiling for any model 86.1% (83.1%–89.1%)" in text and "Krippendorff's alpha 0.530 (0.450 to 0.610)" in text


def test_clusters_of_tasks(page: Page) -> None:
    scores = ["20.0% (16.0%–24.0%)", "40.0% (35.0%–45.0%)"]
    above = ["-6.7% (-12.0%–-1.3%)", "20.0% (13.3%–26.7%)"]
    assert [row[1:] for row in page.tables if row[0] == "sorting held out"] == [
        ["mean of 1", *scores],
        ["mean of 1", *above],
    ]
    measure = "rank classification, 150 rows, chance 25.0%"
    assert [row[1:] for row in page.tables if row[0] == "letters"] == [[measure, *scores], [measure, *above]]
    assert [row[1:] for row in page.tables if row[0] == "Clusters, held out"] == [
        ["mean of 1", *scores],
        ["mean of 1", *above],
    ]
    assert [row[2:] for row in page.tables if row[0] == "Clusters, held in"][1] == ["–", "–"]
    assert "Generated with max_new_tokens 16, temperature 0.0." in words(page, "tasks")


def test_passes(page: Page) -> None:
    table = rows(page)
    assert ["Model", "pass@1", "pass@4", "Majority of 4", "Length", "Ended"] in page.tables
    assert table["star"] == ["40.0% (35.0%–45.0%)", "62.0% (57.0%–67.0%)", "51.0% (46.0%–56.0%)", "12.2", "98.0%"]
    assert table["base"][2] == "–"
    head = re.sub(r"<[^>]+>", "", page.source.split("<header>")[1].split("</header>")[0])
    lead = "With one sample of each of 200 prompts: star is correct on 40.0% (35.0%–45.0%), base is correct on 10.0%"
    assert lead in " ".join(head.split())
    assert "200 prompts of test.jsonl, 4 samples of each at temperature 0.7." in words(page, "passes")


def test_failures(page: Page) -> None:
    table = rows(page)
    assert table["false fact preferred 40 probes, at random 50.0%"] == [
        "30.0% 20.0%–40.0%",
        "5.0% 1.0%–9.0% −25.0 points (−37.5 to −12.5)",
    ]
    assert table["list-like 24 probes"] == ["–", "96.0% 92.0%–100.0%"]
    # The shade is a fifth of the share each: .30 the second of five, .05 none, .96 the last.
    matrix = page.source.split('id="failures"')[1].split("</table>")[0]
    assert re.findall(r'<td class="(\w+)"', matrix) == ["b2", "even", "none", "b5"]
    assert table["words per answer"] == ["24", "40.0 (35.0 to 45.0)", "61.5 (56.5 to 66.5)", "21.5 (17.5 to 25.5)"]
    assert table["space <b>"] == ["10", "40.0% (20.0%–60.0%)", "10.0% (0.0%–20.0%)", "–"]
    assert table["body"] == ["30", "20.0% (10.0%–30.0%)", "–", "–"]
    text = words(page, "failures")
    assert "harmful has only 3 probes" in text and "Probes: failures, asked in a chat." in text


def test_what_is_known_of_users(page: Page) -> None:
    assert ["Model", "k = 0", "k = 4", "Worst group"] in page.tables
    table = rows(page)
    assert table["pooled: pooled"] == ["48.9% (46.9%–50.9%)", "–", "–"]
    assert table["reads: reads choices"][1:] == ["97.0% (96.4%–97.6%)", "<b>kind: 96.7% (95.7%–97.7%)"]
    assert "given k of their choices, over 200 users of unseen.jsonl; intervals are over" in words(page, "personal")


def test_how_users_like_the_answers(page: Page) -> None:
    assert ["Model", "k = 0", "k = 4", "Worst group"] in page.tables
    table = rows(page)
    assert table["fspo"] == ["51.0% (49.0%–53.0%)", "83.0% (81.0%–85.0%)", "stern: 81.0% (78.0%–84.0%)"]
    assert table["sft, best of 16"] == ["95.0% (94.0%–96.0%)", "–", "–"]
    assert "to those of sft, given none, over 200 users of unseen.jsonl and 800 questions" in words(page, "users")


def test_overoptimization_is_read_from_the_points(page: Page) -> None:
    found = overoptimization_section(parse(OVEROPTIMIZATION))
    assert [figure.title for figure in found.figures] == ["Training", "Best of n"]
    # d (.3 - .2 log d) is highest at exp(.5) = 1.649; of the points at eighths, 1.625 is the nearest. There the gain is
    # 1.625 (.3 - .2 * .48551) = .32971, at the end 3 (.3 - .2 * 1.09861) = .24083: 27.0% of it is lost.
    assert found.figures[0].caption.startswith(
        "ppo, seed 0: cafe peaks at √KL 1.62 and has fallen by 27.0% of its gain at the end, while reward still rises."
    )
    assert found.figures[1].caption.startswith("best of n: cafe is still at its peak at the end, at √KL 2.00.")
    assert rows(page)["ppo, seed 0"] == [
        "d (a − b log d)", "0.300 (0.290 to 0.310)", "0.200 (0.190 to 0.210)", "1.65 (1.45 to 1.85)",
        "0.330 (0.320 to 0.340)", "1.00",
    ]  # fmt: skip


def test_a_hostile_token_stays_text(page: Page) -> None:
    assert page.answers[2] == "<script>alert('owned')</script>⟨U+001B⟩[31m ⟨U+202E⟩↵\n"
    assert "script" not in {tag for tag, _ in page.tags}
    # +.02 + 1.2 - .3 + 4.6 - 2.5 + 0 = 3.02.
    assert "log-ratio +3.02" in words(page, "answers")
