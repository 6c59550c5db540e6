"""STaR: what a hint looks like, who gets one, and that what is learned has forgotten it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from accord.data.chat import encode_prompt
from accord.data.encoding import encode_prompts
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.errors import InputError
from accord.feedback.verifiers import exact, number, regex
from accord.methods import STaR
from accord.methods.rounds import Round, as_row, as_trees
from accord.methods.star import right_answer, with_hint
from accord.records import EncodedPrompt, Message, Prompt, Sample
from tests.commands.small import accord, save_model, write_jsonl

VERIFIER = regex("(good|bad)")
ROWS = [Prompt(p, {"answer": a}) for p, a in [("hi", "good"), ("hello", "bad"), ("bye day", "bad"), ("bye", "good")]]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_model(save_model(tmp_path_factory.mktemp("models") / "base"))


def star(**given: Any) -> STaR:
    return STaR(**{"group_size": 4, "max_new_tokens": 5, "hint": "{prompt} {answer}", "dtype": "float32", **given})


def encoded(policy: Policy, method: STaR, rows: Sequence[Prompt]) -> list[EncodedPrompt]:
    return encode_prompts(policy.tokenizer, rows, room=method.max_new_tokens, context=policy.context)[0]


def is_right(sample: Sample) -> bool:
    return sample.completion.stop == "end" and bool(VERIFIER([sample])[0] == 1)


def test_right_samples_are_learned_and_the_others_prompts_asked_again_with_a_hint(policy: Policy) -> None:
    method = star(seed=18, group_size=6)
    at, prompts = Round(method, 2, policy, VERIFIER), encoded(policy, method, ROWS)
    samples = at.sample(prompts)
    selected, numbers = method.select(at, prompts, samples)
    right = [s for s in samples if is_right(s)]
    solved = {s.row for s in right}
    unsolved = [p for p in prompts if p.row not in solved]
    assert solved and len(unsolved) > 1  # both parts have something to do
    hints = encoded(policy, method, [Prompt(f"{p.prompt.prompt} {p.prompt.columns['answer']}") for p in unsolved])
    told = policy.sample(hints, method.group_size, method.sampling(2))
    rows = [p.row for p in unsolved for _ in range(6)]
    answers = [{"answer": ROWS[row].columns["answer"]} for row in rows]
    marked = [Sample(Prompt("", c), s.text, (), s.completion) for s, c in zip(told, answers, strict=True)]
    shown = [(row, s.completion.tokens) for row, s in zip(rows, marked, strict=True) if is_right(s)]
    assert shown
    learned = sorted([*((s.row, s.completion.tokens) for s in right), *shown], key=lambda pair: pair[0])
    assert [(s.row, s.completion.tokens) for s in selected] == learned
    assert numbers == {
        "reward": float(VERIFIER(samples).double().mean()),
        "right": len(right) / 24,
        "solved": len(solved) / 4,
        "rationalized": len({row for row, _ in shown}) / 4,
    }
    # Whatever was hinted, the trees have the prompts as they were asked at first.
    trees = as_trees([as_row(s) for s in selected])
    assert {t.row: t.prompt for t in trees} == {
        p.row: p.tokens for p in prompts if p.row in {row for row, _ in learned}
    }
    assert {s.row: s.prompt for s in selected} == {row: ROWS[row] for row, _ in learned}


def test_without_a_hint_nobody_is_asked_again(policy: Policy) -> None:
    method = star(hint="", seed=3)
    at, prompts = Round(method, 2, policy, VERIFIER), encoded(policy, method, ROWS)
    samples = at.sample(prompts)
    selected, numbers = method.select(at, prompts, samples)
    assert selected == [s for s in samples if is_right(s)]
    assert numbers["rationalized"] == 0


def test_a_hint_without_room_is_not_given(policy: Policy) -> None:
    # The context has 48 tokens: 5 to answer, so that a prompt of 43 has no room for one more, its answer.
    method, at = star(), Round(star(), 1, policy, VERIFIER)
    long, fits = encoded(policy, method, [Prompt(" ".join(["hi"] * n), {"answer": "good"}) for n in (43, 42)])
    assert method.hinted(at, long) is None
    hinted = method.hinted(at, fits)
    assert hinted is not None and hinted.tokens == (*fits.tokens, *encode_prompt(policy.tokenizer, "good"))
    assert method.hinted(at, EncodedPrompt(Prompt("hi", {}), (6,), 0)) is None  # a row without an answer


def test_the_hint_of_a_chat_is_in_the_last_thing_the_user_says() -> None:
    system, first, reply, last = (
        Message("system", "good"),
        Message("user", "hi"),
        Message("assistant", "hello"),
        Message("user", "how {many}?"),
    )
    hinted = with_hint((system, first, reply, last), "{prompt} (it is {answer})", "{4}")
    assert hinted == (system, first, reply, Message("user", "how {many}? (it is {4})"))
    cue = Message("assistant", "well,")
    assert with_hint((first, cue), "{answer}: {prompt}", "4") == (Message("user", "4: hi"), cue)
    assert with_hint("2 + 2", "{prompt} = {answer}", "4") == "2 + 2 = 4"


def test_the_answer_hinted_at_is_the_final_one() -> None:
    gsm8k = {"answer": "He has 3 + 997 eggs.\n#### 1,000", "solution": "7", "metadata": {}}
    assert right_answer(number(), gsm8k) == "1000"
    assert right_answer(number("solution"), gsm8k) == "7"
    assert right_answer(regex("(yes|no)"), {"answer": "true"}) == "true"  # where there is none to find, all of it
    assert right_answer(exact(), {"answer": 12}) == "12"
    assert right_answer(lambda samples: torch.zeros(len(samples)), {"answer": "12"}) == "12"
    assert right_answer(exact("metadata"), gsm8k) == " ".join(gsm8k["answer"].split()).casefold()
    assert right_answer(number(), {"question": "2 + 2"}) is None


@pytest.mark.parametrize("hint", ["{answer}", "{prompt}", "{prompt} {answer} {why}", "{prompt} {}", "just do it"])
def test_a_template_that_is_none_is_refused(hint: str) -> None:
    with pytest.raises(InputError, match="hint must hold {prompt} and {answer} and no other name in braces, not"):
        STaR(hint=hint)


def test_a_malformed_template_is_refused() -> None:
    with pytest.raises(InputError, match="hint '{prompt} {answer' is not a template"):
        STaR(hint="{prompt} {answer")


def constant(prompts: list[Any], completions: list[Any]) -> list[float]:
    return [1.0] * len(completions)


def test_rows_that_cannot_be_verified_or_hinted_are_refused(
    policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "hi", "label_": "good"}])
    out, base = tmp_path / "run", policy.name
    assert accord("star", "--model", base, "--data", data, "--out", out, "--verifier", "number", *SHORT) == 2
    assert "row 1 has no column 'answer', which the verifier number reads; the columns there are: label_" in told(
        capsys
    )
    with pytest.raises(InputError, match="no row has an answer to hint at, in the verifier's column or in 'answer'"):
        star().fit(policy, data, verifier=constant, out=out)
    assert accord("star", "--model", base, "--data", data, "--out", out, "--verifier", "nmber", *SHORT) == 2
    assert "did you mean number?" in told(capsys)
    assert not out.exists()  # a refused run leaves no folder
    done = star(hint="", rounds=1, group_size=16).fit(policy, data, verifier=constant, out=out)
    assert done.metrics[0]["reward"] == 1.0


SHORT = ("--max-new-tokens", "5", "--dtype", "float32")


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err
