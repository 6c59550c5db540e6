"""A conversation in the terminal: what it is, what stops it, and how it is shown."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from accord.chat.conversation import Conversation
from accord.chat.screen import Screen
from accord.chat.session import COMMANDS
from accord.chat.speaker import Saying, Speaker
from accord.data import load_data
from accord.data.chat import encode_prompt
from accord.engine.generate import generate
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.feedback.reward import TextReward
from accord.records import Demonstration, Message
from tests.chat.sessions import HI, SAMPLING, Heard, assistant, said

WORDS = TextReward(lambda prompt, completion: float(len(str(completion).split())))


def test_an_answer_is_the_sample_of_the_same_seed_and_the_chat_goes_on(policy: Policy) -> None:
    heard = Heard(policy)
    shown = heard("hi", "good day")
    [first] = said(policy, HI)
    [second] = said(policy, (*HI, Message("assistant", first), Message("user", "good day")))
    assert [heard.answers(0), heard.answers(1)] == [[first], [second]]
    notes = ["cut after 5 tokens\n" if len(turn.answers[0].completion.tokens) == 5 else "" for turn in heard.turns]
    assert shown == f"{first}\n{notes[0]}{second}\n{notes[1]}"


def test_retry_draws_anew_and_undo_forgets(policy: Policy) -> None:
    heard = Heard(policy)
    heard("hi")
    first = heard.answers()
    heard("/retry")
    assert heard.answers() == said(policy, HI, Sampling(5, 1.5, seed=(3, 1, 0))) != first
    assert len(heard.turns) == 1
    assert heard("/undo") == "forgotten: hi\n"
    heard("hi")
    assert heard.answers() == first


def test_a_system_prompt_begins_a_new_conversation(policy: Policy) -> None:
    heard = Heard(policy)
    heard("hi", "/system bad", "hi")
    assert heard.answers() == said(policy, (Message("system", "bad"), *HI)) and len(heard.turns) == 1
    heard("/reset", "hi")
    assert heard.turns[0].answers[0].prompt == (Message("system", "bad"), *HI)


def test_temperature_zero_is_greedy(policy: Policy) -> None:
    heard = Heard(policy)
    assert heard("/temperature 0", "hi").startswith("temperature 0.\n")
    assert heard.answers() == said(policy, HI, Sampling(5, 0))
    assert "the answer would be the same" in heard("/retry")


def test_two_models_answer_the_same_and_keep_their_own_answers_until_one_is_preferred(
    policy: Policy, other: Policy
) -> None:
    heard = Heard(policy, other)
    shown = heard("hi", "good", "/prefer 2", "day")
    own = [said(model, HI)[0] for model in (policy, other)]
    assert heard.answers(0) == own and own[0] != own[1]
    assert shown.startswith(f"1 · model0\n{own[0]}\n2 · model1\n{own[1]}\n")
    second = [
        said(m, (*HI, *assistant(a), Message("user", "good")))[0] for m, a in zip((policy, other), own, strict=True)
    ]
    assert heard.answers(1) == second
    # Of turn 1 nobody preferred an answer; of turn 2 the second is preferred, so both have heard it.
    told = [answer.prompt for answer in heard.turns[2].answers]
    assert told == [
        (*HI, *assistant(a), Message("user", "good"), *assistant(second[1]), Message("user", "day")) for a in own
    ]


def test_a_model_beside_itself_gives_two_samples(policy: Policy) -> None:
    heard = Heard(policy, policy)
    heard("hi")
    assert heard.answers() == [*said(policy, HI), *said(policy, HI, Sampling(5, 1.5, seed=(3, 0, 1)))]
    assert heard.answers()[0] != heard.answers()[1]


def test_the_best_of_n_is_the_first_of_highest_reward(policy: Policy) -> None:
    heard = Heard(policy, reward=WORDS)
    shown = heard("/best 6", "hi", "hi")
    drawn = said(policy, HI, n=6)
    counts = [len(text.split()) for text in drawn]
    assert heard.answers(0) == [drawn[counts.index(max(counts))]]
    spread = f"the best of 6 ({min(counts):.3f} to {max(counts):.3f}, mean {sum(counts) / 6:.3f})"
    assert f"reward {max(counts):.3f}, {spread}" in shown
    assert shown.count("the best of 6 (") == 1  # the answer after it is an ordinary one
    assert heard.turns[1].answers[0].rewards == (float(len(heard.answers(1)[0].split())),)
    assert Heard(policy, reward=WORDS, best_of=6)("hi").count("the best of 6 (") == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/bset", "there is no command /bset; did you mean /best?"),
        ("/xyzzy", "there is no command /xyzzy; /help lists those there are."),
        ("/best 3", "the best of 3 answers needs --reward to choose by."),
        ("/best many", "say how many answers to choose from, such as /best 8."),
        ("/temperature warm", "say a temperature, such as /temperature 0.7."),
        ("/temperature nan", "say a temperature, such as /temperature 0.7."),
        ("/temperature -1", "temperature must not be negative, but is -1.0"),
        ("/prefer 1", "there is one model here, and nothing to prefer; give another with --other."),
        ("/retry", "nothing was asked yet, so there is nothing to retry."),
        ("/undo", "nothing was said yet, so there is nothing to undo."),
        ("/save", "say where to save, such as /save said.jsonl."),
        ("/save said.jsonl", "nothing was said yet, so there is nothing to save."),
    ],
)
def test_what_cannot_be_done_is_a_sentence(policy: Policy, line: str, told: str) -> None:
    heard = Heard(policy)
    assert heard(line) == f"{told}\n"
    assert heard.turns == []


def test_help_names_every_command_and_quit_ends(policy: Policy) -> None:
    shown = Heard(policy)("/help", "/quit", "hi")
    assert [line.split()[0] for line in shown.splitlines()[:-1]] == [f"/{name}" for name in COMMANDS]


def test_a_model_without_a_template_continues_each_message(folder: Path, tmp_path: Path) -> None:
    plain = load_model(str(folder / "plain"))
    heard = Heard(plain)
    shown = heard("hi", "day", f"/save {tmp_path / 'said.jsonl'}")
    assert shown.count("model0 has no chat template: it continues each message as a text of its own.\n") == 1
    tokens = [encode_prompt(plain.tokenizer, text) for text in ("hi", "day")]
    expected = [plain.text(c.tokens) for [c] in generate(plain.network, tokens, 1, SAMPLING, end=plain.end)]
    assert [heard.answers(0), heard.answers(1)] == [[expected[0]], [expected[1]]]
    rows = [Demonstration(q, a) for q, a in zip(("hi", "day"), expected, strict=True)]
    assert load_data(tmp_path / "said.jsonl") == rows
    assert heard("good", f"/save {tmp_path / 'more.jsonl'}").endswith(
        "the model said nothing in turn 3, and nobody can learn that: /undo or /retry it.\n"
    )
    assert heard("/system good").endswith("model0 has no chat template, and so no place for a system prompt.\n")


def test_the_oldest_turns_are_forgotten_where_the_context_is_full(policy: Policy) -> None:
    # Of 48 tokens an answer gets 5. A system turn of 3 comes first, then a turn of n words takes n + 2 with its header
    # and end, and the header of the answer is one more: 16 words make 22 tokens, and 44 make 50. The second time, the
    # first turn (18, and its answer) would make over 22 + 18 + 5 = 45 with the turn between, which has at least 4.
    heard = Heard(policy)
    long = " ".join(["hi"] * 16)
    assert "without" not in heard(long, "good")
    shown = heard(long)
    assert shown.startswith("model0 reads this without the oldest turn, for which its context has no room.\n")
    prompt = heard.turns[2].answers[0].prompt
    assert prompt == (Message("user", "good"), *assistant(heard.answers(1)[0]), Message("user", long))
    told = "the message of 50 tokens leaves no room for an answer of 5 in the context of model0, 48 tokens; make it"
    assert heard(" ".join(["hi"] * 44)) == f"{told} shorter.\n"
    assert len(heard.turns) == 3


def test_room_for_an_answer_is_at_most_half_the_context(policy: Policy) -> None:
    assert Speaker(policy, "m").question(Conversation(), 0, "hi", 500).room == 24


def interrupted(saying: Saying, after: int) -> Iterator[str]:
    for place, piece in enumerate(saying):
        if place == after:
            raise KeyboardInterrupt
        yield piece


@pytest.mark.parametrize("after", [0, 2])
def test_ctrl_c_stops_the_answer_and_not_the_chat(policy: Policy, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard(policy)
    [whole] = said(policy, HI)
    follow: Callable[..., None] = Screen.follow

    def stopped(screen: Screen, names: list[str], answers: list[Saying]) -> None:
        follow(screen, names, [interrupted(answer, after) for answer in answers])

    with monkeypatch.context() as patch:
        patch.setattr(Screen, "follow", stopped)
        shown = heard("hi")
    [turn] = heard.turns
    assert turn.answers[0].is_stopped and len(turn.answers[0].completion.tokens) == after + 1
    assert whole.startswith(turn.answers[0].text) and shown.endswith("\nstopped\n")
    heard("/undo", "hi")
    assert heard.answers() == [whole]


def test_ctrl_c_before_anything_is_said_keeps_the_chat_as_it_was(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard(policy)
    heard("hi")
    before = list(heard.turns)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "follow", stopped)
    assert heard("good", "/retry") == "stopped; nothing was said.\n" * 2
    assert heard.turns == before


def test_what_a_model_says_is_neither_obeyed_nor_read_as_markup() -> None:
    file = io.StringIO()
    screen = Screen(Console(file=file, force_terminal=True, width=80, highlight=False))
    screen.follow(["m"], [["[bold]a[/bold] \x1b", "[2J :smile: "]])
    assert file.getvalue() == "[bold]a[/bold] ⟨U+001B⟩[2J :smile: \n"


def test_side_by_side_on_a_terminal_both_answers_are_whole() -> None:
    file = io.StringIO()
    screen = Screen(Console(file=file, force_terminal=True, width=40, highlight=False))
    screen.follow(["1 · a", "2 · b"], [["one", " two", "\x1b[31m"], ["[red]", "three"]])
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue().split("1 · a")[-1])
    assert [" ".join(line.split()) for line in last.splitlines()][1:] == ["one [red]three", "two⟨U+001B⟩[31m"]


def test_lines_that_are_piped_in_are_echoed_and_broken_characters_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n\nb\udc80\x1b\n"))
    assert list(Screen(Console(file=file, width=80)).lines()) == ["hi", "", "b\ufffd\x1b"]
    assert file.getvalue() == "\n> hi\n\n> b\ufffd⟨U+001B⟩\n"
