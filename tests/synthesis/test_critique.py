"""Critiques and revisions by a model whose replies are known: what it is asked, what is kept, and the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from accord.feedback.constitution import Principle
from accord.prompting.requests import Reply, Request
from accord.records import Demonstration, Message, Preference, Prompt, show
from accord.synthesis import revisions
from accord.synthesis.critique import EXAMPLES, STOP, Chain, Critic
from tests.synthesis.scripted import Scripted, asker

KIND = Principle("kind", "p", "What is unkind?", "Make it kind.")
Script = Callable[[Request], Reply | str]


def critic(script: Script, principles: tuple[Principle, ...] = (KIND,), rounds: int = 1, **more: bool) -> Critic:
    is_chat = more.pop("is_chat", True)
    return Critic(ask=asker(script, is_chat=is_chat), principles=principles, rounds=rounds, **more)


def requests(of: Critic) -> list[Request]:
    assert isinstance(of.ask.model, Scripted)
    return of.ask.model.asked


def in_turn(*replies: Reply | str) -> Script:
    left = iter(replies)
    return lambda request: next(left)


def test_a_chat_is_asked_in_turns_of_nothing_but_the_principle() -> None:
    of = critic(in_turn("Go away.", "It is rude.", "Hello!", "Nothing.", "Revision: Hello, dear!"), rounds=2)
    [chain] = of(["hi"], 0)
    turns = [[(m.role, m.content) for m in request.prompt] for request in requests(of)]  # type: ignore[union-attr]
    asked = [("user", "hi")]
    first = [*asked, ("assistant", "Go away."), ("user", "What is unkind?")]
    then = [*asked, ("assistant", "Hello!"), ("user", "What is unkind?")]
    assert turns == [
        asked,
        first,
        [*first, ("assistant", "It is rude."), ("user", "Make it kind.")],
        then,
        [*then, ("assistant", "Nothing."), ("user", "Make it kind.")],
    ]
    assert chain.answers == ["Go away.", "Hello!", "Hello, dear!"]
    assert (chain.critiques, chain.principles) == (["It is rude.", "Nothing."], ["kind", "kind"])
    assert chain.demonstration() == Demonstration("hi", "Hello, dear!")
    assert chain.preference() == Preference("hi", "Hello, dear!", "Go away.")
    assert Chain.from_json(chain.to_json()) == chain


def test_without_critiques_it_is_asked_for_the_revision_at_once() -> None:
    of = critic(in_turn("Go away.", "Hello!"), is_direct=True)
    prompt = (Message("system", "Be brief."), Message("user", "hi"))
    [chain] = of([prompt], 0)
    assert requests(of)[1].prompt == (*prompt, Message("assistant", "Go away."), Message("user", "Make it kind."))
    assert (chain.answers, chain.critiques, chain.faults) == (["Go away.", "Hello!"], [""], ["", ""])
    assert chain.demonstration().completion == (Message("assistant", "Hello!"),)


def test_a_text_is_continued_after_examples() -> None:
    of = critic(in_turn(" Go away.", " It is rude.\n", " Hello!"), is_chat=False)
    prompt = (Message("user", "hi"), Message("assistant", "Yes?"), Message("user", "who are you"))
    [chain] = of([prompt], 0)
    answer, critique, revision = (show(request.prompt) for request in requests(of))
    dialogue = "Human: hi\n\nAssistant: Yes?\n\nHuman: who are you"
    assert answer.endswith(f"\n\n---\n\n{dialogue}\nAssistant:")
    criticized = f"\n\n---\n\n{dialogue}\n\nAssistant: Go away.\n\nCritique request: What is unkind?\n"
    assert critique.endswith(f"{criticized}\nCritique:")
    assert revision.endswith(f"{criticized}\nCritique: It is rude.\n\nRevision request: Make it kind.\n\nRevision:")
    assert all(one.revised in answer and one.answer not in answer for one in EXAMPLES)
    assert all(text in critique for one in EXAMPLES for text in (one.answer, one.critique, one.revised))
    assert all(request.stop == STOP for request in requests(of))
    assert chain.answers == ["Go away.", "Hello!"] and chain.critiques == ["It is rude."]


NONE = Reply(text=None, reason="too long: 9 tokens")


@pytest.mark.parametrize(
    ("critique", "revision", "fault", "refused"),
    [
        ("It is rude.", Reply(text="Hel", is_cut=True), "cut", "Hel"),
        ("It is rude.", " ... ", "empty", "..."),
        ("It is rude.", "make it  KIND.", "echo", "make it  KIND."),
        ("It is rude.", "It is rude.", "echo", "It is rude."),
        ("It is rude.", EXAMPLES[0].revised[:-1] + "!", "copied", EXAMPLES[0].revised[:-1] + "!"),
        ("It is rude.", NONE, "no reply", "too long: 9 tokens"),
        ("", None, "no critique", "empty"),
        (NONE, None, "no critique", "too long: 9 tokens"),
        ("What is unkind?", None, "no critique", "What is unkind?"),
    ],
)
def test_a_reply_with_a_fault_is_kept_aside_and_the_answer_before_it_stands(
    critique: Reply | str, revision: Reply | str | None, fault: str, refused: str
) -> None:
    replies = ["Go away.", critique, *([revision] if revision is not None else [])]
    of = critic(in_turn(*replies))
    [chain] = of(["hi"], 0)
    assert (chain.answers, chain.faults, chain.refused) == (["Go away."] * 2, ["", fault], ["", refused])
    assert chain.is_usable and not revisions.is_pair(chain) and len(requests(of)) == len(replies)


def test_a_cut_critique_is_used_and_a_cut_first_answer_revised() -> None:
    cut = Reply(text="Go a", is_cut=True)
    [chain] = critic(in_turn(cut, Reply(text="It is", is_cut=True), "Hello!"))(["hi"], 0)
    assert (chain.answers, chain.faults, chain.cut) == (["Go a", "Hello!"], ["cut", ""], [True])
    assert chain.is_usable and not revisions.is_pair(chain)  # nobody ended the first answer
    [chain] = critic(in_turn(cut, "It is rude.", NONE))(["hi"], 0)
    assert (chain.answers, chain.faults) == (["Go a"] * 2, ["cut", "no reply"]) and not chain.is_usable


def test_what_has_no_first_answer_is_marked_and_nothing_more_is_asked() -> None:
    of = critic(in_turn(NONE, "Yes.", "It is short.", "Yes, dear."), rounds=1)
    none, one = of(["hi", "there?"], 0)
    assert (none.answers, none.faults, none.refused[0]) == (["", ""], ["no reply", "no answer"], "too long: 9 tokens")
    assert one.answers == ["Yes.", "Yes, dear."] and len(requests(of)) == 4
    result = summarized([none, one], {})
    assert (result.prompts, result.demonstrations, result.pairs) == (2, 1, 1)
    assert [row.faults for row in result.revisions] == [{"no reply": 1}, {"no answer": 1}]
    assert result.revisions[1].changed == 1


def test_principles_are_drawn_uniformly_by_prompt_and_round() -> None:
    three = tuple(Principle(name, name, f"c {name}", f"r {name}") for name in "abc")
    prompts = [f"prompt {i}" for i in range(1500)]
    chains = critic(lambda request: f"said {request.seed}", three, rounds=2)(prompts, 0)
    counts = Counter(tuple(chain.principles) for chain in chains)
    expected = len(prompts) / 9  # of a pair of rounds, independent of each other
    assert sum((counts[a, b] - expected) ** 2 / expected for a in "abc" for b in "abc") < 26.1  # chi2(8), p = .001
    again = critic(lambda request: f"other {request.seed}", three, rounds=2)(prompts[::-1], 3)
    assert [c.principles for c in again] == [c.principles for c in chains[::-1]]


def test_scores_by_revision_and_by_principle() -> None:
    chains = [
        Chain("p", ["a", "a b", "a b c"], ["x", "y"], ["", ""], [False] * 2, ["", "", ""], ["", "", ""]),
        Chain("q", ["a b", "a b", "a b c d"], ["x", "y"], ["", ""], [False, True], ["", "cut", ""], ["", "z", ""]),
        Chain("r", ["", "", ""], ["y", "y"], ["", ""], [False] * 2, ["empty", "no answer", "no answer"], ["", "", ""]),
    ]
    prompts = [Prompt(chain.prompt) for chain in chains]
    words = revisions.Score("tests.synthesis.test_critique:words")
    found = words(prompts, chains)
    assert found == [[1, 2, 3], [2, 2, 4], [None] * 3]
    longer = revisions.Score("tests.synthesis.test_critique:longer")
    assert longer.compares
    against = longer(prompts, chains)
    assert against == [[0.5, 1, 1], [0.5, 0.5, 1], [None] * 3]
    result = summarized(chains, {"words": found, "longer": against})
    first, second, last = result.revisions
    assert [row.scores["words"].estimate for row in result.revisions] == [1.5, 2.0, 3.5]
    assert not first.gains and [row.gains["words"].estimate for row in (second, last)] == [0.5, 2.0]
    assert last.gains["words"].low == last.gains["words"].high == 2.0  # both prompts gain 2
    assert [row.scores["longer"].estimate for row in result.revisions] == [0.5, 0.75, 1.0]
    assert (second.changed, second.unchanged, second.faults) == (1, 0, {"cut": 1, "no answer": 1})
    assert (last.changed, last.cut_critiques) == (2, 1)
    of = {row.name: row for row in result.principles}
    assert (of["x"].drawn, of["y"].drawn) == (2, 4)
    assert "words" not in of["x"].gains  # of one revision there is no interval
    assert of["y"].gains["words"].estimate == 1.5  # (3 - 2) and (4 - 2)
    assert result.warnings == ["2 of 3 replies of revision 1 have a fault: 1 cut, 1 no answer."]


def summarized(chains: list[Chain], scores: dict[str, revisions.Scores]) -> revisions.CritiqueResult:
    names = list(dict.fromkeys(name for chain in chains for name in chain.principles))
    return revisions.summarize(
        chains, scores, model="m", constitution="c", principles=names, is_direct=False, compared=["longer"]
    )


def words(completions: list[str]) -> list[float]:
    return [len(text.split()) for text in completions]


def longer(firsts: list[str], seconds: list[str]) -> list[float]:
    return [float(len(a) > len(b)) for a, b in zip(firsts, seconds, strict=True)]


def test_a_score_that_is_no_number_is_told() -> None:
    def endless(samples: object) -> torch.Tensor:
        return torch.tensor([float("inf")])

    score = revisions.Score("tests.synthesis.test_critique:words")
    score.measure = endless  # type: ignore[assignment]
    with pytest.raises(Exception, match="gives an answer to prompt 1 a score that is not finite"):
        score([Prompt("p")], [Chain("p", ["a"], [], [], [], [""], [""])])
