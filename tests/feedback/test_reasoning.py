"""reasoning-gym's scorers: what they give, and that no answer is run as a program."""

from __future__ import annotations

import inspect
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from accord.data import load_prompts
from accord.errors import InputError
from accord.feedback import reasoning
from accord.feedback.verifiers import verifier_named
from accord.records import Completion, Prompt, Sample

pytest.importorskip("reasoning_gym")


def rows(name: str, size: int = 2) -> list[Prompt]:
    return load_prompts(f"reasoning-gym:{name}?size={size}")


def graded(prompt: Prompt, *texts: str) -> list[float]:
    ended = Completion((), (), "end")
    return verifier_named("reasoning-gym")([Sample(prompt, text, (), ended, 0) for text in texts]).tolist()


def test_right_wrong_and_partly_right_answers() -> None:
    (prompt,) = rows("chain_sum", 1)
    right = prompt.columns["answer"]
    # A scorer gives 5 characters that hold an answer of n the share n / 5, and tells 2.0 from 2 no more than 2.
    texts = (right, f"{right}.00", f"<answer>{right}</answer> is my answer", "wrong", right + "x" * len(right), "")
    assert graded(prompt, *texts) == [1, 1, 1, 0, 0.5, 0]


def test_the_last_tagged_answer_counts() -> None:
    verifier = verifier_named("reasoning-gym")
    assert verifier.answer("<answer> 1 </answer> no: <answer>\n2\n</answer>.") == "2"
    assert verifier.answer(" 3 ") == "3" and verifier.answer(" ") is None


@pytest.mark.parametrize("name", sorted(set(reasoning.GUARDS) | set(reasoning._RUN_OF_ROWS)))
def test_guarded_data_sets_still_accept_their_own_answers(name: str) -> None:
    solved = {
        "countdown": lambda row: row["metadata"]["expression"],
        "simple_integration": lambda row: row["answer"],
        "n_queens": lambda row: row["metadata"]["valid_answers"][0],
    }
    for prompt in rows(name, 5):
        if name in ("rubiks_cube", "puzzle24"):
            assert 0 <= graded(prompt, "R U2 F' 3")[0] < 1  # a try, as no solution is given
        else:
            assert graded(prompt, solved.get(name, lambda row: row["answer"])(prompt.columns)) == [1]


ATTACKS = (
    "__import__('pathlib').Path({path!r}).touch()",
    "[__import__('pathlib').Path({path!r}).touch()]",
    "open({path!r}, 'w')",
    "exec(\"open({path!r}, 'w')\")",
    "S(\"open({path!r}, 'w')\")",
    "(lambda: open({path!r}, 'w'))()",
    "[0 for __builtins__['len'] in [open]]",
    "[open({path!r}, c) for c in 'w']",
    "factorial(open({path!r}, 'w'))",
    "open({path!r}, 'w')!",
    "ｏｐｅｎ({path!r}, 'w')",
    "().__class__.__base__",
    "x.__class__",
)


@pytest.mark.parametrize("name", sorted(reasoning.GUARDS))
def test_no_answer_is_run(name: str, tmp_path: Path) -> None:
    (prompt,) = rows(name, 1)
    file = tmp_path / "touched"
    attacks = [attack.format(path=str(file)) for attack in ATTACKS]
    assert max(graded(prompt, *attacks)) <= 0.05
    assert not file.exists()


def test_without_its_guard_a_scorer_would_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (prompt,) = rows("countdown", 1)
    monkeypatch.setattr(reasoning, "GUARDS", {})
    graded(prompt, ATTACKS[0].format(path=str(tmp_path / "touched")))
    assert (tmp_path / "touched").exists()


def test_answers_that_are_not_python_at_all_reach_the_scorers_that_would_run_python() -> None:
    assert reasoning.GUARDS["n_queens"]("_ Q _ _\n_ _ _ Q") and reasoning.GUARDS["n_queens"]("[['_', 'Q']]")
    assert reasoning.GUARDS["spiral_matrix"]("[1, -2, 3]") and not reasoning.GUARDS["spiral_matrix"]("[0] * 9")
    assert reasoning.GUARDS["simple_integration"]("3*x**2/2 + sin(2*x) + 4*x**(1/2) + x**-2 + C")
    assert not reasoning.GUARDS["simple_integration"]("x**999") and not reasoning.GUARDS["countdown"]("9**9")
    assert not reasoning.GUARDS["polynomial_multiplication"]("2**9**9**9")
    assert not reasoning.GUARDS["string_insertion"]("-" * 100_000 + "1")  # too deep to be looked at


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("bitwise_arithmetic", "problem", "open('x')"),
        ("number_sorting", "answer", "[open('x')]"),
        ("polynomial_multiplication", "answer", "open('x')"),
        ("simple_integration", "integrand", "x.y"),
        ("intermediate_integration", "integrand", 3),
    ],
)
def test_a_row_that_its_scorer_would_run_is_refused(name: str, key: str, value: Any) -> None:
    (prompt,) = rows(name, 1)
    changed = dict(prompt.columns)
    if key == "answer":
        changed["answer"] = value
    else:
        changed["metadata"] = prompt.columns["metadata"] | {key: value}
    said = f"^row 1, for the verifier reasoning-gym: its {key} is not of the form that {name} has, and reasoning-gym"
    with pytest.raises(InputError, match=said):
        graded(Prompt("p", changed), "1")


def test_every_scorer_that_evaluates_is_guarded() -> None:
    """Read from the source installed: which data sets' modules evaluate anything, and which of these are known."""
    from reasoning_gym.factory import DATASETS

    evaluates = re.compile(r"\b(?<!ast\.)(?:eval|exec|parse_expr|sympify|compile)\(")
    found = {
        name
        for name, (kind, _) in DATASETS.items()
        if evaluates.search(re.sub(r"\bre\.compile\(", "", inspect.getsource(sys.modules[kind.__module__])))
    }
    harmless = {
        "basic_arithmetic",  # evaluates the question it makes
        "bf",  # compiles programs of its own
        "codeio",  # runs its own programs to make questions
        "propositional_logic",  # has a parser of its own by that name
    }
    assert found - harmless == (set(reasoning.GUARDS) | set(reasoning._RUN_OF_ROWS)) - {"rubiks_cube"}


def test_a_scorer_that_takes_too_long_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    (prompt,) = rows("chain_sum", 1)
    monkeypatch.setattr(reasoning, "SECONDS", 0.1)
    monkeypatch.setattr(reasoning, "_scorer", lambda name: lambda answer, entry: time.sleep(30))
    start = time.perf_counter()
    assert graded(prompt, "1") == [0.0]
    assert time.perf_counter() - start < 5


def test_a_scorer_that_cannot_read_an_answer_gives_nothing() -> None:
    (prompt,) = rows("prime_factorization", 1)
    assert graded(prompt, "hello", "x × y") == [0, 0]


def test_other_threads_score_too() -> None:
    (prompt,) = rows("chain_sum", 1)
    found: list[list[float]] = []
    thread = threading.Thread(target=lambda: found.append(graded(prompt, prompt.columns["answer"], "wrong")))
    thread.start()
    thread.join()
    assert found == [[1, 0]]


@pytest.mark.parametrize("metadata", [{}, {"source_dataset": "nothing"}, {"source_dataset": "composite"}, "text", [1]])
def test_rows_of_another_kind_are_refused(metadata: Any) -> None:
    with pytest.raises(InputError, match="^row 1, for the verifier reasoning-gym: its metadata name no data set"):
        graded(Prompt("p", {"answer": "1", "metadata": metadata}), "1")
    with pytest.raises(InputError, match="row 1 has no column 'metadata', which the verifier reasoning-gym reads"):
        graded(Prompt("p", {"answer": "1"}), "1")
