"""Functions that judge, and functions that take too long."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from accord.errors import InputError, UsersFault
from accord.feedback.functions import FunctionJudge, FunctionReward
from accord.feedback.reward import allow
from accord.records import Comparison, Message
from tests.feedback.samples import CHAT, sample

SAMPLES = [sample("six", 0, answer=6, id="a"), sample("seven", 4, tokens=(7, 2), answer=7)]


def shorter(prompts: list[str], firsts: list[str], seconds: list[str]) -> list[float | None]:
    """.25 for each word that the second is longer by, from .5; None for an empty first."""
    pairs = zip(firsts, seconds, strict=True)
    return [None if not a else 0.5 + 0.25 * (len(b.split()) - len(a.split())) for a, b in pairs]


def test_a_judge_s_probabilities_are_verdicts_and_none_is_invalid() -> None:
    comparisons = [Comparison("p", "a", "a b"), Comparison("p", "a b", "a"), Comparison("p", "", "a")]
    verdicts = FunctionJudge(shorter)(comparisons)
    assert [v.first_wins for v in verdicts] == [0.75, 0.25, None]
    assert verdicts[2].reason == "the judge shorter gave no answer"
    first, second = [sample("a"), sample("a b"), sample("")], [sample("a b"), sample("a"), sample("a")]
    assert FunctionJudge(shorter).samples(first, second) == verdicts
    assert FunctionJudge(shorter)([]) == []


def test_a_judge_of_chats_gets_messages_and_of_samples_columns() -> None:
    seen: list[dict[str, Any]] = []

    def judge(**arguments: Any) -> list[float]:
        seen.append(arguments)
        return [1.0]

    said = [[{"role": "assistant", "content": text}] for text in ("a", "b")]
    asked = [{"role": "user", "content": "how much ?"}]
    expected = {"prompts": [asked], "firsts": [said[0]], "seconds": [said[1]]}
    FunctionJudge(judge)([Comparison(CHAT, (Message("assistant", "a"),), (Message("assistant", "b"),))])
    FunctionJudge(judge).samples([sample("a", prompt=CHAT, answer=1)], [sample("b", prompt=CHAT, answer=1)])
    assert seen == [expected, expected | {"answer": [1]}]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.5], r"returned 1.5 for row 3 \(prompt 'how much \?', completion 'a'\); let it return the probability that"),
        ([-0.1], r"returned -0.1 for row 3"),
        ([float("nan")], r"returned nan for row 3"),
        ([], r"returned 0 values for 1 completions of row 3"),
        ([1.0, None], r"returned 2 values for 1 completions of row 3"),
    ],
)
def test_what_is_no_probability_names_judge_and_row(result: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^the judge judges:j {message}"):
        FunctionJudge(lambda **_: result, "judges:j").samples([sample("a", 2)], [sample("b", 2)])


def sleeping(completions: list[str]) -> list[float]:
    time.sleep(20)
    return [0.0] * len(completions)


async def awaiting(completions: list[str]) -> list[float]:
    await asyncio.sleep(20)
    return [0.0] * len(completions)


async def blocking(completions: list[str]) -> list[float]:
    return sleeping(completions)


def persistent(completions: list[str]) -> list[float]:
    try:
        time.sleep(20)
    except TimeoutError:
        return sleeping(completions)
    return []


@pytest.mark.parametrize("function", [sleeping, awaiting, blocking, persistent])
def test_a_function_that_hangs_is_named_with_its_row(function: Any) -> None:
    reward, begun = FunctionReward(function), time.monotonic()
    allow([reward], 0.2)
    said = f"the reward function {function.__name__}, for row 1 \\(.*completion 'six'\\) and others, takes more than"
    with pytest.raises(UsersFault, match=said + " 0.2 seconds; make it faster, or give it longer by --reward-timeout"):
        reward(SAMPLES)
    assert time.monotonic() - begun < 4


def test_a_judge_that_hangs_and_one_that_says_so_itself() -> None:
    judge = FunctionJudge(lambda firsts, seconds: sleeping(firsts))
    allow([judge], 0.2)
    with pytest.raises(UsersFault, match="the judge <lambda>, for .* takes more than 0.2 seconds"):
        judge([Comparison("q", "a", "b")])

    def own(completions: list[str]) -> list[float]:
        raise TimeoutError("the database is away")

    with pytest.raises(UsersFault, match=r"raised TimeoutError \(the database is away\); fix it"):
        FunctionReward(own)(SAMPLES)
    assert FunctionReward(own).timeout == 600


def test_on_another_thread_coroutines_alone_have_a_limit() -> None:
    faults: list[BaseException] = []

    def call() -> None:
        reward = FunctionReward(awaiting)
        allow([reward], 0.2)
        try:
            reward(SAMPLES)
        except UsersFault as fault:
            faults.append(fault)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(10)
    assert "takes more than 0.2 seconds" in str(faults[0])
