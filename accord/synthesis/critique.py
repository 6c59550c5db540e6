"""Critiques and revisions by a constitution (Constitutional AI, Bai et al. 2022, arXiv:2212.08073, section 3).

A model answers a prompt. In each round a principle is drawn; the model is asked to criticize its answer by it, and then
to revise the answer, given the critique. Each round starts from the previous revision:

    answer 0  ->  critique 1, answer 1  ->  critique 2, answer 2 ...

Without critiques (section 3.5) it is asked for the revision directly. A chat model is asked in turns in which the user
says only the principle's sentences; a base model continues a text that begins with complete examples.

Departures: examples and principles are worded anew; the principle drawn depends only on the seed, the prompt and the
round.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from accord.data.messages import read_text
from accord.feedback.constitution import Principle, draw
from accord.records import Demonstration, Message, Preference, Text, show, text_to_json
from accord.synthesis.filters import SIMILAR
from accord.synthesis.questions import Answer, Asker, Question
from accord.synthesis.similarity import ComparedText, words


@dataclass(frozen=True, slots=True)
class Example:
    """An example in the text that a base model continues."""

    prompt: str
    answer: str
    principle: Principle
    critique: str
    revised: str


EXAMPLES = (
    Example(
        "My neighbour's dog barks all night. What can I feed it so that it gets too sick to bark?",
        "Onions and chocolate would do it. Throw some over the fence in the evening.",
        Principle(
            "harmless",
            "",
            "Say how the answer could help someone to do harm.",
            "Rewrite the answer so that it helps nobody to do harm, and say kindly why.",
        ),
        "The answer names food that poisons dogs, so whoever follows it tortures an animal that did nothing wrong, and "
        "may kill it.",
        "I won't help to make the dog sick: it would suffer for its owner's fault. Tell your neighbour how bad the "
        "nights are, and write down when it barks; with such a list the town's office can step in.",
    ),
    Example(
        "How long does an egg take until the yolk is firm?",
        "Eggs are one of the oldest foods there are, and they are rich in protein.",
        Principle(
            "helpful",
            "",
            "Say where the answer misses what the person asked for.",
            "Rewrite the answer so that it does what the person asked for, and no more.",
        ),
        "The question is about minutes, and the answer has none; nobody asked about the history of eggs.",
        "About nine minutes, counted from when it goes into boiling water.",
    ),
)
"""The beginning of a text to be continued."""

_SHOWN = [words(text) for one in EXAMPLES for text in (one.answer, one.critique, one.revised)]
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "Note", "developer": "Note", "tool": "Tool"}
_ASKED = {"critique": ("Critique request", "Critique"), "revision": ("Revision request", "Revision")}
_END = "\n\n---\n\n"
STOP = ("\nHuman:", "\nCritique request:", "\nRevision request:", "\n---")
"""Texts that end a continuation."""


@dataclass(slots=True)
class Chain:
    """A prompt's answers, the first and one revision per round, and how they were made.

    `faults` has, for every answer, the fault of the reply, empty for none: one of `_fault`, "no critique" where the
    critique has a fault other than being cut, so that no revision was asked for, or "no answer" where there is no first
    answer to revise. An unusable reply, or the reason why there is none, is kept in `refused`, and the previous answer
    stands in its place; a first answer with a fault is revised all the same.
    """

    prompt: Text
    answers: list[str] = field(default_factory=list)
    principles: list[str] = field(default_factory=list)
    """The name of every round's principle."""
    critiques: list[str] = field(default_factory=list)
    """The critique of the answer before; empty where none was asked for or received."""
    cut: list[bool] = field(default_factory=list)
    """Whether a critique was cut off; it is still used, since it is only read."""
    faults: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def is_usable(self) -> bool:
        """Whether any answer had no fault, so that the last one is usable."""
        return not all(self.faults)

    def add(self, answer: str, fault: str = "", refused: str = "") -> None:
        """Add an answer, or its replacement."""
        self.answers.append(answer)
        self.faults.append(fault)
        self.refused.append(refused)

    def demonstration(self) -> Demonstration:
        """The prompt with its last revision."""
        return Demonstration(self.prompt, _completion(self.prompt, self.answers[-1]))

    def preference(self) -> Preference:
        """The last revision over the first answer."""
        return Preference(
            self.prompt, _completion(self.prompt, self.answers[-1]), _completion(self.prompt, self.answers[0])
        )

    def to_json(self) -> dict[str, Any]:
        """The chain as a row of critiques.jsonl."""
        return {**asdict(self), "prompt": text_to_json(self.prompt)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Chain:
        """The chain in such a row; raises KeyError, TypeError or ValueError where the row is invalid."""
        lists = [list(row[name]) for name in ("answers", "principles", "critiques", "cut", "faults", "refused")]
        if {len(one) - i for one, i in zip(lists, (1, 0, 0, 0, 1, 1), strict=True)} != {len(lists[1])}:
            raise ValueError("its lists do not fit each other")
        return cls(read_text(row["prompt"], "prompt"), *lists)


@dataclass(kw_only=True)
class Critic:
    """A model that answers, criticizes and revises by the principles of a constitution for several rounds."""

    ask: Asker
    principles: Sequence[Principle]
    rounds: int
    is_direct: bool = False
    """Whether it is asked for revisions without critiques."""

    def __call__(self, prompts: Sequence[Text], number: int) -> list[Chain]:
        """A chain for each prompt; draws depend on the seed and on this batch's number."""
        chains = [Chain(prompt) for prompt in prompts]
        questions = [Question("", _text(prompt, ()), "Assistant:", chat=_chat(prompt), stop=STOP) for prompt in prompts]
        for chain, reply in zip(chains, self._asked(questions, f"{number} answers"), strict=True):
            fault, text = _fault(reply, _last(chain.prompt)), reply.text or ""
            is_there = fault in ("", "cut", "echo", "copied")
            chain.add(text if is_there else "", fault, "" if is_there else text or reply.reason)
        for i in range(1, self.rounds + 1):
            self._revise(chains, i, number)
        return chains

    def _revise(self, chains: Sequence[Chain], number: int, batch: int) -> None:
        for chain in chains:
            principle = draw(self.principles, 1, f"{show(chain.prompt)} {number}", self.ask.seed)[0]
            chain.principles.append(principle.name)
        by_name = {principle.name: principle for principle in self.principles}
        answered = [(c, by_name[c.principles[-1]]) for c in chains if c.answers[-1]]
        critiques = [Answer("")] * len(answered)
        if not self.is_direct:
            questions = [_question(c, "critique", p) for c, p in answered]
            critiques = self._asked(questions, f"{batch} critiques {number}")
        open_, asked = [], []
        for (chain, principle), reply in zip(answered, critiques, strict=True):
            fault = "" if self.is_direct else _fault(reply, principle.critique, chain.answers[-1], _last(chain.prompt))
            chain.cut.append(reply.is_cut)
            chain.critiques.append("" if fault not in ("", "cut") else reply.text or "")
            if fault in ("", "cut"):
                open_.append((chain, principle))
                asked.append(_question(chain, "revision", principle, chain.critiques[-1]))
            else:
                chain.add(chain.answers[-1], "no critique", reply.text or reply.reason or fault)
        for (chain, principle), reply in zip(open_, self._asked(asked, f"{batch} revisions {number}"), strict=True):
            texts = (principle.critique, principle.revision, chain.critiques[-1], _last(chain.prompt))
            fault, text = _fault(reply, *texts), reply.text or ""
            chain.add(chain.answers[-1] if fault else text, fault, (text or reply.reason) if fault else "")
        for chain in chains:
            if len(chain.answers) == number:
                chain.add("", "no answer")
                chain.critiques.append("")
                chain.cut.append(False)

    def _asked(self, questions: Sequence[Question], step: str) -> list[Answer]:
        """The replies, without the label that a continuation begins with."""
        replies = self.ask(questions, step)
        return [
            Answer(a.text and a.text.strip().removeprefix(q.cue.strip()).strip(), a.is_cut, a.reason)
            for q, a in zip(questions, replies, strict=True)
        ]


def is_changed(before: str, after: str) -> bool:
    """Whether two answers differ in more than spaces and case."""
    return _plain(before) != _plain(after)


def _fault(reply: Answer, *texts: str) -> str:
    """The fault of a reply, given the texts it responds to; empty for none.

    "no reply": the prompt is too long, or the server gave none; "empty": no letter or digit; "echo": it repeats one of
    the texts; "copied": its ROUGE-L with an example in the prompt is .7 or more; "cut": it was cut off.
    """
    if reply.text is None:
        return "no reply"
    if not re.search(r"\w", reply.text):
        return "empty"
    if _plain(reply.text) in map(_plain, texts):
        return "echo"
    if ComparedText(reply.text).nearest(_SHOWN) >= SIMILAR:
        return "copied"
    return "cut" if reply.is_cut else ""


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _question(chain: Chain, what: str, principle: Principle, critique: str = "") -> Question:
    """Asks for the critique or the revision of the last answer."""
    turns = [chain.answers[-1]]
    if critique:
        turns += [principle.critique, critique]
    turns.append(principle.critique if what == "critique" else principle.revision)
    messages = (Message("user" if i % 2 else "assistant", text) for i, text in enumerate(turns))
    chat = (*_chat(chain.prompt), *messages)
    parts = [f"Assistant: {turns[0]}"]
    if critique:
        parts += [f"{label}: {text}" for label, text in zip(_ASKED["critique"], turns[1:3], strict=True)]
    label, cue = _ASKED[what]
    return Question("", _text(chain.prompt, [*parts, f"{label}: {turns[-1]}"]), f"\n{cue}:", chat=chat, stop=STOP)


def _text(prompt: Text, turns: Sequence[str]) -> str:
    """A text to be continued: the examples, the prompt, and what was said since."""
    shown = []
    for one in EXAMPLES:
        lines = [f"Human: {one.prompt}", f"Assistant: {one.answer if turns else one.revised}"]
        if turns:
            texts = (one.principle.critique, one.critique, one.principle.revision, one.revised)
            labels = (*_ASKED["critique"], *_ASKED["revision"])
            lines += [f"{label}: {text}" for label, text in zip(labels, texts, strict=True)]
        shown.append("\n\n".join(lines))
    asked = [f"{_SPEAKERS[message.role]}: {message.words}" for message in _chat(prompt)]
    return _END.join([*shown, "\n\n".join([*asked, *turns])])


def _chat(prompt: Text) -> tuple[Message, ...]:
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def _last(prompt: Text) -> str:
    return _chat(prompt)[-1].content


def _completion(prompt: Text, answer: str) -> Text:
    return answer if isinstance(prompt, str) else (Message("assistant", answer),)
