"""Rows become trees that fit, and what does not fit is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.data import load_data
from accord.data.chat import encode_completion, encode_prompt
from accord.data.encoding import encode, to_tree
from accord.engine.trees import Branch, Tree
from accord.errors import InputError
from accord.records import Demonstration, Labeled, Message, Preference, Prompt, Ranking, Tokenization
from tests.data.conftest import ASSISTANT, BAD, BOS, BYE, DAY, EOS, GOOD, HELLO, HI, UNK, USER, word_tokenizer


def branch(*tokens):
    return Branch(tokens)


def test_each_record_has_its_tree(tokenizer):
    good, bad = branch(GOOD, EOS), branch(BAD, EOS)
    assert to_tree(tokenizer, Demonstration("hi", "good"), 7) == Tree((HI,), (good,), (), 7)
    assert to_tree(tokenizer, Demonstration("", "good"), 0) == Tree((BOS,), (good,), (), 0)
    assert to_tree(tokenizer, Labeled("hi", "good", True), 0) == Tree((HI,), (good,), (0,), 0)
    assert to_tree(tokenizer, Labeled("hi", "bad", False), 0) == Tree((HI,), (bad,), (1,), 0)
    assert to_tree(tokenizer, Preference("hi", "good", "bad"), 0) == Tree((HI,), (good, bad), (0, 1), 0)
    ranking = Ranking("hi", ("good", "bad", "bye"), (1, 0, 1))
    assert to_tree(tokenizer, ranking, 0) == Tree((HI,), (good, bad, branch(BYE, EOS)), (1, 0, 1), 0)


def test_tokens_that_are_known_are_kept(tokenizer):
    # "hi good" in a chat is <system> good </s> <user> hi </s> <assistant>, and the answer ends with </s>.
    (asked,) = encode(tokenizer, [Demonstration((Message("user", "hi"),), "good")], max_length=99, context=None).trees
    # A sample cut for length has no end, and tokens that spell the same text otherwise stay as they were drawn.
    for tokens in ((GOOD,), (GOOD, EOS), (BOS, GOOD)):
        row = Demonstration((Message("user", "hi"),), (Message("assistant", "good"),), tokens)
        assert to_tree(tokenizer, row, 0) == Tree(asked.prompt, (branch(*tokens),), (), 0)
        assert to_tree(tokenizer, Demonstration("hi", "good", tokens), 0) == Tree((HI,), (branch(*tokens),), (), 0)
    # Those of another tokenizer, which say something else here or nothing, are made anew.
    for tokens in ((BAD, EOS), (99, EOS)):
        assert to_tree(tokenizer, Demonstration("hi", "good", tokens), 0).branches == (branch(GOOD, EOS),)


def test_rows_of_tokens_are_trees_as_they_are(tokenizer):
    row = Tokenization((USER, HI, ASSISTANT, GOOD, BYE, EOS), (False, False, False, True, False, True))
    kept = Branch((GOOD, BYE, EOS), (True, False, True))
    assert to_tree(tokenizer, row, 4) == Tree((USER, HI, ASSISTANT), (kept,), (), 4)
    (cut,) = encode(tokenizer, [row], max_length=4, context=None).trees
    assert cut == Tree((USER, HI, ASSISTANT), (branch(GOOD),), (), 0)
    with pytest.raises(InputError, match=r"^row 1: 'input_ids' has the token 12, and the tokenizer's last is 11"):
        encode(tokenizer, [Tokenization((HI, 12), (False, True))], max_length=9, context=None)


def test_a_prompt_alone_cannot_be_trained_on(tokenizer):
    with pytest.raises(InputError, match=r"^row 3: a prompt without a completion cannot be trained on"):
        to_tree(tokenizer, Prompt("hi"), 2)


def test_completions_are_cut_at_the_right_and_lose_their_end_of_turn(tokenizer):
    row = Preference("hi hello", "good day bye", "bad")
    full = encode(tokenizer, [row], max_length=6, context=None)
    assert full.trees[0].branches == (branch(GOOD, DAY, BYE, EOS), branch(BAD, EOS))
    cut = encode(tokenizer, [row], max_length=4, context=None)
    assert cut.trees == [Tree((HI, HELLO), (branch(GOOD, DAY), branch(BAD, EOS)), (0, 1), 0)]
    # The model's context bounds the length where it is the smaller of the two.
    assert encode(tokenizer, [row], max_length=99, context=4).trees == cut.trees
    assert cut.left_out == []


def test_cut_flags_stay_with_their_tokens(tokenizer):
    turns = tuple(Message(role, "hi") for role in ("assistant", "user", "assistant"))
    row = Demonstration((Message("user", "hi"),), turns)
    # The prompt is <system> good </s> <user> hi </s> <assistant>, 7 tokens; the completion hi </s> <user> hi </s> ...
    (tree,) = encode(tokenizer, [row], max_length=10, context=None).trees
    assert tree.branches[0].trained == (True, True, False)
    (tree,) = encode(tokenizer, [row], max_length=9, context=None).trees
    assert tree.branches[0] == branch(HI, EOS)


def test_rows_that_truncation_leaves_nothing_of_are_told_with_their_reason(tokenizer):
    rows = [
        Preference("hi", "good day", "good bye"),  # equal once cut to one token
        Preference("hi", "good", "bad"),
        Preference("hi hi", "good", "bad"),  # no room for a completion
        Preference("hi", "strange", "weird"),  # two words that the tokenizer does not know
        Ranking("hi", ("good", "good", "bad"), (0, 0, 1)),  # equal, and of equal rank
    ]
    encoded = encode(tokenizer, rows, max_length=2, context=None)
    assert [tree.row for tree in encoded.trees] == [1, 4]
    assert encoded.left_out == [
        "2 rows left out, as completions of different rank are the same tokens within 2 tokens (rows 1, 4)",
        "1 row left out, as the prompt leaves no room for a completion within 2 tokens (row 3)",
    ]
    assert to_tree(tokenizer, rows[3]).branches == (branch(UNK, EOS), branch(UNK, EOS))


def test_long_lists_of_rows_are_shortened(tokenizer):
    rows = [Demonstration("hi hi", "good")] * 8 + [Demonstration("hi", "good")]
    encoded = encode(tokenizer, rows, max_length=2, context=None)
    assert encoded.left_out == [
        "8 rows left out, as the prompt leaves no room for a completion within 2 tokens (rows 1, 2, 3, 4, 5 and 3 more)"
    ]


def test_faults_end_the_encoding(tokenizer):
    good = Demonstration("hi", "good")
    with pytest.raises(InputError, match=r"^row 2: the prompt has 4 tokens, more than the model's context of 3"):
        encode(tokenizer, [good, Demonstration("hi hi hi hi", "good")], max_length=2, context=3)
    for context, remedy in ((None, "; raise --max-length"), (2, "; raise --max-length"), (1, "")):
        with pytest.raises(InputError, match=rf"^no row is left .* within 1 tokens \(row 1\){remedy}$"):
            encode(tokenizer, [good], max_length=1, context=context)
    with pytest.raises(InputError, match=r"^no row is left to train on: the data holds no rows$"):
        encode(tokenizer, [], max_length=9, context=None)
    with pytest.raises(InputError, match=r"^max_length must be at least 1, not 0$"):
        encode(tokenizer, [good], max_length=0, context=None)
    with pytest.raises(InputError, match=r"^row 2: the tokenizer has no chat template"):
        chat = Demonstration((Message("user", "hi"),), (Message("assistant", "hi"),))
        encode(word_tokenizer(template=None), [good, chat], max_length=9, context=None)


texts = st.lists(st.sampled_from(["hi", "hello", "good", "bad", "day", "bye"]), min_size=1, max_size=6).map(" ".join)
pairs = st.tuples(texts, st.lists(texts, min_size=2, max_size=2, unique=True), st.booleans())


@given(st.lists(pairs, min_size=1, max_size=5), st.integers(2, 16))
def test_encoding_all_at_once_is_encoding_one_by_one(tokenizer, pairs, max_length):
    rows = [
        Preference((Message("user", prompt),) if chat else prompt, *completions) for prompt, completions, chat in pairs
    ]
    expected = []
    for index, row in enumerate(rows):
        prompt = encode_prompt(tokenizer, row.prompt)
        room = max(0, max_length - len(prompt))
        cut = [encode_completion(tokenizer, row.prompt, text).tokens[:room] for text in (row.chosen, row.rejected)]
        if room and cut[0] != cut[1]:
            expected.append(Tree(prompt, tuple(map(Branch, cut)), (0, 1), index))
    if expected:
        assert encode(tokenizer, rows, max_length=max_length, context=None).trees == expected
    else:
        with pytest.raises(InputError, match=r"^no row is left"):
            encode(tokenizer, rows, max_length=max_length, context=None)


def test_real_pairs_share_their_prompt_and_end_their_turns(harmless, smollm2_tokenizer):
    rows = load_data(harmless, limit=100)
    encoded = encode(smollm2_tokenizer, rows, max_length=100_000, context=None)
    assert encoded.left_out == []
    for tree, row in zip(encoded.trees, rows, strict=True):
        assert smollm2_tokenizer.decode(tree.prompt).endswith("<|im_start|>assistant\n")
        for one, answer in zip(tree.branches, (row.chosen, row.rejected), strict=True):
            assert smollm2_tokenizer.decode(one.tokens) == answer[0].content + "<|im_end|>"
            assert one.trained is None
