"""The final number of a text, in one form for equal numbers."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.feedback.mathematics import boxed, final_number

CASES = {
    "18": "18",
    "18.00": "18",
    "018": "18",
    "-18": "-18",
    "−18": "-18",  # the minus sign of typography
    "$18": "18",
    "-$18": "-18",
    "$-18": "-18",
    "18%": "18",
    "18 dollars": "18",
    "It costs $1,234,567.50.": "1234567.5",
    r"\$1{,}234": "1234",
    r"1\,234": "1234",
    "70,000": "70000",
    "1,2345": "2345",  # no separator of thousands
    "The answer is 18.": "18",
    "**18**": "18",
    ".5": "0.5",
    "0.50": "0.5",
    "-0.0": "0",
    "1e3": "1000",
    "2.5e-3": "0.0025",
    "1/8": "0.125",
    "2/6": "1/3",
    "-1/3": "-1/3",
    "1/0": None,
    r"\frac{1}{2}": "0.5",
    r"-\dfrac{2}{3}": "-2/3",
    "3 * 4 = 12": "12",
    "5-3": "3",  # a difference, not a negative number
    "x=-3": "-3",
    "pages (3)-4": "4",
    "first 7, then 9": "9",
    "none": None,
    "": None,
    # GSM8K
    "He bakes 3*4=<<3*4=12>>12 and 6 more.\n#### 18": "18",
    "#### 1,000": "1000",
    "#### -5": "-5",
    "#### $18.00": "18",
    "#### 18\nQ: what are 2 and 2?": "18",
    "#### 18\nNo:\n#### 20": "20",
    "#### 2 steps remain\nso 7": "7",  # a heading
    # MATH
    r"\boxed{18} in 3 steps": "18",
    r"#### 17" + "\n" + r"\boxed{18}": "18",
    r"\boxed{7} no, \boxed{\text{it is } 8}": "8",
    r"\boxed{\frac{3}{4}}": "0.75",
    r"\boxed{x} = 3": None,  # what was boxed is no number
    r"so 5, \boxed{18": "18",  # cut off
}


@pytest.mark.parametrize("text", CASES)
def test_the_final_number(text: str) -> None:
    assert final_number(text) == CASES[text]


@given(st.fractions(max_denominator=200), st.sampled_from(["so {}", r"\boxed{{{}}}", "{} it is.", "x\n#### {}"]))
def test_any_fraction_is_read_back_exactly(value: Fraction, template: str) -> None:
    found = final_number(template.format(f"{value.numerator}/{value.denominator}"))
    assert found is not None and Fraction(found) == value
    assert final_number(found) == found


@given(st.integers(), st.integers(0, 4))
def test_thousands_and_decimals_make_no_difference(value: int, places: int) -> None:
    assert final_number(f"${value:,}.{'0' * places}") == str(value)


def test_what_stands_in_the_last_box_that_closes() -> None:
    assert boxed(r"\boxed{1} \boxed{\frac{1}{2}} \boxed{3") == r"\frac{1}{2}"
    assert boxed(r"\boxed{a \boxed{b} c}") == r"a \boxed{b} c"
    assert boxed(r"{ } } \boxed{}") == ""
    assert boxed("{18}") is None


@pytest.mark.parametrize("text", ["9" * 500, "1/" + "9" * 500])
def test_numbers_of_hundreds_of_digits_are_none(text: str) -> None:
    assert final_number(text) is None


@pytest.mark.parametrize("text", ["1,", "1,234", "9", "-", "#### 1", "####", r"\boxed{", "1e", "{", "1/", ".1"])
def test_what_a_model_repeats_without_end_takes_no_time(text: str) -> None:
    start = time.perf_counter()
    final_number(text * 10_000)
    assert time.perf_counter() - start < 1
