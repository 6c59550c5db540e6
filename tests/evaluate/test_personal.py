"""Knowing users by k of their choices: what is asked about, own heads against an optimizer of scipy's, and by hand."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit

from accord.data.judgments import load_judgments
from accord.errors import InputError
from accord.evaluate.own_heads import OwnHeads
from accord.evaluate.personal import ChoiceStates, Users, measured
from accord.evaluate.statistics import bootstrap_mean, mean_of
from accord.methods import PersonalReward, PreferenceModel, RewardModel
from accord.results import parse
from accord.results.personal import PersonalResult
from tests.commands.small import accord, save_model, write_jsonl
from tests.methods.test_personal import rows


def users(most: int = 1) -> Users:
    """Ann of three choices and bob of two, and a tie, which is nobody's choice."""
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    found = [{**pair, "user": user, "group": group} for user, group in zip("aaabb", "xxxyy", strict=True)]
    return Users.of(load_judgments([*found, {**pair, "user": "a", "group": "x", "tied": True}]), most, "rows")


def test_what_is_measured_by_hand() -> None:
    """Of ann's two questions one is answered as she did and one is a coin, .75; bob's one is not, 0."""
    found = measured("m", "pooled", users(), [0], lambda k: [np.array([2.0, 0.0]), np.array([-1.0])]).given[0]
    assert found.accuracy == mean_of([0.75, 0.0])
    assert found.accuracy.estimate == pytest.approx(0.375)
    losses = [(log(1 + np.exp(-2)) + log(2)) / 2, log(1 + np.e)]
    assert found.log_loss is not None
    ours, hand = found.log_loss, bootstrap_mean(losses)
    assert (ours.estimate, ours.low, ours.high) == pytest.approx((hand.estimate, hand.low, hand.high))
    assert [(part.label, part.accuracy.estimate) for part in found.groups] == [("y", 0.0), ("x", 0.75)]
    assert found.worst is not None and found.worst.label == "y"


def test_users_who_cannot_be_asked() -> None:
    with pytest.raises(InputError, match="rows: the user b has 2 choices, and giving 2 and asking about one more"):
        users(2)
    nobody = load_judgments([{"prompt": "p", "chosen": "a", "rejected": "b"}])
    with pytest.raises(InputError, match="rows, row 1 does not say whose preference it is: rows need a column user"):
        Users.of(nobody, 0, "rows")
    tied = load_judgments([{"prompt": "p", "completions": ["a", "b"], "ranks": [0, 0], "user": "u"}])
    with pytest.raises(InputError, match="rows has only ties"):
        Users.of(tied, 0, "rows")


class Head:
    """A reward or preference model that is its head alone."""

    def __init__(self, *weight: list[float]) -> None:
        self.network = SimpleNamespace(score=SimpleNamespace(weight=torch.tensor(weight, dtype=torch.float64)))


def test_own_heads_are_what_an_optimizer_finds() -> None:
    """max over v of sum log sigmoid((w0 + v) . d_i) - |v|^2 / (2 s^2), by BFGS, for one user of three choices given."""
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(5, 2, 4, generator=generator, dtype=torch.float64) for _ in range(2)]
    head = Head([0.5, -1.0, 0.0, 2.0])
    judgments = users().judgments
    three = Users([judgments[0][:1] * 5, judgments[1][:1] * 5], ["x", "y"], 3)
    own = OwnHeads(ChoiceStates(head, states, 3), three)  # type: ignore[arg-type]
    apart = [(s[:, 0] - s[:, 1]).numpy() for s in states]
    variance = own.variance / np.mean([(d[:3] ** 2).sum(1).mean() for d in apart])
    start = np.array([0.5, -1.0, 0.0, 2.0])
    for k in (0, 2, 3):
        for d, lead in zip(apart, own.leads(k), strict=True):

            def cost(v: np.ndarray, d: np.ndarray = d, k: int = k) -> float:
                return float(-np.log(expit(d[:k] @ (start + v))).sum() + v @ v / (2 * variance))

            v = minimize(cost, np.zeros(4), tol=1e-12).x
            assert lead == pytest.approx(d[3:] @ (start + v), abs=1e-4)


def test_own_heads_are_found_where_whole_steps_overshoot() -> None:
    """Of the solution a_i = sigmoid(-lead_i); Newton's whole steps miss it in a tenth of these draws."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        d, lead, known = rng.normal(size=(8, 16)), 5 * rng.normal(size=8), np.arange(8) < rng.integers(1, 9)
        scale = (d**2).sum(1).mean()
        fitted = OwnHeads._fitted(SimpleNamespace(_scale=scale), lead, d, known, 10.0)  # type: ignore[arg-type]
        a = expit(-fitted[known])
        assert fitted == pytest.approx(lead + d @ d[known].T @ a * 10 / scale, abs=1e-8)


def test_own_heads_of_a_preference_model_keep_its_planes() -> None:
    """max over v of sum log sigmoid(z_i + v . d_i) - |v|^2 / (2 s^2), z the log-odds of its score and one plane."""
    states = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    head = Head([0.5, -1.0, 0.0, 2.0], [1.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, -1.0])
    own = OwnHeads(ChoiceStates(head, [states], 3), Users([users().judgments[0][:1] * 5], ["x"], 3))  # type: ignore[arg-type]
    h = states.numpy()
    a, b = h @ [1.0, 0.0, 2.0, 0.0], h @ [0.0, 1.0, 0.0, -1.0]
    d = h[:, 0] - h[:, 1]
    z = d @ [0.5, -1.0, 0.0, 2.0] + a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]
    variance = own.variance / (d[:3] ** 2).sum(1).mean()

    def cost(v: np.ndarray) -> float:
        return float(-np.log(expit(z[:3] + d[:3] @ v)).sum() + v @ v / (2 * variance))

    assert own.leads(3)[0] == pytest.approx(z[3:] + d[3:] @ minimize(cost, np.zeros(4), tol=1e-12).x, abs=1e-4)
    assert own.leads(0)[0] == pytest.approx(z[3:])


@pytest.mark.filterwarnings("error")
def test_own_heads_without_choices_are_the_head_of_the_model() -> None:
    head, states = Head([1.0, 2.0]), [torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)]
    own = OwnHeads(ChoiceStates(head, states, 0), users(0))  # type: ignore[arg-type]
    assert [leads.tolist() for leads in own.leads(0)] == [[-1.0]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Personal and pooled models of opposite users, of one answer and of two."""
    folder = tmp_path_factory.mktemp("home")
    base = save_model(folder / "base")
    given: Any = {"learning_rate": 1e-2, "dtype": "float32", "max_steps": 40}
    few = given | {"max_steps": 10}
    PersonalReward(**given, batch_size=4).fit(base, rows(8), out=folder / "personal", track="none")
    PersonalReward(**given, batch_size=4, planes=1).fit(base, rows(8), out=folder / "two", track="none")
    RewardModel(**few).fit(base, rows(8), out=folder / "pooled", track="none")
    PreferenceModel(**few).fit(base, rows(8), out=folder / "pooled-two", track="none")
    unseen = [{**json.loads(line), "group": "ab"[i // 5 % 2]} for i, line in enumerate(_lines(folder))]
    write_jsonl(folder / "unseen.jsonl", unseen)
    return folder


def _lines(folder: Path) -> list[str]:
    return Path(write_jsonl(folder / "all.jsonl", rows(4, 5))).read_text().splitlines()


def test_the_command_tells_users_apart(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [f"--models.{name}={home / name}/model" for name in ("pooled", "personal", "pooled-two", "two")]
    options = ("--data", home / "unseen.jsonl", "--given", "0", "2", "--out", home / "out", "--dtype", "float32")
    assert accord("evaluate", "personal", *models, *options) == 0
    found = parse(json.loads((home / "out/evaluation.json").read_text()))
    assert isinstance(found, PersonalResult)
    assert (found.users, found.questions) == (4, 12)
    by = {(m.name, m.how): {g.k: g.accuracy.estimate for g in m.given} for m in found.models}
    for name in ("pooled", "pooled-two"):
        assert by[name, "pooled"] == pytest.approx({0: 0.5})  # whom it prefers, half of the users do not
        assert by[name, "own head"][0] == pytest.approx(0.5)
    for name in ("personal", "two"):
        for how in ("reads choices", "own head"):
            assert by[name, how] == pytest.approx({0: 0.5, 2: 1.0})
    assert "reads choices" in capsys.readouterr().out
    assert list(found.frame().columns)[:3] == ["name", "how", "k"]


def test_what_the_command_refuses(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, pooled = home / "unseen.jsonl", home / "pooled/model"
    for given, why in (
        (("--models.pooled", pooled, "--given", "-1"), "--given is numbers of choices, 0 or more, not -1."),
        (
            ("--models.pooled", pooled, "--given", "8"),
            "the user u0 has 5 choices, and giving 8 and asking about one more",
        ),
        (
            ("--models.pooled", pooled, "--given", "0", "--tastes", "opposite"),
            "row 1 has no 'taste', which --tastes reads",
        ),
        (
            ("--models.pooled", pooled, "--given", "0", "--max-length", "1"),
            "leaves no room for a completion within 1 tokens",
        ),
    ):
        assert accord("evaluate", "personal", "--data", data, "--out", home / "none", *given) == 2
        assert why in capsys.readouterr().err
    assert not (home / "none").exists()
