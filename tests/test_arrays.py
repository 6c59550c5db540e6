"""Numbers side by side in memory: all that is read of them is what a tuple of the same numbers says."""

from __future__ import annotations

import copy
import math
import operator
import pickle
import struct
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accord.arrays import Bools, Doubles, Ints, Numbers
from accord.data.encoding import encode
from accord.data.tokens import AT_ONCE, tokenize
from accord.engine.trees import Branch, Tree, Trees
from accord.methods.rollouts import Rollout
from accord.records import Completion, EncodedPrompt, Preference, Prompt, Sample
from tests.data.conftest import word_tokenizer

WHOLE = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=12).map(tuple)
REAL = st.lists(st.floats(allow_nan=False), max_size=12).map(tuple)
FLAGS = st.lists(st.booleans(), max_size=12).map(tuple)
EITHER = st.one_of(
    st.tuples(st.just(Ints), WHOLE, WHOLE),
    st.tuples(st.just(Doubles), REAL, REAL),
    st.tuples(st.just(Bools), FLAGS, FLAGS),
)


@given(EITHER, st.slices(12), st.integers(-12, 11))
def test_it_reads_as_a_tuple(case: tuple[type[Numbers], tuple, tuple], some: slice, at: int) -> None:
    kind, numbers, others = case
    held = kind(numbers)
    assert held == numbers and numbers == held and tuple(held) == numbers and hash(held) == hash(numbers)
    assert (len(held), bool(held), tuple(reversed(held))) == (len(numbers), bool(numbers), numbers[::-1])
    assert (held == others) == (numbers == others) == (held == kind(others) or numbers == others)
    for added in (held + others, numbers + kind(others), held + kind(others)):
        assert type(added) is kind and added == numbers + others
    assert type(held[some]) is kind and held[some] == numbers[some]
    assert {type(x) for x in held} == {type(x) for x in numbers}
    if -len(numbers) <= at < len(numbers):
        assert held[at] == numbers[at]
    else:
        with pytest.raises(IndexError):
            held[at]


@given(EITHER)
def test_it_holds_bits_and_travels_as_them(case: tuple[type[Numbers], tuple, tuple]) -> None:
    kind, numbers, _ = case
    held = kind(numbers)
    assert kind.of(held.raw).raw == kind(held).raw == held.raw == struct.pack(f"{len(numbers)}{kind.kind}", *numbers)
    for copied in (pickle.loads(pickle.dumps(held)), copy.deepcopy(held)):
        assert type(copied) is kind and copied.raw == held.raw


def test_numbers_of_another_kind_are_refused() -> None:
    with pytest.raises(struct.error):
        Ints((2**31,))
    with pytest.raises(struct.error):
        Ints((0.5,))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        operator.add(Ints((1,)), [2])
    assert Ints((1, 0)) != Bools((True, False)) and Ints((1,)) != [1]


def test_what_is_not_a_number_is_equal_to_itself() -> None:
    held = Doubles((math.nan, -0.5))
    assert held == Doubles((math.nan, -0.5)) and Branch(Ints((1, 2)), None, held) == Branch((1, 2), None, held)


def test_a_thousand_tokens_take_four_thousand_bytes_and_little_else() -> None:
    held = Ints(range(1000))
    assert sys.getsizeof(held) + sys.getsizeof(held.raw) < 4 * 1000 + 100
    assert len(pickle.dumps(held)) < 4 * 1000 + 100


def test_the_branch_of_a_sample_shares_its_memory() -> None:
    completion = Completion(Ints((7, 8)), Doubles((-0.5, -0.25)), "end")
    prompt = EncodedPrompt(Prompt("hi"), Ints((5, 6)), 0)
    [tree] = Rollout.of([prompt], [Sample(prompt.prompt, "good day", prompt.tokens, completion, 0)], [1.0]).trees
    assert tree == Tree((5, 6), (Branch((7, 8), None, (-0.5, -0.25), 1.0),), row=0)
    assert tree.prompt is prompt.tokens and tree.branches[0].tokens.raw is completion.tokens.raw
    assert tree.branches[0].logprobs.raw is completion.logprobs.raw


def test_rows_are_held_side_by_side() -> None:
    tokenizer = word_tokenizer("<s>", "</s>")
    [tree] = encode(tokenizer, [Preference("hi", "good day", "bad")], max_length=10, context=None).trees
    assert [type(x) for x in (tree.prompt, *(branch.tokens for branch in tree.branches))] == [Ints] * 3


def test_a_batch_is_the_same_of_either() -> None:
    def tree(ints: type, flags: type, doubles: type) -> Tree:
        asked, first, second = (ints(x) for x in ((5, 6), (7, 8, 9), (10, 11)))
        branches = Branch(first, flags((True, False, True)), doubles((-1.5, -2.5, -0.1))), Branch(second)
        return Tree(asked, branches, ranks=(1, 0), row=3)

    plain, held = (Trees.of([tree(*kinds)]) for kinds in ((tuple, tuple, tuple), (Ints, Bools, Doubles)))
    assert plain.trees == held.trees
    for name in ("tokens", "positions", "source", "target", "owner", "learning", "group", "last", "ranks"):
        assert torch.equal(getattr(plain, name), getattr(held, name)), name
    for name in ("rewards", "logprobs"):
        assert getattr(plain, name).numpy().tobytes() == getattr(held, name).numpy().tobytes(), name


def test_a_branch_has_as_many_flags_and_log_probabilities_as_tokens() -> None:
    with pytest.raises(ValueError, match="2 tokens but 1 flags"):
        Branch((1, 2), (True,))
    with pytest.raises(ValueError, match="2 tokens but 3 log-probabilities"):
        Branch((1, 2), None, (-1.0, -1.0, -1.0))


def test_texts_are_tokenized_some_at_a_time_as_all_at_once() -> None:
    tokenizer = word_tokenizer("<s>", "</s>")
    texts = [" ".join(["good", "day", "hi"][: 1 + i % 3]) for i in range(2 * AT_ONCE + 1)]
    assert list(map(tuple, tokenize(tokenizer, texts))) == [
        tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts
    ]
    assert tokenize(tokenizer, []) == []
