"""Verifiers: 1 for the right answer, 0 for another, and one sentence for a row that has none."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch

from accord.data import load_prompts
from accord.errors import InputError
from accord.feedback.reward import check_prompts
from accord.feedback.verifiers import VERIFIERS, Verifier, exact, number, regex, verifier_named
from accord.records import Completion, Sample
from tests.feedback.samples import sample


def grades(verifier: Verifier, gold: Any, *texts: str) -> list[float]:
    return verifier([sample(text, answer=gold) for text in texts]).tolist()


def test_exact_ignores_case_and_white_space_alone() -> None:
    texts = ("New York", " new\n york ", "NEW YORK.", "New  York City", "")
    assert grades(exact(), "New York", *texts) == [1, 1, 0, 0, 0]
    assert grades(exact(), 18, "18", " 18", "18.0") == [1, 1, 0]


def test_number_compares_values() -> None:
    texts = ("so 18", "$18.00", r"\boxed{36/2} of 40", "18 of 40", "none", "180")
    assert grades(number(), "18", *texts) == [1, 1, 1, 0, 0, 0]
    assert grades(number(), 0.5, "1/2", "50%") == [1, 0]


def test_gsm8k_s_answers_work_as_they_are() -> None:
    rows = [{"question": "How much?", "answer": "It is 9 * 2 = <<9*2=18>>18 dollars.\n#### 18"}]
    (prompt,) = load_prompts(rows)
    said = [Sample(prompt, text, (), Completion((), (), "end"), 0) for text in ("#### 18", "The answer is $18.", "9")]
    rewards = number()(said)
    assert rewards.dtype == torch.float32 and rewards.tolist() == [1, 1, 0]


def test_regex_compares_the_last_match_or_its_first_group() -> None:
    texts = ("Answer: A\nAnswer: B", "Answer: B or Answer: A", "B", "Answer: b")
    assert grades(regex(r"Answer: (\w)"), "B", *texts) == [1, 0, 0, 0]
    assert grades(regex("yes|no"), "yes", "no, yes", "yes, no", "maybe") == [1, 0, 0]
    assert grades(regex("(x)|y"), "x", "y") == [0]  # its group matched nothing


@pytest.mark.parametrize(
    ("verifier", "equal", "different"),
    [
        (exact(), ("New York", " new  york"), "York"),
        (number(), ("it is 18", "18.00", "#### 18"), "19"),
        (regex(r"is (\w+)"), ("it is A", "B is not A, it is A"), "it is a"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_equal_answers_are_equal_strings(verifier: Verifier, equal: tuple[str, ...], different: str) -> None:
    assert len({verifier.answer(text) for text in equal}) == 1
    assert verifier.answer(different) != verifier.answer(equal[0])


def test_no_answer_is_none() -> None:
    assert exact().answer(" \n") is None
    assert number().answer("none") is None
    assert regex("x").answer("y") is None


def test_another_column_may_hold_the_answer() -> None:
    rows = [sample("18", answer="0", solution="18")]
    assert verifier_named("number@solution")(rows).tolist() == [1.0]
    assert verifier_named("regex@solution:[0-9]+")(rows).tolist() == [1.0]
    assert verifier_named("number")(rows).tolist() == [0.0]


def test_a_pattern_may_hold_colons_and_at_signs() -> None:
    assert verifier_named("regex:to: (.+@.+)")([sample("to: me@here", answer="me@here")]).tolist() == [1.0]


@pytest.mark.parametrize("name", ["exact", "number", "regex:x"])
def test_a_missing_answer_names_verifier_row_and_columns(name: str) -> None:
    verifier = verifier_named(name)
    said = f"row 3 has no column 'answer', which the verifier {name} reads; the columns there are: id, gold"
    for columns in ({"id": 1, "gold": 2}, {"id": 1, "answer": None, "gold": 2}):
        with pytest.raises(InputError, match=f"^{said}$"):
            verifier([sample("18", 0, answer="18"), sample("18", 2, **columns)])
        with pytest.raises(InputError, match=f"^{said}$"):
            verifier.check(sample("", **columns).prompt, 2)


def test_answers_that_are_none_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"^row 1, for the verifier number: there is no answer in 'answer' \('many'\)$"
    ):
        number()([sample("18", answer="many")])
    with pytest.raises(InputError, match="^row 1, for the verifier exact: there is no answer in 'answer'"):
        exact()([sample("18", answer=" ")])
    with pytest.raises(InputError, match="^row 1, for the verifier exact: 'answer' must be text or a number"):
        exact()([sample("18", answer=["18"])])


def test_prompts_are_checked_before_anything_is_sampled() -> None:
    from accord.records import EncodedPrompt

    prompts = [EncodedPrompt(p, (1,), i) for i, p in enumerate(load_prompts([{"prompt": "a", "x": 1}]))]
    with pytest.raises(InputError, match="row 1 has no column 'answer'"):
        check_prompts(number(), prompts)
    check_prompts(lambda samples: torch.zeros(len(samples)), prompts)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nummber", "there is no verifier 'nummber'; did you mean number?"),
        ("zzz", "there is no verifier 'zzz': they are exact, number, regex, math, reasoning-gym"),
        ("number@", "the verifier 'number@' names no column after its @"),
        ("number:x", "the verifier number takes no pattern; write number instead of 'number:x'"),
        ("regex", "the verifier regex needs a pattern: write regex:PATTERN"),
        ("regex:", "the verifier regex needs a pattern"),
        ("regex:(", "the pattern '(' is not a regular expression (missing ) at position 1)"),
        ("reasoning-gym@x", "the verifier reasoning-gym reads the columns of its own rows: give it no column"),
    ],
)
def test_mistakes_in_names_are_told(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        verifier_named(spec)


@pytest.mark.parametrize(("name", "package"), [("math", "math_verify"), ("reasoning-gym", "reasoning_gym")])
def test_the_extra_is_named_where_it_is_not_installed(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    wanted = f"the verifier {name} needs the verify extra: pip install {package.replace('_', '-')}"
    with pytest.raises(InputError, match=f"^{wanted}$"):
        verifier_named(name)


def test_every_verifier_is_documented_where_they_are_listed() -> None:
    listed = sys.modules["accord.feedback.verifiers"].__doc__ or ""
    assert all(f"\n    {name}" in listed for name in VERIFIERS)
