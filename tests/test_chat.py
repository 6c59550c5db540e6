"""`accord chat`: what a conversation is, how it is shown, and that what it saves reads straight back."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from accord.chat.screen import Screen
from accord.chat.session import COMMANDS, Session
from accord.chat.speaker import Conversation, Reply, Saying, Speaker, Turn, append, save_comparisons
from accord.data import load_data
from accord.data.chat import encode_prompt
from accord.engine.generate import generate
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.errors import InputError
from accord.feedback.reward import TextReward
from accord.records import Completion, Demonstration, Message, Preference, Ranking
from tests.commands.small import accord, save_model, write_jsonl

SAMPLING = Sampling(max_new_tokens=5, temperature=1.5, seed=3)
HI = (Message("user", "hi"),)
WORDS = TextReward(lambda prompt, completion: float(len(str(completion).split())))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a chat template and one without."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "base")
    save_model(folder / "plain", template=None)
    return folder


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    return load_model(str(folder / "base"))


@pytest.fixture(scope="module")
def other(folder: Path) -> Policy:
    """A model of other weights."""
    policy = load_model(str(folder / "base"))
    for parameter in policy.network.parameters():
        parameter.data = parameter.data.flip(0)
    return policy


class Heard:
    """A session whose screen can be read."""

    def __init__(self, *policies: Policy, **options: object) -> None:
        self.file = io.StringIO()
        screen = Screen(Console(file=self.file, width=80, highlight=False))
        speakers = [Speaker(policy, f"model{i}") for i, policy in enumerate(policies)]
        self.session = Session(speakers, screen, SAMPLING, **options)  # type: ignore[arg-type]

    def __call__(self, *lines: str) -> str:
        """What the screen shows when these lines are typed."""
        self.file.seek(0)
        self.file.truncate()
        self.session.run(lines)
        return self.file.getvalue()

    @property
    def turns(self) -> list[Turn]:
        return self.session.conversation.turns

    def answers(self, turn: int = -1) -> list[str]:
        return [answer.text for answer in self.turns[turn].answers]


def said(policy: Policy, prompt: tuple[Message, ...], sampling: Sampling = SAMPLING, n: int = 1) -> list[str]:
    """What `generate` makes of a chat."""
    [group] = generate(policy.network, [encode_prompt(policy.tokenizer, prompt)], n, sampling, end=policy.end)
    return [policy.text(c.tokens) for c in group]


def assistant(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)


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


def turn(first: str, second: str, preferred: object = None, prompts: tuple[object, object] = (HI, HI)) -> Turn:
    answers = [Reply(p, (), text, Completion((), (), "end")) for p, text in zip(prompts, (first, second), strict=True)]  # type: ignore[arg-type]
    return Turn("hi", tuple(answers), preferred)  # type: ignore[arg-type]


def test_preferences_and_ties_read_back_from_their_files(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    talk = Conversation("", [turn("a", "b", "1"), turn("c", "d", "2"), turn("e", "f", "tie"), turn("g", "h")])
    talk.turns.append(turn("i", "j", "1", (HI, (Message("user", "bye"),))))
    assert save_comparisons(talk, file) == (
        f"2 preferences appended to {file}; 1 tie appended to {tmp_path / 'pairs.ties.jsonl'}; "
        "turn 5 is left out: the two models had been told different things before it."
    )
    expected = [Preference(HI, assistant("a"), assistant("b")), Preference(HI, assistant("d"), assistant("c"))]
    assert load_data(file) == expected
    assert load_data(tmp_path / "pairs.ties.jsonl") == [Ranking(HI, (assistant("e"), assistant("f")), (0, 0))]
    talk.turns = [*talk.turns[:4], turn("k", "k\u2028l", "2")]
    assert save_comparisons(talk, file) == f"1 preference appended to {file}."
    assert load_data(file) == [*expected, Preference(HI, assistant("k\u2028l"), assistant("k"))]
    with pytest.raises(InputError, match="there is no new preference to save"):
        save_comparisons(talk, file)


def test_equal_answers_make_no_comparison_and_a_saved_preference_stays(policy: Policy, tmp_path: Path) -> None:
    heard = Heard(policy, policy)
    heard.session.conversation.turns = [turn("a", "a")]
    shown = heard("/prefer 1")
    assert shown == "both go on from answer 1; it makes no comparison to keep, as its two answers are equal.\n"
    heard.session.conversation.turns = [turn("a", "b")]
    file = tmp_path / "p.jsonl"
    assert heard("/prefer 1").endswith("from answer 1; /save FILE keeps the comparison.\n")
    assert heard(f"/save {file}", "/prefer 2").endswith("that preference is saved already, and stays as it is.\n")
    assert load_data(file) == [Preference(HI, assistant("a"), assistant("b"))]


def test_a_file_that_would_not_read_back_is_left_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [Demonstration("hi", "bye")])
    before = file.read_bytes()
    with pytest.raises(InputError, match=r"rows\.jsonl would not read back \(row 2: the row has the columns prompt, c"):
        append(file, [{"prompt": "hi", "chosen": "a", "rejected": "b"}])
    assert file.read_bytes() == before
    with pytest.raises(InputError, match=r"give a file whose name ends in \.jsonl"):
        append(tmp_path / "rows.csv", [])
    file.write_text('{"prompt": "hi", "completion": "a", "completion": "b"}\n')
    with pytest.raises(InputError, match="is not JSONL .the key 'completion' twice in an object., so nothing"):
        append(file, [{"prompt": "hi", "completion": "c"}])
    file.write_text("no json\n")
    with pytest.raises(InputError, match="is not JSONL .Expecting value"):
        append(file, [{"prompt": "hi", "completion": "a"}])


def piped(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_the_command_with_lines_piped_in(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "said.jsonl"
    options = ("--max-new-tokens", 5, "--temperature", 1.5, "--seed", 3, "--dtype", "float32", "--reward", "cafe")
    piped(monkeypatch, "hi", f"/save {file}")
    assert accord("chat", folder / "base", *options) == 0
    [answer] = said(load_model(str(folder / "base")), HI)
    shown = capsys.readouterr().out
    assert f"\n> hi\n{answer}\nreward 0." in shown and "1 demonstration appended" in shown
    assert load_data(file) == [Demonstration(HI, assistant(answer))]
    piped(monkeypatch, "hi", "/prefer tie", f"/save {tmp_path / 'p.jsonl'}")
    assert accord("chat", folder / "base", "--other", folder / "base", *options) == 0
    [row] = load_data(tmp_path / "p.ties.jsonl")
    assert isinstance(row, Ranking) and row.completions[0] == assistant(answer) and row.ranks == (0, 0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--best-of", 4), "the best of 4 answers needs --reward to choose by."),
        (("--best-of", 0, "--reward", "cafe"), "the best of 0 answers is none; give 1 or more."),
        (("--reward", "number"), "--reward number reads a row of data, and a chat has none"),
        (("--temperature", -1), "temperature must not be negative"),
        (("--other", "./nowhere"), "there is no model folder ./nowhere."),
    ],
)
def test_options_that_do_not_fit_are_a_sentence(
    folder: Path, options: tuple[object, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accord("chat", folder / "base", "--dtype", "float32", *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error
