"""Guests with tastes: their choices are what the formula says, and what can be known of them is known exactly."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit

from accord.data.load import load_data
from accord.errors import InputError
from accord.evaluate.personal import assistant_text
from accord.records import Preference, Row
from accord.worlds.cafe.tastes import POPULATIONS, Population, bayes, comparisons, features, gaps, oracle, prefers
from tests.commands.small import accord, read_jsonl


def test_features_by_hand() -> None:
    """Seven words, two kind and one unkind, one emphatic."""
    assert features("it is very fresh and tasty .").tolist() == pytest.approx([7 / 3.5, 2 / 1.5, 1 / 0.45])
    assert features("the pie is bland .").tolist() == pytest.approx([5 / 3.5, -1 / 1.5, 0.0])


@pytest.mark.parametrize("population", POPULATIONS)
def test_a_population_is_everybody(population: Population) -> None:
    tastes = POPULATIONS[population]
    assert sum(taste.share for taste in tastes) == pytest.approx(1)
    assert len({taste.name for taste in tastes}) == len(tastes)
    assert [float(np.linalg.norm(taste.weights)) for taste in tastes] == pytest.approx([4.0] * len(tastes))


def test_nothing_is_known_of_opposite_guests_without_a_choice() -> None:
    """The best pooled model is at chance: half of the guests want the opposite of what the others do."""
    asked = np.array([[0.3, 0.5, 0.0], [1.0, -2.0, 0.4]])
    assert bayes("opposite", np.zeros((0, 3)), asked).tolist() == pytest.approx([0.0, 0.0])
    # And what both halves share is all that is known of overlapping ones: (s(a + b) + s(a - b)) / 2.
    a, b = 4 / 2**0.5 * 0.5, 4 / 2**0.5 * 0.3
    known = logit((expit(a - b) + expit(a + b)) / 2)
    assert bayes("overlapping", np.zeros((0, 3)), asked[:1]).tolist() == pytest.approx([known])


def test_the_posterior_by_hand() -> None:
    """One choice of the kinder answer by 1/4: its odds are sigmoid(1) to sigmoid(-1), e to 1."""
    chosen, asked = np.array([[0.7, 0.25, 0.0]]), np.array([[0.0, 0.5, 0.0]])
    kind = np.e / (np.e + 1)
    chance = kind * expit(2.0) + (1 - kind) * expit(-2.0)
    assert bayes("opposite", chosen, asked).tolist() == pytest.approx([logit(chance)])
    # A second choice, of the less kind one by as much, takes it back.
    both = np.concatenate([chosen, -chosen])
    assert bayes("opposite", both, asked).tolist() == pytest.approx([0.0])
    # Of four groups half are kind already, and a fifth each is brief or stern: those who mind length say nothing here.
    odds = {"kind": 0.5 * expit(1.0), "stern": 0.2 * expit(-1.0), "brief": 0.2 * expit(-2.8), "emphatic": 0.1 * 0.5}
    leads = {"kind": 2.0, "stern": -2.0, "brief": 0.0, "emphatic": 0.0}
    chance = sum(odds[name] * expit(leads[name]) for name in odds) / sum(odds.values())
    assert bayes("groups", chosen, asked).tolist() == pytest.approx([logit(chance)])


def test_who_knows_the_taste() -> None:
    asked = np.array([[0.3, 0.5, 0.0]])
    assert oracle("opposite", "stern", asked).tolist() == [-2.0]
    with pytest.raises(InputError, match=r"the guests of opposite have the tastes kind, stern, and none is 'odd'"):
        oracle("opposite", "odd", asked)


def texts(rows: list[dict[str, object]]) -> list[tuple[str, str]]:
    read: list[Row] = load_data(rows)
    return [(assistant_text(row.chosen), assistant_text(row.rejected)) for row in read if isinstance(row, Preference)]


def test_guests_choose_by_their_tastes_as_often_as_the_formula_says() -> None:
    """Of 4,000 choices, what agrees with the guest's taste is within three deviations of the sum of its chances."""
    rows = comparisons(0, "groups", 200, 20, unseen=False)
    leads = np.concatenate(
        [
            oracle("groups", str(taste), gaps(texts(list(some))))
            for taste, some in groupby(rows, key=lambda row: row["taste"])
        ]
    )
    chance = expit(np.abs(leads))
    sure = leads != 0  # who minds none of what differs throws a coin
    deviation = float(np.sqrt((chance * (1 - chance))[sure].sum()))
    assert abs(float((leads > 0).sum()) - float(chance[sure].sum())) < 3 * deviation
    who = [next(some)["taste"] for _, some in groupby(rows, key=lambda row: row["user"])]
    assert len(who) == 200 and abs(who.count("kind") / 200 - 0.5) < 3 * (0.25 / 200) ** 0.5


def test_a_guest_as_a_judge_by_hand() -> None:
    """Two kind words more weigh 4 * 2 / 1.5 for who likes them and as much against for who does not."""
    kind, stern = "the pie is fresh .", "the pie is stale ."
    asked = [{"role": "assistant", "content": kind}]
    found = prefers(["p"] * 3, [kind, asked, stern], [stern, stern, stern], ["kind", "stern", "brief"])
    assert found == pytest.approx([expit(16 / 3), expit(-16 / 3), 0.5])
    with pytest.raises(InputError, match="no guest of the café has the taste 'odd'; the tastes are kind, stern"):
        prefers(["p"], [kind], [stern], ["odd"])


def test_unseen_guests_are_others_who_ask_other_questions() -> None:
    seen, unseen = (comparisons(0, "opposite", 20, 6, unseen=unseen) for unseen in (False, True))
    assert seen == comparisons(0, "opposite", 20, 6, unseen=False) != comparisons(1, "opposite", 20, 6, unseen=False)
    for column in ("user", "prompt"):
        assert not {str(row[column]) for row in seen} & {str(row[column]) for row in unseen}
    assert all(gap[1] != 0 for gap in gaps(texts(seen)))  # all differ in what somebody minds


def test_the_command_writes_what_users_chose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--tastes", "opposite", "--users", 8, "--choices", 3, "--width", 12)
    assert accord("world", "--out", tmp_path / "cafe", *options) == 0
    rows = read_jsonl(tmp_path / "cafe/comparisons.jsonl")
    assert len(rows) == 24 and set(rows[0]) == {"prompt", "chosen", "rejected", "user", "group", "taste"}
    assert len(read_jsonl(tmp_path / "cafe/comparisons-unseen.jsonl")) == 6
    for given, why in (
        (("--tastes", "opposite", "--name", "sums"), "--tastes is for the world cafe; sums has no users."),
        (("--users", 8), "--users is for users with tastes of their own: give --tastes."),
        (("--tastes", "groups", "--choices", 0), "--choices must be at least 1, not 0."),
    ):
        assert accord("world", "--out", tmp_path / "other", *given) == 2
        assert why in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
