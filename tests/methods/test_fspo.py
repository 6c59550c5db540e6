"""FSPO: its loss is IPO's on the prompts as they are written; draws by step; resumed bit for bit; what it refuses."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest
import torch

from accord.data.choices import UserTree, with_choices
from accord.data.encoding import encode
from accord.engine import Policy, Trees
from accord.engine.load import load_model
from accord.errors import LeftOut
from accord.methods import FSPO, IPO
from accord.records import Preference, Ranking
from accord.train.loop import Result
from accord.train.rows import read_metrics
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.data.conftest import WORDS
from tests.interrupted import assert_resumes
from tests.methods.test_personal import KIND, STERN, rows


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "base")


def double(base: str) -> Policy:
    policy = load_model(base, dtype="float32")
    policy.network.double()
    return policy


def other(policy: Policy) -> Policy:
    """The policy with other weights, so that it is none of its reference."""
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.mul_(1.25)
    return policy


def log_prob(policy: Policy, text: str, completion: str) -> float:
    """log pi of a completion and its end after a text, by transformers' own pass over the one sequence."""
    prompt, said = (policy.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (text, completion))
    said.append(policy.tokenizer.eos_token_id)
    with torch.no_grad():
        logits = policy.network(input_ids=torch.tensor([prompt + said])).logits[0].log_softmax(-1)
    return float(sum(logits[len(prompt) - 1 + i, token] for i, token in enumerate(said)))


def test_the_loss_is_that_of_ipo_on_what_is_written(base: str) -> None:
    """(h - 1 / (2 tau))^2 with tau = .2, so 2.5, by hand from two networks that read the rendered text."""
    method = FSPO(dtype="float32", tau=0.2, given=3)
    policy, reference = double(base), double(base)
    asked = method.encode(policy, rows(2, 4), LeftOut(strict=True))
    loss_of = method.objective(policy)
    other(policy)
    drawn = method.with_choices(policy, asked, random.Random(5))  # type: ignore[arg-type]
    assert len({tree.given for tree in drawn}) > 2
    values, measures = loss_of(Trees.of(drawn))
    expected = []
    for tree in drawn:
        row = tree.comparison
        text = tuple(policy.tokenizer.convert_ids_to_tokens(list(tree.prompt)))
        assert text.count("<unk>") == (12 + 5 * tree.given if tree.given else 0)
        written = policy.tokenizer.decode(list(tree.prompt))
        h = [
            log_prob(p, written, str(row.chosen)) - log_prob(p, written, str(row.rejected)) for p in (policy, reference)
        ]
        expected.append((h[0] - h[1] - 2.5) ** 2)
    assert values.tolist() == pytest.approx(expected, rel=1e-9)
    assert measures["given"].tolist() == [tree.given for tree in drawn]
    alone = [float(a) for a, tree in zip(measures["accuracy"], drawn, strict=True) if not tree.given]
    assert measures["accuracy_alone"].tolist() == alone


def test_a_step_is_ipos_on_the_rendered_rows(base: str) -> None:
    """The same trees as those that IPO makes of the rows with the choices in their prompts, and the same values."""
    method = FSPO(dtype="float32", given=3)
    policy = load_model(base, dtype="float32")
    asked = method.encode(policy, rows(2, 4), LeftOut(strict=True))
    rng = random.Random(1)
    drawn = method.with_choices(policy, asked, rng)  # type: ignore[arg-type]
    again = random.Random(1)
    written = []
    for tree in asked:
        assert isinstance(tree, UserTree)
        others = tree.others()
        choices = again.sample(others, min(again.randint(0, 3), len(others)))
        written.append(
            Preference(with_choices(tree.comparison.prompt, choices), tree.comparison.chosen, tree.comparison.rejected)
        )
    plain = encode(policy.tokenizer, written, max_length=2048, context=policy.context).trees
    assert [(t.prompt, t.branches) for t in plain] == [(t.prompt, t.branches) for t in drawn]
    ours, theirs = (m.objective(policy)(Trees.of(t))[0] for m, t in ((method, drawn), (IPO(dtype="float32"), plain)))
    assert torch.equal(ours, theirs)


def test_choices_are_the_users_own(base: str) -> None:
    """What a user likes stands after the first "like:", so of every drawn prompt it is the user's own word."""
    method = FSPO(dtype="float32", given=3)
    policy = load_model(base, dtype="float32")
    asked = method.encode(policy, rows(6, 4), LeftOut(strict=True))
    for seed in range(20):
        for tree in method.with_choices(policy, asked, random.Random(seed)):  # type: ignore[arg-type]
            likes = STERN if int(tree.user[1:]) % 2 == 0 else KIND
            words = policy.tokenizer.convert_ids_to_tokens(list(tree.prompt))
            first = 8 + 1 + 1 + 2  # the opening, Question:, the question, I like:
            assert [words[first + 8 * i] for i in range(tree.given)] == [likes] * tree.given
            assert len(tree.prompt) + 2 <= 48


def test_pairs_of_one_ranking_are_not_given_each_other(base: str) -> None:
    ranked = [Ranking(q, (KIND, STERN, "bad"), (0, 1, 1), "u") for q in ("good", "bye")]
    method = FSPO(dtype="float32")
    asked = method.encode(load_model(base), ranked, LeftOut(strict=True))
    assert [tree.row for tree in asked] == [0, 0, 1, 1]
    assert [[c.prompt for c in tree.others()] for tree in asked] == [["bye"] * 2] * 2 + [["good"] * 2] * 2  # type: ignore[attr-defined]


def fitted(base: str, out: Path, *, steps: int = 6, **more: object) -> Result:
    method = FSPO(learning_rate=1e-2, batch_size=8, max_steps=steps, dtype="float32", given=2)
    return method.fit(base, rows(8), out=out, save_every=2, track="none", **more)


def test_opposite_users_get_what_they_like(base: str, tmp_path: Path) -> None:
    """After 150 steps users never seen, of whom one choice is known, get their word with a margin of nats."""
    policy = fitted(base, tmp_path / "run", steps=150).model
    for user, (likes, other_word) in enumerate(((STERN, KIND), (KIND, STERN))):
        known = [row for row in rows(2) if row.user == f"u{user}"][:1]
        written = with_choices(WORDS[-1], known)
        assert isinstance(written, str)
        assert log_prob(policy, written, likes) > log_prob(policy, written, other_word) + 1
    assert {"accuracy", "given", "margin", "loss"} <= set(read_metrics(tmp_path / "run")[-1])


def test_a_run_that_is_stopped_goes_on_bit_for_bit(base: str, tmp_path: Path) -> None:
    assert_resumes(partial(fitted, base), tmp_path, step=3)


def test_users_are_held_out_whole(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = fitted(base, tmp_path / "run", steps=2, eval_split="0.25")
    assert "8 of 32 rows are held out, those of 2 users." in capsys.readouterr().err
    measured = [row for row in result.metrics if "eval_loss" in row]
    assert {"eval_accuracy", "eval_accuracy_alone", "eval_given", "eval_loss_low"} <= set(measured[-1])
    assert len({row["eval_given"] for row in measured}) == 1  # the same draws at every measurement


def test_the_command(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", rows(4))
    options = ("--model", base, "--max-steps", 2, "--batch-size", 2, "--dtype", "float32", "--track", "none")
    assert accord("fspo", "--data", data, "--out", tmp_path / "run", *options) == 0
    assert [row["step"] for row in read_jsonl(tmp_path / "run/metrics.jsonl")] == [1, 2]
    bad = rows(4)
    bad[5] = Preference("hi", KIND, STERN)
    for rows_given, more, why in (
        (bad, (), "row 6 does not say whose preference it is: rows need a column user, or one that --columns"),
        (rows(4, 1), (), "no user has two comparisons, so none can be read before another: add rows."),
        (rows(4), ("--given", 0), "given must be at least 1, not 0; without choices it is `accord ipo`."),
        (rows(4), ("--precompute-reference",), "precompute_reference: choices are drawn anew at every step"),
    ):
        data = write_jsonl(tmp_path / "bad.jsonl", rows_given)
        assert accord("fspo", "--data", data, "--out", tmp_path / "other", *options, *more) == 2
        assert why in capsys.readouterr().err
        assert not (tmp_path / "other/model").exists()
