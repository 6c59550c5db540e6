"""Columns become records, in each convention, for plain strings and for chats; faults name the row."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.data import load_data, load_prompts
from accord.errors import InputError
from accord.files import write_rows
from accord.records import Demonstration, Labeled, Message, Preference, Prompt, Ranking


def u(content):
    return {"role": "user", "content": content}


def a(content):
    return {"role": "assistant", "content": content}


def chat(*turns):
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)


HI = [u("hi")]
SYSTEM = {"role": "system", "content": "s"}
CASES = {
    "prompt": ({"prompt": "p", "answer": 4}, Prompt("p", {"answer": 4})),
    "prompt, chat": ({"prompt": HI, "ranks": 1}, Prompt(chat(*HI), {"ranks": 1})),
    "demonstration": ({"prompt": "p", "completion": "c"}, Demonstration("p", "c")),
    "demonstration, chat": ({"prompt": HI, "completion": [a("c")]}, Demonstration(chat(*HI), chat(a("c")))),
    "chat and string": ({"prompt": HI, "completion": "c"}, Demonstration(chat(*HI), chat(a("c")))),
    "string and chat": ({"prompt": "hi", "completion": [a("c")]}, Demonstration(chat(*HI), chat(a("c")))),
    "labeled": ({"prompt": "p", "completion": "c", "label": 0}, Labeled("p", "c", False)),
    "labeled, chat": ({"prompt": HI, "completion": "c", "label": True}, Labeled(chat(*HI), chat(a("c")), True)),
    "preference": ({"prompt": "p", "chosen": "c", "rejected": "r", "id": 1}, Preference("p", "c", "r")),
    "preference, chat": (
        {"prompt": HI, "chosen": [a("c")], "rejected": [a("r")]},
        Preference(chat(*HI), chat(a("c")), chat(a("r"))),
    ),
    "ranking": (
        {"prompt": "p", "completions": ["x", "y", "z"], "ranks": [1, 0, 1]},
        Ranking("p", ("x", "y", "z"), (1, 0, 1)),
    ),
    "ranking, chat": (
        {"prompt": HI, "completions": [[a("x")], "y"], "ranks": [1, 0]},
        Ranking(chat(*HI), (chat(a("x")), chat(a("y"))), (1, 0)),
    ),
    "messages": (
        {"messages": [SYSTEM, u("1"), a("2"), u("3"), a("4"), u("5")], "prompt": "1"},
        Demonstration(chat(SYSTEM, u("1")), chat(a("2"), u("3"), a("4"))),
    ),
    "messages after a greeting": (
        {"messages": [a("welcome"), u("1"), a("2")]},
        Demonstration(chat(a("welcome"), u("1")), chat(a("2"))),
    ),
    "text": ({"text": "t", "meta": {}}, Demonstration("", "t")),
    "alpaca": ({"instruction": "i", "input": "x", "output": "o"}, Demonstration(chat(u("i\n\nx")), chat(a("o")))),
    "alpaca without input": (
        {"instruction": "i", "input": "", "output": "o"},
        Demonstration(chat(u("i")), chat(a("o"))),
    ),
    "gsm8k": ({"question": "q", "answer": "#### 4"}, Demonstration(chat(u("q")), chat(a("#### 4")))),
    "implicit, strings": (
        {"chosen": "Q: is it A: yes", "rejected": "Q: is it A: yesterday"},
        Preference("Q: is it A:", " yes", " yesterday"),
    ),
    "implicit, one within the other": (
        {"chosen": "I like tea ", "rejected": "I like tea and"},
        Preference("I like", " tea ", " tea and"),
    ),
    "implicit, nothing shared": ({"chosen": "yes", "rejected": "yet"}, Preference("", "yes", "yet")),
    "implicit, chats": (
        {"chosen": [*HI, a("1"), u("2"), a("3")], "rejected": [*HI, a("1"), u("2"), a("4")]},
        Preference(chat(*HI, a("1"), u("2")), chat(a("3")), chat(a("4"))),
    ),
    # The dialogues part at a user turn, so the prompt goes back to before the last assistant turn they share.
    "implicit, parting at a user turn": (
        {"chosen": [*HI, a("1"), u("2"), a("3")], "rejected": [*HI, a("1"), u("x"), a("4")]},
        Preference(chat(*HI), chat(a("1"), u("2"), a("3")), chat(a("1"), u("x"), a("4"))),
    ),
    "whole dialogues beside their prompt": (
        {"prompt": "hi", "chosen": [*HI, a("1")], "rejected": [*HI, a("2")]},
        Preference(chat(*HI), chat(a("1")), chat(a("2"))),
    ),
    "a transcript as prompt": (
        {"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": " c", "rejected": " r"},
        Preference(chat(*HI), chat(a("c")), chat(a("r"))),
    ),
    "a prompt that only mentions Human": (
        {"prompt": "Human: hi", "completion": " c"},
        Demonstration("Human: hi", " c"),
    ),
    "a preference that may be wrong": (
        {"prompt": "p", "chosen": "c", "rejected": "r", "chosen_probability": "0.75"},
        Preference("p", "c", "r", probability=0.75),
    ),
    "what is less likely the better one is the rejected one": (
        {"prompt": "p", "chosen": "c", "rejected": "r", "margin": 2, "chosen_probability": 0.25},
        Preference("p", "r", "c", 2.0, 0.75),
    ),
    "null columns count as absent": ({"prompt": None, "chosen": "x 1", "rejected": "x 2"}, Preference("x", " 1", " 2")),
}


@pytest.mark.parametrize("name", CASES)
def test_columns_become_a_record(name):
    columns, record = CASES[name]
    assert load_data([columns]) == [record]


TRANSCRIPTS = {
    "the answers differ": (
        "\n\nHuman: hi\n\nAssistant: 1\n\n2\n\nHuman: so\n\nAssistant: x",
        "\n\nHuman: hi\n\nAssistant: 1\n\n2\n\nHuman: so\n\nAssistant: y",
        Preference(chat(u("hi"), a("1\n\n2"), u("so")), chat(a("x")), chat(a("y"))),
    ),
    "speakers named within a turn": (
        "\n\nHuman: hi\n\nAssistant: Human: x  Human: z",
        "\n\nHuman: hi\n\nAssistant: y\nAssistant: z",
        Preference(chat(u("hi")), chat(a("Human: x  Human: z")), chat(a("y\nAssistant: z"))),
    ),
    "two turns of the assistant in a row": (
        "\n\nHuman: hi\n\nAssistant: x",
        "\n\nHuman: hi\n\nAssistant: x\n\nAssistant:  y",
        Preference(chat(u("hi")), chat(a("x")), chat(a("x\n\ny"))),
    ),
    "silence": (
        "\n\nHuman: hi\n\nAssistant: ",
        "\n\nHuman: hi\n\nAssistant: y",
        Preference(chat(u("hi")), chat(a("")), chat(a("y"))),
    ),
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcripts_become_chats(name):
    chosen, rejected, record = TRANSCRIPTS[name]
    assert load_data([{"chosen": chosen, "rejected": rejected}]) == [record]


PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
FAULTS = [
    ({**PAIR, "chosen": ""}, "'chosen' is empty"),
    ({**PAIR, "rejected": " \n"}, "'rejected' is empty"),
    ({**PAIR, "prompt": HI, "rejected": ""}, "'rejected' is empty"),
    ({**PAIR, "rejected": "c"}, "'chosen' and 'rejected' are equal"),
    ({**PAIR, "chosen_probability": 1.2}, "'chosen_probability' must lie between 0 and 1, not 1.2"),
    ({**PAIR, "chosen_probability": "likely"}, "'chosen_probability' must be a number, not 'likely'"),
    ({**PAIR, "prompt": HI, "rejected": [a("c")]}, "'chosen' and 'rejected' are equal"),
    ({"chosen": "x y", "rejected": "x y"}, "'chosen' and 'rejected' are equal"),
    ({"chosen": [*HI, a("x")], "rejected": [*HI, a("x")]}, "'chosen' and 'rejected' are equal"),
    ({"chosen": "x", "rejected": [*HI, a("x")]}, "must both be strings or both be lists of messages"),
    ({"chosen": [a("x")], "rejected": [a("y")]}, "begin with an assistant turn, so there is no prompt"),
    ({"chosen": [u("x"), a("x")], "rejected": [u("y"), a("y")]}, "have no common prompt"),
    ({"prompt": "p", "completion": ""}, "'completion' is empty"),
    ({"prompt": HI, "completion": [a(" ")]}, "an assistant turn of the completion is empty"),
    ({"prompt": HI, "completion": [u("x"), a("y")]}, "'completion' must begin and end with an assistant turn"),
    ({"prompt": HI, "completion": []}, "'completion' is a chat without messages"),
    ({"prompt": HI, "completion": 3}, "'completion' must be a string or a list of messages, not of type int"),
    (
        {"prompt": "p", "completion": "c", "label": 2},
        r"'label' must be true or false \(1 or 0, .*\), not 2",
    ),
    ({"prompt": "p", "completion": "c", "label": "good"}, "'label' must be true or false"),
    ({"prompt": "p", "completions": ["x", "y"], "ranks": [0]}, "there are 2 'completions' but 1 'ranks'"),
    ({"prompt": "p", "completions": ["x"], "ranks": [0]}, "needs at least two 'completions'"),
    ({"prompt": "p", "completions": "xy", "ranks": [0, 1]}, "'completions' must be a list, not 'xy'"),
    ({"prompt": "p", "completions": ["x", "y"], "ranks": [0, -1]}, "'ranks' must be whole numbers from 0"),
    ({"prompt": "p", "completions": ["x", "x"], "ranks": [0, 1]}, r"'completions\[1\]' equals another completion"),
    ({"prompt": "p", "completions": ["x", " "], "ranks": [0, 1]}, r"'completions\[1\]' is empty"),
    ({"messages": HI}, "'messages' has no assistant turn"),
    ({"messages": [a("x")]}, "'messages' begins with an assistant turn"),
    ({"messages": [u("x"), {**a("y"), "weight": 0.5}]}, r"messages\[1\] has 0.5 as 'weight': a turn is trained on"),
    ({"question": "q", "contexts": ["x", "y"], "answer": "a"}, "'contexts' beside 'question' may be part of the"),
    ({"question": "q", "context": ["x", "y"], "answer": "a"}, "'context' has text beside 'question': name both by"),
    ({"prompt": "p", "completions": ["x", "y"], "labels": [True, False]}, "'labels' judges the 'completions', the s"),
    ({"body": {"messages": [u("x")], "model": "m"}}, "inside one: name it by --columns messages=body.messages"),
    ({"messages": [u("x"), {"role": "bot", "content": "y"}]}, r"messages\[1\] has the unknown role 'bot'"),
    ({"messages": [u("x"), {"role": "assistant"}]}, r"messages\[1\] lacks 'content'"),
    ({"messages": [{"content": "x"}]}, r"messages\[0\] lacks 'role'"),
    ({"messages": ["x"]}, r"messages\[0\] must be an object with 'role' and 'content', not of type str"),
    ({"messages": [u(["x"])]}, r"messages\[0\] has content that is of type list, not a string"),
    (
        {"messages": [u("x"), {"role": "assistant", "tool_calls": "f(x)"}]},
        r"messages\[1\] has 'tool_calls' that are no list of objects: write them as JSON",
    ),
    ({"text": " "}, "'text' is empty"),
    ({"instruction": "i", "output": ""}, "'output' is empty"),
    ({"prompt": "p", "chosen": "c"}, "the columns found are prompt, chosen, but a row needs one of these sets"),
    ({"prompt": "p", "choosen": "c", "rejected": "r"}, r"'choosen' is perhaps meant to be 'chosen'"),
    ({"prompt": "p", "Completion": "c"}, r"'Completion' is perhaps meant to be 'completion'"),
    ({"prmpt": "p"}, "'prmpt' is perhaps meant to be 'prompt'"),
    (
        {"prompt": "p", "chosen": float("nan"), "rejected": "r"},
        r"the columns found are prompt, rejected \(without a value: chosen\), but a row needs one of .* text$",
    ),
    (
        {"instruction": "i", "output": ["a", "b"]},
        r"'output' is a list of 2 texts, where one text or a list of messages is read: name one of them by --columns "
        r"output=output\[0\], or the better and the worse of two by --columns chosen=output\[0\],rejected=output\[1\]$",
    ),
    ({"x": None}, "the columns found are none that is not null"),
]


@pytest.mark.parametrize(("columns", "message"), FAULTS)
def test_faults_are_refused_with_their_row(columns, message):
    with pytest.raises(InputError, match=f"^row 1: .*{message}"):
        load_data([columns])


def test_a_later_row_is_numbered_and_must_follow_the_first():
    with pytest.raises(InputError, match=r"^row 2: the columns found are prompt, chosen, but"):
        load_data([PAIR, {"prompt": "p", "chosen": "c"}])
    with pytest.raises(
        InputError, match=r"^row 3: the row has the columns prompt, where the first row has the columns p"
    ):
        load_data([PAIR, PAIR, {"prompt": "p"}])


words = st.text(st.characters(codec="utf-8", categories=("L", "P", "Zs")), min_size=1).filter(lambda s: s.strip())
questions = st.one_of(words, words.map(lambda s: (Message("system", "be kind"), Message("user", s))))


@st.composite
def records(draw):
    prompt = draw(questions)
    plain = isinstance(prompt, str)
    texts = draw(st.lists(words, min_size=3, max_size=3, unique=True))
    x, y, z = texts if plain else [(Message("assistant", text),) for text in texts]
    kinds = (
        Prompt(prompt, {"answer": "4"}),
        Demonstration(prompt, x),
        Labeled(prompt, x, draw(st.booleans())),
        Preference(prompt, x, y),
        Preference(prompt, x, y, margin=0.5, probability=draw(st.floats(0.5, 1))),
        Ranking(prompt, (x, y, z), (0, 2, 0)),
    )
    return draw(st.sampled_from(kinds))


@given(record=records())
def test_written_records_are_read_back(record, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_rows(path, [record])
    assert load_data(path) == [record]


@given(chosen=words, rejected=words)
def test_an_implicit_prompt_loses_no_text(chosen, rejected):
    if chosen == rejected:
        return
    (row,) = load_data([{"chosen": chosen, "rejected": rejected}])
    assert (row.prompt + row.chosen, row.prompt + row.rejected) == (chosen, rejected)
    assert row.chosen.strip() and row.rejected.strip()


def test_every_pair_of_the_real_transcripts(harmless, tmp_path):
    """All 2,312 rows: prompts end with the user, answers are one assistant turn, turns alternate, nothing is lost."""
    rows = load_data(harmless)
    assert len(rows) == 2312
    for row in rows:
        assert row.prompt[0].role == row.prompt[-1].role == "user"
        for answer in (row.chosen, row.rejected):
            assert [turn.role for turn in answer] == ["assistant"]
        roles = [turn.role for turn in row.prompt]
        assert all(one != two for one, two in pairwise(roles))
    # In four rows people preferred silence to the other answer.
    assert [i for i, row in enumerate(rows) if not row.chosen[0].content] == [86, 516, 925, 1103]
    assert all(row.rejected[0].content for row in rows)
    write_rows(tmp_path / "rows.jsonl", rows)
    assert load_data(tmp_path / "rows.jsonl") == rows


def test_a_prompt_whose_completion_is_empty_may_be_answered_anew() -> None:
    # As `accord sample` writes where a model said nothing.
    rows = [{"prompt": HI, "completion": "", "turn": 1}, {"prompt": HI, "completion": "x", "turn": 2}]
    first, second = load_prompts(rows)
    assert first.prompt == second.prompt == tuple(Message(**turn) for turn in HI)
    assert first.columns == {"completion": "", "turn": 1} and second.columns == {"completion": "x", "turn": 2}
