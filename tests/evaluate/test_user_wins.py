"""How users like answers: what is asked of whom, means by hand, the best of n, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from accord.data.encoding import to_tree
from accord.data.judgments import load_judgments
from accord.engine import Trees
from accord.engine.load import load_model
from accord.engine.personal import PersonalModel
from accord.errors import InputError
from accord.evaluate.personal import Users
from accord.evaluate.statistics import mean_of
from accord.evaluate.user_choices import Chooser
from accord.evaluate.user_wins import UserQuestions, _chosen
from accord.feedback.reward import unsampled
from accord.methods import PersonalReward
from accord.records import Comparison, Ranking, Sample, Verdict
from accord.results import parse
from accord.results.users import UsersResult
from tests.commands.small import accord, save_model, write_jsonl

LIKES = """
def likes(prompts, firsts, seconds, word):
    return [0.5 + 0.5 * ((w in a.split()) - (w in b.split())) for a, b, w in zip(firsts, seconds, word)]
"""


def rows() -> list[dict[str, str]]:
    """Ann of four choices, of which two are of one prompt, and bob of three."""
    asked = (("p", "a"), ("q", "a"), ("r", "a"), ("r", "a"), ("p", "b"), ("q", "b"), ("r", "b"))
    return [
        {"prompt": p, "chosen": "good", "rejected": "bad", "user": user, "group": f"of {user}", "word": "good"}
        for p, user in asked
    ]


def served(most: int = 1, questions: int | None = None) -> UserQuestions:
    return UserQuestions.of(Users.of(load_judgments(rows()), most, "rows"), questions)


def test_what_is_asked_of_whom() -> None:
    """The prompts after the first choice, each once: q and r of either."""
    found = served()
    assert [(p.prompt, user, row) for p, user, row in zip(found.prompts, found.user, found.rows, strict=True)] == [
        ("q", 0, 1), ("r", 0, 2), ("q", 1, 5), ("r", 1, 6),
    ]  # fmt: skip
    assert found.prompts[0].columns["word"] == "good"
    assert [p.prompt for p in served(questions=1).prompts] == ["q", "q"]


def test_a_question_is_none_of_the_choices_given() -> None:
    told = [{**row, "prompt": "p"} if row["user"] == "b" else row for row in rows()]
    with pytest.raises(InputError, match="the user b has no question besides the 1 choices given"):
        UserQuestions.of(Users.of(load_judgments(told), 1, "rows"), None)


class Longer:
    """Prefers the longer answer by its share of both lengths, and has no verdict on answers of one length."""

    symmetric = True

    def __call__(self, comparisons: list[Comparison]) -> list[Verdict]:
        lengths = [(len(str(c.first)), len(str(c.second))) for c in comparisons]
        return [Verdict(None if a == b else a / (a + b)) for a, b in lengths]


def said(*texts: str) -> list[Sample]:
    return [unsampled("p", text) for text in texts]


def test_win_rates_by_hand() -> None:
    """Ann's two questions are won by .75 and 0.2, so .475; of bob's one has no verdict and one is .5 or more: 2/3."""
    ours, theirs = said("aaa", "a", "bb", "bb"), said("b", "bbbb", "aa", "a")
    found = served().wins(4, Longer(), ours, theirs)
    assert found.k == 4 and found.invalid == 1 and found.characters == 2.0
    assert found.win_rate == mean_of([0.475, 2 / 3])
    assert [(part.label, part.win_rate.estimate) for part in found.groups] == [
        ("of a", pytest.approx(0.475)), ("of b", pytest.approx(2 / 3)),
    ]  # fmt: skip
    assert found.worst is not None and found.worst.label == "of a"
    with pytest.raises(InputError, match="the judge has no valid verdict for the user b; leave them out"):
        served().wins(0, Longer(), said("a", "a", "b", "b"), said("aa", "aa", "a", "a"))


def test_the_best_of_n_is_what_the_judge_likes_best() -> None:
    """aa and dd are as long as zz, so that there is no verdict on them; b beats zz by 1/3, bbb by 3/5, and so on."""
    many, theirs = said("b", "bbb", "a", "aa", "cccc", "c", "d", "dd"), said("zz", "zz", "zz", "zz")
    several = {"sft, best of 2": {0: many}, "fspo, best of 2": {0: many, 4: said(*"b" * 8)}}
    found, other = _chosen(served(), {}, [0, 4], several, Longer(), theirs)
    assert (found.name, [given.k for given in found.given]) == ("sft, best of 2", [0])
    assert found.given[0].win_rate == mean_of([(3 / 5 + 1 / 3) / 2, (4 / 6 + 1 / 3) / 2])
    assert (other.name, [given.k for given in other.given]) == ("fspo, best of 2", [0, 4])
    assert other.given[0].win_rate == found.given[0].win_rate and other.given[1].win_rate.estimate == pytest.approx(
        1 / 3
    )


@pytest.mark.parametrize("planes", [0, 1])
def test_models_choose_by_the_users_choices(tmp_path: Path, planes: int) -> None:
    """The labels of every answer by the model's own one-by-one pass, given the first choice of whose question it is:
    of two answers the one of the higher score, or that is preferred to the other."""
    model = PersonalReward(dtype="float32", planes=planes).start(load_model(save_model(tmp_path / "base")))
    assert isinstance(model, PersonalModel)
    model.network.score.weight.data.mul_(5)  # type: ignore[operator, union-attr]  # so that planes outweigh scores
    asked = served()
    many = said("good", "bad day", "hello", "", "bye", "day", "hi hi", "good bad")
    many = [replace(s, prompt=asked.prompts[i // 2]) for i, s in enumerate(many)]
    chooser = Chooser.of("m", model, asked.users, asked.user)
    assert chooser.reads
    theirs = chooser.states(many)

    def states(prompt: str, *texts: str) -> torch.Tensor:
        tree = to_tree(model.tokenizer, Ranking(prompt, texts, (0,) * len(texts)))
        return model.states(Trees.of([tree]))

    for k in (0, 1):
        expected = []
        for i, (prompt, user) in enumerate(zip(asked.prompts, asked.user, strict=True)):
            first = asked.users.judgments[user][0]
            read = states(str(first.prompt), str(first.first), str(first.second))[None, None]
            answers = states(str(prompt.prompt), many[2 * i].text, many[2 * i + 1].text)
            labels = model.outputs_given(answers[None], read[:, :k], torch.ones(1, 2, k, dtype=torch.bool))[0]
            odds = labels[0, 0] - labels[1, 0]
            if planes:
                odds += labels[0, 1] * labels[1, 2] - labels[0, 2] * labels[1, 1]
            expected.append(int(odds < 0))
        assert chooser.best(theirs, k) == expected
    one = model.save(tmp_path / "model")
    found, _ = _chosen(asked, {"m": str(one)}, [0, 1], {"a": {0: many, 1: many}}, Longer(), said(*"wxyz"))
    assert (found.name, [given.k for given in found.given]) == ("a by m", [0, 1])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "base")
    words = ("hi", "hello", "bye", "day")
    unseen = [
        {"prompt": q, "chosen": "good", "rejected": "bad", "user": f"u{i}", "group": "ab"[i % 2], "word": "good"}
        for i in range(4)
        for q in words
    ]
    write_jsonl(folder / "unseen.jsonl", unseen)
    return folder


def test_the_command(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "users_judge.py").write_text(LIKES)
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)
    common = ("--data", "unseen.jsonl", "--models.base", "base", "--against", "base", "--dtype", "float32")
    common += ("--max-new-tokens", 6, "--judge", "users_judge:likes")
    assert accord("evaluate", "users", *common, "--given", 0, 2, "--best-of-n", 32, "--out", "out") == 0
    found = parse(json.loads(Path("out/evaluation.json").read_text()))
    assert isinstance(found, UsersResult)
    assert (found.users, found.questions, found.against) == (4, 8, "base")
    base, best = found.models
    assert base.given[0].win_rate.estimate == 0.5  # against its own answers
    assert [given.k for given in base.given] == [0, 2]
    assert best.name == "base, best of 32" and best.given[0].win_rate.estimate > 0.5
    assert [part.label for part in best.given[0].groups] in (["a", "b"], ["b", "a"])
    assert "wins over base" in capsys.readouterr().out
    assert list(found.frame().columns)[:3] == ["name", "how", "k"]
    for more, why in (
        (("--given", 4), "the user u0 has 4 choices, and giving 4 and asking about one more needs 5"),
        (("--given", -1), "--given is numbers of choices, 0 or more, not -1."),
        (("--given", 0, "--questions", 0), "--questions must be at least 1, not 0."),
        (
            ("--given", 0, "--rewards.rm", "base"),
            "--rewards chooses among several answers: give their number by --best-of-n.",
        ),
        (
            ("--given", 0, "--best-of-n", 2, "--generators", "sft"),
            "--generators sft is none of the models named: base.",
        ),
        (("--given", 0, "--against", "sft"), "--against sft is none of the models named: base."),
        (("--given", 3, "--max-new-tokens", 40), "do not fit into the model's context of 48"),
        (("--given", 0, "--judge", "accord.worlds.cafe.tastes:prefers"), "taste"),
    ):
        assert accord("evaluate", "users", *common, "--out", "none", *more) == 2
        assert why in capsys.readouterr().err
    assert not Path("none").exists()
    assert np.isfinite(best.given[0].characters)
