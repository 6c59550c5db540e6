"""A user's choices before a prompt: the text letter by letter, whose they are, and what never stands there."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given as samples
from hypothesis import strategies as st

from accord.data.chat import encode_prompt
from accord.data.choices import Choices, UserTree, draw, encode_with_choices, user_pairs, with_choices
from accord.data.conventions import user_of
from accord.errors import InputError, LeftOut
from accord.records import Message, Preference, Prompt, Ranking, Row
from tests.data.conftest import word_tokenizer

SOUP = Preference((Message("user", "the soup?"),), (Message("assistant", "rich"),), (Message("assistant", "salty"),))
PIE = Preference("the pie?", "sweet", "burnt")
BEFORE = """\
These are choices I made between two answers.

Question: the soup?
I like: rich
I dislike: salty

Question: the pie?
I like: sweet
I dislike: burnt

Answer as I like:

"""


def test_choices_stand_before_the_first_words_of_the_user() -> None:
    assert with_choices("the tea?", [SOUP, PIE]) == BEFORE + "the tea?"
    system, asked, said = Message("system", "be brief"), Message("user", "the tea?"), Message("assistant", "hot")
    chat = (system, asked, said, Message("user", "and now?"))
    assert with_choices(chat, [SOUP, PIE]) == (system, Message("user", BEFORE + "the tea?"), *chat[2:])
    assert with_choices((system,), [SOUP, PIE]) == (system, Message("user", BEFORE.rstrip()))
    assert with_choices(chat, []) is chat


def test_dialogues_and_answers_without_a_question() -> None:
    talk = (Message("user", "a?"), Message("assistant", "b"), Message("user", "c?"))
    text = with_choices("q", [Preference(talk, "d", "e"), Preference("", "f", "g")])
    assert (
        "Question: user: a?\n\nassistant: b\n\nuser: c?\nI like: d\nI dislike: e\n\nI like: f\nI dislike: g\n" in text
    )


def test_as_many_choices_as_fit_the_last_left_out_first() -> None:
    """8 words open, 4 close, a choice is 1 + 1, 2 + 1 and 2 + 1, and the prompt 1: 13 + 8 k tokens."""
    tokenizer = word_tokenizer()
    some = [Preference("hi", "good", "bad"), Preference("bye", "day", "bad")]
    for longest, k in ((100, 2), (29, 2), (28, 1), (21, 1), (20, 0), (1, 0), (0, 0)):
        tokens, fits = encode_with_choices(tokenizer, "hello", some, longest)
        assert fits == k
        assert tokens == encode_prompt(tokenizer, with_choices("hello", some[:k]))
        assert len(tokens) == (13 + 8 * k if k else 1)


def test_rankings_are_their_strict_pairs_and_rows_are_somebodys() -> None:
    rows: list[Row] = [Ranking("q", ("a", "b", "c"), (0, 1, 1), "u"), Preference("r", "d", "e", user="v")]
    pairs, origin = user_pairs(rows, LeftOut(strict=True))
    assert [(p.chosen, p.rejected, p.user) for p in pairs] == [("a", "b", "u"), ("a", "c", "u"), ("d", "e", "v")]
    assert origin == [0, 0, 1]
    with pytest.raises(InputError, match="row 2 does not say whose preference it is: rows need a column user"):
        user_pairs([rows[0], PIE], LeftOut(strict=True))


comparisons = st.builds(
    Preference,
    st.sampled_from(["", "p", "q", "r", "s"]),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["c", "d"]),
    user=st.just("u"),
)


@samples(st.lists(st.tuples(st.integers(0, 5), comparisons), min_size=1, max_size=9), st.integers(1, 4), st.randoms())
def test_a_draw_never_holds_what_is_asked(of_user: list[tuple[int, Preference]], most: int, rng: random.Random) -> None:
    """Neither the row itself, nor another of its prompt, nor an answer of its where there is no prompt."""
    row, own = of_user[0]
    asked = UserTree((), (), row=row, user="u", comparison=own, of_user=of_user)
    drawn = draw(asked, most, rng)
    assert len(drawn) <= most
    assert not Counter(drawn) - Counter(choice for other, choice in of_user if other != row)
    if own.prompt:
        assert own.prompt not in [choice.prompt for choice in drawn]
    else:
        assert not {own.chosen, own.rejected} & {text for c in drawn for text in (c.chosen, c.rejected)}


def test_every_number_of_choices_is_drawn_as_often_and_every_order() -> None:
    """3,000 draws of 0 to 2 of two choices: 1/3 each, and of two either order in 1/6; five standard deviations."""
    of_user = [(i, Preference(p, "a", "b", user="u")) for i, p in enumerate("pqr")]
    asked = UserTree((), (), row=0, user="u", comparison=of_user[0][1], of_user=of_user)
    rng = random.Random(0)
    drawn = Counter("".join(str(c.prompt) for c in draw(asked, 2, rng)) for _ in range(3000))
    shares = {"": 1 / 3, "q": 1 / 6, "r": 1 / 6, "qr": 1 / 6, "rq": 1 / 6}
    assert drawn.keys() == shares.keys()
    assert all(abs(drawn[some] - 3000 * p) < 5 * (3000 * p * (1 - p)) ** 0.5 for some, p in shares.items())


def test_the_first_choices_of_whose_row_it_is() -> None:
    """Ann's two first choices but for the one of the very prompt; bob has one, and nobody none."""
    rows = [
        {"prompt": p, "chosen": p + "+", "rejected": p + "-", "user": user}
        for p, user in zip("pqrs", "aaba", strict=True)
    ]
    known = Choices.read(rows)
    assert [c.prompt for c in known.before(Prompt("x", {"user": "a"}), 2, 0)] == ["p", "q"]
    assert [c.prompt for c in known.before(Prompt("p", {"annotator": "a"}), 2, 0)] == ["q", "s"]
    assert user_of({"user": "b"}) == "b" and known.before(Prompt("x", {"user": "c"}), 0, 0) == []
    for columns, k, why in (
        ({"user": "b"}, 2, "row 7: .* has 1 choices of other prompts by the user b, but --given asks for 2"),
        ({"user": "c"}, 1, "row 7: .* has 0 choices of other prompts by the user c"),
        ({}, 1, "row 7 does not say who asks: with --choices, rows need a column user."),
    ):
        with pytest.raises(InputError, match=why):
            known.before(Prompt("x", columns), k, 6)
    with pytest.raises(InputError, match="holds prompts, and choices are preferences or rankings"):
        Choices.read([{"prompt": "x", "user": "a"}])
    with pytest.raises(InputError, match="row 2 does not say whose preference it is"):
        Choices.read([rows[0], {name: value for name, value in rows[1].items() if name != "user"}])
