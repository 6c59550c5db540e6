"""A chat at work: what a line means, who answers it, and the commands that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import isfinite, nan
from pathlib import Path
from typing import get_args

from accord.chat.conversation import Conversation, Preferred, Reply, Turn, save_comparisons, save_demonstrations
from accord.chat.screen import Screen
from accord.chat.served import ServedSpeaker
from accord.chat.speaker import Question, Speaker, rewards_of
from accord.engine.sampling import Sampling
from accord.errors import InputError, nearest
from accord.feedback.reward import Reward
from accord.interrupts import Interrupted

MOST = 1000
"""Answers of which the best is shown, at most."""


class Session:
    """A conversation of one model, or two side by side, with a user.

    Two models get the same messages. Each continues from its own answers until the user says which of a turn's two is
    better: then both continue from that one.
    """

    def __init__(
        self,
        speakers: Sequence[Speaker | ServedSpeaker],
        screen: Screen,
        sampling: Sampling,
        *,
        reward: Reward | None = None,
        best_of: int = 1,
        system: str = "",
    ) -> None:
        self.speakers, self.screen, self.sampling = list(speakers), screen, sampling
        numbered = [f"{number} · {speaker.name}" for number, speaker in enumerate(speakers, 1)]
        self.names = numbered if len(speakers) > 1 else [speakers[0].name]
        self.reward, self.best_of = reward, best_of
        self.next_best_of: int | None = None
        self.retries = 0
        self._check_best_of(best_of)
        for speaker in self.speakers:
            speaker.check_system(system)
        self.conversation = Conversation(system)

    def run(self, lines: Iterable[str]) -> None:
        """Answer every line until the input ends or a line is /quit."""
        for name, speaker in zip(self.names, self.speakers, strict=True):
            if not speaker.has_template:
                self.screen.note(f"{name} has no chat template: it continues each message as a text of its own.")
        for line in lines:
            typed = line.strip()
            if typed == "/quit":
                return
            if typed:
                self.hear(typed)

    def hear(self, line: str) -> None:
        """Handle a command or a message; what fails changes nothing, and a line says why."""
        try:
            if line.startswith("/"):
                self._command(line)
            else:
                self._ask(line)
        except InputError as error:
            self.screen.note(str(error))
        except Interrupted:
            raise
        except KeyboardInterrupt:
            self.screen.note("stopped; nothing was said.")

    def _command(self, line: str) -> None:
        name, _, argument = line[1:].partition(" ")
        if name not in COMMANDS:
            hint = nearest(name, COMMANDS, "; did you mean /{}?") or "; /help lists those there are."
            raise InputError(f"there is no command /{name}{hint}")
        run, _, _ = COMMANDS[name]
        run(self, argument.strip())

    def _ask(self, message: str, retry: int = 0) -> None:
        """Get every model's answer; the turn is kept unless it was stopped before any text."""
        speakers = list(enumerate(self.speakers))
        questions = [s.question(self.conversation, i, message, self.sampling.max_new_tokens) for i, s in speakers]
        for name, question in zip(self.names, questions, strict=True):
            if question.forgotten:
                oldest = "oldest turn" if question.forgotten == 1 else f"{question.forgotten} oldest turns"
                self.screen.note(f"{name} reads this without the {oldest}, for which its context has no room.")
        n, self.next_best_of = self.next_best_of or self.best_of, None
        answers = self._chosen(questions, n, retry) if n > 1 else self._streamed(questions, retry)
        self.conversation.turns.append(Turn(message, answers))
        for name, answer in zip(self.names, answers, strict=True):
            if about := _about(answer):
                self.screen.note(f"{name}: {about}" if len(answers) > 1 else about)

    def _streamed(self, questions: Sequence[Question], retry: int) -> tuple[Reply, ...]:
        """Answers shown as they stream; Ctrl-C ends them."""
        asked = enumerate(zip(self.speakers, questions, strict=True))
        sayings = [speaker.say(q, self._sampling(i, q, retry)) for i, (speaker, q) in asked]
        try:
            self.screen.follow(self.names, sayings)
        except KeyboardInterrupt as stopped:
            if isinstance(stopped, Interrupted) or not all(saying.has_begun for saying in sayings):
                raise
        answers = tuple(saying.answer for saying in sayings)
        if self.reward is None:
            return answers
        return tuple(replace(answer, rewards=rewards_of(self.reward, [answer])) for answer in answers)

    def _chosen(self, questions: Sequence[Question], n: int, retry: int) -> tuple[Reply, ...]:
        """The best of n answers of each model, shown once chosen."""
        assert self.reward is not None
        answers = []
        for i, (speaker, question) in enumerate(zip(self.speakers, questions, strict=True)):
            assert isinstance(speaker, Speaker)
            with self.screen.waiting(f"choosing from {n} answers"):
                answers.append(speaker.best_of(question, self._sampling(i, question, retry), n, self.reward))
        self.screen.follow(self.names, [[answer.text] for answer in answers])
        return tuple(answers)

    def _sampling(self, index: int, question: Question, retry: int) -> Sampling:
        """The sampling of a model's answer: other random numbers for a model that occurs twice, and for retries."""
        twin = self.speakers[:index].count(self.speakers[index])
        seed = self.sampling.seed
        assert isinstance(seed, int)
        again = (seed, retry, twin) if retry or twin else seed
        return replace(self.sampling, max_new_tokens=question.room, seed=again)

    def _check_best_of(self, n: int) -> None:
        if n < 1:
            raise InputError(f"the best of {n} answers is none; give 1 or more.")
        if n > MOST:
            raise InputError(f"the best of {n:,} answers takes too long; give {MOST:,} at most.")
        if n > 1 and self.reward is None:
            raise InputError(f"the best of {n} answers needs --reward to choose by.")
        if n > 1 and self.sampling.temperature == 0:
            raise InputError("at temperature 0 all answers are the same, so there is nothing to choose from.")

    def best(self, argument: str) -> None:
        if not argument.isdecimal():
            raise InputError("say how many answers to choose from, such as /best 8.")
        self._check_best_of(int(argument))
        self.next_best_of = int(argument)
        self.screen.note(f"the next answer is the best of {argument}.")

    def prefer(self, argument: str) -> None:
        if len(self.speakers) == 1:
            raise InputError("there is one model here, and nothing to prefer; give another with --other.")
        which = next((p for p in get_args(Preferred) if p == argument), None)
        if which is None:
            raise InputError("say which answer is better: /prefer 1, /prefer 2 or /prefer tie.")
        if not self.conversation.turns:
            raise InputError("there are no answers to prefer one of yet.")
        turn = self.conversation.turns[-1]
        if turn.is_saved:
            raise InputError("that preference is saved already, and stays as it is.")
        turn.preferred = which
        onward = "a tie: both go on from answer 1" if which == "tie" else f"both go on from answer {which}"
        try:
            turn.comparison()
            kept = "/save FILE keeps the comparison"
        except InputError as error:
            kept = f"it makes no comparison to keep, as {error}"
        self.screen.note(f"{onward}; {kept}.")

    def save(self, argument: str) -> None:
        if not argument:
            raise InputError("say where to save, such as /save said.jsonl.")
        save = save_demonstrations if len(self.speakers) == 1 else save_comparisons
        self.screen.note(save(self.conversation, Path(argument).expanduser()))

    def retry(self, argument: str) -> None:
        turns = self.conversation.turns
        if not turns:
            raise InputError("nothing was asked yet, so there is nothing to retry.")
        if self.sampling.temperature == 0:
            raise InputError("at temperature 0 the answer would be the same; set another with /temperature.")
        self.retries += 1
        last = turns.pop()
        try:
            self._ask(last.message, self.retries)
        except (InputError, KeyboardInterrupt):
            turns.append(last)
            raise

    def undo(self, argument: str) -> None:
        if not self.conversation.turns:
            raise InputError("nothing was said yet, so there is nothing to undo.")
        turn = self.conversation.turns.pop()
        self.screen.note(f"forgotten: {turn.message}")

    def reset(self, argument: str) -> None:
        self.conversation = Conversation(self.conversation.system)
        self.screen.note("a new conversation.")

    def system(self, argument: str) -> None:
        for speaker in self.speakers:
            speaker.check_system(argument)
        self.conversation = Conversation(argument)
        self.screen.note(f"a new conversation, with {'this' if argument else 'no'} system prompt.")

    def temperature(self, argument: str) -> None:
        try:
            value = float(argument)
        except ValueError:
            value = nan
        if not isfinite(value):
            raise InputError("say a temperature, such as /temperature 0.7.")
        self.sampling = replace(self.sampling, temperature=value)
        self.screen.note(f"temperature {self.sampling.temperature:g}.")

    def help(self, argument: str) -> None:
        for name, (_, given, what) in COMMANDS.items():
            self.screen.note(f"/{name + ' ' + given:<16} {what}")
        self.screen.note("Ctrl-C stops an answer, Ctrl-D ends the chat.")


COMMANDS: dict[str, tuple[Callable[[Session, str], None], str, str]] = {
    "retry": (Session.retry, "", "another answer to the last message"),
    "undo": (Session.undo, "", "forget the last message and its answer"),
    "reset": (Session.reset, "", "begin a new conversation"),
    "system": (Session.system, "TEXT", "begin a new conversation under this system prompt"),
    "temperature": (Session.temperature, "X", "divide the logits by X from now on; 0 takes the likeliest token"),
    "best": (Session.best, "N", "make the next answer the best of N, by the reward"),
    "prefer": (Session.prefer, "1|2|tie", "say which of two answers is better; both models go on from it"),
    "save": (Session.save, "FILE", "append a demonstration, or with two models the comparisons, to a file"),
    "help": (Session.help, "", "these lines"),
    "quit": (lambda session, argument: None, "", "leave"),
}
"""Each command's function, its argument, and its help line."""


def _about(answer: Reply) -> str:
    """Notes on an answer: its reward, those of the other samples, and why it ended."""
    parts = []
    if answer.rewards:
        best, n = max(answer.rewards), len(answer.rewards)
        others = f", the best of {n} ({min(answer.rewards):.3f} to {best:.3f}, mean {sum(answer.rewards) / n:.3f})"
        parts.append(f"reward {best:.3f}{others if n > 1 else ''}")
    if answer.is_stopped:
        parts.append("stopped")
    elif answer.completion.stop == "length":
        tokens = len(answer.completion.tokens)  # 0 for a server, which does not report it
        parts.append(f"cut after {tokens} tokens" if tokens else "cut before its end")
    return " · ".join(parts)
