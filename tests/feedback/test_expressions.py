"""Answers that mean the same by math-verify, on the main thread and on others."""

from __future__ import annotations

import threading

import pytest

from accord.errors import InputError
from accord.feedback.verifiers import Verifier, verifier_named
from tests.feedback.samples import sample

pytest.importorskip("math_verify")

PAIRS = [
    (r"\frac{1}{2}", "so $0.5$", 1),
    ("1/2", r"\boxed{\frac{2}{4}}", 1),
    ("1/2", r"\boxed{\frac{1}{3}}", 0),
    ("It is 9 * 2 = 18.\n#### 18", "The answer is 18.", 1),
    ("x+1", "$1 + x$", 1),
    ("x+1", r"\boxed{x + 2}", 0),
    (r"We get $a$, so \boxed{(x+1)^2}.", r"\boxed{x^2 + 2x + 1}", 1),
    (r"\sqrt{8}", r"$2\sqrt 2$", 1),
    (r"\{1, 2\}", r"$\{2, 1\}$", 1),
    (r"\$32", "it costs $32$", 1),
    ("3 dollars", "3", 1),
    (18, "18.00", 1),
    ("x = 3", "3", 1),
    ("3", "nothing", 0),
    ("3", "", 0),
]


def graded(verifier: Verifier) -> list[float]:
    return verifier([sample(said, answer=gold) for gold, said, _ in PAIRS]).tolist()


def test_expressions_are_compared_by_value() -> None:
    assert graded(verifier_named("math")) == [grade for _, _, grade in PAIRS]


def test_other_threads_have_no_alarms_and_the_same_results() -> None:
    found: list[list[float]] = []
    thread = threading.Thread(target=lambda: found.append(graded(verifier_named("math"))))
    thread.start()
    thread.join()
    assert found == [[grade for _, _, grade in PAIRS]]


@pytest.mark.parametrize(
    "equal",
    [
        ("18", "18.00", "so $18$", r"\boxed{\frac{36}{2}}", "$x = 18$"),
        ("0.5", "1/2", r"$\frac{2}{4}$", "50%"),
        (r"$(x+1)^2$", r"\boxed{x^2+2x+1}"),
    ],
)
def test_equal_answers_are_equal_strings(equal: tuple[str, ...]) -> None:
    verifier = verifier_named("math")
    (answer,) = {verifier.answer(text) for text in equal}
    assert answer in ("18", "1/2", "x**2 + 2*x + 1")
    assert verifier.answer("19") == "19" and verifier.answer("nothing") is None


def test_what_no_computer_finishes_is_wrong_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accord.feedback.mathematics.SECONDS", 1)
    tower = r"\boxed{9^{9^{9^{9}}}}"
    verifier = verifier_named("math")
    assert verifier([sample(tower, answer="3")]).tolist() == [0.0]
    assert verifier.answer(tower) == "9**(9**(9**9))"


@pytest.mark.parametrize("gold", ["Paris", " ", "\\$"])
def test_an_answer_without_an_expression_names_the_row(gold: str) -> None:
    with pytest.raises(InputError, match="^row 8, for the verifier math: there is no expression in 'solution'"):
        verifier_named("math@solution")([sample("3", 7, solution=gold)])
