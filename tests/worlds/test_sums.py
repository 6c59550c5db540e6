"""Sums: scratchpads, hints, which problems are held out, tokenizer and model, and the files they are written to."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from accord.data import load_data
from accord.data.chat import encode_completion, encode_prompt
from accord.errors import InputError
from accord.feedback.named import reward_named
from accord.feedback.verifiers import verifier_named
from accord.records import Demonstration, Message, Prompt
from accord.worlds import sums
from accord.worlds.sums import CONTEXT, HINT, Sum, hinted, is_held_out, sound
from tests.feedback.samples import sample

NUMBERS = st.integers(0, 10**6)


@pytest.mark.parametrize(
    ("problem", "scratchpad"),
    [
        (Sum(27, 58), "7+8+0=15, 2+5+1=08 #### 85"),  # a carry out of the ones
        (Sum(93, 12), "3+2+0=05, 9+1+0=10 #### 105"),  # a carry out of the last column
        (Sum(999, 1), "9+1+0=10, 9+0+1=10, 9+0+1=10 #### 1000"),  # the shorter number is filled up with zeros
        (Sum(0, 0), "0+0+0=00 #### 0"),
    ],
)
def test_scratchpads_by_hand(problem: Sum, scratchpad: str) -> None:
    assert problem.scratchpad == scratchpad


@given(NUMBERS, NUMBERS)
def test_every_column_and_the_answer_are_true(first: int, second: int) -> None:
    problem = Sum(first, second)
    columns, answer = problem.scratchpad.split(" #### ")
    steps = [tuple(map(int, re.split(r"[+=]", column))) for column in columns.split(", ")]
    assert all(a + b + carry == total for a, b, carry, total in steps)
    assert [carry for _, _, carry, _ in steps] == [0, *(total // 10 for *_, total in steps[:-1])]
    assert sum(a * 10**i for i, (a, *_) in enumerate(steps)) == first
    assert sum(b * 10**i for i, (_, b, *_) in enumerate(steps)) == second
    assert len(steps) == problem.digits
    assert int(answer) == int(problem.answer) == first + second


@given(NUMBERS, NUMBERS)
def test_the_number_verifier_finds_the_answer(first: int, second: int) -> None:
    answer = verifier_named("number").answer
    problem = Sum(first, second)
    assert answer(problem.scratchpad) == answer(problem.answer)
    assert answer(problem.scratchpad) != answer(str(first + second + 1))


def test_a_hint_is_the_answer_in_front() -> None:
    assert hinted("27+58=", "85") == HINT.format(prompt="27+58=", answer="85") == "(85)27+58="


def test_a_right_answer_after_a_wrong_column_is_not_sound() -> None:
    assert sound("27+58=", "7+8+0=15, 2+5+1=08 #### 85")
    assert sound("(85)27+58=", "7+8+0=15, 2+5+1=08 #### 85")
    assert not sound("27+58=", "7+8+0=15, 2+5+0=08 #### 85")  # the carry was lost
    assert not sound("27+58=", "7+8+0=15, 2+5+1=08 #### 86")
    assert not sound("27+58=", "85")
    with pytest.raises(ValueError, match="'27-58=' is no sum"):
        sound("27-58=", "7+8+0=15, 2+5+1=08 #### 85")


def test_the_gold_reward_is_soundness() -> None:
    asked, said = (Message("user", "(85)27+58="),), (Message("assistant", "7+8+0=15, 2+5+1=08 #### 85"),)
    assert sums.gold(asked, said) == sums.gold("27+58=", said[0].content) == 1.0
    assert sums.gold("27+58=", "85") == sums.gold("27+58=", "") == 0.0
    with pytest.raises(InputError, match="'' is no sum: the world sums knows what is true of prompts such as 27"):
        sums.gold((), said)


def test_sums_is_a_reward_by_its_name() -> None:
    given = ["7+8+0=15, 2+5+1=08 #### 85", "7+8+0=15, 2+5+0=08 #### 85", "85", "84"]
    samples = [sample(text, prompt="27+58=", answer="85") for text in given]
    assert reward_named("sums")(samples).tolist() == [1, 0, 0, 0]
    assert reward_named("number")(samples).tolist() == [1, 1, 1, 0]


def test_demonstrations_are_mostly_short_and_half_of_them_hinted() -> None:
    rows = sums.demonstrations(0, 4000)
    lengths = Counter(row["digits"] for row in rows)
    # Shares .25, .55, .15, .05 of 4000: 1000, 2200, 600, 200, each within 4 standard deviations.
    for digits, share in ((1, 0.25), (2, 0.55), (3, 0.15), (4, 0.05)):
        assert abs(lengths[digits] - 4000 * share) < 4 * (4000 * share * (1 - share)) ** 0.5
        hints = sum(row["prompt"].startswith("(") for row in rows if row["digits"] == digits)
        assert abs(hints - lengths[digits] / 2) < 4 * (lengths[digits] / 4) ** 0.5
    assert all(sound(row["prompt"], row["completion"]) for row in rows)
    assert all(row["completion"].endswith(f" #### {row['answer']}") for row in rows)


def test_problems_are_different_and_held_out_ones_are_in_no_other_rows() -> None:
    practiced = [str(row.prompt) for row in sums.problems(0, 2000)]
    shown = [row["prompt"].rpartition(")")[2] for row in sums.demonstrations(0, 2000)]
    asked = [str(row.prompt) for digits in (2, 3, 4) for row in sums.heldout(0, digits, 300)]
    assert len(set(practiced)) == len(practiced) == 2000
    assert len(set(asked)) == len(asked) == 900
    assert not set(asked) & {*practiced, *shown}
    turned = {"{1}+{0}=".format(*prompt[:-1].split("+")) for prompt in asked}
    assert not turned & {*practiced, *shown}
    assert Counter(map(digits_of, practiced)) == {1: 60, 2: 640, 3: 700, 4: 600}
    assert Counter(map(digits_of, asked)) == {2: 300, 3: 300, 4: 300}


def digits_of(prompt: str) -> int:
    """The digits of both numbers, which have as many."""
    (digits,) = {len(number) for number in prompt[:-1].split("+")}
    return digits


@given(NUMBERS, NUMBERS)
def test_a_sum_turned_around_is_on_the_same_side(first: int, second: int) -> None:
    assert is_held_out(Sum(first, second)) == is_held_out(Sum(second, first))


def test_one_sum_in_five_is_held_out() -> None:
    # 4095 sums of two digits but for their order; 1/5 of them is 819, with a standard deviation of 25.6.
    kept = sum(is_held_out(Sum(a, b)) for a in range(10, 100) for b in range(a, 100))
    assert abs(kept - 819) < 4 * 25.6


def test_the_seed_decides_every_row() -> None:
    for draw in (sums.demonstrations, sums.problems, lambda seed, n: sums.heldout(seed, 3, n)):
        assert draw(0, 50) == draw(0, 50) != draw(1, 50)


def test_more_sums_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="different sums of 1 digits to draw, not 101"):
        sums.heldout(0, 1, 101)


def test_the_tokenizer_gives_back_what_it_was_given() -> None:
    tokenizer = sums.tokenizer()
    for row in sums.demonstrations(0, 300):
        for text in (row["prompt"], row["completion"]):
            tokens = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in tokens
            assert tokenizer.decode(tokens) == text
    assert tokenizer.tokenize("(15)7+8=") == ["(", "1", "5", ")", "7", "+", "8", "="]
    assert tokenizer.tokenize("7+8+0=15 #### 15")[-4:] == ["5", " #### ", "1", "5"]
    assert tokenizer.decode(tokenizer("7 x\n8")["input_ids"]) == "7<unk><unk><unk>8"


def test_plain_prompts_get_no_tokens_in_front_and_completions_end() -> None:
    tokenizer, longest = sums.tokenizer(), Sum(9999, 9999)
    assert len(encode_prompt(tokenizer, "27+58=")) == 6
    branch = encode_completion(tokenizer, longest.prompt, longest.scratchpad)
    assert branch.tokens[-1] == tokenizer.eos_token_id
    # 4 columns of 8 tokens, 3 commas, the mark, 5 digits and the end; the hint has 7 tokens and the problem 10.
    assert len(branch.tokens) == 42
    assert len(encode_prompt(tokenizer, hinted(longest.prompt, longest.answer))) == 17
    assert CONTEXT >= 17 + 42


def test_the_model_is_small_and_its_seed_decides_its_weights() -> None:
    state = torch.random.get_rng_state()
    model, again, other = sums.new_model(0), sums.new_model(0), sums.new_model(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    # Embeddings 19 x 128; 2 layers of 4 x 128 x 128 + 3 x 128 x 320 + 2 x 128; a last norm of 128.
    assert sum(weight.numel() for weight in model.parameters()) == 19 * 128 + 2 * 188_672 + 128
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(model.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(model.state_dict()[name], other.state_dict()[name])


def test_the_world_as_files(tmp_path: Path) -> None:
    sums.write(tmp_path, seed=2)
    shown = load_data(tmp_path / "demonstrations.jsonl")
    drawn = sums.demonstrations(2, 2000)
    assert shown == [Demonstration(row["prompt"], row["completion"]) for row in drawn]
    assert load_data(tmp_path / "train.jsonl") == sums.problems(2, 2000)
    for digits in (2, 3, 4):
        assert load_data(tmp_path / f"heldout-{digits}.jsonl") == sums.heldout(2, digits, 300)
    first = json.loads((tmp_path / "demonstrations.jsonl").read_text().splitlines()[0])
    assert list(first) == ["prompt", "completion", "answer", "digits"]
    problem = sums.problems(2, 2000)[0]
    a, b = map(int, str(problem.prompt)[:-1].split("+"))
    assert problem == Prompt(f"{a}+{b}=", {"answer": str(a + b), "digits": len(str(a))})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "init")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "init")
    assert tokenizer.decode(tokenizer("7+8+0=15 #### 15")["input_ids"]) == "7+8+0=15 #### 15"
    assert (model.config.pad_token_id, model.config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    assert torch.equal(model.lm_head.weight, sums.new_model(2).lm_head.weight)
