"""What the generators ask, and what they make of the replies."""

from __future__ import annotations

import re

import pytest

from accord.errors import InputError
from accord.prompting.requests import Reply, Request
from accord.records import show
from accord.synthesis.backtranslate import Backtranslate
from accord.synthesis.evolve import OPERATIONS, Evolve
from accord.synthesis.filters import Pool
from accord.synthesis.self_instruct import SelfInstruct
from accord.synthesis.tasks import Candidate, Instance, Task
from tests.synthesis.scripted import SEEDS, Scripted, asker


def asked(ask: object) -> list[Request]:
    model = ask.model  # type: ignore[attr-defined]
    assert isinstance(model, Scripted)
    return model.asked


@pytest.mark.parametrize("is_chat", [False, True])
def test_a_prompt_shows_six_seeds_and_two_that_were_made(is_chat: bool) -> None:
    ask = asker(lambda request: " One new task\n10. Another new task", is_chat=is_chat)
    pool = Pool(SEEDS)
    generator = SelfInstruct(ask, SEEDS, requests=3)
    first = generator.propose(pool, 0)
    for i in range(5):
        pool.add(Task(f"A made task of number {i}"))
    generator.propose(pool, 1)
    for request, made in zip(asked(ask), [0, 0, 0, 2, 2, 2], strict=True):
        prompt = show(request.prompt)
        shown = re.findall(r"^[1-8]\. (.*)$", prompt, re.MULTILINE)
        assert len(shown) == len(set(shown)) == 8
        assert sum(text.startswith("A made task") for text in shown) == made
        assert isinstance(request.prompt, str) == (not is_chat)
        assert prompt.endswith("\n9.") or is_chat
    assert len({request.seed for request in asked(ask)}) == 6  # no two are drawn alike
    if is_chat:  # a chat has no cue, so that the list began with nothing
        assert [c.rejected for c in first] == ["unreadable"] * 3
    else:
        assert [c.instruction for c in first[:2]] == ["One new task", "Another new task"]


def test_kinds_decide_which_block_is_first() -> None:
    def script(request: Request) -> str:
        prompt = show(request.prompt)
        about = re.findall(r"Task: (.*)", prompt)[-1]
        if prompt.endswith("Classification:"):
            return {"Sort it": " Yes", "Tell it": " No", "Ask it": " Hm"}[about]
        if prompt.endswith("Output:"):
            return " good\nInput: a rose"
        return " a rose\nOutput: It is red."

    candidates = [Candidate("Sort it"), Candidate("Tell it"), Candidate("Ask it")]
    ask = asker(script)
    SelfInstruct(ask, SEEDS).complete(candidates, 0)
    assert [c.instances for c in candidates] == [[Instance("a rose", "good")], [Instance("a rose", "It is red.")], []]
    assert [c.is_classification for c in candidates] == [True, False, None]
    assert [c.rejected for c in candidates] == ["", "", "unclear kind"]
    kinds, blocks = asked(ask)[:3], asked(ask)[3:]
    assert all(request.temperature == 0 and request.max_tokens == 4 for request in kinds)
    assert [show(r.prompt).count("Classification: Yes") for r in kinds] == [4, 4, 4]
    # Examples of the task's own kind: four of these, each with its two blocks.
    assert [len(re.findall("Say whether", show(r.prompt))) for r in blocks] == [4, 0]


def test_seeds_that_do_not_say_what_they_are_have_inputs_first() -> None:
    seeds = [Task(seed.instruction, seed.instances) for seed in SEEDS]
    ask = asker(lambda request: " a\nOutput: b")
    candidates = [Candidate("Do it")]
    SelfInstruct(ask, seeds).complete(candidates, 0)
    assert len(asked(ask)) == 1 and candidates[0].instances == [Instance("a", "b")]
    assert candidates[0].is_classification is None


def test_replies_that_are_missing_or_cut() -> None:
    replies = iter([Reply(text=None, reason="too long"), Reply(text=" One is here\n10. Tw", is_cut=True)])
    candidates = SelfInstruct(asker(lambda request: next(replies)), SEEDS, requests=2).propose(Pool(SEEDS), 0)
    assert [(c.instruction, c.rejected, c.origin) for c in candidates] == [
        ("", "no reply", "too long"),
        ("One is here", "", ""),
    ]


@pytest.mark.parametrize(
    ("text", "rejected", "instruction"),
    [
        (" Explain how rivers\tbend in winter", "", "Explain how rivers bend in winter"),
        ("New instruction: Explain it", "", "Explain it"),
        ("One\nTwo", "unreadable", "One Two"),
        ("  ", "unreadable", ""),
        ("The old instruction, made harder", "copied", "The old instruction, made harder"),
    ],
)
def test_evolved_instructions(text: str, rejected: str, instruction: str) -> None:
    [candidate] = Evolve(asker(lambda request: text, is_chat=True), SEEDS, requests=1).propose(Pool(SEEDS), 0)
    assert (candidate.rejected, candidate.instruction) == (rejected, instruction)


def test_every_operation_and_what_was_made_are_drawn() -> None:
    ask = asker(lambda request: "Explain a new thing")
    pool = Pool(SEEDS[:1])
    pool.add(Task("A made task"))
    candidates = Evolve(ask, SEEDS, requests=80).propose(pool, 0)
    drawn = {tuple(candidate.origin.split(": ")) for candidate in candidates}
    assert drawn == {(how, task) for how in OPERATIONS for task in (SEEDS[0].instruction, "A made task")}
    asked_of = {show(r.prompt).split(" by adding one more requirement")[0] for r in asked(ask)}
    assert len(asked_of) > 1


def test_evolved_instructions_are_answered() -> None:
    replies = iter(["Answer: 4", Reply(text="It is", is_cut=True), Reply(text=None)])
    candidates = [Candidate("Add 2 and 2"), Candidate("Tell a story"), Candidate("Tell another")]
    Evolve(asker(lambda request: next(replies), is_chat=True), SEEDS).complete(candidates, 0)
    assert [c.instances for c in candidates] == [[Instance("", "4")], [], []]
    assert [c.rejected for c in candidates] == ["", "", "no reply"]


def test_backtranslation_goes_through_the_answers_once_and_scores_them() -> None:
    def script(request: Request) -> str:
        prompt = show(request.prompt)
        if prompt.endswith("Score:"):
            return {"0": " 5", "1": " 3", "2": " good"}[prompt.partition("Answer: text ")[2][0]]
        return f" Write the text of number {prompt.rpartition('Answer: text ')[2][0]}"

    answers = [f"text {i}" for i in range(3)]
    generator = Backtranslate(asker(script), SEEDS, answers, requests=2, least=4)
    rounds = [generator.propose(Pool(SEEDS), number) for number in range(3)]
    assert [[c.instruction[-8:] for c in one] for one in rounds] == [["number 0", "number 1"], ["number 2"], []]
    every = [candidate for one in rounds for candidate in one]
    generator.complete(every, 0)
    assert [c.instances for c in every] == [[Instance("", "text 0")], [], []]
    assert [[name for name, _ in c.dropped] for c in every] == [[], ["low score"], ["low score"]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelfInstruct(asker(str), SEEDS[:7]), "a prompt shows 8 seed tasks, and here are 7"),
        (lambda: SelfInstruct(asker(str), [Task(s.instruction) for s in SEEDS]), "have an output .* and here are 0"),
        (lambda: Evolve(asker(str), [Task("word " * 61)]), "no seed task is short enough"),
        (lambda: Backtranslate(asker(str), SEEDS[:3], ["a"]), "shows 4 seed tasks that have an output .* are 3"),
    ],
)
def test_too_few_seeds(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]
