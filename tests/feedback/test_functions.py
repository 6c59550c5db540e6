"""Python functions as rewards and judges: called by name with lists, and told apart from what they must not return."""

from __future__ import annotations

import os
from decimal import Decimal
from itertools import count
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accord.errors import InputError
from accord.feedback.combine import weighted
from accord.feedback.functions import FunctionReward
from accord.feedback.named import as_reward
from accord.feedback.reward import at_step, extra, logged
from tests.feedback.samples import CHAT, sample

SAMPLES = [sample("six", 0, answer=6, id="a"), sample("seven", 4, tokens=(7, 2), answer=7)]


def recorded(calls: list[dict[str, Any]]) -> Any:
    def reward(**arguments: Any) -> list[float]:
        calls.append(arguments)
        return [0.0] * len(arguments["prompts"])

    return reward


def test_a_function_of_everything_gets_lists_aligned_with_the_samples() -> None:
    calls: list[dict[str, Any]] = []
    FunctionReward(recorded(calls))(SAMPLES)
    [given] = calls
    assert {given.pop(name) is not None for name in ("trainer_state", "log_metric", "log_extra")} == {True}
    assert given == {
        "prompts": ["how much ?", "how much ?"],
        "completions": ["six", "seven"],
        "completion_ids": [[3], [7, 2]],
        "answer": [6, 7],
        "id": ["a", None],  # the second row has none
    }


def test_a_chat_s_completion_is_a_list_of_one_message() -> None:
    calls: list[dict[str, Any]] = []
    FunctionReward(recorded(calls))([sample("six", prompt=CHAT)])
    assert calls[0]["prompts"] == [[{"role": "user", "content": "how much ?"}]]
    assert calls[0]["completions"] == [[{"role": "assistant", "content": "six"}]]


def test_columns_that_would_collide_with_arguments_are_left_out() -> None:
    calls: list[dict[str, Any]] = []
    clashing = {"completion": 1, "completions": [1], "prompts": 2, "completion_ids": 3, "id": 4}
    FunctionReward(recorded(calls))([sample("six", **clashing)])
    others = {"trainer_state", "log_metric", "log_extra"}
    assert set(calls[0]) - others == {"prompts", "completions", "completion_ids", "id"}
    assert calls[0]["completions"] == ["six"]


def test_a_function_gets_only_what_it_names() -> None:
    def right(completions: list[str], answer: list[int], weight: float = 2.0) -> list[float]:
        return [weight * (text == {6: "six", 7: "7"}[a]) for text, a in zip(completions, answer, strict=True)]

    rewards = FunctionReward(right)(SAMPLES)
    assert rewards.dtype == torch.float32 and rewards.tolist() == [2.0, 0.0]


def test_a_function_learns_the_step_and_logs_numbers_and_columns() -> None:
    def lengths(completions: list[str], trainer_state: Any, log_metric: Any, log_extra: Any) -> list[float]:
        log_metric("longest", max(map(len, completions)))
        log_extra("shouted", [text.upper() for text in completions])
        return [float(trainer_state.global_step)] * len(completions)

    reward = FunctionReward(lengths)
    both = weighted({"lengths": (2.0, reward), "none": (1.0, FunctionReward(lambda prompts: [None] * len(prompts)))})
    at_step(both, 7)
    assert both(SAMPLES).tolist() == [14.0, 14.0]
    assert logged(both) == {"longest": 5.0} and extra(both) == {"shouted": ["SIX", "SEVEN"]}


def test_a_column_of_another_length_is_refused() -> None:
    def reward(prompts: list[str], log_extra: Any) -> list[float]:
        log_extra("said", ["one"])
        return [0.0] * len(prompts)

    with pytest.raises(InputError, match="logged 1 values as 'said' for 2 completions"):
        FunctionReward(reward)(SAMPLES)


def test_none_abstains_and_leaves_the_word_to_the_other_rewards() -> None:
    silent, one = FunctionReward(lambda prompts: [None, 3.0]), FunctionReward(lambda prompts: [1.0, 1.0])
    assert [isnan(score) for score in silent(SAMPLES).tolist()] == [True, False]
    assert weighted({"silent": (2.0, silent), "one": (0.5, one)})(SAMPLES).tolist() == [0.5, 6.5]
    of_none = weighted({"a": (1.0, silent), "b": (1.0, silent)})(SAMPLES).tolist()
    assert isnan(of_none[0]) and of_none[1] == 6.0


def test_the_peer_s_own_reward_functions_can_be_called() -> None:
    rewards = pytest.importorskip("trl.rewards")
    think = [sample("<think>\nhm\n</think>\nsix", prompt=CHAT), sample("six", prompt=CHAT)]
    assert FunctionReward(rewards.think_format_reward)(think).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    "result",
    [
        [np.float32(0.5), np.bool_(True)],
        [torch.tensor(0.5), torch.tensor(True)],
        (0.5, True),
        np.array([0.5, 1.0]),
        torch.tensor([0.5, 1.0], dtype=torch.bfloat16),
        (x for x in (0.5, np.int64(1))),
    ],
    ids=["numpy", "tensors", "tuple", "array", "tensor", "generator"],
)
def test_every_kind_of_number_is_one(result: Any) -> None:
    assert FunctionReward(lambda **_: result)(SAMPLES).tolist() == [0.5, 1.0]


@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=2, max_size=2))
def test_finite_numbers_arrive_as_they_are(values: list[float]) -> None:
    assert FunctionReward(lambda **_: values)(SAMPLES).tolist() == values


ROW_5 = r"for row 5 \(prompt 'how much \?', completion 'seven'\); let it return a finite number"
HUGE = 10**400


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0], r"returned 1 values for 2 completions of rows 1, 5; let it return one for each"),
        ([1.0, 2.0, 3.0], r"returned 3 values for 2 completions of rows 1, 5"),
        (None, r"returned None; let it return a list of one value for each completion"),
        (1.0, r"returned 1.0; let it return a list"),
        ({0: 1.0, 1: 0.5}, r"returned {0: 1.0, 1: 0.5}; let it return a list"),  # whose keys are no rewards
        ({1.0, 0.5}, r"returned {.+}; let it return a list"),
        ("12", r"returned '12'; let it return a list"),
        (count(1.0), r"returned 3 values for 2 completions of rows 1, 5"),
        ([1.0, 10**5000], rf"returned a value of type int {ROW_5}"),
        (torch.ones(2, device="meta"), r"returned tensor\(.+ for row 1 "),
        ([1.0, float("nan")], f"returned nan {ROW_5}"),
        ([1.0, float("inf")], f"returned inf {ROW_5}"),
        ([1.0, np.float64("nan")], rf"returned np.float64\(nan\) {ROW_5}"),
        ([1.0, 1e39], rf"returned 1e\+39 {ROW_5}"),  # finite, but not in single precision
        ([1.0, HUGE], rf"returned 10+\.\.\. {ROW_5}"),
        ([1.0, "7"], f"returned '7' {ROW_5}"),
        ([1.0, Decimal(1)], rf"returned Decimal\('1'\) {ROW_5}"),
        ([1.0, [1.0]], rf"returned \[1.0\] {ROW_5}"),
        ([1.0, np.array([1.0])], rf"returned array\(\[1.\]\) {ROW_5}"),
    ],
)
def test_what_is_no_list_of_finite_numbers_names_function_and_row(result: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^the reward function rewards:brief {message}"):
        FunctionReward(lambda **_: result, "rewards:brief")(SAMPLES)


def test_a_sample_of_no_row_is_named_by_its_place() -> None:
    with pytest.raises(InputError, match=r"returned nan for sample 2 of the batch \(prompt"):
        FunctionReward(lambda **_: [0, float("nan")])([sample("a", -1), sample("b", -1)])


def test_long_texts_are_cut_in_messages() -> None:
    with pytest.raises(InputError) as told:
        FunctionReward(lambda **_: ["none"])([sample("word " * 100)])
    assert f"completion '{'word ' * 11}wo...')" in str(told.value)  # 60 characters


def by_answer(completions: list[str], answer: list[int]) -> list[float]:
    return [0.0] * len(completions)


def test_a_missing_column_names_function_row_and_column() -> None:
    reward = FunctionReward(by_answer)
    said = "row 4 has no column 'answer', which the reward function by_answer reads; the columns there are: id, gold"
    with pytest.raises(InputError, match=f"^{said}$"):
        reward([sample("a", answer=1), sample("a", 3, id=1, gold=2)])
    with pytest.raises(InputError, match=f"^{said}$"):
        reward.check(sample("a", id=1, gold=2).prompt, 3)
    reward.check(sample("a", answer=None).prompt, 3)  # the function may know what to do with a null
    with pytest.raises(InputError, match="the row has no column 'answer'.*: none besides the prompt$"):
        reward([sample("a", -1)])


def test_a_function_of_one_prompt_and_one_text_is_told_what_is_missing() -> None:
    with pytest.raises(InputError, match="row 1 has no column 'prompt', which the reward function .* reads"):
        FunctionReward(lambda prompt, text: 1.0)([sample("a", answer="t")])


def test_arguments_without_names_are_refused() -> None:
    def positional(completions: list[str], /) -> list[float]:
        return [0.0] * len(completions)

    with pytest.raises(InputError, match="the reward function positional has positional-only arguments"):
        FunctionReward(positional)


def test_a_coroutine_is_awaited() -> None:
    async def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    assert FunctionReward(reward)(SAMPLES).tolist() == [3.0, 5.0]


def test_an_object_is_called_like_a_function() -> None:
    class Longest:
        def __call__(self, completions: list[str], **_: Any) -> list[int]:
            return [len(text) for text in completions]

    assert FunctionReward(Longest())(SAMPLES).tolist() == [3.0, 5.0]
    assert FunctionReward(Longest()).name == "Longest"


def test_a_function_of_one_completion_is_called_for_each_with_its_row() -> None:
    calls: list[tuple[Any, ...]] = []

    def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> Any:
        calls.append((data_source, solution_str, ground_truth, extra_info))
        return {"score": float(solution_str == ground_truth), "acc": 0}

    async def rubric(completion: Any, answer: str, **more: Any) -> bool:
        return bool(completion[0]["content"] == answer and more["prompt"][0]["content"] == "how much ?")

    told = {"ground_truth": "six", "style": "rule"}
    rows = [
        sample("six", prompt=CHAT, data_source="sums", reward_model=told, extra_info={"index": 1}, answer="six"),
        sample("two", 1, prompt=CHAT, data_source="sums", reward_model=told, answer="six"),
    ]
    assert as_reward(compute_score)(rows).tolist() == as_reward(rubric)(rows).tolist() == [1.0, 0.0]
    assert calls == [("sums", "six", "six", {"index": 1}), ("sums", "two", "six", None)]
    with pytest.raises(InputError, match="row 2 has no column 'data_source', which the reward function compute_score"):
        as_reward(compute_score)([sample("six", 1, prompt=CHAT, ground_truth="six")])
    with pytest.raises(InputError, match="row 2 has no column 'ground_truth', which the reward function compute_score"):
        as_reward(compute_score)([sample("six", 1, prompt=CHAT, data_source="sums")])

    def unasked(solution_str: str, ground_truth: Any = None, **more: Any) -> float:
        return float(ground_truth is None)

    assert as_reward(unasked)([sample("six", 1, prompt=CHAT), *rows[:1]]).tolist() == [1.0, 0.0]

    def marks(completion: Any) -> dict[str, float]:
        return {"reward": 1.0}

    with pytest.raises(InputError, match=r"the reward function marks returned an object without a score \(reward\)"):
        as_reward(marks)(rows)


def test_no_samples_give_an_empty_tensor_without_a_call() -> None:
    assert FunctionReward(lambda **_: 1 / 0)([]).shape == (0,)


def test_what_a_function_prints_is_no_output(capsys: pytest.CaptureFixture[str]) -> None:
    async def awaited(completions: list[str]) -> list[float]:
        print("from afar")
        return [1.0] * len(completions)

    def printing(completions: list[str]) -> list[float]:
        print("scored", len(completions))
        return [1.0] * len(completions)

    assert FunctionReward(printing)(SAMPLES).tolist() == FunctionReward(awaited)(SAMPLES).tolist() == [1, 1]
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == "scored 2\nfrom afar\n"


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_process_that_a_function_forks_does_not_go_on(comes_back: bool) -> None:
    """It would write the same files."""
    main, children = os.getpid(), list[int]()

    def forking(completions: list[str]) -> list[float]:
        children.append(os.fork())
        if not children[-1] and not comes_back:
            raise ValueError("in the child")
        return [1.0] * len(completions)

    try:
        assert FunctionReward(forking)(SAMPLES).tolist() == [1, 1]
    finally:
        if os.getpid() != main:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 1


def test_what_a_function_changes_around_it_is_as_before(tmp_path: Path) -> None:
    def roaming(completions: list[str]) -> list[float]:
        os.chdir(tmp_path)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        return [1.0] * len(completions)

    def around() -> tuple[object, ...]:
        return os.getcwd(), torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()

    before = around()
    assert FunctionReward(roaming)(SAMPLES).dtype == torch.float32 and around() == before


def test_the_functions_of_the_page_read_texts_and_chats() -> None:
    page = (Path(__file__).parents[2] / "docs/rewards.md").read_text(encoding="utf-8")
    functions: dict[str, Any] = {}
    exec(page.split("```python\n# rewards.py\n")[1].split("```")[0], functions)
    chat = [[{"role": "assistant", "content": "it is 18"}]]
    for completions in (["it is 18"], chat):
        assert functions["brief"](completions, kind=["sums"]) == [-0.03]
        assert functions["right"](completions, [18]) == [1.0] and functions["right"](completions, [7]) == [0.0]
