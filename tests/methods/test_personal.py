"""The personal reward model: its loss by hand, resumed bit for bit, held out by users, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn.functional import logsigmoid

from accord.engine.load import load_model, load_reward_model
from accord.engine.personal import PersonalPreference, PersonalScorer, pack_users
from accord.errors import LeftOut
from accord.methods import PersonalReward
from accord.records import Preference, Ranking
from accord.train.loop import Result
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.data.conftest import WORDS
from tests.interrupted import assert_resumes

WORDS_OF = WORDS[6:]
KIND, STERN = WORDS_OF[0], WORDS_OF[1]


def rows(users: int, each: int = 4) -> list[Preference]:
    """Users who like one word and dislike another, in turn the one way and the other."""
    asked = [WORDS_OF[2 + i % (len(WORDS_OF) - 2)] for i in range(each)]
    pairs = [(KIND, STERN) if user % 2 else (STERN, KIND) for user in range(users)]
    return [Preference(q, *pair, user=f"u{i}") for i, pair in enumerate(pairs) for q in asked]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "base")


def fitted(base: str, out: Path, *, steps: int = 6, **more: object) -> Result:
    method = PersonalReward(learning_rate=1e-2, batch_size=3, max_steps=steps, dtype="float32", tokens_per_pass=40)
    return method.fit(base, rows(8), out=out, save_every=2, track="none", **more)


def test_the_loss_by_hand(base: str) -> None:
    """Two users of two comparisons: the mean of four, each user's second given the first."""
    method = PersonalReward(dtype="float32")
    model = method.start(load_model(base))
    assert isinstance(model, PersonalScorer)
    users = method.encode(model, rows(2, 2), LeftOut(strict=True))
    assert [len(user.trees) for user in users] == [2, 2] and [user.row for user in users] == [0, 2]
    loss, measures = method.objective(model)(*pack_users(users, 1000))
    scores = model.outputs_given_earlier(*pack_users(users, 1000)).view(4, 2)
    torch.testing.assert_close(loss, -logsigmoid(scores[:, 0] - scores[:, 1]))
    assert measures["accuracy"].tolist() == (scores[:, 0] > scores[:, 1]).double().tolist()
    assert measures["accuracy_alone"].tolist() == measures["accuracy"][[0, 2]].tolist()
    assert method.terms(method.objective(model), users, model).count == 4


def test_the_loss_of_two_answers_by_hand(base: str) -> None:
    """-(1 - e) log sigmoid(z - m) - e log sigmoid(-z - m), with z of the score and both planes, written out."""
    method = PersonalReward(dtype="float32", planes=2)
    model = method.start(load_model(base))
    assert isinstance(model, PersonalPreference)
    sure, unsure = rows(1, 2)
    given = [replace(sure, margin=0.5), replace(unsure, probability=0.75)]
    users = method.encode(model, given, LeftOut(strict=True))
    loss, measures = method.objective(model)(*pack_users(users, 1000))
    labels = model.outputs_given_earlier(*pack_users(users, 1000)).view(2, 2, 5)
    odds = []
    for (s, a, b, c, d), (t, e, f, g, h) in labels.tolist():
        odds.append(s - t + a * f - b * e + c * h - d * g)
    z, y = torch.tensor(odds)
    hand = torch.stack([-logsigmoid(z - 0.5), -0.75 * logsigmoid(y) - 0.25 * logsigmoid(-y)])
    torch.testing.assert_close(loss, hand)
    torch.testing.assert_close(measures["margin"], torch.stack([z, y]))


def test_a_ranking_is_its_strict_pairs(base: str) -> None:
    """Two of three pairs, since one ties; both are of its row, so that neither is given the other."""
    ranked = Ranking("good", (KIND, STERN, "bad"), (0, 1, 1), "u")
    method = PersonalReward(dtype="float32")
    model = method.start(load_model(base))
    (user,) = method.encode(model, [ranked, Preference("hi", STERN, KIND, user="u")], LeftOut(strict=True))
    assert [tree.row for tree in user.trees] == [0, 0, 1]


def test_opposite_users_are_told_apart(base: str, tmp_path: Path) -> None:
    """Without a choice nothing is known of anybody, and with one everything: the loss at k = 1 is near 0."""
    result = fitted(base, tmp_path / "run", steps=40)
    model = load_reward_model(str(result.folder / "model"))
    assert isinstance(model, PersonalScorer)
    method = PersonalReward(dtype="float32")
    unseen = method.encode(model, [*rows(2, 3)], LeftOut(strict=True))
    with torch.no_grad():
        margins = model.outputs_given_earlier(*pack_users(unseen, 1000)).view(2, 3, 2).diff(dim=2).neg()[..., 0]
    assert margins[:, 0].sum().abs() < 0.2 and (margins[:, 1:] > 1).all()
    assert {"accuracy", "accuracy_alone", "margin", "loss"} <= set(result.metrics[-1])


def test_a_run_that_is_stopped_goes_on_bit_for_bit(base: str, tmp_path: Path) -> None:
    assert_resumes(partial(fitted, base), tmp_path, step=3)


def test_users_are_held_out_whole(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = fitted(base, tmp_path / "run", steps=2, eval_split="0.25")
    printed = capsys.readouterr().err
    assert "8 of 32 rows are held out, those of 2 users." in printed
    noted = json.loads((tmp_path / "run/environment.json").read_text())
    assert noted["read_as"] == "read as 6 users with 24 preferences"
    assert {"eval_accuracy", "eval_accuracy_alone", "eval_loss_low"} <= set(result.metrics[-1])


def test_the_command(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", rows(4))
    options = ("--model", base, "--max-steps", 2, "--batch-size", 2, "--dtype", "float32", "--track", "none")
    assert accord("personal", "--data", data, "--out", tmp_path / "run", *options) == 0
    assert [row["step"] for row in read_jsonl(tmp_path / "run/metrics.jsonl")] == [1, 2]
    bad = rows(4)
    bad[5] = Preference("hi", KIND, STERN)
    for given, more, why in (
        (bad, (), "row 6 does not say whose preference it is: rows need a column user, or one that --columns"),
        (rows(4, 1), (), "no user has two comparisons, so none can be read before another: add rows."),
        (rows(4), ("--comparisons", 1), "comparisons must be at least 2, not 1: one is read for the next."),
        (rows(4), ("--reader-layers", 0), "reader_layers must be at least 1, not 0."),
        (rows(4), ("--planes", -1), "planes must be at least 0, not -1; 0 is a reward model."),
        (rows(4), ("--lora-rank", 2), "lora_rank: a model that reads choices is trained in full; leave it out."),
        ([Ranking("hi", (KIND, STERN), (0, 1))], (), "row 1 does not say whose preference it is"),
    ):
        data = write_jsonl(tmp_path / "bad.jsonl", given)
        assert accord("personal", "--data", data, "--out", tmp_path / "other", *options, *more) == 2
        assert why in capsys.readouterr().err
        assert not (tmp_path / "other/model").exists()
