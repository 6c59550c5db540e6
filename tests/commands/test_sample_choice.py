"""`accord sample` with a reward: what it keeps is the best or the correct of what it draws without one."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from accord.data import load_data
from accord.data.choices import with_choices
from accord.engine.classifiers import Scorer
from accord.engine.load import load_model, load_reward_model
from accord.feedback.learned import LearnedReward
from accord.records import Demonstration, Preference
from tests.commands.small import QUICK, accord, read_jsonl, save_model, write_jsonl

MODULE = """
def words(completions, **columns):
    return [float(len(text.split())) for text in completions]
"""
PROMPTS = [{"prompt": "hi", "answer": "good", "id": 7}, {"prompt": "good day", "answer": "bye", "id": 8}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a module of rewards in it."""
    (tmp_path / "word_rewards.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def sampled(base: str, data: str, out: str, *options: object) -> list[dict[str, Any]]:
    common = ("--model", base, "--data", data, "--out", out, "--max-new-tokens", "5", "--dtype", "float32")
    assert accord("sample", *common, *options) == 0
    return read_jsonl(out)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_columns_are_handed_on_or_told(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a character too; what JSON has no value for is left out of rows, and named."""
    odd = '{"prompt": "hi", "id": NaN, "at": {"x": [Infinity]}, "half": "\\ud800", "n": 1}\n'
    Path("odd.jsonl").write_text(f'{odd}{{"prompt": "bye", "n": 2}}\n')
    first, second = sampled(base, "odd.jsonl", "out.jsonl")
    assert (first["half"], first["n"], first["id"], second["n"]) == ("\ud800", 1, None, 2) and "at" not in first
    assert told(capsys) == "sample: left out of rows, as JSON holds no such values: 'at'."


def by_prompt(rows: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return [list(group) for _, group in groupby(rows, key=lambda row: row["prompt"])]


def test_a_reward_alone_is_written_beside_every_sample(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl(Path("prompts.jsonl"), PROMPTS)
    plain = sampled(base, data, "plain.jsonl", "--n", 3)
    scored = sampled(base, data, "scored.jsonl", "--n", 3, "--reward", "word_rewards:words")
    assert scored == [{**row, "reward": float(len(row["completion"].split()))} for row in plain]
    assert told(capsys) == ""


def test_the_best_of_n_are_the_first_of_highest_reward(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl(Path("prompts.jsonl"), PROMPTS)
    groups = by_prompt(sampled(base, data, "all.jsonl", "--n", 8, "--reward", "word_rewards:words"))
    ranked = [sorted(group, key=lambda row: -row["reward"]) for group in groups]  # of equals, the first stays first
    assert len({row["reward"] for row in ranked[0]}) > 1
    choose = ("--reward", "word_rewards:words", "--best-of", 8)
    assert sampled(base, data, "best.jsonl", *choose) == [group[0] for group in ranked]
    assert told(capsys) == "sample: kept 2 of 16 samples"
    assert sampled(base, data, "top.jsonl", *choose, "--keep", 3) == [row for group in ranked for row in group[:3]]


def test_what_is_good_enough_is_kept_and_the_rest_told(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_jsonl(Path("prompts.jsonl"), PROMPTS)
    every = sampled(base, data, "all.jsonl", "--n", 8, "--reward", "word_rewards:words")
    high = max(row["reward"] for row in every)
    kept = sampled(base, data, "good.jsonl", "--n", 8, "--reward", "word_rewards:words", "--at-least", high)
    assert kept == [row for row in every if row["reward"] == high]
    none = 2 - len(by_prompt(kept))
    without = f", and none of {none} of the 2 prompts" if none else ""
    assert told(capsys) == f"sample: kept {len(kept)} of 16 samples{without}"
    best = sampled(base, data, "both.jsonl", "--reward", "word_rewards:words", "--best-of", 8, "--at-least", high)
    assert best == [group[0] for group in by_prompt(kept)]


def test_prompts_without_a_correct_sample_are_counted(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The regular expression finds what was said; the second row's answer is never said in one token."""
    rows = [{"prompt": "hi", "answer": "good"}, {"prompt": "hi", "answer": "good day bye"}]
    data = write_jsonl(Path("prompts.jsonl"), rows)
    options = ("--n", 60, "--max-new-tokens", 1, "--reward", "exact", "--at-least", 1)
    kept = sampled(base, data, "good.jsonl", *options)
    assert kept and {(row["answer"], row["completion"], row["reward"]) for row in kept} == {("good", "good", 1.0)}
    assert told(capsys) == f"sample: kept {len(kept)} of 120 samples, and none of 1 of the 2 prompts"


def test_what_is_kept_is_fine_tuned_on(base: str, tmp_path: Path) -> None:
    data = write_jsonl(Path("prompts.jsonl"), [{"prompt": "hi", "answer": "good"}])
    rows = sampled(
        base, data, "good.jsonl", "--n", 60, "--max-new-tokens", 1, "--reward", r"regex:(\w+)", "--at-least", 1
    )
    assert load_data("good.jsonl") == [Demonstration("hi", "good", tuple(row["completion_ids"])) for row in rows]
    assert {tuple(row["completion_ids"]) for row in rows} == {(8,)}  # cut after the word, as it was sampled
    assert accord("sft", "--model", base, "--data", "good.jsonl", "--out", "rft", *QUICK) == 0
    load_model("rft/model")


def test_a_reward_model_chooses_by_the_tokens_sampled(base: str) -> None:
    scorer = Scorer.on(load_model(base), seed=3)
    scorer.save("rm")
    data = write_jsonl(Path("prompts.jsonl"), [{"prompt": "hi"}])
    every = sampled(base, data, "all.jsonl", "--n", 6, "--reward", "rm")
    ended = [row for row in every if row["stop"] == "end"]
    learned = LearnedReward(load_reward_model("rm"))
    expected = learned.texts([("hi", row["completion"]) for row in ended]).tolist()
    assert [row["reward"] for row in ended] == pytest.approx(expected, abs=1e-5)
    (best,) = sampled(base, data, "best.jsonl", "--best-of", 6, "--reward", "rm")
    assert best == max(every, key=lambda row: row["reward"])


def test_rows_of_any_kind_keep_their_columns_but_not_what_made_them_rows(base: str) -> None:
    row = {"prompt": "hi", "chosen": "good", "rejected": "bad", "answer": "good", "id": 3, "reward": 9.0, "label": 1}
    data = write_jsonl(Path("pairs.jsonl"), [row])
    (kept,) = sampled(base, data, "samples.jsonl")
    assert set(kept) == {"prompt", "completion", "completion_ids", "logprob", "tokens", "stop", "answer", "id"}
    assert (kept["answer"], kept["id"]) == ("good", 3)
    assert load_data("samples.jsonl") == [Demonstration("hi", kept["completion"], tuple(kept["completion_ids"]))]
    assert load_data(data) == [Preference("hi", "good", "bad")]


def test_reasoning_gym_is_sampled_and_scored_by_name(base: str) -> None:
    pytest.importorskip("reasoning_gym")
    rows = sampled(base, "reasoning-gym:chain_sum?size=2&seed=3", "sums.jsonl", "--reward", "reasoning-gym")
    assert [row["metadata"]["source_index"] for row in rows] == [0, 1]
    assert [row["reward"] for row in rows] == [0.0, 0.0]  # the words it knows are no numbers


@pytest.mark.parametrize(
    "reward", ["regex:Answer: (\\w+)", "regex:#### (\\d+) {2}", "regex:[a-z]+", "0.5 * exact + 2*number@id", "[x]/y"]
)
def test_any_spec_arrives_as_it_was_written(reward: str, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(BaseException):
        pass

    def named(spec: str, *_: object, **__: object) -> None:
        raise Seen(spec)

    monkeypatch.setattr("accord.feedback.named.reward_named", named)
    data = write_jsonl(Path("prompts.jsonl"), PROMPTS)
    with pytest.raises(Seen) as seen:
        accord("sample", "--model", base, "--data", data, "--out", "o.jsonl", "--max-new-tokens", 2, "--reward", reward)
    assert seen.value.args == (reward,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--best-of", 4), "--best-of needs --reward to choose by."),
        (("--at-least", 1), "--at-least needs --reward to choose by."),
        (("--keep", 2), "--keep 2 keeps the best of the samples of --best-of, which must be as many."),
        (("--keep", 5, "--best-of", 4, "--reward", "exact"), "--keep 5 keeps the best of the samples of --best-of"),
        (("--n", 2, "--best-of", 4, "--reward", "exact"), "--best-of 4 says how many samples are drawn; leave --n out"),
        (("--best-of", 0, "--reward", "exact"), "--best-of must be at least 1, not 0."),
        (("--keep", 0, "--reward", "exact"), "--keep must be at least 1, not 0."),
        (("--n", 0), "--n must be at least 1, not 0."),
        (("--at-least", ".nan", "--reward", "exact"), "--at-least must be a number, not .nan."),
        (("--best-of", 4, "--reward", "exact", "--temperature", 0), "--best-of has nothing to choose from at --temp"),
        (("--at-least", 2, "--reward", "exact"), "no sample has a reward of at least 2: the highest is 0; lower --at"),
    ],
)
def test_options_that_do_not_fit(
    options: tuple[object, ...], message: str, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(Path("prompts.jsonl"), [{"prompt": "hi", "answer": "never"}])
    common = ("--model", base, "--data", data, "--out", "out.jsonl", "--max-new-tokens", 2)
    assert accord("sample", *common, *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("out.jsonl").exists()


def test_samples_read_the_choices_of_their_users(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same tokens as of prompts in which the choices are written; the rows keep the prompts as they were."""
    asked = [{"prompt": "hi", "user": "a"}, {"prompt": "bye", "user": "b"}]
    chosen = [
        {"prompt": q, "chosen": c, "rejected": r, "user": user}
        for user, c, r in (("a", "good", "bad"), ("b", "bad", "good"))
        for q in ("day", "hello", "hi")
    ]
    data, file = write_jsonl(Path("asked.jsonl"), asked), write_jsonl(Path("choices.jsonl"), chosen)
    some = sampled(base, data, "given.jsonl", "--choices", file, "--given", 2, "--n", 3)
    pairs = {
        user: [Preference(q, c, r) for q in ("day", "hello")]
        for user, c, r in (("a", "good", "bad"), ("b", "bad", "good"))
    }
    written = [{"prompt": with_choices(row["prompt"], pairs[row["user"]]), "user": row["user"]} for row in asked]
    by_hand = sampled(base, write_jsonl(Path("written.jsonl"), written), "by_hand.jsonl", "--n", 3)
    assert [row["completion_ids"] for row in some] == [row["completion_ids"] for row in by_hand]
    assert [row["logprob"] for row in some] == [row["logprob"] for row in by_hand]
    assert [row["prompt"] for row in some] == ["hi"] * 3 + ["bye"] * 3
    without = sampled(base, data, "none.jsonl", "--n", 3)
    assert sampled(base, data, "zero.jsonl", "--choices", file, "--given", 0, "--n", 3) == without
    common = (
        "sample",
        "--model",
        base,
        "--data",
        data,
        "--out",
        "bad.jsonl",
        "--dtype",
        "float32",
        "--max-new-tokens",
        5,
    )
    for more, why in (
        (("--given", 2), "--choices and --given go together: a file of choices, and how many of each row's user."),
        (("--choices", file), "--choices and --given go together"),
        (("--choices", file, "--given", -1), "--given must be a number of choices, 0 or more, not -1."),
        (("--choices", file, "--given", 3), "row 1: choices.jsonl has 2 choices of other prompts by the user a"),
        (("--choices", data, "--given", 1), "asked.jsonl holds prompts, and choices are preferences or rankings"),
    ):
        assert accord(*common, *more) == 2
        assert why in told(capsys)
    assert not Path("bad.jsonl").exists()


def test_beams_and_blocks_search(base: str) -> None:
    data = write_jsonl(Path("prompts.jsonl"), PROMPTS)
    greedy = sampled(base, data, "greedy.jsonl", "--temperature", 0)
    one = sampled(base, data, "one.jsonl", "--beams", 1)
    assert [row["completion_ids"] for row in one] == [row["completion_ids"] for row in greedy]
    wide = sampled(base, data, "wide.jsonl", "--beams", 6, "--n", 2, "--length-penalty", 0)
    assert [row["prompt"] for row in wide] == ["hi", "hi", "good day", "good day"]
    rounding = 1e-5  # sequences are computed six or two at a time
    for better, worse, plain in zip(wide[::2], wide[1::2], one, strict=True):
        assert better["logprob"] >= max(worse["logprob"], plain["logprob"]) - rounding
        assert plain["id"] == better["id"]
    choose = ("--reward", "word_rewards:words", "--n", 1)
    best = sampled(base, data, "best.jsonl", *choose[:2], "--best-of", 6)
    assert sampled(base, data, "block.jsonl", *choose, "--beams", 3, "--branch", 2, "--block", 5) == best
    guided = sampled(base, data, "guided.jsonl", *choose, "--block", 1)
    assert [row["reward"] for row in guided] == [float(len(row["completion"].split())) for row in guided]
